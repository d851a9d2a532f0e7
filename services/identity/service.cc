#include "services/identity/service.h"

#include <chrono>
#include <openssl/sha.h>
#include <utility>

#include "nova/telemetry/log.h"

namespace nova::identity {
namespace {

using runtime::Call;
using runtime::Task;

// What PostgreSQL keeps of a time, so that the first answer equals every later one.
WallTime ToStoredPrecision(WallTime time) { return std::chrono::floor<std::chrono::microseconds>(time); }

// Names the request without its password: comparing that is argon2id's work.
std::vector<std::uint8_t> Fingerprint(std::string_view email, std::string_view username) {
  // Neither can hold a NUL byte.
  std::string text(email);
  text.push_back('\0');
  text.append(username);
  std::vector<std::uint8_t> digest(SHA256_DIGEST_LENGTH);
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest.data());
  return digest;
}

Error KeyUsedBefore() { return InvalidArgument("idempotency_key: it was used for another request; choose a new UUID"); }

constexpr char kRegistrations[] = "nova_identity_registrations_total";
constexpr char kRegistrationsHelp[] = "Registrations by outcome";
constexpr char kLogins[] = "nova_identity_logins_total";
constexpr char kLoginsHelp[] = "Log-ins by outcome";

}  // namespace

Service::Service(Store& store, auth::PasswordHasher& hasher, auth::JwtConfig jwt, auth::JwtSigner signer,
                 const auth::JwtVerifier& verifier, telemetry::Metrics& metrics, const Clock& clock)
    : store_(store),
      hasher_(hasher),
      jwt_(std::move(jwt)),
      signer_(std::move(signer)),
      verifier_(verifier),
      clock_(clock),
      created_(metrics.Counter(kRegistrations, kRegistrationsHelp, {{"outcome", "created"}})),
      replayed_(metrics.Counter(kRegistrations, kRegistrationsHelp, {{"outcome", "replayed"}})),
      taken_(metrics.Counter(kRegistrations, kRegistrationsHelp, {{"outcome", "taken"}})),
      logged_in_(metrics.Counter(kLogins, kLoginsHelp, {{"outcome", "ok"}})),
      refused_(metrics.Counter(kLogins, kLoginsHelp, {{"outcome", "refused"}})) {}

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

  NOVA_CO_TRY(stored.password_hash, co_await hasher_.Hash(call, registration.password));
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

Task<Account> Service::Replay(Call& call, StoredAccount stored, std::vector<std::uint8_t> fingerprint,
                              Secret<> password) {
  if (stored.registration.fingerprint != fingerprint) co_return KeyUsedBefore();
  NOVA_CO_TRY(const bool same, co_await hasher_.Verify(call, stored.password_hash, std::move(password)));
  if (!same) co_return KeyUsedBefore();
  replayed_.Increment();
  co_return std::move(stored.account);
}

Task<Login> Service::LogIn(Call& call, Credentials credentials) {
  if (credentials.identifier.empty()) co_return InvalidArgument("identifier: an email address or a username is needed");
  if (credentials.identifier.size() > kEmailBytesMax)
    co_return InvalidArgument("identifier: at most " + std::to_string(kEmailBytesMax) + " bytes are allowed");
  if (credentials.password.empty()) co_return InvalidArgument("password: it is needed");
  if (credentials.password.Expose().size() > kPasswordBytesMax)
    co_return InvalidArgument("password: at most " + std::to_string(kPasswordBytesMax) + " bytes are allowed");

  NOVA_CO_TRY(const auto found, co_await Authenticate(call, credentials));
  if (!found) {
    refused_.Increment();
    co_return Unauthenticated("the identifier or the password is wrong");
  }
  if (auth::PasswordHasher::NeedsRehash(found->password_hash)) {
    if (const auto upgraded = co_await UpgradeHash(call, *found, std::move(credentials.password)); !upgraded)
      telemetry::LogWarn("a password hash keeps its old parameters", {{"error", upgraded.error()}});
  }

  Login login;
  login.account = found->account.id;
  login.session = Uuid::New(clock_);
  NOVA_CO_TRY(co_await store_.InsertSession(call, login.session, login.account, ToStoredPrecision(clock_.WallNow())));
  const auth::Claims claims = auth::NewClaims(jwt_, login.account, login.session, clock_);
  NOVA_CO_TRY(std::string token, signer_.Sign(claims));
  login.access_token = Secret<>(std::move(token));
  login.expires_at = claims.expires_at;
  logged_in_.Increment();
  co_return login;
}

Task<std::optional<StoredAccount>> Service::Authenticate(Call& call, const Credentials& credentials) {
  // No username holds an '@', every email address does. A name that cannot be one is looked up all the same, as the
  // empty text, which nobody has: refusing it sooner would tell it apart.
  const bool is_email = credentials.identifier.find('@') != std::string::npos;
  const auto normalized = is_email ? NormalizeEmail(credentials.identifier) : NormalizeUsername(credentials.identifier);
  const std::string name = normalized ? *normalized : std::string();
  NOVA_CO_TRY(auto found, co_await (is_email ? store_.FindByEmail(call, name) : store_.FindByUsername(call, name)));
  if (!found) {
    NOVA_CO_TRY(co_await hasher_.VerifyAgainstNothing(call, credentials.password));
    co_return std::optional<StoredAccount>();
  }
  NOVA_CO_TRY(const bool right, co_await hasher_.Verify(call, found->password_hash, credentials.password));
  if (!right) found.reset();
  co_return std::move(found);
}

Task<void> Service::UpgradeHash(Call& call, const StoredAccount& stored, Secret<> password) {
  NOVA_CO_TRY(const std::string hash, co_await hasher_.Hash(call, std::move(password)));
  co_return co_await store_.ReplacePasswordHash(call, stored.account.id, stored.password_hash, hash);
}

Result<auth::Claims> Service::VerifyToken(std::string_view access_token) const {
  return verifier_.Verify(access_token);
}

std::string Service::GetJwks() const { return verifier_.keys()->ToJson(); }

Task<Account> Service::GetAccount(Call& call) {
  if (!call.caller()) co_return Unauthenticated("an access token is needed");
  NOVA_CO_TRY(auto found, co_await store_.FindById(call, call.caller()->account));
  if (!found) co_return NotFound("the account does not exist");
  co_return std::move(found->account);
}

}  // namespace nova::identity
