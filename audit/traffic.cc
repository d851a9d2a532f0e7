#include "audit/traffic.h"

#include <algorithm>

#include "api/health/v1/health.nova.h"
#include "api/identity/v2/identity.nova.h"
#include "api/user/v2/user.nova.h"
#include "nova/base/uuid.h"
#include "nova/telemetry/log.h"

namespace nova::audit {
namespace {

namespace iv2 = nova::identity::v2;
namespace uv2 = nova::user::v2;
using Identity = iv2::IdentityServiceMethods;
using Health = grpc::health::v1::HealthMethods;
using Users = uv2::UserServiceMethods;
using runtime::Call;
using runtime::Task;

// Registration, log-in, and the event that makes the profile.
constexpr Duration kSignUpLimit = std::chrono::seconds(15);
constexpr Duration kDeleteLimit = std::chrono::seconds(5);
constexpr Duration kAskAgain = std::chrono::milliseconds(20);

// {"alg":"EdDSA","kid":"audit-unknown","typ":"at+jwt"} as base64url. Whatever else is wrong with such a token: its key
// is looked for first.
constexpr std::string_view kUnknownKeyHeader = "eyJhbGciOiJFZERTQSIsImtpZCI6ImF1ZGl0LXVua25vd24iLCJ0eXAiOiJhdCtqd3QifQ";

// The faults are for the services to deal with: a breaker of ours would hide what they do. What is shed with a
// push-back is tried again, as every client of the chassis does.
resilience::DependencyConfig PoliciesOfUsers() {
  auto policies = resilience::ForProbes(resilience::Kind::kPeer);
  policies.retry = resilience::RetryConfig();
  return policies;
}

}  // namespace

Traffic::Traffic(runtime::Runtime& runtime, const AuditConfig& config)
    : runtime_(runtime), config_(config), services_("services", metrics_, PoliciesOfUsers()), scope_(runtime) {}

Result<std::unique_ptr<Traffic>> Traffic::Create(runtime::Runtime& runtime, const AuditConfig& config) {
  std::unique_ptr<Traffic> traffic(new Traffic(runtime, config));
  NOVA_TRY(traffic->Start());
  return traffic;
}

Traffic::~Traffic() {
  if (!account_id_.empty()) {
    const auto deleted = runtime_.RunBlocking<void>(kDeleteLimit, [this](Call& call) { return DeleteAccount(call); });
    if (!deleted)
      telemetry::LogError("the audit's account was not deleted",
                          {{"account", account_id_}, {"error", deleted.error()}});
  }
  (void)scope_.Stop(kDeleteLimit);
}

Result<std::unique_ptr<rpc::Client>> Traffic::ClientOf(const std::string& service, telemetry::Metrics& metrics,
                                                       resilience::PeerDependency& dependency) {
  const auto found = std::ranges::find(config_.services, service, &ServiceTarget::name);
  if (found == config_.services.end()) return FailedPrecondition("there is no service '" + service + "'");
  return std::make_unique<rpc::Client>(
      metrics, dependency,
      rpc::ClientConfig{.principal = service, .target = found->grpc_target, .own_connection = true}, *operator_);
}

Result<void> Traffic::Start() {
  NOVA_TRY(publisher_,
           tls::IdentityPublisher::Create({.files = config_.user_identity.files(), .usage = tls::Usage::kClient},
                                          Clock::System(), metrics_));
  publisher_->Watch(scope_);
  operator_.emplace(*publisher_);
  for (const ServiceTarget& service : config_.services) {
    NOVA_TRY(health_[service.name], ClientOf(service.name, metrics_, services_));
  }
  NOVA_TRY(identity_, ClientOf("identity", metrics_, services_));
  NOVA_TRY(user_, ClientOf("user", metrics_, services_));
  NOVA_TRY(by_default_, ClientOf("identity", default_metrics_, default_identity_));
  NOVA_TRY(long_by_default_, ClientOf("identity", long_metrics_, long_identity_));
  return runtime_.RunBlocking<void>(kSignUpLimit, [this](Call& call) { return SignUp(call); });
}

Task<void> Traffic::SignUp(Call& call) {
  const std::string tag = Uuid::New().ToString().substr(24);
  iv2::RegisterRequest registration;
  registration.set_email("audit-" + tag + "@example.com");
  registration.set_username("audit_" + tag);
  registration.set_password(Uuid::New().ToString() + Uuid::New().ToString());
  registration.set_idempotency_key(Uuid::New().ToString());
  NOVA_CO_TRY(const auto registered, co_await identity_->Invoke(call, Identity::kRegister, registration));
  iv2::LoginRequest login;
  login.set_identifier(registration.email());
  login.set_password(registration.password());
  login.set_device_name("nova audit");
  NOVA_CO_TRY(const auto session, co_await identity_->Invoke(call, Identity::kLogin, login));
  token_ = Secret<>(session.access_token());
  unknown_key_token_ =
      Secret<>(std::string(kUnknownKeyHeader) + session.access_token().substr(session.access_token().find('.')));
  account_id_ = registered.account().id();
  // The profile is made by the event of the registration.
  for (;;) {
    const auto found = co_await ReadSettings(call);
    if (found) co_return Ok();
    const bool is_not_there_yet = found.error().code() == Code::kUnavailable || found.error().code() == Code::kNotFound;
    if (!is_not_there_yet || !co_await runtime::Sleep(call, kAskAgain)) co_return found.error();
  }
}

Task<void> Traffic::DeleteAccount(Call& call) {
  // A breaker that a fault has opened closes a second later.
  for (;;) {
    const auto deleted =
        co_await user_->Invoke(call, Users::kDeleteUser, uv2::DeleteUserRequest(), {.access_token = &token_});
    if (deleted) co_return Ok();
    if (deleted.error().code() != Code::kUnavailable || !co_await runtime::Sleep(call, kAskAgain))
      co_return deleted.error();
  }
}

Task<void> Traffic::VerifyToken(Call& call) {
  iv2::VerifyTokenRequest request;
  request.set_access_token(token_.Expose());
  NOVA_CO_TRY(co_await identity_->Invoke(call, Identity::kVerifyToken, request));
  co_return Ok();
}

Task<void> Traffic::ReadKeys(Call& call) {
  NOVA_CO_TRY(co_await identity_->Invoke(call, Identity::kGetJwks, iv2::GetJwksRequest()));
  co_return Ok();
}

Task<void> Traffic::ReadSettings(Call& call) {
  NOVA_CO_TRY(co_await user_->Invoke(call, Users::kGetSettings, uv2::GetSettingsRequest(), {.access_token = &token_}));
  co_return Ok();
}

Task<void> Traffic::ReadProfile(Call& call) {
  uv2::GetUserRequest request;
  request.set_user_id(account_id_);
  NOVA_CO_TRY(co_await user_->Invoke(call, Users::kGetUser, request));
  co_return Ok();
}

Task<void> Traffic::PresentUnknownKey(Call& call) {
  uv2::GetUserRequest request;
  request.set_user_id(account_id_);
  const auto refused = co_await user_->Invoke(call, Users::kGetUser, request, {.access_token = &unknown_key_token_});
  if (refused) co_return Internal("a token of an unknown key was accepted");
  if (refused.error().code() != Code::kUnauthenticated) co_return refused.error();
  co_return Ok();
}

Task<void> Traffic::AskHealth(Call& call, std::string service) {
  NOVA_CO_TRY(co_await health_.at(service)->Invoke(call, Health::kCheck, grpc::health::v1::HealthCheckRequest()));
  co_return Ok();
}

Task<void> Traffic::LongCallByDefault(Call& call) {
  // Nobody's: it is refused as malformed, if it comes to that.
  NOVA_CO_TRY(co_await long_by_default_->Invoke(call, Identity::kLogin, iv2::LoginRequest()));
  co_return Ok();
}

Task<void> Traffic::CallByDefault(Call& call) {
  NOVA_CO_TRY(co_await by_default_->Invoke(call, Identity::kGetJwks, iv2::GetJwksRequest()));
  co_return Ok();
}

}  // namespace nova::audit
