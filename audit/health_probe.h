// The checks of P0-4 that take a fault: which services say that they do not serve when a part of the stack is lost, how
// soon, how soon they serve again when it is back; and that nobody says so without need.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "audit/audit.h"
#include "audit/finding.h"
#include "audit/health_watch.h"
#include "audit/traffic.h"
#include "nova/tls/publisher.h"

namespace nova::audit {

// Used by one thread that is not the runtime's. Each part stalls once, when the first check that needs it asks.
// Whatever happens, nobody is left standing still.
class HealthProbe {
 public:
  // A soak that is shorter proves nothing.
  static constexpr std::chrono::seconds kSoakPromised = std::chrono::minutes(10);

  struct Limits {
    // A part that nobody needs stands still for longer than a needed one takes to show.
    Duration stall_min = std::chrono::seconds(6);
    // How long a change is waited for.
    Duration look = std::chrono::seconds(15);
    // How long every stream has to say SERVING before anything is done.
    Duration ready = std::chrono::seconds(20);
  };

  // `runtime` and `config` must outlive the probe.
  HealthProbe(runtime::Runtime& runtime, const AuditConfig& config, const Limits& limits);
  HealthProbe(runtime::Runtime& runtime, const AuditConfig& config) : HealthProbe(runtime, config, Limits{}) {}
  ~HealthProbe();
  HealthProbe(const HealthProbe&) = delete;
  HealthProbe& operator=(const HealthProbe&) = delete;

  // The slowest stream of the slowest service, of all hard dependencies that stalled.
  Finding NotServingAfter();
  Finding ServingAfter();
  // Changes while parts stall that the service can do without.
  Finding ChangesWithoutNeed();
  // Changes in `config.soak` of mixed load, with stalls of 1.5 s every 15 s.
  Finding ChangesInSoak();

 private:
  enum class Part : std::uint8_t { kPostgres, kPgBouncer, kRedis, kIdentity };
  static constexpr int kParts = 4;

  struct Plan {
    std::string name;     // for people
    std::string process;  // in the configuration
    // Services that cannot do without it.
    std::set<std::string> needed_by;
  };
  struct Observed {
    // By stream, of those who need the part.
    std::map<std::string, std::optional<Duration>> fell;  // after SIGSTOP
    std::map<std::string, std::optional<Duration>> rose;  // after SIGCONT
    // What others said, and those who need it more often than once each way.
    std::vector<HealthWatch::Change> needless;
  };

  Plan PlanOf(Part part) const;
  const Result<Observed>& SeenOf(Part part);
  Result<Observed> Stall(const Plan& plan);
  Finding Slowest(const char* what, std::map<std::string, std::optional<Duration>> Observed::* when);
  // Streams to every service, each of which serves.
  Result<HealthWatch*> Watching();

  runtime::Runtime& runtime_;
  const AuditConfig& config_;
  const Limits limits_;
  telemetry::Metrics metrics_;  // nobody scrapes them
  runtime::Scope scope_;
  // Follows the rotations that happen meanwhile.
  std::unique_ptr<tls::IdentityPublisher> publisher_;
  std::optional<tls::ChannelIdentity> identity_;
  std::unique_ptr<HealthWatch> watch_;
  std::array<std::optional<Result<Observed>>, kParts> observed_;
};

}  // namespace nova::audit
