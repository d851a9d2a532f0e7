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

struct CallOptions {
  SteadyTime deadline = SteadyTime::max();
  TraceContext trace = TraceContext::New();
  // Principal of the peer's verified certificate, such as "gateway"; empty without mTLS.
  std::string peer = {};
};

class CancelHook;

class Call {
 public:
  explicit Call(Strand strand, CallOptions options = {});
  // A child of `parent`: same strand, caller and trace; ends at the earlier of `timeout` from now and the parent's end.
  Call(Call& parent, Duration timeout);
  ~Call();
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  // Ends the call: every wait under it returns `reason`. The first reason stays.
  void Cancel(Error reason);

  // OK while the call may go on; else CANCELLED, DEADLINE_EXCEEDED or the reason given. Work that starts anything
  // that lasts calls it first.
  Result<void> Check() const;

  SteadyTime deadline() const { return deadline_; }
  // What is left until the deadline, never negative.
  Duration Remaining() const;
  const Strand& strand() const { return strand_; }
  const TraceContext& trace() const { return trace_; }
  const std::string& peer() const { return peer_; }
  const std::optional<Caller>& caller() const { return caller_; }
  // Set once, by the layer that verified the token.
  void set_caller(Caller caller) { caller_ = caller; }

 private:
  friend class CancelHook;
  struct Timer;

  void ArmTimer();

  // Constant after construction.
  Strand strand_;
  SteadyTime deadline_;
  TraceContext trace_;
  std::string peer_;
  // Confined to the strand.
  std::optional<Caller> caller_;
  std::optional<Error> reason_;
  CancelHook* hooks_ = nullptr;         // doubly linked, newest first
  std::shared_ptr<Timer> timer_;        // made at the first wait: a call that never waits never pays for it
  std::unique_ptr<CancelHook> parent_;  // set in a child
};

// Runs `action` once when the call ends early, on its strand; runs it at once if the call has ended already. Forgets
// it when destroyed. Every wait holds one.
class CancelHook {
 public:
  CancelHook(Call& call, std::move_only_function<void(const Error&)> action);
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

}  // namespace nova::runtime
