#include "audit/secrets_access.h"

#include <utility>

#include "nova/secrets/failure.h"
#include "nova/secrets/jwt_secret.h"

namespace nova::audit {
namespace {

using runtime::Call;

constexpr Duration kReadLimit = std::chrono::seconds(10);
constexpr Duration kCloseLimit = std::chrono::seconds(5);

}  // namespace

Error NoSecretsManager() {
  return FailedPrecondition(
      "the stack's keys do not come from a Secrets Manager: start it with `nova up --secrets-endpoint URL`");
}

Result<std::unique_ptr<SecretsAccess>> SecretsAccess::Open(runtime::Runtime& runtime, const AuditConfig& config,
                                                           const std::string& endpoint) {
  if (!config.secrets) return NoSecretsManager();
  const SecretsTarget& target = *config.secrets;
  std::unique_ptr<SecretsAccess> access(new SecretsAccess(runtime, target));
  secrets::AwsConfig aws;
  aws.api = {.region = target.region, .endpoint = endpoint.empty() ? target.endpoint : endpoint};
  aws.credentials.access_key_id = target.access_key_id;
  aws.credentials.secret_access_key = target.secret_access_key;
  NOVA_TRY(access->aws_, secrets::Aws::Create(runtime, access->metrics_, aws, config::AppEnv::kDevelopment));
  return access;
}

SecretsAccess::~SecretsAccess() {
  if (aws_) (void)aws_->Close(kCloseLimit);
}

Result<StoredKey> SecretsAccess::Read(const std::string& stage) {
  NOVA_TRY(secrets::SecretValue secret, runtime_.RunBlocking<secrets::SecretValue>(kReadLimit, [&](Call& call) {
    return api().Fetch(call, target_.secret_id, stage, false);
  }));
  NOVA_TRY(auth::JwtConfig jwt, secrets::ParseJwtSecret(secret.value));
  NOVA_TRY(auth::SigningKey key, auth::SigningKey::FromText(jwt.signing_key, jwt.algorithm));
  return StoredKey{.stage = stage,
                   .version_id = std::move(secret.version_id),
                   .created_at = secret.created_at,
                   .config = std::move(jwt),
                   .key = std::move(key)};
}

Result<std::vector<StoredKey>> SecretsAccess::ReadKeys() {
  std::vector<StoredKey> keys;
  for (const std::string_view stage : {secrets::kPending, secrets::kCurrent, secrets::kPrevious}) {
    auto key = Read(std::string(stage));
    if (key) {
      keys.push_back(*std::move(key));
    } else if (stage == secrets::kCurrent || secrets::FailureOf(key.error()) != secrets::Failure::kNotFound) {
      return Error(key.error()).WithContext(target_.secret_id + " " + std::string(stage));
    }
  }
  return keys;
}

Result<StoredKey> SecretsAccess::ReadCurrent() { return Read(std::string(secrets::kCurrent)); }

}  // namespace nova::audit
