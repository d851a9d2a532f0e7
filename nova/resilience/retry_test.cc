#include "nova/resilience/retry.h"

#include <algorithm>
#include <atomic>
#include <gtest/gtest.h>
#include <random>
#include <thread>
#include <vector>

#include "tests/seed.h"

namespace nova::resilience {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

TEST(RetryTest, OnlyFailuresThatAnotherTryCanMendAreRetryable) {
  const std::optional<PushBack> silent;
  const std::optional<PushBack> wait = PushBack{.wait = milliseconds(10)};
  const std::optional<PushBack> never = PushBack{};
  for (int code = 1; code < kCodeCount; ++code) {
    const Error error(static_cast<Code>(code), "of a test");
    EXPECT_EQ(IsRetryable(error, silent), error.code() == Code::kUnavailable) << CodeName(error.code());
    EXPECT_EQ(IsRetryable(error, wait), error.code() == Code::kUnavailable || error.code() == Code::kResourceExhausted)
        << CodeName(error.code());
  }
  // Told not to come back: RESOURCE_EXHAUSTED stays what it is. (Whether UNAVAILABLE is tried again then is for the
  // pipeline, which counts the refusal.)
  EXPECT_FALSE(IsRetryable(ResourceExhausted("of a test"), never));
}

TEST(BackoffTest, IsAnythingFromZeroToItsLimitWhichDoublesUpToTheMost) {
  const RetryConfig config{.backoff = milliseconds(50), .backoff_max = milliseconds(300)};
  std::mt19937_64 random(tests::TestSeed());
  const std::vector<Duration> limits = {milliseconds(50),  milliseconds(100), milliseconds(200),
                                        milliseconds(300), milliseconds(300), milliseconds(300)};
  for (int tries = 1; tries <= static_cast<int>(limits.size()); ++tries) {
    const Duration limit = limits[static_cast<std::size_t>(tries) - 1];
    std::vector<Duration> pauses;
    for (int i = 0; i < 4'000; ++i) pauses.push_back(Backoff(config, tries, random()));
    const auto [least, most] = std::ranges::minmax(pauses);
    EXPECT_GE(least, Duration::zero());
    EXPECT_LE(most, limit);
    // Full jitter: every tenth of the range has about its tenth.
    std::array<int, 10> tenths{};
    for (const Duration pause : pauses)
      ++tenths[static_cast<std::size_t>(std::min<Duration::rep>(pause.count() * 10 / limit.count(), 9))];
    for (const int tenth : tenths) {
      EXPECT_GT(tenth, 280);
      EXPECT_LT(tenth, 520);
    }
  }
}

TEST(BackoffTest, ReachesBothEnds) {
  const RetryConfig config{.backoff = milliseconds(50), .backoff_max = seconds(1)};
  const auto limit = static_cast<std::uint64_t>(Duration(milliseconds(50)).count());
  EXPECT_EQ(Backoff(config, 1, 0), Duration::zero());
  EXPECT_EQ(Backoff(config, 1, limit), milliseconds(50));
  EXPECT_EQ(Backoff(config, 1, limit + 1), Duration::zero());
}

TEST(BackoffTest, DoesNotOverflowAfterManyTriesOrWithExtremeFigures) {
  const RetryConfig config{.backoff = milliseconds(50), .backoff_max = std::chrono::hours(24)};
  for (const int tries : {60, 100, 1'000'000}) {
    const Duration pause = Backoff(config, tries, ~std::uint64_t{0});
    EXPECT_GE(pause, Duration::zero());
    EXPECT_LE(pause, std::chrono::hours(24));
  }
  EXPECT_EQ(Backoff({.backoff = milliseconds(0), .backoff_max = seconds(1)}, 50, 12345), Duration::zero());
  EXPECT_LE(Backoff({.backoff = seconds(5), .backoff_max = seconds(1)}, 1, ~std::uint64_t{0}), seconds(1));
}

TEST(RetryBudgetTest, BeginsEmptyAndFiveCallsPayForOneRetry) {
  RetryBudget budget(0.2);
  EXPECT_FALSE(budget.TryWithdraw());
  for (int i = 0; i < 4; ++i) budget.Deposit();
  EXPECT_FALSE(budget.TryWithdraw());
  budget.Deposit();
  EXPECT_TRUE(budget.TryWithdraw());
  EXPECT_FALSE(budget.TryWithdraw());
  EXPECT_EQ(budget.tokens(), 0);
}

TEST(RetryBudgetTest, KeepsTenTokensAtMost) {
  RetryBudget budget(0.2);
  for (int i = 0; i < 1'000; ++i) budget.Deposit();
  EXPECT_EQ(budget.tokens(), RetryBudget::kTokensMax);
  int retries = 0;
  while (budget.TryWithdraw()) ++retries;
  EXPECT_EQ(retries, RetryBudget::kTokensMax);
}

TEST(RetryBudgetTest, ARatioOfZeroAllowsNone) {
  RetryBudget budget(0);
  for (int i = 0; i < 1'000; ++i) budget.Deposit();
  EXPECT_FALSE(budget.TryWithdraw());
}

// Shares that have no exact double pay in what they say, too.
TEST(RetryBudgetTest, PaysInItsRatioToTheMillionth) {
  for (int millionths = 1; millionths <= 1'000'000; millionths += 7) {
    RetryBudget budget(millionths / 1e6);
    budget.Deposit();
    ASSERT_EQ(budget.tokens(), millionths / 1e6);
  }
}

TEST(RetryBudgetTest, KeepsItsPromisesUnderAnySchedule) {
  std::mt19937 random(tests::TestSeed());
  for (int schedule = 0; schedule < 300; ++schedule) {
    RetryBudget budget(0.2);
    std::vector<int> calls{0};    // before each step
    std::vector<int> retries{0};  // likewise
    const auto keen = random() % 10;
    for (int step = 0; step < 400; ++step) {
      int called = 0;
      int retried = 0;
      if (random() % 10 >= keen) {
        budget.Deposit();
        called = 1;
      } else if (budget.TryWithdraw()) {
        retried = 1;
      }
      calls.push_back(calls.back() + called);
      retries.push_back(retries.back() + retried);
      ASSERT_GE(budget.tokens(), 0);
      ASSERT_LE(budget.tokens(), RetryBudget::kTokensMax);
      // Over the life. Counted in fifths, which are whole.
      ASSERT_LE(retries.back() * 5, calls.back());
    }
    // Over any stretch.
    for (std::size_t from = 0; from < calls.size(); from += 7) {
      for (std::size_t to = from; to < calls.size(); to += 3)
        ASSERT_LE((retries[to] - retries[from]) * 5, calls[to] - calls[from] + 5 * RetryBudget::kTokensMax);
    }
  }
}

TEST(RetryBudgetTest, ThreadsNeitherLoseNorMakeTokens) {
  RetryBudget budget(0.2);
  std::atomic<int> retries = 0;
  std::atomic<bool> negative = false;
  constexpr int kThreads = 4;
  constexpr int kCalls = 20'000;
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < kThreads; ++i) {
      threads.emplace_back([&] {
        for (int call = 0; call < kCalls; ++call) {
          budget.Deposit();
          if (budget.TryWithdraw()) retries.fetch_add(1, std::memory_order_relaxed);
          if (budget.tokens() < 0) negative = true;
        }
      });
    }
  }
  EXPECT_FALSE(negative.load());
  // Whoever calls tries to take at once, so it never fills up, and nothing is lost: all is spent but less than a token.
  EXPECT_DOUBLE_EQ(retries.load() + budget.tokens(), kThreads * kCalls * 0.2);
  EXPECT_LT(budget.tokens(), 1.0);
}

}  // namespace
}  // namespace nova::resilience
