// JWT: the access tokens of Nova (RFC 7519 in JWS compact form). One process signs; any process that holds the
// public keys verifies.
//
//   JwtSigner signer(TermsOf(config), key);
//   NOVA_TRY(IssuedToken issued, signer.Issue(account, session, clock));
//
//   JwtVerifier verifier(TermsOf(config), std::make_shared<const Jwks>(keys), clock);
//   NOVA_TRY(Claims claims, verifier.Verify(token));
#pragma once

#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "nova/auth/keys.h"
#include "nova/base/clock.h"
#include "nova/base/result.h"
#include "nova/base/secret.h"
#include "nova/base/uuid.h"
#include "nova/config/config.h"
#include "nova/runtime/call.h"

namespace nova::auth {

struct JwtConfig {
  // The private key in PEM, or for HS256 the shared secret in base64. Only the process that issues tokens has one.
  Secret<> signing_key;
  // The public key in PEM, for a process that only verifies; needless where the private key is. It is no secret, but
  // comes the same way: from a variable, or from the file that the variable's _FILE names.
  Secret<> validation_key;
  Algorithm algorithm = Algorithm::kEdDsa;
  // `iss` of the tokens issued, and the only one accepted.
  std::string issuer = "nova";
  // `aud` of the tokens issued; a token is accepted if it names at least one of these.
  std::vector<std::string> audience = {"nova"};
  // From issue to expiry of an access token.
  std::chrono::seconds expiry = std::chrono::minutes(15);
};

// What all tokens of an issuer have in common, whichever key signs them.
struct JwtTerms {
  std::string issuer = "nova";
  std::vector<std::string> audience = {"nova"};
  std::chrono::seconds expiry = std::chrono::minutes(15);

  friend bool operator==(const JwtTerms&, const JwtTerms&) = default;
};

inline JwtTerms TermsOf(const JwtConfig& jwt) {
  return {.issuer = jwt.issuer, .audience = jwt.audience, .expiry = jwt.expiry};
}

// NOVA_AUTH_JWT_SIGNING_KEY(_FILE), NOVA_AUTH_JWT_VALIDATION_KEY(_FILE), NOVA_AUTH_JWT_ALGORITHM and so on.
void Bind(config::Config& config, JwtConfig& jwt);

struct JwtKeys {
  std::optional<SigningKey> signing;  // where one is configured
  std::shared_ptr<const Jwks> verification;
};

// The keys the configuration names. `others_verify`: processes other than this one do, so the algorithm must not be
// HS256. Errors: INVALID_ARGUMENT in one line that names the setting and the remedy: no key at all, an unreadable one,
// one that does not fit the algorithm, two that do not belong together, HS256 where it is not allowed.
Result<JwtKeys> LoadJwtKeys(const JwtConfig& config, bool others_verify = true);

struct Claims {
  std::string issuer;
  Uuid subject;  // the account
  std::vector<std::string> audience;
  WallTime expires_at;
  WallTime issued_at;
  WallTime not_before;
  Uuid token_id;    // `jti`
  Uuid session_id;  // `sid`
};

// For whom a call with this token runs.
inline runtime::Caller CallerOf(const Claims& claims) {
  return {.account = claims.subject, .session = claims.session_id};
}

// How far the clocks of two machines may differ: a token is accepted this much before its time and after it.
inline constexpr std::chrono::seconds kClockSkewMax{30};
// Longer tokens are refused unread.
inline constexpr std::size_t kTokenBytesMax = 8 * 1024;
// Names in `aud`.
inline constexpr std::size_t kAudienceMax = 16;

// The claims of a new token: valid from now for `terms.expiry`, with an id of its own. Times are whole seconds, as in
// the token.
Claims NewClaims(const JwtTerms& terms, Uuid account, Uuid session, const Clock& clock);

// The token. Errors: INTERNAL, also when it would exceed kTokenBytesMax.
Result<std::string> SignToken(const SigningKey& key, const Claims& claims);

struct IssuedToken {
  std::string token;
  Claims claims;
};

// Issues tokens. Its key and its terms can be replaced while it does: a token is made with those that were set
// together. Thread-safe.
class JwtSigner {
 public:
  // One that cannot sign until Set.
  JwtSigner() = default;
  JwtSigner(JwtTerms terms, SigningKey key) { Set(std::move(terms), std::move(key)); }

  // A new token for a session that ends at `session_end`, which it does not outlive. Costs what SigningKey::Sign does.
  // Errors: UNAVAILABLE without a key; INTERNAL as SignToken.
  Result<IssuedToken> Issue(Uuid account, Uuid session, const Clock& clock,
                            WallTime session_end = WallTime::max()) const;

  // For the tokens that are begun from now on.
  void Set(JwtTerms terms, SigningKey key);

  // The name of the key that signs; empty without one.
  std::string kid() const;

 private:
  struct State {
    JwtTerms terms;
    SigningKey key;
  };
  std::shared_ptr<const State> state() const;

  mutable std::mutex mutex_;
  std::shared_ptr<const State> state_;  // guarded by mutex_
};

// Thread-safe.
class JwtVerifier {
 public:
  // One that cannot tell until Set. `clock` must live as long as this.
  explicit JwtVerifier(const Clock& clock = Clock::System()) : clock_(clock) {}
  // Of `terms`, issuer and audience count.
  JwtVerifier(JwtTerms terms, std::shared_ptr<const Jwks> keys, const Clock& clock = Clock::System());

  // The claims of a token signed by a key of ours, of our issuer, for our audience, and valid now. The token chooses
  // among our keys by `kid` and nothing else: its `alg` must be the key's, and keys it brings along (`jwk`, `jku`,
  // `x5c`) are not looked at. Costs 50 to 150 us, nearly all of it the signature.
  // Errors: UNAUTHENTICATED with one public message for every cause; the cause is in the private detail. Neither
  // holds any part of the token. UNAVAILABLE before terms and keys were set.
  Result<Claims> Verify(std::string_view token) const;

  // For the calls that begin from now on; those under way keep what they have.
  void Set(JwtTerms terms, std::shared_ptr<const Jwks> keys);
  void SetKeys(std::shared_ptr<const Jwks> keys);
  // Never null.
  std::shared_ptr<const Jwks> keys() const;

 private:
  friend class KeyFollower;
  // As Verify; tells whether the refusal was for want of the key that the token names.
  Result<Claims> Verify(std::string_view token, bool& key_is_unknown) const;

  // Constant after construction.
  const Clock& clock_;
  mutable std::mutex mutex_;
  std::shared_ptr<const JwtTerms> terms_;                              // guarded by mutex_; null until they are set
  std::shared_ptr<const Jwks> keys_ = std::make_shared<const Jwks>();  // guarded by mutex_
};

}  // namespace nova::auth
