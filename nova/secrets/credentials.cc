#include "nova/secrets/credentials.h"

#include <algorithm>
#include <mutex>
#include <random>
#include <utility>
#include <vector>

#include "nova/base/timestamp.h"
#include "nova/http/client.h"
#include "nova/runtime/one_shot.h"
#include "nova/runtime/scope.h"
#include "nova/secrets/credential_sources.h"
#include "nova/secrets/failure.h"
#include "nova/telemetry/log.h"

namespace nova::secrets {
namespace {

using runtime::Call;
using runtime::OneShot;
using runtime::Task;
using std::chrono::milliseconds;
using std::chrono::seconds;

// One request to the source, its retries included; nobody's deadline ends it.
constexpr seconds kFetchLimit{15};
constexpr int kAnswerBytesMax = 64 * 1024;
// After a failure: random between half of it and all of it, doubled with each further one.
constexpr milliseconds kBackoff{500};
constexpr milliseconds kBackoffMax = seconds(30);
constexpr int kDoublingsMax = 10;
// Credentials that AWS refuses are replaced at most so often; those that nothing can replace are not used for so long.
constexpr seconds kRefusedIntervalMin{1};
// Of credentials that live for a shorter time than AWS' usual hour, a part is left when they are refreshed.
constexpr int kAheadPart = 4;
constexpr int kRequiredPart = 6;
constexpr double kJitter = 0.1;
// Those that had ended when they came are used for so long before the source is asked again.
constexpr seconds kEndedPause{60};

class CachedCredentials final : public CredentialsProvider {
 public:
  CachedCredentials(runtime::Runtime& runtime, telemetry::Metrics& metrics, resilience::HttpDependency& dependency,
                    const std::string& ca_path, const Clock& clock)
      : clock_(clock),
        http_(dependency, {.body_bytes_max = kAnswerBytesMax, .ca_path = ca_path}),
        expiry_(metrics.Gauge("nova_aws_credentials_expiry_timestamp_seconds",
                              "When the AWS credentials in use expire; 0 if they do not.")),
        metrics_(metrics),
        random_(std::random_device{}()),
        scope_(runtime) {}

  Result<void> Choose(const CredentialsConfig& config, const std::string& region) {
    NOVA_TRY(source_, MakeSource(config, region, http_, clock_));
    const char* const name = CredentialSourceName(source_->kind());
    constexpr char kRefreshes[] = "nova_aws_credentials_refreshes_total";
    constexpr char kHelp[] = "Requests for AWS credentials, by source and result.";
    refreshed_ = &metrics_.Counter(kRefreshes, kHelp, {{"source", name}, {"result", "ok"}});
    failed_ = &metrics_.Counter(kRefreshes, kHelp, {{"source", name}, {"result", "failed"}});
    identity_ = {.source = source_->kind(), .name = source_->name(), .expires_at = std::nullopt};
    return Ok();
  }

  Task<CredentialsHandle> Get(Call& call) override {
    std::optional<OneShot<CredentialsHandle>> waiter;
    CredentialsHandle present;
    bool start = false;
    {
      std::lock_guard lock(mutex_);
      if (is_closed_) co_return Stopping();
      if (!source_->can_be_refreshed() && clock_.Now() < refused_until_) co_return CannotBeReplaced();
      const WallTime now = clock_.WallNow();
      const bool may_ask = !under_way_ && clock_.Now() >= retry_at_;
      if (present_ && now < required_at_) {
        present = present_;
        start = now >= ahead_at_ && may_ask;
      } else if (!under_way_ && !may_ask && failure_) {
        // Until they really end, they are better than none.
        if (present_ && present_->expires_at && now < *present_->expires_at) co_return present_;
        co_return *failure_;
      } else {
        waiters_.push_back(waiter.emplace());
        start = !under_way_;
      }
      under_way_ = under_way_ || start;
    }
    if (start) scope_.Spawn("AWS credentials", [this](Call& own) { return Refresh(own); });
    if (!waiter) co_return present;
    co_return co_await waiter->Wait(call);
  }

  void Refused(const CredentialsHandle& credentials) override {
    std::lock_guard lock(mutex_);
    const SteadyTime now = clock_.Now();
    if (present_ != credentials || now < refused_until_) return;
    refused_until_ = now + kRefusedIntervalMin;
    if (source_->can_be_refreshed()) present_ = nullptr;
  }

  IdentityInUse identity() const override {
    std::lock_guard lock(mutex_);
    return identity_;
  }

