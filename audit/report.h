// What an audit found, for people and for programs.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace nova::audit {

// One check of one promise. All figures are texts: some are words ("transaction"), and all are for comparing by eye.
struct Row {
  enum class Status : std::uint8_t {
    kPass,
    kFail,
    // Nobody knows: the check could not be made, or there is none yet. Counts as not proven.
    kNotMeasured,
  };

  std::string promise = {};  // "P0-1"
  std::string check = {};
  std::string value = {};  // what was measured; empty if nothing was
  std::string unit = {};   // of value and floor; may be empty
  std::string floor = {};  // what the value must reach
  Status status = Status::kNotMeasured;
  // How it was measured, or why it was not.
  std::string how = {};
};

// {"rows":[{"promise":…,"check":…,"value":…,"unit":…,"floor":…,"status":"pass|fail|not_measured","how":…}]}; all values
// are strings. Ends with a newline.
std::string ToJson(std::span<const Row> rows);

// The aligned figures of each row, and below them how, wrapped. Then Summary(). `colour`: for a terminal only.
std::string ToTable(std::span<const Row> rows, bool colour);

// "12 passed, 0 failed, 24 not measured"
std::string Summary(std::span<const Row> rows);

// 0 if every row passes and there is one; 1 otherwise: what was not measured is not proven.
int ExitCode(std::span<const Row> rows);

}  // namespace nova::audit
