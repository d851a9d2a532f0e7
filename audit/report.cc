#include "audit/report.h"

#include <algorithm>
#include <array>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <string_view>
#include <vector>

namespace nova::audit {
namespace {

using Status = Row::Status;

// Of what stands below a row; an ordinary terminal is wide enough for the figures above it.
constexpr std::size_t kHowWidth = 100;
// Shorter repetitions are easier to read than a reference.
constexpr std::size_t kRepetitionMin = 80;

constexpr std::string_view kReset = "\033[0m";
constexpr std::string_view kDim = "\033[2m";
constexpr std::string_view kBold = "\033[1m";

struct StatusText {
  std::string_view json;
  std::string_view table;
  std::string_view colour;
};

StatusText TextOf(Status status) {
  switch (status) {
    case Status::kPass:
      return {.json = "pass", .table = "PASS", .colour = "\033[32m"};
    case Status::kFail:
      return {.json = "fail", .table = "FAIL", .colour = "\033[31m"};
    case Status::kNotMeasured:
      break;
  }
  return {.json = "not_measured", .table = "NOT MEASURED", .colour = "\033[33m"};
}

std::string WithUnit(const std::string& figure, const std::string& unit) {
  if (figure.empty()) return "-";
  return unit.empty() ? figure : figure + " " + unit;
}

// The cells before the status, which needs no padding because it comes last.
using Cells = std::array<std::string, 4>;

Cells CellsOf(const Row& row) {
  return {row.promise, row.check, WithUnit(row.value, row.unit), WithUnit(row.floor, row.unit)};
}

std::string Painted(std::string_view text, std::string_view colour, bool enabled) {
  if (!enabled) return std::string(text);
  return std::string(colour).append(text).append(kReset);
}

std::string Aligned(const Cells& cells, const std::array<std::size_t, 4>& widths) {
  std::string line;
  for (std::size_t i = 0; i < cells.size(); ++i) line += cells[i] + std::string(widths[i] - cells[i].size() + 2, ' ');
  return line;
}

// Lines of whole words, of kHowWidth where that is possible.
std::vector<std::string> Wrapped(std::string_view text) {
  std::vector<std::string> lines;
  while (text.size() > kHowWidth) {
    std::size_t end = text.rfind(' ', kHowWidth);
    if (end == std::string_view::npos) end = text.find(' ');
    if (end == std::string_view::npos) break;
    lines.emplace_back(text.substr(0, end));
    text.remove_prefix(end + 1);
  }
  if (!text.empty()) lines.emplace_back(text);
  return lines;
}

// What a row shares with the row above it is said once: whole parts of it, for people who read down the table.
std::string WithoutRepetition(std::string_view how, std::string_view above) {
  constexpr std::string_view kEnd = "; ";
  // Ends of parts are compared as well, so that half a part is never taken for a whole one.
  const std::string mine = std::string(how).append(kEnd);
  const std::string theirs = std::string(above).append(kEnd);
  const auto same = static_cast<std::size_t>(std::ranges::mismatch(mine, theirs).in1 - mine.begin());
  const std::size_t end = std::string_view(mine).substr(0, same).rfind(kEnd);
  if (end == std::string_view::npos || end < kRepetitionMin) return std::string(how);
  return "as above" + std::string(how.substr(end));
}

}  // namespace

std::string ToJson(std::span<const Row> rows) {
  boost::json::array array;
  for (const Row& row : rows) {
    array.push_back(boost::json::object{{"promise", row.promise},
                                        {"check", row.check},
                                        {"value", row.value},
                                        {"unit", row.unit},
                                        {"floor", row.floor},
                                        {"status", TextOf(row.status).json},
                                        {"how", row.how}});
  }
  return boost::json::serialize(boost::json::object{{"rows", std::move(array)}}) + "\n";
}

std::string ToTable(std::span<const Row> rows, bool colour) {
  const Cells heading{"PROMISE", "CHECK", "VALUE", "FLOOR"};
  std::array<std::size_t, 4> widths{};
  const auto widen = [&widths](const Cells& cells) {
    for (std::size_t i = 0; i < cells.size(); ++i) widths[i] = std::max(widths[i], cells[i].size());
  };
  widen(heading);
  for (const Row& row : rows) widen(CellsOf(row));

  std::string text = Painted(Aligned(heading, widths) + "STATUS", kBold, colour) + "\n";
  const std::string indent(widths[0] + 2, ' ');
  std::string_view above;
  for (const Row& row : rows) {
    const StatusText status = TextOf(row.status);
    text += Aligned(CellsOf(row), widths) + Painted(status.table, status.colour, colour) + "\n";
    for (const std::string& line : Wrapped(WithoutRepetition(row.how, above)))
      text += indent + Painted(line, kDim, colour) + "\n";
    above = row.how;
  }
  return text + Summary(rows) + "\n";
}

std::string Summary(std::span<const Row> rows) {
  const auto count = [rows](Status status) { return std::to_string(std::ranges::count(rows, status, &Row::status)); };
  return count(Status::kPass) + " passed, " + count(Status::kFail) + " failed, " + count(Status::kNotMeasured) +
         " not measured";
}

int ExitCode(std::span<const Row> rows) {
  const bool proven =
      !rows.empty() && std::ranges::all_of(rows, [](const Row& row) { return row.status == Status::kPass; });
  return proven ? 0 : 1;
}

}  // namespace nova::audit
