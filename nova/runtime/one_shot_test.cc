#include "nova/runtime/one_shot.h"

#include <atomic>
#include <gtest/gtest.h>
#include <random>
#include <thread>

#include "nova/runtime/runtime.h"

namespace nova::runtime {
namespace {

using std::chrono::hours;
using std::chrono::microseconds;
using std::chrono::milliseconds;

TEST(OneShotTest, YieldsAValueSetBeforeTheWait) {
  Runtime runtime;
  const auto result = runtime.RunBlocking<int>(hours(1), [](Call& call) -> Task<int> {
    const OneShot<int> shot;
    EXPECT_TRUE(shot.TrySet(7));
    EXPECT_FALSE(shot.TrySet(8));
    co_return co_await shot.Wait(call);
  });
  EXPECT_EQ(*result, 7);
}

TEST(OneShotTest, TheLoserOfTheRaceWithADeadlineKeepsItsValue) {
  Runtime runtime;
  const OneShot<int> shot;
  const auto result =
      runtime.RunBlocking<int>(milliseconds(1), [&](Call& call) -> Task<int> { co_return co_await shot.Wait(call); });
  EXPECT_EQ(result.error().code(), Code::kDeadlineExceeded);
  EXPECT_FALSE(shot.TrySet(7));
}

TEST(OneShotTest, EveryRaceHasExactlyOneWinner) {
  Runtime runtime({.threads = 2});
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  for (int i = 0; i < 500; ++i) {
    const OneShot<int> shot;
    std::atomic<int> winners = 0;
    const auto limit = microseconds(random() % 300);
    std::thread setter([&] {
      if (shot.TrySet(1)) ++winners;
    });
    const auto result =
        runtime.RunBlocking<int>(limit, [&](Call& call) -> Task<int> { co_return co_await shot.Wait(call); });
    setter.join();
    EXPECT_EQ(winners, result.ok() ? 1 : 0);
  }
}

}  // namespace
}  // namespace nova::runtime
