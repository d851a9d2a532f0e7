// A private PostgreSQL from Debian's package, as a child of this process. It listens on 127.0.0.1 alone, speaks only
// TLS 1.3 and SCRAM (there is no Unix socket and no trusted way in), and never touches a cluster of the system.
//
//   NOVA_TRY(auto binaries, FindPostgres(ClusterVersion(folder / "postgres")));
//   NOVA_TRY(InitializeCluster(config, binaries));                       // when there is no cluster yet
//   NOVA_TRY(auto server, PostgresServer::Start(config, binaries));
//   NOVA_TRY(server.Provision({{.name = "identity", .role = "identity", .password = p}}, audit_password));
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "local/process.h"
#include "local/sql.h"
#include "nova/base/result.h"
#include "nova/base/secret.h"

namespace nova::local {

// What a child presents and trusts.
struct TlsFiles {
  std::filesystem::path certificate;
  std::filesystem::path key;
  std::filesystem::path ca;

  // tls.crt, tls.key and ca.crt of a folder, the names of a Kubernetes TLS secret.
  static TlsFiles In(const std::filesystem::path& folder);
};

// The role that makes roles and databases; it has the only password that can.
inline constexpr std::string_view kSuperuser = "nova_admin";
// The role of `nova audit`: reads statistics of every database, and no table.
inline constexpr std::string_view kAuditRole = "audit";

struct PostgresBinaries {
  int major = 0;
  std::filesystem::path postgres;
  std::filesystem::path initdb;
};

// The newest version of at least 15 under /usr/lib/postgresql, or exactly `major`. Errors: NOT_FOUND naming the Debian
// package to install.
Result<PostgresBinaries> FindPostgres(std::optional<int> major = std::nullopt);

struct PostgresConfig {
  // The cluster; its parent must exist and be reachable for `user`.
  std::filesystem::path cluster;
  std::filesystem::path log_file;
  int port = 0;
  // Required when this process is root, because PostgreSQL refuses to run as root.
  std::optional<User> user = std::nullopt;
  Secret<> superuser_password;
  // The key must belong to `user`.
  TlsFiles tls;
  int max_connections = 200;
  // False gives up the data if the machine crashes, for speed; only for clusters that nobody keeps.
  bool durable = true;
};

// The major version a cluster was made with; empty when there is none in that folder.
std::optional<int> ClusterVersion(const std::filesystem::path& cluster);

// Makes the cluster, in a folder beside it that is renamed last: an interrupted run leaves no cluster, and the next
// one begins anew. Must not run beside another one. Errors: PERMISSION_DENIED naming the folder that `user` cannot
// enter; INTERNAL with the last line of initdb's log.
Result<void> InitializeCluster(const PostgresConfig& config, const PostgresBinaries& binaries);

// The folder on the way to `path`, itself included, that `user` cannot enter; empty when there is none.
std::optional<std::filesystem::path> FirstClosedFolder(const std::filesystem::path& path, const User& user);

// One service's share of the cluster: a database, owned by a role of which nothing else is true.
struct ServiceDatabase {
  std::string name;
  std::string role;
  Secret<> password;
};

// Used by the main thread only. Movable.
class PostgresServer {
 public:
  // Crash recovery included.
  static constexpr Duration kReadyLimit = std::chrono::seconds(60);
  // Every service statement ends by itself after this, whatever its client does.
  static constexpr std::chrono::seconds kStatementTimeout{10};
  static constexpr std::chrono::seconds kIdleInTransactionTimeout{15};
  // How long processes of an earlier supervisor may take to end.
  static constexpr Duration kOrphanLimit = std::chrono::seconds(10);

  // Launch, then AwaitReady.
  static Result<PostgresServer> Start(PostgresConfig config, PostgresBinaries binaries);
  // Writes the configuration files, waits for an orphan of an earlier supervisor to end, and starts the process.
  static Result<PostgresServer> Launch(PostgresConfig config, PostgresBinaries binaries);

  // Returns when connections are accepted. Errors: INTERNAL when the process ended, naming its log and the last
  // line of it; DEADLINE_EXCEEDED.
  Result<void> AwaitReady(Duration limit = kReadyLimit);
  // Asks once. Errors: UNAVAILABLE and DEADLINE_EXCEEDED when it does not answer yet; FAILED_PRECONDITION when waiting
  // will not help.
  Result<void> CheckReady(Duration limit) const;

  // Makes or corrects roles and databases; changes nothing that is right. Only its owner, `audit` and the superuser
  // may connect to a database, and only the owner may create in it.
  Result<void> Provision(const std::vector<ServiceDatabase>& databases, const Secret<>& audit_password);

  // As the superuser. Errors: those of SqlConnection::Open.
  Result<SqlConnection> Connect(const std::string& database, Duration limit = SqlConnection::kConnectLimit) const;

  // Makes it read certificates and configuration again.
  Result<void> Reload();
  // Fast shutdown: clients are disconnected, data reaches the disk. Bounded; ends in an immediate shutdown, from
  // which the next start recovers.
  Result<void> Stop();

  Process& process() { return process_; }
  const PostgresConfig& config() const { return config_; }

 private:
  PostgresServer(PostgresConfig config, PostgresBinaries binaries);

  PostgresConfig config_;
  PostgresBinaries binaries_;
  Process process_;
};

}  // namespace nova::local
