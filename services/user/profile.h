// User: a profile, what others may see of it, and the rules for what a person may write into it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "nova/base/clock.h"
#include "nova/base/result.h"
#include "nova/base/uuid.h"

namespace nova::user {

struct User {
  Uuid id;  // of the account
  // In NFKC_Casefold; empty once deleted.
  std::string username;
  std::string display_name;
  std::string bio;
  std::string location;
  std::string website;
  std::string avatar;  // the UUID of a medium; empty: none
  bool is_private = false;
  bool discoverable = true;
  std::optional<WallTime> verified_at;
  std::optional<WallTime> banned_at;
  std::string ban_reason;
  // Set in what is left of a deleted user, of whom nothing else is known but the id.
  std::optional<WallTime> deleted_at;
  std::int64_t version = 1;
  WallTime created_at;
  WallTime updated_at;

  friend bool operator==(const User&, const User&) = default;
};

// What others see of `user`; fields they may not see are empty, version 0 and the times the epoch. Of a banned user
// that is all but id, username and the ban; of a private one it leaves the names, the avatar and the mark of
// verification. Precondition: not deleted.
User ForOthers(const User& user);

inline constexpr std::size_t kUsernameBytesMax = 30;
inline constexpr std::size_t kDisplayNameCharactersMax = 50;
inline constexpr std::size_t kBioCharactersMax = 500;
inline constexpr std::size_t kLocationCharactersMax = 100;
inline constexpr std::size_t kWebsiteCharactersMax = 200;
inline constexpr std::size_t kBanReasonCharactersMax = 500;

// A field without a value stays as it is.
struct ProfileUpdate {
  std::int64_t expected_version = 0;
  std::optional<std::string> display_name;
  std::optional<std::string> bio;
  std::optional<std::string> location;
  std::optional<std::string> website;
  std::optional<std::string> avatar;
};

// The update with its values as they are stored: without white space at both ends, the avatar in lower case. Errors:
// INVALID_ARGUMENT in one line that begins with the name of the request's field; for an update of nothing as well.
Result<ProfileUpdate> Normalize(ProfileUpdate update);

// Precondition: normalised.
void Apply(const ProfileUpdate& update, User& user);

// As Normalize does it for fields. Errors: INVALID_ARGUMENT.
Result<std::string> NormalizeBanReason(std::string_view reason);

// The form in which usernames are stored and compared. Nothing for a text that can be nobody's name.
std::optional<std::string> FoldUsername(std::string_view username);

}  // namespace nova::user
