// What runs in a data folder, as its supervisor writes it down for `nova status` and `nova down`.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <sys/types.h>
#include <vector>

#include "local/data_dir.h"
#include "nova/base/clock.h"
#include "nova/base/result.h"

namespace nova::local {

enum class Phase : std::uint8_t {
  kStarting,    // its process runs and is not ready yet
  kReady,       // it was seen ready since its process started
  kRestarting,  // its process ended; the next one comes after a delay
  kStopping,
  kStopped,
};

// "starting", ...
std::string_view PhaseName(Phase phase);

struct ComponentState {
  std::string name;
  Phase phase = Phase::kStopped;
  pid_t pid = 0;       // 0: no process
  int port = 0;        // gRPC or SQL
  int admin_port = 0;  // 0: none
  // How often its process was started again.
  int restarts = 0;
  // When the process started; milliseconds since 1970.
  std::int64_t started_at_ms = 0;
};

struct StackState {
  Phase phase = Phase::kStopped;
  pid_t supervisor = 0;
  int port_base = 0;
  std::int64_t started_at_ms = 0;
  // What its certificates are issued for.
  std::chrono::seconds leaf_lifetime{0};
  std::vector<ComponentState> components;  // in start order
};

// Errors: INTERNAL.
Result<void> WriteState(const Layout& layout, const StackState& state);
// Errors: NOT_FOUND when nothing was written; INTERNAL when it is not readable.
Result<StackState> ReadState(const Layout& layout);

}  // namespace nova::local
