#include "nova/runtime/strand.h"

#include <atomic>
#include <boost/asio/dispatch.hpp>
#include <boost/asio/post.hpp>
#include <future>
#include <gtest/gtest.h>
#include <thread>
#include <vector>

#include "nova/runtime/runtime.h"

namespace nova::runtime {
namespace {

TEST(StrandTest, RunHereRunsOnTheCallingThreadAndDrainsWhatItPosted) {
  Runtime runtime;
  const Strand strand = runtime.NewStrand();
  const auto here = std::this_thread::get_id();
  std::vector<int> order;
  strand.RunHere([&] {
    asio::post(strand, [&] {
      EXPECT_EQ(std::this_thread::get_id(), here);
      order.push_back(2);
    });
    order.push_back(1);
    EXPECT_TRUE(strand.RunningHere());
  });
  EXPECT_EQ(order, (std::vector{1, 2}));
  EXPECT_FALSE(strand.RunningHere());
}

TEST(StrandTest, DispatchInsideTheStrandRunsAtOnce) {
  Runtime runtime;
  const Strand strand = runtime.NewStrand();
  bool nested = false;
  strand.RunHere([&] {
    asio::dispatch(strand, [&] { nested = true; });
    EXPECT_TRUE(nested);
  });
}

TEST(StrandTest, WorkFromManyThreadsNeverOverlapsAndIsNeverLost) {
  Runtime runtime({.threads = 4});
  const Strand strand = runtime.NewStrand();
  constexpr int kThreads = 4;
  constexpr int kEach = 5'000;
  int unguarded = 0;  // ThreadSanitizer watches this one
  std::atomic<bool> inside = false;
  std::atomic<int> overlaps = 0;
  const auto work = [&] {
    if (inside.exchange(true)) ++overlaps;
    ++unguarded;
    inside = false;
  };
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kEach; ++i) {
        if ((i + t) % 3 == 0)
          strand.RunHere(work);
        else if ((i + t) % 3 == 1)
          asio::post(strand, work);
        else
          asio::dispatch(strand, work);
      }
    });
  }
  for (auto& thread : threads) thread.join();
  std::promise<int> total;
  asio::post(strand, [&] { total.set_value(unguarded); });
  EXPECT_EQ(total.get_future().get(), kThreads * kEach);
  EXPECT_EQ(overlaps, 0);
}

TEST(StrandTest, OrderOfOnePosterIsKept) {
  Runtime runtime({.threads = 4});
  const Strand strand = runtime.NewStrand();
  std::vector<int> seen;
  std::promise<void> done;
  for (int i = 0; i < 1'000; ++i) asio::post(strand, [&, i] { seen.push_back(i); });
  asio::post(strand, [&] { done.set_value(); });
  done.get_future().wait();
  ASSERT_EQ(seen.size(), 1'000U);
  for (int i = 0; i < 1'000; ++i) EXPECT_EQ(seen[static_cast<std::size_t>(i)], i);
}

TEST(StrandTest, WorkThatIsNeverRunIsLetGo) {
  const auto witness = std::make_shared<int>(0);
  {
    asio::io_context io;  // nobody runs it
    const Strand strand(io);
    // The work holds the strand, which holds the work.
    asio::post(strand, [strand, witness] {});
    asio::post(strand, [strand, witness] {});
    EXPECT_EQ(witness.use_count(), 3);
  }
  EXPECT_EQ(witness.use_count(), 1);
}

}  // namespace
}  // namespace nova::runtime
