// Hysteresis: turns a stream of probe results into a state that does not flap.
#pragma once

namespace nova::health {

struct HysteresisConfig {
  int fall = 3;  // failures in a row until healthy turns unhealthy
  int rise = 2;  // successes in a row until unhealthy turns healthy
};

class Hysteresis {
 public:
  explicit Hysteresis(HysteresisConfig config) : config_(config) {}

  // Returns true if the state changed. The very first result decides at once: a process that starts beside a healthy
  // database should not wait a period for its second opinion.
  bool Observe(bool success);
  // False until the first result.
  bool healthy() const { return healthy_; }

 private:
  const HysteresisConfig config_;
  bool decided_ = false;
  bool healthy_ = false;
  int streak_ = 0;  // results in a row against the present state
};

}  // namespace nova::health
