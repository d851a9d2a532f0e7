// What the pool and its dependency make of each other: nobody waits longer than its call, what runs on in the server is
// ended and counted until it has, and the breaker hears of the database's faults, all of them, and of nothing else.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <iostream>

#include "nova/postgres/pg_test.h"
#include "nova/resilience/protect.h"

namespace nova::postgres {
namespace {

using resilience::Breaker;
using ::testing::HasSubstr;

constexpr Statement kInsert{"insert", "INSERT INTO entry (id) VALUES ($1)"};
constexpr Statement kNap{"nap", "SELECT pg_sleep(9) /* abandoned nap */"};
constexpr Statement kOne{"one", "SELECT 1"};

// How late a caller may hear of its own deadline, on a machine that has other things to do. What it must not wait for
// would take longer by far.
constexpr Duration kSlack = 3s;

class ResilienceTest : public PgTest {
 protected:
  void SetUp() override {
    Must("DROP TABLE IF EXISTS entry");
    Must("CREATE TABLE entry (id bigint PRIMARY KEY)");
  }

  // A sample of the metrics, as a scrape shows it.
  double Sample(const std::string& series) {
    const std::string text = metrics_->Scrape();
    const std::size_t at = text.find("\n" + series + " ");
    EXPECT_NE(at, std::string::npos) << series;
    return at == std::string::npos ? -1 : std::stod(text.substr(at + series.size() + 2));
  }
  double Calls(const std::string& outcome) {
    return Sample("nova_dependency_calls_total{dependency=\"postgres\",outcome=\"" + outcome + "\"}");
  }
  double Permits(const std::string& state) {
    return Sample("nova_bulkhead_permits{dependency=\"postgres\",state=\"" + state + "\"}");
  }
  Breaker::State State() { return database_->breaker().state(); }

  // A breaker that opens at the second fault in a row, and needs two probes to close.
  static resilience::DependencyConfig Strict() {
    auto policies = Policies();
    policies.breaker.window = resilience::BreakerConfig::Window::kCount;
    policies.breaker.window_calls = 2;
    policies.breaker.calls_min = 2;
    policies.breaker.failure_ratio = 1;
    policies.breaker.open_time = 500ms;
    policies.breaker.probes = 2;
    return policies;
  }

  template <class T>
  Result<T> InTransaction(std::function<Task<T>(Call&, Transaction&)> body, Duration timeout = kSoon) {
    return runtime_.RunBlocking<T>(timeout, [&](Call& call) {
      return pool_->InTransaction(call, [&](Transaction& transaction) { return body(call, transaction); });
    });
  }

  // Ends the connection that a transaction has, as a server that restarts does.
  static Task<void> LoseConnection(Call& call, Transaction& transaction) {
    NOVA_CO_TRY(co_await transaction.Query(call, {"lose", "SELECT pg_terminate_backend(pg_backend_pid())"}));
    co_return Ok();
  }

  Result<void> Ping() {
    return runtime_.RunBlocking<void>(kSoon, [&](Call& call) { return pool_->Ping(call); });
  }

  // Backends of the database that are anything but idle.
  static std::string Busy() {
    return Server()
        .Query("SELECT count(*) AS n FROM pg_stat_activity WHERE datname = 'pool' AND state <> 'idle'")
        .Get(0, "n");
  }

