// Protect: the way every call to a dependency takes. In this order, outermost first:
//
//   timeout    the smaller of the policy's and what is left of the caller's deadline, over all tries
//   retry      of work that may be repeated, within the budgets of the dependency and of the request
//   breaker    refuses at once while the dependency is down
//   bulkhead   refuses over calls_max; its permit is held until the work has really ended
//   faults     injected, if the configuration says so
//   the work   which gets the narrowed call, and its outcome is counted
//
//   co_return co_await WithDbTimeout(call, database, [&](Call& limited) -> Task<Rows> {
//     co_return co_await driver.Query(limited, sql);
//   });
//
// Nova's own clients (postgres::Pool, rpc::Client, redis::Client, http::Client) do this by themselves; the entry points
// are for drivers of others. The work must end soon after its call does: nobody leaves it behind.
#pragma once

#include <optional>
#include <type_traits>
#include <utility>

#include "nova/resilience/dependency.h"
#include "nova/runtime/call.h"
#include "nova/runtime/runtime.h"
#include "nova/runtime/task.h"
#include "nova/runtime/task_value.h"

namespace nova::resilience {

struct ProtectOptions {
  // Work that may not be repeated is tried once.
  Idempotency idempotency = Idempotency::kNone;
  // A question about the dependency itself, such as health's: never refused, never waits for the breaker to half-open.
  bool always = false;
  // How long the work waits by design (XREAD BLOCK): added to the timeout, and no reason to call it slow.
  Duration patience{};
  // The operation's own limit, such as the timeout a method declares: where it is shorter it takes the place of the
  // policy's timeout, to run into it is the dependency's fault as well, and half of it is slow.
  Duration limit = Duration::max();
  // The work lasts as long as its caller wants (a stream): no timeout but the caller's, and never slow.
  bool lasting = false;
  // The client has made it before, and took this retry itself (TakeRetry): it counts as one, and pays nothing in.
  bool again = false;
};

class Guard;

// One try, as the work sees it. Confined to the strand of the call.
class Attempt {
 public:
  // Ends at the policy's timeout.
  runtime::Call& call() { return *call_; }
  // 1 for the first.
  int number() const { return number_; }
  // For work that goes on when its caller has gone: take it along, tell it Orphan(), and drop it at the real end.
  Bulkhead::Permit TakePermit() { return std::move(bulkhead_); }
  // Lasting work, whose duration says nothing, saw that the dependency was slow.
  void SetSlow() { slow_ = true; }
  // What the peer said about trying again.
  void SetPushBack(PushBack said) { said_ = said; }
  // What is left of the request's retries, or of this call's own if it serves no request: for work that tells the next
  // hop, and hears how many were made there.
  runtime::RetryAllowance& allowance() { return *allowance_; }

 private:
  friend class Guard;
  runtime::Call* call_ = nullptr;
  int number_ = 0;
  SteadyTime begin_;
  Breaker::Permit breaker_;
  Bulkhead::Permit bulkhead_;
  runtime::RetryAllowance* allowance_ = nullptr;
  std::optional<PushBack> said_;
  bool slow_ = false;
  Fault fault_ = Fault::kNone;
};

// Of a call that serves no request.
inline runtime::RetryAllowance OwnAllowance(const Dependency& dependency) {
  return {.left = dependency.config().retry.tries_max - 1};
}

// Whether there is to be another try after `tries` of them, and after which pause: at least `pause_min`, and only if
// that is less than `left` of the time. Takes it out of the dependency's budget and the request's allowance, or counts
// why not. For clients whose tries are more than one call of the dependency each; `call` is the one that all of them
// serve.
std::optional<Duration> TakeRetry(const runtime::Call& call, Dependency& dependency, runtime::RetryAllowance& allowance,
                                  int tries, Duration left, Duration pause_min = {});

// What Protect does between the tries; for clients whose work is no single task, such as a stream's. Confined to the
// strand of `call`, which must outlive it. Gone before End, it gives its permits back, and the try counts as cancelled.
class Guard {
 public:
  Guard(runtime::Call& call, Dependency& dependency, const ProtectOptions& options = {});
  ~Guard();
  Guard(const Guard&) = delete;
  Guard& operator=(const Guard&) = delete;

  // Asks the breaker and the bulkhead. Errors: UNAVAILABLE if the breaker is open; RESOURCE_EXHAUSTED if the bulkhead
  // is full; why the call ended. After an error there is nothing to end.
  Result<void> Begin();
  Attempt& attempt() { return attempt_; }
  runtime::Call& call() { return call_; }

  // Lasting work has had its first answer. A probe is judged by that: its end may be hours away.
  void Answered();
  // Judges the outcome of the try. Of an error: says whose deadline it was.
  void Succeeded();
  Error Failed(Error error);

