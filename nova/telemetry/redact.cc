#include "nova/telemetry/redact.h"

#include <algorithm>
#include <arpa/inet.h>
#include <array>
#include <atomic>
#include <cctype>
#include <cstddef>
#include <netinet/in.h>
#include <optional>

namespace nova::telemetry {
namespace {

// Long enough for every name in use; bounds the look back.
constexpr std::size_t kKeyMax = 64;
// A header of a token is never shorter ({"alg":"..."}), and ordinary words that begin with eyJ are.
constexpr std::size_t kTokenHeaderMin = 10;
// Of an email address (RFC 5321).
constexpr std::size_t kLocalPartMax = 64;
// Digits of a telephone number with its country code (E.164); fewer may be anything.
constexpr std::size_t kPhoneDigitsMin = 8;
constexpr std::size_t kPhoneDigitsMax = 15;
// The longest text of an address of IPv6, in which one of IPv4 stands.
constexpr std::size_t kAddressMax = 45;
// Identifiers and thumbprints (43 characters) are shorter, and what is random and longer is a token.
constexpr std::size_t kOpaqueMin = 60;
// AKIA or ASIA, and 16 characters, of which the last four are shown.
constexpr std::size_t kAccessKeySize = 20;
constexpr std::size_t kAccessKeyShown = 4;

std::atomic<bool> show_addresses{false};

char Lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }
bool IsSpace(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
bool IsWord(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '-'; }

bool StartsWithIgnoringCase(std::string_view text, std::string_view lower) {
  return text.size() >= lower.size() &&
         std::equal(lower.begin(), lower.end(), text.begin(), [](char a, char b) { return a == Lower(b); });
}

template <class Predicate>
std::size_t RunLength(std::string_view text, std::size_t from, Predicate predicate) {
  std::size_t end = from;
  while (end < text.size() && predicate(text[end])) ++end;
  return end - from;
}

// A part of the text to be replaced, as offsets.
struct Span {
  std::size_t begin;
  std::size_t end;
};

// header.payload[.signature], each in base64url.
std::optional<Span> MatchToken(std::string_view text, std::size_t at) {
  if (!text.substr(at).starts_with("eyJ") || (at > 0 && IsWord(text[at - 1]))) return std::nullopt;
  const std::size_t header = RunLength(text, at, IsWord);
  const std::size_t dot = at + header;
  if (header < kTokenHeaderMin || dot >= text.size() || text[dot] != '.') return std::nullopt;
  if (RunLength(text, dot + 1, IsWord) == 0) return std::nullopt;
  return Span{at, at + RunLength(text, at, [](char c) { return IsWord(c) || c == '.'; })};
}

std::optional<Span> MatchBearer(std::string_view text, std::size_t at) {
  constexpr std::string_view kScheme = "bearer";
  if (!StartsWithIgnoringCase(text.substr(at), kScheme) || (at > 0 && IsWord(text[at - 1]))) return std::nullopt;
  const std::size_t blank = at + kScheme.size();
  const std::size_t begin = blank + RunLength(text, blank, IsSpace);
  const std::size_t length = RunLength(text, begin, [](char c) { return !IsSpace(c) && c != '"' && c != '\''; });
  if (begin == blank || length == 0) return std::nullopt;
  return Span{begin, begin + length};
}

// scheme://user:password@host
std::optional<Span> MatchUrlPassword(std::string_view text, std::size_t at) {
  constexpr std::string_view kMark = "://";
  if (!text.substr(at).starts_with(kMark)) return std::nullopt;
  const std::size_t begin = at + kMark.size();
  const std::size_t length = RunLength(
      text, begin, [](char c) { return !IsSpace(c) && c != '/' && c != '?' && c != '#' && c != '"' && c != '\''; });
  const std::string_view authority = text.substr(begin, length);
  const std::size_t host = authority.rfind('@');
  const std::size_t colon = authority.find(':');
  if (host == std::string_view::npos || colon == std::string_view::npos || colon > host) return std::nullopt;
  return Span{begin + colon + 1, begin + host};
}

// The value after `at`, quoted or up to the next separator.
Span ValueAt(std::string_view text, std::size_t at) {
  if (at < text.size() && (text[at] == '\'' || text[at] == '"')) {
    const char quote = text[at];
    std::size_t end = at + 1;
    while (end < text.size() && text[end] != quote) end += text[end] == '\\' ? 2 : 1;
    return {at + 1, std::min(end, text.size())};
  }
  return {at, at + RunLength(text, at, [](char c) { return !IsSpace(c) && c != '&' && c != ';' && c != '"'; })};
}

// password=value, as in connection strings and queries, and "password": value, as in JSON.
std::optional<Span> MatchAssignment(std::string_view text, std::size_t at) {
  std::size_t name_end = at;
  std::size_t value = at + 1;
  if (text[at] == ':' && at > 0 && text[at - 1] == '"') {
    name_end = at - 1;
    value += RunLength(text, value, IsSpace);
  } else if (text[at] == '=') {
    while (name_end > 0 && text[name_end - 1] == ' ') --name_end;
    value += RunLength(text, value, [](char c) { return c == ' '; });
  } else {
    return std::nullopt;
  }
  std::size_t name = name_end;
  while (name > 0 && name_end - name < kKeyMax && IsWord(text[name - 1])) --name;
  if (!IsSecretKey(text.substr(name, name_end - name))) return std::nullopt;
  const Span span = ValueAt(text, value);
  if (span.begin == span.end) return std::nullopt;
  return span;
}

std::optional<Span> MatchPrivateKey(std::string_view text, std::size_t at) {
  constexpr std::string_view kBegin = "-----BEGIN ";
  constexpr std::string_view kEnd = "-----END ";
  constexpr std::string_view kRule = "-----";
  if (!text.substr(at).starts_with(kBegin)) return std::nullopt;
  const std::size_t label = at + kBegin.size();
  const std::size_t label_end = text.substr(0, std::min(text.size(), label + kKeyMax)).find(kRule, label);
  if (label_end == std::string_view::npos || !text.substr(label, label_end - label).ends_with("PRIVATE KEY"))
    return std::nullopt;
  const std::size_t closing = text.find(kEnd, label_end);
  if (closing == std::string_view::npos) return Span{at, text.size()};
  const std::size_t end = text.find(kRule, closing + kEnd.size());
  return Span{at, end == std::string_view::npos ? text.size() : end + kRule.size()};
}

bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsUpper(char c) { return c >= 'A' && c <= 'Z'; }
bool IsLower(char c) { return c >= 'a' && c <= 'z'; }
bool IsHex(char c) { return IsDigit(c) || (Lower(c) >= 'a' && Lower(c) <= 'f'); }
// Of what personal data and keys are made; where one begins, none of these stands before.
bool IsNamePart(char c) { return IsWord(c) || c == '.' || c == '%' || c == '+'; }

// somebody@example.com
std::optional<Span> MatchEmail(std::string_view text, std::size_t at) {
  const std::size_t local = RunLength(text.substr(0, std::min(text.size(), at + kLocalPartMax + 1)), at, IsNamePart);
  const std::size_t sign = at + local;
  if (local == 0 || sign >= text.size() || text[sign] != '@') return std::nullopt;
  std::size_t end = sign + 1 + RunLength(text, sign + 1, [](char c) { return IsWord(c) || c == '.'; });
  while (end > sign && text[end - 1] == '.') --end;
  const std::string_view domain = text.substr(sign + 1, end - sign - 1);
  if (domain.find('.') == std::string_view::npos || domain.front() == '.') return std::nullopt;
  return Span{at, end};
}

// +44 20 7946 0958
std::optional<Span> MatchPhone(std::string_view text, std::size_t at) {
  std::size_t digits = 0;
  std::size_t end = at + 1;
  for (std::size_t next = at + 1; next < text.size() && digits <= kPhoneDigitsMax; ++next) {
    const char c = text[next];
    if (IsDigit(c)) {
      ++digits;
      end = next + 1;
    } else if (next == at + 1 || (c != ' ' && c != '-' && c != '(' && c != ')' && c != '.')) {
      break;
    }
  }
  if (digits < kPhoneDigitsMin || digits > kPhoneDigitsMax || text[at + 1] == '0') return std::nullopt;
  return Span{at, end};
}

// An address of somebody else's machine: loopback and "any" are nobody's.
std::optional<Span> MatchAddress(std::string_view text, std::size_t at) {
  if (show_addresses.load(std::memory_order_relaxed)) return std::nullopt;
  const std::string_view rest = text.substr(at, kAddressMax + 1);
  std::size_t size = RunLength(rest, 0, [](char c) { return IsHex(c) || c == ':' || c == '.'; });
  if (at + size < text.size() && IsWord(text[at + size])) return std::nullopt;
  // The end of a sentence, or a port behind an address of IPv4.
  const std::size_t colon = rest.substr(0, size).find(':');
  if (colon != std::string_view::npos && rest.substr(0, colon).find('.') != std::string_view::npos) size = colon;
  while (size > 0 && (rest[size - 1] == '.' || (rest[size - 1] == ':' && !rest.substr(0, size).ends_with("::"))))
    --size;
  if (size < 3 || size > kAddressMax) return std::nullopt;
  const std::string address(rest.substr(0, size));
  in_addr v4{};
  if (::inet_pton(AF_INET, address.c_str(), &v4) == 1) {
    const std::uint32_t number = ntohl(v4.s_addr);
    if (number == INADDR_ANY || number >> 24 == 127) return std::nullopt;
    return Span{at, at + size};
  }
  in6_addr v6{};
  if (address.find(':') == std::string::npos || ::inet_pton(AF_INET6, address.c_str(), &v6) != 1) return std::nullopt;
  if (IN6_IS_ADDR_LOOPBACK(&v6) || IN6_IS_ADDR_UNSPECIFIED(&v6)) return std::nullopt;
  return Span{at, at + size};
}

// An access key of AWS, but for its end.
std::optional<Span> MatchAccessKey(std::string_view text, std::size_t at) {
  const std::string_view start = text.substr(at, 4);
  if (start != "AKIA" && start != "ASIA") return std::nullopt;
  if (RunLength(text, at, [](char c) { return IsUpper(c) || IsDigit(c); }) != kAccessKeySize) return std::nullopt;
  return Span{at, at + kAccessKeySize - kAccessKeyShown};
}

// A token without any form: long, and of all kinds of characters.
std::optional<Span> MatchOpaque(std::string_view text, std::size_t at) {
  const std::size_t size = RunLength(text, at, [](char c) { return IsWord(c) || c == '+' || c == '='; });
  const std::string_view run = text.substr(at, size);
  if (size < kOpaqueMin || std::ranges::none_of(run, IsDigit) || std::ranges::none_of(run, IsUpper) ||
      std::ranges::none_of(run, IsLower))
    return std::nullopt;
  return Span{at, at + size};
}

// $argon2id$v=19$...: what a password is compared with.
std::optional<Span> MatchPasswordHash(std::string_view text, std::size_t at) {
  if (!text.substr(at).starts_with("$argon2")) return std::nullopt;
  return Span{at, at + RunLength(text, at, [](char c) { return !IsSpace(c) && c != '"' && c != '\''; })};
}

// AWS4-HMAC-SHA256 Credential=..., SignedHeaders=..., Signature=...
std::optional<Span> MatchAwsSignature(std::string_view text, std::size_t at) {
  constexpr std::string_view kScheme = "AWS4-HMAC-SHA256 ";
  if (!text.substr(at).starts_with(kScheme)) return std::nullopt;
  const std::size_t begin = at + kScheme.size();
  return Span{begin, begin + RunLength(text, begin, [](char c) { return c != '"' && c != '\'' && c != '\n'; })};
}

// A header whose whole line is nobody's business.
std::optional<Span> MatchHeader(std::string_view text, std::size_t at) {
  static constexpr std::array<std::string_view, 6> kHeaders = {"authorization", "proxy-authorization",  "cookie",
                                                               "set-cookie",    "x-amz-security-token", "x-api-key"};
  std::size_t name = at;
  while (name > 0 && at - name < kKeyMax && IsWord(text[name - 1])) --name;
  const std::string_view written = text.substr(name, at - name);
  const bool known = std::ranges::any_of(kHeaders, [&](std::string_view header) {
    return header.size() == written.size() && StartsWithIgnoringCase(written, header);
  });
  if (!known) return std::nullopt;
  std::size_t begin = at + 1 + RunLength(text, at + 1, [](char c) { return c == ' ' || c == '\t'; });
  // Which scheme it is helps, and is no secret.
  for (const std::string_view scheme : {"bearer ", "basic ", "aws4-hmac-sha256 "}) {
    if (StartsWithIgnoringCase(text.substr(begin), scheme)) begin += scheme.size();
  }
  const std::size_t length = RunLength(text, begin, [](char c) { return c != '\n' && c != '\r' && c != '"'; });
  if (length == 0) return std::nullopt;
  return Span{begin, begin + length};
}

// <SecretAccessKey>...</SecretAccessKey>
std::optional<Span> MatchElement(std::string_view text, std::size_t at) {
  const std::size_t name = RunLength(text.substr(0, std::min(text.size(), at + kKeyMax)), at + 1, IsWord);
  const std::size_t close = at + 1 + name;
  if (name == 0 || close >= text.size() || text[close] != '>' || !IsSecretKey(text.substr(at + 1, name)))
    return std::nullopt;
  const std::size_t length = RunLength(text, close + 1, [](char c) { return c != '<'; });
  if (length == 0) return std::nullopt;
  return Span{close + 1, close + 1 + length};
}

std::optional<Span> MatchByMark(std::string_view text, std::size_t at) {
  switch (text[at]) {
    case 'e':
      return MatchToken(text, at);
    case 'b':
    case 'B':
      return MatchBearer(text, at);
    case ':':
      if (const auto url = MatchUrlPassword(text, at)) return url;
      if (const auto header = MatchHeader(text, at)) return header;
      return MatchAssignment(text, at);
    case '=':
      return MatchAssignment(text, at);
    case '-':
      return MatchPrivateKey(text, at);
    case '+':
      return MatchPhone(text, at);
    case '$':
      return MatchPasswordHash(text, at);
    case '<':
      return MatchElement(text, at);
    case 'A':
      return MatchAwsSignature(text, at);
    default:
      return std::nullopt;
  }
}

std::optional<Span> MatchAt(std::string_view text, std::size_t at) {
  if (const auto marked = MatchByMark(text, at)) return marked;
  // What follows has no mark of its own, so it is looked for where a word begins: once for each.
  const char c = text[at];
  const char before = at > 0 ? text[at - 1] : ' ';
  if (IsNamePart(before)) return std::nullopt;
  if ((IsHex(c) || c == ':') && before != ':')
    if (const auto address = MatchAddress(text, at)) return address;
  if (!IsNamePart(c)) return std::nullopt;
  if (const auto key = MatchAccessKey(text, at)) return key;
  if (const auto email = MatchEmail(text, at)) return email;
  return MatchOpaque(text, at);
}

}  // namespace

bool IsSecretKey(std::string_view key) {
  static constexpr std::array<std::string_view, 15> kParts = {
      "password", "passwd",  "passphrase",  "pwd",         "token",      "secret", "authorization", "cookie",
      "apikey",   "api_key", "private_key", "signing_key", "credential", "email",  "phone"};
  for (std::size_t at = 0; at < key.size(); ++at) {
    for (const std::string_view part : kParts) {
      if (StartsWithIgnoringCase(key.substr(at), part)) return true;
    }
  }
  return false;
}

void ShowAddresses(bool show) { show_addresses = show; }

std::string Redact(std::string_view text) {
  std::string clean;
  clean.reserve(text.size());
  std::size_t at = 0;
  while (at < text.size()) {
    if (const auto span = MatchAt(text, at)) {
      clean.append(text.substr(at, span->begin - at)).append(kRedacted);
      at = span->end;
    } else {
      clean.push_back(text[at++]);
    }
  }
  return clean;
}

}  // namespace nova::telemetry
