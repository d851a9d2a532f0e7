// Migrations: the schema of a service, as numbered SQL files compiled into the binary.
//
//   services/identity/schema/0001_accounts.sql        CMake: nova_service(identity ...); nova_embed_sql elsewhere
//   services/identity/schema/0002_sessions.sql        C++:   #include "services/identity/migrations.h"
//                                                            nova::identity::Migrations()
//
// They run on a direct connection to PostgreSQL, never through PgBouncer: the lock that keeps two runs apart belongs to
// a session. What was applied stands in a table, the history, with the SHA-256 of its text.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "nova/base/result.h"
#include "nova/postgres/config.h"
#include "nova/runtime/call.h"
#include "nova/runtime/task.h"

namespace nova::postgres {

// The texts must outlive the run; nova_embed_sql makes them part of the binary.
struct Migration {
  int version = 0;  // from 1 on, ascending
  std::string_view name;
  // Any number of statements; run in one transaction, so no BEGIN or COMMIT, and nothing that cannot be in one
  // (CREATE INDEX CONCURRENTLY).
  std::string_view sql;
};

struct MigrationReport {
  // Applied by this run, in order: "0002_sessions".
  std::vector<std::string> applied;
  // The newest version in the database now; 0 if there is none. May be newer than this binary knows, which is left
  // alone: schemas grow so that the previous binary still runs.
  int version = 0;
};

// The table that records what a service's own migrations did.
inline constexpr std::string_view kHistory = "nova_migrations";

// Brings the database of `direct` up to the last of `migrations`. Runs at once are safe, also from several machines:
// one does the work, the others wait and find it done.
//
// `history` is the table that records them, made if it is missing. A part of the chassis that keeps tables of its own
// in a service's database has a history of its own, so that both count their files from 1 and neither sees the other's.
//
// Errors: INVALID_ARGUMENT if the list is not ascending, or `history` is no plain name (a to z, digits, underscores);
// FAILED_PRECONDITION, naming the migration, if an applied one has changed since, if one is older than the newest
// applied and was never applied, or if one fails (then it left nothing behind, and those before it are kept); ABORTED
// if a lock on a table in use was not had in time; UNAVAILABLE if the database cannot be reached; the end of the call.
//
// Deadline: the call's alone. Cancellation: cancels the statement in the server, waits a second at most for it to
// confirm that, and returns; the migration is rolled back.
runtime::Task<MigrationReport> Migrate(runtime::Call& call, ConnectionConfig direct,
                                       std::span<const Migration> migrations, std::string_view history = kHistory);

}  // namespace nova::postgres
