#include "services/identity/tokens.h"

#include <array>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/sha.h>
#include <sodium.h>
#include <utility>

#include "nova/auth/base64url.h"

namespace nova::identity {
namespace {

constexpr std::size_t kIdBytes = 16;
constexpr std::size_t kGenerationBytes = 4;
constexpr std::size_t kSecretBytes = 32;
// Of an HMAC-SHA256; what a forger could win by hitting one in 2^128 is the end of a single session.
constexpr std::size_t kCodeBytes = 16;

constexpr std::size_t EncodedSize(std::size_t bytes) { return (bytes * 4 + 2) / 3; }

std::string_view View(const Uuid& id) { return {reinterpret_cast<const char*>(id.bytes().data()), kIdBytes}; }

Uuid ToUuid(std::string_view bytes) {
  static constexpr char kHex[] = "0123456789abcdef";
  std::string text;
  for (std::size_t i = 0; i < kIdBytes; ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text.push_back('-');
    const auto byte = static_cast<std::uint8_t>(bytes[i]);
    text.push_back(kHex[byte >> 4]);
    text.push_back(kHex[byte & 0x0f]);
  }
  return *Uuid::Parse(text);
}

std::string ToBigEndian(std::int32_t value) {
  const auto bits = static_cast<std::uint32_t>(value);
  std::string bytes;
  for (int shift = 24; shift >= 0; shift -= 8) bytes.push_back(static_cast<char>(bits >> shift & 0xff));
  return bytes;
}

std::int32_t FromBigEndian(std::string_view bytes) {
  std::uint32_t bits = 0;
  for (const char c : bytes) bits = bits << 8 | static_cast<std::uint8_t>(c);
  return static_cast<std::int32_t>(bits);
}

Secret<> NewSecret() {
  std::string bytes(kSecretBytes, '\0');
  randombytes_buf(bytes.data(), bytes.size());
  return Secret<>(std::move(bytes));
}

std::array<std::uint8_t, SHA256_DIGEST_LENGTH> HmacSha256(const Bytes& key, std::string_view text) {
  std::array<std::uint8_t, SHA256_DIGEST_LENGTH> digest{};
  // Fails for want of memory alone.
  if (HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()), reinterpret_cast<const unsigned char*>(text.data()),
           text.size(), digest.data(), nullptr) == nullptr)
    std::abort();
  return digest;
}

// The bytes of a token of this length; nothing for any other text.
std::optional<Secret<>> Decode(std::string_view text, std::size_t size) {
  if (text.size() != EncodedSize(size)) return std::nullopt;
  auto bytes = auth::Base64UrlDecode(text);
  if (!bytes) return std::nullopt;
  return Secret<>(*std::move(bytes));
}

Secret<> Concatenate(std::initializer_list<std::string_view> parts) {
  std::size_t size = 0;
  for (const std::string_view part : parts) size += part.size();
  std::string bytes;
  bytes.reserve(size);  // so that growing leaves no copy of a secret behind
  for (const std::string_view part : parts) bytes.append(part);
  return Secret<>(std::move(bytes));
}

}  // namespace

Bytes NewKey() {
  Bytes key(kSecretBytes);
  randombytes_buf(key.data(), key.size());
  return key;
}

Bytes Sha256(std::string_view bytes) {
  Bytes digest(SHA256_DIGEST_LENGTH);
  SHA256(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(), digest.data());
  return digest;
}

bool SameBytes(const Bytes& a, const Bytes& b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

RowToken::RowToken(Uuid id) : RowToken(id, NewSecret()) {}

std::optional<RowToken> RowToken::Parse(std::string_view text) {
  const auto decoded = Decode(text, kIdBytes + kSecretBytes);
  if (!decoded) return std::nullopt;
  const std::string_view bytes = decoded->Expose();
  return RowToken(ToUuid(bytes), Secret<>(std::string(bytes.substr(kIdBytes))));
}

Secret<> RowToken::Encode() const {
  return Secret<>(auth::Base64UrlEncode(Concatenate({View(id_), secret_.Expose()}).Expose()));
}

RefreshToken::RefreshToken(Uuid session, std::int32_t generation, Secret<> secret, const Bytes& family_key)
    : session_(session), generation_(generation), secret_(std::move(secret)), code_(Code(family_key)) {}

RefreshToken RefreshToken::First(Uuid session, const Bytes& family_key) {
  return {session, 0, NewSecret(), family_key};
}

std::optional<RefreshToken> RefreshToken::Parse(std::string_view text) {
  const auto decoded = Decode(text, kIdBytes + kGenerationBytes + kSecretBytes + kCodeBytes);
  if (!decoded) return std::nullopt;
  std::string_view bytes = decoded->Expose();
  const auto take = [&](std::size_t count) {
    const std::string_view taken = bytes.substr(0, count);
    bytes.remove_prefix(count);
    return taken;
  };
  RefreshToken token;
  token.session_ = ToUuid(take(kIdBytes));
  token.generation_ = FromBigEndian(take(kGenerationBytes));
  token.secret_ = Secret<>(std::string(take(kSecretBytes)));
  token.code_.assign(bytes.begin(), bytes.end());
  return token;
}

RefreshToken RefreshToken::Successor(const Bytes& salt, const Bytes& family_key) const {
  auto digest = HmacSha256(salt, secret_.Expose());
  Secret<> secret(std::string(digest.begin(), digest.end()));
  WipeMemory(digest.data(), digest.size());
  return {session_, generation_ + 1, std::move(secret), family_key};
}

bool RefreshToken::IssuedWith(const Bytes& family_key) const { return SameBytes(code_, Code(family_key)); }

Secret<> RefreshToken::Encode() const {
  const std::string_view code(reinterpret_cast<const char*>(code_.data()), code_.size());
  return Secret<>(
      auth::Base64UrlEncode(Concatenate({View(session_), ToBigEndian(generation_), secret_.Expose(), code}).Expose()));
}

Bytes RefreshToken::Code(const Bytes& family_key) const {
  const Secret<> text = Concatenate({View(session_), ToBigEndian(generation_), secret_.Expose()});
  const auto digest = HmacSha256(family_key, text.Expose());
  return {digest.begin(), digest.begin() + kCodeBytes};
}

}  // namespace nova::identity
