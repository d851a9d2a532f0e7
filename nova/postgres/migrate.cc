#include "nova/postgres/migrate.h"

#include <array>
#include <chrono>
#include <map>
#include <openssl/sha.h>
#include <vector>

#include "nova/postgres/connection.h"
#include "nova/postgres/sql_error.h"

namespace nova::postgres {
namespace {

using runtime::Call;
using runtime::Task;

constexpr std::chrono::milliseconds kConnectTimeout = std::chrono::seconds(5);
constexpr std::chrono::milliseconds kCancelDrain = std::chrono::seconds(1);
// Of pg_advisory_lock; the bytes spell "nova_mig". Locks of one database do not meet those of another.
constexpr std::int64_t kLockKey = 0x6e6f'7661'5f6d'6967;

constexpr Statement kLock{"migrate_lock", "SELECT pg_advisory_lock($1)"};
// The run as a whole has the call's deadline; a role's own limit is meant for requests.
constexpr Statement kNoStatementTimeout{"migrate_statement_timeout", "SET statement_timeout = 0"};
// A migration that waits for a table makes everybody behind it wait as well: better to fail and come back.
constexpr Statement kLockTimeout{"migrate_lock_timeout", "SET lock_timeout = '5s'"};
constexpr Statement kCreateTable{"migrate_create_table",
                                 "CREATE TABLE IF NOT EXISTS nova_migrations ("
                                 "version integer PRIMARY KEY, "
                                 "name text NOT NULL, "
                                 "checksum bytea NOT NULL, "
                                 "applied_at timestamptz NOT NULL DEFAULT now())"};
constexpr Statement kSelectApplied{"migrate_select",
                                   "SELECT version, name, checksum FROM nova_migrations ORDER BY version"};
constexpr Statement kInsertApplied{"migrate_insert",
                                   "INSERT INTO nova_migrations (version, name, checksum) VALUES ($1, $2, $3)"};

using Checksum = std::vector<std::uint8_t>;

struct Applied {
  std::string name;
  Checksum checksum;
};

// As the file is called: "0002_sessions".
std::string Label(int version, std::string_view name) {
  std::string digits = std::to_string(version);
  if (digits.size() < 4) digits.insert(0, 4 - digits.size(), '0');
  return digits + "_" + std::string(name);
}

Checksum Sha256(std::string_view text) {
  Checksum digest(SHA256_DIGEST_LENGTH);
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest.data());
  return digest;
}

Result<void> CheckOrder(std::span<const Migration> migrations) {
  int last = 0;
  for (const Migration& migration : migrations) {
    if (migration.version <= last)
      return InvalidArgument("migration " + Label(migration.version, migration.name) +
                             " is out of order: versions begin at 1 and ascend");
    last = migration.version;
  }
  return Ok();
}

Result<void> CheckHistory(std::span<const Migration> migrations, const std::map<int, Applied>& applied) {
  for (const Migration& migration : migrations) {
    const std::string label = Label(migration.version, migration.name);
    const auto found = applied.find(migration.version);
    if (found == applied.end()) {
      if (!applied.empty() && migration.version < applied.rbegin()->first)
        return FailedPrecondition("migration " + label + " was never applied, but " +
                                  Label(applied.rbegin()->first, applied.rbegin()->second.name) +
                                  " was: give it a higher number");
      continue;
    }
    if (found->second.checksum != Sha256(migration.sql))
      return FailedPrecondition("migration " + label +
                                " was changed after it was applied: restore it and put the change into a new one");
  }
  return Ok();
}

// Kinds of failure that say nothing about the migration are passed on; the others are about its text.
Error Failed(const std::string& label, Error error) {
  switch (error.code()) {
    case Code::kUnavailable:
    case Code::kAborted:
    case Code::kCancelled:
    case Code::kDeadlineExceeded:
      return std::move(error).WithContext("migration " + label);
    default:
      return FailedPrecondition("migration " + label + " failed and left nothing behind", error.detail());
  }
}

Task<void> Apply(Call& call, Connection& connection, const Migration& migration) {
  const std::string label = Label(migration.version, migration.name);
  NOVA_CO_TRY(co_await connection.Script(call, "begin", "BEGIN"));
  Result<void> ran = co_await connection.Script(call, label, std::string(migration.sql));
  if (!ran) co_return Failed(label, std::move(ran).error());
  if (!connection.in_transaction())
    co_return FailedPrecondition("migration " + label + " ends its own transaction: remove its COMMIT or ROLLBACK");
  auto noted = co_await connection.Query(call, kInsertApplied,
                                         Params::Of(migration.version, migration.name, Sha256(migration.sql)));
  if (!noted) co_return Failed(label, std::move(noted).error());
  Result<void> committed = co_await connection.Script(call, "commit", "COMMIT");
  if (!committed) co_return Failed(label, std::move(committed).error());
  co_return Ok();
}

Task<MigrationReport> Run(Call& call, Connection& connection, std::span<const Migration> migrations) {
  NOVA_CO_TRY(co_await connection.Query(call, kNoStatementTimeout, {}));
  NOVA_CO_TRY(co_await connection.Query(call, kLock, Params::Of(kLockKey)));
  NOVA_CO_TRY(co_await connection.Query(call, kLockTimeout, {}));
  NOVA_CO_TRY(co_await connection.Query(call, kCreateTable, {}));
  NOVA_CO_TRY(const Rows rows, co_await connection.Query(call, kSelectApplied, {}));
  std::map<int, Applied> applied;
  for (const Row row : rows) {
    int version = 0;
    Applied entry;
    NOVA_CO_TRY(row.Read(version, entry.name, entry.checksum));
    applied.emplace(version, std::move(entry));
  }
  NOVA_CO_TRY(CheckHistory(migrations, applied));

  MigrationReport report;
  if (!applied.empty()) report.version = applied.rbegin()->first;
  for (const Migration& migration : migrations) {
    if (applied.contains(migration.version)) continue;
    NOVA_CO_TRY(co_await Apply(call, connection, migration));
    report.applied.push_back(Label(migration.version, migration.name));
    report.version = migration.version;
  }
  co_return report;
}

}  // namespace

Task<MigrationReport> Migrate(Call& call, ConnectionConfig direct, std::span<const Migration> migrations) {
  NOVA_CO_TRY(CheckOrder(migrations));
  Canceller canceller;
  std::unique_ptr<Connection> connection;
  {
    Call connecting(call, kConnectTimeout);
    auto opened = co_await Connection::Open(connecting, std::move(direct), kCancelDrain, canceller);
    if (!opened && opened.error().code() == Code::kDeadlineExceeded && call.Check())
      co_return Unavailable("the database is unavailable", opened.error().detail() + ": no answer within 5 s");
    NOVA_CO_TRY(connection, std::move(opened));
  }
  // Closing the connection rolls back what is open and gives up the lock.
  co_return co_await Run(call, *connection, migrations);
}

}  // namespace nova::postgres