  // After Failed: whether, and after which pause, there is to be another try. Then Begin() again.
  std::optional<Duration> RetryAfter(const Error& error);

  // The injected fault, if any: DELAY has passed when it returns OK; ERROR and BLACK_HOLE are errors.
  runtime::Task<void> InjectBefore();
  // ABORT: what the work returned is lost.
  std::optional<Error> InjectAfter();
  bool has_fault() const { return attempt_.fault_ != Fault::kNone; }

 private:
  struct Judged {
    Outcome outcome;
    bool failed = false;
    bool by_policy = false;  // the limit that it ran into was not its caller's
  };
  Guard(runtime::Call& call, Dependency& dependency, const ProtectOptions& options, SteadyTime now);
  SteadyTime Now() const;
  Judged Judge(Code code) const;
  void End(Outcome outcome, bool failed);

  runtime::Call& parent_;
  Dependency& dependency_;
  const ProtectOptions options_;
  const SteadyTime start_;
  // Whose limit the call's deadline is.
  bool policy_limits_ = false;
  runtime::Call call_;
  Attempt attempt_;
  bool under_way_ = false;
  // Of calls that serve no request.
  runtime::RetryAllowance own_allowance_;
};

namespace internal {

// Asio recycles the frames of coroutines up to 1020 bytes; a larger one would be an allocation in every call. These are
// functions of their own, and stay so, in order that their temporaries do not count towards the frame of Protect.

// False: it may not begin, and `result` says why.
template <class T>
[[gnu::noinline]] bool Begin(Guard& guard, Result<T>& result) {
  auto begun = guard.Begin();
  if (!begun) result = std::move(begun).error();
  return begun.ok();
}

template <class T>
[[gnu::noinline]] std::optional<Duration> PauseAfter(Guard& guard, Result<T>& result) {
  result = guard.Failed(std::move(result).error());
  return guard.RetryAfter(result.error());
}

template <class F>
auto WorkWithFault(Guard& guard, F& work) -> std::invoke_result_t<F&, Attempt&> {
  NOVA_CO_TRY(co_await guard.InjectBefore());
  auto result = co_await work(guard.attempt());
  if (auto lost = guard.InjectAfter(); lost && result) co_return *std::move(lost);
  co_return result;
}

}  // namespace internal

// Runs `work(Attempt&) -> Task<T>` under the policies of `dependency` and returns its value.
// Errors: those of `work`; UNAVAILABLE while the breaker is open; RESOURCE_EXHAUSTED if the bulkhead is full;
// DEADLINE_EXCEEDED, which says in its detail whose limit it was; why the call ended.
template <class F>
auto Protect(runtime::Call& call, Dependency& dependency, F work, ProtectOptions options = {})
    -> std::invoke_result_t<F&, Attempt&> {
  Guard guard(call, dependency, options);
  Result<runtime::TaskValueOf<F, Attempt&>> result;
  for (;;) {
    if (!internal::Begin(guard, result)) co_return result;
    if (!guard.has_fault()) [[likely]] {
      result = co_await work(guard.attempt());
    } else {
      result = co_await internal::WorkWithFault(guard, work);
    }
    if (result) {
      guard.Succeeded();
      co_return result;
    }
    const std::optional<Duration> pause = internal::PauseAfter(guard, result);
    if (!pause) co_return result;
    if (auto slept = co_await runtime::Sleep(guard.call(), *pause); !slept) co_return result;
  }
}

// --- The plain entry points: work(Call&) -> Task<T>, tried once. ---

// Without a dependency: `limit`, or what is left of the call's deadline. For a piece of work inside of the process.
template <class F>
auto WithTimeout(runtime::Call& call, Duration limit, F work) -> std::invoke_result_t<F&, runtime::Call&> {
  runtime::Call limited(call, limit);
  co_return co_await work(limited);
}

template <class F>
auto WithTimeout(runtime::Call& call, Dependency& dependency, F work) -> std::invoke_result_t<F&, runtime::Call&> {
  return Protect(call, dependency, [work = std::move(work)](Attempt& attempt) mutable { return work(attempt.call()); });
}

// 10 s, unless configured.
template <class F>
auto WithDbTimeout(runtime::Call& call, DatabaseDependency& dependency, F work) {
  return WithTimeout(call, dependency, std::move(work));
}

// 10 s, unless configured.
template <class F>
auto WithGrpcTimeout(runtime::Call& call, PeerDependency& dependency, F work) {
  return WithTimeout(call, dependency, std::move(work));
}

// 5 s, unless configured.
template <class F>
auto WithCacheTimeout(runtime::Call& call, CacheDependency& dependency, F work) {
  return WithTimeout(call, dependency, std::move(work));
}

}  // namespace nova::resilience
