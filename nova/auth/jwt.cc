#include "nova/auth/jwt.h"

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>
#include <cstdint>
#include <utility>

#include "nova/auth/base64url.h"
#include "nova/auth/strict_json.h"

namespace nova::auth {
namespace {

namespace json = boost::json;

// The type of an access token (RFC 9068): no other kind of token that a key may sign one day passes for one.
constexpr std::string_view kType = "at+jwt";
// Seconds since 1970 that fit WallTime, whose nanoseconds end in 2262.
constexpr std::int64_t kNumericDateMax = 9'000'000'000;

constexpr std::string_view kSigningKeyVariable = "NOVA_AUTH_JWT_SIGNING_KEY";
constexpr std::string_view kValidationKeyVariable = "NOVA_AUTH_JWT_VALIDATION_KEY";

// Every refusal looks the same from outside; `reason` is our own text and never part of the token.
Error Refuse(std::string_view reason) {
  return Unauthenticated("the access token is not valid", "token refused: " + std::string(reason));
}

std::int64_t ToNumericDate(WallTime time) {
  return std::chrono::floor<std::chrono::seconds>(time.time_since_epoch()).count();
}

json::string_view Key(std::string_view name) { return {name.data(), name.size()}; }

Result<std::string_view> Text(const json::object& object, std::string_view name) {
  const json::value* const value = object.if_contains(Key(name));
  if (value == nullptr) return Refuse(std::string(name) + " is missing");
  if (!value->is_string() || value->get_string().empty()) return Refuse(std::string(name) + " is not text");
  return std::string_view(value->get_string().data(), value->get_string().size());
}

Result<Uuid> Id(const json::object& object, std::string_view name) {
  NOVA_TRY(const std::string_view text, Text(object, name));
  const auto id = Uuid::Parse(text);
  if (!id || id->is_nil()) return Refuse(std::string(name) + " is not a UUID");
  return *id;
}

Result<WallTime> Time(const json::object& object, std::string_view name) {
  const json::value* const value = object.if_contains(Key(name));
  if (value == nullptr) return Refuse(std::string(name) + " is missing");
  if (!value->is_int64() || value->get_int64() < 0 || value->get_int64() > kNumericDateMax)
    return Refuse(std::string(name) + " is not a time in whole seconds");
  return WallTime(std::chrono::seconds(value->get_int64()));
}

// One name, or a list of names (RFC 7519 section 4.1.3).
Result<std::vector<std::string>> Audience(const json::object& object) {
  const json::value* const value = object.if_contains("aud");
  if (value == nullptr) return Refuse("aud is missing");
  std::vector<std::string> names;
  if (value->is_string()) {
    names.emplace_back(value->get_string().data(), value->get_string().size());
    return names;
  }
  if (!value->is_array() || value->get_array().size() > kAudienceMax) return Refuse("aud is not a list of names");
  for (const json::value& item : value->get_array()) {
    if (!item.is_string()) return Refuse("aud is not a list of names");
    names.emplace_back(item.get_string().data(), item.get_string().size());
  }
  return names;
}

Result<Claims> ReadClaims(const json::object& payload) {
  Claims claims;
  NOVA_TRY(claims.issuer, Text(payload, "iss"));
  NOVA_TRY(claims.subject, Id(payload, "sub"));
  NOVA_TRY(claims.audience, Audience(payload));
  NOVA_TRY(claims.expires_at, Time(payload, "exp"));
  NOVA_TRY(claims.issued_at, Time(payload, "iat"));
  NOVA_TRY(claims.not_before, Time(payload, "nbf"));
  NOVA_TRY(claims.token_id, Id(payload, "jti"));
  NOVA_TRY(claims.session_id, Id(payload, "sid"));
  return claims;
}

Result<json::object> DecodeObject(std::string_view part, std::string_view what) {
  const auto bytes = Base64UrlDecode(part);
  if (!bytes) return Refuse(std::string(what) + " is not base64url");
  auto object = ParseStrictObject(*bytes);
  if (!object) return Refuse(std::string(what) + ": " + object.error().message());
  return object;
}

Error BadKey(std::string_view variable, const Error& error, Algorithm algorithm) {
  const std::string_view wanted = algorithm == Algorithm::kHs256 ? "a secret in base64" : "a PEM key";
  return InvalidArgument(std::string(variable) + ": " + error.message() + "; give it " + std::string(wanted) +
                             ", or name its file in " + std::string(variable) + "_FILE",
                         error.detail());
}

}  // namespace

void Bind(config::Config& config, JwtConfig& jwt) {
  config.Field("auth.jwt_signing_key", jwt.signing_key, {.help = "private key in PEM; only where tokens are issued"});
  config.Field("auth.jwt_validation_key", jwt.validation_key, {.help = "public key in PEM, where no private key is"});
  std::string algorithm(AlgorithmName(jwt.algorithm));
  config.Field("auth.jwt_algorithm", algorithm,
               {.help = "EdDSA, ES256 or RS256; HS256 where nobody else verifies; the key must fit it",
                .one_of = {"EdDSA", "ES256", "RS256", "HS256"}});
  if (const auto parsed = ParseAlgorithm(algorithm)) jwt.algorithm = *parsed;
  config.Field("auth.jwt_issuer", jwt.issuer, {.help = "the issuer of access tokens"});
  config.Field("auth.jwt_audience", jwt.audience, {.help = "whom access tokens are for; one match is enough"});
  config.Field("auth.jwt_expiry", jwt.expiry,
               {.help = "life of an access token", .min = std::chrono::seconds(1), .max = std::chrono::hours(24)});
}

Result<JwtKeys> LoadJwtKeys(const JwtConfig& config, bool others_verify) {
  if (config.issuer.empty()) return InvalidArgument("NOVA_AUTH_JWT_ISSUER: is empty; name the issuer of access tokens");
  if (config.audience.empty() || config.audience.size() > kAudienceMax)
    return InvalidArgument("NOVA_AUTH_JWT_AUDIENCE: 1 to " + std::to_string(kAudienceMax) + " names are needed");
  if (config.signing_key.empty() && config.validation_key.empty())
    return InvalidArgument(std::string(kSigningKeyVariable) + ": there is no key; name a PEM file in " +
                           std::string(kSigningKeyVariable) + "_FILE, or in " + std::string(kValidationKeyVariable) +
                           "_FILE where tokens are only verified");
  if (config.algorithm == Algorithm::kHs256) {
    if (others_verify)
      return InvalidArgument(
          "NOVA_AUTH_JWT_ALGORITHM: with HS256 whoever verifies a token can make one, and other processes verify "
          "these; "
          "use EdDSA, ES256 or RS256");
    if (!config.validation_key.empty())
      return InvalidArgument(std::string(kValidationKeyVariable) +
                             ": HS256 has no public key; leave it out, the secret is in " +
                             std::string(kSigningKeyVariable));
  }
  JwtKeys keys;
  std::vector<VerificationKey> verification;
  if (!config.signing_key.empty()) {
    auto key = SigningKey::FromText(config.signing_key, config.algorithm);
    if (!key) return BadKey(kSigningKeyVariable, key.error(), config.algorithm);
    verification.push_back(key->verification_key());
    keys.signing = *std::move(key);
  }
  if (!config.validation_key.empty()) {
    auto key = VerificationKey::FromPem(config.validation_key.Expose(), config.algorithm);
    if (!key) return BadKey(kValidationKeyVariable, key.error(), config.algorithm);
    if (keys.signing && keys.signing->kid() != key->kid())
      return InvalidArgument(std::string(kValidationKeyVariable) + ": is not the public half of " +
                             std::string(kSigningKeyVariable) + "; leave it out where the private key is");
    verification.push_back(*std::move(key));
  }
  keys.verification = std::make_shared<const Jwks>(std::move(verification));
  return keys;
}

Claims NewClaims(const JwtTerms& terms, Uuid account, Uuid session, const Clock& clock) {
  const WallTime now = std::chrono::floor<std::chrono::seconds>(clock.WallNow());
  return {.issuer = terms.issuer,
          .subject = account,
          .audience = terms.audience,
          .expires_at = now + terms.expiry,
          .issued_at = now,
          .not_before = now,
          .token_id = Uuid::New(clock),
          .session_id = session};
}

Result<std::string> SignToken(const SigningKey& key, const Claims& claims) {
  const json::object header{{"alg", Key(AlgorithmName(key.algorithm()))}, {"kid", key.kid()}, {"typ", Key(kType)}};
  json::array audience;
  for (const std::string& name : claims.audience) audience.emplace_back(name);
  const json::object payload{{"iss", claims.issuer},
                             {"sub", claims.subject.ToString()},
                             {"aud", std::move(audience)},
                             {"exp", ToNumericDate(claims.expires_at)},
                             {"iat", ToNumericDate(claims.issued_at)},
                             {"nbf", ToNumericDate(claims.not_before)},
                             {"jti", claims.token_id.ToString()},
                             {"sid", claims.session_id.ToString()}};
  std::string token = Base64UrlEncode(json::serialize(header)) + "." + Base64UrlEncode(json::serialize(payload));
  NOVA_TRY(const std::string signature, key.Sign(token));
  token.append(".").append(Base64UrlEncode(signature));
  if (token.size() > kTokenBytesMax) return Internal("the access token would be too long");
  return token;
}

Result<IssuedToken> JwtSigner::Issue(Uuid account, Uuid session, const Clock& clock, WallTime session_end) const {
  const auto with = state();
  if (with == nullptr) return Unavailable("no tokens can be issued at the moment; try again", "no signing key yet");
  IssuedToken issued;
  issued.claims = NewClaims(with->terms, account, session, clock);
  issued.claims.expires_at =
      std::min<WallTime>(issued.claims.expires_at, std::chrono::floor<std::chrono::seconds>(session_end));
  NOVA_TRY(issued.token, SignToken(with->key, issued.claims));
  return issued;
}

void JwtSigner::Set(JwtTerms terms, SigningKey key) {
  auto next = std::make_shared<const State>(std::move(terms), std::move(key));
  std::lock_guard lock(mutex_);
  state_ = std::move(next);
}

std::string JwtSigner::kid() const {
  const auto with = state();
  return with == nullptr ? std::string() : with->key.kid();
}

std::shared_ptr<const JwtSigner::State> JwtSigner::state() const {
  std::lock_guard lock(mutex_);
  return state_;
}

JwtVerifier::JwtVerifier(JwtTerms terms, std::shared_ptr<const Jwks> keys, const Clock& clock) : clock_(clock) {
  Set(std::move(terms), std::move(keys));
}

Result<Claims> JwtVerifier::Verify(std::string_view token) const {
  bool key_is_unknown = false;
  return Verify(token, key_is_unknown);
}

Result<Claims> JwtVerifier::Verify(std::string_view token, bool& key_is_unknown) const {
  std::shared_ptr<const JwtTerms> terms;
  std::shared_ptr<const Jwks> keys;
  {
    std::lock_guard lock(mutex_);
    terms = terms_;
    keys = keys_;
  }
  if (terms == nullptr)
    return Unavailable("access tokens cannot be verified at the moment; try again", "no verification keys yet");
  if (token.size() > kTokenBytesMax) return Refuse("longer than the limit");
  const std::size_t first = token.find('.');
  const std::size_t second = first == std::string_view::npos ? first : token.find('.', first + 1);
  if (second == std::string_view::npos || token.find('.', second + 1) != std::string_view::npos)
    return Refuse("not three parts");

  NOVA_TRY(const json::object header, DecodeObject(token.substr(0, first), "header"));
  if (header.contains("crit")) return Refuse("crit names an extension we do not know");
  NOVA_TRY(const std::string_view type, Text(header, "typ"));
  if (type != kType) return Refuse("typ is not that of an access token");
  NOVA_TRY(const std::string_view kid, Text(header, "kid"));
  NOVA_TRY(const std::string_view algorithm, Text(header, "alg"));
  const VerificationKey* const key = keys->Find(kid);
  key_is_unknown = key == nullptr;
  if (key_is_unknown) return Refuse("kid is unknown");
  if (algorithm != AlgorithmName(key->algorithm())) return Refuse("alg is not that of the key");

  const auto signature = Base64UrlDecode(token.substr(second + 1));
  if (!signature) return Refuse("signature is not base64url");
  if (!key->Verify(token.substr(0, second), *signature)) return Refuse("signature does not verify");

  // Only now: what nobody we know has signed is not worth parsing.
  NOVA_TRY(const json::object payload, DecodeObject(token.substr(first + 1, second - first - 1), "payload"));
  NOVA_TRY(Claims claims, ReadClaims(payload));
  if (claims.issuer != terms->issuer) return Refuse("iss is another issuer");
  if (std::ranges::find_first_of(claims.audience, terms->audience) == claims.audience.end())
    return Refuse("aud is another audience");
  const WallTime now = clock_.WallNow();
  if (now >= claims.expires_at + kClockSkewMax) return Refuse("expired");
  if (now < claims.not_before - kClockSkewMax) return Refuse("not valid yet");
  if (now < claims.issued_at - kClockSkewMax) return Refuse("issued in the future");
  return claims;
}

void JwtVerifier::Set(JwtTerms terms, std::shared_ptr<const Jwks> keys) {
  auto next = std::make_shared<const JwtTerms>(std::move(terms));
  std::lock_guard lock(mutex_);
  terms_ = std::move(next);
  keys_ = std::move(keys);
}

void JwtVerifier::SetKeys(std::shared_ptr<const Jwks> keys) {
  std::lock_guard lock(mutex_);
  keys_ = std::move(keys);
}

std::shared_ptr<const Jwks> JwtVerifier::keys() const {
  std::lock_guard lock(mutex_);
  return keys_;
}

}  // namespace nova::auth
