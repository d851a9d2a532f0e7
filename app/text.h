// What verbs print for people.
#pragma once

#include <string>
#include <vector>

#include "nova/base/clock.h"

namespace nova::app {

// Aligned columns, each line with its end; the first row is the heading. Precondition: all rows are of one length.
std::string Table(const std::vector<std::vector<std::string>>& rows);

// Rounded down to one unit: "89 d", "5 h", "12 min", "40 s". Precondition: not negative.
std::string SpanText(WallTime::duration span);

}  // namespace nova::app
