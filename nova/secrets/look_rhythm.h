// LookRhythm: when one who looks at something again and again looks next. Regular while it goes well, early while it
// does not.
#pragma once

#include <chrono>
#include <cstdint>
#include <random>

#include "nova/base/clock.h"

namespace nova::secrets {

// Not thread-safe.
class LookRhythm {
 public:
  // The first pause after a failure is one to two of these; doubled with each further one, up to the interval.
  static constexpr std::chrono::seconds kRetryMin{1};

  // `seed`: of the jitter.
  LookRhythm(Duration interval, std::uint64_t seed);

  // A look went well. The next begins an interval after this one began; the first pause is up to a tenth shorter, at
  // random, so that processes started together do not ask together for ever.
  void Succeeded(SteadyTime began);
  // A look failed just now.
  void Failed(SteadyTime now);

  SteadyTime due() const { return due_; }

 private:
  const Duration interval_;
  std::mt19937_64 random_;
  bool is_first_ = true;
  Duration retry_ = kRetryMin;
  SteadyTime due_ = {};
};

}  // namespace nova::secrets
