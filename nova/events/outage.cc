#include "nova/events/outage.h"

#include <algorithm>

#include "nova/telemetry/log.h"

namespace nova::events {

Outage::Outage(std::string work, std::chrono::milliseconds delay_min, std::chrono::milliseconds delay_max)
    : work_(std::move(work)),
      delay_min_(delay_min),
      delay_max_(std::max<Duration>(delay_min, delay_max)),
      delay_(delay_min) {}

Duration Outage::Failed(const Error& error) {
  if (failures_++ == 0) {
    since_ = Clock::System().Now();
    delay_ = delay_min_;
    telemetry::LogWarn(work_ + " failed; it is tried again until it works", {{"error", error}});
  } else {
    delay_ = std::min(delay_ * 2, delay_max_);
  }
  const double factor = std::uniform_real_distribution<double>(0.5, 1.0)(random_);
  return std::chrono::duration_cast<Duration>(delay_ * factor);
}

void Outage::Worked() {
  if (failures_ == 0) return;
  const auto seconds = std::chrono::duration<double>(Clock::System().Now() - since_).count();
  telemetry::LogInfo(work_ + " works again", {{"failures", failures_}, {"seconds", seconds}});
  failures_ = 0;
}

}  // namespace nova::events
