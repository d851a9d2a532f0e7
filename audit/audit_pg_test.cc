// The checks of P0-3 against a real PostgreSQL and PgBouncer that keep the promise, and poolers that break it.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sstream>
#include <unistd.h>

#include "audit/audit.h"
#include "audit/checks.h"
#include "audit/database_probe.h"
#include "local/file.h"
#include "local/pgbouncer.h"
#include "nova/tls/authority.h"
#include "tests/mtls_fixture.h"
#include "tests/postgres_fixture.h"

namespace nova::audit {
namespace {

namespace fs = std::filesystem;
using std::chrono::seconds;
using ::testing::HasSubstr;
using tests::PostgresFixture;
using Status = Row::Status;

constexpr const char* kDatabase = "identity";
constexpr int kBudget = 15;

PostgresFixture& Servers() { return PostgresFixture::Instance(); }

postgres::ConnectionConfig AsAudit(int port, const std::string& database) {
  auto connection = Servers().Audit(database);
  connection.port = port;
  return connection;
}

AuditConfig ThroughPooler(int pooler_port) {
  AuditConfig config;
  config.pooled = AsAudit(pooler_port, kDatabase);
  config.direct = AsAudit(Servers().postgres_port(), kDatabase);
  config.pgbouncer_admin = AsAudit(pooler_port, "pgbouncer");
  config.topology.services = {
      {.name = "identity", .database = kDatabase, .role = kDatabase, .max_db_connections = kBudget}};
  config.topology.pgbouncer_replicas = 1;
  config.topology.postgres_reserved_connections = 20;
  config.services = {{.name = "identity", .grpc_target = "127.0.0.1:1", .admin_target = "127.0.0.1:1"}};
  config.latency_samples = 50;
  return config;
}

// A second PgBouncer in front of the same PostgreSQL, with figures that the fixture's own never has. Ends with the
// test.
class OddPooler {
 public:
  explicit OddPooler(const std::function<void(local::PgBouncerConfig&)>& change) {
    std::string folder = (fs::temp_directory_path() / "nova-audit-test-XXXXXX").string();
    if (::mkdtemp(folder.data()) == nullptr) throw std::runtime_error("mkdtemp");
    folder_ = folder;
    const auto audit = Servers().Audit();
    const auto owner = Servers().Pooled(kDatabase);
    local::PgBouncerConfig config{.folder = folder_ / "pgbouncer",
                                  .log_file = folder_ / "pgbouncer.log",
                                  .port = tests::FreePort(),
                                  .postgres_port = Servers().postgres_port(),
                                  .databases = {{.name = kDatabase, .connections_max = kBudget}},
                                  .users = {{audit.user, audit.password}, {owner.user, owner.password}}};
    std::optional<tls::FileOwner> file_owner;
    if (::geteuid() == 0) {
      config.user = OrThrow(local::FindUser("postgres"));
      file_owner = tls::FileOwner{.uid = config.user->uid, .gid = config.user->gid};
    }
    OrThrow(local::MakeDirectory(folder_, 0711));
    OrThrow(local::MakeDirectory(config.folder, 0700, config.user));
    // Of the fixture's authority, which the test's connections trust.
    auto authority =
        OrThrow(tls::Authority::Load(Servers().ca_file().parent_path().parent_path() / "ca", Clock::System()));
    OrThrow(authority.Issue({.principal = "pgbouncer", .owner = file_owner}, folder_ / "tls"));
    config.tls = local::TlsFiles::In(folder_ / "tls");
    change(config);
    pooler_ = OrThrow(local::PgBouncer::Start(std::move(config)));
  }

  ~OddPooler() {
    pooler_.reset();
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
  }
  OddPooler(const OddPooler&) = delete;
  OddPooler& operator=(const OddPooler&) = delete;

  // What no setting of ours can do: an edit of its file by hand.
  void EditConfiguration(const std::string& from, const std::string& to) {
    const fs::path file = pooler_->config().folder / "pgbouncer.ini";
    std::ostringstream text;
    text << std::ifstream(file).rdbuf();
    std::string content = text.str();
    const std::size_t at = content.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    content.replace(at, from.size(), to);
    std::ofstream(file, std::ios::trunc) << content;
    OrThrow(pooler_->Reload());
  }

  int port() const { return pooler_->config().port; }

 private:
  template <class T>
  static T OrThrow(Result<T> result) {
    if (!result) throw std::runtime_error(result.error().ToString());
    if constexpr (!std::is_void_v<T>) return *std::move(result);
  }

  fs::path folder_;
  std::optional<local::PgBouncer> pooler_;
};

class DatabaseProbeTest : public ::testing::Test {
 protected:
  DatabaseProbeTest() { Servers().CreateDatabase(kDatabase, kBudget); }

  // A probe of its own for each question, because a probe asks the console once.
  template <class... Args>
  Finding Ask(const AuditConfig& config, Finding (DatabaseProbe::*check)(Args...), Args... args) {
    DatabaseProbe probe(runtime_, config);
    return (probe.*check)(args...);
  }

