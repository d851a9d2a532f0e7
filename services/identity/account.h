// Account: what identity knows about a person, and the rules for what a person may choose.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "nova/base/clock.h"
#include "nova/base/result.h"
#include "nova/base/secret.h"
#include "nova/base/uuid.h"

namespace nova::identity {

struct Account {
  Uuid id;
  std::string email;
  std::string username;
  WallTime created_at;
};

inline constexpr std::size_t kEmailBytesMax = 254;  // the longest path of RFC 5321
inline constexpr std::size_t kUsernameCharactersMin = 3;
inline constexpr std::size_t kUsernameCharactersMax = 30;
inline constexpr std::size_t kPasswordCharactersMin = 10;
inline constexpr std::size_t kPasswordBytesMax = 256;
inline constexpr std::size_t kDeviceNameCharactersMax = 100;

// The functions below return the value in the form in which it is stored and compared: in Unicode's NFKC_Casefold, so
// that "Zoë", "ZOË" and the same with a combining diaeresis are one. Errors: INVALID_ARGUMENT, in one line that begins
// with the name of the request's field.

// Surrounding white space goes; one '@' with something on both sides; no white space and no control characters.
Result<std::string> NormalizeEmail(std::string_view email);

// a-z, 0-9, '_' and '.', the latter not at an end.
Result<std::string> NormalizeUsername(std::string_view username);

// The password itself is used byte for byte as it came. Takes the normalised email address and username, which it must
// not repeat, and the name of the request's field.
Result<void> CheckPassword(const Secret<>& password, std::string_view email, std::string_view username,
                           std::string_view field = "password");

// Not folded: people read it. Runs of white space, control and invisible formatting characters become one space, so
// that a name cannot pretend to be several lines; none is left at the ends.
Result<std::string> NormalizeDeviceName(std::string_view name);

}  // namespace nova::identity
