#include "local/pgbouncer.h"

#include <algorithm>
#include <fmt/format.h>
#include <unistd.h>

namespace nova::local {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr Duration kPollInterval = milliseconds(20);
// 1.18 ends at the first SIGTERM. From 1.23 on it then waits for its clients, and ends at the second.
constexpr Duration kDrainLimit = seconds(1);
constexpr Duration kStopLimit = seconds(4);
constexpr std::string_view kConfigurationFile = "pgbouncer.ini";
constexpr std::string_view kUserListFile = "userlist.txt";
// Beyond clients and servers: listeners, logs, the event loop.
constexpr int kOpenFilesSpare = 200;

std::string Configuration(const PgBouncerConfig& config) {
  std::string text = "; Written by nova at every start; changes are lost.\n[databases]\n";
  for (const PgBouncerDatabase& database : config.databases) {
    text += fmt::format("{0} = host=127.0.0.1 port={1} dbname={0} max_db_connections={2}\n", database.name,
                        config.postgres_port, database.connections_max);
  }
  text += fmt::format(
      "\n[pgbouncer]\n"
      "listen_addr = 127.0.0.1\n"
      "listen_port = {}\n"
      "listen_backlog = {}\n"
      "unix_socket_dir =\n"
      "pool_mode = transaction\n"
      "max_client_conn = {}\n"
      "default_pool_size = {}\n"
      "query_timeout = {}\n"
      "server_lifetime = {}\n",
      config.port, config.client_connections_max, config.client_connections_max, config.pool_size,
      config.query_timeout.count(), config.server_lifetime.count());
  text += fmt::format(
      "auth_type = scram-sha-256\n"
      "auth_file = {}\n"
      "stats_users = {}\n"
      "client_tls_sslmode = require\n"
      "client_tls_protocols = tlsv1.3\n"
      "client_tls_cert_file = {}\n"
      "client_tls_key_file = {}\n"
      "server_tls_sslmode = verify-full\n"
      "server_tls_protocols = tlsv1.3\n"
      "server_tls_ca_file = {}\n",
      (config.folder / kUserListFile).string(), kAuditRole, config.tls.certificate.string(), config.tls.key.string(),
      config.tls.ca.string());
  text +=
      // Clients of libpq and JDBC send it always; it changes nothing that survives a transaction.
      "ignore_startup_parameters = extra_float_digits\n"
      // Longer than any client's own deadline for a statement, far shorter than the default of 120 s.
      "query_wait_timeout = 15\n"
      "client_login_timeout = 15\n"
      "server_connect_timeout = 5\n"
      // The default makes every client fail for 15 s after PostgreSQL was away for an instant.
      "server_login_retry = 1\n"
      // Standard error goes to the supervisor's log file.
      "logfile =\n"
      "syslog = 0\n"
      "log_connections = 0\n"
      "log_disconnections = 0\n"
      "log_stats = 0\n";
  return text;
}

// One line per user: "name" "password". Quotes are doubled.
std::string UserList(const PgBouncerConfig& config) {
  auto quoted = [](const std::string& value) {
    std::string out = "\"";
    for (char c : value) {
      if (c == '"') out += c;
      out += c;
    }
    return out + "\"";
  };
  std::string text;
  for (const PgBouncerUser& user : config.users) {
    // The password itself and not its verifier: PgBouncer proves it to PostgreSQL, for which a verifier is not enough.
    text += fmt::format("{} {}\n", quoted(user.name), quoted(user.password.Expose()));
  }
  return text;
}

std::size_t OpenFiles(const PgBouncerConfig& config) {
  int servers = 0;
  for (const PgBouncerDatabase& database : config.databases) servers += database.connections_max;
  return static_cast<std::size_t>(config.client_connections_max + servers + kOpenFilesSpare);
}

}  // namespace

Result<fs::path> FindPgBouncer() {
  for (const char* path :
       {"/usr/sbin/pgbouncer", "/usr/bin/pgbouncer", "/usr/local/sbin/pgbouncer", "/usr/local/bin/pgbouncer"}) {
    if (::access(path, X_OK) == 0) return fs::path(path);
  }
  return NotFound("PgBouncer is not installed: apt-get install pgbouncer");
}

PgBouncer::PgBouncer(PgBouncerConfig config) : config_(std::move(config)) {}

