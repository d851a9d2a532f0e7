// Bringing one service's database to the schema of this binary; used by `nova migrate` and by `nova up`.
#pragma once

#include "nova/base/result.h"
#include "nova/postgres/config.h"
#include "nova/postgres/migrate.h"

namespace nova::app {

// Longest the migrations of one service may take, the wait for another run included.
inline constexpr std::chrono::minutes kMigrationLimit{10};

// `direct`: to PostgreSQL itself, because the lock belongs to a session. Errors: those of postgres::Migrate;
// INVALID_ARGUMENT for a service this binary does not have.
Result<postgres::MigrationReport> MigrateService(std::string_view service, const postgres::ConnectionConfig& direct);

}  // namespace nova::app
