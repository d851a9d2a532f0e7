#include "services/identity/account.h"

#include <algorithm>
#include <functional>
#include <optional>
#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/stringpiece.h>
#include <unicode/uchar.h>
#include <unicode/utf8.h>

namespace nova::identity {
namespace {

// Calls `visit` for each code point until it returns false. Returns false then, and for text that is not UTF-8.
bool ForEachCodePoint(std::string_view text, const std::function<bool(UChar32)>& visit) {
  const char* const data = text.data();
  const auto length = static_cast<std::int32_t>(text.size());
  std::int32_t at = 0;
  while (at < length) {
    UChar32 character = 0;
    U8_NEXT(data, at, length, character);
    if (character < 0 || !visit(character)) return false;
  }
  return true;
}

std::optional<std::size_t> CountCodePoints(std::string_view text) {
  std::size_t count = 0;
  const bool valid = ForEachCodePoint(text, [&](UChar32) {
    ++count;
    return true;
  });
  return valid ? std::optional(count) : std::nullopt;
}

// Nothing for text that is not UTF-8.
std::optional<std::string> Fold(std::string_view text) {
  // ICU would replace what is malformed, and make equal what was not.
  if (!CountCodePoints(text)) return std::nullopt;
  UErrorCode status = U_ZERO_ERROR;
  const icu::Normalizer2* const normalizer = icu::Normalizer2::getNFKCCasefoldInstance(status);
  if (U_FAILURE(status)) return std::nullopt;
  std::string folded;
  icu::StringByteSink<std::string> sink(&folded);
  normalizer->normalizeUTF8(0, icu::StringPiece(text.data(), static_cast<std::int32_t>(text.size())), sink, nullptr,
                            status);
  return U_SUCCESS(status) ? std::optional(std::move(folded)) : std::nullopt;
}

std::string_view Trim(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n\v\f";
  const std::size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpace) - begin + 1);
}

Error EmailTooLong() {
  return InvalidArgument("email: at most " + std::to_string(kEmailBytesMax) + " bytes are allowed");
}

}  // namespace

Result<std::string> NormalizeEmail(std::string_view email) {
  email = Trim(email);
  if (email.size() > kEmailBytesMax) return EmailTooLong();
  const auto folded = Fold(email);
  if (!folded) return InvalidArgument("email: is not valid UTF-8");
  if (folded->size() > kEmailBytesMax) return EmailTooLong();
  const bool printable =
      ForEachCodePoint(*folded, [](UChar32 c) { return u_isUWhiteSpace(c) == 0 && u_charType(c) != U_CONTROL_CHAR; });
  if (!printable) return InvalidArgument("email: white space and control characters are not allowed");
  const std::size_t at = folded->find('@');
  if (at == std::string::npos || at == 0 || at + 1 == folded->size() || folded->find('@', at + 1) != std::string::npos)
    return InvalidArgument("email: an address of the form name@domain is needed");
  return *folded;
}

Result<std::string> NormalizeUsername(std::string_view username) {
  const auto malformed = [] {
    return InvalidArgument("username: " + std::to_string(kUsernameCharactersMin) + " to " +
                           std::to_string(kUsernameCharactersMax) + " characters of a-z, 0-9, '_' and '.' are needed");
  };
  // Folding may shorten a name, but never from here.
  constexpr std::size_t kUtf8BytesMax = 4;
  if (username.size() > kUsernameCharactersMax * kUtf8BytesMax) return malformed();
  const auto folded = Fold(username);
  if (!folded) return InvalidArgument("username: is not valid UTF-8");
  const bool allowed = std::ranges::all_of(
      *folded, [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '.'; });
  if (!allowed || folded->size() < kUsernameCharactersMin || folded->size() > kUsernameCharactersMax)
    return malformed();
  if (folded->front() == '.' || folded->back() == '.')
    return InvalidArgument("username: it must not begin or end with '.'");
  return *folded;
}

Result<void> CheckPassword(const Secret<>& password, std::string_view email, std::string_view username) {
  const std::string& text = password.Expose();
  if (text.size() > kPasswordBytesMax)
    return InvalidArgument("password: at most " + std::to_string(kPasswordBytesMax) + " bytes are allowed");
  const auto characters = CountCodePoints(text);
  if (!characters) return InvalidArgument("password: is not valid UTF-8");
  if (*characters < kPasswordCharactersMin)
    return InvalidArgument("password: at least " + std::to_string(kPasswordCharactersMin) + " characters are needed");
  auto folded = Fold(text);
  const bool repeats = folded && (*folded == username || *folded == email);
  if (folded) WipeMemory(folded->data(), folded->size());
  if (repeats) return InvalidArgument("password: it must not be the username or the email address");
  return Ok();
}

}  // namespace nova::identity
