#include "nova/resilience/limiter.h"

#include <algorithm>
#include <cmath>
#include <string>

namespace nova::resilience {
namespace {

// A window is closed when it is both so long and so full: shorter ones would chase noise.
constexpr Duration kWindowMin = std::chrono::milliseconds(100);
constexpr int kWindowCallsMin = 20;

// A call is alone with so few under way; what it takes then is the baseline.
constexpr int kAlone = 2;
// The weight of such a call, once there were as many.
constexpr int kAloneWeight = 32;
// What drifts, drifts by 1/e in this time.
constexpr double kDriftSeconds = 100;
// So many calls that are faster than the baseline pull it down half of the way.
constexpr double kFollowCalls = 32;

// For so long after the last refusal, or after a burst whose calls are still there, more calls than the limit are no
// burst.
constexpr Duration kCalm = std::chrono::seconds(1);

// No call counts as more than this, so that a few that hang on something else do not decide for all.
constexpr double kStretchMax = 3;
// The most that one window changes.
constexpr double kCutMost = 0.7;
constexpr double kGrowMost = 1.25;
// The limit grows if calls were refused, or if as large a share of it was used.
constexpr double kUsed = 0.75;

// Whether cuts help is asked when the calls in flight have fallen by 30 %. If calls wait for each other, latency has
// fallen in proportion; by this share of it, it must have. Both in logarithms.
constexpr double kCutJudged = 0.36;
constexpr double kCutHelped = 0.25;

double Seconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }

}  // namespace

const char* PriorityName(Priority priority) {
  switch (priority) {
    case Priority::kCritical:
      return "critical";
    case Priority::kHigh:
      return "high";
    case Priority::kNormal:
      return "normal";
    case Priority::kLow:
      return "low";
  }
  return "unknown";
}

void Bind(config::Config& config, LimiterConfig& limiter) {
  using std::chrono::milliseconds;
  using std::chrono::seconds;
  config.Field("overload.initial", limiter.initial,
               {.help = "calls at once, until the server has measured itself", .min = 4, .max = 1'000'000});
  config.Field("overload.min", limiter.min, {.help = "calls at once that are never cut", .min = 4, .max = 1'000'000});
  config.Field("overload.max", limiter.max, {.help = "calls at once, at most", .min = 4, .max = 1'000'000});
  config.Field(
      "overload.tolerance", limiter.tolerance,
      {.help = "a call may take so many times what it takes alone before calls are shed", .min = 1.1, .max = 10});
  config.Field("overload.slack", limiter.slack,
               {.help = "or so much longer than alone, whichever is more", .min = milliseconds(1), .max = seconds(10)});
  config.Field("overload.burst", limiter.burst,
               {.help = "how long calls may come at once before any is shed; 0 for not at all",
                .min = milliseconds(0),
                .max = seconds(10)});
  config.Field("overload.push_back", limiter.push_back,
               {.help = "when a call that was shed may be tried again", .min = milliseconds(1), .max = seconds(60)});
}

Result<void> Validate(const LimiterConfig& limiter) {
  if (limiter.min > limiter.max)
    return InvalidArgument("overload.min is above overload.max: lower NOVA_OVERLOAD_MIN to " +
                           std::to_string(limiter.max) + ", or raise NOVA_OVERLOAD_MAX");
  if (limiter.initial < limiter.min || limiter.initial > limiter.max)
    return InvalidArgument(
        "overload.initial is not between overload.min and overload.max: set NOVA_OVERLOAD_INITIAL to " +
        std::to_string(limiter.min) + " at least and " + std::to_string(limiter.max) + " at most");
  return Ok();
}

Limiter::Limiter(LimiterConfig config, std::size_t methods)
    : config_(config), limit_(config.initial), exact_limit_(config.initial), methods_(methods) {}

int Limiter::Allowed(Priority priority) const {
  const std::int64_t limit = this->limit();
  // Rounded down, which keeps them apart for every limit from 4 on: 2, 3, 4, 6.
  switch (priority) {
    case Priority::kCritical:
      return static_cast<int>(std::max(limit + limit / 4, limit + 2));
    case Priority::kHigh:
      return static_cast<int>(limit);
    case Priority::kNormal:
      return static_cast<int>(limit * 85 / 100);
    case Priority::kLow:
      break;
  }
  return static_cast<int>(limit * 60 / 100);
}

bool Limiter::IsBurst(int over, SteadyTime now) {
  if (config_.burst == Duration::zero() || over >= config_.initial) return false;
  const Duration::rep time = now.time_since_epoch().count();
  if (time < shedding_until_.load(std::memory_order_relaxed)) return false;
  Duration::rep since = burst_since_.load(std::memory_order_relaxed);
  // One that is long over does not count: a server that is always more than half busy would be granted one in its life.
  while (since == kNever || time - since >= (config_.burst + kCalm).count()) {
    if (burst_since_.compare_exchange_weak(since, time, std::memory_order_relaxed)) return true;
  }
  return time - since < Duration(config_.burst).count();
}

