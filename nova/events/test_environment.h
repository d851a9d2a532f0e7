// What the tests of this folder share: processes of two services, each with a database of its own behind a real
// PgBouncer, and a real Redis between them.
#pragma once

#include <cstdint>
#include <functional>
#include <gtest/gtest.h>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "api/events/v1/user.pb.h"
#include "nova/events/consumer.h"
#include "nova/events/outbox.h"
#include "nova/events/relay.h"
#include "nova/postgres/pool.h"
#include "nova/redis/client.h"
#include "nova/resilience/dependency.h"
#include "nova/runtime/runtime.h"
#include "nova/runtime/scope.h"
#include "nova/telemetry/metrics.h"
#include "tests/eventually.h"
#include "tests/postgres_fixture.h"
#include "tests/redis_fixture.h"

namespace nova::events {

using namespace std::chrono_literals;
using postgres::Pool;
using postgres::Rows;
using postgres::Statement;
using postgres::Transaction;
using runtime::Call;
using runtime::Task;
using tests::Eventually;

// A bound on what must happen soon; reaching it fails the test.
inline constexpr Duration kSoon = 30s;

inline constexpr const char* kProducer = "alpha";
inline constexpr const char* kConsumer = "beta";

// What a process of a service has: a pool through PgBouncer, a Redis client, an outbox, background work.
class Process {
 public:
  Process(runtime::Runtime& runtime, const std::string& service)
      : Process(runtime, service, tests::PostgresFixture::Instance().Pooled(service),
                tests::RedisFixture::Instance().Client(service)) {}
  Process(runtime::Runtime& runtime, const std::string& service, postgres::ConnectionConfig connection,
          redis::ClientConfig client)
      : runtime_(runtime), redis(runtime, metrics, cache, std::move(client)) {
    postgres::PoolConfig config;
    config.connection = std::move(connection);
    config.size_max = 4;
    pool.emplace(runtime, metrics, database, config);
    outbox.emplace(*pool, service);
  }
  ~Process() {
    Stop();
    const Result<void> redis_closed = redis.Close(kSoon);
    EXPECT_TRUE(redis_closed.ok()) << redis_closed.error().ToString();
    const Result<void> pool_closed = pool->Close(kSoon);
    EXPECT_TRUE(pool_closed.ok()) << pool_closed.error().ToString();
  }

  // Quick, so that tests need not wait for what production does at leisure.
  static RelayConfig RelayDefaults() { return {.poll_interval = 100ms, .retry_delay_max = 250ms}; }
  static ConsumerConfig ConsumerDefaults() {
    return {.group = kConsumer, .block = 500ms, .retry_delay_min = 5ms, .retry_delay_max = 250ms};
  }

  void StartRelay(RelayConfig config = RelayDefaults(), const Clock& clock = Clock::System()) {
    relay.emplace(*outbox, *pool, redis, metrics, config, clock);
    relay->Start(Scope());
  }
  // `subscribe` registers handlers before it starts.
  void StartConsumer(const std::function<void(Consumer&)>& subscribe, ConsumerConfig config = ConsumerDefaults(),
                     const Clock& clock = Clock::System()) {
    consumer.emplace(*outbox, *pool, redis, metrics, std::move(config), clock);
    subscribe(*consumer);
    consumer->Start(Scope());
  }
  // Ends what was started, at once.
  void Stop() {
    if (scope_) {
      const Result<void> stopped = scope_->Stop(kSoon);
      EXPECT_TRUE(stopped.ok()) << stopped.error().ToString();
    }
    relay.reset();
    consumer.reset();
    scope_.reset();
  }

  double Counter(const std::string& name, const std::string& help, const telemetry::Labels& labels) {
    return metrics.Counter(name, help, labels).Value();
  }
  double Consumed(const std::string& type, const std::string& outcome) {
    return Counter("nova_events_consumed_total", "Events taken from a stream, by what became of them",
                   {{"group", kConsumer}, {"producer", kProducer}, {"type", type}, {"outcome", outcome}});
  }

 private:
  runtime::Scope& Scope() {
    if (!scope_) scope_.emplace(runtime_);
    return *scope_;
  }

  runtime::Runtime& runtime_;

 public:
  telemetry::Metrics metrics;
  resilience::DatabaseDependency database{"postgres", metrics};
  resilience::CacheDependency cache{"redis", metrics};
  redis::Client redis;
  std::optional<Pool> pool;
  std::optional<Outbox> outbox;
  std::optional<Relay> relay;
  std::optional<Consumer> consumer;

 private:
  std::optional<runtime::Scope> scope_;
};

// Empty databases with the tables of nova/events for two services, `alpha` whose events `beta` consumes.
class EventsTest : public ::testing::Test {
 protected:
  static tests::PostgresFixture& Postgres() { return tests::PostgresFixture::Instance(); }

