// PgBouncer from Debian's package, as a child of this process: transaction mode, TLS 1.3 and SCRAM on both sides, a
// connection budget for each database. It is the only way services reach PostgreSQL.
//
//   NOVA_TRY(auto pooler, PgBouncer::Start({.folder = f, .port = 7432, .postgres_port = 7433,
//       .databases = {{.name = "identity", .connections_max = 15}}, .users = {{"identity", password}}, .tls = tls}));
#pragma once

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "local/postgres_server.h"
#include "local/process.h"
#include "local/sql.h"
#include "nova/base/result.h"
#include "nova/base/secret.h"

namespace nova::local {

// Errors: NOT_FOUND naming the Debian package to install.
Result<std::filesystem::path> FindPgBouncer();

struct PgBouncerDatabase {
  std::string name;
  // Server connections, over all users of this database.
  int connections_max = 0;
};

struct PgBouncerUser {
  std::string name;
  Secret<> password;
};

struct PgBouncerConfig {
  // Gets the configuration and the list of users; belongs to `user`, mode 0700.
  std::filesystem::path folder;
  std::filesystem::path log_file;
  int port = 0;
  // Required when this process is root, because PgBouncer refuses to run as root.
  std::optional<User> user = std::nullopt;
  int postgres_port = 0;
  std::vector<PgBouncerDatabase> databases;
  // Who may log in; `audit` must be among them, because it reads the console.
  std::vector<PgBouncerUser> users;
  TlsFiles tls;

  int client_connections_max = 1000;
  int pool_size = 25;
  std::chrono::seconds query_timeout{30};
  std::chrono::seconds server_lifetime{3600};
};

// Used by the main thread only. Movable.
class PgBouncer {
 public:
  static constexpr Duration kReadyLimit = std::chrono::seconds(10);

  // Launch, then AwaitReady.
  static Result<PgBouncer> Start(PgBouncerConfig config);
  // Writes the configuration and starts the process.
  static Result<PgBouncer> Launch(PgBouncerConfig config);

  // Returns when the console answers. Errors: INTERNAL when the process ended, naming its log and the last line of it;
  // DEADLINE_EXCEEDED.
  Result<void> AwaitReady(Duration limit = kReadyLimit);
  // Asks once. Errors: UNAVAILABLE and DEADLINE_EXCEEDED when it does not answer yet; FAILED_PRECONDITION when waiting
  // will not help.
  Result<void> CheckReady(Duration limit) const;

  // The console, as `audit`: SHOW commands only. Nobody has the right to change anything there.
  Result<SqlConnection> Console(Duration limit = SqlConnection::kConnectLimit) const;

  // Changes who may connect to what; connections stay. Returns when it is so.
  Result<void> Apply(std::vector<PgBouncerDatabase> databases, std::vector<PgBouncerUser> users);
  // Makes it read certificates and configuration again; connections stay.
  Result<void> Reload();
  // Disconnects everybody and ends.
  Result<void> Stop();

  Process& process() { return process_; }
  const PgBouncerConfig& config() const { return config_; }

 private:
  explicit PgBouncer(PgBouncerConfig config);
  Result<void> WriteConfiguration() const;

  PgBouncerConfig config_;
  Process process_;
};

}  // namespace nova::local
