// Outage: what a loop does when its work fails and fails again: it waits longer each time, and says so once.
// Internal to this folder.
#pragma once

#include <chrono>
#include <random>
#include <string>

#include "nova/base/clock.h"
#include "nova/base/error.h"

namespace nova::events {

// Used by one task.
class Outage {
 public:
  // `work` names it in the log: "publishing events". The delay doubles from `delay_min` to `delay_max`.
  Outage(std::string work, std::chrono::milliseconds delay_min, std::chrono::milliseconds delay_max);

  // The work failed: how long to wait before the next attempt; with jitter, so that what failed together does not come
  // back together. Logs the first failure of a row.
  Duration Failed(const Error& error);
  // The work succeeded. Logs the end of a row of failures.
  void Worked();

 private:
  // Constant after construction.
  const std::string work_;
  const Duration delay_min_;
  const Duration delay_max_;
  // Of the task.
  int failures_ = 0;
  SteadyTime since_;
  Duration delay_;
  std::minstd_rand random_{std::random_device{}()};
};

}  // namespace nova::events
