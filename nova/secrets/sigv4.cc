#include "nova/secrets/sigv4.h"

#include <algorithm>
#include <array>
#include <ctime>
#include <map>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/sha.h>
#include <utility>
#include <vector>

namespace nova::secrets {
namespace {

constexpr std::string_view kAlgorithm = "AWS4-HMAC-SHA256";
constexpr std::string_view kTerminator = "aws4_request";

using Digest = std::array<unsigned char, SHA256_DIGEST_LENGTH>;

std::string_view Bytes(const Digest& digest) { return {reinterpret_cast<const char*>(digest.data()), digest.size()}; }

Digest Sha256(std::string_view data) {
  Digest digest;
  SHA256(reinterpret_cast<const unsigned char*>(data.data()), data.size(), digest.data());
  return digest;
}

Digest Hmac(std::string_view key, std::string_view data) {
  Digest digest;
  unsigned int size = 0;
  HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()), reinterpret_cast<const unsigned char*>(data.data()),
       data.size(), digest.data(), &size);
  return digest;
}

std::string Hex(const Digest& digest) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  for (const unsigned char byte : digest) {
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

bool IsUnreserved(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '.' ||
         c == '_' || c == '~';
}

std::string Encode(std::string_view text, bool keep_slashes) {
  constexpr std::string_view kDigits = "0123456789ABCDEF";
  std::string encoded;
  for (const char c : text) {
    if (IsUnreserved(c) || (keep_slashes && c == '/')) {
      encoded += c;
    } else {
      const auto byte = static_cast<unsigned char>(c);
      encoded += '%';
      encoded += kDigits[byte >> 4];
      encoded += kDigits[byte & 15];
    }
  }
  return encoded;
}

int HexValue(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

std::string Decode(std::string_view text) {
  std::string decoded;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const bool escape =
        text[i] == '%' && i + 2 < text.size() && HexValue(text[i + 1]) >= 0 && HexValue(text[i + 2]) >= 0;
    decoded += escape ? static_cast<char>(HexValue(text[i + 1]) * 16 + HexValue(text[i + 2])) : text[i];
    if (escape) i += 2;
  }
  return decoded;
}

// Without "." and "..", and with single slashes; of a last "." nothing is left, as botocore has it.
std::string NormalizePath(std::string_view path) {
  std::vector<std::string_view> segments;
  for (std::size_t at = 0; at <= path.size();) {
    const std::size_t end = std::min(path.find('/', at), path.size());
    const std::string_view segment = path.substr(at, end - at);
    if (segment == "..") {
      if (!segments.empty()) segments.pop_back();
    } else if (!segment.empty() && segment != ".") {
      segments.push_back(segment);
    }
    at = end + 1;
  }
  std::string normalized;
  for (const std::string_view segment : segments) normalized.append("/").append(segment);
  if (normalized.empty() || path.ends_with('/')) normalized += '/';
  return normalized;
}

std::string CanonicalQuery(std::string_view query) {
  std::vector<std::pair<std::string, std::string>> parameters;
  for (std::size_t at = 0; at < query.size();) {
    const std::size_t end = std::min(query.find('&', at), query.size());
    const std::string_view parameter = query.substr(at, end - at);
    const std::size_t equals = std::min(parameter.find('='), parameter.size());
    // However it was encoded on the wire, it is signed in one form.
    if (!parameter.empty())
      parameters.emplace_back(Encode(Decode(parameter.substr(0, equals)), false),
                              Encode(Decode(parameter.substr(std::min(equals + 1, parameter.size()))), false));
    at = end + 1;
  }
  std::ranges::sort(parameters);
  std::string canonical;
  for (const auto& [name, value] : parameters) {
    if (!canonical.empty()) canonical += '&';
    canonical.append(name).append("=").append(value);
  }
  return canonical;
}

// Without blanks at the ends, and with one where there were several.
std::string TrimValue(std::string_view value) {
  std::string trimmed;
  for (const char c : value) {
    const bool blank = c == ' ' || c == '\t';
    if (!blank) trimmed += c;
    if (blank && !trimmed.empty() && trimmed.back() != ' ') trimmed += ' ';
  }
  if (trimmed.ends_with(' ')) trimmed.pop_back();
  return trimmed;
}

std::string Lower(std::string_view text) {
  std::string lower(text);
  std::ranges::transform(lower, lower.begin(),
                         [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
  return lower;
}

// By lower-case name; the values of one name in the order in which they stand.
std::map<std::string, std::string> CanonicalHeaders(const http::Headers& headers) {
  std::map<std::string, std::string> canonical;
  for (const auto& [name, value] : headers) {
    const auto [entry, is_first] = canonical.try_emplace(Lower(name));
    if (!is_first) entry->second += ',';
    entry->second += TrimValue(value);
  }
  return canonical;
}

std::string SignedHeaders(const std::map<std::string, std::string>& headers) {
  std::string names;
  for (const auto& [name, value] : headers) {
    if (!names.empty()) names += ';';
    names += name;
  }
  return names;
}

// "20150830T123600Z".
std::string AmzDate(WallTime now) {
  const std::time_t seconds = std::chrono::system_clock::to_time_t(now);
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  char text[sizeof "20150830T123600Z"];
  return {text, std::strftime(text, sizeof text, "%Y%m%dT%H%M%SZ", &parts)};
}

std::string ScopeText(const SigningScope& scope, std::string_view date) {
  return std::string(date.substr(0, 8)) + "/" + scope.region + "/" + scope.service + "/" + std::string(kTerminator);
}

Digest SigningKey(const Credentials& credentials, const SigningScope& scope, std::string_view date) {
  std::string secret = "AWS4" + credentials.secret_access_key.Expose();
  Digest key = Hmac(secret, date.substr(0, 8));
  WipeMemory(secret.data(), secret.size());
  key = Hmac(Bytes(key), scope.region);
  key = Hmac(Bytes(key), scope.service);
  return Hmac(Bytes(key), kTerminator);
}

}  // namespace

std::string CanonicalRequest(const http::Request& request, PathForm form) {
  const auto headers = CanonicalHeaders(request.headers);
  const std::string path = form == PathForm::kNormalized ? NormalizePath(request.path) : request.path;
  std::string canonical = request.method + "\n" + Encode(path, true) + "\n" + CanonicalQuery(request.query) + "\n";
  for (const auto& [name, value] : headers) canonical.append(name).append(":").append(value).append("\n");
  return canonical + "\n" + SignedHeaders(headers) + "\n" + Hex(Sha256(request.body));
}

std::string StringToSign(std::string_view canonical_request, const SigningScope& scope, WallTime now) {
  const std::string date = AmzDate(now);
  return std::string(kAlgorithm) + "\n" + date + "\n" + ScopeText(scope, date) + "\n" + Hex(Sha256(canonical_request));
}

void Sign(http::Request& request, const Credentials& credentials, const SigningScope& scope, WallTime now,
          PathForm form) {
  const std::string date = AmzDate(now);
  request.headers.Add("X-Amz-Date", date);
  if (!credentials.session_token.empty())
    request.headers.Add("X-Amz-Security-Token", credentials.session_token.Expose());
  Digest key = SigningKey(credentials, scope, date);
  const Digest signature = Hmac(Bytes(key), StringToSign(CanonicalRequest(request, form), scope, now));
  WipeMemory(key.data(), key.size());
  request.headers.Add("Authorization", std::string(kAlgorithm) + " Credential=" + credentials.access_key_id + "/" +
                                           ScopeText(scope, date) +
                                           ", SignedHeaders=" + SignedHeaders(CanonicalHeaders(request.headers)) +
                                           ", Signature=" + Hex(signature));
}

}  // namespace nova::secrets
