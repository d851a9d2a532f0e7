// Statement: SQL text with a name. The name is what metrics and logs show; parameters are never shown.
//
//   constexpr Statement kSelectAccount{"select_account", "SELECT id, email FROM account WHERE id = $1"};
#pragma once

#include <string_view>

namespace nova::postgres {

// Both texts must outlive every use: make statements from literals, at namespace scope. `name` is a label of metrics,
// so there must be few of them.
struct Statement {
  std::string_view name;
  // One statement; parameters are $1, $2, ...; values never become part of the text.
  std::string_view sql;
};

}  // namespace nova::postgres
