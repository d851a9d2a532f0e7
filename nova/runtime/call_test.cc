#include "nova/runtime/call.h"

#include <gtest/gtest.h>

#include "nova/runtime/runtime.h"

namespace nova::runtime {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;

TEST(CallTest, SleepEndsWithTheDeadline) {
  Runtime runtime;
  const auto result = runtime.RunBlocking<void>(
      milliseconds(5), [](Call& call) -> Task<void> { co_return co_await Sleep(call, hours(1)); });
  EXPECT_EQ(result.error().code(), Code::kDeadlineExceeded);
}

TEST(CallTest, AChildEndsAtTheEarlierOfItsOwnAndItsParentsDeadline) {
  Runtime runtime;
  const auto result = runtime.RunBlocking<void>(hours(1), [](Call& call) -> Task<void> {
    const Call longer(call, hours(2));
    EXPECT_EQ(longer.deadline(), call.deadline());
    const Call unlimited(call, Duration::max());
    EXPECT_EQ(unlimited.deadline(), call.deadline());
    Call shorter(call, milliseconds(1));
    EXPECT_LT(shorter.deadline(), call.deadline());
    const auto slept = co_await Sleep(shorter, hours(1));
    EXPECT_EQ(slept.error().code(), Code::kDeadlineExceeded);
    EXPECT_TRUE(call.Check().ok());  // the child's end is not the parent's
    co_return Ok();
  });
  EXPECT_TRUE(result.ok());
}

TEST(CallTest, CancellationReachesTheWaitsOfChildrenWithItsReason) {
  Runtime runtime;
  const auto result = runtime.RunBlocking<void>(hours(1), [](Call& call) -> Task<void> {
    Call child(call, hours(1));
    asio::post(call.strand(), [&call] { call.Cancel(Aborted("shoo")); });
    co_return co_await Sleep(child, hours(1));
  });
  EXPECT_EQ(result.error().message(), "shoo");
}

TEST(CallTest, AWaitUnderAnEndedCallEndsAtOnce) {
  Runtime runtime;
  const auto result = runtime.RunBlocking<void>(hours(1), [](Call& call) -> Task<void> {
    call.Cancel(Cancelled("first"));
    call.Cancel(Cancelled("second"));
    EXPECT_EQ(call.Check().error().message(), "first");
    co_return co_await Sleep(call, hours(1));
  });
  EXPECT_EQ(result.error().message(), "first");
}

TEST(CallTest, HooksFireOnceNewestFirstAndMayUnhookOthers) {
  Runtime runtime;
  Call call(runtime.NewStrand());
  std::string order;
  CancelHook first(call, [&](const Error&) { order += "1"; });
  auto second = std::make_unique<CancelHook>(call, [&](const Error&) { order += "2"; });
  CancelHook third(call, [&](const Error&) {
    order += "3";
    second.reset();
  });
  call.Cancel(Cancelled("end"));
  call.Cancel(Cancelled("again"));
  EXPECT_EQ(order, "31");
  CancelHook late(call, [&](const Error&) { order += "L"; });
  EXPECT_EQ(order, "31L");
}

TEST(CallTest, AChildKnowsWhoseRequestItServes) {
  Runtime runtime;
  RetryAllowance retries{.left = 2};
  Call request(runtime.NewStrand(), {.peer = "gateway", .retries = &retries});
  Call child(request, hours(1));
  Call grandchild(child, hours(1));
  EXPECT_EQ(&grandchild.peer(), &request.peer());
  EXPECT_EQ(grandchild.peer(), "gateway");
  EXPECT_EQ(grandchild.retries(), &retries);
  EXPECT_EQ(Call(runtime.NewStrand()).retries(), nullptr);
}

TEST(CallTest, AGrandchildThatWaitsEndsWithTheDeadlineOfTheOldest) {
  Runtime runtime;
  const auto result = runtime.RunBlocking<void>(milliseconds(5), [](Call& call) -> Task<void> {
    Call child(call, hours(1));
    Call grandchild(child, hours(1));
    const auto slept = co_await Sleep(grandchild, hours(1));
    EXPECT_FALSE(call.Check());
    co_return slept;
  });
  EXPECT_EQ(result.error().code(), Code::kDeadlineExceeded);
}

TEST(CallTest, RemainingIsNeverNegative) {
  Runtime runtime;
  const Call past(runtime.NewStrand(), {.deadline = Clock::System().Now() - hours(1)});
  EXPECT_EQ(past.Remaining(), Duration::zero());
  EXPECT_EQ(past.Check().error().code(), Code::kDeadlineExceeded);
  const Call unlimited(runtime.NewStrand());
  EXPECT_EQ(unlimited.Remaining(), Duration::max());
}

}  // namespace
}  // namespace nova::runtime
