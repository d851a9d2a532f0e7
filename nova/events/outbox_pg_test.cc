#include <atomic>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "api/events/v1/user.pb.h"
#include "nova/events/outbox.h"
#include "nova/runtime/runtime.h"
#include "nova/runtime/scope.h"
#include "nova/telemetry/metrics.h"
#include "tests/postgres_fixture.h"

namespace nova::events {
namespace {

using namespace std::chrono_literals;
using postgres::Rows;
using postgres::Statement;
using postgres::Transaction;
using runtime::Call;
using runtime::Task;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr Duration kSoon = 20s;
constexpr const char* kService = "outbox";
// The service's own, which may refer to ours.
constexpr postgres::Migration kMigrations[] = {
    {.version = 1, .name = "made", .sql = "CREATE TABLE made (number int PRIMARY KEY)"},
    {.version = 2, .name = "event_of_made", .sql = "ALTER TABLE made ADD event uuid REFERENCES events.outbox (id)"}};

class OutboxTest : public ::testing::Test {
 protected:
  static tests::PostgresFixture& Server() { return tests::PostgresFixture::Instance(); }

  OutboxTest() {
    Server().RecreateDatabase(kService);
    const auto migrated = MigrateOnce();
    EXPECT_TRUE(migrated.ok()) << migrated.error().ToString();
    if (migrated) migrated_ = *migrated;
    postgres::PoolConfig config;
    config.connection = Server().Pooled(kService);
    config.size_max = 8;
    pool_.emplace(runtime_, metrics_, database_, config);
    outbox_.emplace(*pool_, kService);
  }
  ~OutboxTest() override { EXPECT_TRUE(pool_->Close(kSoon).ok()); }

  Result<postgres::MigrationReport> MigrateOnce() {
    return runtime_.RunBlocking<postgres::MigrationReport>(
        kSoon, [](Call& call) { return events::Migrate(call, Server().Direct(kService), kMigrations); });
  }

  void Must(std::string_view sql) {
    const auto rows =
        runtime_.RunBlocking<Rows>(kSoon, [&](Call& call) { return pool_->Query(call, Statement{"test", sql}); });
    ASSERT_TRUE(rows.ok()) << rows.error().ToString();
  }
  static std::string Value(const std::string& sql) { return Server().Query(sql, kService).Get(0, "v"); }

  static v1::UserUpdated Event(std::string name) {
    v1::UserUpdated event;
    event.set_user_id("u");
    event.set_display_name(std::move(name));
    return event;
  }

  // A row and an event in one transaction; `fails`: its body fails after both.
  Task<void> Make(Call& call, std::string aggregate, int number, bool fails) {
    co_return co_await outbox_->InTransaction(call, [&](Transaction& transaction) -> Task<void> {
      static constexpr Statement kInsert{"test_insert", "INSERT INTO made (number) VALUES ($1)"};
      NOVA_CO_TRY(co_await transaction.Query(call, kInsert, number));
      const v1::UserUpdated event = Event(std::to_string(number));
      NOVA_CO_TRY(co_await outbox_->Append(call, transaction, aggregate, event));
      if (fails) co_return FailedPrecondition("the body fails");
      co_return Ok();
    });
  }
  Result<void> Run(std::function<Task<void>(Call&)> work) { return runtime_.RunBlocking<void>(kSoon, std::move(work)); }

