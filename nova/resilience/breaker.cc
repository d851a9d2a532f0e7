#include "nova/resilience/breaker.h"

#include <algorithm>

namespace nova::resilience {
namespace {

// splitmix64.
std::uint64_t NextRandom(std::uint64_t& state) {
  state += 0x9e3779b97f4a7c15;
  std::uint64_t z = state;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

// A quotient of whole numbers is the double nearest to it, as is the ratio that somebody wrote down: 55 of 100 are
// 0.55. (0.55 * 100 are more than 55.)
bool Reaches(int part, int whole, double ratio) {
  return part > 0 && static_cast<double>(part) / static_cast<double>(whole) >= ratio;
}

}  // namespace

Breaker::Breaker(BreakerConfig config, std::uint64_t seed, OnTransition on_transition)
    : config_(config),
      stretch_(std::max<Duration>(Duration(config.window_time) / kStretches, Duration(1))),
      on_transition_(std::move(on_transition)),
      epoch_(EpochAfter(0, State::kClosed)),
      random_(seed) {
  probes_.reserve(static_cast<std::size_t>(config_.probes));
  if (config_.window == BreakerConfig::Window::kCount) {
    verdicts_.resize(static_cast<std::size_t>(config_.window_calls));
  } else {
    stretches_.resize(kStretches);
  }
}

Breaker::Permit Breaker::AcquireAlways(SteadyTime now, Duration patience) {
  if (auto permit = TryAcquire(now, patience)) return *std::move(permit);
  return {};
}

Duration Breaker::RetryAfter(SteadyTime now) const {
  if (state() != State::kOpen) return {};
  return std::max(open_until_.load(std::memory_order_relaxed) - now, Duration());
}

int Breaker::probes_in_flight() const {
  std::lock_guard lock(mutex_);
  return static_cast<int>(probes_.size());
}

std::optional<Breaker::Permit> Breaker::AcquireSlowly(SteadyTime now, Duration patience) {
  std::lock_guard lock(mutex_);
  GiveUpProbes(now);
  if (state() == State::kOpen) {
    if (now < open_until_.load(std::memory_order_relaxed)) return std::nullopt;
    Enter(State::kHalfOpen, now);
  }
  const std::uint64_t epoch = epoch_.load(std::memory_order_relaxed);
  // Somebody may have closed it meanwhile.
  if (state() == State::kClosed) return Permit(*this, epoch, kNoTicket);
  // Those of earlier epochs that are still under way take up places, but nobody waits for their verdicts.
  const bool place = static_cast<int>(probes_.size()) < config_.probes;
  if (!place || ProbesOf(epoch) + probes_succeeded_ >= config_.probes) return std::nullopt;
  probes_.push_back({.ticket = ++last_ticket_, .epoch = epoch, .limit = now + config_.probe_limit + patience});
  return Permit(*this, epoch, last_ticket_);
}

void Breaker::Record(std::uint64_t epoch, std::uint64_t ticket, Verdict verdict, SteadyTime now) {
  const bool probe = ticket != kNoTicket;
  if (!probe && epoch != epoch_.load(std::memory_order_acquire)) return;
  std::lock_guard lock(mutex_);
  if (probe) {
    GiveUpProbes(now);
    if (!EndProbe(ticket)) return;
  }
  if (epoch != epoch_.load(std::memory_order_relaxed)) return;
  if (probe) {
    if (verdict.failed || verdict.slow) {
      Enter(State::kOpen, now);
    } else if (++probes_succeeded_ == config_.probes) {
      Enter(State::kClosed, now);
    }
    return;
  }
  AddToWindow(verdict, now);
  if (WindowSaysOpen()) Enter(State::kOpen, now);
}

void Breaker::GiveBack(std::uint64_t ticket) {
  std::lock_guard lock(mutex_);
  EndProbe(ticket);
}

void Breaker::Enter(State next, SteadyTime now) {
  const State from = state();
  if (next == State::kOpen) {
    const Duration open_time = config_.open_time;
    const auto jitter = NextRandom(random_) % (static_cast<std::uint64_t>(open_time.count()) / 5 + 1);
    open_until_.store(now + open_time + Duration(jitter), std::memory_order_relaxed);
  }
  probes_succeeded_ = 0;
  window_ = {};
  std::ranges::fill(stretches_, Sums());
  // Readers that see the epoch see what belongs to it.
  epoch_.store(EpochAfter(epoch_.load(std::memory_order_relaxed), next), std::memory_order_release);
  if (on_transition_) on_transition_(from, next);
}

void Breaker::AddToWindow(Verdict verdict, SteadyTime now) {
  if (config_.window == BreakerConfig::Window::kCount) {
    newest_ = newest_ + 1 < verdicts_.size() ? newest_ + 1 : 0;
    if (window_.calls == config_.window_calls) {
      Sums oldest;
      oldest.Add(verdicts_[newest_]);
      window_.Subtract(oldest);
    }
    verdicts_[newest_] = verdict;
  } else {
    // Threads race to the lock: a verdict that is a little older than the newest stretch counts there.
    if (now >= newest_until_) {
      const auto steps = (now - newest_until_) / stretch_ + 1;
      newest_until_ += steps * stretch_;
      for (std::int64_t step = 0; step < std::min<std::int64_t>(steps, kStretches); ++step) {
        newest_ = newest_ + 1 < stretches_.size() ? newest_ + 1 : 0;
        window_.Subtract(stretches_[newest_]);
        stretches_[newest_] = {};
      }
    }
    stretches_[newest_].Add(verdict);
  }
  window_.Add(verdict);
}

bool Breaker::WindowSaysOpen() const {
  return window_.calls >= config_.calls_min && (Reaches(window_.failed, window_.calls, config_.failure_ratio) ||
                                                Reaches(window_.slow, window_.calls, config_.slow_ratio));
}

void Breaker::GiveUpProbes(SteadyTime now) {
  const std::uint64_t epoch = epoch_.load(std::memory_order_relaxed);
  std::optional<SteadyTime> failed;
  std::erase_if(probes_, [&](const Probe& probe) {
    if (now < probe.limit) return false;
    if (probe.epoch == epoch) failed = std::min(failed.value_or(probe.limit), probe.limit);
    return true;
  });
  // It failed at its limit, not when somebody came to see: whoever comes long after may probe at once.
  if (failed) Enter(State::kOpen, *failed);
}

bool Breaker::EndProbe(std::uint64_t ticket) {
  return std::erase_if(probes_, [&](const Probe& probe) { return probe.ticket == ticket; }) != 0;
}

int Breaker::ProbesOf(std::uint64_t epoch) const {
  return static_cast<int>(std::ranges::count(probes_, epoch, &Probe::epoch));
}

const char* BreakerStateName(Breaker::State state) {
  switch (state) {
    case Breaker::State::kClosed:
      return "closed";
    case Breaker::State::kHalfOpen:
      return "half_open";
    case Breaker::State::kOpen:
      return "open";
  }
  std::unreachable();
}

}  // namespace nova::resilience
