// A real PostgreSQL and a real PgBouncer for the tests of one executable: the servers of `nova up`, with their TLS,
// SCRAM and transaction mode, on free ports and in a temporary folder. They start at first use and end with the
// process, however it ends.
//
//   auto& postgres = tests::PostgresFixture::Instance();
//   postgres.CreateDatabase("identity");
//   postgres::PoolConfig pool{.connection = postgres.Pooled("identity")};
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <sys/types.h>

#include "local/pgbouncer.h"
#include "local/postgres_server.h"
#include "nova/base/secret.h"
#include "nova/postgres/config.h"
#include "tests/fixture.h"

namespace nova::tests {

// A TCP port of 127.0.0.1 that nobody listens on, outside the range that the kernel gives to outgoing connections. It
// is not reserved: bind it soon, and prefer port 0 wherever the server can say which port it got.
int FreePort();

// Used by the main thread only. What cannot be done ends the process with a message: no test can go on without it.
class PostgresFixture {
 public:
  // PgBouncer's max_db_connections for each database, unless CreateDatabase says otherwise.
  static constexpr int kConnectionsMax = 10;

  static PostgresFixture& Instance();

  PostgresFixture(const PostgresFixture&) = delete;
  PostgresFixture& operator=(const PostgresFixture&) = delete;
  ~PostgresFixture();

  // Makes a database and the role that owns it, both called `name` (lower-case letters, digits, underscores), and
  // makes them known to the pooler. Doing it again changes nothing but the limit.
  void CreateDatabase(const std::string& name, int connections_max = kConnectionsMax);
  // Drops it, with its connections, and makes it anew: for tests that need an empty one.
  void RecreateDatabase(const std::string& name);

  // To PostgreSQL itself, and through PgBouncer; as the owner, for a database that CreateDatabase made.
  postgres::ConnectionConfig Direct(const std::string& name) const;
  postgres::ConnectionConfig Pooled(const std::string& name) const;
  // To PostgreSQL as the superuser.
  postgres::ConnectionConfig Superuser(const std::string& database = "postgres") const;
  // To PgBouncer's console (database `pgbouncer`) or any other database, as `audit`.
  postgres::ConnectionConfig Audit(const std::string& database = "pgbouncer") const;

  // One statement as the superuser, for what a test wants to see: rows of pg_stat_activity and the like.
  local::SqlRows Query(const std::string& sql, const std::string& database = "postgres") const;
  // A SHOW command of PgBouncer's console.
  local::SqlRows Console(const std::string& command) const;

  // Faults. Kill ends at once and loses every connection, and a restart makes it ready again on the same port; Pause
  // stops answering while connections stay open, until Resume.
  void KillPostgres();
  void RestartPostgres();
  void PausePostgres();
  void ResumePostgres();
  void KillPooler();
  void RestartPooler();
  void PausePooler();
  void ResumePooler();

  int postgres_port() const { return server_->config().port; }
  int pooler_port() const { return pooler_->config().port; }
  pid_t pooler_process() { return pooler_->process().pid(); }
  // The authority that signed both servers' certificates.
  const std::filesystem::path& ca_file() const { return server_->config().tls.ca; }

 private:
  PostgresFixture();
  postgres::ConnectionConfig Connection(int port, const std::string& database, const std::string& user,
                                        const Secret<>& password) const;
  void Start();
  void SignalPostgres(int signal);

  pid_t owner_;
  FixtureFolder folder_;
  Secret<> superuser_password_;
  Secret<> audit_password_;
  std::map<std::string, Secret<>> passwords_;  // by database
  std::optional<local::PostgresBinaries> binaries_;
  std::optional<local::PostgresServer> server_;
  std::optional<local::PgBouncer> pooler_;
};

}  // namespace nova::tests
