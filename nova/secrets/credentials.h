// As whom this process speaks to AWS. Of the four sources the first one that is *configured* is used, and its failure
// is an error: a pod whose web identity is broken must not go on as the node it runs on.
//
//   1. environment     AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (AWS_SESSION_TOKEN)
//   2. web identity    AWS_ROLE_ARN and AWS_WEB_IDENTITY_TOKEN_FILE (IRSA): STS AssumeRoleWithWebIdentity
//   3. Pod Identity    AWS_CONTAINER_CREDENTIALS_FULL_URI and AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE
//   4. the instance    IMDSv2, unless AWS_EC2_METADATA_DISABLED
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "nova/base/clock.h"
#include "nova/base/result.h"
#include "nova/base/secret.h"
#include "nova/config/config.h"
#include "nova/resilience/dependency.h"
#include "nova/runtime/call.h"
#include "nova/runtime/runtime.h"
#include "nova/runtime/task.h"
#include "nova/telemetry/metrics.h"

namespace nova::secrets {

struct Credentials {
  std::string access_key_id = {};
  Secret<> secret_access_key = {};
  // Empty for long-lived keys.
  Secret<> session_token = {};
  // Nothing: they do not expire.
  std::optional<WallTime> expires_at = {};
};

using CredentialsHandle = std::shared_ptr<const Credentials>;

enum class CredentialSource : std::uint8_t { kEnvironment, kWebIdentity, kPodIdentity, kInstance };

// "environment", "web_identity", "pod_identity", "instance".
const char* CredentialSourceName(CredentialSource source);

// The names are AWS' own. What no variable sets is empty.
struct CredentialsConfig {
  std::string access_key_id;
  Secret<> secret_access_key;
  Secret<> session_token;
  std::string role_arn;
  std::string web_identity_token_file;
  std::string role_session_name;
  std::string container_full_uri;
  std::string container_token_file;
  bool instance_disabled = false;
  std::string instance_endpoint = "http://169.254.169.254";
  // Of STS; empty: https://sts.<region>.amazonaws.com.
  std::string sts_endpoint;
  // The authorities that AWS' certificates are verified with (AWS_CA_BUNDLE); empty: the system's.
  std::string ca_path;
};

void Bind(config::Config& config, CredentialsConfig& credentials);

// For the log and the status page; nothing in it is secret.
struct IdentityInUse {
  CredentialSource source = CredentialSource::kEnvironment;
  // The role's ARN, the instance's role, or the access key's id but for its last four characters ("AKIA...WXYZ").
  std::string name = {};
  std::optional<WallTime> expires_at = {};
};

// Thread-safe. Metrics: nova_aws_credentials_refreshes_total{source,result},
// nova_aws_credentials_expiry_timestamp_seconds (0 if they never expire).
class CredentialsProvider {
 public:
  // Refreshed ahead when so much of their life is left, so that nobody waits: AWS' own SDKs use the same two figures.
  static constexpr std::chrono::minutes kRefreshAhead{15};
  // From here on callers wait for the refresh. If it fails, they get the present ones until these have really ended:
  // AWS still takes them. Of a life shorter than an hour both are a part.
  static constexpr std::chrono::minutes kRefreshRequired{10};

  // Decides the source; contacts nobody. `region` names the regional STS. All references must outlive it. Errors:
  // INVALID_ARGUMENT in one line that names the variable and the remedy: half of a pair is set, a URI that is none or
  // plain HTTP to an address that is not allowed, a file that cannot be read.
  static Result<std::unique_ptr<CredentialsProvider>> Create(runtime::Runtime& runtime, telemetry::Metrics& metrics,
                                                             resilience::HttpDependency& dependency,
                                                             const CredentialsConfig& config, const std::string& region,
                                                             const Clock& clock = Clock::System());
  virtual ~CredentialsProvider() = default;

  // Those in force. One request for all who ask at once; a caller's end does not end it for the others. Token files are
  // read anew for each request. After a failure the source is left alone for a while (0.5 s, doubled up to 30 s), in
  // which callers get that failure. Logs the identity when it is known first, and when it changes; a failure once,
  // until the next success. Credentials that had ended when they came are given out, with a warning: AWS decides.
  // Errors: those of failure.h: kExpiredCredentials (the source refused, or has none), kNetwork, kThrottled, in one
  // line that names the source or the variable; why the call ended; CANCELLED after Close. Deadline: the call's. The
  // request has a limit of its own.
  virtual runtime::Task<CredentialsHandle> Get(runtime::Call& call) = 0;

  // AWS said that these have expired, or are not valid: the next Get asks for new ones, once a second at most. Those of
  // the environment nothing replaces: for a second Get is the error that says so. No effect if others are in force
  // meanwhile.
  virtual void Refused(const CredentialsHandle& credentials) = 0;

  virtual IdentityInUse identity() const = 0;

  // Ends what runs in the background, and whoever waits; blocks for `limit` at most.
  virtual Result<void> Close(Duration limit) = 0;
};

}  // namespace nova::secrets
