// SecretsAccess: the audit's own way to the Secrets Manager that the stack's keys come from.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "audit/audit.h"
#include "nova/auth/jwt.h"
#include "nova/auth/keys.h"
#include "nova/base/result.h"
#include "nova/runtime/runtime.h"
#include "nova/secrets/aws.h"
#include "nova/telemetry/metrics.h"

namespace nova::audit {

// What every row says that needs one where there is none.
Error NoSecretsManager();

// A version that carries one of the labels that Secrets Manager moves.
struct StoredKey {
  std::string stage;
  std::string version_id;
  WallTime created_at;
  // With its private half.
  auth::JwtConfig config;
  auth::SigningKey key;
};

// Used by one thread that is not the runtime's; api() from any task.
class SecretsAccess {
 public:
  // Contacts nobody. `endpoint`: another than the target's, such as a relay's. `runtime` must outlive it. Errors: those
  // of NoSecretsManager if the stack has none, and of secrets::Aws::Create.
  static Result<std::unique_ptr<SecretsAccess>> Open(runtime::Runtime& runtime, const AuditConfig& config,
                                                     const std::string& endpoint = {});
  ~SecretsAccess();
  SecretsAccess(const SecretsAccess&) = delete;
  SecretsAccess& operator=(const SecretsAccess&) = delete;

  secrets::SecretsApi& api() { return aws_->api(); }
  telemetry::Metrics& metrics() { return metrics_; }

  // The keys of the stack's secret, read in the direction in which labels move: AWSPENDING, AWSCURRENT, AWSPREVIOUS. A
  // version with two labels is there twice. Errors: those of SecretsApi::Fetch but for a label that nothing carries,
  // and of ParseJwtSecret; NOT_FOUND if nothing is AWSCURRENT.
  Result<std::vector<StoredKey>> ReadKeys();
  Result<StoredKey> ReadCurrent();

 private:
  SecretsAccess(runtime::Runtime& runtime, const SecretsTarget& target) : runtime_(runtime), target_(target) {}
  Result<StoredKey> Read(const std::string& stage);

  runtime::Runtime& runtime_;
  const SecretsTarget target_;
  telemetry::Metrics metrics_;  // nobody scrapes them
  std::unique_ptr<secrets::Aws> aws_;
};

}  // namespace nova::audit
