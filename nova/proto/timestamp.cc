#include "nova/proto/timestamp.h"

#include <chrono>

namespace nova::proto {

using std::chrono::nanoseconds;
using std::chrono::seconds;

google::protobuf::Timestamp ToTimestamp(WallTime time) {
  const auto whole = std::chrono::floor<seconds>(time);
  google::protobuf::Timestamp timestamp;
  timestamp.set_seconds(whole.time_since_epoch().count());
  timestamp.set_nanos(static_cast<std::int32_t>(nanoseconds(time - whole).count()));
  return timestamp;
}

Result<WallTime> FromTimestamp(const google::protobuf::Timestamp& timestamp) {
  // Whole seconds to which any nanoseconds may be added.
  constexpr auto kMin = std::chrono::ceil<seconds>(WallTime::min().time_since_epoch());
  constexpr auto kMax = std::chrono::floor<seconds>(WallTime::max().time_since_epoch()) - seconds(1);
  const seconds whole(timestamp.seconds());
  const nanoseconds rest(timestamp.nanos());
  if (whole < kMin || whole > kMax) return InvalidArgument("a time is before 1678 or after 2262");
  if (rest < nanoseconds(0) || rest >= seconds(1)) return InvalidArgument("a time's nanoseconds are out of range");
  return WallTime(std::chrono::duration_cast<WallTime::duration>(whole + rest));
}

}  // namespace nova::proto
