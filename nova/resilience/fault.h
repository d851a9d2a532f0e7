// Faults that a dependency does not have: injected on purpose, by share of calls, to see what a service does about
// them. For tests and staging; production refuses to start with any (config.h).
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "nova/base/result.h"

namespace nova::resilience {

enum class Fault : std::uint8_t {
  kNone,
  kDelay,      // the call is made, later
  kError,      // it is not made, and fails with UNAVAILABLE
  kAbort,      // it is made, and its answer lost: UNAVAILABLE, though the work was done
  kBlackHole,  // it is not made, and never answered: it ends by its deadline
};

inline constexpr int kFaultCount = 5;

// "none", "delay", "error", "abort", "black_hole".
const char* FaultName(Fault fault);

struct FaultPlan {
  // Shares of calls, each 0 to 1, together 1 at most.
  double delay = 0;
  double error = 0;
  double abort = 0;
  double black_hole = 0;
  std::chrono::milliseconds delay_time{0};

  bool empty() const { return delay + error + abort + black_hole == 0; }

  // "delay=0.2:250ms, error=0.1, abort=0.05, black_hole=0.01", any of them, in any order; an empty text is no faults.
  // Errors: INVALID_ARGUMENT saying what is wrong and what is understood; the caller names the setting.
  static Result<FaultPlan> Parse(std::string_view text);
  std::string ToString() const;

  // The fate of one call. `random` is uniform over all values.
  Fault Draw(std::uint64_t random) const;
};

}  // namespace nova::resilience
