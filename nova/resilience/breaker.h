// Breaker: a circuit breaker. While a dependency fails or crawls, its callers are told so at once instead of each
// finding out for itself; after a while a few probes find out whether it is back.
//
//   closed     calls pass; their verdicts fill a window. Too large a share of failures, or of slow calls, opens it.
//   open       calls are refused for open_time (with jitter, so that replicas do not probe in step).
//   half-open  `probes` calls pass, the others are refused. If all succeed it closes; one that fails, is slow, or says
//              nothing for probe_limit opens it again.
//
// It is told the time, and so is as testable as a function.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "nova/base/clock.h"

namespace nova::resilience {

struct BreakerConfig {
  enum class Window : std::uint8_t { kCount, kTime };
  // What the shares are taken of: the last `window_calls` calls, or those of the last `window_time`.
  Window window = Window::kTime;
  int window_calls = 100;
  std::chrono::milliseconds window_time = std::chrono::seconds(10);
  // With fewer calls in the window nothing is decided.
  int calls_min = 20;
  // At this share of failed or slow calls it opens. 1 for slow_ratio: only if every call is slow.
  double failure_ratio = 0.5;
  double slow_ratio = 0.8;
  // Until the first probe; up to a fifth more, at random.
  std::chrono::milliseconds open_time = std::chrono::seconds(1);
  // Calls that may find out whether the dependency is back, at once and in all.
  int probes = 3;
  // A probe without a verdict for so long has failed.
  std::chrono::milliseconds probe_limit = std::chrono::seconds(10);
};

// Thread-safe. While it is closed or open, admission takes no lock.
class Breaker {
 public:
  enum class State : std::uint8_t { kClosed, kHalfOpen, kOpen };

  struct Verdict {
    bool failed = false;
    bool slow = false;
  };

  // The right to make one call. Gone without a verdict (its call was cancelled, its owner died), it counts for nothing,
  // and its place is free again. It must not outlive the breaker.
  class Permit {
   public:
    Permit() = default;
    Permit(Permit&& other) noexcept
        : breaker_(std::exchange(other.breaker_, nullptr)), epoch_(other.epoch_), ticket_(other.ticket_) {}
    Permit& operator=(Permit&& other) noexcept {
      if (this == &other) return *this;
      Forget();
      breaker_ = std::exchange(other.breaker_, nullptr);
      epoch_ = other.epoch_;
      ticket_ = other.ticket_;
      return *this;
    }
    ~Permit() { Forget(); }
    // What came of the call; once. A verdict on an earlier state of affairs counts for nothing.
    void Record(Verdict verdict, SteadyTime now) {
      if (Breaker* const breaker = std::exchange(breaker_, nullptr)) breaker->Record(epoch_, ticket_, verdict, now);
    }
    bool is_probe() const { return breaker_ != nullptr && ticket_ != kNoTicket; }

   private:
    friend class Breaker;
    Permit(Breaker& breaker, std::uint64_t epoch, std::uint64_t ticket)
        : breaker_(&breaker), epoch_(epoch), ticket_(ticket) {}
    void Forget() {
      if (Breaker* const breaker = std::exchange(breaker_, nullptr); breaker != nullptr && ticket_ != kNoTicket)
        breaker->GiveBack(ticket_);
    }
    Breaker* breaker_ = nullptr;  // null: counts for nothing
    std::uint64_t epoch_ = 0;
    std::uint64_t ticket_ = kNoTicket;  // of a probe
  };

  // Called at each transition, in order and one at a time, under the breaker's lock: it must be quick, and must not
  // call the breaker.
  using OnTransition = std::function<void(State from, State to)>;

  // `seed` is for the jitter of open_time. Precondition: Validate of config.h accepts `config`.
  Breaker(BreakerConfig config, std::uint64_t seed, OnTransition on_transition = {});
  Breaker(const Breaker&) = delete;
  Breaker& operator=(const Breaker&) = delete;

  // Nothing if the call is refused.
  // `patience`: how much longer than others this call may be without a verdict, should it be a probe.
  std::optional<Permit> TryAcquire(SteadyTime now, Duration patience = {}) {
    const std::uint64_t epoch = epoch_.load(std::memory_order_acquire);
    switch (StateOf(epoch)) {
      case State::kClosed:
        return Permit(*this, epoch, kNoTicket);
      case State::kOpen:
        if (now < open_until_.load(std::memory_order_relaxed)) return std::nullopt;
        [[fallthrough]];
      case State::kHalfOpen:
        return AcquireSlowly(now, patience);
    }
    std::unreachable();
  }

  // For questions that must be asked whatever is known already, such as those of health: a probe's permit if one is due
  // and free, and else one that counts for nothing.
  Permit AcquireAlways(SteadyTime now, Duration patience = {});

  // As of the last call: an open breaker stays open until somebody asks it again.
  State state() const { return StateOf(epoch_.load(std::memory_order_acquire)); }
  // Until the next probe may be made; zero unless it is open.
  Duration RetryAfter(SteadyTime now) const;
  // Probes that have neither ended nor been given up; at most `probes`.
  int probes_in_flight() const;

 private:
  static constexpr std::uint64_t kNoTicket = 0;
  // The time window moves in steps of a tenth of its length.
  static constexpr int kStretches = 10;

  // An epoch lasts from one transition to the next. Its number bears its state, so that one load tells both.
  static State StateOf(std::uint64_t epoch) { return static_cast<State>(epoch & 3); }
  static std::uint64_t EpochAfter(std::uint64_t epoch, State state) {
    return ((epoch >> 2) + 1) << 2 | static_cast<std::uint64_t>(state);
  }

  struct Sums {
    int calls = 0, failed = 0, slow = 0;
    void Add(Verdict verdict) {
      ++calls;
      failed += verdict.failed;
      slow += verdict.slow;
    }
    void Subtract(const Sums& other) {
      calls -= other.calls;
      failed -= other.failed;
      slow -= other.slow;
    }
  };
  // A probe outlives its epoch: its call goes on when another probe has failed, and holds its place in the next one.
  struct Probe {
    std::uint64_t ticket;
    std::uint64_t epoch;
    SteadyTime limit;
  };

  std::optional<Permit> AcquireSlowly(SteadyTime now, Duration patience);
  void Record(std::uint64_t epoch, std::uint64_t ticket, Verdict verdict, SteadyTime now);
  void GiveBack(std::uint64_t ticket);

  // All with mutex_ held.
  void Enter(State next, SteadyTime now);
  void AddToWindow(Verdict verdict, SteadyTime now);
  bool WindowSaysOpen() const;
  void GiveUpProbes(SteadyTime now);
  bool EndProbe(std::uint64_t ticket);
  int ProbesOf(std::uint64_t epoch) const;

  const BreakerConfig config_;
  const Duration stretch_;
  const OnTransition on_transition_;
  // Written under mutex_, read without.
  std::atomic<std::uint64_t> epoch_;
  std::atomic<SteadyTime> open_until_ = SteadyTime();

  mutable std::mutex mutex_;
  // Guarded by mutex_.
  std::uint64_t random_;
  std::uint64_t last_ticket_ = kNoTicket;
  std::vector<Probe> probes_;
  int probes_succeeded_ = 0;  // in this epoch
  // The window: its sums, and what they are made of: a ring of verdicts, or of stretches of time.
  Sums window_;
  std::vector<Verdict> verdicts_;
  std::vector<Sums> stretches_;
  std::size_t newest_ = 0;
  SteadyTime newest_until_;
};

// "closed", "half_open", "open".
const char* BreakerStateName(Breaker::State state);

}  // namespace nova::resilience
