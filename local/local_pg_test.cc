// The servers that services stand on, as they are configured here: what they refuse, what they encrypt, what they
// count.
#include <fmt/format.h>
#include <fstream>
#include <gtest/gtest.h>
#include <poll.h>

#include "local/pgbouncer.h"
#include "local/postgres_server.h"
#include "local/process.h"
#include "tests/postgres_fixture.h"

namespace nova::local {
namespace {

using tests::PostgresFixture;

PostgresFixture& Servers() { return PostgresFixture::Instance(); }

SqlTarget Target(const postgres::ConnectionConfig& config) {
  return {.port = config.port,
          .database = config.database,
          .user = config.user,
          .password = config.password,
          .ca_file = config.ssl_root_cert};
}

std::string Setting(const SqlRows& shown, const std::string& key) {
  for (std::size_t i = 0; i < shown.rows.size(); ++i) {
    if (shown.Get(i, "key") == key) return shown.Get(i, "value");
  }
  return "(none)";
}

// Waits until `condition` holds, 5 s at most.
template <class Condition>
bool Eventually(Condition condition) {
  const SteadyTime end = Clock::System().Now() + std::chrono::seconds(5);
  while (!condition()) {
    if (Clock::System().Now() >= end) return false;
    ::poll(nullptr, 0, 20);
  }
  return true;
}

TEST(Local, PoolerRunsInTransactionModeWithTheFiguresOfTheBudget) {
  Servers().CreateDatabase("budget", 7);
  SqlRows config = Servers().Console("SHOW CONFIG");
  EXPECT_EQ(Setting(config, "pool_mode"), "transaction");
  EXPECT_EQ(Setting(config, "max_client_conn"), "1000");
  EXPECT_EQ(Setting(config, "default_pool_size"), "25");
  EXPECT_EQ(Setting(config, "query_timeout"), "30");
  EXPECT_EQ(Setting(config, "server_lifetime"), "3600");
  EXPECT_EQ(Setting(config, "auth_type"), "scram-sha-256");
  EXPECT_EQ(Setting(config, "client_tls_sslmode"), "require");
  EXPECT_EQ(Setting(config, "client_tls_protocols"), "tlsv1.3");
  EXPECT_EQ(Setting(config, "server_tls_sslmode"), "verify-full");
  EXPECT_EQ(Setting(config, "server_tls_protocols"), "tlsv1.3");

  SqlRows databases = Servers().Console("SHOW DATABASES");
  bool found = false;
  for (std::size_t i = 0; i < databases.rows.size(); ++i) {
    if (databases.Get(i, "name") != "budget") continue;
    found = true;
    EXPECT_EQ(databases.Get(i, "max_connections"), "7");
  }
  EXPECT_TRUE(found);
}

TEST(Local, PoolerMayOpenAThousandClientsWorthOfFiles) {
  std::ifstream limits(fmt::format("/proc/{}/limits", Servers().pooler_process()));
  std::string line;
  while (std::getline(limits, line) && !line.starts_with("Max open files")) {
  }
  ASSERT_TRUE(limits);
  EXPECT_GE(std::stoi(line.substr(std::string_view("Max open files").size())), 1200) << line;
}

TEST(Local, BothHopsAreEncryptedWithTls13) {
  Servers().CreateDatabase("hops");
  auto pooled = SqlConnection::Open(Target(Servers().Pooled("hops")));
  ASSERT_TRUE(pooled) << pooled.error().ToString();
  // What PostgreSQL sees is the pooler's connection.
  auto seen = pooled->Execute("SELECT ssl, version, current_user AS who FROM pg_stat_ssl WHERE pid = pg_backend_pid()");
  ASSERT_TRUE(seen) << seen.error().ToString();
  EXPECT_EQ(seen->Get(0, "ssl"), "t");
  EXPECT_EQ(seen->Get(0, "version"), "TLSv1.3");
  EXPECT_EQ(seen->Get(0, "who"), "hops");

  SqlRows clients = Servers().Console("SHOW CLIENTS");
  ASSERT_FALSE(clients.rows.empty());
  for (std::size_t i = 0; i < clients.rows.size(); ++i) EXPECT_TRUE(clients.Get(i, "tls").starts_with("TLSv1.3"));
  SqlRows servers = Servers().Console("SHOW SERVERS");
  ASSERT_FALSE(servers.rows.empty());
  for (std::size_t i = 0; i < servers.rows.size(); ++i) EXPECT_TRUE(servers.Get(i, "tls").starts_with("TLSv1.3"));
}

TEST(Local, PlaintextAndWrongPasswordsAreRefusedByBothServers) {
  Servers().CreateDatabase("refusals");
  for (SqlTarget target : {Target(Servers().Direct("refusals")), Target(Servers().Pooled("refusals"))}) {
    SqlTarget plain = target;
    plain.ca_file.clear();
    auto refused = SqlConnection::Open(plain);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), Code::kUnauthenticated) << refused.error().ToString();

    SqlTarget wrong = target;
    wrong.password = Secret<>(std::string("wrong"));
    refused = SqlConnection::Open(wrong);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), Code::kUnauthenticated) << refused.error().ToString();
  }
}

