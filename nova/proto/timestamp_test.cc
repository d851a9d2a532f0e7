#include "nova/proto/timestamp.h"

#include <gtest/gtest.h>
#include <limits>

namespace nova::proto {
namespace {

using namespace std::chrono_literals;

google::protobuf::Timestamp Of(std::int64_t seconds, std::int32_t nanos) {
  google::protobuf::Timestamp timestamp;
  timestamp.set_seconds(seconds);
  timestamp.set_nanos(nanos);
  return timestamp;
}

TEST(Timestamp, IsExactBothWays) {
  for (const auto& [time, seconds, nanos] :
       {std::tuple(WallTime(0s), 0, 0), std::tuple(WallTime(1ns), 0, 1),
        std::tuple(WallTime(1'700'000'000s + 987'654'321ns), 1'700'000'000, 987'654'321),
        // Nanoseconds count forward, also before the epoch.
        std::tuple(WallTime(-1ns), -1, 999'999'999), std::tuple(WallTime(-1s), -1, 0)}) {
    const auto timestamp = ToTimestamp(time);
    EXPECT_EQ(timestamp.seconds(), seconds);
    EXPECT_EQ(timestamp.nanos(), nanos);
    const auto back = FromTimestamp(timestamp);
    ASSERT_TRUE(back) << back.error().ToString();
    EXPECT_EQ(*back, time);
  }
}

TEST(Timestamp, WhatTheClockCannotHoldIsRefused) {
  constexpr std::int64_t kFirst = -9'223'372'036;
  constexpr std::int64_t kLast = 9'223'372'035;
  EXPECT_EQ(*FromTimestamp(Of(kFirst, 0)), WallTime(std::chrono::seconds(kFirst)));
  EXPECT_EQ(*FromTimestamp(Of(kLast, 999'999'999)), WallTime(std::chrono::seconds(kLast) + 999'999'999ns));
  for (const std::int64_t seconds :
       {kFirst - 1, kLast + 1, std::numeric_limits<std::int64_t>::min(), std::numeric_limits<std::int64_t>::max()}) {
    const auto refused = FromTimestamp(Of(seconds, 0));
    ASSERT_FALSE(refused) << seconds;
    EXPECT_EQ(refused.error().code(), Code::kInvalidArgument);
  }
}

TEST(Timestamp, NanosecondsAreLessThanASecond) {
  for (const std::int32_t nanos :
       {-1, 1'000'000'000, std::numeric_limits<std::int32_t>::min(), std::numeric_limits<std::int32_t>::max()}) {
    const auto refused = FromTimestamp(Of(0, nanos));
    ASSERT_FALSE(refused) << nanos;
    EXPECT_EQ(refused.error().code(), Code::kInvalidArgument);
  }
}

}  // namespace
}  // namespace nova::proto
