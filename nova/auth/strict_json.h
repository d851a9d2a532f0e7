// JSON for security decisions. A member that stands twice is read differently by different parsers, which is how a
// token comes to mean one thing to the checker and another to the user: here it is an error, at every depth and
// however its name is escaped.
#pragma once

#include <boost/json/object.hpp>
#include <cstddef>
#include <string_view>

#include "nova/base/result.h"

namespace nova::auth {

inline constexpr std::size_t kJsonDepthMax = 8;

// One object and nothing after it. Errors: INVALID_ARGUMENT; the message holds nothing of the text.
Result<boost::json::object> ParseStrictObject(std::string_view text);

}  // namespace nova::auth
