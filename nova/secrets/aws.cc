#include "nova/secrets/aws.h"

namespace nova::secrets {
namespace {

constexpr resilience::DependencyName kSecretsManager = "secrets_manager";
constexpr resilience::DependencyName kAwsCredentials = "aws_credentials";

}  // namespace

void Bind(config::Config& config, AwsConfig& aws) {
  Bind(config, aws.api);
  Bind(config, aws.credentials);
  resilience::Bind(config, kSecretsManager, aws.secrets_manager);
  resilience::Bind(config, kAwsCredentials, aws.aws_credentials);
}

Aws::Aws(telemetry::Metrics& metrics, const AwsConfig& config, const Clock& clock)
    : secrets_manager_(kSecretsManager, metrics, config.secrets_manager, clock),
      aws_credentials_(kAwsCredentials, metrics, config.aws_credentials, clock) {}

Result<std::unique_ptr<Aws>> Aws::Create(runtime::Runtime& runtime, telemetry::Metrics& metrics,
                                         const AwsConfig& config, config::AppEnv app_env, const Clock& clock) {
  NOVA_TRY(Validate(config.api));
  NOVA_TRY(resilience::Validate(kSecretsManager, config.secrets_manager, app_env));
  NOVA_TRY(resilience::Validate(kAwsCredentials, config.aws_credentials, app_env));
  std::unique_ptr<Aws> aws(new Aws(metrics, config, clock));
  NOVA_TRY(aws->credentials_, CredentialsProvider::Create(runtime, metrics, aws->aws_credentials_, config.credentials,
                                                          config.api.region, clock));
  aws->api_ = std::make_unique<SecretsApi>(metrics, aws->secrets_manager_, *aws->credentials_, config.api, clock);
  return aws;
}

}  // namespace nova::secrets
