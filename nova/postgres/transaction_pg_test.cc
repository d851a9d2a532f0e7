#include <atomic>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdexcept>
#include <vector>

#include "nova/postgres/pg_test.h"

namespace nova::postgres {
namespace {

using ::testing::HasSubstr;

constexpr Statement kInsert{"insert", "INSERT INTO entry (id) VALUES ($1)"};

class TransactionTest : public PgTest {
 protected:
  void SetUp() override {
    Must("DROP TABLE IF EXISTS entry");
    Must("CREATE TABLE entry (id bigint PRIMARY KEY)");
  }

  // Runs `body` in a transaction that has inserted one entry.
  template <class T>
  Result<T> AfterInsert(std::function<Task<T>(Call&, Transaction&)> body, Duration timeout = kSoon) {
    return runtime_.RunBlocking<T>(timeout, [&](Call& call) {
      return pool_->InTransaction(call, [&](Transaction& transaction) -> Task<T> {
        NOVA_CO_TRY(co_await transaction.Query(call, kInsert, 1));
        co_return co_await body(call, transaction);
      });
    });
  }

  std::int64_t Entries() { return Value("SELECT count(*) FROM entry"); }
};

INSTANTIATE_TEST_SUITE_P(Routes, TransactionTest, ::testing::Values(Route::kDirect, Route::kPooled), RouteName);

TEST_P(TransactionTest, SuccessCommits) {
  const auto done = AfterInsert<int>([](Call& call, Transaction& transaction) -> Task<int> {
    NOVA_CO_TRY(const Rows rows, co_await transaction.Query(call, {"count", "SELECT count(*) FROM entry"}));
    NOVA_CO_TRY(const auto count, rows[0].Get<std::int64_t>(0));
    co_return static_cast<int>(count);
  });
  ASSERT_TRUE(done.ok()) << done.error().ToString();
  EXPECT_EQ(*done, 1);
  EXPECT_EQ(Entries(), 1);
  EXPECT_EQ(Connections("idle"), 1);
}

TEST_P(TransactionTest, AnErrorOfTheBodyRollsBack) {
  const auto done = AfterInsert<void>([](Call&, Transaction&) -> Task<void> { co_return NotFound("no such account"); });
  EXPECT_EQ(done.error().code(), Code::kNotFound);
  EXPECT_EQ(Entries(), 0);
  EXPECT_EQ(Connections("idle"), 1) << "a confirmed rollback keeps the connection";
}

TEST_P(TransactionTest, AnErrorOfAStatementRollsBack) {
  const auto done = AfterInsert<void>([](Call& call, Transaction& transaction) -> Task<void> {
    NOVA_CO_TRY(co_await transaction.Query(call, kInsert, 1));
    co_return Ok();
  });
  EXPECT_EQ(done.error().code(), Code::kAlreadyExists);
  EXPECT_EQ(Entries(), 0);
  EXPECT_EQ(Connections("idle"), 1);
}

TEST_P(TransactionTest, AnExceptionRollsBackAndGoesOn) {
  const auto done = runtime_.RunBlocking<std::string>(kSoon, [&](Call& call) -> Task<std::string> {
    try {
      NOVA_CO_TRY(co_await pool_->InTransaction(call, [&](Transaction& transaction) -> Task<int> {
        NOVA_CO_TRY(co_await transaction.Query(call, kInsert, 1));
        throw std::logic_error("a bug");
      }));
    } catch (const std::logic_error& error) {
      co_return error.what();
    }
    co_return "no exception";
  });
  EXPECT_EQ(*done, "a bug");
  EXPECT_EQ(Entries(), 0);
  EXPECT_EQ(Connections("idle"), 1);
}

TEST_P(TransactionTest, ASwallowedErrorDoesNotPassForSuccess) {
  const auto done = AfterInsert<void>([](Call& call, Transaction& transaction) -> Task<void> {
    const auto twice = co_await transaction.Query(call, kInsert, 1);
    EXPECT_EQ(twice.error().code(), Code::kAlreadyExists);
    const auto after = co_await transaction.Query(call, kInsert, 2);
    EXPECT_EQ(after.error().code(), Code::kInternal);
    co_return Ok();
  });
  EXPECT_EQ(done.error().code(), Code::kInternal);
  EXPECT_EQ(Entries(), 0);
  EXPECT_EQ(Connections("idle"), 1);
}

TEST_P(TransactionTest, CancellationInAStatementRollsBack) {
  Started<void> started(runtime_, [&](Call& call) {
    return pool_->InTransaction(call, [&](Transaction& transaction) -> Task<void> {
      NOVA_CO_TRY(co_await transaction.Query(call, kInsert, 1));
      NOVA_CO_TRY(co_await transaction.Query(call, {"sleep", "SELECT pg_sleep(9) /* nap in transaction */"}));
      co_return Ok();
    });
  });
  ASSERT_TRUE(Eventually([] { return Active("nap in transaction") == 1; }));
  started.Cancel();
  EXPECT_EQ(started.Get().error().code(), Code::kCancelled);
  EXPECT_TRUE(Settled(1)) << "what is confirmed keeps the connection";
  EXPECT_EQ(Active("nap in transaction"), 0);
  EXPECT_EQ(Entries(), 0);
}

TEST_P(TransactionTest, ACallThatEndedBeforeCommitRollsBack) {
  const auto done = AfterInsert<void>([](Call& call, Transaction&) -> Task<void> {
    call.Cancel(Cancelled("the client went away"));
    co_return Ok();
  });
  EXPECT_EQ(done.error().code(), Code::kCancelled);
  EXPECT_TRUE(Settled(1));
  EXPECT_EQ(Entries(), 0);
}

TEST_P(TransactionTest, ADeadlineBetweenStatementsRollsBack) {
  const OneShot<bool> never;
  const auto done = AfterInsert<bool>([&](Call& call, Transaction&) { return never.Wait(call); }, 1s);
  EXPECT_EQ(done.error().code(), Code::kDeadlineExceeded);
  EXPECT_TRUE(Settled(1));
  EXPECT_EQ(Entries(), 0);
}

TEST_P(TransactionTest, TheServerKnowsTheDeadlineForTheTransactionOnly) {
  PoolConfig config = Defaults();
  config.cancel_drain = 1s;
  MakePool(config);
  const std::string statement_before = Value<std::string>("SHOW statement_timeout");
  const std::string idle_before = Value<std::string>("SHOW idle_in_transaction_session_timeout");
  const auto show = [&](const char* what) {
    return AfterInsert<std::string>(
               [what](Call& call, Transaction& transaction) -> Task<std::string> {
                 NOVA_CO_TRY(const Rows rows,
                             co_await transaction.Query(call, {"show", "SELECT current_setting($1)"}, what));
                 NOVA_CO_TRY(auto text, rows[0].Get<std::string>(0));
                 // Undone, so that the next one can insert the same entry.
                 co_return Error(Code::kOutOfRange, text);
               },
               4s)
        .error()
        .message();
  };
  const std::string statement = show("statement_timeout");
  const std::string idle = show("idle_in_transaction_session_timeout");
  ASSERT_TRUE(statement.ends_with("ms") || statement.ends_with("s")) << statement;
  const auto milliseconds = [](const std::string& text) { return std::stoi(text) * (text.ends_with("ms") ? 1 : 1000); };
  // With cancel_drain on top: whoever lives ends it first.
  EXPECT_GT(milliseconds(statement), 1000);
  EXPECT_LE(milliseconds(statement), 5000);
  EXPECT_GT(milliseconds(idle), 1000);
  EXPECT_LE(milliseconds(idle), 5000);
  EXPECT_EQ(Value<std::string>("SHOW statement_timeout"), statement_before) << "the role's own limit is back";
  EXPECT_EQ(Value<std::string>("SHOW idle_in_transaction_session_timeout"), idle_before);
}

TEST_P(TransactionTest, AnUnconfirmedRollbackClosesTheConnection) {
  PoolConfig config = Defaults();
  config.cancel_drain = 200ms;
  MakePool(config);
  const SteadyTime begin = Clock::System().Now();
  const auto done = AfterInsert<void>([](Call&, Transaction&) -> Task<void> {
    Pause();
    co_return NotFound("no such account");
  });
  const Duration took = Clock::System().Now() - begin;
  EXPECT_EQ(Connections("idle"), 0);
  EXPECT_EQ(Connections("in_use"), 0);
  Resume();
  EXPECT_EQ(done.error().code(), Code::kNotFound);
  EXPECT_LT(took, 5s);
  EXPECT_EQ(Entries(), 0);
}

TEST_P(TransactionTest, ABrokenCommitIsUnknown) {
  PoolConfig config = Defaults();
  config.cancel_drain = 200ms;
  auto policies = Policies();
  policies.timeout = 1s;
  MakePool(config, policies);
  const auto done = AfterInsert<void>([](Call&, Transaction&) -> Task<void> {
    Pause();
    co_return Ok();
  });
  Resume();
  EXPECT_EQ(done.error().code(), Code::kUnknown) << done.error().ToString();
  EXPECT_TRUE(Eventually([&] { return Connections("in_use") == 0; }));
  EXPECT_EQ(Connections("idle"), 0);
}

TEST_P(TransactionTest, ACommitThatTheServerRefusesIsItsError) {
  Must("DROP TABLE IF EXISTS later");
  Must("CREATE TABLE later (id bigint CONSTRAINT later_key UNIQUE DEFERRABLE INITIALLY DEFERRED)");
  const auto done = AfterInsert<void>([](Call& call, Transaction& transaction) -> Task<void> {
    NOVA_CO_TRY(co_await transaction.Query(call, {"later", "INSERT INTO later VALUES (1), (1)"}));
    co_return Ok();
  });
  EXPECT_EQ(done.error().code(), Code::kAlreadyExists);
  EXPECT_TRUE(ViolatesConstraint(done.error(), "later_key"));
  EXPECT_EQ(Entries(), 0);
  EXPECT_EQ(Connections("idle"), 1);
}

// Two transactions that lock the same two rows, each the other way round; what became of each. Whoever is made again
// waits for the other one to have both rows: PostgreSQL would let it have the row that it has just given back before
// the other one wakes up for it, and the two would meet once more.
class DeadlockTest : public TransactionTest {
 protected:
  std::vector<Result<void>> Cross(OnConflict on_conflict) {
    Must("INSERT INTO entry VALUES (10), (20)");
    static constexpr Statement kLock{"lock", "SELECT id FROM entry WHERE id = $1 FOR UPDATE"};
    const OneShot<bool> first_has_10;
    const OneShot<bool> second_has_20;
    const OneShot<bool> one_has_both;
    const auto crossing = [&](std::int64_t mine, std::int64_t other, OneShot<bool> i_have, OneShot<bool> you_have) {
      return [=, this](Call& call) {
        return pool_->InTransaction(
            call,
            [=, this, &call](Transaction& transaction) -> Task<void> {
              if (++bodies_ > 2) NOVA_CO_TRY(co_await one_has_both.Wait(call));
              NOVA_CO_TRY(co_await transaction.Query(call, kLock, mine));
              (void)i_have.TrySet(true);
              NOVA_CO_TRY(co_await you_have.Wait(call));
              NOVA_CO_TRY(co_await transaction.Query(call, kLock, other));
              (void)one_has_both.TrySet(true);
              co_return Ok();
            },
            on_conflict);
      };
    };
    Started<void> first(runtime_, crossing(10, 20, first_has_10, second_has_20));
    Started<void> second(runtime_, crossing(20, 10, second_has_20, first_has_10));
    return {first.Get(), second.Get()};
  }
  // Enough calls for the budget to allow a retry.
  void PayIn() {
    for (int i = 0; i < 10; ++i) Must("SELECT 1");
  }
  double Repeated() {
    return metrics_->Counter("nova_postgres_transaction_retries_total", "", {{"pool", "main"}}).Value();
  }

