#include "app/rotation_settings.h"

#include "nova/auth/keys.h"

namespace nova::app {

void RotationSettings::Bind(config::Config& config) {
  config.Field("secrets.jwt_name", secret,
               {.help = "the secret with the keys of access tokens, by name or ARN",
                .env = "AWS_SECRETS_JWT_NAME",
                .flag = "secret"});
  config.Field("secrets.jwt_public_name", public_secret,
               {.help = "a second secret, with the public half alone, for those who verify from a secret; unset: none",
                .flag = "public-secret"});
  config.Field("secrets.announce", announce,
               {.help = "how long a new key is shown before it signs, as identity has it; 0s: 11m",
                .flag = "announce",
                .max = std::chrono::hours(24)});
  config.Field("secrets.algorithm", algorithm,
               {.help = "EdDSA, ES256 or RS256, of the new key; unset: as the key before",
                .flag = "algorithm",
                .one_of = {"", "EdDSA", "ES256", "RS256"}});
  secrets::Bind(config, aws);
  config::Bind(config, app_env);
}

Result<secrets::RotationConfig> RotationSettings::ToConfig() const {
  secrets::RotationConfig config;
  config.secret_id = secret;
  config.public_secret_id = public_secret;
  if (!secret.empty() && secret == public_secret)
    return InvalidArgument("NOVA_SECRETS_JWT_PUBLIC_NAME: is the secret with the signing key itself; name another");
  if (announce > std::chrono::milliseconds::zero()) config.announce = announce;
  if (!algorithm.empty()) {
    NOVA_TRY(config.algorithm, auth::ParseAlgorithm(algorithm));
  }
  return config;
}

Result<std::unique_ptr<secrets::Aws>> RotationSettings::Connect(runtime::Runtime& runtime,
                                                                telemetry::Metrics& metrics) const {
  return secrets::Aws::Create(runtime, metrics, aws, app_env);
}

}  // namespace nova::app
