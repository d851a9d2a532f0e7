// What keeps secrets out of the log when they arrive as plain text. A second line of defence: the first is Secret<T>.
#pragma once

#include <string>
#include <string_view>

namespace nova::telemetry {

inline constexpr std::string_view kRedacted = "[redacted]";

// True for keys whose value is never shown: those that contain password, token, secret, authorization, cookie, ...; and
// email, phone.
bool IsSecretKey(std::string_view key);

// Replaces by kRedacted, in time linear in the text:
//   secrets        JSON web tokens, what follows "Bearer ", whole headers such as Authorization and Cookie, the
//   password of
//                  a URL (scheme://user:password@host), values after a secret key (password=..., "token": "...",
//                  <SecretAccessKey>...), private keys, argon2 hashes, signatures of AWS, access keys of AWS but for
//                  their last four characters, and what is as long and as random as a token
//   personal data  email addresses, telephone numbers with their country code, IP addresses other than loopback
// Everything else stays as it is.
std::string Redact(std::string_view text);

// Whether IP addresses are shown; from the start they are not.
void ShowAddresses(bool show);

}  // namespace nova::telemetry
