#include "nova/runtime/scope.h"

#include <atomic>
#include <future>
#include <gtest/gtest.h>

namespace nova::runtime {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::seconds;

TEST(ScopeTest, StopCancelsAndJoins) {
  Runtime runtime;
  Scope scope(runtime);
  std::atomic<int> ended = 0;
  for (int i = 0; i < 100; ++i) {
    scope.Spawn("sleeper", [&](Call& call) -> Task<void> {
      const auto result = co_await Sleep(call, hours(1));
      ++ended;
      co_return result;
    });
  }
  EXPECT_TRUE(scope.Stop(seconds(10)).ok());
  EXPECT_EQ(ended, 100);
}

TEST(ScopeTest, StopNamesATaskThatWillNotEnd) {
  Runtime runtime;
  Scope scope(runtime);
  std::promise<void> let_go;
  auto wait = let_go.get_future().share();
  std::promise<void> started;
  scope.Spawn("stubborn", [&](Call&) -> Task<void> {
    started.set_value();
    wait.wait();
    co_return Ok();
  });
  started.get_future().wait();
  const auto stopped = scope.Stop(milliseconds(1));
  EXPECT_EQ(stopped.error().code(), Code::kDeadlineExceeded);
  EXPECT_NE(stopped.error().detail().find("stubborn"), std::string::npos);
  let_go.set_value();
  EXPECT_TRUE(scope.Stop(seconds(10)).ok());
}

TEST(ScopeTest, ReportsErrorsButNotCancellations) {
  Runtime runtime;
  Scope scope(runtime);
  std::promise<std::string> seen;
  std::atomic<int> reports = 0;
  const auto report = [&](const std::string& name, const Error& error) {
    if (++reports == 1) seen.set_value(name + " " + error.message());
  };
  scope.Spawn("waiter", [](Call& call) -> Task<void> { co_return co_await Sleep(call, hours(1)); }, report);
  scope.Spawn("broken", [](Call&) -> Task<void> { co_return Internal("oops"); }, report);
  EXPECT_EQ(seen.get_future().get(), "broken oops");
  EXPECT_TRUE(scope.Stop(seconds(10)).ok());
  EXPECT_EQ(reports, 1);
}

TEST(ScopeTest, NothingStartsAfterStop) {
  Runtime runtime;
  Scope scope(runtime);
  EXPECT_TRUE(scope.Stop(seconds(1)).ok());
  std::atomic<bool> ran = false;
  scope.Spawn("late", [&](Call&) -> Task<void> {
    ran = true;
    co_return Ok();
  });
  EXPECT_TRUE(scope.Stop(seconds(1)).ok());
  EXPECT_FALSE(ran);
}

}  // namespace
}  // namespace nova::runtime
