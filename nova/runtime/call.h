// Call: what one piece of work knows about itself: until when it may run, for whom, under which trace, and whether
// it was cancelled. It is passed explicitly, first argument of everything that can wait, and lives on the stack of
// whoever began the work; a child narrows its parent's deadline and ends with it.
//
//   Call call(strand, {.deadline = clock.Now() + 10s});
//   Call attempt(call, 2s);        // ends after 2 s, or with `call`, whichever is first
//
// Everything in this header is confined to the call's strand, unless it says otherwise.
#pragma once

#include <boost/asio/steady_timer.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "nova/base/clock.h"
#include "nova/base/uuid.h"
#include "nova/runtime/strand.h"
#include "nova/runtime/trace.h"

namespace nova::runtime {

// The end user on whose behalf a call runs, taken from a verified token, never from a request field.
struct Caller {
  Uuid account;
  Uuid session;
};

// What is left of the retries that a request may cause, wherever along its chain of calls. It belongs to the request;
// every hop takes from it, so that hops do not multiply. Confined to the strand of the call.
struct RetryAllowance {
  int left = 0;
  // Made by this hop and those below it.
  int used = 0;
  // A failure below was not worth another try, or there was none left: whoever is above must not try again either.
  bool spent = false;
};

struct CallOptions {
  SteadyTime deadline = SteadyTime::max();
  TraceContext trace = TraceContext::New();
  // Principal of the peer's verified certificate, such as "gateway"; empty without mTLS.
  std::string peer = {};
  // Of the request that the call serves, which must outlive it; null for work that nobody asked for.
  RetryAllowance* retries = nullptr;
};

class Call;

// Runs `action` once when the call ends early, on its strand; runs it at once if the call has ended already. Forgets
// it when destroyed. Every wait holds one.
class CancelHook {
 public:
  // `timed`: the call's deadline counts as its end, for which the call needs a timer.
  CancelHook(Call& call, std::move_only_function<void(const Error&)> action, bool timed = true);
  ~CancelHook();
  CancelHook(const CancelHook&) = delete;
  CancelHook& operator=(const CancelHook&) = delete;

 private:
  friend class Call;
  void Unlink();

  Call* call_;
  std::move_only_function<void(const Error&)> action_;
  CancelHook* previous_ = nullptr;
  CancelHook* next_ = nullptr;
  bool linked_ = false;
};

class Call {
 public:
  explicit Call(Strand strand, CallOptions options = {});
  // A child of `parent`: same strand, caller and trace; ends at the earlier of `timeout` from `now` and the parent's
  // end. Allocates nothing until something waits.
  Call(Call& parent, Duration timeout, SteadyTime now = Clock::System().Now());
  ~Call();
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  // Ends the call: every wait under it returns `reason`. The first reason stays.
  void Cancel(Error reason);

  // OK while the call may go on; else CANCELLED, DEADLINE_EXCEEDED or the reason given. Work that starts anything
  // that lasts calls it first.
  Result<void> Check() const;
  // The same for one who has just asked what time it is.
  Result<void> Check(SteadyTime now) const;

  SteadyTime deadline() const { return deadline_; }
  // What is left until the deadline, never negative.
  Duration Remaining() const;
  const Strand& strand() const { return strand_; }
  const TraceContext& trace() const { return trace_; }
  const std::string& peer() const { return root_->peer_; }
  const std::optional<Caller>& caller() const { return caller_; }
  // Set once, by the layer that verified the token.
  void set_caller(Caller caller) { caller_ = caller; }
  // Null for work that nobody asked for.
  RetryAllowance* retries() const { return retries_; }

 private:
  friend class CancelHook;
  struct Timer;

  void ArmTimer();

  // Constant after construction.
  Strand strand_;
  SteadyTime deadline_;
  TraceContext trace_;
  Call* root_;        // the oldest ancestor, or this
  std::string peer_;  // of the root
  RetryAllowance* retries_;
  // Confined to the strand.
  std::optional<Caller> caller_;
  std::unique_ptr<const Error> reason_;
  CancelHook* hooks_ = nullptr;       // doubly linked, newest first
  std::shared_ptr<Timer> timer_;      // made at the first wait: a call that never waits never pays for it
  std::optional<CancelHook> parent_;  // set in a child
};

}  // namespace nova::runtime
