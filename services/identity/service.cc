#include "services/identity/service.h"

#include <chrono>
#include <utility>

#include "nova/runtime/runtime.h"
#include "nova/telemetry/log.h"

namespace nova::identity {
namespace {

using postgres::ToStoredPrecision;
using runtime::Call;
using runtime::Caller;
using runtime::Task;

// Rows of one kind in one statement, and statements of one kind in one round: what is left waits for the next, which
// then begins soon, so that housekeeping neither takes the database for itself nor falls behind.
constexpr int kPurgeBatch = 1000;
constexpr int kPurgeBatchesMax = 100;
constexpr int kAnnounceBatch = 100;
constexpr std::chrono::minutes kHousekeepingLimit{5};
constexpr std::chrono::seconds kHousekeepingBreak{1};

constexpr std::size_t kDeviceTokenBytesMax = 256;

// Names the request without its password: comparing that is argon2id's work.
Bytes Fingerprint(std::string_view email, std::string_view username) {
  // Neither can hold a NUL byte.
  std::string text(email);
  text.push_back('\0');
  text.append(username);
  return Sha256(text);
}

Error KeyUsedBefore() { return InvalidArgument("idempotency_key: it was used for another request; choose a new UUID"); }

constexpr char kRegistrations[] = "nova_identity_registrations_total";
constexpr char kRegistrationsHelp[] = "Registrations by outcome";
constexpr char kLogins[] = "nova_identity_logins_total";
constexpr char kLoginsHelp[] = "Log-ins by outcome";

}  // namespace

Service::Service(Store& store, auth::PasswordHasher& hasher, const auth::JwtSigner& signer,
                 const auth::JwtVerifier& verifier, telemetry::Metrics& metrics, const ServiceConfig& config,
                 const Clock& clock)
    : store_(store),
      config_(config),
      clock_(clock),
      lockout_(store, config.lockout, clock),
      sessions_(store, signer, verifier, metrics, config, clock),
      passwords_(store, hasher, lockout_, metrics, config.reset, clock),
      created_(metrics.Counter(kRegistrations, kRegistrationsHelp, {{"outcome", "created"}})),
      replayed_(metrics.Counter(kRegistrations, kRegistrationsHelp, {{"outcome", "replayed"}})),
      taken_(metrics.Counter(kRegistrations, kRegistrationsHelp, {{"outcome", "taken"}})),
      logged_in_(metrics.Counter(kLogins, kLoginsHelp, {{"outcome", "ok"}})),
      refused_(metrics.Counter(kLogins, kLoginsHelp, {{"outcome", "refused"}})),
      locked_(metrics.Counter(kLogins, kLoginsHelp, {{"outcome", "locked"}})),
      suspended_(metrics.Counter(kLogins, kLoginsHelp, {{"outcome", "suspended"}})),
      purged_(metrics.Counter("nova_identity_purged_rows_total", "Expired rows deleted by housekeeping")) {}

void Service::Start(runtime::Scope& scope) {
  scope.Spawn("identity: keep house", [this](Call& call) -> Task<void> {
    for (;;) {
      Call round(call, kHousekeepingLimit);
      const auto done = co_await KeepHouse(round);
      NOVA_CO_TRY(call.Check());
      if (!done) telemetry::LogWarn("housekeeping failed; it is tried again later", {{"error", done.error()}});
      const Duration pause = done && *done ? Duration(kHousekeepingBreak) : Duration(config_.housekeeping_interval);
      NOVA_CO_TRY(co_await runtime::Sleep(call, pause));
    }
  });
}

Task<Account> Service::Register(Call& call, Registration registration) {
  StoredAccount stored;
  NOVA_CO_TRY(stored.account.email, NormalizeEmail(registration.email));
  NOVA_CO_TRY(stored.account.username, NormalizeUsername(registration.username));
  NOVA_CO_TRY(CheckPassword(registration.password, stored.account.email, stored.account.username));
  const auto key = Uuid::Parse(registration.idempotency_key);
  if (!key || key->is_nil()) co_return InvalidArgument("idempotency_key: a UUID is needed");
  stored.registration = {.key = *key, .fingerprint = Fingerprint(stored.account.email, stored.account.username)};

  NOVA_CO_TRY(auto before, co_await store_.FindByRegistrationKey(call, *key));
  if (before)
    co_return co_await Replay(call, *std::move(before), stored.registration.fingerprint,
                              std::move(registration.password));

  NOVA_CO_TRY(stored.password_hash, co_await passwords_.Hash(call, registration.password));
  stored.account.id = Uuid::New(clock_);
  stored.account.created_at = ToStoredPrecision(clock_.WallNow());
  NOVA_CO_TRY(const bool inserted, co_await store_.InsertAccount(call, stored));
  if (inserted) {
    created_.Increment();
    co_return std::move(stored.account);
  }
  // Lost a race: against its own repetition, which then has the answer, or against somebody else.
  NOVA_CO_TRY(auto winner, co_await store_.FindByRegistrationKey(call, *key));
  if (winner)
    co_return co_await Replay(call, *std::move(winner), stored.registration.fingerprint,
                              std::move(registration.password));
  taken_.Increment();
  co_return AlreadyExists("the email address or the username is taken");
}

Task<Account> Service::Replay(Call& call, StoredAccount stored, Bytes fingerprint, Secret<> password) {
  if (stored.registration.fingerprint != fingerprint) co_return KeyUsedBefore();
  NOVA_CO_TRY(const bool same, co_await passwords_.Verify(call, stored, std::move(password)));
  if (!same) co_return KeyUsedBefore();
  replayed_.Increment();
  co_return std::move(stored.account);
}

Task<Login> Service::LogIn(Call& call, Credentials credentials) {
  if (credentials.identifier.empty()) co_return InvalidArgument("identifier: an email address or a username is needed");
  if (credentials.identifier.size() > kEmailBytesMax)
    co_return InvalidArgument("identifier: at most " + std::to_string(kEmailBytesMax) + " bytes are allowed");
  NOVA_CO_TRY(CheckGivenPassword(credentials.password, "password"));
  NOVA_CO_TRY(std::string device_name, NormalizeDeviceName(credentials.device_name));
  if (credentials.device_token.Expose().size() > kDeviceTokenBytesMax)
    co_return InvalidArgument("device_token: at most " + std::to_string(kDeviceTokenBytesMax) + " bytes are allowed");

  NOVA_CO_TRY(const Named named, co_await Find(call, credentials.identifier));
  NOVA_CO_TRY(auto device, co_await Recognize(call, credentials.device_token, named.account));
  NOVA_CO_TRY(auto attempt, co_await lockout_.Begin(call, device ? Lockout::OfDevice(device->id) : named.subject));
  if (!attempt) {
    locked_.Increment();
    co_return TooManyAttempts();
  }

  const auto right = co_await passwords_.Verify(call, named.account, credentials.password);
  if (right && !*right) {
    refused_.Increment();
    co_return Unauthenticated("the identifier or the password is wrong");
  }
  if (!right) {
    co_await lockout_.TakeBack(call, *std::move(attempt));
    co_return right.error();
  }
  if (named.account->suspended_at) {
    co_await lockout_.TakeBack(call, *std::move(attempt));
    suspended_.Increment();
    co_return PermissionDenied("the account is suspended");
  }
  co_await passwords_.Upgrade(call, *named.account, std::move(credentials.password));

  auto login = co_await Open(call, *named.account, std::move(device_name), std::move(device), credentials.device_token,
                             attempt->subject);
  if (!login || !*login) co_await lockout_.TakeBack(call, *std::move(attempt));
  if (!login) co_return std::move(login).error();
  if (!*login) {
    // What was right a moment ago is not any more.
    refused_.Increment();
    co_return Unauthenticated("the identifier or the password is wrong");
  }
  logged_in_.Increment();
  co_return **std::move(login);
}

Task<Service::Named> Service::Find(Call& call, const std::string& identifier) {
  // No username holds an '@', every email address does, once it is folded: some keyboards have an '@' of their own. A
  // name that cannot be one is looked up all the same, as the empty text, which nobody has: refusing it sooner would
  // tell it apart.
  const auto email = NormalizeEmail(identifier);
  const bool is_email = email.ok();
  const auto normalized = is_email ? email : NormalizeUsername(identifier);
  const std::string name = normalized ? *normalized : std::string();
  Named named;
  named.subject = Lockout::OfIdentifier(normalized ? *normalized : identifier);
  NOVA_CO_TRY(named.account, co_await (is_email ? store_.FindByEmail(call, name) : store_.FindByUsername(call, name)));
  co_return named;
}

Task<std::optional<StoredDevice>> Service::Recognize(Call& call, const Secret<>& device_token,
                                                     const std::optional<StoredAccount>& account) {
  const auto token = RowToken::Parse(device_token.Expose());
  if (!token) co_return std::optional<StoredDevice>();
  NOVA_CO_TRY(auto device, co_await store_.FindDevice(call, token->id()));
  const bool good = device && account && device->account == account->account.id &&
                    SameBytes(device->token_hash, token->Hash()) &&
                    clock_.WallNow() < device->last_used_at + config_.lockout.device_lifetime;
  if (!good) device.reset();
  co_return device;
}

Task<std::optional<Login>> Service::Open(Call& call, const StoredAccount& account, std::string device_name,
                                         std::optional<StoredDevice> device, const Secret<>& device_token,
                                         const Bytes& subject) {
  Login login;
  const WallTime now = ToStoredPrecision(clock_.WallNow());
  if (device) {
    device->last_used_at = now;
    login.device_token = device_token;
  } else {
    const RowToken fresh(Uuid::New(clock_));
    device =
        StoredDevice{.id = fresh.id(), .account = account.account.id, .token_hash = fresh.Hash(), .last_used_at = now};
    login.device_token = fresh.Encode();
  }
  NOVA_CO_TRY(auto tokens, co_await sessions_.Open(call, account, std::move(device_name), *device, subject));
  if (!tokens) co_return std::optional<Login>();
  login.tokens = *std::move(tokens);
  co_return std::optional(std::move(login));
}

Task<Account> Service::GetAccount(Call& call) {
  NOVA_CO_TRY(const Caller caller, CallerOf(call));
  NOVA_CO_TRY(auto found, co_await store_.FindCaller(call, caller, clock_.WallNow()));
  if (!found) co_return SessionHasEnded();
  co_return std::move(found->account);
}

Task<void> Service::Suspend(Call& call, postgres::Transaction& transaction, Uuid account) {
  return store_.Suspend(call, transaction, account, ToStoredPrecision(clock_.WallNow()));
}

Task<void> Service::Reinstate(Call& call, postgres::Transaction& transaction, Uuid account) {
  return store_.Reinstate(call, transaction, account);
}

Task<void> Service::Delete(Call& call, postgres::Transaction& transaction, Uuid account) {
  return store_.DeleteAccount(call, transaction, account);
}

Task<bool> Service::KeepHouse(Call& call) {
  bool more_accounts = true;
  for (int batch = 0; more_accounts && batch < kPurgeBatchesMax; ++batch) {
    NOVA_CO_TRY(const std::int64_t announced, co_await store_.Announce(call, kAnnounceBatch));
    more_accounts = announced >= kAnnounceBatch;
  }
  const WallTime now = clock_.WallNow();
  const PurgeBefore before{.attempts = now - config_.lockout.lockout_forget,
                           .devices = now - config_.lockout.device_lifetime,
                           .resets = now,
                           .reset_requests = now - config_.reset.reset_interval,
                           .sessions = now - config_.session.session_retention};
  bool more_rows = true;
  for (int batch = 0; more_rows && batch < kPurgeBatchesMax; ++batch) {
    NOVA_CO_TRY(const std::int64_t deleted, co_await store_.Purge(call, before, kPurgeBatch));
    purged_.Increment(static_cast<double>(deleted));
    more_rows = deleted >= kPurgeBatch;
  }
  co_return more_accounts || more_rows;
}

}  // namespace nova::identity
