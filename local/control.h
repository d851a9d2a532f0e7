// Looking at a stack, and ending it, from another process: `nova status` and `nova down`.
#pragma once

#include <chrono>
#include <filesystem>
#include <string>
#include <vector>

#include "local/data_dir.h"
#include "local/state.h"
#include "nova/base/clock.h"
#include "nova/base/result.h"

namespace nova::local {

struct ComponentStatus {
  ComponentState state;
  // What its readiness says at this moment: "ready", "not ready", "no answer"; empty when it has none to ask, and the
  // supervisor's word is all there is.
  std::string answer;

  // "ready", "not ready", "starting", ...: the answer, or else the supervisor's word.
  std::string Summary() const;
  bool ready() const;
};

struct StackStatus {
  std::filesystem::path folder;
  bool running = false;
  StackState state;
  std::vector<ComponentStatus> components;

  // Everything runs and is ready.
  bool ready() const;
};

// Looks at the folder, then asks every component that can be asked. Takes half a second for each that does not answer.
// Errors: NOT_FOUND when there is no such folder.
Result<StackStatus> ReadStatus(const std::filesystem::path& root);

// A line per component with aligned columns, after a line on the whole.
std::string StatusTable(const StackStatus& status, WallTime now);
// {"running":true,"state":"ready","data_dir":"...","components":[{"name":"identity","state":"ready","pid":1,...}]}
std::string StatusJson(const StackStatus& status, WallTime now);

// Longer than the limits of all parts together.
inline constexpr Duration kDownLimit = std::chrono::seconds(90);

// Tells the supervisor to stop, and returns when it has: true if one ran. Errors: NOT_FOUND when there is no such
// folder; PERMISSION_DENIED when it is another account's; DEADLINE_EXCEEDED, naming its pid, after `limit`.
Result<bool> Down(const std::filesystem::path& root, Duration limit = kDownLimit);

}  // namespace nova::local