  Result<void> Close(Duration limit) override {
    {
      std::lock_guard lock(mutex_);
      is_closed_ = true;
    }
    auto stopped = scope_.Stop(limit);
    // Of a flight that the scope did not begin any more.
    std::vector<OneShot<CredentialsHandle>> waiters;
    {
      std::lock_guard lock(mutex_);
      waiters = std::exchange(waiters_, {});
    }
    for (const auto& waiter : waiters) (void)waiter.TrySet(Stopping());
    return stopped;
  }

 private:
  static Error Stopping() { return Cancelled("the process is stopping"); }

  // With mutex_ held.
  Error CannotBeReplaced() const {
    return Fail(Failure::kExpiredCredentials,
                "environment: AWS refuses the access key " + identity_.name +
                    ", which nothing replaces; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (AWS_SESSION_TOKEN) "
                    "anew and restart");
  }

  Task<void> Refresh(Call& call) {
    Call limited(call, kFetchLimit);
    Result<Obtained> obtained = co_await source_->Fetch(limited);
    Accept(std::move(obtained));
    co_return Ok();
  }

  void Accept(Result<Obtained> obtained) {
    std::vector<OneShot<CredentialsHandle>> waiters;
    Result<CredentialsHandle> answer;
    bool is_news = false;
    bool has_ended = false;
    IdentityInUse identity;
    {
      std::lock_guard lock(mutex_);
      waiters = std::exchange(waiters_, {});
      under_way_ = false;
      if (obtained) {
        is_news = !is_known_ || identity_.name != obtained->name;
        is_known_ = true;
        has_ended = Take(*std::move(obtained));
        answer = present_;
        identity = identity_;
      } else {
        is_news = !failure_;
        answer = Reject(obtained.error());
      }
    }
    if (obtained) {
      refreshed_->Increment();
      if (is_news)
        telemetry::LogInfo("AWS identity in use",
                           {{"source", CredentialSourceName(identity.source)},
                            {"identity", identity.name},
                            {"expires_at", identity.expires_at ? Timestamp(*identity.expires_at) : "never"}});
      if (has_ended)
        telemetry::LogWarn("AWS credentials had ended when they came; is this machine's clock right?",
                           {{"source", CredentialSourceName(identity.source)},
                            {"expires_at", Timestamp(identity.expires_at.value_or(WallTime{}))}});
    } else {
      failed_->Increment();
      if (is_news) telemetry::LogWarn("AWS credentials could not be had", {{"error", obtained.error()}});
    }
    for (const auto& waiter : waiters) (void)waiter.TrySet(answer);
  }

  // With mutex_ held. Whether they had ended before they came: the clock is wrong, or the source is in trouble and
  // gives what it has. Whether they are good is AWS' to say, but the source is not asked for others at every Get.
  bool Take(Obtained obtained) {
    identity_.name = std::move(obtained.name);
    identity_.expires_at = obtained.credentials.expires_at;
    const WallTime now = clock_.WallNow();
    bool has_ended = false;
    ahead_at_ = required_at_ = WallTime::max();
    if (const auto end = obtained.credentials.expires_at) {
      const Duration life = *end - now;
      has_ended = life <= Duration::zero();
      if (has_ended) {
        ahead_at_ = required_at_ = now + kEndedPause;
      } else {
        std::uniform_real_distribution<double> part(1, 1 + kJitter);
        const Duration ahead = std::min<Duration>(kRefreshAhead, life / kAheadPart);
        ahead_at_ =
            *end - std::chrono::duration_cast<WallTime::duration>(std::chrono::duration<double>(ahead) * part(random_));
        required_at_ = *end - std::min<Duration>(kRefreshRequired, life / kRequiredPart);
      }
    }
    expiry_.Set(identity_.expires_at ? std::chrono::duration<double>(identity_.expires_at->time_since_epoch()).count()
                                     : 0);
    present_ = std::make_shared<const Credentials>(std::move(obtained.credentials));
    failure_.reset();
    failures_ = 0;
    retry_at_ = {};
    return has_ended;
  }

  // With mutex_ held. What those get who wait.
  Result<CredentialsHandle> Reject(const Error& error) {
    std::uniform_real_distribution<double> part(0.5, 1);
    const Duration pause =
        std::min<Duration>(Duration(kBackoff) * (1 << std::min(failures_, kDoublingsMax)), kBackoffMax);
    retry_at_ =
        clock_.Now() + std::chrono::duration_cast<Duration>(std::chrono::duration<double>(pause) * part(random_));
    ++failures_;
    failure_ = error;
    if (present_ && present_->expires_at && clock_.WallNow() < *present_->expires_at) return present_;
    return error;
  }

