// Limiter: how many calls a server works on at once, found by measuring. As long as calls take what they take on an
// idle server, more are let in; when they take longer because they wait for each other, fewer are. What is over the
// limit is refused before it has cost anything, the least important first.
//
// The measure is the gradient of latency: what each call that succeeded took, against the baseline of its own method,
// so that a mix of fast and slow methods does not look like a change of load. A baseline is what a call takes when next
// to nothing else is under way. It follows by itself, and there is no phase in which the limit is cut to measure it
// anew:
//
//   - calls that were let in almost alone give it directly, and nothing can be faster than it for long;
//   - in a healthy server, and in one at the floor of its limit, it drifts with what is measured, over minutes;
//   - if the limit was cut and calls take no less, they did not wait for each other: what they call became slower. Then
//     that is the new baseline, and the limit is put back.
//
// What never reaches it, it cannot see: bytes in a socket that no thread has read yet.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <limits>
#include <mutex>
#include <optional>
#include <vector>

#include "nova/base/clock.h"
#include "nova/base/result.h"
#include "nova/config/config.h"

namespace nova::resilience {

// Which call is shed first under overload: the highest number (api/rpc/v1/options.proto).
enum class Priority : std::uint8_t { kCritical = 1, kHigh = 2, kNormal = 3, kLow = 4 };

inline constexpr int kPriorityCount = 4;

// "critical", "high", "normal", "low".
const char* PriorityName(Priority priority);

struct LimiterConfig {
  // The limit at the start, its floor, and its ceiling. All three equal: a fixed limit.
  int initial = 128;
  int min = 4;
  int max = 1024;
  // Waiting that is no sign of overload: a call may take so many times its baseline,
  double tolerance = 1.5;
  // or so much longer than it, whichever is more.
  std::chrono::milliseconds slack = std::chrono::milliseconds(3);
  // How long more calls may come at once than the limit grants before any is refused, if none was in the last second: a
  // hundred calls that come together and are done in a moment are no overload. Never more of them than `initial` over
  // the limit.
  std::chrono::milliseconds burst = std::chrono::milliseconds(50);
  // What a call that was shed is told to wait before it is tried again; up to a quarter less or more, so that those who
  // were shed together do not come back together.
  std::chrono::milliseconds push_back = std::chrono::milliseconds(100);
};

// Keys `overload.*`.
void Bind(config::Config& config, LimiterConfig& limiter);
// Errors: INVALID_ARGUMENT naming the setting and the remedy.
Result<void> Validate(const LimiterConfig& limiter);

// Thread-safe. It is told the time, and so is as testable as a function.
class Limiter {
 public:
  // A call that was let in, and has ended.
  struct Ended {
    std::size_t method;
    // What TryAcquire returned.
    int in_flight;
    SteadyTime arrival;
    // Only a success is a measurement: an error may be quick because nothing was done, or slow because of somebody
    // else.
    bool success;
  };

  // `methods`: how many kinds of call there are. Precondition: Validate(config) is OK.
  Limiter(LimiterConfig config, std::size_t methods);
  Limiter(const Limiter&) = delete;
  Limiter& operator=(const Limiter&) = delete;

  // How many calls are under way with this one; 0: it is refused. Takes no lock.
  int TryAcquire(Priority priority, SteadyTime now);
  // Once for every call that was not refused. Precondition: ended.method < methods.
  void Release(const Ended& ended, SteadyTime now);

  // So many calls may be under way when one of this priority is let in. The lower the priority the smaller its share,
  // so that the last places go to what matters most; kCritical may go over the limit, by a quarter of it or by two.
  int Allowed(Priority priority) const;
  int limit() const { return limit_.load(std::memory_order_relaxed); }
  int in_flight() const { return in_flight_.load(std::memory_order_relaxed); }
  // What calls took by the last measurement, as a share of what they may take; above 1 the limit is cut.
  double stretch() const { return stretch_.load(std::memory_order_relaxed); }
  // Of a method, in seconds; 0 before the first success.
  double baseline(std::size_t method) const;

  // For the next call that is refused.
  std::chrono::milliseconds PushBack();

 private:
  // Seconds throughout; doubles, because these are statistics.
  struct Method {
    double baseline = 0;
    // Calls that the baseline was told of directly; as a weight, so it stops counting.
    int alone = 0;
    // The calls of the window that were not alone.
    int calls = 0;
    double sum = 0;
  };
  // Calls that were let in since the limit was last set; only they show what that did.
  struct Window {
    SteadyTime begin;
    int calls = 0;
    double stretch = 0;  // sum over calls
    // Sums of logarithms, of latency over baseline and of calls in flight: where calls wait for each other, the two
    // rise and fall alike, also on average, and one call in a hundred that hangs hardly counts.
    double slowdown = 0;
    double in_flight = 0;
    int in_flight_max = 0;
  };
  // Where a row of cuts began, to see whether they help.
  struct Before {
    double in_flight;  // both as means of logarithms
    double slowdown;
    double limit;
  };

  // Whether a call over its share is let in all the same.
  bool IsBurst(int over, SteadyTime now);

  // All with mutex_ held.
  void Add(const Ended& ended, Duration took);
  void Close(SteadyTime now);
  // Fewer calls at once, yet they take as long as before.
  bool CutsDoNotHelp(double in_flight, double slowdown);
  void FollowBaselines(bool drift, Duration window);
  void Rebase();
  void SetLimit(double limit);

  const LimiterConfig config_;
  std::atomic<int> limit_;
  std::atomic<int> in_flight_ = 0;
  std::atomic<double> stretch_ = 0;
  // Since the limit was last set.
  std::atomic<bool> refused_ = false;
  std::atomic<std::uint64_t> push_backs_ = 0;
  // Of the steady clock; kNever: no burst is under way.
  static constexpr Duration::rep kNever = std::numeric_limits<Duration::rep>::min();
  std::atomic<Duration::rep> burst_since_ = kNever;
  std::atomic<Duration::rep> shedding_until_ = kNever;

  mutable std::mutex mutex_;
  // Guarded by mutex_.
  double exact_limit_;  // limit_ before rounding, so that small steps add up
  std::vector<Method> methods_;
  Window window_;
  std::optional<Before> before_;
};

}  // namespace nova::resilience
