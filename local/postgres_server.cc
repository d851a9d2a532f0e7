#include "local/postgres_server.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

namespace nova::local {
namespace {

namespace fs = std::filesystem;
using std::chrono::seconds;

constexpr int kMajorMin = 15;
constexpr Duration kInitializeLimit = seconds(120);
constexpr Duration kFastShutdownLimit = seconds(10);
constexpr Duration kImmediateShutdownLimit = seconds(6);
// PostgreSQL opens each file of a table once per connection.
constexpr std::size_t kOpenFiles = 65536;

std::optional<int> ParseInt(std::string_view text) {
  int value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end == text.data()) return std::nullopt;
  return value;
}

bool Executable(const fs::path& path) { return ::access(path.c_str(), X_OK) == 0; }

std::map<std::string, std::string> Environment() {
  return {{"PATH", "/usr/bin:/bin"}, {"LC_ALL", "C.UTF-8"}, {"TZ", "UTC"}};
}

// A value in postgresql.conf.
std::string Quoted(const std::string& text) {
  std::string quoted = "'";
  for (char c : text) {
    if (c == '\'' || c == '\\') quoted += c;
    quoted += c;
  }
  return quoted + "'";
}

std::string Configuration(const PostgresConfig& config) {
  std::string text = fmt::format(
      "# Written by nova at every start; changes are lost. ALTER SYSTEM works.\n"
      "listen_addresses = '127.0.0.1'\n"
      "port = {}\n"
      // No socket in a world-writable folder, and no path whose length would be limited.
      "unix_socket_directories = ''\n"
      "max_connections = {}\n"
      "password_encryption = 'scram-sha-256'\n"
      "authentication_timeout = '10s'\n"
      "ssl = on\n"
      "ssl_min_protocol_version = 'TLSv1.3'\n"
      "ssl_cert_file = {}\n"
      "ssl_key_file = {}\n"
      "ssl_ca_file = {}\n"
      "shared_buffers = '128MB'\n"
      "huge_pages = off\n"
      "jit = off\n"
      "timezone = 'UTC'\n"
      "lc_messages = 'C'\n"
      // A running statement ends when its client, the pooler, is gone.
      "client_connection_check_interval = '2s'\n"
      // After a crash: one call for the whole file system instead of one for each of a thousand files.
      "recovery_init_sync_method = 'syncfs'\n"
      // Statements and the details of errors hold what people entered: it stays out of the log.
      "log_min_error_statement = 'panic'\n"
      "log_error_verbosity = 'terse'\n"
      "log_parameter_max_length = 0\n"
      "log_parameter_max_length_on_error = 0\n"
      "log_line_prefix = '%m [%p] %q%u@%d '\n"
      "log_timezone = 'UTC'\n",
      config.port, config.max_connections, Quoted(config.tls.certificate.string()), Quoted(config.tls.key.string()),
      Quoted(config.tls.ca.string()));
  // Commits still reach the kernel, so they survive a killed server, though not a crashed machine.
  if (!config.durable) text += "fsync = off\nfull_page_writes = off\n";
  return text;
}

// What the postmaster writes into the eighth line of its pid file, for programs like pg_ctl.
bool SaysReady(const fs::path& cluster) {
  auto text = ReadFile(cluster / "postmaster.pid");
  return text && text->find("\nready") != std::string::npos;
}

constexpr std::string_view kHostBasedAuthentication =
    "# Written by nova at every start. What no line names is refused: other hosts, Unix sockets, plaintext.\n"
    "hostssl all all 127.0.0.1/32 scram-sha-256\n";

}  // namespace

TlsFiles TlsFiles::In(const fs::path& folder) {
  return {.certificate = folder / "tls.crt", .key = folder / "tls.key", .ca = folder / "ca.crt"};
}

Result<PostgresBinaries> FindPostgres(std::optional<int> major) {
  std::optional<PostgresBinaries> best;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator("/usr/lib/postgresql", error)) {
    std::optional<int> version = ParseInt(entry.path().filename().string());
    if (!version || (major ? *version != *major : *version < kMajorMin)) continue;
    if (best && best->major > *version) continue;
    fs::path bin = entry.path() / "bin";
    if (!Executable(bin / "postgres") || !Executable(bin / "initdb")) continue;
    best = PostgresBinaries{.major = *version, .postgres = bin / "postgres", .initdb = bin / "initdb"};
  }
  if (best) return *std::move(best);
  if (major) {
    return NotFound(
        fmt::format("the data was made by PostgreSQL {0}, which is not installed: apt-get install "
                    "postgresql-{0}",
                    *major));
  }
  return NotFound(fmt::format("PostgreSQL {} or newer is not installed: apt-get install postgresql", kMajorMin));
}

