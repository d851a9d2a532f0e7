#include "services/identity/passwords.h"

#include <utility>

#include "nova/telemetry/log.h"
#include "services/identity/sessions.h"

namespace nova::identity {
namespace {

using postgres::ToStoredPrecision;
using runtime::Awaitable;
using runtime::Call;
using runtime::Caller;
using runtime::Task;

constexpr char kChanges[] = "nova_identity_password_changes_total";
constexpr char kChangesHelp[] = "Changes of a password by who knows it, by outcome";
constexpr char kResets[] = "nova_identity_password_resets_total";
constexpr char kResetsHelp[] = "Steps of password resets, by outcome";

}  // namespace

Result<void> CheckGivenPassword(const Secret<>& password, std::string_view field) {
  if (password.empty()) return InvalidArgument(std::string(field) + ": it is needed");
  if (password.Expose().size() > kPasswordBytesMax)
    return InvalidArgument(std::string(field) + ": at most " + std::to_string(kPasswordBytesMax) +
                           " bytes are allowed");
  return Ok();
}

Passwords::Passwords(Store& store, auth::PasswordHasher& hasher, Lockout& lockout, telemetry::Metrics& metrics,
                     const ResetConfig& config, const Clock& clock)
    : store_(store),
      hasher_(hasher),
      lockout_(lockout),
      config_(config),
      clock_(clock),
      changed_(metrics.Counter(kChanges, kChangesHelp, {{"outcome", "changed"}})),
      change_refused_(metrics.Counter(kChanges, kChangesHelp, {{"outcome", "refused"}})),
      change_locked_(metrics.Counter(kChanges, kChangesHelp, {{"outcome", "locked"}})),
      reset_requested_(metrics.Counter(kResets, kResetsHelp, {{"outcome", "requested"}})),
      reset_ignored_(metrics.Counter(kResets, kResetsHelp, {{"outcome", "ignored"}})),
      reset_issued_(metrics.Counter(kResets, kResetsHelp, {{"outcome", "issued"}})),
      reset_done_(metrics.Counter(kResets, kResetsHelp, {{"outcome", "done"}})),
      reset_refused_(metrics.Counter(kResets, kResetsHelp, {{"outcome", "refused"}})) {}

Task<bool> Passwords::Verify(Call& call, const std::optional<StoredAccount>& account, Secret<> password) {
  if (account) co_return co_await hasher_.Verify(call, account->password_hash, std::move(password));
  NOVA_CO_TRY(co_await hasher_.VerifyAgainstNothing(call, std::move(password)));
  co_return false;
}

Task<std::string> Passwords::Hash(Call& call, Secret<> password) { return hasher_.Hash(call, std::move(password)); }

Awaitable<void> Passwords::Upgrade(Call& call, const StoredAccount& account, Secret<> password) {
  if (!auth::PasswordHasher::NeedsRehash(account.password_hash)) co_return;
  const auto hash = co_await hasher_.Hash(call, std::move(password));
  Result<void> replaced = Ok();
  if (!hash) {
    replaced = hash.error();
  } else {
    replaced = co_await store_.ReplacePasswordHash(call, account.account.id, account.password_hash, *hash);
  }
  if (!replaced) telemetry::LogWarn("a password hash keeps its old parameters", {{"error", replaced.error()}});
}

Task<void> Passwords::Change(Call& call, Secret<> current, Secret<> wanted) {
  NOVA_CO_TRY(const Caller caller, CallerOf(call));
  NOVA_CO_TRY(CheckGivenPassword(current, "current_password"));
  NOVA_CO_TRY(const auto found, co_await store_.FindCaller(call, caller, clock_.WallNow()));
  if (!found) co_return SessionHasEnded();
  NOVA_CO_TRY(CheckPassword(wanted, found->account.email, found->account.username, "new_password"));
  if (current.Expose() == wanted.Expose())
    co_return InvalidArgument("new_password: it must not be the current password");

  // Whoever holds a stolen access token may guess, and must not thereby lock the user's own log-ins.
  NOVA_CO_TRY(auto attempt, co_await lockout_.Begin(call, Lockout::OfSession(caller.session)));
  if (!attempt) {
    change_locked_.Increment();
    co_return TooManyAttempts();
  }
  const auto right = co_await hasher_.Verify(call, found->password_hash, std::move(current));
  if (right && !*right) {
    change_refused_.Increment();
    co_return InvalidArgument("current_password: it is wrong");
  }
  Result<bool> changed = Error();
  if (right) {
    changed = co_await Replace(call, caller, found->password_version, std::move(wanted), attempt->subject);
  } else {
    changed = right.error();
  }
  if (!changed || !*changed) co_await lockout_.TakeBack(call, *std::move(attempt));
  if (!changed) co_return std::move(changed).error();
  if (!*changed) co_return Aborted("the password or the session changed meanwhile");
  changed_.Increment();
  co_return Ok();
}

Task<bool> Passwords::Replace(Call& call, Caller caller, std::int32_t version, Secret<> wanted, const Bytes& subject) {
  NOVA_CO_TRY(const std::string hash, co_await hasher_.Hash(call, std::move(wanted)));
  co_return co_await store_.ChangePassword(call, caller, version, hash, subject, ToStoredPrecision(clock_.WallNow()));
}

Task<void> Passwords::RequestReset(Call& call, std::string email) {
  NOVA_CO_TRY(const std::string address, NormalizeEmail(email));
  const WallTime now = ToStoredPrecision(clock_.WallNow());
  NOVA_CO_TRY(const bool requested,
              co_await store_.RequestReset(call, address, Sha256(address), Uuid::New(clock_),
                                           now + config_.reset_lifetime, now - config_.reset_interval, now));
  (requested ? reset_requested_ : reset_ignored_).Increment();
  co_return Ok();
}

Task<IssuedReset> Passwords::IssueReset(Call& call, std::string reset_id) {
  const auto id = Uuid::Parse(reset_id);
  if (!id) co_return InvalidArgument("reset_id: a UUID is needed");
  const RowToken token(*id);
  NOVA_CO_TRY(auto reset, co_await store_.SetResetToken(call, *id, token.Hash(), clock_.WallNow()));
  if (!reset) co_return NotFound("the password reset was used, has expired, or never was");
  reset_issued_.Increment();
  IssuedReset issued;
  issued.token = token.Encode();
  issued.email = std::move(reset->email);
  issued.username = std::move(reset->username);
  issued.expires_at = reset->expires_at;
  co_return issued;
}

Task<Secret<>> Passwords::Reset(Call& call, Secret<> reset_token, Secret<> wanted) {
  const auto refuse = [this] {
    reset_refused_.Increment();
    return Unauthenticated("the reset token is wrong, used or expired; ask for a new one");
  };
  const auto token = RowToken::Parse(reset_token.Expose());
  if (!token) co_return refuse();
  const Bytes token_hash = token->Hash();
  NOVA_CO_TRY(const auto reset, co_await store_.FindReset(call, token->id(), clock_.WallNow()));
  if (!reset || !reset->token_hash || !SameBytes(*reset->token_hash, token_hash)) co_return refuse();
  NOVA_CO_TRY(CheckPassword(wanted, reset->email, reset->username, "new_password"));

  NOVA_CO_TRY(const std::string hash, co_await hasher_.Hash(call, std::move(wanted)));
  const WallTime now = ToStoredPrecision(clock_.WallNow());
  const RowToken device_token(Uuid::New(clock_));
  const StoredDevice device{
      .id = device_token.id(), .account = reset->account, .token_hash = device_token.Hash(), .last_used_at = now};
  const std::pair subjects(Lockout::OfIdentifier(reset->email), Lockout::OfIdentifier(reset->username));
  NOVA_CO_TRY(const bool done,
              co_await store_.ResetPassword(call, token->id(), token_hash, hash, device, subjects, now));
  if (!done) co_return refuse();
  reset_done_.Increment();
  co_return device_token.Encode();
}

}  // namespace nova::identity
