#include "app/text.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <fmt/format.h>

namespace nova::app {

std::string Table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> widths(rows.front().size(), 0);
  for (const auto& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (const auto& row : rows) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) line += fmt::format("{:<{}}", row[i], widths[i] + 2);
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  return text;
}

std::string SpanText(WallTime::duration span) {
  using std::chrono::floor;
  if (span >= std::chrono::days(2)) return fmt::format("{} d", floor<std::chrono::days>(span).count());
  if (span >= std::chrono::hours(2)) return fmt::format("{} h", floor<std::chrono::hours>(span).count());
  if (span >= std::chrono::minutes(2)) return fmt::format("{} min", floor<std::chrono::minutes>(span).count());
  return fmt::format("{} s", floor<std::chrono::seconds>(span).count());
}

}  // namespace nova::app