Result<PgBouncer> PgBouncer::Start(PgBouncerConfig config) {
  NOVA_TRY(PgBouncer pooler, Launch(std::move(config)));
  NOVA_TRY(pooler.AwaitReady());
  return pooler;
}

Result<PgBouncer> PgBouncer::Launch(PgBouncerConfig config) {
  PgBouncer pooler(std::move(config));
  const PgBouncerConfig& c = pooler.config_;
  NOVA_TRY(fs::path program, FindPgBouncer());
  NOVA_TRY(pooler.WriteConfiguration());
  NOVA_TRY(pooler.process_, Process::Spawn({.name = "pgbouncer",
                                            .program = std::move(program),
                                            .arguments = {(c.folder / kConfigurationFile).string()},
                                            .environment = {{"PATH", "/usr/bin:/bin"}, {"LC_ALL", "C.UTF-8"}},
                                            .working_directory = c.folder,
                                            .log_file = c.log_file,
                                            .user = c.user,
                                            .death_signal = SIGKILL,
                                            .open_files = OpenFiles(c)}));
  return pooler;
}

Result<void> PgBouncer::AwaitReady(Duration limit) {
  return local::AwaitReady(process_, "PgBouncer", config_.log_file, limit,
                           [this] { return CheckReady(SqlConnection::kConnectLimit); });
}

Result<void> PgBouncer::CheckReady(Duration limit) const {
  auto console = Console(limit);
  if (console) return Ok();
  if (console.error().code() != Code::kUnauthenticated) return std::move(console).error();
  return FailedPrecondition(
      fmt::format("PgBouncer refuses its own user '{}'; see {}", kAuditRole, config_.log_file.string()),
      console.error().message());
}

Result<SqlConnection> PgBouncer::Console(Duration limit) const {
  for (const PgBouncerUser& user : config_.users) {
    if (user.name != kAuditRole) continue;
    return SqlConnection::Open({.port = config_.port,
                                .database = "pgbouncer",
                                .user = user.name,
                                .password = user.password,
                                .ca_file = config_.tls.ca},
                               limit);
  }
  return FailedPrecondition(fmt::format("PgBouncer has no user '{}'", kAuditRole));
}

Result<void> PgBouncer::WriteConfiguration() const {
  // Neither file is worth an fsync: both are written again at the next start.
  FileOptions options{.mode = 0600, .owner = config_.user, .durable = false};
  NOVA_TRY(WriteFile(config_.folder / kUserListFile, UserList(config_), options));
  return WriteFile(config_.folder / kConfigurationFile, Configuration(config_), options);
}

Result<void> PgBouncer::Apply(std::vector<PgBouncerDatabase> databases, std::vector<PgBouncerUser> users) {
  config_.databases = std::move(databases);
  config_.users = std::move(users);
  NOVA_TRY(WriteConfiguration());
  NOVA_TRY(Reload());
  // Users are read together with the databases, so seeing these is seeing all.
  const Clock& clock = Clock::System();
  SteadyTime end = clock.Now() + kReadyLimit;
  NOVA_TRY(SqlConnection console, Console());
  while (clock.Now() < end) {
    NOVA_TRY(SqlRows shown, console.Execute("SHOW DATABASES"));
    auto is_shown = [&](const PgBouncerDatabase& database) {
      for (std::size_t i = 0; i < shown.rows.size(); ++i) {
        if (shown.Get(i, "name") == database.name) {
          return shown.Get(i, "max_connections") == std::to_string(database.connections_max);
        }
      }
      return false;
    };
    if (std::ranges::all_of(config_.databases, is_shown)) return Ok();
    static_cast<void>(process_.Wait(kPollInterval));
  }
  return DeadlineExceeded(
      fmt::format("PgBouncer does not take its new configuration; see {}", config_.log_file.string()));
}

Result<void> PgBouncer::Reload() { return process_.Send(SIGHUP); }

Result<void> PgBouncer::Stop() {
  NOVA_TRY(ExitStatus status, process_.Terminate({{SIGTERM, kDrainLimit}, {SIGTERM, kStopLimit}}));
  // 1.18 ends with 1 when told to stop; only a signal means that it did not listen.
  if (status.by_signal) return Internal(fmt::format("PgBouncer stopped with {}", status.ToString()));
  return Ok();
}

}  // namespace nova::local
