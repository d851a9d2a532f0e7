// Migrations: the schema of a service, as numbered SQL files compiled into the binary.
//
//   services/identity/schema/0001_accounts.sql        CMake: nova_embed_sql(services_identity NAMESPACE nova::identity)
//   services/identity/schema/0002_sessions.sql        C++:   #include "services/identity/migrations.h"
//                                                            nova::identity::Migrations()
//
// They run on a direct connection to PostgreSQL, never through PgBouncer: the lock that keeps two runs apart belongs to
// a session. What was applied stands in the table nova_migrations, with the SHA-256 of its text.
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

// Brings the database of `direct` up to the last of `migrations`. Runs at once are safe, also from several machines:
// one does the work, the others wait and find it done.
//
// Errors: INVALID_ARGUMENT if the list is not ascending; FAILED_PRECONDITION, naming the migration, if an applied one
// has changed since, if one is older than the newest applied and was never applied, or if one fails (then it left
// nothing behind, and those before it are kept); ABORTED if a lock on a table in use was not had in time; UNAVAILABLE
// if the database cannot be reached; the end of the call.
//
// Deadline: the call's alone. Cancellation: cancels the statement in the server; the migration is rolled back.
runtime::Task<MigrationReport> Migrate(runtime::Call& call, ConnectionConfig direct,
                                       std::span<const Migration> migrations);

}  // namespace nova::postgres
