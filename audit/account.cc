#include "audit/account.h"

#include <algorithm>
#include <utility>

#include "api/identity/v2/identity.nova.h"
#include "api/user/v2/user.nova.h"
#include "nova/telemetry/log.h"

namespace nova::audit {
namespace {

namespace iv2 = nova::identity::v2;
namespace uv2 = nova::user::v2;
using Identity = iv2::IdentityServiceMethods;
using Users = uv2::UserServiceMethods;
using runtime::Call;
using runtime::Task;

// Registration, log-in, and the event that makes the profile.
constexpr Duration kSignUpLimit = std::chrono::seconds(15);
constexpr Duration kDeleteLimit = std::chrono::seconds(5);
constexpr Duration kAskAgain = std::chrono::milliseconds(20);

Result<Uuid> ToUuid(const std::string& text) {
  const auto uuid = Uuid::Parse(text);
  if (!uuid) return Internal("identity answers with an id that is no UUID");
  return *uuid;
}

// With characters that every encoding writes in another way.
std::string NewPassword() { return Uuid::New().ToString() + "\"+/\\ ?&" + Uuid::New().ToString(); }

}  // namespace

Result<ServiceTarget> FindService(const AuditConfig& config, const std::string& name) {
  const auto found = std::ranges::find(config.services, name, &ServiceTarget::name);
  if (found == config.services.end()) return FailedPrecondition("there is no service '" + name + "'");
  return *found;
}

resilience::DependencyConfig PoliciesOfUsers() {
  auto policies = resilience::ForProbes(resilience::Kind::kPeer);
  policies.retry = resilience::RetryConfig();
  return policies;
}

Account::Account(runtime::Runtime& runtime) : runtime_(runtime), services_("services", metrics_, PoliciesOfUsers()) {}

Result<std::unique_ptr<Account>> Account::Create(runtime::Runtime& runtime, const AuditConfig& config,
                                                 const tls::ChannelIdentity& as) {
  std::unique_ptr<Account> account(new Account(runtime));
  NOVA_TRY(account->Start(config, as));
  return account;
}

Account::~Account() {
  if (!is_registered_) return;
  const auto deleted = runtime_.RunBlocking<void>(kDeleteLimit, [this](Call& call) { return Delete(call); });
  if (!deleted)
    telemetry::LogError("the audit's account was not deleted",
                        {{"account", id_.ToString()}, {"error", deleted.error()}});
}

Result<void> Account::Start(const AuditConfig& config, const tls::ChannelIdentity& as) {
  const auto client_of = [&](const std::string& service) -> Result<std::unique_ptr<rpc::Client>> {
    NOVA_TRY(const ServiceTarget target, FindService(config, service));
    return std::make_unique<rpc::Client>(
        metrics_, services_,
        rpc::ClientConfig{.principal = service, .target = target.grpc_target, .own_connection = true}, as);
  };
  NOVA_TRY(identity_, client_of("identity"));
  NOVA_TRY(user_, client_of("user"));
  return runtime_.RunBlocking<void>(kSignUpLimit, [this](Call& call) { return SignUp(call); });
}

void Account::Remember(const std::string& what, const std::string& value) {
  const std::lock_guard lock(mutex_);
  marks_.push_back({.what = what, .value = Secret<>(value)});
}

std::vector<Mark> Account::marks() const {
  const std::lock_guard lock(mutex_);
  return marks_;
}

Task<void> Account::SignUp(Call& call) {
  const std::string tag = Uuid::New().ToString().substr(24);
  email_ = "audit-" + tag + "@example.com";
  username_ = "audit_" + tag;
  password_ = Secret<>(NewPassword());
  Remember("a user's email address", email_);
  Remember("a user's password", password_.Expose());
  iv2::RegisterRequest registration;
  registration.set_email(email_);
  registration.set_username(username_);
  registration.set_password(password_.Expose());
  registration.set_idempotency_key(Uuid::New().ToString());
  NOVA_CO_TRY(const auto registered, co_await identity_->Invoke(call, Identity::kRegister, registration));
  is_registered_ = true;
  NOVA_CO_TRY(id_, ToUuid(registered.account().id()));
  iv2::LoginRequest login;
  login.set_identifier(email_);
  login.set_password(password_.Expose());
  login.set_device_name("nova audit");
  NOVA_CO_TRY(const auto session, co_await identity_->Invoke(call, Identity::kLogin, login));
  NOVA_CO_TRY(session_id_, ToUuid(session.session_id()));
  token_ = Secret<>(session.access_token());
  Remember("an access token", session.access_token());
  Remember("a refresh token", session.refresh_token());
  Remember("a device token", session.device_token());
  {
    const std::lock_guard lock(mutex_);
    refresh_token_ = Secret<>(session.refresh_token());
  }
  // The profile is made by the event of the registration.
  for (;;) {
    const auto found = co_await ReadSettings(call, token_);
    if (found) co_return Ok();
    const bool is_not_there_yet = found.error().code() == Code::kUnavailable || found.error().code() == Code::kNotFound;
    if (!is_not_there_yet || !co_await runtime::Sleep(call, kAskAgain)) co_return found.error();
  }
}

Task<void> Account::Delete(Call& call) {
  // The first token may be older than the keys are by now.
  Secret<> token = token_;
  if (auto fresh = co_await Login(call)) token = *std::move(fresh);
  // A breaker that a fault has opened closes a second later.
  for (;;) {
    const auto deleted =
        co_await user_->Invoke(call, Users::kDeleteUser, uv2::DeleteUserRequest(), {.access_token = &token});
    if (deleted) co_return Ok();
    if (deleted.error().code() != Code::kUnavailable || !co_await runtime::Sleep(call, kAskAgain))
      co_return deleted.error();
  }
}

Task<Secret<>> Account::Login(Call& call) {
  iv2::LoginRequest login;
  login.set_identifier(username_);
  login.set_password(password_.Expose());
  login.set_device_name("nova audit");
  NOVA_CO_TRY(const auto session, co_await identity_->Invoke(call, Identity::kLogin, login));
  Remember("an access token", session.access_token());
  Remember("a refresh token", session.refresh_token());
  Remember("a device token", session.device_token());
  co_return Secret<>(session.access_token());
}

Task<Secret<>> Account::Refresh(Call& call) {
  iv2::RefreshTokenRequest request;
  {
    const std::lock_guard lock(mutex_);
    request.set_refresh_token(refresh_token_.Expose());
  }
  NOVA_CO_TRY(const auto session, co_await identity_->Invoke(call, Identity::kRefreshToken, request));
  Remember("an access token", session.access_token());
  Remember("a refresh token", session.refresh_token());
  {
    const std::lock_guard lock(mutex_);
    refresh_token_ = Secret<>(session.refresh_token());
  }
  co_return Secret<>(session.access_token());
}

Task<void> Account::VerifyToken(Call& call, const Secret<>& token) {
  iv2::VerifyTokenRequest request;
  request.set_access_token(token.Expose());
  NOVA_CO_TRY(const auto verified, co_await identity_->Invoke(call, Identity::kVerifyToken, request));
  if (verified.account_id() != id_.ToString()) co_return Internal("the token was verified as another account's");
  co_return Ok();
}

Task<void> Account::ReadAccount(Call& call, const Secret<>& token) {
  NOVA_CO_TRY(const auto read, co_await identity_->Invoke(call, Identity::kGetAccount, iv2::GetAccountRequest(),
                                                          {.access_token = &token}));
  if (read.account().id() != id_.ToString()) co_return Internal("the account that was read is another one");
  co_return Ok();
}

Task<std::string> Account::ReadKeys(Call& call) {
  NOVA_CO_TRY(const auto keys, co_await identity_->Invoke(call, Identity::kGetJwks, iv2::GetJwksRequest()));
  co_return keys.jwks();
}

Task<void> Account::ReadSettings(Call& call, const Secret<>& token) {
  NOVA_CO_TRY(co_await user_->Invoke(call, Users::kGetSettings, uv2::GetSettingsRequest(), {.access_token = &token}));
  co_return Ok();
}

Task<void> Account::ReadProfile(Call& call, const Secret<>* token) {
  uv2::GetUserRequest request;
  request.set_user_id(id_.ToString());
  NOVA_CO_TRY(co_await user_->Invoke(call, Users::kGetUser, request, {.access_token = token}));
  co_return Ok();
}

Task<int> Account::MakeMistakes(Call& call) {
  int refused = 0;
  const auto count = [&](const auto& outcome) { refused += outcome.ok() ? 0 : 1; };

  // A password that is not it, and one that is too short for anybody.
  const std::string wrong = NewPassword();
  Remember("a wrong password", wrong);
  iv2::LoginRequest login;
  login.set_identifier(email_);
  login.set_password(wrong);
  count(co_await identity_->Invoke(call, Identity::kLogin, login));
  iv2::RegisterRequest registration;
  registration.set_email("audit-" + Uuid::New().ToString().substr(24) + "@example.com");
  registration.set_username("audit_" + Uuid::New().ToString().substr(24));
  registration.set_password("~" + Uuid::New().ToString().substr(28));
  registration.set_idempotency_key(Uuid::New().ToString());
  Remember("the email address of a refused registration", registration.email());
  Remember("the password of a refused registration", registration.password());
  count(co_await identity_->Invoke(call, Identity::kRegister, registration));
  // Taken by this account; and no email address at all.
  registration.set_password(wrong);
  registration.set_email(email_);
  count(co_await identity_->Invoke(call, Identity::kRegister, registration));
  const std::string no_email = "audit " + Uuid::New().ToString();
  Remember("what is no email address", no_email);
  registration.set_email(no_email);
  count(co_await identity_->Invoke(call, Identity::kRegister, registration));

  // A token whose signature is another one's, and texts that are no tokens.
  const std::string& good = token_.Expose();
  const Secret<> forged(good.substr(0, good.rfind('.') + 1) + std::string(86, 'A'));
  const Secret<> garbage(NewPassword());
  for (const Secret<>* token : {&forged, &garbage}) {
    Remember("a token that is refused", token->Expose());
    count(co_await VerifyToken(call, *token));
    count(co_await ReadAccount(call, *token));
    count(co_await ReadSettings(call, *token));
  }
  iv2::RefreshTokenRequest refresh;
  refresh.set_refresh_token(garbage.Expose());
  count(co_await identity_->Invoke(call, Identity::kRefreshToken, refresh));
  iv2::ResetPasswordRequest reset;
  reset.set_reset_token(garbage.Expose());
  reset.set_new_password(wrong);
  count(co_await identity_->Invoke(call, Identity::kResetPassword, reset));
  iv2::ChangePasswordRequest change;
  change.set_current_password(wrong);
  change.set_new_password(garbage.Expose());
  count(co_await identity_->Invoke(call, Identity::kChangePassword, change, {.access_token = &token_}));
  // Somebody whom nobody knows.
  login.set_identifier(registration.email());
  count(co_await identity_->Invoke(call, Identity::kLogin, login));
  NOVA_CO_TRY(call.Check());
  co_return refused;
}

}  // namespace nova::audit
