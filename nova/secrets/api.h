// SecretsApi: AWS Secrets Manager over its wire protocol (JSON 1.1), signed. Just the operations that services and the
// rotator are allowed: a service's role has GetSecretValue and nothing else.
// https://docs.aws.amazon.com/secretsmanager/latest/apireference/
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "nova/base/clock.h"
#include "nova/base/result.h"
#include "nova/config/config.h"
#include "nova/http/client.h"
#include "nova/resilience/dependency.h"
#include "nova/runtime/call.h"
#include "nova/runtime/task.h"
#include "nova/secrets/credentials.h"
#include "nova/secrets/failure.h"
#include "nova/secrets/secret_value.h"
#include "nova/telemetry/metrics.h"

namespace nova::secrets {

// Where values come from. The cache (secret_manager.h) knows no more of AWS than this.
class SecretSource {
 public:
  virtual ~SecretSource() = default;
  // One request, retries included. Errors: those of failure.h; why the call ended.
  virtual runtime::Task<SecretValue> Fetch(runtime::Call& call, std::string id, std::string version,
                                           bool version_is_id) = 0;
};

struct ApiConfig {
  // AWS_REGION, else AWS_DEFAULT_REGION. Needed.
  std::string region;
  // AWS_ENDPOINT_URL_SECRETS_MANAGER, else AWS_ENDPOINT_URL; empty: https://secretsmanager.<region>.amazonaws.com.
  std::string endpoint;
  // AWS_CA_BUNDLE; empty: the system's authorities.
  std::string ca_path;
};

void Bind(config::Config& config, ApiConfig& api);
// Errors: INVALID_ARGUMENT naming the variable and the remedy: no region or none that can be, an endpoint that is no
// URL, plain HTTP to what is not this machine.
Result<void> Validate(const ApiConfig& api);

// A value of at most so many bytes (Secrets Manager's own limit).
inline constexpr std::size_t kSecretBytesMax = 64 * 1024;

struct NewVersion {
  std::string secret_id;
  // Becomes the version's id; the same again with the same value changes nothing. 32 to 64 characters.
  std::string token;
  Secret<> value;
  // Empty: AWSCURRENT.
  std::vector<std::string> stages = {};
};

// What the rotator does to secrets, besides reading them. Errors, besides those named: those of failure.h; why the call
// ended.
class SecretStore : public SecretSource {
 public:
  // ALREADY_EXISTS if the token's version is there with another value.
  virtual runtime::Task<void> Put(runtime::Call& call, NewVersion version) = 0;
  // Moves a label to `to`, off `from`; either may be empty. INVALID_ARGUMENT if one of them is no version, or the label
  // is on another than `from`.
  virtual runtime::Task<void> MoveStage(runtime::Call& call, std::string secret_id, std::string stage, std::string to,
                                        std::string from) = 0;
  // With a first version, if there is a value. ALREADY_EXISTS if there is such a secret.
  virtual runtime::Task<void> CreateSecret(runtime::Call& call, NewVersion version) = 0;
};

// Thread-safe. Errors of every function: those of failure.h, those of the credentials among them; INVALID_ARGUMENT if
// AWS does not accept what is to be written; INTERNAL if it is not Secrets Manager that answers; why the call ended.
// Details hold AWS' own words only where these cannot repeat a value, a token or a key. Deadline: the earlier of the
// dependency's timeout and the call's, over all tries; what the credentials take comes on top. Throttling, 5xx and lost
// connections are tried again, but for MoveStage; besides, once, what was refused for credentials or a clock that could
// be put right. Metrics: nova_secrets_requests_total{operation,result} ("ok", FailureName, or "other"),
// nova_secrets_request_seconds{operation}.
class SecretsApi final : public SecretStore {
 public:
  // All references must outlive it. Precondition: Validate(config) is OK.
  SecretsApi(telemetry::Metrics& metrics, resilience::HttpDependency& dependency, CredentialsProvider& credentials,
             const ApiConfig& config, const Clock& clock = Clock::System());
  ~SecretsApi() override;

  runtime::Task<SecretValue> Fetch(runtime::Call& call, std::string id, std::string version,
                                   bool version_is_id) override;

  runtime::Task<void> Put(runtime::Call& call, NewVersion version) override;
  runtime::Task<void> MoveStage(runtime::Call& call, std::string secret_id, std::string stage, std::string to,
                                std::string from) override;
  runtime::Task<void> CreateSecret(runtime::Call& call, NewVersion version) override;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace nova::secrets
