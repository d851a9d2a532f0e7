#include "services/identity/store.h"

#include "api/events/v1/identity.pb.h"
#include "nova/proto/timestamp.h"

namespace nova::identity {
namespace {

using postgres::Rows;
using postgres::Statement;
using postgres::Transaction;
using runtime::Call;
using runtime::Caller;
using runtime::Task;

// Accounts.

// Whichever constraint is violated, the row is not inserted; an error would have to be sorted by its name.
constexpr Statement kInsertAccount{
    "insert_account",
    "INSERT INTO accounts (id, email, username, password_hash, created_at, registration_key, registration_fingerprint, "
    "announced) VALUES ($1, $2, $3, $4, $5, $6, $7, true) ON CONFLICT DO NOTHING"};

// Rows that somebody else works on come the next time.
constexpr Statement kSelectUnannounced{
    "select_unannounced_accounts",
    "SELECT id, username, created_at FROM accounts WHERE NOT announced ORDER BY id LIMIT $1 "
    "FOR NO KEY UPDATE SKIP LOCKED"};
constexpr Statement kSetAnnounced{"set_account_announced", "UPDATE accounts SET announced = true WHERE id = $1"};

#define NOVA_ACCOUNT_COLUMNS                                                             \
  "accounts.id, email, username, accounts.created_at, password_hash, registration_key, " \
  "registration_fingerprint, password_version, suspended_at "
constexpr Statement kSelectByRegistrationKey{
    "select_account_by_registration_key", "SELECT " NOVA_ACCOUNT_COLUMNS "FROM accounts WHERE registration_key = $1"};
constexpr Statement kSelectByEmail{"select_account_by_email",
                                   "SELECT " NOVA_ACCOUNT_COLUMNS "FROM accounts WHERE email = $1"};
constexpr Statement kSelectByUsername{"select_account_by_username",
                                      "SELECT " NOVA_ACCOUNT_COLUMNS "FROM accounts WHERE username = $1"};
constexpr Statement kSelectCaller{
    "select_account_of_caller",
    "SELECT " NOVA_ACCOUNT_COLUMNS
    "FROM accounts JOIN sessions ON sessions.account_id = accounts.id "
    "WHERE accounts.id = $1 AND sessions.id = $2 AND revoked_at IS NULL AND expires_at > $3"};
#undef NOVA_ACCOUNT_COLUMNS

constexpr Statement kReplacePasswordHash{"replace_password_hash",
                                         "UPDATE accounts SET password_hash = $3 WHERE id = $1 AND password_hash = $2"};

constexpr Statement kSuspend{"suspend_account",
                             "UPDATE accounts SET suspended_at = $2 WHERE id = $1 AND suspended_at IS NULL"};
constexpr Statement kReinstate{"reinstate_account", "UPDATE accounts SET suspended_at = NULL WHERE id = $1"};
constexpr Statement kDeleteAccount{"delete_account", "DELETE FROM accounts WHERE id = $1"};

// Sessions. A transaction that touches an account and its sessions locks the account first, and several sessions are
// locked in the order of their ids, so that no two wait for each other.

constexpr Statement kLockAccountForLogin{"lock_account_for_login",
                                         "SELECT id FROM accounts WHERE id = $1 AND password_version = $2 AND "
                                         "suspended_at IS NULL FOR NO KEY UPDATE"};
constexpr Statement kLockAccount{"lock_account", "SELECT id FROM accounts WHERE id = $1 FOR NO KEY UPDATE"};

// The new session is not seen by the first part, hence the limit of one less.
constexpr Statement kInsertSession{
    "insert_session",
    "WITH excess AS (SELECT id FROM sessions WHERE account_id = $2 AND revoked_at IS NULL AND expires_at > $4 "
    "ORDER BY last_used_at DESC, id DESC OFFSET $9 - 1), "
    "locked AS (SELECT id FROM sessions WHERE id IN (SELECT id FROM excess) ORDER BY id FOR UPDATE), "
    "revoked AS (UPDATE sessions SET revoked_at = $4, revoked_reason = 'limit' "
    "WHERE id IN (SELECT id FROM locked) AND revoked_at IS NULL) "
    "INSERT INTO sessions (id, account_id, device_name, created_at, last_used_at, expires_at, device_id, family_key, "
    "current_hash) VALUES ($1, $2, $3, $4, $4, $5, $6, $7, $8)"};

constexpr Statement kSelectRefreshable{
    "select_refreshable_session",
    "SELECT id, account_id, created_at, expires_at, family_key, generation, current_hash, previous_hash, "
    "successor_salt, rotated_at FROM sessions "
    "WHERE id = $1 AND revoked_at IS NULL AND expires_at > $2 AND family_key IS NOT NULL"};

// A comparison and a change in one statement: of many who exchange the same token one succeeds, without a lock that is
// held across round trips.
constexpr Statement kRotate{"rotate_session",
                            "UPDATE sessions SET previous_hash = current_hash, current_hash = $3, successor_salt = $4, "
                            "generation = generation + 1, rotated_at = $5, last_used_at = $5, expires_at = $6 "
                            "WHERE id = $1 AND current_hash = $2 AND revoked_at IS NULL"};

constexpr Statement kSelectLive{
    "select_live_session",
    "SELECT id FROM sessions WHERE id = $1 AND account_id = $2 AND revoked_at IS NULL AND expires_at > $3"};

// A row without a session tells an empty page from a caller whose session has ended.
constexpr Statement kListSessions{
    "list_sessions",
    "SELECT page.id, page.device_name, page.created_at, page.last_used_at, page.expires_at "
    "FROM sessions AS own LEFT JOIN LATERAL ("
    "SELECT id, device_name, created_at, last_used_at, expires_at FROM sessions "
    "WHERE account_id = own.account_id AND id < $4 AND revoked_at IS NULL AND expires_at > $3 "
    "ORDER BY id DESC LIMIT $5) AS page ON true "
    "WHERE own.id = $1 AND own.account_id = $2 AND own.revoked_at IS NULL AND own.expires_at > $3 "
    "ORDER BY page.id DESC"};

constexpr Statement kRevokeSession{"revoke_session",
                                   "UPDATE sessions SET revoked_at = $3, revoked_reason = $4 WHERE id = $1 AND "
                                   "account_id = $2 AND revoked_at IS NULL AND expires_at > $3"};

#define NOVA_OWN_SESSION                                                                                      \
  "own AS (SELECT id, account_id FROM sessions WHERE id = $1 AND account_id = $2 AND revoked_at IS NULL AND " \
  "expires_at > $3)"
constexpr Statement kRevokeSessionOfCaller{
    "revoke_session_of_caller",
    "WITH " NOVA_OWN_SESSION
    ", target AS (SELECT id FROM sessions WHERE id = $4 AND account_id = (SELECT account_id FROM own)), "
    "revoked AS (UPDATE sessions SET revoked_at = $3, revoked_reason = 'revoked' "
    "WHERE id = (SELECT id FROM target) AND revoked_at IS NULL) "
    "SELECT EXISTS (SELECT FROM own), EXISTS (SELECT FROM target)"};
constexpr Statement kRevokeSessionsOfCaller{
    "revoke_sessions_of_caller",
    "WITH " NOVA_OWN_SESSION
    ", target AS (SELECT id FROM sessions WHERE account_id = (SELECT account_id FROM own) AND revoked_at IS NULL AND "
    "expires_at > $3 AND ($4 OR id <> $1) ORDER BY id FOR UPDATE), "
    "revoked AS (UPDATE sessions SET revoked_at = $3, revoked_reason = 'revoked' "
    "WHERE id IN (SELECT id FROM target) RETURNING id) "
    "SELECT EXISTS (SELECT FROM own), (SELECT count(*) FROM revoked)"};
#undef NOVA_OWN_SESSION

// All but $2, which is nil where none is to be kept.
constexpr Statement kRevokeOtherSessions{
    "revoke_other_sessions",
    "WITH target AS (SELECT id FROM sessions WHERE account_id = $1 AND id <> $2 AND revoked_at IS NULL ORDER BY id FOR "
    "UPDATE) UPDATE sessions SET revoked_at = $3, revoked_reason = $4 WHERE id IN (SELECT id FROM target)"};

// Failures and devices.

// The first failure of a new row does not lock it: the threshold is two at least. The exponent is bounded so that the
// power stays a number.
constexpr Statement kCountFailure{
    "count_login_failure",
    "INSERT INTO login_attempts AS known (subject, failures, last_at) VALUES ($1, 1, $2) "
    "ON CONFLICT (subject) DO UPDATE SET last_at = $2, "
    "failures = CASE WHEN known.last_at < $3 THEN 1 ELSE known.failures + 1 END, "
    "locked_until = CASE WHEN known.last_at >= $3 AND known.failures + 1 >= $4 "
    "THEN $2 + make_interval(secs => least($5 * power(2, least(known.failures + 1 - $4, 60)), $6)) END "
    "WHERE known.locked_until IS NULL OR known.locked_until <= $2"};
// The only one of its subject, so that names made up while no password can be computed fill no table.
constexpr Statement kTakeBackOnlyFailure{
    "take_back_only_login_failure", "DELETE FROM login_attempts WHERE subject = $1 AND failures <= 1 AND last_at = $2"};
// Whoever was counted in between stays counted, and keeps the lock of its own.
constexpr Statement kTakeBackFailure{
    "take_back_login_failure",
    "UPDATE login_attempts SET failures = greatest(failures - 1, 0), "
    "locked_until = CASE WHEN last_at = $2 THEN NULL ELSE locked_until END WHERE subject = $1"};
constexpr Statement kForgetFailures{"forget_login_failures", "DELETE FROM login_attempts WHERE subject = $1"};

constexpr Statement kSelectDevice{"select_device",
                                  "SELECT id, account_id, token_hash, last_used_at FROM devices WHERE id = $1"};
// As in kInsertSession; a device that is known is no new one.
constexpr Statement kUpsertDevice{
    "upsert_device",
    "WITH excess AS (DELETE FROM devices WHERE id IN (SELECT id FROM devices WHERE account_id = $2 AND id <> $1 "
    "ORDER BY last_used_at DESC, id DESC OFFSET $5 - 1)) "
    "INSERT INTO devices (id, account_id, token_hash, created_at, last_used_at) VALUES ($1, $2, $3, $4, $4) "
    "ON CONFLICT (id) DO UPDATE SET last_used_at = $4"};
constexpr Statement kDeleteOtherDevices{
    "delete_other_devices",
    "DELETE FROM devices WHERE account_id = $1 AND id IS DISTINCT FROM (SELECT device_id FROM sessions WHERE id = $2)"};

// Passwords.

constexpr Statement kChangePassword{
    "change_password",
    "UPDATE accounts SET password_hash = $4, password_version = password_version + 1 "
    "WHERE id = $1 AND password_version = $3 AND EXISTS (SELECT FROM sessions WHERE id = $2 AND account_id = $1 AND "
    "revoked_at IS NULL AND expires_at > $5)"};
constexpr Statement kSetPassword{
    "set_password", "UPDATE accounts SET password_hash = $2, password_version = password_version + 1 WHERE id = $1"};

constexpr Statement kLockAccountByEmail{"lock_account_by_email",
                                        "SELECT id FROM accounts WHERE email = $1 FOR KEY SHARE"};
constexpr Statement kInsertResetRequest{
    "insert_password_reset_request",
    "INSERT INTO password_reset_requests AS known (subject, requested_at) VALUES ($1, $2) "
    "ON CONFLICT (subject) DO UPDATE SET requested_at = $2 WHERE known.requested_at <= $3"};
constexpr Statement kSavepoint{"savepoint", "SAVEPOINT reset"};
constexpr Statement kReleaseSavepoint{"release_savepoint", "RELEASE SAVEPOINT reset"};
constexpr Statement kRollbackToSavepoint{"rollback_to_savepoint", "ROLLBACK TO SAVEPOINT reset"};
constexpr Statement kInsertReset{"insert_password_reset",
                                 "INSERT INTO password_resets (id, account_id, expires_at) VALUES ($1, $2, $3)"};
constexpr Statement kSetResetToken{"set_password_reset_token",
                                   "UPDATE password_resets AS reset SET token_hash = $2 FROM accounts "
                                   "WHERE reset.id = $1 AND reset.expires_at > $3 AND accounts.id = reset.account_id "
                                   "RETURNING account_id, email, username, expires_at, token_hash"};
constexpr Statement kSelectReset{
    "select_password_reset",
    "SELECT account_id, email, username, expires_at, token_hash FROM password_resets "
    "JOIN accounts ON accounts.id = account_id WHERE password_resets.id = $1 AND expires_at > $2"};
constexpr Statement kUseReset{"use_password_reset",
                              "DELETE FROM password_resets WHERE id = $1 AND token_hash = $2 AND expires_at > $3"};
constexpr Statement kDeleteResets{"delete_password_resets", "DELETE FROM password_resets WHERE account_id = $1"};

// Purge. Replicas that purge at once take different rows.

constexpr Statement kPurge[] = {
    {"purge_login_attempts",
     "DELETE FROM login_attempts WHERE subject IN (SELECT subject FROM login_attempts WHERE last_at < $1 "
     "ORDER BY last_at LIMIT $2 FOR UPDATE SKIP LOCKED)"},
    {"purge_devices",
     "DELETE FROM devices WHERE id IN (SELECT id FROM devices WHERE last_used_at < $1 "
     "ORDER BY last_used_at LIMIT $2 FOR UPDATE SKIP LOCKED)"},
    {"purge_password_resets",
     "DELETE FROM password_resets WHERE id IN (SELECT id FROM password_resets WHERE expires_at < $1 "
     "ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED)"},
    {"purge_password_reset_requests",
     "DELETE FROM password_reset_requests WHERE subject IN (SELECT subject FROM password_reset_requests "
     "WHERE requested_at < $1 ORDER BY requested_at LIMIT $2 FOR UPDATE SKIP LOCKED)"},
    {"purge_sessions",
     "DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE LEAST(revoked_at, expires_at) < $1 "
     "ORDER BY LEAST(revoked_at, expires_at) LIMIT $2 FOR UPDATE SKIP LOCKED)"},
};

std::string Aggregate(Uuid account) { return "account/" + account.ToString(); }

events::v1::AccountRegistered RegisteredEvent(Uuid account, const std::string& username, WallTime at) {
  events::v1::AccountRegistered event;
  event.set_account_id(account.ToString());
  event.set_username(username);
  *event.mutable_registered_at() = proto::ToTimestamp(at);
  return event;
}

events::v1::PasswordChanged ChangedEvent(Uuid account, bool by_reset) {
  events::v1::PasswordChanged event;
  event.set_account_id(account.ToString());
  event.set_by_reset(by_reset);
  return event;
}

Task<std::optional<StoredAccount>> ReadAccount(Task<Rows> query) {
  NOVA_CO_TRY(const Rows rows, co_await std::move(query));
  if (rows.empty()) co_return std::optional<StoredAccount>();
  StoredAccount found;
  NOVA_CO_TRY(rows[0].Read(found.account.id, found.account.email, found.account.username, found.account.created_at,
                           found.password_hash, found.registration.key, found.registration.fingerprint,
                           found.password_version, found.suspended_at));
  co_return std::optional(std::move(found));
}

Task<std::optional<StoredReset>> ReadReset(Task<Rows> query) {
  NOVA_CO_TRY(const Rows rows, co_await std::move(query));
  if (rows.empty()) co_return std::optional<StoredReset>();
  StoredReset found;
  NOVA_CO_TRY(rows[0].Read(found.account, found.email, found.username, found.expires_at, found.token_hash));
  co_return std::optional(std::move(found));
}

Task<bool> ReadWhetherAny(Task<Rows> query) {
  NOVA_CO_TRY(const Rows rows, co_await std::move(query));
  co_return rows.affected() > 0;
}

}  // namespace

Task<bool> Store::InsertAccount(Call& call, const StoredAccount& stored) {
  co_return co_await outbox_.InTransaction(call, [&](Transaction& transaction) -> Task<bool> {
    NOVA_CO_TRY(const Rows rows,
                co_await transaction.Query(call, kInsertAccount, stored.account.id, stored.account.email,
                                           stored.account.username, stored.password_hash, stored.account.created_at,
                                           stored.registration.key, stored.registration.fingerprint));
    if (rows.affected() == 0) co_return false;
    const auto event = RegisteredEvent(stored.account.id, stored.account.username, stored.account.created_at);
    NOVA_CO_TRY(co_await outbox_.Append(call, transaction, Aggregate(stored.account.id), event));
    co_return true;
  });
}

Task<std::int64_t> Store::Announce(Call& call, int batch) {
  co_return co_await outbox_.InTransaction(call, [&](Transaction& transaction) -> Task<std::int64_t> {
    NOVA_CO_TRY(const Rows rows, co_await transaction.Query(call, kSelectUnannounced, batch));
    for (const postgres::Row row : rows) {
      Uuid account;
      std::string username;
      WallTime created_at;
      NOVA_CO_TRY(row.Read(account, username, created_at));
      NOVA_CO_TRY(co_await transaction.Query(call, kSetAnnounced, account));
      const auto event = RegisteredEvent(account, username, created_at);
      NOVA_CO_TRY(co_await outbox_.Append(call, transaction, Aggregate(account), event));
    }
    co_return std::int64_t{rows.size()};
  });
}

Task<std::optional<StoredAccount>> Store::FindByRegistrationKey(Call& call, Uuid key) {
  return ReadAccount(pool_.Query(call, kSelectByRegistrationKey, key));
}

Task<std::optional<StoredAccount>> Store::FindByEmail(Call& call, const std::string& email) {
  return ReadAccount(pool_.Query(call, kSelectByEmail, email));
}

Task<std::optional<StoredAccount>> Store::FindByUsername(Call& call, const std::string& username) {
  return ReadAccount(pool_.Query(call, kSelectByUsername, username));
}

Task<std::optional<StoredAccount>> Store::FindCaller(Call& call, Caller caller, WallTime now) {
  return ReadAccount(pool_.Query(call, kSelectCaller, caller.account, caller.session, now));
}

Task<void> Store::ReplacePasswordHash(Call& call, Uuid account, const std::string& from, const std::string& to) {
  NOVA_CO_TRY(co_await pool_.Query(call, kReplacePasswordHash, account, from, to));
  co_return Ok();
}

Task<void> Store::Suspend(Call& call, Transaction& transaction, Uuid account, WallTime at) {
  NOVA_CO_TRY(co_await transaction.Query(call, kSuspend, account, at));
  NOVA_CO_TRY(co_await transaction.Query(call, kRevokeOtherSessions, account, Uuid(), at, "suspended"));
  co_return Ok();
}

Task<void> Store::Reinstate(Call& call, Transaction& transaction, Uuid account) {
  NOVA_CO_TRY(co_await transaction.Query(call, kReinstate, account));
  co_return Ok();
}

Task<void> Store::DeleteAccount(Call& call, Transaction& transaction, Uuid account) {
  NOVA_CO_TRY(const Rows rows, co_await transaction.Query(call, kDeleteAccount, account));
  if (rows.affected() == 0) co_return Ok();
  events::v1::AccountDeleted event;
  event.set_account_id(account.ToString());
  co_return co_await outbox_.Append(call, transaction, Aggregate(account), event);
}

Task<bool> Store::CountFailure(Call& call, const Bytes& subject, LockoutCurve curve, WallTime forget_before,
                               WallTime now) {
  const auto seconds = [](std::chrono::milliseconds time) { return std::chrono::duration<double>(time).count(); };
  return ReadWhetherAny(pool_.Query(call, kCountFailure, subject, now, forget_before, curve.threshold,
                                    seconds(curve.base), seconds(curve.max)));
}

Task<void> Store::TakeBackFailure(Call& call, const Bytes& subject, WallTime at) {
  NOVA_CO_TRY(const Rows only, co_await pool_.Query(call, kTakeBackOnlyFailure, subject, at));
  if (only.affected() > 0) co_return Ok();
  NOVA_CO_TRY(co_await pool_.Query(call, kTakeBackFailure, subject, at));
  co_return Ok();
}

Task<void> Store::ForgetFailures(Call& call, const Bytes& subject) {
  NOVA_CO_TRY(co_await pool_.Query(call, kForgetFailures, subject));
  co_return Ok();
}

Task<std::optional<StoredDevice>> Store::FindDevice(Call& call, Uuid id) {
  NOVA_CO_TRY(const Rows rows, co_await pool_.Query(call, kSelectDevice, id));
  if (rows.empty()) co_return std::optional<StoredDevice>();
  StoredDevice found;
  NOVA_CO_TRY(rows[0].Read(found.id, found.account, found.token_hash, found.last_used_at));
  co_return std::optional(std::move(found));
}

Task<bool> Store::OpenSession(Call& call, const StoredAccount& who, const NewSession& session,
                              const StoredDevice& device, int sessions_max, int devices_max, const Bytes& subject) {
  co_return co_await pool_.InTransaction(call, [&](Transaction& transaction) -> Task<bool> {
    const Uuid account = who.account.id;
    NOVA_CO_TRY(const Rows locked,
                co_await transaction.Query(call, kLockAccountForLogin, account, who.password_version));
    if (locked.empty()) co_return false;
    NOVA_CO_TRY(co_await transaction.Query(call, kUpsertDevice, device.id, account, device.token_hash,
                                           device.last_used_at, devices_max));
    NOVA_CO_TRY(co_await transaction.Query(call, kInsertSession, session.id, account, session.device_name,
                                           session.created_at, session.expires_at, device.id, session.family_key,
                                           session.current_hash, sessions_max));
    NOVA_CO_TRY(co_await transaction.Query(call, kForgetFailures, subject));
    co_return true;
  });
}

Task<std::optional<StoredSession>> Store::FindRefreshable(Call& call, Uuid session, WallTime now) {
  NOVA_CO_TRY(const Rows rows, co_await pool_.Query(call, kSelectRefreshable, session, now));
  if (rows.empty()) co_return std::optional<StoredSession>();
  StoredSession found;
  NOVA_CO_TRY(rows[0].Read(found.id, found.account, found.created_at, found.expires_at, found.family_key,
                           found.generation, found.current_hash, found.previous_hash, found.successor_salt,
                           found.rotated_at));
  co_return std::optional(std::move(found));
}

Task<bool> Store::Rotate(Call& call, const Rotation& rotation) {
  return ReadWhetherAny(pool_.Query(call, kRotate, rotation.session, rotation.from_hash, rotation.to_hash,
                                    rotation.salt, rotation.at, rotation.expires_at));
}

Task<bool> Store::IsLive(Call& call, Caller session, WallTime now) {
  return ReadWhetherAny(pool_.Query(call, kSelectLive, session.session, session.account, now));
}

Task<std::optional<std::vector<SessionInfo>>> Store::ListSessions(Call& call, Caller caller, Uuid before, int limit,
                                                                  WallTime now) {
  NOVA_CO_TRY(const Rows rows,
              co_await pool_.Query(call, kListSessions, caller.session, caller.account, now, before, limit));
  if (rows.empty()) co_return std::optional<std::vector<SessionInfo>>();
  std::vector<SessionInfo> page;
  for (const postgres::Row row : rows) {
    NOVA_CO_TRY(const auto id, row.Get<std::optional<Uuid>>(0));
    if (!id) break;
    SessionInfo& session = page.emplace_back();
    NOVA_CO_TRY(
        row.Read(session.id, session.device_name, session.created_at, session.last_used_at, session.expires_at));
  }
  co_return std::optional(std::move(page));
}

Task<bool> Store::RevokeSession(Call& call, Caller session, std::string_view reason, WallTime now) {
  return ReadWhetherAny(pool_.Query(call, kRevokeSession, session.session, session.account, now, reason));
}

Task<Store::Revoked> Store::RevokeSessionOf(Call& call, Caller caller, Uuid session, WallTime now) {
  NOVA_CO_TRY(const Rows rows,
              co_await pool_.Query(call, kRevokeSessionOfCaller, caller.session, caller.account, now, session));
  bool own = false;
  bool target = false;
  NOVA_CO_TRY(rows[0].Read(own, target));
  if (!own) co_return Revoked::kCallerIsDead;
  co_return target ? Revoked::kDone : Revoked::kNoSuchSession;
}

Task<std::optional<std::int64_t>> Store::RevokeSessionsOf(Call& call, Caller caller, bool include_own, WallTime now) {
  NOVA_CO_TRY(const Rows rows,
              co_await pool_.Query(call, kRevokeSessionsOfCaller, caller.session, caller.account, now, include_own));
  bool own = false;
  std::int64_t revoked = 0;
  NOVA_CO_TRY(rows[0].Read(own, revoked));
  co_return own ? std::optional(revoked) : std::nullopt;
}

Task<bool> Store::ChangePassword(Call& call, Caller caller, std::int32_t version, const std::string& hash,
                                 const Bytes& subject, WallTime now) {
  co_return co_await outbox_.InTransaction(call, [&](Transaction& transaction) -> Task<bool> {
    NOVA_CO_TRY(const Rows changed,
                co_await transaction.Query(call, kChangePassword, caller.account, caller.session, version, hash, now));
    if (changed.affected() == 0) co_return false;
    NOVA_CO_TRY(
        co_await transaction.Query(call, kRevokeOtherSessions, caller.account, caller.session, now, "password"));
    NOVA_CO_TRY(co_await transaction.Query(call, kDeleteOtherDevices, caller.account, caller.session));
    NOVA_CO_TRY(co_await transaction.Query(call, kDeleteResets, caller.account));
    NOVA_CO_TRY(co_await transaction.Query(call, kForgetFailures, subject));
    const auto event = ChangedEvent(caller.account, false);
    NOVA_CO_TRY(co_await outbox_.Append(call, transaction, Aggregate(caller.account), event));
    co_return true;
  });
}

Task<bool> Store::RequestReset(Call& call, const std::string& email, const Bytes& subject, Uuid reset,
                               WallTime expires_at, WallTime recent, WallTime now) {
  co_return co_await outbox_.InTransaction(call, [&](Transaction& transaction) -> Task<bool> {
    NOVA_CO_TRY(const Rows found, co_await transaction.Query(call, kLockAccountByEmail, email));
    NOVA_CO_TRY(const Rows asked, co_await transaction.Query(call, kInsertResetRequest, subject, now, recent));
    const bool wanted = !found.empty() && asked.affected() > 0;
    // What is not wanted is done for nobody and taken back, so that the time of the answer tells nothing.
    Uuid account = Uuid::New();
    if (wanted) {
      NOVA_CO_TRY(account, found[0].Get<Uuid>(0));
    }
    events::v1::PasswordResetRequested event;
    event.set_account_id(account.ToString());
    event.set_reset_id(reset.ToString());
    *event.mutable_expires_at() = proto::ToTimestamp(expires_at);
    NOVA_CO_TRY(co_await transaction.Query(call, kSavepoint));
    NOVA_CO_TRY(co_await transaction.Query(call, kInsertReset, reset, account, expires_at));
    NOVA_CO_TRY(co_await outbox_.Append(call, transaction, Aggregate(account), event));
    NOVA_CO_TRY(co_await transaction.Query(call, wanted ? kReleaseSavepoint : kRollbackToSavepoint));
    co_return wanted;
  });
}

Task<std::optional<StoredReset>> Store::SetResetToken(Call& call, Uuid reset, const Bytes& token_hash, WallTime now) {
  return ReadReset(pool_.Query(call, kSetResetToken, reset, token_hash, now));
}

Task<std::optional<StoredReset>> Store::FindReset(Call& call, Uuid reset, WallTime now) {
  return ReadReset(pool_.Query(call, kSelectReset, reset, now));
}

Task<bool> Store::ResetPassword(Call& call, Uuid reset, const Bytes& token_hash, const std::string& hash,
                                const StoredDevice& device, const std::pair<Bytes, Bytes>& subjects, WallTime now) {
  co_return co_await outbox_.InTransaction(call, [&](Transaction& transaction) -> Task<bool> {
    const Uuid account = device.account;
    NOVA_CO_TRY(co_await transaction.Query(call, kLockAccount, account));
    NOVA_CO_TRY(const Rows used, co_await transaction.Query(call, kUseReset, reset, token_hash, now));
    if (used.affected() == 0) co_return false;
    NOVA_CO_TRY(co_await transaction.Query(call, kSetPassword, account, hash));
    NOVA_CO_TRY(co_await transaction.Query(call, kRevokeOtherSessions, account, Uuid(), now, "password"));
    NOVA_CO_TRY(co_await transaction.Query(call, kDeleteOtherDevices, account, Uuid()));
    NOVA_CO_TRY(co_await transaction.Query(call, kDeleteResets, account));
    NOVA_CO_TRY(co_await transaction.Query(call, kForgetFailures, subjects.first));
    NOVA_CO_TRY(co_await transaction.Query(call, kForgetFailures, subjects.second));
    // The others are gone, so there is no excess.
    NOVA_CO_TRY(
        co_await transaction.Query(call, kUpsertDevice, device.id, account, device.token_hash, device.last_used_at, 1));
    const auto event = ChangedEvent(account, true);
    NOVA_CO_TRY(co_await outbox_.Append(call, transaction, Aggregate(account), event));
    co_return true;
  });
}

Task<std::int64_t> Store::Purge(Call& call, const PurgeBefore& before, int batch) {
  const WallTime limits[] = {before.attempts, before.devices, before.resets, before.reset_requests, before.sessions};
  static_assert(std::size(limits) == std::size(kPurge));
  std::int64_t deleted = 0;
  for (std::size_t i = 0; i < std::size(kPurge); ++i) {
    NOVA_CO_TRY(const Rows rows, co_await pool_.Query(call, kPurge[i], limits[i], batch));
    deleted += rows.affected();
  }
  co_return deleted;
}

}  // namespace nova::identity