  std::atomic<int> bodies_ = 0;
};

INSTANTIATE_TEST_SUITE_P(Routes, DeadlockTest, ::testing::Values(Route::kDirect, Route::kPooled), RouteName);

TEST_P(DeadlockTest, WhoeverLostIsMadeAgain) {
  PayIn();
  for (const Result<void>& done : Cross(OnConflict::kRepeat)) EXPECT_TRUE(done) << done.error().ToString();
  EXPECT_EQ(bodies_, 3);
  EXPECT_EQ(Repeated(), 1);
  EXPECT_EQ(metrics_->Counter("nova_dependency_retries_total", "", {{"dependency", "postgres"}}).Value(), 1);
}

TEST_P(DeadlockTest, IsAbortedWhereSomebodyElseRepeats) {
  PayIn();
  const auto done = Cross(OnConflict::kFail);
  EXPECT_NE(done[0].ok(), done[1].ok()) << "one wins";
  EXPECT_EQ((done[0].ok() ? done[1] : done[0]).error().code(), Code::kAborted);
  EXPECT_EQ(bodies_, 2);
}

TEST_P(DeadlockTest, IsAbortedWithoutABudget) {
  auto policies = Policies();
  policies.retry.budget_ratio = 0;
  MakePool(Defaults(), policies);
  PayIn();
  const auto done = Cross(OnConflict::kRepeat);
  EXPECT_NE(done[0].ok(), done[1].ok());
  EXPECT_EQ((done[0].ok() ? done[1] : done[0]).error().code(), Code::kAborted);
  EXPECT_EQ(Repeated(), 0);
}

TEST_P(DeadlockTest, ATransactionThatCannotBeSerialisedIsMadeAgain) {
  PayIn();
  Must("INSERT INTO entry VALUES (1)");
  int bodies = 0;
  const auto done = runtime_.RunBlocking<std::int64_t>(kSoon, [&](Call& call) {
    return pool_->InTransaction(call, [&](Transaction& transaction) -> Task<std::int64_t> {
      NOVA_CO_TRY(co_await transaction.Query(call, {"level", "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"}));
      NOVA_CO_TRY(const Rows seen, co_await transaction.Query(call, {"look", "SELECT max(id) FROM entry"}));
      NOVA_CO_TRY(const auto id, seen[0].Get<std::int64_t>(0));
      // Somebody else is faster, once.
      if (++bodies == 1) {
        NOVA_CO_TRY(co_await pool_->Query(call, {"faster", "UPDATE entry SET id = id + 100"}));
      }
      NOVA_CO_TRY(co_await transaction.Query(call, {"move", "UPDATE entry SET id = id + 1"}));
      co_return id;
    });
  });
  ASSERT_TRUE(done) << done.error().ToString();
  EXPECT_EQ(*done, 101);
  EXPECT_EQ(bodies, 2);
  EXPECT_EQ(Value<std::int64_t>("SELECT id FROM entry"), 102);
}

}  // namespace
}  // namespace nova::postgres
