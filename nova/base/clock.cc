#include "nova/base/clock.h"

namespace nova {
namespace {

class SystemClock final : public Clock {
 public:
  SteadyTime Now() const override { return std::chrono::steady_clock::now(); }
  WallTime WallNow() const override { return std::chrono::system_clock::now(); }
};

}  // namespace

const Clock& Clock::System() {
  static const SystemClock clock;
  return clock;
}

// The steady epoch is arbitrary; one hour keeps subtraction in tests away from its edge.
FakeClock::FakeClock(WallTime start) : steady_(std::chrono::hours(1)), wall_(start) {}

SteadyTime FakeClock::Now() const {
  std::lock_guard lock(mutex_);
  return steady_;
}

WallTime FakeClock::WallNow() const {
  std::lock_guard lock(mutex_);
  return wall_;
}

void FakeClock::Advance(Duration by) {
  std::lock_guard lock(mutex_);
  steady_ += by;
  wall_ += std::chrono::duration_cast<WallTime::duration>(by);
}

}  // namespace nova
