// HealthWatch: what the services say of their health, for as long as it lasts: every status that grpc.health.v1 Watch
// pushes, with its time.
#pragma once

#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "audit/audit.h"
#include "nova/resilience/dependency.h"
#include "nova/rpc/client.h"
#include "nova/runtime/scope.h"
#include "nova/telemetry/metrics.h"
#include "nova/tls/credentials.h"

namespace nova::audit {

// Used by one thread that is not the runtime's. To each service two streams, each over a connection of its own: one for
// the process (the empty name), one for the service by its full name. A stream that ends is opened again; what changed
// meanwhile is a change like any other.
class HealthWatch {
 public:
  struct Change {
    // "user", or "user (nova.user.v2.UserService)".
    std::string name;
    std::string service;
    bool serving = false;
    SteadyTime at;
  };

  // `runtime` and `config` must outlive it.
  HealthWatch(runtime::Runtime& runtime, const AuditConfig& config, const tls::ChannelIdentity& identity);
  ~HealthWatch();
  HealthWatch(const HealthWatch&) = delete;
  HealthWatch& operator=(const HealthWatch&) = delete;

  // Every stream has said that it is serving.
  bool AllServing() const;
  // Those that have not, or why their last stream ended; empty if there are none.
  std::string NotServing() const;

  // Of the streams to a service.
  std::vector<std::string> NamesOf(const std::string& service) const;

  // From the `since`-th on, in the order of their time. What a stream said first is no change.
  std::vector<Change> Changes(std::size_t since = 0) const;
  // Streams that ended by themselves.
  int lost() const;

 private:
  struct Stream {
    Stream(telemetry::Metrics& metrics, resilience::PeerDependency& dependency, const ServiceTarget& target,
           std::string watched, const tls::ChannelIdentity& identity);

    std::string name;
    std::string service;
    std::string rpc_service;
    rpc::Client client;
    // Guarded by mutex_.
    std::optional<bool> serving;
    std::string end;
  };

  runtime::Task<void> Follow(runtime::Call& scope, Stream& stream);
  runtime::Task<void> FollowOne(runtime::Call& call, Stream& stream);
  void Note(Stream& stream, bool serving);

  telemetry::Metrics metrics_;  // nobody scrapes them
  resilience::PeerDependency services_{"services", metrics_, resilience::ForProbes(resilience::Kind::kPeer)};
  std::deque<Stream> streams_;
  mutable std::mutex mutex_;
  std::vector<Change> changes_;  // guarded by mutex_
  int lost_ = 0;                 // guarded by mutex_
  runtime::Scope scope_;
};

}  // namespace nova::audit