  // Constant after Choose.
  const Clock& clock_;
  const http::Client http_;
  prometheus::Gauge& expiry_;
  telemetry::Metrics& metrics_;
  std::unique_ptr<Source> source_;
  prometheus::Counter* refreshed_ = nullptr;
  prometheus::Counter* failed_ = nullptr;

  mutable std::mutex mutex_;
  // All guarded by mutex_.
  std::mt19937_64 random_;
  CredentialsHandle present_;
  IdentityInUse identity_;
  bool is_known_ = false;
  WallTime ahead_at_ = WallTime::max();
  WallTime required_at_ = WallTime::max();
  bool under_way_ = false;
  std::vector<OneShot<CredentialsHandle>> waiters_;
  std::optional<Error> failure_;
  int failures_ = 0;
  SteadyTime retry_at_{};
  SteadyTime refused_until_{};
  bool is_closed_ = false;
  // Last: its tasks use the above.
  runtime::Scope scope_;
};

}  // namespace

const char* CredentialSourceName(CredentialSource source) {
  switch (source) {
    case CredentialSource::kEnvironment:
      return "environment";
    case CredentialSource::kWebIdentity:
      return "web_identity";
    case CredentialSource::kPodIdentity:
      return "pod_identity";
    case CredentialSource::kInstance:
      break;
  }
  return "instance";
}

void Bind(config::Config& config, CredentialsConfig& credentials) {
  config.Field("aws.access_key_id", credentials.access_key_id,
               {.help = "access key of AWS; with AWS_SECRET_ACCESS_KEY", .env = "AWS_ACCESS_KEY_ID"});
  config.Field("aws.secret_access_key", credentials.secret_access_key,
               {.help = "its secret half", .env = "AWS_SECRET_ACCESS_KEY"});
  config.Field("aws.session_token", credentials.session_token,
               {.help = "of temporary access keys", .env = "AWS_SESSION_TOKEN"});
  config.Field("aws.role_arn", credentials.role_arn,
               {.help = "role to assume with the token in AWS_WEB_IDENTITY_TOKEN_FILE", .env = "AWS_ROLE_ARN"});
  config.Field("aws.web_identity_token_file", credentials.web_identity_token_file,
               {.help = "token of the service account (IRSA)", .env = "AWS_WEB_IDENTITY_TOKEN_FILE"});
  config.Field("aws.role_session_name", credentials.role_session_name,
               {.help = "who it is in CloudTrail; unset: nova- and the host's name", .env = "AWS_ROLE_SESSION_NAME"});
  config.Field("aws.container_credentials_full_uri", credentials.container_full_uri,
               {.help = "where EKS Pod Identity gives credentials", .env = "AWS_CONTAINER_CREDENTIALS_FULL_URI"});
  config.Field("aws.container_authorization_token_file", credentials.container_token_file,
               {.help = "the token for that", .env = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"});
  config.Field("aws.ec2_metadata_disabled", credentials.instance_disabled,
               {.help = "never ask the instance for its role", .env = "AWS_EC2_METADATA_DISABLED"});
  config.Field("aws.ec2_metadata_service_endpoint", credentials.instance_endpoint,
               {.help = "where the instance answers", .env = "AWS_EC2_METADATA_SERVICE_ENDPOINT"});
  config.Field("aws.endpoint_url_sts", credentials.sts_endpoint,
               {.help = "URL of STS; unset: that of the region", .env = "AWS_ENDPOINT_URL_STS"});
  config.Field(
      "aws.ca_bundle", credentials.ca_path,
      {.help = "PEM file of the authorities of AWS' certificates; unset: the system's", .env = "AWS_CA_BUNDLE"});
}

Result<std::unique_ptr<CredentialsProvider>> CredentialsProvider::Create(
    runtime::Runtime& runtime, telemetry::Metrics& metrics, resilience::HttpDependency& dependency,
    const CredentialsConfig& config, const std::string& region, const Clock& clock) {
  auto provider = std::make_unique<CachedCredentials>(runtime, metrics, dependency, config.ca_path, clock);
  NOVA_TRY(provider->Choose(config, region));
  return std::unique_ptr<CredentialsProvider>(std::move(provider));
}

}  // namespace nova::secrets
