#include "nova/secrets/look_rhythm.h"

#include <algorithm>

namespace nova::secrets {

LookRhythm::LookRhythm(Duration interval, std::uint64_t seed) : interval_(interval), random_(seed) {}

void LookRhythm::Succeeded(SteadyTime began) {
  Duration pause = interval_;
  if (is_first_) pause -= Duration(std::uniform_int_distribution<Duration::rep>(0, (interval_ / 10).count())(random_));
  is_first_ = false;
  retry_ = kRetryMin;
  due_ = began + pause;
}

void LookRhythm::Failed(SteadyTime now) {
  // From half of the doubled pause to all of it, so that those who failed together do not come back together.
  const Duration pause(std::uniform_int_distribution<Duration::rep>(retry_.count(), 2 * retry_.count())(random_));
  due_ = now + std::min(pause, interval_);
  retry_ = std::min<Duration>(2 * retry_, interval_);
}

}  // namespace nova::secrets
