// Traffic: a user of the stack, made for the audit, who can be seen to be served or not.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>

#include "audit/account.h"
#include "audit/audit.h"
#include "nova/resilience/dependency.h"
#include "nova/rpc/client.h"
#include "nova/runtime/runtime.h"
#include "nova/runtime/scope.h"
#include "nova/telemetry/metrics.h"
#include "nova/tls/publisher.h"

namespace nova::audit {

// Used by one thread that is not the runtime's; its calls may be made from any task.
class Traffic {
 public:
  // Both must outlive it. Errors: those of Account::Create.
  static Result<std::unique_ptr<Traffic>> Create(runtime::Runtime& runtime, const AuditConfig& config);
  ~Traffic();
  Traffic(const Traffic&) = delete;
  Traffic& operator=(const Traffic&) = delete;

  // --- Calls to the services, by what they need; as every service calls, but that no breaker refuses them. ---

  // identity: its database.
  runtime::Task<void> VerifyToken(runtime::Call& call);
  // identity: nothing but itself.
  runtime::Task<void> ReadKeys(runtime::Call& call);
  // user: its database; and identity's keys, as they were known last.
  runtime::Task<void> ReadSettings(runtime::Call& call);
  // user: the cache, or else the database.
  runtime::Task<void> ReadProfile(runtime::Call& call);
  // The same with a token whose key nobody knows, which makes the service ask identity for its keys. OK if the service
  // refuses the token.
  runtime::Task<void> PresentUnknownKey(runtime::Call& call);

  // A service's health, whatever it is.
  runtime::Task<void> AskHealth(runtime::Call& call, std::string service);

  // --- To identity, through a client with the default policies. ---

  // A call that the method allows to last as long as the policy does.
  runtime::Task<void> LongCallByDefault(runtime::Call& call);
  runtime::Task<void> CallByDefault(runtime::Call& call);
  // What that client exports of its policies.
  std::string ScrapeOfDefault() const { return default_metrics_.Scrape(); }

 private:
  Traffic(runtime::Runtime& runtime, const AuditConfig& config);
  Result<void> Start();
  Result<std::unique_ptr<rpc::Client>> ClientOf(const std::string& service, telemetry::Metrics& metrics,
                                                resilience::PeerDependency& dependency);

  runtime::Runtime& runtime_;
  const AuditConfig& config_;
  telemetry::Metrics metrics_;  // of the plain clients; nobody scrapes them
  telemetry::Metrics default_metrics_;
  telemetry::Metrics long_metrics_;
  resilience::PeerDependency services_;
  resilience::PeerDependency default_identity_{"identity", default_metrics_};
  resilience::PeerDependency long_identity_{"identity", long_metrics_};
  // Follows the rotations that happen meanwhile.
  runtime::Scope scope_;
  std::unique_ptr<tls::IdentityPublisher> publisher_;
  std::optional<tls::ChannelIdentity> operator_;
  std::map<std::string, std::unique_ptr<rpc::Client>> health_;
  std::unique_ptr<rpc::Client> by_default_;
  std::unique_ptr<rpc::Client> long_by_default_;
  std::unique_ptr<Account> account_;
  Secret<> unknown_key_token_;
};

}  // namespace nova::audit
