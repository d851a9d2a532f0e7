#include "nova/runtime/trace.h"

#include <gtest/gtest.h>

namespace nova::runtime {
namespace {

// The example of the specification, section 3.2.
constexpr std::string_view kExample = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

TEST(TraceContextTest, ParsesAndPrintsTheSpecificationsExample) {
  const auto trace = TraceContext::Parse(kExample);
  ASSERT_TRUE(trace.has_value());
  EXPECT_TRUE(trace->sampled);
  EXPECT_EQ(trace->ToTraceparent(), kExample);
  EXPECT_EQ(trace->TraceId(), "4bf92f3577b34da6a3ce929d0e0e4736");
}

TEST(TraceContextTest, AChildKeepsTheTraceAndChangesTheSpan) {
  const TraceContext trace = *TraceContext::Parse(kExample);
  const TraceContext child = trace.Child();
  EXPECT_EQ(child.trace_id, trace.trace_id);
  EXPECT_NE(child.span_id, trace.span_id);
  EXPECT_EQ(child.sampled, trace.sampled);
}

TEST(TraceContextTest, ALaterVersionMayAppendFields) {
  EXPECT_TRUE(TraceContext::Parse("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more").has_value());
  EXPECT_FALSE(TraceContext::Parse("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01more").has_value());
}

TEST(TraceContextTest, RefusesWhatTheSpecificationForbids) {
  for (const std::string_view text : {"", "garbage", "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
                                      "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
                                      "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
                                      "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
                                      "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
                                      "00-4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7-01"})
    EXPECT_FALSE(TraceContext::Parse(text).has_value()) << text;
}

}  // namespace
}  // namespace nova::runtime
