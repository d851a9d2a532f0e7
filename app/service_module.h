// ServiceModule: what every service of the map stands on. A service's own module adds its settings, its logic and its
// handlers; everything else is here once.
//
//   database      a pool through PgBouncer, and one of its own for health       hard
//   Redis         commands, cache, streams                                      soft, unless the service says otherwise
//   events        outbox, relay of it, consumer of others' streams
//   tokens        verified with keys from where token_keys.h says
//
// Each has policies of its own (nova/resilience), under the name it has here: RESILIENCE_POSTGRES_TIMEOUT_MS,
// RESILIENCE_REDIS_..., RESILIENCE_CACHE_..., RESILIENCE_IDENTITY_...
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "app/modules.h"
#include "app/peers.h"
#include "app/token_keys.h"
#include "nova/config/app_env.h"
#include "nova/events/consumer.h"
#include "nova/events/outbox.h"
#include "nova/events/relay.h"
#include "nova/postgres/pool.h"
#include "nova/redis/client.h"
#include "nova/resilience/dependency.h"
#include "nova/rpc/client.h"
#include "nova/tls/trust.h"

namespace nova::app {

class ServiceModule : public Module {
 public:
  struct Traits {
    TokenKeys::Role tokens = TokenKeys::Role::kVerifies;
    // Keeps values in Redis that it can do without: cache() is there, with policies that wait for little.
    bool caches = false;
  };

  // `name`: of the map; also the producer of its events and its consumer group.
  ServiceModule(std::string name, Traits traits);
  ~ServiceModule() override;

  void Bind(config::Config& config) final;
  Result<void> Build(runtime::Runtime& runtime, telemetry::Metrics& metrics, const tls::ChannelIdentity& me) final;
  runtime::Task<void> Connect(runtime::Call& call) final;
  void AddDependencies(health::Monitor& monitor) final;
  void Start(runtime::Scope& background) final;
  std::string AddStatus(std::string object) const final { return token_keys_.AddStatus(std::move(object)); }
  rpc::TokenVerifier TokenVerifier() final;
  Result<void> Close(Duration limit) final;

 protected:
  // --- What a service adds. ---

  virtual void BindService(config::Config& config) = 0;
  // Builds the service on pool(), outbox() and redis(), and registers what it consumes. Nothing is contacted yet.
  virtual Result<void> BuildService(runtime::Runtime& runtime, telemetry::Metrics& metrics) = 0;
  // Background work of the service's own.
  virtual void StartService(runtime::Scope& background) { (void)background; }
  // Lets go of what BuildService made, all or nothing of which may be there; its calls have ended. Blocks for `limit`
  // at most.
  virtual Result<void> CloseService(Duration limit) = 0;

  // After Build has begun to call BuildService.
  postgres::Pool& pool() { return *pool_; }
  events::Outbox& outbox() { return *outbox_; }
  events::Consumer& consumer() { return *consumer_; }
  redis::Client& redis() { return *redis_; }
  // Connections of its own, so that values that can be done without never wait behind events. Precondition: it caches.
  redis::Client& cache() { return *cache_; }
  const TokenKeys& token_keys() const { return token_keys_; }

 private:
  runtime::Task<std::string> FetchKeys(runtime::Call& call);
  // Stands between the files of authorities and the connections that read them.
  Result<void> BuildTrust(telemetry::Metrics& metrics);

  const std::string name_;
  const Traits traits_;
  config::AppEnv app_env_ = config::AppEnv::kDevelopment;
  postgres::PoolConfig database_;
  redis::ClientConfig redis_config_;
  events::RelayConfig relay_config_;
  events::ConsumerConfig consumer_config_;
  PeersConfig peers_;
  resilience::DependencyConfig postgres_policies_;
  resilience::DependencyConfig redis_policies_;
  resilience::DependencyConfig cache_policies_;
  resilience::DependencyConfig identity_policies_;

  // Before their clients, which they outlive. Of trust there is none where nobody is verified.
  std::unique_ptr<tls::TrustPublisher> postgres_trust_;
  std::unique_ptr<tls::TrustPublisher> redis_trust_;
  std::optional<resilience::DatabaseDependency> postgres_dependency_;
  std::optional<resilience::CacheDependency> redis_dependency_;
  std::optional<resilience::CacheDependency> cache_dependency_;
  std::optional<resilience::PeerDependency> identity_dependency_;
  std::optional<postgres::Pool> pool_;
  std::optional<postgres::Pool> health_pool_;
  std::optional<redis::Client> redis_;
  std::optional<redis::Client> cache_;
  std::optional<events::Outbox> outbox_;
  std::optional<events::Relay> relay_;
  std::optional<events::Consumer> consumer_;
  std::optional<rpc::Client> identity_;
  TokenKeys token_keys_;
};

}  // namespace nova::app
