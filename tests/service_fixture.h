// What the tests of every service stand on: its own tables in a real database that is reached through PgBouncer as in
// production, its outbox, a clock that moves only when told, and calls in the name of somebody.
//
//   inline constexpr char kName[] = "user";
//
//   class UserTest : public tests::ServiceFixture<kName, Migrations> {
//    protected:
//     Store store_{pool_, outbox_};
//     Service service_{store_, nullptr, metrics_, clock_};
//   };
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <future>
#include <gtest/gtest.h>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "nova/base/clock.h"
#include "nova/base/result.h"
#include "nova/base/uuid.h"
#include "nova/events/outbox.h"
#include "nova/postgres/migrate.h"
#include "nova/postgres/pool.h"
#include "nova/resilience/dependency.h"
#include "nova/runtime/call.h"
#include "nova/runtime/runtime.h"
#include "nova/runtime/scope.h"
#include "nova/telemetry/metrics.h"
#include "tests/postgres_fixture.h"

namespace nova::tests {

// Makes the database `name`, if it is not there, with the tables of nova/events and of the service.
void MakeServiceDatabase(const std::string& name, std::span<const postgres::Migration> migrations);
// Empties all of these tables.
void EmptyServiceDatabase(const std::string& name);
// The encoded events of one type in the outbox, in their order.
std::vector<std::string> PayloadsOf(const std::string& database, const std::string& type);

// Whose access token a call comes with: by default it has none. Of an account alone: in some session of it.
class As {
 public:
  As() = default;
  As(Uuid account) : caller_(runtime::Caller{.account = account, .session = Uuid::New()}) {}
  As(std::optional<Uuid> account) : As(account ? As(*account) : As()) {}
  As(runtime::Caller caller) : caller_(caller) {}
  As(std::optional<runtime::Caller> caller) : caller_(caller) {}

  void Enter(runtime::Call& call) const {
    if (caller_) call.set_caller(*caller_);
  }

 private:
  std::optional<runtime::Caller> caller_;
};

// `kName`: the service, its database and the producer of its events. Each test begins with empty tables.
template <const char* kName, std::span<const postgres::Migration> (*kMigrations)()>
class ServiceFixture : public testing::Test {
 protected:
  template <class T>
  using Work = std::function<runtime::Task<T>(runtime::Call&)>;

  // A bound on what must happen soon; reaching it fails the test.
  static constexpr Duration kSoon = std::chrono::seconds(60);

  static void SetUpTestSuite() { MakeServiceDatabase(kName, kMigrations()); }
  void SetUp() override { EmptyServiceDatabase(kName); }
  void TearDown() override { EXPECT_TRUE(pool_.Close(kSoon)); }

  // As the superuser, past the service.
  static void Execute(const std::string& sql) { (void)PostgresFixture::Instance().Query(sql, kName); }
  // The one value that the statement yields; empty if it yields none.
  static std::string ValueOf(const std::string& sql) {
    const auto result = PostgresFixture::Instance().Query(sql, kName);
    return result.rows.empty() ? "" : result.rows[0][0].value_or("");
  }
  static std::string CountOf(const std::string& table) { return ValueOf("SELECT count(*) FROM " + table); }
  // The events of one type that the service has told of, in their order.
  template <class Event>
  static std::vector<Event> Events() {
    std::vector<Event> events;
    for (const std::string& payload : PayloadsOf(kName, Event::descriptor()->full_name()))
      EXPECT_TRUE(events.emplace_back().ParseFromString(payload));
    return events;
  }

  template <class T>
  static Code CodeOf(const Result<T>& result) {
    return result ? Code::kOk : result.error().code();
  }

  template <class T>
  Result<T> Run(As caller, Work<T> work, Duration timeout = kSoon) {
    return runtime_.RunBlocking<T>(timeout, [&](runtime::Call& call) {
      caller.Enter(call);
      return work(call);
    });
  }
  template <class T>
  Result<T> Run(Work<T> work, Duration timeout = kSoon) {
    return Run<T>(As(), std::move(work), timeout);
  }

  // Runs `work(call, i)` for each i below `count` at once, each on a strand of its own.
  template <class T>
  std::vector<Result<T>> RunAtOnce(std::size_t count,
                                   std::function<runtime::Task<T>(runtime::Call&, std::size_t)> work) {
    std::vector<Result<T>> results(count);
    std::promise<void> done;
    std::atomic<std::size_t> left = count;
    runtime::Scope scope(runtime_);
    for (std::size_t i = 0; i < count; ++i) {
      scope.Spawn("racer " + std::to_string(i), [&, i](runtime::Call& call) -> runtime::Task<void> {
        results[i] = co_await work(call, i);
        if (--left == 0) done.set_value();
        co_return Ok();
      });
    }
    EXPECT_EQ(done.get_future().wait_for(kSoon), std::future_status::ready);
    EXPECT_TRUE(scope.Stop(kSoon));
    return results;
  }

  FakeClock clock_;
  telemetry::Metrics metrics_;
  runtime::Runtime runtime_{{.threads = 2}};
  resilience::DatabaseDependency database_{"postgres", metrics_};
  postgres::Pool pool_{
      runtime_, metrics_, database_, {.connection = PostgresFixture::Instance().Pooled(kName), .size_max = 8}};
  events::Outbox outbox_{pool_, kName, clock_};
};

}  // namespace nova::tests
