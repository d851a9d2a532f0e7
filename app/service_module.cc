#include "app/service_module.h"

#include <chrono>
#include <utility>

#include "api/identity/v2/identity.nova.h"

namespace nova::app {

using runtime::Call;
using runtime::Task;

namespace {

// The names of what every service depends on, as settings and metrics have them.
constexpr resilience::DependencyName kPostgres = "postgres";
constexpr resilience::DependencyName kRedis = "redis";
constexpr resilience::DependencyName kCache = "cache";
constexpr resilience::DependencyName kIdentity = "identity";

// What can be done without is not waited for: the truth is a few milliseconds away.
constexpr std::chrono::milliseconds kCacheTimeout{100};

resilience::DependencyConfig CachePolicies() {
  auto policies = resilience::DependencyConfig::Default(resilience::Kind::kCache);
  policies.timeout = kCacheTimeout;
  policies.slow = kCacheTimeout / 2;
  return policies;
}

// A command whose connection is closed under it never has the longer time that its policy grants.
Result<void> CheckRoom(resilience::DependencyName name, const resilience::DependencyConfig& policies,
                       const redis::ClientConfig& redis) {
  if (policies.timeout <= redis.reply_limit) return Ok();
  return InvalidArgument(resilience::SettingName(name, "timeout_ms") + " is " +
                         std::to_string(policies.timeout.count()) + ", more than redis.reply_limit, which is " +
                         std::to_string(redis.reply_limit.count()) +
                         " ms: no command would have so long; lower the one or raise NOVA_REDIS_REPLY_LIMIT");
}

}  // namespace

ServiceModule::ServiceModule(std::string name, Traits traits)
    : name_(std::move(name)),
      traits_(traits),
      postgres_policies_(resilience::DependencyConfig::Default(resilience::Kind::kDatabase)),
      redis_policies_(resilience::DependencyConfig::Default(resilience::Kind::kCache)),
      cache_policies_(CachePolicies()),
      identity_policies_(resilience::DependencyConfig::Default(resilience::Kind::kPeer)),
      token_keys_(name_, traits.tokens) {}
ServiceModule::~ServiceModule() = default;

void ServiceModule::Bind(config::Config& config) {
  config::Bind(config, app_env_);
  postgres::Bind(config, database_);
  redis::Bind(config, redis_config_);
  events::Bind(config, relay_config_);
  events::Bind(config, consumer_config_);
  token_keys_.Bind(config);
  app::Bind(config, peers_);
  resilience::Bind(config, kPostgres, postgres_policies_);
  resilience::Bind(config, kRedis, redis_policies_);
  if (traits_.caches) resilience::Bind(config, kCache, cache_policies_);
  if (traits_.tokens == TokenKeys::Role::kVerifies) resilience::Bind(config, kIdentity, identity_policies_);
  BindService(config);
}

Result<void> ServiceModule::Build(runtime::Runtime& runtime, telemetry::Metrics& metrics,
                                  const tls::ChannelIdentity& me) {
  NOVA_TRY(postgres::Validate(database_.connection, app_env_));
  NOVA_TRY(redis::Validate(redis_config_));
  NOVA_TRY(events::Validate(relay_config_, redis_config_));
  NOVA_TRY(events::Validate(consumer_config_, relay_config_.retention, redis_config_));
  if (!redis_config_.tls && app_env_ != config::AppEnv::kDevelopment)
    return FailedPrecondition("NOVA_REDIS_TLS: is off, and APP_ENV=" + std::string(config::AppEnvName(app_env_)) +
                              " allows no plaintext; set it to true, and NOVA_REDIS_CA_PATH");
  NOVA_TRY(resilience::Validate(kPostgres, postgres_policies_, app_env_));
  NOVA_TRY(resilience::Validate(kRedis, redis_policies_, app_env_));
  NOVA_TRY(resilience::Validate(kCache, cache_policies_, app_env_));
  NOVA_TRY(resilience::Validate(kIdentity, identity_policies_, app_env_));
  NOVA_TRY(CheckRoom(kRedis, redis_policies_, redis_config_));
  if (traits_.caches) NOVA_TRY(CheckRoom(kCache, cache_policies_, redis_config_));
  consumer_config_.group = name_;
  NOVA_TRY(BuildTrust(metrics));
  postgres_dependency_.emplace(kPostgres, metrics, postgres_policies_);
  redis_dependency_.emplace(kRedis, metrics, redis_policies_);
  pool_.emplace(runtime, metrics, *postgres_dependency_, database_);
  health_pool_.emplace(runtime, metrics, *postgres_dependency_, postgres::ForHealth(database_));
  redis_.emplace(runtime, metrics, *redis_dependency_, redis_config_);
  if (traits_.caches) {
    cache_dependency_.emplace(kCache, metrics, cache_policies_);
    redis::ClientConfig caching = redis_config_;
    caching.name = kCache.text();
    cache_.emplace(runtime, metrics, *cache_dependency_, std::move(caching));
  }
  outbox_.emplace(*pool_, name_);
  relay_.emplace(*outbox_, *pool_, *redis_, metrics, relay_config_);
  consumer_.emplace(*outbox_, *pool_, *redis_, metrics, consumer_config_);
  if (token_keys_.FollowsIssuer()) {
    identity_dependency_.emplace(kIdentity, metrics, identity_policies_);
    identity_.emplace(metrics, *identity_dependency_,
                      rpc::ClientConfig{.principal = "identity", .target = peers_.targets.at("identity")}, me);
  }
  NOVA_TRY(token_keys_.Build(runtime, metrics, app_env_, [this](Call& call) { return FetchKeys(call); }));
  return BuildService(runtime, metrics);
}

Result<void> ServiceModule::BuildTrust(telemetry::Metrics& metrics) {
  postgres::ConnectionConfig& database = database_.connection;
  if (postgres::VerifiesServer(database)) {
    NOVA_TRY(postgres_trust_, tls::TrustPublisher::Create(
                                  {.file = {.path = database.ssl_root_cert, .variable = "NOVA_POSTGRES_SSL_ROOT_CERT"},
                                   .name = std::string(kPostgres.text())},
                                  Clock::System(), metrics));
    database.ssl_root_cert = postgres_trust_->path().string();
  }
  if (redis_config_.tls) {
    NOVA_TRY(redis_trust_,
             tls::TrustPublisher::Create({.file = {.path = redis_config_.ca_path, .variable = "NOVA_REDIS_CA_PATH"},
                                          .name = std::string(kRedis.text())},
                                         Clock::System(), metrics));
    redis_config_.ca_path = redis_trust_->path().string();
  }
  return Ok();
}

Task<std::string> ServiceModule::FetchKeys(Call& call) {
  const identity::v2::GetJwksRequest request;
  NOVA_CO_TRY(const auto response,
              co_await identity_->Invoke(call, identity::v2::IdentityServiceMethods::kGetJwks, request));
  co_return response.jwks();
}

Task<void> ServiceModule::Connect(Call& call) {
  NOVA_CO_TRY(co_await token_keys_.Load(call));
  auto answered = co_await health_pool_->Ping(call);
  if (answered) co_return Ok();
  const postgres::ConnectionConfig& database = database_.connection;
  co_return std::move(answered).error().WithContext("at " + database.host + ":" + std::to_string(database.port) +
                                                    "; is it up, and are NOVA_POSTGRES_HOST, NOVA_POSTGRES_PORT, "
                                                    "NOVA_POSTGRES_USER and NOVA_POSTGRES_PASSWORD right?");
}

void ServiceModule::AddDependencies(health::Monitor& monitor) {
  monitor.AddHard("postgres", [this](Call& call) { return health_pool_->Ping(call); });
  monitor.AddSoft("redis", [this](Call& call) { return redis_->Ping(call); });
  token_keys_.AddDependencies(monitor);
}

void ServiceModule::Start(runtime::Scope& background) {
  if (postgres_trust_) postgres_trust_->Watch(background);
  if (redis_trust_) redis_trust_->Watch(background);
  relay_->Start(background);
  consumer_->Start(background);
  token_keys_.Start(background);
  StartService(background);
}

rpc::TokenVerifier ServiceModule::TokenVerifier() {
  return [this](std::string_view token) -> Result<runtime::Caller> {
    NOVA_TRY(const auth::Claims claims, token_keys_.Verify(token));
    return auth::CallerOf(claims);
  };
}

Result<void> ServiceModule::Close(Duration limit) {
  const auto service = CloseService(limit);
  const auto token_keys = token_keys_.Close(limit);
  // What was never built needs no closing.
  const auto cache = cache_ ? cache_->Close(limit) : Ok();
  const auto redis = redis_ ? redis_->Close(limit) : Ok();
  const auto pool = pool_ ? pool_->Close(limit) : Ok();
  const auto health_pool = health_pool_ ? health_pool_->Close(limit) : Ok();
  for (const auto* closed : {&service, &token_keys, &cache, &redis, &pool, &health_pool}) NOVA_TRY(*closed);
  return Ok();
}

}  // namespace nova::app