TEST(Local, ARoleReachesItsOwnDatabaseOnly) {
  Servers().CreateDatabase("mine");
  Servers().CreateDatabase("yours");
  SqlTarget target = Target(Servers().Direct("mine"));
  for (const char* closed : {"yours", "postgres", "template1"}) {
    target.database = closed;
    auto refused = SqlConnection::Open(target);
    ASSERT_FALSE(refused) << closed;
    EXPECT_NE(refused.error().message().find("permission denied"), std::string::npos) << refused.error().ToString();
  }
  target.database = "mine";
  auto own = SqlConnection::Open(target);
  ASSERT_TRUE(own) << own.error().ToString();
  EXPECT_TRUE(own->Execute("CREATE TABLE note (id int)"));
  EXPECT_FALSE(own->Execute("CREATE DATABASE other"));
  EXPECT_FALSE(own->Execute("CREATE ROLE other"));
  auto timeouts = own->Execute("SHOW statement_timeout");
  ASSERT_TRUE(timeouts);
  EXPECT_EQ(timeouts->Get(0, "statement_timeout"), "10s");
}

TEST(Local, AuditReadsStatisticsAndNoTable) {
  Servers().CreateDatabase("audited");
  auto owner = SqlConnection::Open(Target(Servers().Direct("audited")));
  ASSERT_TRUE(owner) << owner.error().ToString();
  ASSERT_TRUE(owner->Execute("CREATE TABLE letter (body text)"));
  auto audit = SqlConnection::Open(Target(Servers().Audit("audited")));
  ASSERT_TRUE(audit) << audit.error().ToString();
  auto denied = audit->Execute("SELECT * FROM letter");
  ASSERT_FALSE(denied);
  EXPECT_NE(denied.error().message().find("permission denied"), std::string::npos);
  EXPECT_FALSE(audit->Execute("CREATE TABLE mine (id int)"));
  auto seen = audit->Execute("SELECT count(*) FROM pg_stat_activity WHERE usename = 'audited' AND query <> ''");
  ASSERT_TRUE(seen) << seen.error().ToString();
  EXPECT_EQ(seen->Get(0, "count"), "1");

  // On the pooler's console it may look and not touch.
  auto console = SqlConnection::Open(Target(Servers().Audit()));
  ASSERT_TRUE(console);
  EXPECT_TRUE(console->Execute("SHOW POOLS"));
  EXPECT_FALSE(console->Execute("PAUSE"));
  EXPECT_FALSE(console->Execute("SHUTDOWN"));
}

TEST(Local, MoreClientsThanTheBudgetWaitForAServerConnection) {
  Servers().CreateDatabase("narrow", 2);
  std::vector<SqlConnection> clients;
  for (int i = 0; i < 8; ++i) {
    auto client = SqlConnection::Open(Target(Servers().Pooled("narrow")));
    ASSERT_TRUE(client) << client.error().ToString();
    ASSERT_TRUE(client->Execute("SELECT 1"));
    clients.push_back(*std::move(client));
  }
  ASSERT_TRUE(clients[0].Execute("BEGIN"));
  ASSERT_TRUE(clients[1].Execute("BEGIN"));
  SqlRows used = Servers().Query("SELECT count(*) FROM pg_stat_activity WHERE datname = 'narrow'");
  EXPECT_EQ(used.Get(0, "count"), "2");
}

TEST(Local, PoolerRecoversSoonAfterPostgresWasKilled) {
  Servers().CreateDatabase("recovers");
  auto before = SqlConnection::Open(Target(Servers().Pooled("recovers")));
  ASSERT_TRUE(before);
  ASSERT_TRUE(before->Execute("CREATE TABLE kept (id int); INSERT INTO kept VALUES (1)"));
  Servers().KillPostgres();
  // The pooler now learns that nobody answers.
  ASSERT_TRUE(Eventually([] { return Servers().Console("SHOW SERVERS").rows.empty(); }));
  auto waiting = SqlConnection::Open(Target(Servers().Pooled("recovers")), std::chrono::milliseconds(300));
  Servers().RestartPostgres();
  // server_login_retry is one second; its default of 15 would fail this.
  std::string count;
  EXPECT_TRUE(Eventually([&] {
    auto after = SqlConnection::Open(Target(Servers().Pooled("recovers")));
    if (!after) return false;
    auto rows = after->Execute("SELECT count(*) FROM kept");
    if (rows) count = rows->Get(0, "count");
    return rows.ok();
  }));
  EXPECT_EQ(count, "1");
}

TEST(Local, APausedServerAnswersNothingUntilItIsResumed) {
  Servers().CreateDatabase("paused");
  Servers().PausePostgres();
  auto nobody = SqlConnection::Open(Target(Servers().Direct("paused")), std::chrono::milliseconds(200));
  Servers().ResumePostgres();
  ASSERT_FALSE(nobody);
  EXPECT_EQ(nobody.error().code(), Code::kDeadlineExceeded);
  EXPECT_TRUE(SqlConnection::Open(Target(Servers().Direct("paused"))));

  Servers().PausePooler();
  nobody = SqlConnection::Open(Target(Servers().Pooled("paused")), std::chrono::milliseconds(200));
  Servers().ResumePooler();
  ASSERT_FALSE(nobody);
  EXPECT_EQ(nobody.error().code(), Code::kDeadlineExceeded);
  EXPECT_TRUE(SqlConnection::Open(Target(Servers().Pooled("paused"))));
}

}  // namespace
}  // namespace nova::local
