#include "nova/telemetry/redact.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstddef>
#include <optional>

namespace nova::telemetry {
namespace {

// Long enough for every name in use; bounds the look back.
constexpr std::size_t kKeyMax = 64;
// A header of a token is never shorter ({"alg":"..."}), and ordinary words that begin with eyJ are.
constexpr std::size_t kTokenHeaderMin = 10;

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

std::optional<Span> MatchAt(std::string_view text, std::size_t at) {
  switch (text[at]) {
    case 'e':
      return MatchToken(text, at);
    case 'b':
    case 'B':
      return MatchBearer(text, at);
    case ':':
      if (const auto url = MatchUrlPassword(text, at)) return url;
      return MatchAssignment(text, at);
    case '=':
      return MatchAssignment(text, at);
    case '-':
      return MatchPrivateKey(text, at);
    default:
      return std::nullopt;
  }
}

}  // namespace

bool IsSecretKey(std::string_view key) {
  static constexpr std::array<std::string_view, 13> kParts = {
      "password", "passwd", "passphrase", "pwd",         "token",       "secret",    "authorization",
      "cookie",   "apikey", "api_key",    "private_key", "signing_key", "credential"};
  for (std::size_t at = 0; at < key.size(); ++at) {
    for (const std::string_view part : kParts) {
      if (StartsWithIgnoringCase(key.substr(at), part)) return true;
    }
  }
  return false;
}

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
