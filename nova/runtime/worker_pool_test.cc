#include "nova/runtime/worker_pool.h"

#include <future>
#include <gtest/gtest.h>

#include "nova/runtime/runtime.h"
#include "nova/runtime/scope.h"

namespace nova::runtime {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::seconds;

TEST(WorkerPoolTest, RunsAJobOnItsOwnThreadAndReturnsItsResult) {
  Runtime runtime;
  WorkerPool pool({.name = "test"});
  const auto result = runtime.RunBlocking<bool>(hours(1), [&](Call& call) -> Task<bool> {
    const auto here = std::this_thread::get_id();
    const std::function<Result<bool>()> job = [here]() -> Result<bool> { return std::this_thread::get_id() != here; };
    co_return co_await pool.Run(call, job);
  });
  ASSERT_TRUE(result.ok());
  EXPECT_TRUE(*result);
}

TEST(WorkerPoolTest, RefusesWhatDoesNotFitAndDropsWhatNobodyAwaits) {
  Runtime runtime;
  Scope scope(runtime);
  WorkerPool pool({.name = "test", .threads = 1, .queue_max = 1});
  std::promise<void> release;
  const auto gate = release.get_future().share();
  std::promise<void> running;
  std::promise<void> first_done;
  scope.Spawn("first", [&](Call& call) -> Task<void> {
    const std::function<Result<int>()> job = [&running, gate]() -> Result<int> {
      running.set_value();
      gate.wait();
      return 1;
    };
    NOVA_CO_TRY(co_await pool.Run(call, job));
    first_done.set_value();
    co_return Ok();
  });
  running.get_future().wait();

  std::atomic<bool> ran = false;
  const std::function<Result<int>()> job = [&ran]() -> Result<int> {
    ran = true;
    return 2;
  };
  // Fills the queue, then gives up: its place must be free again.
  const auto gave_up = runtime.RunBlocking<int>(
      milliseconds(1), [&](Call& call) -> Task<int> { co_return co_await pool.Run(call, job); });
  EXPECT_EQ(gave_up.error().code(), Code::kDeadlineExceeded);
  EXPECT_EQ(pool.queued(), 1);

  std::promise<Code> refused;
  std::promise<void> second_queued;
  scope.Spawn("second", [&](Call& call) -> Task<void> {
    Call child(call, hours(1));
    second_queued.set_value();
    NOVA_CO_TRY(co_await pool.Run(child, job));
    co_return Ok();
  });
  second_queued.get_future().wait();
  // The second job has taken the abandoned one's place by the time a third is refused.
  for (bool done = false; !done;) {
    const auto third = runtime.RunBlocking<int>(
        milliseconds(20), [&](Call& call) -> Task<int> { co_return co_await pool.Run(call, job); });
    done = third.error().code() == Code::kResourceExhausted;
  }
  release.set_value();
  first_done.get_future().wait();
  EXPECT_TRUE(scope.Stop(seconds(10)).ok());
}

}  // namespace
}  // namespace nova::runtime