std::optional<int> ClusterVersion(const fs::path& cluster) {
  auto text = ReadFile(cluster / "PG_VERSION");
  return text ? ParseInt(*text) : std::nullopt;
}

std::optional<fs::path> FirstClosedFolder(const fs::path& path, const User& user) {
  fs::path folder;
  for (const fs::path& part : path) {
    folder /= part;
    struct stat info{};
    if (::stat(folder.c_str(), &info) != 0) return folder;
    if (user.uid == 0) continue;
    mode_t needed = S_IXOTH;
    if (info.st_uid == user.uid) {
      needed = S_IXUSR;
    } else if (std::find(user.groups.begin(), user.groups.end(), info.st_gid) != user.groups.end()) {
      needed = S_IXGRP;
    }
    if ((info.st_mode & needed) == 0) return folder;
  }
  return std::nullopt;
}

Result<void> InitializeCluster(const PostgresConfig& config, const PostgresBinaries& binaries) {
  const fs::path parent = config.cluster.parent_path();
  if (config.user) {
    if (auto closed = FirstClosedFolder(parent, *config.user)) {
      return PermissionDenied(
          fmt::format("PostgreSQL runs as '{0}', who cannot enter {1}: chmod o+x {1}, or choose "
                      "another folder with --data-dir",
                      config.user->name, closed->string()));
    }
  }
  fs::path temporary = config.cluster;
  temporary += ".tmp";
  std::error_code error;
  fs::remove_all(temporary, error);
  if (error) return Internal(fmt::format("cannot remove {}: {}", temporary.string(), error.message()));
  NOVA_TRY(MakeDirectory(temporary, 0700, config.user));

  fs::path password_file = config.cluster;
  password_file += ".password.tmp";
  NOVA_TRY(WriteFile(password_file, config.superuser_password.Expose() + "\n",
                     {.mode = 0600, .owner = config.user, .durable = false}));
  ProcessSpec spec{
      .name = "initdb",
      .program = binaries.initdb,
      .arguments = {"--pgdata=" + temporary.string(), "--username=" + std::string(kSuperuser),
                    "--pwfile=" + password_file.string(), "--auth-local=reject", "--auth-host=scram-sha-256",
                    "--encoding=UTF8", "--locale=C.UTF-8", "--data-checksums"},
      .environment = Environment(),
      .working_directory = temporary,
      .log_file = config.log_file,
      .user = config.user};
  if (!config.durable) spec.arguments.emplace_back("--no-sync");
  auto made = RunToEnd(spec, kInitializeLimit);
  fs::remove(password_file, error);
  if (!made) return std::move(made).error();

  fs::rename(temporary, config.cluster, error);
  if (error) return Internal(fmt::format("cannot make {}: {}", config.cluster.string(), error.message()));
  if (config.durable) NOVA_TRY(SyncDirectory(parent));
  return Ok();
}

PostgresServer::PostgresServer(PostgresConfig config, PostgresBinaries binaries)
    : config_(std::move(config)), binaries_(std::move(binaries)) {}

Result<PostgresServer> PostgresServer::Start(PostgresConfig config, PostgresBinaries binaries) {
  NOVA_TRY(PostgresServer server, Launch(std::move(config), std::move(binaries)));
  NOVA_TRY(server.AwaitReady());
  return server;
}

Result<PostgresServer> PostgresServer::Launch(PostgresConfig config, PostgresBinaries binaries) {
  PostgresServer server(std::move(config), std::move(binaries));
  const PostgresConfig& c = server.config_;
  NOVA_TRY(EndOrphans(c.cluster, "postgres", kOrphanLimit));
  // PostgreSQL refuses to start when the pid in this file runs, even if it has become another program's.
  std::error_code ignored;
  fs::remove(c.cluster / "postmaster.pid", ignored);
  FileOptions options{.mode = 0600, .owner = c.user, .durable = c.durable};
  NOVA_TRY(WriteFile(c.cluster / "postgresql.conf", Configuration(c), options));
  NOVA_TRY(WriteFile(c.cluster / "pg_hba.conf", kHostBasedAuthentication, options));
  NOVA_TRY(server.process_, Process::Spawn({.name = "postgres",
                                            .program = server.binaries_.postgres,
                                            .arguments = {"-D", c.cluster.string()},
                                            .environment = Environment(),
                                            .working_directory = c.cluster,
                                            .log_file = c.log_file,
                                            .user = c.user,
                                            // Immediate shutdown: the only one that is bounded in time, and the one
                                            // after which no backend is left. The next start recovers.
                                            .death_signal = SIGQUIT,
                                            .open_files = kOpenFiles}));
  return server;
}

