// Settings: what a user has chosen about the service, and the rules for it. Nobody but the user reads them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "nova/base/clock.h"
#include "nova/base/result.h"

namespace nova::user {

enum class Visibility { kPublic, kPrivate };
enum class Audience { kEveryone, kFollowers, kNobody };

// Its defaults are those of a new user.
struct Settings {
  std::string language = "en";    // a BCP 47 tag
  std::string time_zone = "UTC";  // a name of the IANA database
  Visibility profile_visibility = Visibility::kPublic;
  bool discoverable = true;
  Audience allow_messages_from = Audience::kEveryone;
  bool email_notifications = true;
  bool push_notifications = true;
  std::int64_t version = 1;
  WallTime updated_at;

  friend bool operator==(const Settings&, const Settings&) = default;
};

inline constexpr std::size_t kLanguageBytesMax = 35;  // what RFC 5646 asks everybody to have room for
inline constexpr std::size_t kTimeZoneBytesMax = 64;

// A field without a value stays as it is.
struct SettingsUpdate {
  std::int64_t expected_version = 0;
  std::optional<std::string> language;
  std::optional<std::string> time_zone;
  std::optional<Visibility> profile_visibility;
  std::optional<bool> discoverable;
  std::optional<Audience> allow_messages_from;
  std::optional<bool> email_notifications;
  std::optional<bool> push_notifications;
};

// Language and time zone are held against their form alone: which of them exist changes faster than this program.
// Errors: INVALID_ARGUMENT in one line that begins with the name of the request's field; for an update of nothing too.
Result<void> Check(const SettingsUpdate& update);

// Precondition: checked.
void Apply(const SettingsUpdate& update, Settings& settings);

}  // namespace nova::user