  static AuditConfig Good() { return ThroughPooler(Servers().pooler_port()); }

  runtime::Runtime runtime_;
};

TEST_F(DatabaseProbeTest, ThePoolerOfTheStackKeepsThePromise) {
  const AuditConfig config = Good();
  DatabaseProbe probe(runtime_, config);
  // Makes a pool and a server connection, so that there is something to see.
  const Finding latency = probe.AddedLatency();
  ASSERT_NE(latency.status, Status::kNotMeasured) << latency.note;
  EXPECT_THAT(latency.note, HasSubstr("50 pairs; through p50 "));
  EXPECT_THAT(latency.note, HasSubstr("; around p50 "));
  for (const Finding& finding :
       {probe.SettingIs("pool_mode", "transaction"), probe.SettingIsAtLeast("max_client_conn", 1000),
        probe.SettingIs("default_pool_size", "25"), probe.SettingIs("query_timeout", "30"),
        probe.SettingIs("server_lifetime", "3600"), probe.PoolsInTransactionMode(), probe.DatabasesWithinBudget(),
        probe.BudgetFitsServer(), probe.TrafficPassesPooler(), probe.ConnectionsAreTls()}) {
    EXPECT_EQ(finding.status, Status::kPass) << finding.value << " " << finding.note;
  }
  EXPECT_EQ(probe.SettingIs("pool_mode", "transaction").value, "transaction");
  EXPECT_EQ(probe.SettingIsAtLeast("max_client_conn", 1000).value, "1000");
  EXPECT_EQ(probe.PoolsInTransactionMode().value, "1 of 1");
  EXPECT_EQ(probe.DatabasesWithinBudget().note, "identity 15");
  EXPECT_EQ(probe.BudgetFitsServer().value, "15 of 180");
  EXPECT_EQ(probe.TrafficPassesPooler().value, "1 of 1");
  EXPECT_THAT(probe.ConnectionsAreTls().note, HasSubstr("TLSv1.3"));
}

TEST_F(DatabaseProbeTest, SessionModeFails) {
  OddPooler odd([](local::PgBouncerConfig&) {});
  odd.EditConfiguration("pool_mode = transaction", "pool_mode = session");
  const AuditConfig config = ThroughPooler(odd.port());
  // PgBouncer reads its file when it comes to it.
  Finding mode;
  const SteadyTime end = Clock::System().Now() + seconds(10);
  do {
    mode = Ask(config, &DatabaseProbe::SettingIs, std::string_view("pool_mode"), std::string_view("transaction"));
  } while (mode.status == Status::kPass && Clock::System().Now() < end);
  EXPECT_EQ(mode.status, Status::kFail);
  EXPECT_EQ(mode.value, "session");

  DatabaseProbe probe(runtime_, config);
  ASSERT_NE(probe.AddedLatency().status, Status::kNotMeasured);
  const Finding pools = probe.PoolsInTransactionMode();
  EXPECT_EQ(pools.status, Status::kFail);
  EXPECT_EQ(pools.note, "identity/audit is in session mode");
}

TEST_F(DatabaseProbeTest, OtherFiguresFail) {
  const OddPooler odd([](local::PgBouncerConfig& config) {
    config.client_connections_max = 999;
    config.pool_size = 24;
    config.query_timeout = seconds(0);
    config.server_lifetime = seconds(7200);
    config.databases = {{.name = kDatabase, .connections_max = 200}, {.name = "unbudgeted", .connections_max = 1}};
  });
  const AuditConfig config = ThroughPooler(odd.port());
  DatabaseProbe probe(runtime_, config);
  EXPECT_EQ(probe.SettingIsAtLeast("max_client_conn", 1000).status, Status::kFail);
  EXPECT_EQ(probe.SettingIs("default_pool_size", "25").status, Status::kFail);
  const Finding timeout = probe.SettingIs("query_timeout", "30");
  EXPECT_EQ(timeout.status, Status::kFail);
  EXPECT_EQ(timeout.value, "0");
  EXPECT_EQ(probe.SettingIs("server_lifetime", "3600").status, Status::kFail);
  EXPECT_EQ(probe.SettingIs("no_such_key", "1").status, Status::kNotMeasured);

  const Finding budget = probe.DatabasesWithinBudget();
  EXPECT_EQ(budget.status, Status::kFail);
  EXPECT_EQ(budget.value, "0 of 2");
  EXPECT_THAT(budget.note, HasSubstr("identity has 200 instead of 15"));
  EXPECT_THAT(budget.note, HasSubstr("unbudgeted is not in the budget"));
  // 201 of 200, of which 20 are kept.
  const Finding sum = probe.BudgetFitsServer();
  EXPECT_EQ(sum.status, Status::kFail);
  EXPECT_EQ(sum.value, "201 of 180");
}

TEST_F(DatabaseProbeTest, EveryReplicaCountsAgainstTheServersLimit) {
  AuditConfig config = Good();
  config.topology.pgbouncer_replicas = 12;
  EXPECT_EQ(Ask(config, &DatabaseProbe::BudgetFitsServer).status, Status::kPass);  // 180 of 180
  config.topology.pgbouncer_replicas = 13;
  const Finding finding = Ask(config, &DatabaseProbe::BudgetFitsServer);
  EXPECT_EQ(finding.status, Status::kFail);
  EXPECT_EQ(finding.value, "195 of 180");
}

TEST_F(DatabaseProbeTest, ADatabaseWithoutALimitFails) {
  const OddPooler odd([](local::PgBouncerConfig& config) { config.databases[0].connections_max = 0; });
  const Finding finding = Ask(ThroughPooler(odd.port()), &DatabaseProbe::BudgetFitsServer);
  EXPECT_EQ(finding.status, Status::kFail);
  EXPECT_EQ(finding.note, "without a limit: identity");
}

TEST_F(DatabaseProbeTest, AServiceWhoseDatabaseThePoolerDoesNotKnowFails) {
  AuditConfig config = Good();
  config.topology.services.push_back({.name = "user", .database = "user", .role = "user", .max_db_connections = 10});
  config.services.push_back({.name = "user", .grpc_target = "127.0.0.1:1", .admin_target = "127.0.0.1:1"});
  const Finding finding = Ask(config, &DatabaseProbe::DatabasesWithinBudget);
  EXPECT_EQ(finding.status, Status::kFail);
  EXPECT_EQ(finding.value, "1 of 2");
  EXPECT_EQ(finding.note, "PgBouncer does not know user");
}

TEST_F(DatabaseProbeTest, AServiceThatGoesAroundThePoolerFails) {
  postgres::PoolConfig around;
  around.connection = Servers().Direct(kDatabase);
  telemetry::Metrics metrics;
  resilience::DatabaseDependency database("postgres", metrics);
  postgres::Pool pool(runtime_, metrics, database, around);
  ASSERT_TRUE(runtime_.RunBlocking<void>(seconds(20), [&](runtime::Call& call) { return pool.Ping(call); }).ok());
  const Finding finding = Ask(Good(), &DatabaseProbe::TrafficPassesPooler);
  EXPECT_EQ(finding.status, Status::kFail) << finding.note;
  EXPECT_THAT(finding.note, HasSubstr("identity is connected to identity directly"));
  EXPECT_TRUE(pool.Close(seconds(10)).ok());
}

TEST_F(DatabaseProbeTest, ARoleThatMayNotSeeOthersMeasuresNothing) {
  AuditConfig config = Good();
  // The service's own role lacks pg_monitor; somebody else's connection is there to be hidden from it.
  config.direct = Servers().Direct(kDatabase);
  const AuditConfig good = Good();
  DatabaseProbe others(runtime_, good);
  ASSERT_NE(others.AddedLatency().status, Status::kNotMeasured);
  const Finding finding = Ask(config, &DatabaseProbe::TrafficPassesPooler);
  EXPECT_EQ(finding.status, Status::kNotMeasured) << finding.value;
  EXPECT_THAT(finding.note, HasSubstr("GRANT pg_monitor"));
}

TEST_F(DatabaseProbeTest, APoolerThatIsDownMeasuresNothing) {
  const AuditConfig config = ThroughPooler(1);
  DatabaseProbe probe(runtime_, config);
  for (const Finding& finding : {probe.SettingIs("pool_mode", "transaction"), probe.PoolsInTransactionMode(),
                                 probe.TrafficPassesPooler(), probe.AddedLatency()}) {
    EXPECT_EQ(finding.status, Status::kNotMeasured);
    EXPECT_THAT(finding.note, HasSubstr("UNAVAILABLE"));
  }
}

// The whole run: one row for every entry of the table, also where parts do not answer.
TEST_F(DatabaseProbeTest, ARunGivesARowForEveryCheckOfThePromise) {
  tests::MtlsFixture mtls;
  const auto leaf = mtls.Leaf("audit");
  AuditConfig config = Good();
  config.identity = {
      .server_ca_path = leaf / "ca.crt", .certificate_path = leaf / "tls.crt", .key_path = leaf / "tls.key"};
  const auto all = audit::Run(runtime_, config);
  ASSERT_TRUE(all.ok()) << all.error().ToString();
  EXPECT_EQ(all->size(), AllChecks().size());
  EXPECT_EQ(ExitCode(*all), 1);

  config.only = "P0-3";
  const auto some = audit::Run(runtime_, config);
  ASSERT_TRUE(some.ok()) << some.error().ToString();
  for (const Row& row : *some) EXPECT_EQ(row.promise, "P0-3");
  EXPECT_THAT(*some, ::testing::Contains(::testing::AllOf(::testing::Field(&Row::check, "pool_mode"),
                                                          ::testing::Field(&Row::value, "transaction"),
                                                          ::testing::Field(&Row::status, Status::kPass))));
}

}  // namespace
}  // namespace nova::audit
