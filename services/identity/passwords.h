// Passwords: whether one is right, and how it is replaced by somebody who knows it or who reads the account's mail.
#pragma once

#include <optional>
#include <string>

#include "nova/auth/password.h"
#include "nova/base/clock.h"
#include "nova/base/result.h"
#include "nova/base/secret.h"
#include "nova/runtime/call.h"
#include "nova/runtime/task.h"
#include "nova/telemetry/metrics.h"
#include "services/identity/config.h"
#include "services/identity/lockout.h"
#include "services/identity/store.h"

namespace nova::identity {

// What the mail about a password reset needs.
struct IssuedReset {
  Secret<> token;
  std::string email;
  std::string username;
  WallTime expires_at;
};

// Errors: INVALID_ARGUMENT naming the field for a password that is empty or longer than any can be.
Result<void> CheckGivenPassword(const Secret<>& password, std::string_view field);

// Thread-safe. Errors that every function may have beyond those it names: RESOURCE_EXHAUSTED when too many passwords
// are being computed or too many calls wait for the database; UNAVAILABLE without the database; why the call ended.
// Cancellation: at once, the statement under way included. Deadline: the call's.
class Passwords {
 public:
  // All references must outlive the passwords.
  Passwords(Store& store, auth::PasswordHasher& hasher, Lockout& lockout, telemetry::Metrics& metrics,
            const ResetConfig& config, const Clock& clock);

  // True if there is an account and the password is its own. Computes one argon2id hash, whatever the outcome.
  runtime::Task<bool> Verify(runtime::Call& call, const std::optional<StoredAccount>& account, Secret<> password);
  runtime::Task<std::string> Hash(runtime::Call& call, Secret<> password);
  // Moves a password that was just verified to today's cost. Never fails: that is no reason to refuse a log-in.
  runtime::Awaitable<void> Upgrade(runtime::Call& call, const StoredAccount& account, Secret<> password);

  // For the call's caller: ends the other sessions. Errors: INVALID_ARGUMENT naming the field, current_password if it
  // is wrong; RESOURCE_EXHAUSTED after too many wrong ones; UNAUTHENTICATED without a live session; ABORTED if the
  // password was changed meanwhile.
  runtime::Task<void> Change(runtime::Call& call, Secret<> current, Secret<> wanted);

  // Appends PasswordResetRequested if the address is an account's, at most once per reset_interval. Errors:
  // INVALID_ARGUMENT for what is no address; otherwise the answer and the work are the same.
  runtime::Task<void> RequestReset(runtime::Call& call, std::string email);

  // Makes the token for the mail; the one before is void. Errors: INVALID_ARGUMENT for what is no UUID; NOT_FOUND if
  // the reset was used, has expired, or never was.
  runtime::Task<IssuedReset> IssueReset(runtime::Call& call, std::string reset_id);

  // Sets the password for the holder of a reset token: ends all sessions, forgets all devices, clears the lock. Returns
  // a token by which the device at hand is known from now on. Errors: UNAUTHENTICATED for a token that is wrong, used
  // or expired; INVALID_ARGUMENT naming the field.
  runtime::Task<Secret<>> Reset(runtime::Call& call, Secret<> reset_token, Secret<> wanted);

 private:
  // Change, once the current password was found right. False if it is no longer of `version`, or the session has ended.
  runtime::Task<bool> Replace(runtime::Call& call, runtime::Caller caller, std::int32_t version, Secret<> wanted,
                              const Bytes& subject);

  // Constant after construction.
  Store& store_;
  auth::PasswordHasher& hasher_;
  Lockout& lockout_;
  const ResetConfig config_;
  const Clock& clock_;
  prometheus::Counter& changed_;
  prometheus::Counter& change_refused_;
  prometheus::Counter& change_locked_;
  prometheus::Counter& reset_requested_;
  prometheus::Counter& reset_ignored_;
  prometheus::Counter& reset_issued_;
  prometheus::Counter& reset_done_;
  prometheus::Counter& reset_refused_;
};

}  // namespace nova::identity
