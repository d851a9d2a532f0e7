// Calls that end at random moments, many at once on few connections: whatever the moment, nothing leaks, nobody else
// is hit, and a transaction is either done or not.
#include <atomic>
#include <gtest/gtest.h>
#include <iostream>
#include <random>
#include <set>

#include "nova/postgres/pg_test.h"
#include "nova/runtime/scope.h"
#include "tests/seed.h"

namespace nova::postgres {
namespace {

constexpr int kTasks = 16;
constexpr Duration kLength = 4s;

constexpr Statement kNap{"nap", "SELECT pg_sleep($1) /* storm */"};
constexpr Statement kInsert{"insert", "INSERT INTO storm (id) VALUES ($1) /* storm */"};

class StormTest : public PgTest {
 protected:
  struct Log {
    std::mutex mutex;
    std::set<std::int64_t> committed;    // guarded by mutex
    std::set<std::int64_t> rolled_back;  // guarded by mutex
    std::vector<std::string> surprises;  // guarded by mutex
    std::atomic<int> ended = 0;          // calls that were ended early
    std::atomic<int> innocent = 0;       // statements of calls that were not
  };

  // One task: statements, transactions and statements without a limit, in random order.
  Task<void> Rage(Call& call, unsigned seed, int task, Log& log);
};

INSTANTIATE_TEST_SUITE_P(Routes, StormTest, ::testing::Values(Route::kDirect, Route::kPooled), RouteName);

Task<void> StormTest::Rage(Call& call, unsigned seed, int task, Log& log) {
  std::mt19937 random(seed + static_cast<unsigned>(task));
  const auto below = [&](int limit) { return std::uniform_int_distribution<int>(0, limit - 1)(random); };
  const SteadyTime end = Clock::System().Now() + kLength;
  for (std::int64_t i = 0; Clock::System().Now() < end; ++i) {
    const double nap = below(20) / 1000.0;
    const int kind = below(10);
    if (kind == 0) {
      const auto rows = co_await pool_->Query(call, kNap, nap / 4);
      ++log.innocent;
      if (!rows) {
        std::lock_guard lock(log.mutex);
        log.surprises.push_back("innocent: " + rows.error().ToString());
      }
      continue;
    }
    // The call ends by its deadline or by cancellation; some live to finish.
    Call limited(call, below(3) == 0 ? kSoon : std::chrono::microseconds(below(25'000)));
    asio::steady_timer timer(call.strand());
    const auto is_gone = std::make_shared<bool>(false);
    if (kind < 5) {
      timer.expires_after(std::chrono::microseconds(below(20'000)));
      timer.async_wait([&limited, is_gone](const boost::system::error_code& error) {
        if (!error && !*is_gone) limited.Cancel(Cancelled("the client went away"));
      });
    }
    Code code = Code::kOk;
    std::string text;
    if (kind % 2 == 0) {
      const auto rows = co_await pool_->Query(limited, kNap, nap);
      if (!rows) {
        code = rows.error().code();
        text = rows.error().ToString();
      }
    } else {
      const std::int64_t id = task * 1'000'000 + i;
      const auto done = co_await pool_->InTransaction(limited, [&](Transaction& transaction) -> Task<void> {
        NOVA_CO_TRY(co_await transaction.Query(limited, kInsert, id));
        NOVA_CO_TRY(co_await transaction.Query(limited, kNap, nap / 2));
        co_return Ok();
      });
      if (!done) {
        code = done.error().code();
        text = done.error().ToString();
      }
      std::lock_guard lock(log.mutex);
      if (code == Code::kOk) log.committed.insert(id);
      if (code != Code::kOk && code != Code::kUnknown) log.rolled_back.insert(id);
    }
    *is_gone = true;
    timer.cancel();
    if (code == Code::kOk) continue;
    ++log.ended;
    if (code == Code::kCancelled || code == Code::kDeadlineExceeded) continue;
    std::lock_guard lock(log.mutex);
    log.surprises.push_back(text);
  }
  co_return Ok();
}

TEST_P(StormTest, NothingLeaksAndNobodyElseIsHit) {
  const unsigned seed = tests::TestSeed();
  PoolConfig config = Defaults();
  config.size_max = 4;
  config.acquire_timeout = 20s;
  MakePool(config);
  Must("DROP TABLE IF EXISTS storm");
  Must("CREATE TABLE storm (id bigint PRIMARY KEY)");

  Log log;
  runtime::Scope scope(runtime_);
  std::atomic<int> running = kTasks;
  for (int task = 0; task < kTasks; ++task) {
    scope.Spawn("rage", [&, task](Call& call) -> Task<void> {
      NOVA_CO_TRY(co_await Rage(call, seed, task, log));
      --running;
      co_return Ok();
    });
  }
  int most = 0;
  const bool ended = Eventually([&] {
    most = std::max(most, std::stoi(Server()
                                        .Query("SELECT count(*) AS n FROM pg_stat_activity WHERE datname = 'pool' AND "
                                               "state <> 'idle' AND query LIKE '%storm%'")
                                        .Get(0, "n")));
    return running == 0;
  });
  ASSERT_TRUE(ended);
  ASSERT_TRUE(scope.Stop(kSoon).ok());

  EXPECT_TRUE(Eventually([&] { return Connections("in_use") == 0; }));
  EXPECT_EQ(Active("storm"), 0) << "what is given back runs nothing on behalf of a call that has ended";
  EXPECT_TRUE(Eventually([&] { return database_->bulkhead().in_use() == 0; })) << "as many permits in as out";
  EXPECT_EQ(database_->bulkhead().orphaned(), 0);
  EXPECT_EQ(database_->breaker().state(), resilience::Breaker::State::kClosed) << "no caller's end is a fault";
  EXPECT_LE(Connections("idle"), 4);
  EXPECT_EQ(Waiters(), 0);
  EXPECT_TRUE(log.surprises.empty()) << log.surprises.size() << " surprises, the first: " << log.surprises.front();
  EXPECT_GT(log.ended, 50) << "a storm was meant";
  EXPECT_GT(log.innocent, 5);
  EXPECT_GT(log.committed.size(), 5u);
  std::cout << log.ended << " calls ended early, " << log.innocent << " innocent statements, " << log.committed.size()
            << " transactions committed, " << log.rolled_back.size() << " rolled back, at most " << most
            << " backends busy\n";

  std::set<std::int64_t> stored;
  const auto rows = Query("SELECT id FROM storm");
  ASSERT_TRUE(rows.ok());
  for (const Row row : *rows) stored.insert(*row.Get<std::int64_t>(0));
  for (const std::int64_t id : log.committed) EXPECT_TRUE(stored.contains(id)) << id;
  for (const std::int64_t id : log.rolled_back) EXPECT_FALSE(stored.contains(id)) << id;

  // All four connections serve, at the same time.
  std::vector<std::unique_ptr<Started<Rows>>> started;
  for (int i = 0; i < 4; ++i) {
    started.push_back(std::make_unique<Started<Rows>>(
        runtime_, [&](Call& call) { return pool_->Query(call, {"test", "SELECT pg_sleep(0.2)"}); }));
  }
  for (const auto& each : started) {
    const auto served = each->Get();
    EXPECT_TRUE(served.ok()) << served.error().ToString();
  }
  EXPECT_EQ(Connections("idle"), 4);
}

}  // namespace
}  // namespace nova::postgres
