#include "services/identity/account.h"

#include <algorithm>

#include "nova/text/unicode.h"

namespace nova::identity {
namespace {

Error EmailTooLong() {
  return InvalidArgument("email: at most " + std::to_string(kEmailBytesMax) + " bytes are allowed");
}

}  // namespace

Result<std::string> NormalizeEmail(std::string_view email) {
  email = text::Trim(email);
  if (email.size() > kEmailBytesMax) return EmailTooLong();
  const auto folded = text::FoldCase(email);
  if (!folded) return InvalidArgument("email: is not valid UTF-8");
  if (folded->size() > kEmailBytesMax) return EmailTooLong();
  const bool printable = text::ForEachCharacter(
      *folded, [](char32_t character) { return !text::IsWhiteSpace(character) && !text::IsControl(character); });
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
  if (username.size() > kUsernameCharactersMax * text::kUtf8BytesMax) return malformed();
  const auto folded = text::FoldCase(username);
  if (!folded) return InvalidArgument("username: is not valid UTF-8");
  const bool allowed = std::ranges::all_of(
      *folded, [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '.'; });
  if (!allowed || folded->size() < kUsernameCharactersMin || folded->size() > kUsernameCharactersMax)
    return malformed();
  if (folded->front() == '.' || folded->back() == '.')
    return InvalidArgument("username: it must not begin or end with '.'");
  return *folded;
}

Result<void> CheckPassword(const Secret<>& password, std::string_view email, std::string_view username,
                           std::string_view field) {
  const auto invalid = [field](const std::string& why) { return InvalidArgument(std::string(field) + ": " + why); };
  const std::string& plain = password.Expose();
  if (plain.size() > kPasswordBytesMax)
    return invalid("at most " + std::to_string(kPasswordBytesMax) + " bytes are allowed");
  const auto characters = text::CountCharacters(plain);
  if (!characters) return invalid("is not valid UTF-8");
  if (*characters < kPasswordCharactersMin)
    return invalid("at least " + std::to_string(kPasswordCharactersMin) + " characters are needed");
  auto folded = text::FoldCase(plain);
  const bool repeats = folded && (*folded == username || *folded == email);
  if (folded) WipeMemory(folded->data(), folded->size());
  if (repeats) return invalid("it must not be the username or the email address");
  return Ok();
}

Result<std::string> NormalizeDeviceName(std::string_view name) {
  const auto too_long = [] {
    return InvalidArgument("device_name: at most " + std::to_string(kDeviceNameCharactersMax) +
                           " characters are allowed");
  };
  if (name.size() > kDeviceNameCharactersMax * text::kUtf8BytesMax) return too_long();
  std::string clean;
  std::size_t characters = 0;
  bool gap = false;
  const bool valid = text::ForEachCharacter(name, [&](char32_t character) {
    if (text::IsWhiteSpace(character) || text::IsControl(character) || text::IsFormat(character)) {
      gap = true;
      return true;
    }
    if (gap && characters > 0) {
      clean.push_back(' ');
      ++characters;
    }
    gap = false;
    text::Append(character, clean);
    ++characters;
    return true;
  });
  if (!valid) return InvalidArgument("device_name: is not valid UTF-8");
  if (characters > kDeviceNameCharactersMax) return too_long();
  return clean;
}

}  // namespace nova::identity