  std::int64_t Entries() { return Value("SELECT count(*) FROM entry"); }
};

INSTANTIATE_TEST_SUITE_P(Routes, ResilienceTest, ::testing::Values(Route::kDirect, Route::kPooled), RouteName);

TEST_P(ResilienceTest, ACancelledQueryReturnsAtOnceAndIsEndedInTheServer) {
  auto policies = Policies();
  policies.calls_max = 1;
  MakePool(Defaults(), policies);
  Started<Rows> nap(runtime_, [&](Call& call) { return pool_->Query(call, kNap); });
  ASSERT_TRUE(Eventually([] { return Active("abandoned nap") == 1; }));
  EXPECT_EQ(Permits("in_use"), 1);
  EXPECT_EQ(Permits("orphaned"), 0);

  // As long as the server says nothing the drain cannot end.
  Pause();
  const SteadyTime begin = Clock::System().Now();
  nap.Cancel();
  const auto rows = nap.Get();
  const Duration took = Clock::System().Now() - begin;
  const double orphaned = Permits("orphaned");
  const double in_use = Permits("in_use");
  const double connections = Connections("in_use");
  const auto refused = Query("SELECT 1");
  Resume();

  EXPECT_EQ(rows.error().code(), Code::kCancelled);
  EXPECT_LT(took, kSlack);
  EXPECT_EQ(orphaned, 1);
  EXPECT_EQ(in_use, 1) << "the work has not ended, and has its place";
  EXPECT_EQ(connections, 1);
  EXPECT_EQ(refused.error().code(), Code::kResourceExhausted) << "calls_max counts orphans";
  EXPECT_EQ(Calls("full"), 1);
  EXPECT_EQ(Calls("cancelled"), 1);

  EXPECT_TRUE(Settled(1)) << "a confirmed cancel keeps the connection";
  EXPECT_TRUE(Eventually([&] { return Permits("in_use") == 0; }));
  EXPECT_EQ(Permits("orphaned"), 0);
  EXPECT_EQ(Busy(), "0");
  Must("SELECT 1");
}

TEST_P(ResilienceTest, ADrainEndsAtItsBoundWithTheConnectionClosed) {
  PoolConfig config = Defaults();
  config.cancel_drain = 200ms;
  MakePool(config);
  Must("SELECT 1");
  Pause();
  const SteadyTime begin = Clock::System().Now();
  const auto rows = runtime_.RunBlocking<Rows>(100ms, [&](Call& call) { return pool_->Query(call, kOne); });
  const Duration took = Clock::System().Now() - begin;
  const bool ended = static_cast<bool>(Eventually([&] { return Connections("in_use") == 0; }, 5s));
  const Duration drained = Clock::System().Now() - begin;
  const double idle = Connections("idle");
  const bool back = static_cast<bool>(Eventually([&] { return Permits("in_use") == 0; }, 5s));
  Resume();
  EXPECT_EQ(rows.error().code(), Code::kDeadlineExceeded);
  EXPECT_LT(took, 100ms + kSlack);
  EXPECT_TRUE(ended) << "although the server says nothing";
  EXPECT_GE(drained, 300ms);
  EXPECT_EQ(idle, 0) << "nobody knows the state of such a connection";
  EXPECT_TRUE(back);
  Must("SELECT 1");
}

TEST_P(ResilienceTest, ATransactionOfAnEndedCallIsRolledBackInTheBackground) {
  Started<void> started(runtime_, [&](Call& call) {
    return pool_->InTransaction(call, [&](Transaction& transaction) -> Task<void> {
      NOVA_CO_TRY(co_await transaction.Query(call, kInsert, 1));
      NOVA_CO_TRY(co_await transaction.Query(call, kNap));
      co_return Ok();
    });
  });
  ASSERT_TRUE(Eventually([] { return Active("abandoned nap") == 1; }));
  Pause();
  const SteadyTime begin = Clock::System().Now();
  started.Cancel();
  const auto done = started.Get();
  const Duration took = Clock::System().Now() - begin;
  const double orphaned = Permits("orphaned");
  Resume();
  EXPECT_EQ(done.error().code(), Code::kCancelled);
  EXPECT_LT(took, kSlack);
  EXPECT_EQ(orphaned, 1);
  EXPECT_TRUE(Settled(1)) << "a confirmed rollback keeps the connection";
  EXPECT_TRUE(Eventually([&] { return Permits("in_use") == 0; }));
  EXPECT_EQ(Busy(), "0");
  EXPECT_EQ(Entries(), 0);
}

TEST_P(ResilienceTest, ACallThatEndsBetweenStatementsDoesNotWaitForTheRollback) {
  const OneShot<bool> never;
  SteadyTime end;
  const auto done = InTransaction<bool>(
      [&](Call& call, Transaction& transaction) -> Task<bool> {
        NOVA_CO_TRY(co_await transaction.Query(call, kInsert, 1));
        Pause();
        end = call.deadline();
        co_return co_await never.Wait(call);
      },
      2s);
  const Duration late = Clock::System().Now() - end;
  const double orphaned = Permits("orphaned");
  Resume();
  EXPECT_EQ(done.error().code(), Code::kDeadlineExceeded);
  EXPECT_LT(late, kSlack);
  EXPECT_EQ(orphaned, 1);
  EXPECT_TRUE(Settled(1));
  EXPECT_EQ(Entries(), 0);
}

TEST_P(ResilienceTest, CloseWaitsForWhatCallsLeftBehind) {
  Started<Rows> nap(runtime_, [&](Call& call) { return pool_->Query(call, kNap); });
  ASSERT_TRUE(Eventually([] { return Active("abandoned nap") == 1; }));
  nap.Cancel();
  EXPECT_FALSE(nap.Get().ok());
  ASSERT_TRUE(pool_->Close(kSoon).ok());
  EXPECT_EQ(database_->bulkhead().in_use(), 0);
  EXPECT_EQ(Connections("in_use"), 0);
  EXPECT_EQ(Active("abandoned nap"), 0);

  MakePool(Defaults());
  Must("SELECT 1");
  Pause();
  EXPECT_FALSE(runtime_.RunBlocking<Rows>(50ms, [&](Call& call) { return pool_->Query(call, kOne); }).ok());
  const Result<void> early = pool_->Close(50ms);
  Resume();
  EXPECT_EQ(early.error().code(), Code::kDeadlineExceeded);
  EXPECT_TRUE(pool_->Close(kSoon).ok());
  EXPECT_EQ(database_->bulkhead().in_use(), 0);
}

TEST_P(ResilienceTest, TheSmallerLimitHolds) {
  auto policies = Policies();
  policies.timeout = 2s;
  MakePool(Defaults(), policies);
  auto strict = Policies();
  strict.timeout = 200ms;
  resilience::DatabaseDependency reports("reports", *metrics_, strict);
  const auto nap_within = [&](resilience::DatabaseDependency& around) {
    const SteadyTime begin = Clock::System().Now();
    const auto rows = runtime_.RunBlocking<Rows>(kSoon, [&](Call& call) {
      return resilience::WithDbTimeout(
          call, around, [&](Call& limited) -> Task<Rows> { co_return co_await pool_->Query(limited, kNap); });
    });
    return std::pair(rows.error(), Clock::System().Now() - begin);
  };
  {
    const auto [error, took] = nap_within(reports);
    EXPECT_EQ(error.code(), Code::kDeadlineExceeded);
    EXPECT_THAT(error.detail(), HasSubstr("RESILIENCE_REPORTS_TIMEOUT_MS"));
    EXPECT_LT(took, 200ms + kSlack);
    EXPECT_EQ(Calls("timeout"), 0) << "its caller had less time than its own policy grants";
    EXPECT_EQ(Calls("cancelled"), 1);
  }
  resilience::DatabaseDependency lenient("lenient", *metrics_);
  {
    const auto [error, took] = nap_within(lenient);
    EXPECT_EQ(error.code(), Code::kDeadlineExceeded);
    EXPECT_THAT(error.detail(), HasSubstr("RESILIENCE_POSTGRES_TIMEOUT_MS (2000)"));
    EXPECT_LT(took, 2s + kSlack);
    EXPECT_EQ(Calls("timeout"), 1);
  }
  const auto rows = runtime_.RunBlocking<Rows>(kSoon, [&](Call& call) {
    return resilience::WithTimeout(call, 100ms, [&](Call& limited) { return pool_->Query(limited, kNap); });
  });
  EXPECT_EQ(rows.error().code(), Code::kDeadlineExceeded);
  EXPECT_EQ(Calls("cancelled"), 2);
  EXPECT_TRUE(Eventually([&] { return Connections("in_use") == 0; }));
}

TEST_P(ResilienceTest, EachStatementOfATransactionHasTheTimeoutAndTheWholeHasTheCalls) {
  auto policies = Policies();
  policies.timeout = 1s;
  MakePool(Defaults(), policies);
  const auto patient = InTransaction<void>([&](Call& call, Transaction& transaction) -> Task<void> {
    for (int i = 0; i < 3; ++i) NOVA_CO_TRY(co_await transaction.Query(call, {"test", "SELECT pg_sleep(0.4)"}));
    co_return Ok();
  });
  EXPECT_TRUE(patient.ok()) << patient.error().ToString();
  EXPECT_EQ(Calls("ok"), 1);

  const auto stuck = InTransaction<void>([&](Call& call, Transaction& transaction) -> Task<void> {
    NOVA_CO_TRY(co_await transaction.Query(call, kInsert, 1));
    const auto rows = co_await transaction.Query(call, kNap);
    EXPECT_EQ(rows.error().code(), Code::kDeadlineExceeded);
    // It is being ended already, however long this body goes on.
    NOVA_CO_TRY(co_await runtime::Sleep(call, 1ms));
    const auto after = co_await transaction.Query(call, kOne);
    EXPECT_EQ(after.error().code(), Code::kInternal);
    co_return rows.error();
  });
  EXPECT_EQ(stuck.error().code(), Code::kDeadlineExceeded);
  EXPECT_THAT(stuck.error().detail(), HasSubstr("RESILIENCE_POSTGRES_TIMEOUT_MS (1000)"));
  EXPECT_THAT(stuck.error().detail(), HasSubstr("statement=nap"));
  EXPECT_EQ(Calls("timeout"), 1);
  EXPECT_TRUE(Settled(1));
  EXPECT_EQ(Entries(), 0);
}

// A transaction may last as long as its body; what counts is how long the database took.
TEST_P(ResilienceTest, SlowStatementsOfTransactionsOpenTheBreakerAndSlowBodiesDoNot) {
  auto policies = Strict();
  policies.slow = 400ms;
  policies.breaker.slow_ratio = 1;
  MakePool(Defaults(), policies);
  for (int i = 0; i < 3; ++i) {
    const auto body = InTransaction<void>([&](Call& call, Transaction& transaction) -> Task<void> {
      NOVA_CO_TRY(co_await transaction.Query(call, kOne));
      co_return co_await runtime::Sleep(call, 420ms);
    });
    EXPECT_TRUE(body.ok()) << body.error().ToString();
  }
  EXPECT_EQ(State(), Breaker::State::kClosed);
  for (int i = 0; i < 2; ++i) {
    // The caller has less time than the policy, so that nobody but the clock blames the database.
    const auto slow = InTransaction<void>(
        [&](Call& call, Transaction& transaction) -> Task<void> {
          NOVA_CO_TRY(co_await transaction.Query(call, kNap));
          co_return Ok();
        },
        900ms);
    EXPECT_EQ(slow.error().code(), Code::kDeadlineExceeded);
  }
  EXPECT_EQ(State(), Breaker::State::kOpen);
}

TEST_P(ResilienceTest, AStalledServerOpensTheBreakerAndItClosesAfterwards) {
  PoolConfig config = Defaults();
  config.cancel_drain = 100ms;
  auto policies = Policies();
  policies.timeout = 1s;
  policies.breaker.calls_min = 4;
  policies.breaker.open_time = 500ms;
  policies.breaker.probe_limit = 1s;
  MakePool(config, policies);
  resilience::DatabaseDependency other("other", *metrics_);
  Must("SELECT 1");

  Pause();
  // Callers with more time than the policy grants, and one with less: each hears in its own time.
  std::vector<std::unique_ptr<Started<Rows>>> callers;
  const SteadyTime begin = Clock::System().Now();
  for (int i = 0; i < 4; ++i)
    callers.push_back(std::make_unique<Started<Rows>>(runtime_, [&](Call& call) { return pool_->Query(call, kOne); }));
  const auto hurried = runtime_.RunBlocking<Rows>(100ms, [&](Call& call) { return pool_->Query(call, kOne); });
  const Duration hurried_took = Clock::System().Now() - begin;
  std::vector<Error> errors;
  for (const auto& each : callers) errors.push_back(each->Get().error());
  const Duration took = Clock::System().Now() - begin;
  const bool opened = static_cast<bool>(Eventually([&] { return State() == Breaker::State::kOpen; }, 5s));
  const SteadyTime refused_from = Clock::System().Now();
  const auto refused = Query("SELECT 1");
  const Duration refused_took = Clock::System().Now() - refused_from;
  const auto elsewhere = runtime_.RunBlocking<int>(kSoon, [&](Call& call) {
    return resilience::WithDbTimeout(call, other, [](Call&) -> Task<int> { co_return 7; });
  });
  // Probes find it stalled, and it stays open.
  const bool probed = static_cast<bool>(Eventually(
      [&] {
        (void)Query("SELECT 1");
        return Sample("nova_breaker_transitions_total{dependency=\"postgres\",from=\"half_open\",to=\"open\"}") > 0;
      },
      10s));
  const bool drained = static_cast<bool>(Eventually([&] { return Connections("in_use") == 0; }, 5s));
  const double idle = Connections("idle");
  Resume();
  const SteadyTime resumed = Clock::System().Now();
  const bool closed = static_cast<bool>(Eventually([&] {
    (void)Query("SELECT 1");
    return State() == Breaker::State::kClosed;
  }));
  const Duration recovered = Clock::System().Now() - resumed;
  std::cout << "the breaker closed " << std::chrono::duration_cast<std::chrono::milliseconds>(recovered).count()
            << " ms after the server was back\n";

  EXPECT_EQ(hurried.error().code(), Code::kDeadlineExceeded);
  EXPECT_LT(hurried_took, 100ms + kSlack);
  for (const Error& error : errors) {
    EXPECT_EQ(error.code(), Code::kDeadlineExceeded);
    EXPECT_THAT(error.detail(), HasSubstr("RESILIENCE_POSTGRES_TIMEOUT_MS (1000)"));
  }
  EXPECT_LT(took, policies.timeout + kSlack);
  EXPECT_TRUE(opened);
  EXPECT_EQ(refused.error().code(), Code::kUnavailable);
  EXPECT_THAT(refused.error().detail(), HasSubstr("circuit breaker is open"));
  EXPECT_LT(refused_took, kSlack);
  EXPECT_TRUE(elsewhere.ok());
  EXPECT_EQ(other.breaker().state(), Breaker::State::kClosed);
  EXPECT_TRUE(probed);
  EXPECT_TRUE(drained);
  EXPECT_EQ(idle, 0);
  EXPECT_TRUE(closed);
  EXPECT_LT(recovered, policies.breaker.open_time + 2s);
  EXPECT_GE(Calls("timeout"), 4);
  EXPECT_GE(Calls("open"), 1);
  EXPECT_EQ(Sample("nova_breaker_state{dependency=\"postgres\",state=\"closed\"}"), 1);
}

// Where nobody else calls, health's question is what finds out that the database is back.
TEST_P(ResilienceTest, PingsAreNeverRefusedAndCloseTheBreaker) {
  auto policies = Strict();
  policies.breaker.open_time = 3s;
  MakePool(Defaults(), policies);
  for (int i = 0; i < 2; ++i) EXPECT_FALSE(InTransaction<void>(LoseConnection).ok());
  ASSERT_EQ(State(), Breaker::State::kOpen);
  EXPECT_EQ(Query("SELECT 1").error().code(), Code::kUnavailable);
  EXPECT_TRUE(Ping().ok()) << "it asks, and is answered";
  EXPECT_EQ(State(), Breaker::State::kOpen) << "but that was too early for a probe";
  EXPECT_TRUE(Eventually([&] {
    EXPECT_TRUE(Ping().ok());
    return State() == Breaker::State::kClosed;
  }));
  Must("SELECT 1");
}

TEST_P(ResilienceTest, ALostConnectionInATransactionIsOneFault) {
  auto policies = Strict();
  policies.breaker.open_time = 30s;
  MakePool(Defaults(), policies);
  const auto lose_and_go_on = [&] {
    return InTransaction<void>([&](Call& call, Transaction& transaction) -> Task<void> {
      NOVA_CO_TRY(co_await transaction.Query(call, kInsert, 1));
      const auto lost = co_await LoseConnection(call, transaction);
      EXPECT_EQ(lost.error().code(), Code::kUnavailable);
      for (int i = 0; i < 3; ++i) EXPECT_FALSE((co_await transaction.Query(call, kOne)).ok());
      // What the body says of it does not matter.
      co_return NotFound("no such account");
    });
  };
  EXPECT_EQ(lose_and_go_on().error().code(), Code::kNotFound);
  EXPECT_EQ(Calls("failed"), 1);
  EXPECT_EQ(State(), Breaker::State::kClosed) << "one fault, not four";
  EXPECT_EQ(lose_and_go_on().error().code(), Code::kNotFound);
  EXPECT_EQ(Calls("failed"), 2);
  EXPECT_EQ(State(), Breaker::State::kOpen);
  const auto refused = lose_and_go_on();
  EXPECT_EQ(refused.error().code(), Code::kUnavailable);
  EXPECT_THAT(refused.error().detail(), HasSubstr("circuit breaker is open"));
}

TEST_P(ResilienceTest, AnswersAreNoFaults) {
  Must("INSERT INTO entry VALUES (1)");
  auto policies = Strict();
  policies.breaker.window_calls = 1;
  policies.breaker.calls_min = 1;
  policies.retry.tries_max = 1;  // a conflict would be tried again, and each try counts
  PoolConfig config = Defaults();
  config.size_max = 1;
  config.waiters_max = 0;
  MakePool(config, policies);
  // Constraint, value, and mistakes; by itself, and as what a transaction fails with.
  const auto raise = [](const char* state) {
    return std::string("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '") + state + "'; END $$";
  };
  const std::vector<std::string> failing = {
      "INSERT INTO entry VALUES (1)", "SELECT 1 / 0", "SELECT 'x'::text::uuid", "SELEC 1",
      "COPY entry TO STDOUT",         raise("40001"), raise("40P01"),           raise("55P03")};
  double answered = 0;
  for (const std::string& sql : failing) {
    const auto rows = Query(sql);
    ASSERT_FALSE(rows.ok()) << sql;
    EXPECT_FALSE(IsDatabaseFault(rows.error())) << sql << ": " << rows.error().ToString();
    const auto done = InTransaction<void>([&](Call& call, Transaction& transaction) -> Task<void> {
      NOVA_CO_TRY(co_await transaction.Query(call, {"test", sql}));
      co_return Ok();
    });
    ASSERT_FALSE(done.ok()) << sql;
    EXPECT_FALSE(IsDatabaseFault(done.error())) << sql << ": " << done.error().ToString();
    answered += 2;
    EXPECT_EQ(Calls("answered"), answered) << sql;
    ASSERT_EQ(State(), Breaker::State::kClosed) << sql;
  }
  EXPECT_EQ(Query("SELECT $1", std::string_view("a\0b", 3)).error().code(), Code::kInternal);
  // What has nothing to do with the database.
  for (const Error& own : {NotFound("no such account"), Unavailable("Redis is away"), Internal("a bug"),
                           DeadlineExceeded("another dependency took too long")}) {
    const auto done = InTransaction<void>([&](Call& call, Transaction& transaction) -> Task<void> {
      NOVA_CO_TRY(co_await transaction.Query(call, kInsert, 2));
      co_return own;
    });
    EXPECT_EQ(done.error().code(), own.code());
  }
  // A swallowed error, a full pool, an ended call.
  EXPECT_FALSE(InTransaction<void>([&](Call& call, Transaction& transaction) -> Task<void> {
                 EXPECT_FALSE((co_await transaction.Query(call, kInsert, 1)).ok());
                 co_return Ok();
               }).ok());
  const auto full = InTransaction<void>([&](Call& call, Transaction&) -> Task<void> {
    EXPECT_EQ((co_await pool_->Query(call, kOne)).error().code(), Code::kResourceExhausted);
    co_return Ok();
  });
  EXPECT_TRUE(full.ok());
  EXPECT_FALSE(runtime_.RunBlocking<Rows>(100ms, [&](Call& call) { return pool_->Query(call, kNap); }).ok());
  // A transaction whose statement has less time than the call.
  EXPECT_TRUE(Settled(1));
  const auto short_statement = InTransaction<void>([&](Call& call, Transaction& transaction) -> Task<void> {
    Call limited(call, 100ms);
    NOVA_CO_TRY(co_await transaction.Query(limited, kNap));
    co_return Ok();
  });
  EXPECT_EQ(short_statement.error().code(), Code::kDeadlineExceeded);
  EXPECT_TRUE(Settled(1));
  EXPECT_EQ(State(), Breaker::State::kClosed);
  EXPECT_EQ(Calls("failed"), 0);
  EXPECT_EQ(Calls("timeout"), 0);
  Must("SELECT 1");
}

TEST_P(ResilienceTest, AClosedPoolSaysNothingAboutTheDatabase) {
  MakePool(Defaults(), Strict());
  ASSERT_TRUE(pool_->Close(kSoon).ok());
  for (int i = 0; i < 3; ++i) EXPECT_EQ(Query("SELECT 1").error().code(), Code::kUnavailable);
  EXPECT_EQ(State(), Breaker::State::kClosed);
}

TEST_P(ResilienceTest, InjectedFaults) {
  auto policies = Policies();
  policies.faults.error = 1;
  MakePool(Defaults(), policies);
  EXPECT_EQ(Query("INSERT INTO entry VALUES (1)").error().code(), Code::kUnavailable);
  EXPECT_EQ(InTransaction<void>([](Call&, Transaction&) -> Task<void> {
              ADD_FAILURE() << "it is not made";
              co_return Ok();
            })
                .error()
                .code(),
            Code::kUnavailable);
  EXPECT_EQ(Calls("failed"), 2);
  EXPECT_EQ(Connections("idle"), 0);

  policies.faults = {.abort = 1};
  MakePool(Defaults(), policies);
  EXPECT_EQ(Query("INSERT INTO entry VALUES (2)").error().code(), Code::kUnavailable);
  EXPECT_EQ(InTransaction<void>([](Call& call, Transaction& transaction) -> Task<void> {
              NOVA_CO_TRY(co_await transaction.Query(call, kInsert, 3));
              co_return Ok();
            })
                .error()
                .code(),
            Code::kUnavailable);
  EXPECT_EQ(Sample("nova_faults_injected_total{dependency=\"postgres\",fault=\"abort\"}"), 2);

  policies.faults = {.black_hole = 1};
  policies.timeout = 100ms;
  MakePool(Defaults(), policies);
  EXPECT_EQ(Query("SELECT 1").error().code(), Code::kDeadlineExceeded);
  EXPECT_EQ(InTransaction<void>([](Call&, Transaction&) -> Task<void> { co_return Ok(); }).error().code(),
            Code::kDeadlineExceeded);
  EXPECT_EQ(Calls("timeout"), 2);

  MakePool(Defaults());
  EXPECT_EQ(Entries(), 2) << "an abort loses the answer, not the work";
}

// One process, two databases: PgBouncer stalls, PostgreSQL itself does not.
TEST(ResilienceOutage, AStalledPoolerLeavesOtherDependenciesAlone) {
  auto& server = PostgresFixture::Instance();
  server.CreateDatabase("outage");
  runtime::Runtime runtime{{.threads = 2}};
  telemetry::Metrics metrics;
  auto policies = resilience::DependencyConfig::Default(resilience::Kind::kDatabase);
  policies.timeout = 1s;
  policies.breaker.calls_min = 2;
  resilience::DatabaseDependency stalled_database("stalled", metrics, policies);
  resilience::DatabaseDependency healthy_database("healthy", metrics, policies);
  PoolConfig config;
  config.cancel_drain = 100ms;
  config.connection = server.Pooled("outage");
  Pool stalled(runtime, metrics, stalled_database, config);
  config.connection = server.Direct("outage");
  config.name = "healthy";
  Pool healthy(runtime, metrics, healthy_database, config);
  const auto ask = [&](Pool& pool) {
    return runtime.RunBlocking<Rows>(kSoon, [&](Call& call) { return pool.Query(call, kOne); });
  };
  EXPECT_TRUE(ask(stalled).ok());
  server.PausePooler();
  for (int i = 0; i < 6; ++i) {
    EXPECT_FALSE(ask(stalled).ok());
    const auto rows = ask(healthy);
    EXPECT_TRUE(rows.ok()) << rows.error().ToString();
  }
  EXPECT_EQ(stalled_database.breaker().state(), Breaker::State::kOpen);
  EXPECT_EQ(healthy_database.breaker().state(), Breaker::State::kClosed);
  server.ResumePooler();
  EXPECT_TRUE(Eventually([&] { return ask(stalled).ok(); }, policies.breaker.open_time + 2s));
  EXPECT_TRUE(stalled.Close(kSoon).ok());
  EXPECT_TRUE(healthy.Close(kSoon).ok());
}

}  // namespace
}  // namespace nova::postgres
