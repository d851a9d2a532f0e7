#include "nova/resilience/crash_point.h"

#include <algorithm>
#include <cassert>
#include <csignal>
#include <unistd.h>

namespace nova::resilience {
namespace {

// Set before the first constructor of any file runs.
constinit const CrashPoint* first_point = nullptr;
// Of the armed point, until its time has come.
constinit std::atomic<int> passings_left = 0;

}  // namespace

constinit std::atomic<const CrashPoint*> CrashPoint::armed_ = nullptr;

CrashPoint::CrashPoint(const char* name) : name_(name), next_(first_point) {
  for (const CrashPoint* point = next_; point != nullptr; point = point->next_)
    assert(std::string_view(point->name_) != name_ && "a crash point's name is unique in the program");
  first_point = this;
}

Result<void> CrashPoint::Arm(std::string_view name, int passing) {
  if (passing < 1) return InvalidArgument("a crash point can be passed for the first time at the earliest");
  for (const CrashPoint* point = first_point; point != nullptr; point = point->next_) {
    if (point->name_ != name) continue;
    passings_left.store(passing, std::memory_order_relaxed);
    armed_.store(point, std::memory_order_release);
    return Ok();
  }
  std::string there_are;
  for (const std::string& known : Names()) there_are.append(there_are.empty() ? "; there are " : ", ").append(known);
  return InvalidArgument("there is no crash point of this name" +
                         (there_are.empty() ? "; this program has none" : there_are));
}

std::vector<std::string> CrashPoint::Names() {
  std::vector<std::string> names;
  for (const CrashPoint* point = first_point; point != nullptr; point = point->next_) names.emplace_back(point->name_);
  std::ranges::sort(names);
  return names;
}

void CrashPoint::Count() const {
  if (passings_left.fetch_sub(1, std::memory_order_relaxed) != 1) return;
  // Whoever looks at what is left behind wants to know that it was on purpose.
  const std::string notice = "crash point " + std::string(name_) + ": the process ends here, as by kill -9\n";
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, notice.data(), notice.size());
  (void)::kill(::getpid(), SIGKILL);
  // The first process of a container cannot be killed from within. This ends it as abruptly.
  ::_exit(128 + SIGKILL);
}

}  // namespace nova::resilience
