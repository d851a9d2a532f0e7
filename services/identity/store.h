// Store: identity's tables (schema/) and its outbox. SQL only; every rule is the service's. What must happen together
// is one function, and one transaction.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "nova/events/outbox.h"
#include "nova/postgres/pool.h"
#include "nova/runtime/call.h"
#include "nova/runtime/task.h"
#include "services/identity/account.h"
#include "services/identity/tokens.h"

namespace nova::identity {

// The request that made an account: its idempotency key and the SHA-256 of what it asked for, the password excepted.
struct RegistrationMark {
  Uuid key;
  Bytes fingerprint;
};

struct StoredAccount {
  Account account;
  std::string password_hash;
  RegistrationMark registration;
  // Counts changes of the password; a new hash of the same password is none.
  std::int32_t password_version = 0;
  std::optional<WallTime> suspended_at;
};

// A device that holds a token of ours.
struct StoredDevice {
  Uuid id;
  Uuid account;
  Bytes token_hash;
  WallTime last_used_at;
};

struct NewSession {
  Uuid id;
  std::string device_name;
  WallTime created_at;
  WallTime expires_at;
  Bytes family_key;
  Bytes current_hash;
};

// A session that can be refreshed.
struct StoredSession {
  Uuid id;
  Uuid account;
  WallTime created_at;
  WallTime expires_at;
  Bytes family_key;
  std::int32_t generation = 0;
  Bytes current_hash;
  // Of the last exchange; none of them before the first.
  std::optional<Bytes> previous_hash;
  std::optional<Bytes> successor_salt;
  std::optional<WallTime> rotated_at;
};

struct Rotation {
  Uuid session;
  // The hash of the token that is spent.
  Bytes from_hash;
  Bytes to_hash;
  Bytes salt;
  WallTime at;
  WallTime expires_at;
};

struct SessionInfo {
  Uuid id;
  std::string device_name;
  WallTime created_at;
  WallTime last_used_at;
  WallTime expires_at;
};

struct StoredReset {
  Uuid account;
  std::string email;
  std::string username;
  WallTime expires_at;
  // Nothing until a token was made.
  std::optional<Bytes> token_hash;
};

// How failures add up; times as in LockoutConfig.
struct LockoutCurve {
  std::int32_t threshold = 0;
  std::chrono::milliseconds base{0};
  std::chrono::milliseconds max{0};
};

// What is older than these may go.
struct PurgeBefore {
  WallTime attempts;
  WallTime devices;
  WallTime resets;
  WallTime reset_requests;
  WallTime sessions;
};

// Thread-safe. Errors, deadline and cancellation of every function: those of postgres::Pool::Query, of functions that
// append an event those of Pool::InTransaction. "Live" is a session that is not revoked and has not expired at `now`.
class Store {
 public:
  // Both must outlive the store; `outbox` writes to the same database.
  Store(postgres::Pool& pool, events::Outbox& outbox) : pool_(pool), outbox_(outbox) {}

  // Appends AccountRegistered. False if the email address, the username or the registration key is taken; the database
  // decides races.
  runtime::Task<bool> InsertAccount(runtime::Call& call, const StoredAccount& account);
  // Appends AccountRegistered for `batch` accounts made by a binary that did not. Returns how many there were.
  runtime::Task<std::int64_t> Announce(runtime::Call& call, int batch);

  // Nothing if there is none.
  runtime::Task<std::optional<StoredAccount>> FindByRegistrationKey(runtime::Call& call, Uuid key);
  runtime::Task<std::optional<StoredAccount>> FindByEmail(runtime::Call& call, const std::string& email);
  runtime::Task<std::optional<StoredAccount>> FindByUsername(runtime::Call& call, const std::string& username);
  // The caller's account, if the session lives too.
  runtime::Task<std::optional<StoredAccount>> FindCaller(runtime::Call& call, runtime::Caller caller, WallTime now);

  // Does nothing if the hash is no longer `from`: the password was changed meanwhile.
  runtime::Task<void> ReplacePasswordHash(runtime::Call& call, Uuid account, const std::string& from,
                                          const std::string& to);

  // Within a transaction of somebody else's, who heard it from the user service. Repeated, they change nothing.
  runtime::Task<void> Suspend(runtime::Call& call, postgres::Transaction& transaction, Uuid account, WallTime at);
  runtime::Task<void> Reinstate(runtime::Call& call, postgres::Transaction& transaction, Uuid account);
  // With all that belongs to it; appends AccountDeleted.
  runtime::Task<void> DeleteAccount(runtime::Call& call, postgres::Transaction& transaction, Uuid account);

