#include "nova/secrets/jwt_secret.h"

#include <array>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serializer.hpp>
#include <boost/json/value.hpp>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "nova/auth/strict_json.h"
#include "nova/secrets/failure.h"

namespace nova::secrets {
namespace {

namespace json = boost::json;

constexpr std::string_view kSigningKey = "signing_key";
constexpr std::string_view kValidationKey = "validation_key";
constexpr std::string_view kAlgorithm = "algorithm";
constexpr std::string_view kIssuer = "issuer";
constexpr std::string_view kAudience = "audience";
constexpr std::string_view kExpirySeconds = "expiry_seconds";

json::string_view Key(std::string_view name) { return {name.data(), name.size()}; }

Error Bad(std::string_view field, std::string_view problem, std::string detail = {}) {
  return Fail(Failure::kInvalidFormat, std::string(field) + ": " + std::string(problem), std::move(detail));
}

// Nothing if it is missing. Errors: kInvalidFormat if it is not text, or empty.
Result<std::optional<std::string_view>> OptionalText(const json::object& object, std::string_view name) {
  const json::value* const value = object.if_contains(Key(name));
  if (value == nullptr) return std::optional<std::string_view>();
  if (!value->is_string() || value->get_string().empty()) return Bad(name, "a text is needed");
  return std::optional(std::string_view(value->get_string().data(), value->get_string().size()));
}

Result<std::string> Text(const json::object& object, std::string_view name) {
  NOVA_TRY(const auto text, OptionalText(object, name));
  if (!text) return Bad(name, "is missing");
  return std::string(*text);
}

Result<Secret<>> KeyText(const json::object& object, std::string_view name) {
  NOVA_TRY(const auto text, OptionalText(object, name));
  if (!text) return Secret<>();
  if (text->size() > auth::kPemBytesMax)
    return Bad(name, "at most " + std::to_string(auth::kPemBytesMax) + " bytes are allowed");
  std::string lines;
  lines.reserve(text->size());
  for (std::size_t i = 0; i < text->size(); ++i) {
    // Neither PEM nor base64 holds a backslash otherwise.
    const bool is_line_end = text->substr(i, 2) == "\\n";
    lines.push_back(is_line_end ? '\n' : (*text)[i]);
    if (is_line_end) ++i;
  }
  return Secret<>(std::move(lines));
}

Result<std::vector<std::string>> Audience(const json::object& object) {
  const json::value* const value = object.if_contains(Key(kAudience));
  if (value == nullptr) return Bad(kAudience, "is missing");
  const Error bad = Bad(kAudience, "a list of 1 to " + std::to_string(auth::kAudienceMax) + " names is needed");
  if (!value->is_array() || value->get_array().empty() || value->get_array().size() > auth::kAudienceMax) return bad;
  std::vector<std::string> names;
  for (const json::value& item : value->get_array()) {
    if (!item.is_string() || item.get_string().empty()) return bad;
    names.emplace_back(item.get_string().data(), item.get_string().size());
  }
  return names;
}

Result<std::chrono::seconds> Expiry(const json::object& object) {
  const json::value* const value = object.if_contains(Key(kExpirySeconds));
  if (value == nullptr) return Bad(kExpirySeconds, "is missing");
  if (!value->is_int64() || value->get_int64() < kJwtExpiryMin.count() || value->get_int64() > kJwtExpiryMax.count())
    return Bad(kExpirySeconds, "a whole number of " + std::to_string(kJwtExpiryMin.count()) + " to " +
                                   std::to_string(kJwtExpiryMax.count()) + " is needed");
  return std::chrono::seconds(value->get_int64());
}

// Serialized without leaving copies of the text behind.
Secret<> Serialize(const json::object& object, std::size_t bytes_max) {
  std::string text;
  text.reserve(bytes_max);
  json::serializer serializer;
  serializer.reset(&object);
  std::array<char, 1024> piece{};
  while (!serializer.done()) {
    const json::string_view read = serializer.read(piece.data(), piece.size());
    text.append(read.data(), read.size());
  }
  WipeMemory(piece.data(), piece.size());
  return Secret<>(std::move(text));
}

Secret<> Format(const auth::JwtConfig& jwt, bool with_signing_key) {
  json::object object(auth::WipedStorage());
  // JSON spells a character with six at most.
  std::size_t bytes_max = 256 + 6 * jwt.issuer.size();
  for (const auto& [name, key] :
       {std::pair(kSigningKey, &jwt.signing_key), std::pair(kValidationKey, &jwt.validation_key)}) {
    if (key->empty() || (name == kSigningKey && !with_signing_key)) continue;
    object.emplace(Key(name), Key(key->Expose()));
    bytes_max += 6 * key->Expose().size();
  }
  json::array audience(object.storage());
  for (const std::string& name : jwt.audience) {
    audience.emplace_back(Key(name));
    bytes_max += 8 + 6 * name.size();
  }
  object.emplace(Key(kAlgorithm), Key(auth::AlgorithmName(jwt.algorithm)));
  object.emplace(Key(kIssuer), Key(jwt.issuer));
  object.emplace(Key(kAudience), std::move(audience));
  object.emplace(Key(kExpirySeconds), jwt.expiry.count());
  return Serialize(object, bytes_max);
}

}  // namespace

Result<auth::JwtConfig> ParseJwtSecret(const Secret<>& text) {
  const auto parsed = auth::ParseStrictObject(text.Expose(), auth::WipedStorage());
  if (!parsed) return Fail(Failure::kInvalidFormat, "the value is " + parsed.error().message());
  const json::object& object = *parsed;
  auth::JwtConfig jwt;
  NOVA_TRY(jwt.signing_key, KeyText(object, kSigningKey));
  NOVA_TRY(jwt.validation_key, KeyText(object, kValidationKey));
  NOVA_TRY(const std::string algorithm, Text(object, kAlgorithm));
  const auto known = auth::ParseAlgorithm(algorithm);
  if (!known) return Bad(kAlgorithm, "EdDSA, ES256, RS256 or HS256 is needed");
  jwt.algorithm = *known;
  NOVA_TRY(jwt.issuer, Text(object, kIssuer));
  NOVA_TRY(jwt.audience, Audience(object));
  NOVA_TRY(jwt.expiry, Expiry(object));
  NOVA_TRY([[maybe_unused]] const auth::JwtKeys keys, KeysOf(jwt));
  return jwt;
}

Result<auth::JwtKeys> KeysOf(const auth::JwtConfig& jwt) {
  if (jwt.signing_key.empty() && jwt.validation_key.empty())
    return Bad(kSigningKey, "is missing, and so is validation_key; one of the two is needed");
  auth::JwtKeys keys;
  std::vector<auth::VerificationKey> verification;
  if (!jwt.signing_key.empty()) {
    auto key = auth::SigningKey::FromText(jwt.signing_key, jwt.algorithm);
    if (!key) return Bad(kSigningKey, key.error().message(), key.error().detail());
    verification.push_back(key->verification_key());
    keys.signing = *std::move(key);
  }
  if (!jwt.validation_key.empty()) {
    if (jwt.algorithm == auth::Algorithm::kHs256)
      return Bad(kValidationKey, "HS256 has no public key; leave it out, the secret is the signing_key");
    auto key = auth::VerificationKey::FromPem(jwt.validation_key.Expose(), jwt.algorithm);
    if (!key) return Bad(kValidationKey, key.error().message(), key.error().detail());
    if (keys.signing && keys.signing->kid() != key->kid())
      return Bad(kValidationKey, "is not the public half of signing_key");
    verification.push_back(*std::move(key));
  }
  keys.verification = std::make_shared<const auth::Jwks>(std::move(verification));
  return keys;
}

Secret<> FormatJwtSecret(const auth::JwtConfig& jwt) { return Format(jwt, true); }

Secret<> FormatJwtPublicSecret(const auth::JwtConfig& jwt) { return Format(jwt, false); }

}  // namespace nova::secrets
