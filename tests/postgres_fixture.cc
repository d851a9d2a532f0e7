#include "tests/postgres_fixture.h"

#include <cstdlib>
#include <fmt/format.h>
#include <random>
#include <signal.h>
#include <unistd.h>

#include "local/ports.h"
#include "nova/tls/authority.h"

namespace nova::tests {
namespace {

// Another process may take a free port between the look and the bind.
constexpr int kStartAttempts = 5;

}  // namespace

int FreePort() {
  std::random_device random;
  std::uniform_int_distribution<int> ports(20000, 32000);
  while (true) {
    int port = ports(random);
    if (local::CheckPorts({{.port = port, .who = "a test"}}, 0)) return port;
  }
}

PostgresFixture& PostgresFixture::Instance() {
  static PostgresFixture fixture;
  return fixture;
}

PostgresFixture::PostgresFixture()
    : owner_(::getpid()),
      folder_("nova-test-postgres-"),
      superuser_password_(local::RandomText()),
      audit_password_(local::RandomText()) {
  Start();
}

void PostgresFixture::Start() {
  std::optional<local::User> user;
  if (::geteuid() == 0) user = Must(local::FindUser("postgres"));
  std::optional<tls::FileOwner> owner;
  if (user) owner = tls::FileOwner{.uid = user->uid, .gid = user->gid};

  tls::Authority authority = Must(tls::Authority::Create(folder_.path() / "ca", Clock::System()));
  Must(authority.Issue({.principal = "postgres", .owner = owner}, folder_.path() / "postgres-tls"));
  Must(authority.Issue({.principal = "pgbouncer", .owner = owner}, folder_.path() / "pgbouncer-tls"));

  binaries_ = Must(local::FindPostgres());
  local::PostgresConfig config{.cluster = folder_.path() / "postgres",
                               .log_file = folder_.path() / "postgres.log",
                               .user = user,
                               .superuser_password = superuser_password_,
                               .tls = local::TlsFiles::In(folder_.path() / "postgres-tls"),
                               .durable = false};
  Must(local::InitializeCluster(config, *binaries_));
  for (int attempt = 1; !server_; ++attempt) {
    config.port = FreePort();
    auto started = local::PostgresServer::Start(config, *binaries_);
    if (started) {
      server_ = *std::move(started);
    } else if (attempt == kStartAttempts) {
      Die(started.error());
    }
  }
  Must(server_->Provision({}, audit_password_));

  Must(local::MakeDirectory(folder_.path() / "pgbouncer", 0700, user));
  local::PgBouncerConfig pooler{.folder = folder_.path() / "pgbouncer",
                                .log_file = folder_.path() / "pgbouncer.log",
                                .user = user,
                                .postgres_port = config.port,
                                .databases = {},
                                .users = {{std::string(local::kAuditRole), audit_password_}},
                                .tls = local::TlsFiles::In(folder_.path() / "pgbouncer-tls")};
  for (int attempt = 1; !pooler_; ++attempt) {
    pooler.port = FreePort();
    auto started = local::PgBouncer::Start(pooler);
    if (started) {
      pooler_ = *std::move(started);
    } else if (attempt == kStartAttempts) {
      Die(started.error());
    }
  }
}

PostgresFixture::~PostgresFixture() {
  // A process forked by a test has a copy of this object, but neither the servers nor the folder are its own.
  if (::getpid() != owner_) std::_Exit(0);
  pooler_.reset();
  // Nothing here is kept, so nothing needs to reach the disk: the destructor's immediate shutdown is right.
  server_.reset();
}

void PostgresFixture::CreateDatabase(const std::string& name, int connections_max) {
  auto [password, is_new] = passwords_.try_emplace(name, local::RandomText());
  Must(server_->Provision({{.name = name, .role = name, .password = password->second}}, audit_password_));
  std::vector<local::PgBouncerDatabase> databases = pooler_->config().databases;
  std::vector<local::PgBouncerUser> users = pooler_->config().users;
  if (is_new) {
    databases.push_back({.name = name, .connections_max = connections_max});
    users.push_back({.name = name, .password = password->second});
  }
  for (local::PgBouncerDatabase& database : databases) {
    if (database.name == name) database.connections_max = connections_max;
  }
  Must(pooler_->Apply(std::move(databases), std::move(users)));
}

void PostgresFixture::RecreateDatabase(const std::string& name) {
  Query(fmt::format("DROP DATABASE IF EXISTS \"{}\" WITH (FORCE)", name));
  int connections_max = kConnectionsMax;
  for (const local::PgBouncerDatabase& database : pooler_->config().databases) {
    if (database.name == name) connections_max = database.connections_max;
  }
  CreateDatabase(name, connections_max);
}

postgres::ConnectionConfig PostgresFixture::Connection(int port, const std::string& database, const std::string& user,
                                                       const Secret<>& password) const {
  return {.host = "127.0.0.1",
          .port = port,
          .database = database,
          .user = user,
          .password = password,
          .ssl_mode = postgres::SslMode::kVerifyFull,
          .ssl_root_cert = ca_file().string(),
          .application_name = "nova-test"};
}

postgres::ConnectionConfig PostgresFixture::Direct(const std::string& name) const {
  return Connection(postgres_port(), name, name, passwords_.at(name));
}

postgres::ConnectionConfig PostgresFixture::Pooled(const std::string& name) const {
  return Connection(pooler_port(), name, name, passwords_.at(name));
}

postgres::ConnectionConfig PostgresFixture::Superuser(const std::string& database) const {
  return Connection(postgres_port(), database, std::string(local::kSuperuser), superuser_password_);
}

postgres::ConnectionConfig PostgresFixture::Audit(const std::string& database) const {
  return Connection(pooler_port(), database, std::string(local::kAuditRole), audit_password_);
}

local::SqlRows PostgresFixture::Query(const std::string& sql, const std::string& database) const {
  local::SqlConnection connection = Must(server_->Connect(database));
  return Must(connection.Execute(sql));
}

local::SqlRows PostgresFixture::Console(const std::string& command) const {
  local::SqlConnection connection = Must(pooler_->Console());
  return Must(connection.Execute(command));
}

void PostgresFixture::SignalPostgres(int signal) {
  local::Process& process = server_->process();
  // It must neither start a backend that is missed here nor see its backends die before it does.
  Must(process.Send(SIGSTOP));
  for (pid_t backend : local::ChildrenOf(process.pid())) ::kill(backend, signal);
  Must(process.Send(signal));
}

void PostgresFixture::KillPostgres() {
  // Backends are killed as well: they would finish what they do before they see that the postmaster is gone.
  SignalPostgres(SIGKILL);
  Must(server_->process().Wait(std::chrono::seconds(10)));
}

void PostgresFixture::RestartPostgres() {
  local::PostgresConfig config = server_->config();
  server_.reset();
  server_ = Must(local::PostgresServer::Start(std::move(config), *binaries_));
}

void PostgresFixture::PausePostgres() { SignalPostgres(SIGSTOP); }
void PostgresFixture::ResumePostgres() { SignalPostgres(SIGCONT); }

void PostgresFixture::KillPooler() { Must(pooler_->process().Terminate({})); }

void PostgresFixture::RestartPooler() {
  local::PgBouncerConfig config = pooler_->config();
  pooler_.reset();
  pooler_ = Must(local::PgBouncer::Start(std::move(config)));
}

void PostgresFixture::PausePooler() { Must(pooler_->process().Send(SIGSTOP)); }
void PostgresFixture::ResumePooler() { Must(pooler_->process().Send(SIGCONT)); }

}  // namespace nova::tests
