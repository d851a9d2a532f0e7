// Monitor: does this process serve? It probes each dependency in a loop of its own. The process serves while every hard
// dependency is healthy and it is not draining; soft dependencies are reported and decide nothing.
//
//   Monitor monitor(metrics, config);
//   monitor.AddHard("postgres", [&pool](Call& call) { return pool.Ping(call); });
//   monitor.Start(scope);
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "nova/config/config.h"
#include "nova/health/hysteresis.h"
#include "nova/runtime/one_shot.h"
#include "nova/runtime/scope.h"
#include "nova/telemetry/metrics.h"

namespace nova::health {

// SPEC: a lost hard dependency shows within 5 s, and a stall of 1.5 s flips nothing: 3 failures of at most 0.5 s, one
// second apart.
struct HealthConfig {
  std::chrono::milliseconds period = std::chrono::seconds(1);
  std::chrono::milliseconds timeout = std::chrono::milliseconds(500);
  int fall = 3;
  int rise = 2;
};

void Bind(config::Config& config, HealthConfig& health);

using Probe = std::function<runtime::Task<void>(runtime::Call&)>;

struct DependencyStatus {
  std::string name;
  bool hard = true;
  bool healthy = false;
  // Why the last failed probe failed; empty while healthy.
  std::string cause;
};

struct Snapshot {
  bool serving = false;
  bool draining = false;
  // One sentence when not serving: "postgres: UNAVAILABLE: ...".
  std::string cause;
  std::vector<DependencyStatus> dependencies;
  // Grows with every change of `serving` or `draining`.
  std::uint64_t version = 0;

  // {"serving":…,"draining":…,"cause":…,"dependencies":[…]}
  std::string ToJson() const;
};

// Thread-safe.
class Monitor {
 public:
  Monitor(telemetry::Metrics& metrics, HealthConfig config);

  // Before Start().
  void AddHard(std::string name, Probe probe);
  void AddSoft(std::string name, Probe probe);

  // Probes until `scope` stops. The monitor must outlive it.
  void Start(runtime::Scope& scope);
  // From now on not serving, whatever the dependencies do.
  void Drain();

  Snapshot Get() const;
  bool serving() const;

  // Returns the snapshot as soon as its version differs from `seen`. Errors: why the call ended.
  runtime::Task<Snapshot> Changed(runtime::Call& call, std::uint64_t seen);

 private:
  struct Dependency {
    std::string name;
    bool hard;
    Probe probe;
    prometheus::Gauge* healthy_metric;
    prometheus::Counter* failures;
    // Guarded by mutex_.
    Hysteresis state;
    std::string cause;
  };

  void Add(std::string name, bool hard, Probe probe);
  runtime::Task<void> ProbeLoop(runtime::Call& call, Dependency& dependency);
  void Observe(Dependency& dependency, const Result<void>& result);
  // Makes a change under the lock, decides anew, and wakes who waits for a new decision.
  void Update(const std::function<void()>& change);
  // Precondition: mutex_ is held.
  Snapshot GetLocked() const;

  telemetry::Metrics& metrics_;
  const HealthConfig config_;
  prometheus::Gauge& serving_metric_;
  prometheus::Counter& flips_metric_;
  std::vector<std::unique_ptr<Dependency>> dependencies_;  // constant after Start()
  mutable std::mutex mutex_;
  bool draining_ = false;                        // guarded by mutex_
  bool serving_ = false;                         // guarded by mutex_
  std::uint64_t version_ = 1;                    // guarded by mutex_
  std::vector<runtime::OneShot<bool>> waiters_;  // guarded by mutex_
};

}  // namespace nova::health
