// What keeps secrets out of the log when they arrive as plain text. A second line of defence: the first is Secret<T>.
#pragma once

#include <string>
#include <string_view>

namespace nova::telemetry {

inline constexpr std::string_view kRedacted = "[redacted]";

// True for keys whose value is never shown: those that contain password, token, secret, authorization, cookie, ...
bool IsSecretKey(std::string_view key);

// Replaces by kRedacted: JSON web tokens, what follows "Bearer ", the password of a URL (scheme://user:password@host),
// the value of password=..., and private keys in PEM. Everything else is kept as it is.
std::string Redact(std::string_view text);

}  // namespace nova::telemetry
