#include "nova/postgres/migrate.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <map>
#include <openssl/sha.h>
#include <vector>

#include "nova/postgres/connection.h"
#include "nova/postgres/sql_error.h"
#include "nova/telemetry/log.h"

namespace nova::postgres {
namespace {

using runtime::Call;
using runtime::Task;

constexpr std::chrono::milliseconds kConnectTimeout = std::chrono::seconds(5);
// After the end of the call the server has this long to confirm that the statement under way was cancelled.
constexpr std::chrono::milliseconds kCancelDrain = std::chrono::seconds(1);
// Of pg_advisory_lock; the bytes spell "nova_mig". Locks of one database do not meet those of another.
constexpr std::int64_t kLockKey = 0x6e6f'7661'5f6d'6967;

constexpr Statement kLock{"migrate_lock", "SELECT pg_advisory_lock($1)"};
// The run as a whole has the call's deadline; a role's own limit is meant for requests.
constexpr Statement kNoStatementTimeout{"migrate_statement_timeout", "SET statement_timeout = 0"};
// A migration that waits for a table makes everybody behind it wait as well: better to fail and come back.
constexpr Statement kLockTimeout{"migrate_lock_timeout", "SET lock_timeout = '5s'"};
// What PostgreSQL keeps of a name.
constexpr std::size_t kNameBytesMax = 63;

using Checksum = std::vector<std::uint8_t>;

struct Applied {
  std::string name;
  Checksum checksum;
};

// The statements on the history. A table's name cannot be a parameter, so it becomes part of their texts.
class History {
 public:
  // Precondition: `table` is a plain name.
  explicit History(std::string_view table)
      : create_("CREATE TABLE IF NOT EXISTS " + std::string(table) +
                " (version integer PRIMARY KEY, name text NOT NULL, checksum bytea NOT NULL, "
                "applied_at timestamptz NOT NULL DEFAULT now())"),
        select_("SELECT version, name, checksum FROM " + std::string(table) + " ORDER BY version"),
        insert_("INSERT INTO " + std::string(table) + " (version, name, checksum) VALUES ($1, $2, $3)") {}

  // Valid while the history lives.
  Statement create() const { return {"migrate_create_table", create_}; }
  Statement select() const { return {"migrate_select", select_}; }
  Statement insert() const { return {"migrate_insert", insert_}; }

 private:
  const std::string create_;
  const std::string select_;
  const std::string insert_;
};

Result<void> CheckName(std::string_view table) {
  const auto is_plain = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_'; };
  if (table.empty() || table.size() > kNameBytesMax || (table[0] >= '0' && table[0] <= '9') ||
      !std::ranges::all_of(table, is_plain))
    return InvalidArgument("the history of migrations cannot be called '" + std::string(table) + "'");
  return Ok();
}

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

Task<void> Apply(Call& call, Connection& connection, const History& history, const Migration& migration) {
  const std::string label = Label(migration.version, migration.name);
  NOVA_CO_TRY(co_await connection.Script(call, "begin", "BEGIN"));
  Result<void> ran = co_await connection.Script(call, label, std::string(migration.sql));
  if (!ran) co_return Failed(label, std::move(ran).error());
  if (!connection.in_transaction())
    co_return FailedPrecondition("migration " + label + " ends its own transaction: remove its COMMIT or ROLLBACK");
  auto noted = co_await connection.Query(call, history.insert(),
                                         Params::Of(migration.version, migration.name, Sha256(migration.sql)));
  if (!noted) co_return Failed(label, std::move(noted).error());
  Result<void> committed = co_await connection.Script(call, "commit", "COMMIT");
  if (!committed) co_return Failed(label, std::move(committed).error());
  co_return Ok();
}

Task<MigrationReport> Run(Call& call, Connection& connection, const History& history,
                          std::span<const Migration> migrations) {
  NOVA_CO_TRY(co_await connection.Query(call, kNoStatementTimeout, {}));
  NOVA_CO_TRY(co_await connection.Query(call, kLock, Params::Of(kLockKey)));
  NOVA_CO_TRY(co_await connection.Query(call, kLockTimeout, {}));
  NOVA_CO_TRY(co_await connection.Query(call, history.create(), {}));
  NOVA_CO_TRY(const Rows rows, co_await connection.Query(call, history.select(), {}));
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
    NOVA_CO_TRY(co_await Apply(call, connection, history, migration));
    report.applied.push_back(Label(migration.version, migration.name));
    report.version = migration.version;
  }
  co_return report;
}

}  // namespace

Task<MigrationReport> Migrate(Call& call, ConnectionConfig direct, std::span<const Migration> migrations,
                              std::string_view history) {
  NOVA_CO_TRY(CheckOrder(migrations));
  NOVA_CO_TRY(CheckName(history));
  const History statements(history);
  std::unique_ptr<Connection> connection;
  {
    Call connecting(call, kConnectTimeout);
    auto opened = co_await Connection::Open(connecting, std::move(direct));
    if (!opened && opened.error().code() == Code::kDeadlineExceeded && call.Check())
      co_return Unavailable("the database is unavailable", opened.error().detail() + ": no answer within 5 s");
    NOVA_CO_TRY(connection, std::move(opened));
  }
  auto report = co_await Run(call, *connection, statements, migrations);
  if (connection->abandoned()) {
    // A statement that goes on in the server keeps its locks, and the next run waiting.
    Canceller canceller;
    Call drain(call.strand(), {.deadline = Clock::System().Now() + kCancelDrain, .trace = call.trace()});
    if (const Result<void> drained = co_await connection->Drain(drain, canceller); !drained)
      telemetry::LogWarn("a migration could not be cancelled in the server", {{"error", drained.error()}});
  }
  // Closing the connection rolls back what is open and gives up the lock.
  co_return report;
}

}  // namespace nova::postgres
