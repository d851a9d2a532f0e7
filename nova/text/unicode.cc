#include "nova/text/unicode.h"

#include <cstdint>
#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/stringpiece.h>
#include <unicode/uchar.h>
#include <unicode/utf8.h>
#include <utility>

namespace nova::text {

bool ForEachCharacter(std::string_view text, const std::function<bool(char32_t)>& visit) {
  const char* const data = text.data();
  const auto length = static_cast<std::int32_t>(text.size());
  std::int32_t at = 0;
  while (at < length) {
    UChar32 character = 0;
    U8_NEXT(data, at, length, character);
    if (character < 0 || !visit(static_cast<char32_t>(character))) return false;
  }
  return true;
}

std::optional<std::size_t> CountCharacters(std::string_view text) {
  std::size_t count = 0;
  const bool valid = ForEachCharacter(text, [&](char32_t) {
    ++count;
    return true;
  });
  return valid ? std::optional(count) : std::nullopt;
}

std::optional<std::string> FoldCase(std::string_view text) {
  // ICU would replace what is malformed, and make equal what was not.
  if (!CountCharacters(text)) return std::nullopt;
  UErrorCode status = U_ZERO_ERROR;
  const icu::Normalizer2* const normalizer = icu::Normalizer2::getNFKCCasefoldInstance(status);
  if (U_FAILURE(status)) return std::nullopt;
  std::string folded;
  icu::StringByteSink<std::string> sink(&folded);
  normalizer->normalizeUTF8(0, icu::StringPiece(text.data(), static_cast<std::int32_t>(text.size())), sink, nullptr,
                            status);
  return U_SUCCESS(status) ? std::optional(std::move(folded)) : std::nullopt;
}

bool IsWhiteSpace(char32_t character) { return u_isUWhiteSpace(static_cast<UChar32>(character)) != 0; }

bool IsControl(char32_t character) { return u_charType(static_cast<UChar32>(character)) == U_CONTROL_CHAR; }

bool IsFormat(char32_t character) { return u_charType(static_cast<UChar32>(character)) == U_FORMAT_CHAR; }

bool IsDirectionalFormatting(char32_t character) {
  return (character >= U'\u202A' && character <= U'\u202E') || (character >= U'\u2066' && character <= U'\u2069');
}

void Append(char32_t character, std::string& text) {
  char bytes[kUtf8BytesMax];
  std::size_t size = 0;
  U8_APPEND_UNSAFE(bytes, size, static_cast<UChar32>(character));
  text.append(bytes, size);
}

std::string_view Trim(std::string_view text) {
  const char* const data = text.data();
  auto end = static_cast<std::int32_t>(text.size());
  std::int32_t begin = 0;
  while (begin < end) {
    std::int32_t next = begin;
    UChar32 character = 0;
    U8_NEXT(data, next, end, character);
    if (character < 0 || !IsWhiteSpace(static_cast<char32_t>(character))) break;
    begin = next;
  }
  while (end > begin) {
    std::int32_t before = end;
    UChar32 character = 0;
    U8_PREV(data, begin, before, character);
    if (character < 0 || !IsWhiteSpace(static_cast<char32_t>(character))) break;
    end = before;
  }
  return text.substr(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin));
}

}  // namespace nova::text
