#include "nova/health/hysteresis.h"

#include <utility>

namespace nova::health {

bool Hysteresis::Observe(bool success) {
  if (!std::exchange(decided_, true)) {
    healthy_ = success;
    return success;
  }
  if (success == healthy_) {
    streak_ = 0;
    return false;
  }
  if (++streak_ < (healthy_ ? config_.fall : config_.rise)) return false;
  healthy_ = success;
  streak_ = 0;
  return true;
}

}  // namespace nova::health
