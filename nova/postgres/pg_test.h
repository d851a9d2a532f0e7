// What the tests against a real PostgreSQL share: each runs directly and through PgBouncer.
#pragma once

#include <boost/asio/post.hpp>
#include <functional>
#include <future>
#include <gtest/gtest.h>
#include <memory>
#include <string>

#include "nova/postgres/pool.h"
#include "nova/resilience/dependency.h"
#include "nova/runtime/one_shot.h"
#include "nova/runtime/runtime.h"
#include "nova/telemetry/metrics.h"
#include "tests/eventually.h"
#include "tests/postgres_fixture.h"

namespace nova::postgres {

namespace asio = boost::asio;
using namespace std::chrono_literals;
using runtime::Call;
using runtime::OneShot;
using runtime::Task;
using tests::Eventually;
using tests::PostgresFixture;

// A bound on what must happen soon; reaching it fails the test.
inline constexpr Duration kSoon = 20s;

// A task that was started, and can be cancelled, from the test's thread.
template <class T>
class Started {
 public:
  Started(runtime::Runtime& runtime, std::function<Task<T>(Call&)> work, Duration timeout = kSoon)
      : future_(std::async(std::launch::async, [this, &runtime, work = std::move(work), timeout] {
          return runtime.RunBlocking<T>(timeout, [this, &work](Call& call) -> Task<T> {
            call_.set_value(&call);
            co_return co_await work(call);
          });
        })) {}

  // Precondition: the task has not ended.
  void Cancel() {
    Call* const call = call_.get_future().get();
    asio::post(call->strand(), [call] { call->Cancel(Cancelled("the client went away")); });
  }
  Result<T> Get() { return future_.get(); }

 private:
  std::promise<Call*> call_;
  std::future<Result<T>> future_;
};

enum class Route { kDirect, kPooled };

class PgTest : public ::testing::TestWithParam<Route> {
 protected:
  static constexpr const char* kDatabase = "pool";
  static constexpr resilience::DependencyName kDependency = "postgres";

  static PostgresFixture& Server() { return PostgresFixture::Instance(); }

  PgTest() {
    Server().CreateDatabase(kDatabase);
    MakePool(Defaults());
  }

  ~PgTest() override {
    const Result<void> closed = pool_->Close(kSoon);
    EXPECT_TRUE(closed.ok()) << closed.error().ToString();
  }

  static bool IsDirect() { return GetParam() == Route::kDirect; }

  static PoolConfig Defaults() {
    PoolConfig config;
    config.connection = IsDirect() ? Server().Direct(kDatabase) : Server().Pooled(kDatabase);
    config.size_max = 4;
    // On a busy machine even what the server confirms at once takes its time.
    config.cancel_drain = 20s;
    return config;
  }

  static resilience::DependencyConfig Policies() {
    return resilience::DependencyConfig::Default(resilience::Kind::kDatabase);
  }

  void MakePool(PoolConfig config, const resilience::DependencyConfig& policies = Policies()) {
    if (pool_) EXPECT_TRUE(pool_->Close(kSoon).ok());
    pool_.reset();
    database_.reset();
    metrics_ = std::make_unique<telemetry::Metrics>();
    database_ = std::make_unique<resilience::DatabaseDependency>(kDependency, *metrics_, policies);
    pool_ = std::make_unique<Pool>(runtime_, *metrics_, *database_, std::move(config));
  }

  static void Pause() { IsDirect() ? Server().PausePostgres() : Server().PausePooler(); }
  static void Resume() { IsDirect() ? Server().ResumePostgres() : Server().ResumePooler(); }

  template <class... Ts>
  Result<Rows> Query(std::string_view sql, const Ts&... values) {
    return runtime_.RunBlocking<Rows>(
        kSoon, [&](Call& call) { return pool_->Query(call, Statement{"test", sql}, values...); });
  }

  // The one value that a statement yields.
  template <class T = std::int64_t>
  T Value(std::string_view sql) {
    const auto rows = Query(sql);
    EXPECT_TRUE(rows.ok()) << rows.error().ToString();
    if (!rows) return T{};
    auto value = (*rows)[0].Get<T>(0);
    EXPECT_TRUE(value.ok()) << value.error().ToString();
    return value ? *value : T{};
  }

  void Must(std::string_view sql) {
    const auto rows = Query(sql);
    ASSERT_TRUE(rows.ok()) << rows.error().ToString();
  }

  // Backends that run a statement whose text contains `marker`.
  static int Active(const std::string& marker) {
    return std::stoi(Server()
                         .Query("SELECT count(*) AS n FROM pg_stat_activity WHERE state = 'active' AND pid <> "
                                "pg_backend_pid() AND query LIKE '%" +
                                marker + "%'")
                         .Get(0, "n"));
  }

  double Connections(const std::string& state) {
    return metrics_
        ->Gauge("nova_postgres_pool_connections", "Connections to the database", {{"pool", "main"}, {"state", state}})
        .Value();
  }
  // What was left behind by ended calls is over: nothing is in use, and the connections that are left are idle.
  testing::AssertionResult Settled(int connections) {
    return Eventually([&] { return Connections("in_use") == 0 && Connections("idle") == connections; });
  }
  double Waiters() {
    return metrics_->Gauge("nova_postgres_waiters", "Calls that wait for a connection", {{"pool", "main"}}).Value();
  }

  runtime::Runtime runtime_{{.threads = 2}};
  std::unique_ptr<telemetry::Metrics> metrics_;
  std::unique_ptr<resilience::DatabaseDependency> database_;
  std::unique_ptr<Pool> pool_;
};

inline std::string RouteName(const ::testing::TestParamInfo<Route>& info) {
  return info.param == Route::kDirect ? "Direct" : "PgBouncer";
}

}  // namespace nova::postgres
