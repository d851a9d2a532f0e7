#include "nova/resilience/protect.h"

#include <algorithm>
#include <string>

namespace nova::resilience {

using runtime::Call;
using runtime::Task;

namespace {

// Longer than any call; a timer cannot be set to the end of time.
constexpr std::chrono::hours kForever{24 * 365};
// Drivers count deadlines in whole milliseconds, and may find one passed a little before it has.
constexpr std::chrono::milliseconds kRounding{2};

std::string Named(const Dependency& dependency) { return "dependency=" + std::string(dependency.name().text()); }

Duration LimitOf(const Dependency& dependency, const ProtectOptions& options) {
  if (options.lasting) return Duration::max();
  return std::min<Duration>(dependency.config().timeout + options.patience, options.limit);
}

// Whether those above the request of `call` must not try again what failed. What a cache does not answer is done
// without: it says nothing about the request either way.
void SetSpent(const Call& call, const Dependency& dependency, bool spent) {
  if (dependency.kind() == Kind::kCache) return;
  if (auto* const allowance = call.retries()) allowance->spent = spent;
}

std::optional<Duration> Refuse(const Call& call, Dependency& dependency, NoRetry reason) {
  dependency.CountRefusedRetry(reason);
  // Those above must not try either what was given up here.
  SetSpent(call, dependency, true);
  return std::nullopt;
}

}  // namespace

Guard::Guard(Call& call, Dependency& dependency, const ProtectOptions& options)
    : Guard(call, dependency, options, Clock::System().Now()) {}

Guard::Guard(Call& call, Dependency& dependency, const ProtectOptions& options, SteadyTime now)
    : parent_(call),
      dependency_(dependency),
      options_(options),
      start_(now),
      policy_limits_(LimitOf(dependency, options) < call.deadline() - now),
      call_(call, LimitOf(dependency, options), now),
      own_allowance_(OwnAllowance(dependency)) {
  attempt_.call_ = &call_;
  attempt_.allowance_ = call.retries() != nullptr ? call.retries() : &own_allowance_;
}

// Deadlines are the machine's; what is measured is told by the clock of the dependency, which is the same but in tests.
SteadyTime Guard::Now() const { return dependency_.clock().Now(); }

Guard::~Guard() {
  if (under_way_) End(Outcome::kCancelled, false);
}

Result<void> Guard::Begin() {
  const bool begins = attempt_.number_ == 0;
  const bool first = begins && !options_.again;
  NOVA_TRY(begins ? call_.Check(start_) : call_.Check());
  // Who goes on after something was given up has got over it; the request must not be judged by that any more.
  if (first) {
    SetSpent(parent_, dependency_, false);
  } else {
    dependency_.CountRetry();
  }
  const SteadyTime now = begins && &dependency_.clock() == &Clock::System() ? start_ : Now();
  if (options_.always) {
    attempt_.breaker_ = dependency_.breaker().AcquireAlways(now, options_.patience);
  } else {
    auto breaker = dependency_.breaker().TryAcquire(now, options_.patience);
    if (!breaker) {
      dependency_.Count(Outcome::kOpen);
      SetSpent(parent_, dependency_, true);
      return Unavailable("a dependency is unavailable", Named(dependency_) + ": its circuit breaker is open");
    }
    attempt_.breaker_ = *std::move(breaker);
    auto place = dependency_.bulkhead().TryAcquire();
    if (!place) {
      attempt_.breaker_ = {};
      dependency_.Count(Outcome::kFull);
      return ResourceExhausted("the service is busy, try again later",
                               Named(dependency_) + ": " + SettingName(dependency_.name(), "calls_max") + " (" +
                                   std::to_string(dependency_.config().calls_max) + ") calls are under way");
    }
    attempt_.bulkhead_ = *std::move(place);
  }
  if (first) dependency_.retry_budget().Deposit();
  ++attempt_.number_;
  attempt_.begin_ = now;
  attempt_.said_.reset();
  attempt_.slow_ = false;
  attempt_.fault_ = dependency_.DrawFault();
  under_way_ = true;
  return Ok();
}

void Guard::End(Outcome outcome, bool failed) {
  under_way_ = false;
  const SteadyTime now = Now();
  const Duration took = now - attempt_.begin_;
  const Duration limit = std::min<Duration>(dependency_.config().slow + options_.patience, options_.limit / 2);
  const bool slow = attempt_.slow_ || (!options_.lasting && took >= limit);
  // What its caller ended tells nothing, unless it had been slow by then.
  if (outcome != Outcome::kCancelled || slow) attempt_.breaker_.Record({.failed = failed, .slow = slow}, now);
  attempt_.breaker_ = {};
  attempt_.bulkhead_ = {};
  dependency_.Count(outcome);
  dependency_.Observe(took, slow);
}

void Guard::Answered() {
  if (!attempt_.breaker_.is_probe()) return;
  attempt_.breaker_.Record({}, Now());
  attempt_.breaker_ = {};
}

void Guard::Succeeded() {
  End(Outcome::kOk, false);
  dependency_.ShowTokens();
}

Guard::Judged Guard::Judge(Code code) const {
  switch (code) {
    case Code::kCancelled:
    case Code::kUnavailable:
    case Code::kUnknown:
    case Code::kInternal:
    case Code::kDataLoss:
    case Code::kDeadlineExceeded:
      break;
    default:
      return {.outcome = Outcome::kAnswered};
  }
  // Work that its call ended may say so, or that its connection was closed, or anything; what counts is who ended it.
  const Duration early = code == Code::kDeadlineExceeded ? kRounding : Duration();
  if (const auto going = call_.Check(Clock::System().Now() + early); !going) {
    if (!policy_limits_ || going.error().code() != Code::kDeadlineExceeded) return {.outcome = Outcome::kCancelled};
    return {.outcome = Outcome::kTimeout, .failed = true, .by_policy = true};
  }
  if (code == Code::kCancelled) return {.outcome = Outcome::kCancelled};
  return {.outcome = code == Code::kDeadlineExceeded ? Outcome::kTimeout : Outcome::kFailed, .failed = true};
}

Error Guard::Failed(Error error) {
  const auto [outcome, failed, by_policy] = Judge(error.code());
  End(outcome, failed);
  dependency_.ShowTokens();
  if (!by_policy) return error;
  // The policy's limit, and not the call's own: whoever reads the log needs to know which setting that is.
  const auto& config = dependency_.config();
  using std::chrono::milliseconds;
  const std::string whose =
      options_.limit < config.timeout + options_.patience
          ? "the operation's own limit (" +
                std::to_string(std::chrono::duration_cast<milliseconds>(options_.limit).count()) + " ms)"
          : SettingName(dependency_.name(), "timeout_ms") + " (" + std::to_string(config.timeout.count()) + ")";
  return DeadlineExceeded("a dependency took too long", Named(dependency_) + " ran into " + whose +
                                                            (error.detail().empty() ? "" : ": " + error.detail()));
}

std::optional<Duration> Guard::RetryAfter(const Error& error) {
  if (!IsRetryable(error, attempt_.said_)) return std::nullopt;
  if (attempt_.said_ && !attempt_.said_->wait) return Refuse(parent_, dependency_, NoRetry::kPushBack);
  // Whoever may repeat the whole is further up: nothing is spent by not repeating a part.
  if (options_.idempotency == Idempotency::kNone) return std::nullopt;
  return TakeRetry(parent_, dependency_, attempt_.allowance(), attempt_.number_, call_.Remaining(),
                   attempt_.said_ ? Duration(*attempt_.said_->wait) : Duration());
}

std::optional<Duration> TakeRetry(const Call& call, Dependency& dependency, runtime::RetryAllowance& allowance,
                                  int tries, Duration left, Duration pause_min) {
  const RetryConfig& config = dependency.config().retry;
  // Where retries are turned off they are left to one hop of the chain, and nothing is spent.
  if (config.tries_max == 1 || config.budget_ratio == 0) return std::nullopt;
  if (tries >= config.tries_max) return Refuse(call, dependency, NoRetry::kTries);
  if (allowance.left <= 0) return Refuse(call, dependency, NoRetry::kAllowance);
  const Duration pause = std::max(Backoff(config, tries, dependency.Random()), pause_min);
  if (pause >= left) return Refuse(call, dependency, NoRetry::kDeadline);
  if (!dependency.retry_budget().TryWithdraw()) return Refuse(call, dependency, NoRetry::kBudget);
  --allowance.left;
  ++allowance.used;
  dependency.ShowTokens();
  return pause;
}

Task<void> Guard::InjectBefore() {
  // Lasting work has no timeout of its own, but its beginning has.
  Call beginning(call_, options_.lasting ? Duration(dependency_.config().timeout) : Duration::max());
  switch (attempt_.fault_) {
    case Fault::kDelay:
      co_return co_await runtime::Sleep(beginning, dependency_.config().faults.delay_time);
    case Fault::kError:
      co_return Unavailable("a dependency is unavailable", Named(dependency_) + ": an injected error");
    case Fault::kBlackHole:
      // Ends by a deadline or cancellation alone.
      co_return co_await runtime::Sleep(beginning, kForever);
    case Fault::kNone:
    case Fault::kAbort:
      break;
  }
  co_return Ok();
}

std::optional<Error> Guard::InjectAfter() {
  if (attempt_.fault_ != Fault::kAbort) return std::nullopt;
  return Unavailable("a dependency is unavailable", Named(dependency_) + ": an injected abort; the work was done");
}

}  // namespace nova::resilience
