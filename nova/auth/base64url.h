// base64url without padding (RFC 4648 section 5), as JOSE uses it. Decoding accepts exactly what encoding produces,
// so that no token has a second spelling.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace nova::auth {

std::string Base64UrlEncode(std::string_view bytes);

// Nothing for padding, characters outside of the alphabet, impossible lengths, or trailing bits that are not zero.
std::optional<std::string> Base64UrlDecode(std::string_view text);

}  // namespace nova::auth
