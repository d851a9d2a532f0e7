#include "audit/traffic.h"

#include "api/health/v1/health.nova.h"
#include "api/identity/v2/identity.nova.h"

namespace nova::audit {
namespace {

namespace iv2 = nova::identity::v2;
using Identity = iv2::IdentityServiceMethods;
using Health = grpc::health::v1::HealthMethods;
using runtime::Call;
using runtime::Task;

constexpr Duration kStopLimit = std::chrono::seconds(5);

// {"alg":"EdDSA","kid":"audit-unknown","typ":"at+jwt"} as base64url. Whatever else is wrong with such a token: its key
// is looked for first.
constexpr std::string_view kUnknownKeyHeader = "eyJhbGciOiJFZERTQSIsImtpZCI6ImF1ZGl0LXVua25vd24iLCJ0eXAiOiJhdCtqd3QifQ";

}  // namespace

Traffic::Traffic(runtime::Runtime& runtime, const AuditConfig& config)
    : runtime_(runtime), config_(config), services_("services", metrics_, PoliciesOfUsers()), scope_(runtime) {}

Result<std::unique_ptr<Traffic>> Traffic::Create(runtime::Runtime& runtime, const AuditConfig& config) {
  std::unique_ptr<Traffic> traffic(new Traffic(runtime, config));
  NOVA_TRY(traffic->Start());
  return traffic;
}

Traffic::~Traffic() {
  account_.reset();
  (void)scope_.Stop(kStopLimit);
}

Result<std::unique_ptr<rpc::Client>> Traffic::ClientOf(const std::string& service, telemetry::Metrics& metrics,
                                                       resilience::PeerDependency& dependency) {
  NOVA_TRY(const ServiceTarget found, FindService(config_, service));
  return std::make_unique<rpc::Client>(
      metrics, dependency, rpc::ClientConfig{.principal = service, .target = found.grpc_target, .own_connection = true},
      *operator_);
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
  NOVA_TRY(by_default_, ClientOf("identity", default_metrics_, default_identity_));
  NOVA_TRY(long_by_default_, ClientOf("identity", long_metrics_, long_identity_));
  NOVA_TRY(account_, Account::Create(runtime_, config_, *operator_));
  const std::string& token = account_->token().Expose();
  unknown_key_token_ = Secret<>(std::string(kUnknownKeyHeader) + token.substr(token.find('.')));
  return Ok();
}

Task<void> Traffic::VerifyToken(Call& call) { return account_->VerifyToken(call, account_->token()); }

Task<void> Traffic::ReadKeys(Call& call) {
  NOVA_CO_TRY(co_await account_->ReadKeys(call));
  co_return Ok();
}

Task<void> Traffic::ReadSettings(Call& call) { return account_->ReadSettings(call, account_->token()); }

Task<void> Traffic::ReadProfile(Call& call) { return account_->ReadProfile(call); }

Task<void> Traffic::PresentUnknownKey(Call& call) {
  const auto refused = co_await account_->ReadProfile(call, &unknown_key_token_);
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
