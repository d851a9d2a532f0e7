// AdminConsole: PgBouncer's console, where the pooler says what it is set to and whom it serves. It speaks only the
// simple protocol and answers in text, so no Pool can ask it.
//
//   NOVA_CO_TRY(const auto console, co_await AdminConsole::Open(call, {.database = "pgbouncer", .user = "audit",
//   ...})); NOVA_CO_TRY(const ConsoleTable pools, co_await console->Show(call, ConsoleView::kPools)); pools.Get(0,
//   "pool_mode");
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "nova/base/result.h"
#include "nova/postgres/config.h"
#include "nova/postgres/connection.h"
#include "nova/runtime/call.h"
#include "nova/runtime/task.h"

namespace nova::postgres {

// What PgBouncer shows to its stats_users: https://www.pgbouncer.org/usage.html#show-commands. Only what reads.
enum class ConsoleView : std::uint8_t { kClients, kConfig, kDatabases, kPools, kServers };

struct ConsoleTable {
  std::vector<std::string> columns = {};
  // NULL is an empty text.
  std::vector<std::vector<std::string>> rows = {};

  bool Has(std::string_view column) const;
  // Empty if there is no such row or column.
  std::string_view Get(std::size_t row, std::string_view column) const;
};

// Used by one task at a time.
class AdminConsole {
 public:
  // `config.user` is one of PgBouncer's stats_users. Errors: UNAVAILABLE; the end of the call. Deadline: the call's.
  // Cancellation: at once.
  static runtime::Task<std::unique_ptr<AdminConsole>> Open(runtime::Call& call, ConnectionConfig config);
  AdminConsole(const AdminConsole&) = delete;
  AdminConsole& operator=(const AdminConsole&) = delete;

  // Errors: UNAVAILABLE if the connection broke; INTERNAL if PgBouncer refuses; the end of the call, after which the
  // console can only be closed.
  runtime::Task<ConsoleTable> Show(runtime::Call& call, ConsoleView view);

 private:
  AdminConsole() = default;

  std::unique_ptr<Connection> connection_;
};

}  // namespace nova::postgres
