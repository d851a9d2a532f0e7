// Load: what a busy stack does all day, while something is done to it that nobody may notice: calls over connections
// that stay and over new ones, streams that stay open, and what a user's calls need of the databases.
//
//   Load load(runtime, config, identity, traffic);
//   ...                                   // once load.IsReady()
//   const Load::Seen seen = load.Stop();
//   seen.failed
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "audit/audit.h"
#include "audit/callers.h"
#include "audit/traffic.h"
#include "nova/resilience/dependency.h"
#include "nova/rpc/client.h"
#include "nova/runtime/scope.h"
#include "nova/telemetry/metrics.h"
#include "nova/tls/credentials.h"

namespace nova::audit {

// Used by one thread that is not the runtime's.
class Load {
 public:
  // To each service: clients that keep their connection, clients that connect anew for every call, and streams.
  static constexpr int kClients = 4;
  static constexpr int kNewcomers = 2;
  static constexpr int kStreams = 4;

  // Of what has ended. Nothing is tried again: a caller without retries would have seen these failures.
  struct Seen {
    int calls = 0;
    int failed = 0;       // calls, and streams that ended
    int connections = 0;  // new ones, for as many of the calls
    int streams = 0;      // that are open, or were when it stopped
    Duration slowest{};   // of the calls
    std::string first_failure = {};
  };

  // Health as `identity`; with `traffic`, which may be null, a user's calls, too. All must outlive the load.
  Load(runtime::Runtime& runtime, const AuditConfig& config, const tls::ChannelIdentity& identity, Traffic* traffic);
  ~Load();
  Load(const Load&) = delete;
  Load& operator=(const Load&) = delete;

  // Everyone was answered, and every stream is open.
  bool IsReady() const;
  Seen seen() const;
  // Ends the calls under way, which then count for nothing, and makes no more.
  Seen Stop();

 private:
  struct Work {
    std::string name;
    bool connects_anew;
    std::unique_ptr<Callers> callers;
  };

  rpc::ClientConfig To(const ServiceTarget& service) const;
  runtime::Task<void> CallAnew(runtime::Call& call, rpc::ClientConfig to);
  runtime::Task<void> Follow(runtime::Call& scope, rpc::Client& client, std::string service);
  // One stream from its begin to its end, which is always an error.
  runtime::Task<void> FollowOne(runtime::Call& call, rpc::Client& client, bool& open);

  const tls::ChannelIdentity identity_;
  telemetry::Metrics metrics_;  // nobody scrapes them
  resilience::PeerDependency services_;
  std::vector<std::unique_ptr<rpc::Client>> clients_;
  mutable std::mutex mutex_;
  int streams_open_ = 0;   // guarded by mutex_
  int streams_ended_ = 0;  // guarded by mutex_
  std::string first_end_;  // guarded by mutex_
  int streams_expected_ = 0;
  int streams_at_stop_ = -1;  // -1: it runs
  runtime::Scope scope_;
  std::vector<Work> works_;
};

}  // namespace nova::audit