int Limiter::TryAcquire(Priority priority, SteadyTime time) {
  const int allowed = Allowed(priority);
  int now = in_flight_.load(std::memory_order_relaxed);
  do {
    if (now >= allowed && !IsBurst(now - allowed, time)) {
      // As long as calls have to be refused, no burst is to be expected: this is what more calls than the server can
      // work on look like.
      shedding_until_.store((time + kCalm).time_since_epoch().count(), std::memory_order_relaxed);
      // Read first: under overload this is written once in a window, and not by every call.
      if (!refused_.load(std::memory_order_relaxed)) refused_.store(true, std::memory_order_relaxed);
      return 0;
    }
  } while (!in_flight_.compare_exchange_weak(now, now + 1, std::memory_order_relaxed));
  return now + 1;
}

void Limiter::Release(const Ended& ended, SteadyTime now) {
  const int left = in_flight_.fetch_sub(1, std::memory_order_relaxed) - 1;
  if (burst_since_.load(std::memory_order_relaxed) != kNever && left <= limit() / 2)
    burst_since_.store(kNever, std::memory_order_relaxed);
  if (!ended.success || now <= ended.arrival) return;
  std::lock_guard lock(mutex_);
  Add(ended, now - ended.arrival);
  if (window_.calls >= kWindowCallsMin && now - window_.begin >= kWindowMin) Close(now);
}

void Limiter::Add(const Ended& ended, Duration duration) {
  const double took = Seconds(duration);
  Method& method = methods_[ended.method];
  const bool alone = ended.in_flight <= kAlone;
  if (alone) {
    // The plain mean of the first ones, so that a cold start is forgotten soon.
    if (method.alone < kAloneWeight) ++method.alone;
    method.baseline += (took - method.baseline) / method.alone;
  } else if (method.baseline == 0) {
    method.baseline = took;
  }
  if (ended.arrival < window_.begin) return;
  if (!alone) {
    ++method.calls;
    method.sum += took;
  }
  const double may_take = std::max(method.baseline * config_.tolerance, method.baseline + Seconds(config_.slack));
  ++window_.calls;
  window_.stretch += std::min(took / may_take, kStretchMax);
  window_.slowdown += std::log(took / method.baseline);
  window_.in_flight += std::log(ended.in_flight);
  window_.in_flight_max = std::max(window_.in_flight_max, ended.in_flight);
}

void Limiter::Close(SteadyTime now) {
  const double stretch = window_.stretch / window_.calls;
  const double slowdown = window_.slowdown / window_.calls;
  const double in_flight = window_.in_flight / window_.calls;
  const bool refused = refused_.exchange(false, std::memory_order_relaxed);
  stretch_.store(stretch, std::memory_order_relaxed);

  // Calls that were nearly alone did not wait for each other, however long they took.
  if (stretch > 1 && window_.in_flight_max > kAlone) {
    if (CutsDoNotHelp(in_flight, slowdown)) {
      Rebase();
    } else {
      SetLimit(exact_limit_ * std::max(1 / stretch, kCutMost));
    }
  } else {
    before_.reset();
    if (refused || window_.in_flight_max >= kUsed * exact_limit_)
      SetLimit(exact_limit_ * std::clamp(1 / stretch, 1.0, kGrowMost));
  }
  const bool at_floor = exact_limit_ <= config_.min;
  FollowBaselines(at_floor || (stretch <= 1 && !refused), now - window_.begin);
  for (Method& method : methods_) method.calls = 0, method.sum = 0;
  window_ = {.begin = now};
}

bool Limiter::CutsDoNotHelp(double in_flight, double slowdown) {
  if (before_) {
    const double fewer = before_->in_flight - in_flight;
    if (fewer < kCutJudged) return false;
    if (before_->slowdown - slowdown < kCutHelped * fewer) return true;
  }
  before_ = {.in_flight = in_flight, .slowdown = slowdown, .limit = exact_limit_};
  return false;
}

void Limiter::FollowBaselines(bool drift, Duration window) {
  for (Method& method : methods_) {
    if (method.calls == 0) continue;
    const double change = method.sum / method.calls - method.baseline;
    if (change < 0) {
      method.baseline += change * method.calls / (method.calls + kFollowCalls);
    } else if (drift) {
      method.baseline += change * std::min(1.0, Seconds(window) / kDriftSeconds);
    }
  }
}

void Limiter::Rebase() {
  for (Method& method : methods_) {
    if (method.calls > 0) method.baseline = std::max(method.baseline, method.sum / method.calls);
  }
  SetLimit(before_->limit);
  before_.reset();
}

void Limiter::SetLimit(double limit) {
  exact_limit_ = std::clamp(limit, static_cast<double>(config_.min), static_cast<double>(config_.max));
  limit_.store(static_cast<int>(exact_limit_), std::memory_order_relaxed);
}

double Limiter::baseline(std::size_t method) const {
  std::lock_guard lock(mutex_);
  return methods_[method].baseline;
}

std::chrono::milliseconds Limiter::PushBack() {
  // splitmix64 of a counter: any two in a row have nothing in common.
  std::uint64_t random = push_backs_.fetch_add(1, std::memory_order_relaxed) * 0x9e3779b97f4a7c15U;
  random = (random ^ (random >> 30U)) * 0xbf58476d1ce4e5b9U;
  random = (random ^ (random >> 27U)) * 0x94d049bb133111ebU;
  const double share = static_cast<double>((random ^ (random >> 31U)) >> 11U) * 0x1p-53;
  return std::chrono::ceil<std::chrono::milliseconds>(config_.push_back * (0.75 + share / 2));
}

}  // namespace nova::resilience