  // Counts a failure of the subject and returns true; false, and nothing is counted, while the subject is locked. From
  // the threshold on, each failure locks it: for `base`, then twice as long each time, `max` at most. Failures before
  // `forget_before` do not count.
  runtime::Task<bool> CountFailure(runtime::Call& call, const Bytes& subject, LockoutCurve curve,
                                   WallTime forget_before, WallTime now);
  // Takes back the failure counted at `at`, with the lock it brought.
  runtime::Task<void> TakeBackFailure(runtime::Call& call, const Bytes& subject, WallTime at);
  runtime::Task<void> ForgetFailures(runtime::Call& call, const Bytes& subject);

  runtime::Task<std::optional<StoredDevice>> FindDevice(runtime::Call& call, Uuid id);

  // Opens a session for whoever proved to be `who`, inserts or touches the device, and forgets the subject's failures.
  // Of the account's other sessions and devices the least recently used go, so that `sessions_max` and `devices_max`
  // remain. False, and nothing is done, if the account was suspended or deleted, or its password changed, meanwhile.
  runtime::Task<bool> OpenSession(runtime::Call& call, const StoredAccount& who, const NewSession& session,
                                  const StoredDevice& device, int sessions_max, int devices_max, const Bytes& subject);

  // A live one that can be refreshed.
  runtime::Task<std::optional<StoredSession>> FindRefreshable(runtime::Call& call, Uuid session, WallTime now);
  // False if from_hash is no longer current, or the session was revoked meanwhile.
  runtime::Task<bool> Rotate(runtime::Call& call, const Rotation& rotation);
  runtime::Task<bool> IsLive(runtime::Call& call, runtime::Caller session, WallTime now);

  // The caller's live sessions with ids below `before`, in descending order. Nothing if the caller's own does not live.
  runtime::Task<std::optional<std::vector<SessionInfo>>> ListSessions(runtime::Call& call, runtime::Caller caller,
                                                                      Uuid before, int limit, WallTime now);

  // True if the session was live. `reason` is a word for sessions.revoked_reason.
  runtime::Task<bool> RevokeSession(runtime::Call& call, runtime::Caller session, std::string_view reason,
                                    WallTime now);
  enum class Revoked { kDone, kNoSuchSession, kCallerIsDead };
  // kDone also for a session that had ended before.
  runtime::Task<Revoked> RevokeSessionOf(runtime::Call& call, runtime::Caller caller, Uuid session, WallTime now);
  // How many were revoked. Nothing if the caller's own does not live.
  runtime::Task<std::optional<std::int64_t>> RevokeSessionsOf(runtime::Call& call, runtime::Caller caller,
                                                              bool include_own, WallTime now);

  // Sets the hash, revokes the caller's other sessions, forgets other devices and open resets, and the subject's
  // failures; appends PasswordChanged. False, and nothing is done, if the password is no longer of `version` or the
  // caller's session does not live.
  runtime::Task<bool> ChangePassword(runtime::Call& call, runtime::Caller caller, std::int32_t version,
                                     const std::string& hash, const Bytes& subject, WallTime now);

  // Appends PasswordResetRequested if the address is an account's and `subject` was not asked for after `recent`. Does
  // the same work if not. True if it was appended.
  runtime::Task<bool> RequestReset(runtime::Call& call, const std::string& email, const Bytes& subject, Uuid reset,
                                   WallTime expires_at, WallTime recent, WallTime now);
  // Replaces the reset's token. Nothing if there is no such reset, or it has expired.
  runtime::Task<std::optional<StoredReset>> SetResetToken(runtime::Call& call, Uuid reset, const Bytes& token_hash,
                                                          WallTime now);
  runtime::Task<std::optional<StoredReset>> FindReset(runtime::Call& call, Uuid reset, WallTime now);
  // Uses the reset up: sets the hash, revokes all sessions, forgets all other devices and resets, and the failures of
  // both subjects; inserts the device; appends PasswordChanged. False, and nothing is done, if the reset was used or
  // replaced meanwhile.
  runtime::Task<bool> ResetPassword(runtime::Call& call, Uuid reset, const Bytes& token_hash, const std::string& hash,
                                    const StoredDevice& device, const std::pair<Bytes, Bytes>& subjects, WallTime now);

  // Deletes up to `batch` rows of each kind. Returns how many it deleted.
  runtime::Task<std::int64_t> Purge(runtime::Call& call, const PurgeBefore& before, int batch);

 private:
  postgres::Pool& pool_;
  events::Outbox& outbox_;
};

}  // namespace nova::identity
