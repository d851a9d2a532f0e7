// Dependency: something outside of this process that its calls go to, and all that protects them from it: timeout,
// circuit breaker, bulkhead, retry budget, metrics. One object per dependency and process, shared by every client of
// it.
//
//   DatabaseDependency database("postgres", metrics, config);
//   postgres::Pool pool(runtime, metrics, database, pool_config);   // no client is built without one
//
// The four kinds differ in type, so that a client cannot be given the wrong one; and in their defaults.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>

#include "nova/base/clock.h"
#include "nova/resilience/breaker.h"
#include "nova/resilience/bulkhead.h"
#include "nova/resilience/config.h"
#include "nova/resilience/retry.h"
#include "nova/telemetry/metrics.h"

namespace nova::resilience {

// The policies of a client that only asks whether something is up: it must not be answered from memory, so the breaker
// never opens, and nothing is retried.
DependencyConfig ForProbes(Kind kind);

// How a call ended, as its dependency is to be judged by it.
enum class Outcome : std::uint8_t {
  kOk,
  kAnswered,   // an error that is an answer: NOT_FOUND, INVALID_ARGUMENT and the like
  kFailed,     // the dependency's fault
  kTimeout,    // it took longer than its policy grants
  kCancelled,  // its caller gave up first, or had less time than the policy grants
  kOpen,       // refused by the breaker, not made
  kFull,       // refused by the bulkhead, not made
};

inline constexpr int kOutcomeCount = 7;

// "ok", "answered", "failed", "timeout", "cancelled", "open", "full".
const char* OutcomeName(Outcome outcome);

// Why a call was not tried again although it might have been.
enum class NoRetry : std::uint8_t { kTries, kBudget, kAllowance, kPushBack, kDeadline };

inline constexpr int kNoRetryCount = 5;

// "tries", "budget", "allowance", "push_back", "deadline".
const char* NoRetryName(NoRetry reason);

// Thread-safe. Outlives its clients. Metrics, all with {dependency}:
//   nova_dependency_calls_total{outcome}            tries, by Outcome
//   nova_dependency_call_seconds                    time of a try that was made
//   nova_dependency_slow_calls_total                of these, over `slow`
//   nova_dependency_timeout_seconds                 the policy's timeout
//   nova_dependency_retries_total                   tries after the first
//   nova_dependency_retries_refused_total{reason}   retries that were not made, by NoRetry
//   nova_dependency_retry_tokens                    what is left in the budget
//   nova_breaker_state{state}                       1 for the state it is in, 0 for the others
//   nova_breaker_transitions_total{from,to}
//   nova_bulkhead_permits{state}                    in_use (orphans included), orphaned, max
//   nova_faults_injected_total{fault}
class Dependency {
 public:
  // Told of each transition of the breaker, under the conditions of Breaker::OnTransition.
  using OnTransition = std::function<void(Breaker::State from, Breaker::State to)>;

  Dependency(const Dependency&) = delete;
  Dependency& operator=(const Dependency&) = delete;

  DependencyName name() const { return name_; }
  Kind kind() const { return kind_; }
  const DependencyConfig& config() const { return config_; }
  const Clock& clock() const { return clock_; }
  Breaker& breaker() { return breaker_; }
  Bulkhead& bulkhead() { return bulkhead_; }
  RetryBudget& retry_budget() { return budget_; }

  // --- For the pipeline (protect.h). ---

  // Uniform over all values.
  std::uint64_t Random();
  Fault DrawFault();
  void Count(Outcome outcome) { calls_[static_cast<std::size_t>(outcome)]->Increment(); }
  void Observe(Duration took, bool slow);
  void CountRetry() { retries_.Increment(); }
  void CountRefusedRetry(NoRetry reason) { refused_retries_[static_cast<std::size_t>(reason)]->Increment(); }
  void ShowTokens() { tokens_.Set(budget_.tokens()); }

 protected:
  // `metrics` outlives it. Precondition: Validate(name, config) is OK. `seed`: of jitter and faults.
  Dependency(Kind kind, DependencyName name, telemetry::Metrics& metrics, const DependencyConfig& config,
             const Clock& clock, std::uint64_t seed, OnTransition on_transition);
  ~Dependency() = default;

  static std::uint64_t RandomSeed();

 private:
  Breaker::OnTransition Publish(telemetry::Metrics& metrics, OnTransition also);

  const Kind kind_;
  const DependencyName name_;
  const DependencyConfig config_;
  const Clock& clock_;
  std::atomic<std::uint64_t> random_;

  std::array<prometheus::Counter*, kOutcomeCount> calls_{};
  prometheus::Histogram& seconds_;
  prometheus::Counter& slow_calls_;
  prometheus::Counter& retries_;
  std::array<prometheus::Counter*, kNoRetryCount> refused_retries_{};
  prometheus::Gauge& tokens_;
  std::array<prometheus::Counter*, kFaultCount> faults_{};

  Breaker breaker_;
  Bulkhead bulkhead_;
  RetryBudget budget_;
};

template <Kind kKindOfIt>
class DependencyOf final : public Dependency {
 public:
  DependencyOf(DependencyName name, telemetry::Metrics& metrics,
               const DependencyConfig& config = DependencyConfig::Default(kKindOfIt),
               const Clock& clock = Clock::System(), std::uint64_t seed = RandomSeed(), OnTransition on_transition = {})
      : Dependency(kKindOfIt, name, metrics, config, clock, seed, std::move(on_transition)) {}
};

using DatabaseDependency = DependencyOf<Kind::kDatabase>;  // PostgreSQL, or the PgBouncer in front of it
using PeerDependency = DependencyOf<Kind::kPeer>;          // a service, over gRPC
using CacheDependency = DependencyOf<Kind::kCache>;        // Redis
using HttpDependency = DependencyOf<Kind::kHttp>;          // anything that speaks HTTP

}  // namespace nova::resilience
