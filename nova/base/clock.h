// Time is injected: code that decides by time takes a Clock, so that its tests decide what time it is.
#pragma once

#include <chrono>
#include <mutex>

namespace nova {

using Duration = std::chrono::steady_clock::duration;
using SteadyTime = std::chrono::steady_clock::time_point;
using WallTime = std::chrono::system_clock::time_point;

// Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  // For durations and deadlines; never goes back.
  virtual SteadyTime Now() const = 0;
  // For timestamps that leave the process: tokens, certificates, rows.
  virtual WallTime WallNow() const = 0;

  // The machine's clocks; lives as long as the process.
  static const Clock& System();
};

// A clock that moves only when told. Thread-safe.
class FakeClock final : public Clock {
 public:
  explicit FakeClock(WallTime start = WallTime(std::chrono::seconds(1'700'000'000)));
  SteadyTime Now() const override;
  WallTime WallNow() const override;
  void Advance(Duration by);

 private:
  mutable std::mutex mutex_;
  SteadyTime steady_;  // guarded by mutex_
  WallTime wall_;      // guarded by mutex_
};

}  // namespace nova
