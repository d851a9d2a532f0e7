#include "nova/runtime/call.h"

#include <algorithm>
#include <chrono>

namespace nova::runtime {

// Outlives the call by as long as Asio needs to hand back the handler of a cancelled timer.
struct Call::Timer {
  explicit Timer(const Strand& strand, Call* owner) : timer(strand), call(owner) {}
  asio::steady_timer timer;
  Call* call;  // null once the call is gone
};

Call::Call(Strand strand, CallOptions options)
    : strand_(std::move(strand)),
      deadline_(options.deadline),
      trace_(options.trace),
      root_(this),
      peer_(std::move(options.peer)),
      retries_(options.retries) {}

Call::Call(Call& parent, Duration timeout, SteadyTime now)
    : strand_(parent.strand_),
      trace_(parent.trace_),
      root_(parent.root_),
      retries_(parent.retries_),
      caller_(parent.caller_) {
  // The comparison is made on durations: now + timeout may overflow for "no limit".
  deadline_ = timeout < parent.deadline_ - now ? now + timeout : parent.deadline_;
  // The parent's deadline needs no timer for this: the child has one of its own, which is not later.
  parent_.emplace(parent, [this](const Error& reason) { Cancel(reason); }, false);
}

Call::~Call() {
  if (timer_) {
    timer_->call = nullptr;
    timer_->timer.cancel();
  }
}

void Call::Cancel(Error reason) {
  if (reason_) return;
  reason_ = std::make_unique<const Error>(std::move(reason));
  // An action may destroy its own hook or others, so the head is read anew each time.
  while (hooks_ != nullptr) {
    CancelHook* const hook = hooks_;
    hook->Unlink();
    auto action = std::move(hook->action_);
    action(*reason_);
  }
}

Result<void> Call::Check() const {
  if (reason_ || deadline_ == SteadyTime::max()) return Check(SteadyTime::min());
  return Check(Clock::System().Now());
}

Result<void> Call::Check(SteadyTime now) const {
  if (reason_) return *reason_;
  if (now >= deadline_) return DeadlineExceeded("the deadline of the call has passed");
  return Ok();
}

Duration Call::Remaining() const {
  if (deadline_ == SteadyTime::max()) return Duration::max();
  return std::max(Duration::zero(), deadline_ - Clock::System().Now());
}

void Call::ArmTimer() {
  if (timer_ || deadline_ == SteadyTime::max()) return;
  timer_ = std::make_shared<Timer>(strand_, this);
  timer_->timer.expires_at(deadline_);
  timer_->timer.async_wait([timer = timer_](const boost::system::error_code& error) {
    if (!error && timer->call != nullptr) timer->call->Cancel(DeadlineExceeded("the deadline of the call has passed"));
  });
}

CancelHook::CancelHook(Call& call, std::move_only_function<void(const Error&)> action, bool timed)
    : call_(&call), action_(std::move(action)) {
  if (call.reason_) {
    auto now = std::move(action_);
    now(*call.reason_);
    return;
  }
  next_ = call.hooks_;
  if (next_ != nullptr) next_->previous_ = this;
  call.hooks_ = this;
  linked_ = true;
  if (timed) call.ArmTimer();
}

CancelHook::~CancelHook() {
  if (linked_) Unlink();
}

void CancelHook::Unlink() {
  if (previous_ != nullptr) previous_->next_ = next_;
  if (next_ != nullptr) next_->previous_ = previous_;
  if (call_->hooks_ == this) call_->hooks_ = next_;
  previous_ = next_ = nullptr;
  linked_ = false;
}

}  // namespace nova::runtime
