#include "nova/postgres/admin_console.h"

#include <algorithm>
#include <libpq-fe.h>

namespace nova::postgres {
namespace {

using runtime::Call;
using runtime::Task;

const char* Sql(ConsoleView view) {
  switch (view) {
    case ConsoleView::kClients:
      return "SHOW CLIENTS";
    case ConsoleView::kConfig:
      return "SHOW CONFIG";
    case ConsoleView::kDatabases:
      return "SHOW DATABASES";
    case ConsoleView::kPools:
      return "SHOW POOLS";
    case ConsoleView::kServers:
      return "SHOW SERVERS";
  }
  return "";
}

}  // namespace

bool ConsoleTable::Has(std::string_view column) const { return std::ranges::find(columns, column) != columns.end(); }

std::string_view ConsoleTable::Get(std::size_t row, std::string_view column) const {
  const auto found = std::ranges::find(columns, column);
  if (found == columns.end() || row >= rows.size()) return {};
  return rows[row][static_cast<std::size_t>(found - columns.begin())];
}

Task<std::unique_ptr<AdminConsole>> AdminConsole::Open(Call& call, ConnectionConfig config) {
  std::unique_ptr<AdminConsole> console(new AdminConsole);
  NOVA_CO_TRY(console->connection_, co_await Connection::Open(call, std::move(config)));
  co_return console;
}

Task<ConsoleTable> AdminConsole::Show(Call& call, ConsoleView view) {
  NOVA_CO_TRY(const Rows rows, co_await connection_->Simple(call, "pgbouncer_show", Sql(view)));
  const PGresult* const result = rows.result_.get();
  ConsoleTable table;
  if (result == nullptr) co_return table;
  for (int column = 0; column < PQnfields(result); ++column) table.columns.emplace_back(PQfname(result, column));
  for (int row = 0; row < PQntuples(result); ++row) {
    auto& values = table.rows.emplace_back();
    for (int column = 0; column < PQnfields(result); ++column) {
      // Empty for NULL as well.
      values.emplace_back(PQgetvalue(result, row, column), static_cast<std::size_t>(PQgetlength(result, row, column)));
    }
  }
  co_return table;
}

}  // namespace nova::postgres
