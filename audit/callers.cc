#include "audit/callers.h"

#include <algorithm>
#include <utility>

namespace nova::audit {
namespace {

using runtime::Call;
using runtime::Task;

// A call ends at once when it is cancelled.
constexpr Duration kStopLimit = std::chrono::seconds(5);

}  // namespace

Callers::Callers(runtime::Runtime& runtime, Config config, Work work)
    : config_(config), work_(std::move(work)), scope_(runtime) {
  for (int i = 0; i < config_.count; ++i)
    scope_.Spawn("a caller of the audit", [this](Call& call) { return CallOverAndOver(call); });
}

Callers::~Callers() { (void)Stop(); }

Task<void> Callers::CallOverAndOver(Call& scope) {
  for (;;) {
    const SteadyTime start = Clock::System().Now();
    Result<void> outcome;
    {
      Call call(scope, config_.deadline, start);
      outcome = co_await work_(call);
    }
    const Duration took = Clock::System().Now() - start;
    NOVA_CO_TRY(scope.Check());
    Note(outcome, took);
    NOVA_CO_TRY(co_await runtime::Sleep(scope, config_.pause));
  }
}

void Callers::Note(const Result<void>& outcome, Duration took) {
  const std::lock_guard lock(mutex_);
  ++seen_.calls;
  seen_.slowest = std::max(seen_.slowest, took);
  if (outcome) {
    ++seen_.answered;
    last_answer_ = Clock::System().Now();
  } else if (seen_.first_failure.empty()) {
    seen_.first_failure = outcome.error().ToString();
  }
}

Callers::Seen Callers::seen() const {
  const std::lock_guard lock(mutex_);
  return seen_;
}

std::optional<SteadyTime> Callers::last_answer() const {
  const std::lock_guard lock(mutex_);
  return last_answer_;
}

Callers::Seen Callers::Stop() {
  (void)scope_.Stop(kStopLimit);
  return seen();
}

Timing::Timing(runtime::Runtime& runtime, Duration patience, Callers::Work work) : scope_(runtime) {
  scope_.Spawn("a timed call of the audit",
               [this, patience, work = std::move(work), start = Clock::System().Now()](Call& scope) -> Task<void> {
                 Result<void> outcome;
                 {
                   Call call(scope, patience, start);
                   outcome = co_await work(call);
                 }
                 const std::lock_guard lock(mutex_);
                 ended_ = Ended{.outcome = std::move(outcome), .took = Clock::System().Now() - start};
                 co_return Ok();
               });
}

Timing::~Timing() { (void)scope_.Stop(kStopLimit); }

std::optional<Timing::Ended> Timing::ended() const {
  const std::lock_guard lock(mutex_);
  return ended_;
}

}  // namespace nova::audit