  EventsTest() {
    for (const char* service : {kProducer, kConsumer}) {
      Postgres().RecreateDatabase(service);
      const auto migrated = runtime_.RunBlocking<postgres::MigrationReport>(
          kSoon, [service](Call& call) { return Migrate(call, Postgres().Direct(service)); });
      EXPECT_TRUE(migrated.ok()) << migrated.error().ToString();
      // Past the pooler, so that a look is possible also when that is dead.
      postgres::PoolConfig config;
      config.connection = Postgres().Direct(service);
      config.size_max = 2;
      watchers_.emplace(std::piecewise_construct, std::forward_as_tuple(service),
                        std::forward_as_tuple(runtime_, watcher_metrics_, watched_, config));
    }
    Must(kProducer, "CREATE TABLE made (aggregate text NOT NULL)");
    // Neither idempotent nor indifferent to order.
    Must(kConsumer,
         "CREATE TABLE effects (position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, aggregate text NOT NULL, "
         "sequence bigint NOT NULL)");
    Must(kConsumer, "CREATE TABLE counters (aggregate text PRIMARY KEY, count bigint NOT NULL)");
  }
  ~EventsTest() override {
    for (auto& [name, watcher] : watchers_) EXPECT_TRUE(watcher.Close(kSoon).ok());
  }

  template <class T>
  Result<T> Run(std::function<Task<T>(Call&)> work) {
    return runtime_.RunBlocking<T>(kSoon, std::move(work));
  }

  void Must(const std::string& service, const std::string& sql) {
    const auto rows = Run<Rows>([&](Call& call) { return watchers_.at(service).Query(call, Statement{"test", sql}); });
    ASSERT_TRUE(rows.ok()) << rows.error().ToString();
  }
  // The one value of a statement.
  template <class T = std::int64_t>
  T Value(const std::string& service, const std::string& sql) {
    const auto rows = Run<Rows>([&](Call& call) { return watchers_.at(service).Query(call, Statement{"test", sql}); });
    if (!rows) {
      ADD_FAILURE() << rows.error().ToString();
      return T{};
    }
    auto value = (*rows)[0].template Get<T>(0);
    EXPECT_TRUE(value.ok()) << value.error().ToString();
    return value ? *value : T{};
  }

  // A transaction of the producer: an effect and the event that tells of it. `fails`: its body fails after both.
  static Task<void> Make(Call& call, Outbox& outbox, std::string aggregate, bool fails = false) {
    co_return co_await outbox.InTransaction(call, [&](Transaction& transaction) -> Task<void> {
      static constexpr Statement kInsert{"test_insert_made", "INSERT INTO made (aggregate) VALUES ($1)"};
      NOVA_CO_TRY(co_await transaction.Query(call, kInsert, aggregate));
      v1::UserCreated event;
      event.set_user_id(aggregate);
      NOVA_CO_TRY(co_await outbox.Append(call, transaction, aggregate, event));
      if (fails) co_return FailedPrecondition("the body fails");
      co_return Ok();
    });
  }
  void MustMake(Process& process, const std::string& aggregate, int count = 1) {
    for (int i = 0; i < count; ++i) {
      const auto made = Run<void>([&](Call& call) { return Make(call, *process.outbox, aggregate); });
      ASSERT_TRUE(made.ok()) << made.error().ToString();
    }
  }

  // The consumer's handler.
  static Task<void> Apply(Call& call, Transaction& transaction, const v1::Envelope& envelope) {
    static constexpr Statement kApply{"test_apply",
                                      "WITH counted AS (INSERT INTO counters AS c (aggregate, count) VALUES ($1, 1) "
                                      "ON CONFLICT (aggregate) DO UPDATE SET count = c.count + 1) "
                                      "INSERT INTO effects (aggregate, sequence) VALUES ($1, $2)"};
    NOVA_CO_TRY(co_await transaction.Query(call, kApply, envelope.aggregate(), envelope.sequence()));
    co_return Ok();
  }
  static void Subscribe(Consumer& consumer) {
    consumer.On<v1::UserCreated>(
        kProducer,
        [](Call& call, Transaction& transaction, const v1::Envelope& envelope, const v1::UserCreated&) -> Task<void> {
          return Apply(call, transaction, envelope);
        });
  }

  std::int64_t Effects() { return Value(kConsumer, "SELECT count(*) FROM effects"); }
  std::int64_t Unpublished() {
    return Value(kProducer, "SELECT count(*) FROM events.outbox WHERE published_at IS NULL");
  }

  // Effects whose number is not the next of their aggregate.
  static constexpr const char* kOutOfOrder =
      "SELECT count(*) FROM (SELECT sequence, row_number() OVER (PARTITION BY aggregate ORDER BY position) AS expected "
      "FROM effects) AS numbered WHERE sequence <> expected";

  // Every event that was committed took effect, once and in its aggregate's order; and every effect of the producer has
  // its event.
  void ExpectExactlyOnce() {
    const auto committed = [this] {
      return Value(kProducer, "SELECT coalesce(sum(sequence), 0)::bigint FROM events.aggregates");
    };
    EXPECT_TRUE(Eventually([&] { return Effects() >= committed(); })) << Effects() << " of " << committed();
    EXPECT_EQ(Value(kProducer, "SELECT count(*) FROM made"), committed());
    EXPECT_EQ(Effects(), committed());
    EXPECT_EQ(Value(kConsumer, "SELECT coalesce(sum(count), 0)::bigint FROM counters"), committed());
    EXPECT_EQ(Value(kConsumer, kOutOfOrder), 0) << "effects out of the order of their aggregate";
    EXPECT_EQ(Value(kConsumer, "SELECT count(*) FROM events.dead_letters"), 0);
  }

  runtime::Runtime runtime_{{.threads = 2}};
  telemetry::Metrics watcher_metrics_;
  resilience::DatabaseDependency watched_{"postgres", watcher_metrics_};
  std::map<std::string, Pool> watchers_;
};

}  // namespace nova::events
