// The checks of P0-5: what a stack does while a part of it stands still, and that it is itself again soon afterwards.
// One part at a time stalls, for some seconds; the first check about a part does it, and the others look at what was
// seen.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "audit/audit.h"
#include "audit/callers.h"
#include "audit/exposition.h"
#include "audit/finding.h"
#include "audit/scraper.h"
#include "audit/traffic.h"
#include "nova/http/client.h"
#include "nova/postgres/pool.h"
#include "nova/redis/client.h"
#include "nova/resilience/dependency.h"
#include "nova/telemetry/metrics.h"

namespace nova::audit {

// Used by one thread that is not the runtime's. Each check takes a bounded time and describes its own failures.
// Whatever happens, nobody is left standing still.
class FaultProbe {
 public:
  enum class Part : std::uint8_t { kPostgres, kPgBouncer, kRedis, kIdentity };

  // `runtime` and `config` must outlive the probe.
  FaultProbe(runtime::Runtime& runtime, const AuditConfig& config);
  ~FaultProbe();
  FaultProbe(const FaultProbe&) = delete;
  FaultProbe& operator=(const FaultProbe&) = delete;

  // --- Without a fault: what services say about what they depend on. ---
  Finding WithoutDeadline();
  Finding WithoutBreaker();
  Finding WithoutBulkhead();

  // --- While a part stalls. ---
  Finding DeadlineKept(Part part);
  Finding BreakersOpen(Part part);
  Finding OthersAnswered(Part part);
  Finding OtherBreakersOpen(Part part);
  Finding BackAfter(Part part);
  Finding DefaultDatabaseTimeout();
  Finding DefaultGrpcTimeout();
  Finding DefaultCacheTimeout();

  // After those that were made.
  Finding PermitsLeft();

 private:
  static constexpr int kParts = 4;

  struct Work {
    std::string name;
    Callers::Work work;
  };
  struct WatchedBreaker {
    // A service, or empty for the audit's own client.
    std::string process;
    std::string dependency;
    std::string Name() const { return (process.empty() ? "audit" : process) + "'s for " + dependency; }
  };
  // What is done to one part.
  struct Plan {
    // For people; and of the process, in the configuration and in the state of the stack.
    std::string name;
    std::string process;
    // What services call it in their metrics.
    std::vector<std::string> dependencies;
    // Who make the affected calls, each of them.
    int users = 0;
    // Calls that need it, or would use it; and calls that do not.
    std::vector<Work> affected;
    std::vector<Work> others;
    // Done once, at the begin of the fault, it makes `asker` call the part by itself.
    std::optional<Work> aside;
    std::string asker;
    std::vector<WatchedBreaker> breakers;
    // A client with the default policies, before the fault and in it.
    std::optional<Work> by_default;
  };
  struct Breaker {
    std::string name;
    std::optional<Duration> opened;  // after SIGSTOP
    std::optional<Duration> closed;  // after SIGCONT
  };
  struct Observed {
    std::size_t processes = 0;
    Callers::Seen affected;
    Callers::Seen others;
    std::vector<Breaker> breakers;
    std::vector<std::string> other_breakers;
    // After SIGCONT; nothing if that was not within the limit.
    std::optional<Duration> answered_again;
    std::optional<Timing::Ended> by_default;
    // Calls of the asker that its deadline has ended; nothing if there is no asker.
    std::optional<double> asked_in_vain;
  };
  using Scrapes = Scraper::Scrapes;

  // What was seen, made the first time.
  const Result<Observed>& SeenOf(Part part);
  Result<Observed> Stall(const Plan& plan);
  Result<Plan> PlanOf(Part part);
  // A finding about what was seen.
  Finding Look(Part part, const std::function<Finding(const Observed&)>& judge);
  Finding DefaultTimeout(Part part, Duration promised);
  Finding Without(bool (*has)(const Exposition&, const std::string&));

  Result<Exposition> Scrape(const std::string& process);
  // Of every service but one, which does not answer.
  Result<Scrapes> ScrapeAllBut(const std::string& process);
  runtime::Task<void> AskLiveness(runtime::Call& call, std::string target);
  // Until it is OK.
  Result<void> AwaitWork(const Work& work);

  runtime::Runtime& runtime_;
  const AuditConfig& config_;
  Scraper scraper_;
  telemetry::Metrics metrics_;  // nobody scrapes them
  resilience::HttpDependency admin_ports_{"admin_ports", metrics_, resilience::ForProbes(resilience::Kind::kHttp)};
  http::Client http_{admin_ports_};
  // By default policies, as a service has them that sets nothing.
  resilience::DatabaseDependency database_{"postgres", metrics_};
  resilience::CacheDependency cache_{"redis", metrics_};
  postgres::Pool pool_;
  redis::Client redis_;
  // Made with the first fault, or why not.
  std::optional<Result<std::unique_ptr<Traffic>>> traffic_;
  std::array<std::optional<Result<Observed>>, kParts> observed_;
};

}  // namespace nova::audit