  runtime::Runtime runtime_{{.threads = 2}};
  telemetry::Metrics metrics_;
  resilience::DatabaseDependency database_{"postgres", metrics_};
  postgres::MigrationReport migrated_;
  std::optional<postgres::Pool> pool_;
  std::optional<Outbox> outbox_;
};

TEST_F(OutboxTest, ItsTablesAreMadeBeforeTheServicesAndEachOnce) {
  EXPECT_THAT(migrated_.applied, ElementsAre("events 0001_events", "0001_made", "0002_event_of_made"));
  EXPECT_EQ(migrated_.version, 2);
  const auto again = MigrateOnce();
  ASSERT_TRUE(again.ok()) << again.error().ToString();
  EXPECT_THAT(again->applied, IsEmpty());
  EXPECT_EQ(again->version, 2);
  EXPECT_EQ(Value("SELECT string_agg(name, ' ' ORDER BY version) AS v FROM nova_events_migrations"), "events");
  EXPECT_EQ(Value("SELECT string_agg(name, ' ' ORDER BY version) AS v FROM nova_migrations"), "made event_of_made");
}

TEST_F(OutboxTest, AnEventIsStoredWithAllThatItsEnvelopeNeeds) {
  std::string trace;
  const auto made = Run([&](Call& call) -> Task<void> {
    trace = call.trace().ToTraceparent();
    co_return co_await Make(call, "user/1", 7, false);
  });
  ASSERT_TRUE(made.ok()) << made.error().ToString();
  EXPECT_EQ(Value("SELECT aggregate || ' ' || sequence || ' ' || type AS v FROM events.outbox"),
            "user/1 1 nova.events.v1.UserUpdated");
  EXPECT_EQ(Value("SELECT trace AS v FROM events.outbox"), trace);
  EXPECT_EQ(Value("SELECT encode(payload, 'hex') AS v FROM events.outbox"), "0a01751a0137");
  EXPECT_EQ(Value("SELECT abs(extract(epoch FROM now() - occurred_at)) < 20 AS v FROM events.outbox"), "t");
  EXPECT_EQ(Value("SELECT published_at IS NULL AS v FROM events.outbox"), "t");
}

TEST_F(OutboxTest, ATransactionThatFailsLeavesNoEventAndNoNumber) {
  EXPECT_TRUE(Run([&](Call& call) { return Make(call, "user/1", 1, false); }).ok());
  EXPECT_EQ(Run([&](Call& call) { return Make(call, "user/1", 2, true); }).error().code(), Code::kFailedPrecondition);
  EXPECT_EQ(Run([&](Call& call) { return Make(call, "user/2", 3, true); }).error().code(), Code::kFailedPrecondition);
  EXPECT_TRUE(Run([&](Call& call) { return Make(call, "user/1", 4, false); }).ok());
  EXPECT_EQ(Value("SELECT string_agg(aggregate || ' ' || sequence, ',' ORDER BY position) AS v FROM events.outbox"),
            "user/1 1,user/1 2");
  EXPECT_EQ(Value("SELECT count(*) AS v FROM made"), "2");
  EXPECT_EQ(Value("SELECT count(*) AS v FROM events.aggregates"), "1");
}

TEST_F(OutboxTest, AHundredTransactionsAtOnceNumberOneAggregateWithoutGapsInOrderOfPosition) {
  constexpr int kCount = 100;
  std::atomic<int> failed = 0;
  runtime::Scope scope(runtime_);
  for (int i = 0; i < kCount; ++i) {
    scope.Spawn("maker", [this, &failed, i](Call& call) -> Task<void> {
      // Every fifth is rolled back with its number drawn and its row locked.
      const Result<void> made = co_await Make(call, "user/1", i, i % 5 == 0);
      if (!made && made.error().code() != Code::kFailedPrecondition) ++failed;
      co_return Ok();
    });
  }
  const auto ended = [] { return Value("SELECT count(*) AS v FROM made") == "80"; };
  const SteadyTime until = Clock::System().Now() + kSoon;
  while (!ended() && Clock::System().Now() < until) std::this_thread::yield();
  ASSERT_TRUE(scope.Stop(kSoon).ok());
  EXPECT_EQ(failed, 0);
  EXPECT_EQ(Value("SELECT array_agg(sequence ORDER BY position) = "
                  "(SELECT array_agg(n) FROM generate_series(1::bigint, 80) AS n) AS v FROM events.outbox"),
            "t");
  EXPECT_EQ(Value("SELECT sequence AS v FROM events.aggregates"), "80");
}

TEST_F(OutboxTest, SeveralEventsOfOneTransactionAreNumberedInTheOrderAppended) {
  const auto made = Run([&](Call& call) -> Task<void> {
    co_return co_await outbox_->InTransaction(call, [&](Transaction& transaction) -> Task<void> {
      for (const char* name : {"a", "b", "c"}) {
        const v1::UserUpdated event = Event(name);
        NOVA_CO_TRY(co_await outbox_->Append(call, transaction, "user/1", event));
      }
      co_return Ok();
    });
  });
  ASSERT_TRUE(made.ok()) << made.error().ToString();
  EXPECT_EQ(Value("SELECT string_agg(sequence || ' ' || convert_from(substring(payload FROM 6), 'UTF8'), ',' ORDER BY "
                  "position) AS v FROM events.outbox"),
            "1 a,2 b,3 c");
}

TEST_F(OutboxTest, WhatIsTooLargeIsRefused) {
  const auto append = [&](std::string aggregate, std::size_t bytes) {
    return Run([this, aggregate, bytes](Call& call) -> Task<void> {
      co_return co_await outbox_->InTransaction(call, [&](Transaction& transaction) -> Task<void> {
        const v1::UserUpdated event = Event(std::string(bytes, 'x'));
        co_return co_await outbox_->Append(call, transaction, aggregate, event);
      });
    });
  };
  const auto refused = append("user/1", kEventBytesMax);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code(), Code::kInvalidArgument);
  EXPECT_THAT(refused.error().detail(), HasSubstr("nova.events.v1.UserUpdated"));
  EXPECT_TRUE(append("user/1", kEventBytesMax - 100).ok());
  EXPECT_EQ(append("", 1).error().code(), Code::kInvalidArgument);
  EXPECT_EQ(append(std::string(kAggregateBytesMax + 1, 'a'), 1).error().code(), Code::kInvalidArgument);
  EXPECT_TRUE(append(std::string(kAggregateBytesMax, 'a'), 1).ok());
  EXPECT_EQ(Value("SELECT count(*) AS v FROM events.outbox"), "2");
}

TEST_F(OutboxTest, ACommitWakesAndARollbackDoesNot) {
  std::atomic<int> wakes = 0;
  outbox_->OnCommit([&] { ++wakes; });
  EXPECT_FALSE(Run([&](Call& call) { return Make(call, "user/1", 1, true); }).ok());
  EXPECT_EQ(wakes, 0);
  EXPECT_TRUE(Run([&](Call& call) { return Make(call, "user/1", 2, false); }).ok());
  EXPECT_EQ(wakes, 1);
  outbox_->OnCommit({});
  EXPECT_TRUE(Run([&](Call& call) { return Make(call, "user/1", 3, false); }).ok());
  EXPECT_EQ(wakes, 1);
}

}  // namespace
}  // namespace nova::events
