// Aws: all that a process needs to speak to Secrets Manager, from its settings: credentials, policies, protocol. For a
// cache on top see secret_manager.h.
//
//   secrets::Bind(config, aws_config);
//   NOVA_TRY(auto aws, Aws::Create(runtime, metrics, aws_config, app_env));
//   NOVA_TRY(auto secrets, SecretManager::Builder(runtime, metrics, aws->api()).Build());
#pragma once

#include <memory>

#include "nova/base/clock.h"
#include "nova/base/result.h"
#include "nova/config/app_env.h"
#include "nova/config/config.h"
#include "nova/resilience/dependency.h"
#include "nova/runtime/runtime.h"
#include "nova/secrets/api.h"
#include "nova/secrets/credentials.h"
#include "nova/telemetry/metrics.h"

namespace nova::secrets {

struct AwsConfig {
  ApiConfig api = {};
  CredentialsConfig credentials = {};
  // Of the dependencies `secrets_manager` and `aws_credentials` (STS, Pod Identity, the instance):
  // RESILIENCE_SECRETS_MANAGER_TIMEOUT_MS and so on.
  resilience::DependencyConfig secrets_manager = resilience::DependencyConfig::Default(resilience::Kind::kHttp);
  resilience::DependencyConfig aws_credentials = resilience::DependencyConfig::Default(resilience::Kind::kHttp);
};

void Bind(config::Config& config, AwsConfig& aws);

// Thread-safe.
class Aws {
 public:
  // Contacts nobody. `runtime`, `metrics` and `clock` must outlive it. Errors: INVALID_ARGUMENT and
  // FAILED_PRECONDITION naming the setting and the remedy.
  static Result<std::unique_ptr<Aws>> Create(runtime::Runtime& runtime, telemetry::Metrics& metrics,
                                             const AwsConfig& config, config::AppEnv app_env,
                                             const Clock& clock = Clock::System());
  Aws(const Aws&) = delete;
  Aws& operator=(const Aws&) = delete;

  SecretsApi& api() { return *api_; }
  IdentityInUse identity() const { return credentials_->identity(); }

  // After the last request has ended. Blocks for `limit` at most.
  Result<void> Close(Duration limit) { return credentials_->Close(limit); }

 private:
  Aws(telemetry::Metrics& metrics, const AwsConfig& config, const Clock& clock);

  resilience::HttpDependency secrets_manager_;
  resilience::HttpDependency aws_credentials_;
  std::unique_ptr<CredentialsProvider> credentials_;
  std::unique_ptr<SecretsApi> api_;
};

}  // namespace nova::secrets
