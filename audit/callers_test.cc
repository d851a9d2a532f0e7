#include "audit/callers.h"

#include <atomic>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace nova::audit {
namespace {

using runtime::Call;
using runtime::Task;
using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::HasSubstr;

// For what must happen, however slow the machine is.
template <class Condition>
bool Await(runtime::Runtime& runtime, Condition condition) {
  const SteadyTime limit = Clock::System().Now() + seconds(10);
  while (!condition()) {
    if (Clock::System().Now() >= limit) return false;
    (void)runtime.RunBlocking<void>(seconds(1), [](Call& call) { return runtime::Sleep(call, milliseconds(1)); });
  }
  return true;
}

TEST(Callers, CallOverAndOverAndCountWhatCameOfIt) {
  runtime::Runtime runtime;
  std::atomic<int> calls = 0;
  Callers callers(runtime, {.count = 2, .pause = milliseconds(1)}, [&calls](Call&) -> Task<void> {
    if (calls++ % 2 == 0) co_return Ok();
    co_return Unavailable("away");
  });
  ASSERT_TRUE(Await(runtime, [&] { return callers.seen().calls >= 10; }));
  EXPECT_TRUE(callers.last_answer().has_value());
  const Callers::Seen seen = callers.Stop();
  // Of each at most one was under way at the end.
  EXPECT_LE(seen.calls, calls.load());
  EXPECT_GE(seen.calls, calls.load() - 2);
  EXPECT_GE(seen.answered, seen.calls / 2 - 1);
  EXPECT_LE(seen.answered, seen.calls / 2 + 1);
  EXPECT_THAT(seen.first_failure, HasSubstr("away"));
}

TEST(Callers, EndTheirCallsByTheDeadlineAndDropThoseUnderWayAtTheEnd) {
  runtime::Runtime runtime;
  Callers callers(runtime, {.count = 3, .deadline = milliseconds(30), .pause = milliseconds(0)},
                  [](Call& call) { return runtime::Sleep(call, seconds(60)); });
  ASSERT_TRUE(Await(runtime, [&] { return callers.seen().calls >= 3; }));
  const Callers::Seen seen = callers.Stop();
  EXPECT_EQ(seen.answered, 0);
  EXPECT_FALSE(callers.last_answer().has_value());
  EXPECT_GE(seen.slowest, milliseconds(30));

  Callers patient(runtime, {.deadline = seconds(60)}, [](Call& call) { return runtime::Sleep(call, seconds(60)); });
  EXPECT_EQ(patient.Stop().calls, 0);
}

TEST(Timing, TellsHowLongOneCallTook) {
  runtime::Runtime runtime;
  const Timing timing(runtime, milliseconds(50), [](Call& call) { return runtime::Sleep(call, seconds(60)); });
  ASSERT_TRUE(Await(runtime, [&] { return timing.ended().has_value(); }));
  const auto ended = *timing.ended();
  EXPECT_EQ(ended.outcome.error().code(), Code::kDeadlineExceeded);
  EXPECT_GE(ended.took, milliseconds(50));

  // One that nobody waits for ends with its owner.
  const Timing endless(runtime, seconds(60), [](Call& call) { return runtime::Sleep(call, seconds(60)); });
  EXPECT_FALSE(endless.ended().has_value());
}

}  // namespace
}  // namespace nova::audit
