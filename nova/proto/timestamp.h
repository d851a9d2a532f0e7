// Times as protobuf has them.
#pragma once

#include <google/protobuf/timestamp.pb.h>

#include "nova/base/clock.h"
#include "nova/base/result.h"

namespace nova::proto {

// Exact: protobuf's range and precision are no smaller than the clock's.
google::protobuf::Timestamp ToTimestamp(WallTime time);

// For what others sent. Errors: INVALID_ARGUMENT for a time that the clock cannot hold (before 1678 or after 2262), and
// for one that is no time at all because its nanoseconds are not from 0 to 999,999,999.
Result<WallTime> FromTimestamp(const google::protobuf::Timestamp& timestamp);

}  // namespace nova::proto