Result<void> PostgresServer::CheckReady(Duration limit) const {
  // A question before that would be refused, and each refusal is a line in the log.
  if (!SaysReady(config_.cluster)) return Unavailable("PostgreSQL is starting");
  auto connection = Connect("postgres", limit);
  if (connection) return Ok();
  if (connection.error().code() != Code::kUnauthenticated) return std::move(connection).error();
  return FailedPrecondition(fmt::format("PostgreSQL refuses the password of {}: the secrets of this data folder do not "
                                        "belong to its data; restore them from a copy, or start anew with `nova down "
                                        "--wipe`",
                                        kSuperuser),
                            connection.error().message());
}

Result<void> PostgresServer::AwaitReady(Duration limit) {
  return local::AwaitReady(process_, "PostgreSQL", config_.log_file, limit,
                           [this] { return CheckReady(SqlConnection::kConnectLimit); });
}

Result<SqlConnection> PostgresServer::Connect(const std::string& database, Duration limit) const {
  return SqlConnection::Open({.port = config_.port,
                              .database = database,
                              .user = std::string(kSuperuser),
                              .password = config_.superuser_password,
                              .ca_file = config_.tls.ca},
                             limit);
}

Result<void> PostgresServer::Provision(const std::vector<ServiceDatabase>& databases, const Secret<>& audit_password) {
  NOVA_TRY(SqlConnection admin, Connect("postgres"));
  NOVA_TRY(SqlRows roles, admin.Execute("SELECT rolname FROM pg_roles"));
  NOVA_TRY(SqlRows existing, admin.Execute("SELECT datname FROM pg_database"));
  auto holds = [](const SqlRows& rows, const std::string& name) {
    return std::ranges::any_of(rows.rows, [&](const SqlRow& row) { return row[0] == name; });
  };
  auto login_role = [&](const std::string& role, const Secret<>& password) -> Result<void> {
    const std::string name = admin.Identifier(role);
    if (!holds(roles, role)) NOVA_TRY(admin.Execute(fmt::format("CREATE ROLE {}", name)));
    // The password is set at every start: it heals a folder whose secret was lost.
    NOVA_TRY(std::string verifier, admin.ScramVerifier(role, password));
    NOVA_TRY(admin.Execute(fmt::format(
        "ALTER ROLE {} WITH LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD {}", name,
        admin.Literal(verifier))));
    NOVA_TRY(
        admin.Execute(fmt::format("ALTER ROLE {} SET statement_timeout = '{}s'", name, kStatementTimeout.count())));
    NOVA_TRY(admin.Execute(fmt::format("ALTER ROLE {} SET idle_in_transaction_session_timeout = '{}s'", name,
                                       kIdleInTransactionTimeout.count())));
    return Ok();
  };

  const std::string audit = admin.Identifier(kAuditRole);
  NOVA_TRY(login_role(std::string(kAuditRole), audit_password));
  NOVA_TRY(admin.Execute(fmt::format("GRANT pg_monitor TO {}", audit)));
  NOVA_TRY(admin.Execute("REVOKE ALL ON DATABASE postgres, template1 FROM PUBLIC"));
  for (const ServiceDatabase& database : databases) {
    NOVA_TRY(login_role(database.role, database.password));
    const std::string name = admin.Identifier(database.name);
    const std::string role = admin.Identifier(database.role);
    if (!holds(existing, database.name)) {
      NOVA_TRY(admin.Execute(fmt::format("CREATE DATABASE {} OWNER {}", name, role)));
    }
    NOVA_TRY(admin.Execute(fmt::format("ALTER DATABASE {} OWNER TO {}", name, role)));
    NOVA_TRY(admin.Execute(fmt::format("REVOKE ALL ON DATABASE {} FROM PUBLIC", name)));
    NOVA_TRY(admin.Execute(fmt::format("GRANT CONNECT ON DATABASE {} TO {}", name, audit)));
  }
  return Ok();
}

Result<void> PostgresServer::Reload() { return process_.Send(SIGHUP); }

Result<void> PostgresServer::Stop() {
  NOVA_TRY(ExitStatus status, process_.Terminate({{SIGINT, kFastShutdownLimit}, {SIGQUIT, kImmediateShutdownLimit}}));
  if (!status.clean()) {
    return Internal(fmt::format("PostgreSQL stopped with {}; see {}", status.ToString(), config_.log_file.string()));
  }
  return Ok();
}

}  // namespace nova::local
