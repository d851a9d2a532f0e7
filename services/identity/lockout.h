// Lockout: makes guessing passwords slow without letting anybody lock a user out for good.
//
// Failures are counted per subject. For a stranger the subject is the identifier as given, whether or not an account
// has it, so the answer says nothing about who exists. A device that has logged in before shows a token and is a
// subject of its own (OWASP's device cookies): whoever keeps an identifier locked from elsewhere does not keep the
// user's own devices out. Refreshing a session is not affected at all, and a password reset clears the lock.
#pragma once

#include <optional>
#include <string_view>

#include "nova/base/clock.h"
#include "nova/runtime/call.h"
#include "nova/runtime/task.h"
#include "services/identity/config.h"
#include "services/identity/store.h"
#include "services/identity/tokens.h"

namespace nova::identity {

// What RESOURCE_EXHAUSTED says for a locked subject, of whatever kind.
Error TooManyAttempts();

// Thread-safe.
class Lockout {
 public:
  // Who is counted. An identifier is given as the service normalises it.
  static Bytes OfIdentifier(std::string_view identifier);
  static Bytes OfDevice(Uuid device);
  static Bytes OfSession(Uuid session);

  // An attempt that was let through, counted as a failure until its outcome is known: so attempts at once cannot be
  // more than the threshold allows.
  struct Attempt {
    Bytes subject;
    WallTime at;
  };

  // Both references must outlive the lockout.
  Lockout(Store& store, const LockoutConfig& config, const Clock& clock)
      : store_(store), config_(config), clock_(clock) {}

  // Nothing while the subject is locked. Errors: those of the store.
  runtime::Task<std::optional<Attempt>> Begin(runtime::Call& call, Bytes subject);

  // For an attempt that found neither a right nor a wrong password, because something was not there or the call ended.
  // Never fails: what cannot be taken back stays counted. Takes kTakeBackLimit at most, also after the end of `call`.
  runtime::Awaitable<void> TakeBack(runtime::Call& call, Attempt attempt);

 private:
  // Constant after construction.
  Store& store_;
  const LockoutConfig config_;
  const Clock& clock_;
};

}  // namespace nova::identity
