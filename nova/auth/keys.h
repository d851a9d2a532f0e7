// Keys: what signs a token and what verifies it. Asymmetric wherever tokens leave the process that made them, so that
// whoever can verify cannot sign; all arithmetic is OpenSSL's. A key is bound to one algorithm when it is made, and the
// token has no say in that.
//
//   NOVA_TRY(auto key, SigningKey::FromPem(pem, Algorithm::kEdDsa));
//   NOVA_TRY(std::string signature, key.Sign(message));
//   key.verification_key().Verify(message, signature);  // true
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "nova/base/result.h"
#include "nova/base/secret.h"

struct evp_pkey_st;  // OpenSSL's EVP_PKEY
namespace boost::json {
class object;
}

namespace nova::auth {

enum class Algorithm {
  kEdDsa,  // Ed25519 (RFC 8037)
  kEs256,  // ECDSA over P-256 with SHA-256
  kRs256,  // RSASSA-PKCS1-v1_5 with SHA-256; 2048 bits at least
  kHs256,  // HMAC with SHA-256. Who verifies can sign: only where one process does both, and nobody else either
};

// The name in a token's header: "EdDSA", "ES256", "RS256", "HS256".
std::string_view AlgorithmName(Algorithm algorithm);
// Errors: INVALID_ARGUMENT for anything else, `none` included.
Result<Algorithm> ParseAlgorithm(std::string_view name);

inline constexpr int kRsaBitsMin = 2048;
inline constexpr int kRsaBitsMax = 8192;
// A PEM file is larger than this only by mistake.
inline constexpr std::size_t kPemBytesMax = 16 * 1024;
// Of the shared secret of HS256: what SHA-256 gives (RFC 7518 section 3.2), and what nobody needs.
inline constexpr std::size_t kSecretBytesMin = 32;
inline constexpr std::size_t kSecretBytesMax = 1024;

// What verifies: a public key, or with HS256 the secret itself, which it gives to nobody. Immutable and cheap to copy.
// Thread-safe.
class VerificationKey {
 public:
  // Reads "BEGIN PUBLIC KEY". Errors: INVALID_ARGUMENT if it is not one, or not a key of `algorithm`; HS256 has none.
  static Result<VerificationKey> FromPem(std::string_view pem, Algorithm algorithm);

  // True if `signature` is this key's over `message`. The signature is in JWS form: 64 bytes for EdDSA and ES256
  // (r and s, RFC 7518), the modulus' length for RS256, 32 bytes for HS256, compared in constant time.
  bool Verify(std::string_view message, std::string_view signature) const;

  Algorithm algorithm() const { return algorithm_; }
  // The key's name: its thumbprint by RFC 7638, so that it follows from the key and cannot be given to another. Of
  // HS256 half of an HMAC under the secret, because a bare hash would be what guesses are tried against fastest.
  const std::string& kid() const { return kid_; }
  // The public JWK, with `kid`, `alg` and `use`; empty for HS256, which has nothing public.
  const std::string& jwk() const { return jwk_; }
  // "BEGIN PUBLIC KEY". Errors: INTERNAL; HS256 has none.
  Result<std::string> ToPem() const;

 private:
  friend class SigningKey;
  friend class Jwks;
  // Reads one JWK: OKP/Ed25519, EC/P-256 or RSA. Nothing if it is of another kind or for another use.
  // Errors: INVALID_ARGUMENT if it is malformed or private.
  static Result<std::optional<VerificationKey>> FromJwk(const boost::json::object& jwk);
  static Result<VerificationKey> Make(std::shared_ptr<evp_pkey_st> key, Algorithm algorithm);

  VerificationKey(std::shared_ptr<evp_pkey_st> key, Algorithm algorithm)
      : key_(std::move(key)), algorithm_(algorithm) {}

  std::shared_ptr<evp_pkey_st> key_;
  Algorithm algorithm_;
  std::string kid_;
  std::string jwk_;
};

// A private key, or the shared secret of HS256. Immutable and cheap to copy. Thread-safe.
class SigningKey {
 public:
  // Reads what settings and stored secrets hold: PEM, or for HS256 the secret in base64 (`openssl rand -base64 32`).
  // Errors: as FromPem and FromSecret; INVALID_ARGUMENT for what is not base64.
  static Result<SigningKey> FromText(const Secret<>& text, Algorithm algorithm);
  // Of HS256, from its bytes. Errors: INVALID_ARGUMENT below kSecretBytesMin and above kSecretBytesMax.
  static Result<SigningKey> FromSecret(const Secret<>& secret);
  // Reads an unencrypted "BEGIN PRIVATE KEY" (or the older EC and RSA forms).
  // Errors: INVALID_ARGUMENT if it is not one, or not a key of `algorithm`, HS256 included; never shows the text.
  static Result<SigningKey> FromPem(const Secret<>& pem, Algorithm algorithm);
  // A new key; RSA gets 3072 bits, HS256 32 bytes. Errors: INTERNAL.
  static Result<SigningKey> Generate(Algorithm algorithm);

  // The signature in JWS form. Costs 30 to 60 us, RS256 about 1 ms. Errors: INTERNAL.
  Result<std::string> Sign(std::string_view message) const;
  // What FromText reads. Errors: INTERNAL.
  Result<Secret<>> ToText() const;
  // PKCS#8, unencrypted. Errors: INTERNAL; HS256 has none.
  Result<Secret<>> ToPem() const;

  const VerificationKey& verification_key() const { return verification_key_; }
  Algorithm algorithm() const { return verification_key_.algorithm(); }
  const std::string& kid() const { return verification_key_.kid(); }

 private:
  explicit SigningKey(VerificationKey key) : verification_key_(std::move(key)) {}

  // Its handle holds the private half as well; none of VerificationKey's functions gives that away.
  VerificationKey verification_key_;
};

// A set of verification keys, as identity publishes it (RFC 7517). Keys of HS256 may be in a set, so that a process
// verifies with them; they are never written, and never read. Immutable once shared.
class Jwks {
 public:
  static constexpr std::size_t kBytesMax = 64 * 1024;
  static constexpr std::size_t kKeysMax = 32;

  Jwks() = default;
  // Precondition: at most kKeysMax keys. A key that is there twice counts once.
  explicit Jwks(std::vector<VerificationKey> keys);

  // Keys of a type or use we do not know are passed over, as the RFC asks, so that a new kind can be published before
  // everybody understands it. Errors: INVALID_ARGUMENT over a limit, for a malformed key, for one whose `kid` is not
  // its thumbprint, and for a private key, which nobody may publish.
  static Result<Jwks> Parse(std::string_view json);

  // {"keys":[...]} of the public keys, in the order given.
  std::string ToJson() const;
  // Null if there is no such key.
  const VerificationKey* Find(std::string_view kid) const;
  const std::vector<VerificationKey>& keys() const { return keys_; }

 private:
  std::vector<VerificationKey> keys_;
};

}  // namespace nova::auth
