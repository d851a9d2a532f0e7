// JSON for security decisions. A member that stands twice is read differently by different parsers, which is how a
// token comes to mean one thing to the checker and another to the user: here it is an error, at every depth and
// however its name is escaped.
#pragma once

#include <boost/json/object.hpp>
#include <boost/json/storage_ptr.hpp>
#include <cstddef>
#include <string_view>

#include "nova/base/result.h"

namespace nova::auth {

inline constexpr std::size_t kJsonDepthMax = 8;

// One object and nothing after it. Errors: INVALID_ARGUMENT; the message holds nothing of the text.
Result<boost::json::object> ParseStrictObject(std::string_view text, boost::json::storage_ptr storage = {});

// For values that hold secrets: memory that is wiped when it is given back, what the parser needs in between included.
boost::json::storage_ptr WipedStorage();

}  // namespace nova::auth
