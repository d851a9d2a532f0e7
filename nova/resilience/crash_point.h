// CrashPoint: a named place at which a process can be told to die as by kill -9, to see what is left behind.
//
//   const CrashPoint kPublished("relay.published");   // at namespace scope, in a .cc
//   ...
//   kPublished.Pass();                                // one load and one branch, unless it is armed
#pragma once

#include <atomic>
#include <string>
#include <string_view>
#include <vector>

#include "nova/base/result.h"

namespace nova::resilience {

class CrashPoint {
 public:
  // `name`, "<part>.<step>", is a literal, and unique in the program.
  explicit CrashPoint(const char* name);
  CrashPoint(const CrashPoint&) = delete;
  CrashPoint& operator=(const CrashPoint&) = delete;

  // Ends the process with SIGKILL if this is the armed point and its time has come.
  void Pass() const {
    if (armed_.load(std::memory_order_relaxed) == this) [[unlikely]]
      Count();
  }

  // At its `passing`-th passing (1: the first) the point named ends the process. Errors: INVALID_ARGUMENT listing the
  // points there are. For main, before anything starts.
  static Result<void> Arm(std::string_view name, int passing);
  // Sorted.
  static std::vector<std::string> Names();

 private:
  void Count() const;

  static std::atomic<const CrashPoint*> armed_;
  const char* const name_;
  const CrashPoint* next_;  // all points of the program, in no order
};

}  // namespace nova::resilience
