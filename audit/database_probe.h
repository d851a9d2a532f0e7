// The checks of P0-3 on a running stack: what PgBouncer says about itself, and what the way through it costs.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "audit/audit.h"
#include "audit/finding.h"
#include "nova/postgres/admin_console.h"
#include "nova/postgres/pool.h"
#include "nova/resilience/dependency.h"
#include "nova/telemetry/metrics.h"

namespace nova::audit {

// Used by one thread that is not the runtime's. Connects at the first check that needs it; each check takes a bounded
// time and describes its own failures.
class DatabaseProbe {
 public:
  // `runtime` and `config` must outlive the probe.
  DatabaseProbe(runtime::Runtime& runtime, const AuditConfig& config);
  ~DatabaseProbe();
  DatabaseProbe(const DatabaseProbe&) = delete;
  DatabaseProbe& operator=(const DatabaseProbe&) = delete;

  // A key of SHOW CONFIG against what it must be.
  Finding SettingIs(std::string_view key, std::string_view value);
  Finding SettingIsAtLeast(std::string_view key, std::int64_t value);

  Finding PoolsInTransactionMode();
  Finding DatabasesWithinBudget();
  Finding BudgetFitsServer();
  Finding TrafficPassesPooler();
  Finding ConnectionsAreTls();
  Finding AddedLatency();

 private:
  struct Console {
    postgres::ConsoleTable clients, config, databases, pools, servers;
  };
  struct Latencies {
    std::vector<Duration> through;
    std::vector<Duration> around;
  };

  // What the console said, asked once.
  const Result<Console>& Shown();
  Result<postgres::ConsoleTable> ShowNow(postgres::ConsoleView view);
  Finding Setting(std::string_view key, const std::function<bool(const std::string&)>& passes);
  runtime::Task<Latencies> MeasureLatencies(runtime::Call& call);

  runtime::Runtime& runtime_;
  const AuditConfig& config_;
  telemetry::Metrics metrics_;  // of the pools; nobody scrapes them
  resilience::DatabaseDependency database_{"postgres", metrics_, resilience::ForProbes(resilience::Kind::kDatabase)};
  postgres::Pool through_;
  postgres::Pool around_;
  std::optional<Result<Console>> shown_;
};

}  // namespace nova::audit
