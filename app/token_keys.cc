#include "app/token_keys.h"

#include <boost/json.hpp>
#include <chrono>
#include <utility>

#include "nova/base/timestamp.h"
#include "nova/telemetry/redact.h"

namespace nova::app {
namespace {

namespace json = boost::json;

using runtime::Call;
using runtime::Task;
using std::chrono::milliseconds;

constexpr std::string_view kSecretName = "AWS_SECRETS_JWT_NAME";
constexpr milliseconds kAnnounceRoom = std::chrono::minutes(1);

// One look may be late by so much, and so may the first after the start.
milliseconds Announce(milliseconds configured, milliseconds soft_ttl, milliseconds keys_refresh) {
  return configured > milliseconds::zero() ? configured : soft_ttl + keys_refresh + kAnnounceRoom;
}

}  // namespace

TokenKeys::TokenKeys(std::string service, Role role) : service_(std::move(service)), role_(role) {}

void TokenKeys::Bind(config::Config& config) {
  auth::Bind(config, jwt_);
  auth::Bind(config, follower_config_);
  config.Field("secrets.jwt_name", secret_name_,
               {.help = "secret of AWS Secrets Manager with the keys of access tokens; unset: they come from "
                        "NOVA_AUTH_JWT_*",
                .env = std::string(kSecretName)});
  config.Field("secrets.announce", announce_,
               {.help = "a new key signs when it is so old; 0s: both refresh intervals and a minute",
                .max = std::chrono::hours(24)});
  secrets::Bind(config, aws_config_);
  secrets::Bind(config, cache_config_);
}

bool TokenKeys::FollowsIssuer() const {
  return role_ == Role::kVerifies && secret_name_.empty() && jwt_.validation_key.empty();
}

Result<void> TokenKeys::Build(runtime::Runtime& runtime, telemetry::Metrics& metrics, config::AppEnv app_env,
                              auth::KeyFollower::Fetch fetch) {
  if (role_ == Role::kVerifies && !jwt_.signing_key.empty())
    return InvalidArgument("NOVA_AUTH_JWT_SIGNING_KEY: only identity signs tokens; take the private key away from " +
                           service_);
  if (!secret_name_.empty()) return BuildKeyring(runtime, metrics, app_env);
  if (!FollowsIssuer()) return BuildFixed();
  if (jwt_.algorithm == auth::Algorithm::kHs256)
    return InvalidArgument(
        "NOVA_AUTH_JWT_ALGORITHM: with HS256 there is nothing that the issuer could publish for others; use EdDSA, "
        "ES256 or RS256");
  follower_.emplace(jwt_, std::move(fetch), metrics, follower_config_);
  return Ok();
}

Result<void> TokenKeys::BuildFixed() {
  NOVA_TRY(auth::JwtKeys keys, auth::LoadJwtKeys(jwt_));
  if (role_ == Role::kIssues && !keys.signing)
    return InvalidArgument("NOVA_AUTH_JWT_SIGNING_KEY: " + service_ +
                           " signs tokens and needs its private key; name the PEM file in "
                           "NOVA_AUTH_JWT_SIGNING_KEY_FILE, or a secret in AWS_SECRETS_JWT_NAME");
  if (keys.signing) fixed_signer_.Set(auth::TermsOf(jwt_), *std::move(keys.signing));
  fixed_verifier_.Set(auth::TermsOf(jwt_), keys.verification);
  return Ok();
}

Result<void> TokenKeys::BuildKeyring(runtime::Runtime& runtime, telemetry::Metrics& metrics, config::AppEnv app_env) {
  const std::string name(kSecretName);
  // Two sources would leave open which of them counts.
  if (!jwt_.signing_key.empty() || !jwt_.validation_key.empty())
    return InvalidArgument(name + ": is set, and so is a key in NOVA_AUTH_JWT_SIGNING_KEY or " +
                           "NOVA_AUTH_JWT_VALIDATION_KEY; leave one of them out");
  NOVA_TRY(secrets::Validate(cache_config_));
  NOVA_TRY(aws_, secrets::Aws::Create(runtime, metrics, aws_config_, app_env));
  NOVA_TRY(secrets_, secrets::SecretManager::Builder(runtime, metrics, aws_->api()).Cache(cache_config_).Build());
  keyring_ = std::make_unique<secrets::JwtKeyring>(
      *secrets_,
      secrets::JwtKeyringConfig{
          .secret_id = secret_name_,
          .signs = role_ == Role::kIssues,
          .refresh_interval = cache_config_.soft_ttl,
          .announce = Announce(announce_, cache_config_.soft_ttl, follower_config_.refresh_interval)},
      metrics);
  return Ok();
}

Task<void> TokenKeys::Load(Call& call) {
  if (keyring_ == nullptr || loaded_) co_return Ok();
  auto loaded = co_await keyring_->Load(call);
  if (loaded) {
    loaded_ = true;
    co_return Ok();
  }
  NOVA_CO_TRY(call.Check());
  Error error = std::move(loaded).error();
  if (error.code() == Code::kInvalidArgument) co_return error;
  const auto failure = secrets::FailureOf(error);
  // Whatever it is, what this process needs is not there; whether it may come by itself is all that is asked for next.
  const bool transient = failure && secrets::IsTransient(*failure);
  co_return Error(transient ? Code::kUnavailable : Code::kNotFound, error.message(), error.detail());
}

void TokenKeys::AddDependencies(health::Monitor& monitor) {
  if (follower_) monitor.AddSoft("identity", [this](Call&) -> Task<void> { co_return follower_->Ready(); });
  if (keyring_)
    monitor.AddSoft("secrets_manager", [this](Call&) -> Task<void> {
      const auto problem = keyring_->status().problem;
      co_return problem ? Result<void>(*problem) : Ok();
    });
}

void TokenKeys::Start(runtime::Scope& background) {
  if (follower_) follower_->Start(background);
  if (keyring_) keyring_->Start(background);
}

std::string TokenKeys::AddStatus(std::string object) const {
  if (keyring_ == nullptr) return object;
  boost::system::error_code error;
  json::value parsed = json::parse(object, error);
  if (error || !parsed.is_object()) return object;
  const secrets::IdentityInUse identity = aws_->identity();
  json::object in_use{{"source", secrets::CredentialSourceName(identity.source)}, {"name", identity.name}};
  if (identity.expires_at) in_use["expires_at"] = Timestamp(*identity.expires_at);
  const secrets::JwtKeyringStatus status = keyring_->status();
  json::array keys;
  for (const auto& key : status.keys) {
    keys.push_back({{"stage", key.stage},
                    {"version_id", key.version_id},
                    {"kid", key.kid},
                    {"created_at", Timestamp(key.created_at)},
                    {"signs", key.signs}});
  }
  json::object jwt{{"secret", status.secret_id}, {"keys", std::move(keys)}};
  if (status.refreshed_at) jwt["refreshed_at"] = Timestamp(*status.refreshed_at);
  if (status.problem) jwt["problem"] = telemetry::Redact(status.problem->ToString());
  parsed.as_object()["secrets"] = json::object{{"aws_identity", std::move(in_use)}, {"jwt", std::move(jwt)}};
  return json::serialize(parsed);
}

Result<void> TokenKeys::Close(Duration limit) {
  // What was never built needs no closing.
  const auto secrets = secrets_ ? secrets_->Close(limit) : Ok();
  const auto aws = aws_ ? aws_->Close(limit) : Ok();
  NOVA_TRY(secrets);
  return aws;
}

Result<auth::Claims> TokenKeys::Verify(std::string_view token) {
  return follower_ ? follower_->Verify(token) : verifier().Verify(token);
}

const auth::JwtSigner& TokenKeys::signer() const { return keyring_ ? keyring_->signer() : fixed_signer_; }

const auth::JwtVerifier& TokenKeys::verifier() const { return keyring_ ? keyring_->verifier() : fixed_verifier_; }

}  // namespace nova::app
