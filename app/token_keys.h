// TokenKeys: where the keys of access tokens come from. Decided once, at start, by what is set:
//
//   AWS_SECRETS_JWT_NAME                   a secret of AWS Secrets Manager, followed while the process runs
//   else, where tokens are issued          NOVA_AUTH_JWT_SIGNING_KEY
//   else, if NOVA_AUTH_JWT_VALIDATION_KEY  that one
//   else                                   what the issuer publishes, followed as well
//
// What was decided for never gives way to the next: a secret that cannot be read is an error at start, and afterwards
// the last good keys stay.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "nova/auth/jwt.h"
#include "nova/auth/key_follower.h"
#include "nova/config/app_env.h"
#include "nova/config/config.h"
#include "nova/health/monitor.h"
#include "nova/runtime/runtime.h"
#include "nova/runtime/scope.h"
#include "nova/runtime/task.h"
#include "nova/secrets/aws.h"
#include "nova/secrets/jwt_keyring.h"
#include "nova/secrets/secret_manager.h"
#include "nova/telemetry/metrics.h"

namespace nova::app {

class TokenKeys {
 public:
  enum class Role {
    kVerifies,
    kIssues,  // and verifies its own; others verify with what it publishes
  };

  // `service`: who asks, for messages.
  TokenKeys(std::string service, Role role);

  void Bind(config::Config& config);

  // Whether the issuer is to be asked for its keys. After Bind.
  bool FollowsIssuer() const;

  // Contacts nobody. `fetch`: asks the issuer; used if FollowsIssuer. Errors: INVALID_ARGUMENT, one line that names the
  // setting and the remedy.
  Result<void> Build(runtime::Runtime& runtime, telemetry::Metrics& metrics, config::AppEnv app_env,
                     auth::KeyFollower::Fetch fetch);
  // The first look at the secret, if there is one; done once. Errors: UNAVAILABLE if another try may help; NOT_FOUND if
  // not; INVALID_ARGUMENT if the secret is not meant for this service.
  runtime::Task<void> Load(runtime::Call& call);
  // Soft ones: keys that are there do not vanish with their source.
  void AddDependencies(health::Monitor& monitor);
  void Start(runtime::Scope& background);
  // Adds "secrets" to a JSON object, if the keys come from a secret:
  // {"aws_identity":{"source","name","expires_at"},
  //  "jwt":{"secret","refreshed_at","problem","keys":[{"stage","version_id","kid","created_at","signs"}]}}.
  std::string AddStatus(std::string object) const;
  // After `background` has stopped. Blocks for `limit` at most.
  Result<void> Close(Duration limit);

  Result<auth::Claims> Verify(std::string_view token);
  // After Build, of an issuer. Live as long as this.
  const auth::JwtSigner& signer() const;
  const auth::JwtVerifier& verifier() const;

 private:
  Result<void> BuildFixed();
  Result<void> BuildKeyring(runtime::Runtime& runtime, telemetry::Metrics& metrics, config::AppEnv app_env);

  const std::string service_;
  const Role role_;
  std::string secret_name_;
  // Zero: as long as the two refreshes take, and a minute.
  std::chrono::milliseconds announce_{0};
  auth::JwtConfig jwt_;
  auth::KeyFollowerConfig follower_config_;
  secrets::AwsConfig aws_config_;
  secrets::CacheConfig cache_config_;

  // From a secret.
  std::unique_ptr<secrets::Aws> aws_;
  std::unique_ptr<secrets::SecretManager> secrets_;
  std::unique_ptr<secrets::JwtKeyring> keyring_;
  bool loaded_ = false;
  // From the configuration.
  auth::JwtSigner fixed_signer_;
  auth::JwtVerifier fixed_verifier_;
  // From the issuer.
  std::optional<auth::KeyFollower> follower_;
};

}  // namespace nova::app
