#include "services/user/settings.h"

#include <algorithm>
#include <string_view>

namespace nova::user {
namespace {

bool IsLetter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool IsDigit(char c) { return c >= '0' && c <= '9'; }

// True if `text`, split at `separator`, has parts of which each is accepted by `is_part(part, index)`.
template <class F>
bool IsListOf(std::string_view text, char separator, F is_part) {
  for (std::size_t index = 0;; ++index) {
    const std::size_t end = text.find(separator);
    if (!is_part(text.substr(0, end), index)) return false;
    if (end == std::string_view::npos) return true;
    text.remove_prefix(end + 1);
  }
}

// "de", "pt-BR", "zh-Hant-TW"
bool IsLanguageTag(std::string_view text) {
  return text.size() <= kLanguageBytesMax && IsListOf(text, '-', [](std::string_view part, std::size_t index) {
           if (index == 0) return part.size() >= 2 && part.size() <= 3 && std::ranges::all_of(part, IsLetter);
           return !part.empty() && part.size() <= 8 &&
                  std::ranges::all_of(part, [](char c) { return IsLetter(c) || IsDigit(c); });
         });
}

// "UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires", "Etc/GMT+3"
bool IsTimeZoneName(std::string_view text) {
  return text.size() <= kTimeZoneBytesMax && IsListOf(text, '/', [](std::string_view part, std::size_t) {
           return !part.empty() && IsLetter(part.front()) && std::ranges::all_of(part, [](char c) {
             return IsLetter(c) || IsDigit(c) || c == '_' || c == '-' || c == '+';
           });
         });
}

}  // namespace

Result<void> Check(const SettingsUpdate& update) {
  if (update.expected_version < 1)
    return InvalidArgument("expected_version: the version of the settings that were read is needed");
  if (!update.language && !update.time_zone && !update.profile_visibility && !update.discoverable &&
      !update.allow_messages_from && !update.email_notifications && !update.push_notifications)
    return InvalidArgument("a field to change is needed");
  if (update.language && !IsLanguageTag(*update.language))
    return InvalidArgument("language: a BCP 47 tag, such as en or pt-BR, is needed");
  if (update.time_zone && !IsTimeZoneName(*update.time_zone))
    return InvalidArgument("time_zone: a name of the IANA time zone database, such as Europe/Berlin, is needed");
  return Ok();
}

void Apply(const SettingsUpdate& update, Settings& settings) {
  if (update.language) settings.language = *update.language;
  if (update.time_zone) settings.time_zone = *update.time_zone;
  if (update.profile_visibility) settings.profile_visibility = *update.profile_visibility;
  if (update.discoverable) settings.discoverable = *update.discoverable;
  if (update.allow_messages_from) settings.allow_messages_from = *update.allow_messages_from;
  if (update.email_notifications) settings.email_notifications = *update.email_notifications;
  if (update.push_notifications) settings.push_notifications = *update.push_notifications;
}

}  // namespace nova::user
