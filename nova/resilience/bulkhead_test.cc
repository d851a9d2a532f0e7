#include "nova/resilience/bulkhead.h"

#include <algorithm>
#include <atomic>
#include <gtest/gtest.h>
#include <random>
#include <thread>
#include <vector>

#include "tests/seed.h"

namespace nova::resilience {
namespace {

class BulkheadTest : public ::testing::Test {
 protected:
  void ExpectPermits(const Bulkhead& bulkhead, int in_use, int orphaned) {
    EXPECT_EQ(bulkhead.in_use(), in_use);
    EXPECT_EQ(bulkhead.orphaned(), orphaned);
    EXPECT_EQ(in_use_.Value(), in_use);
    EXPECT_EQ(orphaned_.Value(), orphaned);
  }

  prometheus::Gauge in_use_;
  prometheus::Gauge orphaned_;
};

TEST_F(BulkheadTest, HoldsAsManyAsItsLimitAndRefusesMore) {
  Bulkhead bulkhead(2, in_use_, orphaned_);
  auto first = bulkhead.TryAcquire();
  auto second = bulkhead.TryAcquire();
  ASSERT_TRUE(first && second);
  EXPECT_FALSE(bulkhead.TryAcquire());
  ExpectPermits(bulkhead, 2, 0);
  first.reset();
  EXPECT_TRUE(bulkhead.TryAcquire());
  second.reset();
  ExpectPermits(bulkhead, 0, 0);
}

TEST_F(BulkheadTest, AnOrphanKeepsItsPlaceUntilTheWorkHasEnded) {
  Bulkhead bulkhead(1, in_use_, orphaned_);
  auto permit = bulkhead.TryAcquire();
  permit->Orphan();
  permit->Orphan();  // is one once
  ExpectPermits(bulkhead, 1, 1);
  EXPECT_FALSE(bulkhead.TryAcquire());
  permit.reset();
  ExpectPermits(bulkhead, 0, 0);
  EXPECT_TRUE(bulkhead.TryAcquire());
}

TEST_F(BulkheadTest, APermitMovesWithItsPlaceAndItsState) {
  Bulkhead bulkhead(2, in_use_, orphaned_);
  Bulkhead::Permit none;
  EXPECT_FALSE(none);
  none.Orphan();  // of nothing
  Bulkhead::Permit a = *bulkhead.TryAcquire();
  a.Orphan();
  Bulkhead::Permit b = std::move(a);
  EXPECT_FALSE(a);  // NOLINT(bugprone-use-after-move)
  EXPECT_TRUE(b);
  a.Orphan();
  ExpectPermits(bulkhead, 1, 1);
  b = *bulkhead.TryAcquire();  // the orphan ends
  ExpectPermits(bulkhead, 1, 0);
  Bulkhead::Permit& same = b;
  b = std::move(same);
  ExpectPermits(bulkhead, 1, 0);
  b.Orphan();
  ExpectPermits(bulkhead, 1, 1);
  b = Bulkhead::Permit();
  ExpectPermits(bulkhead, 0, 0);
}

TEST_F(BulkheadTest, CountsWhatIsOutUnderAnySchedule) {
  std::mt19937 random(tests::TestSeed());
  for (int schedule = 0; schedule < 500; ++schedule) {
    const int max = 1 + static_cast<int>(random() % 8);
    Bulkhead bulkhead(max, in_use_, orphaned_);
    std::vector<std::pair<Bulkhead::Permit, bool>> out;  // and whether it is an orphan
    for (int step = 0; step < 200; ++step) {
      const auto at = out.empty() ? 0 : random() % out.size();
      switch (random() % 4) {
        case 0:
        case 1: {
          auto permit = bulkhead.TryAcquire();
          ASSERT_EQ(permit.has_value(), static_cast<int>(out.size()) < max);
          if (permit) out.emplace_back(*std::move(permit), false);
          break;
        }
        case 2:
          if (out.empty()) break;
          out[at].first.Orphan();
          out[at].second = true;
          break;
        default:
          if (!out.empty()) out.erase(out.begin() + static_cast<std::ptrdiff_t>(at));
      }
      const auto orphans = std::ranges::count_if(out, [](const auto& permit) { return permit.second; });
      ASSERT_NO_FATAL_FAILURE(ExpectPermits(bulkhead, static_cast<int>(out.size()), static_cast<int>(orphans)));
    }
    out.clear();
    ExpectPermits(bulkhead, 0, 0);
  }
}

TEST_F(BulkheadTest, ThreadsNeverHoldMoreThanItsLimit) {
  constexpr int kMax = 3;
  Bulkhead bulkhead(kMax, in_use_, orphaned_);
  std::atomic<int> inside = 0;
  std::atomic<int> admitted = 0;
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 6; ++i) {
      threads.emplace_back([&] {
        for (int call = 0; call < 10'000; ++call) {
          auto permit = bulkhead.TryAcquire();
          if (!permit) continue;
          EXPECT_LE(inside.fetch_add(1) + 1, kMax);
          admitted.fetch_add(1, std::memory_order_relaxed);
          if (call % 3 == 0) permit->Orphan();
          if (call % 7 == 0) std::this_thread::yield();
          inside.fetch_sub(1);
        }
      });
    }
  }
  EXPECT_GT(admitted.load(), 0);
  ExpectPermits(bulkhead, 0, 0);
}

}  // namespace
}  // namespace nova::resilience
