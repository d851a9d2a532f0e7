#include "nova/resilience/dependency.h"

#include <limits>
#include <random>
#include <string>
#include <utility>

#include "nova/telemetry/log.h"

namespace nova::resilience {
namespace {

constexpr std::array kStates = {Breaker::State::kClosed, Breaker::State::kHalfOpen, Breaker::State::kOpen};

telemetry::Labels Of(DependencyName name) { return {{"dependency", std::string(name.text())}}; }

telemetry::Labels With(DependencyName name, const char* label, const char* value) {
  auto labels = Of(name);
  labels.emplace(label, value);
  return labels;
}

prometheus::Gauge& StateGauge(telemetry::Metrics& metrics, DependencyName name, Breaker::State state) {
  return metrics.Gauge("nova_breaker_state", "1 for the state the circuit breaker is in, 0 for the others",
                       With(name, "state", BreakerStateName(state)));
}

prometheus::Counter& TransitionCounter(telemetry::Metrics& metrics, DependencyName name, Breaker::State from,
                                       Breaker::State to) {
  auto labels = With(name, "from", BreakerStateName(from));
  labels.emplace("to", BreakerStateName(to));
  return metrics.Counter("nova_breaker_transitions_total", "Transitions of the circuit breaker", labels);
}

prometheus::Gauge& PermitGauge(telemetry::Metrics& metrics, DependencyName name, const char* state) {
  return metrics.Gauge("nova_bulkhead_permits",
                       "Places in the bulkhead: in use (orphans included), orphaned (the caller has gone, the work "
                       "goes on), and how many there are",
                       With(name, "state", state));
}

}  // namespace

DependencyConfig ForProbes(Kind kind) {
  DependencyConfig config = DependencyConfig::Default(kind);
  config.breaker.window = BreakerConfig::Window::kTime;
  config.breaker.calls_min = std::numeric_limits<int>::max();
  config.retry.tries_max = 1;
  return config;
}

const char* OutcomeName(Outcome outcome) {
  static constexpr std::array<const char*, kOutcomeCount> kNames = {"ok",        "answered", "failed", "timeout",
                                                                    "cancelled", "open",     "full"};
  return kNames[static_cast<std::size_t>(outcome)];
}

const char* NoRetryName(NoRetry reason) {
  static constexpr std::array<const char*, kNoRetryCount> kNames = {"tries", "budget", "allowance", "push_back",
                                                                    "deadline"};
  return kNames[static_cast<std::size_t>(reason)];
}

Dependency::Dependency(Kind kind, DependencyName name, telemetry::Metrics& metrics, const DependencyConfig& config,
                       const Clock& clock, std::uint64_t seed, OnTransition on_transition)
    : kind_(kind),
      name_(name),
      config_(config),
      clock_(clock),
      random_(seed),
      seconds_(metrics.Histogram("nova_dependency_call_seconds", "Time of a try that was made",
                                 telemetry::kLatencyBuckets, Of(name))),
      slow_calls_(metrics.Counter("nova_dependency_slow_calls_total",
                                  "Tries that took longer than the policy calls slow, whoever ended them", Of(name))),
      retries_(metrics.Counter("nova_dependency_retries_total", "Tries after the first", Of(name))),
      tokens_(metrics.Gauge("nova_dependency_retry_tokens", "Retries that the budget allows now", Of(name))),
      breaker_(config.breaker, seed, Publish(metrics, std::move(on_transition))),
      bulkhead_(config.calls_max, PermitGauge(metrics, name, "in_use"), PermitGauge(metrics, name, "orphaned")),
      budget_(config.retry.budget_ratio) {
  for (int i = 0; i < kOutcomeCount; ++i)
    calls_[static_cast<std::size_t>(i)] =
        &metrics.Counter("nova_dependency_calls_total", "Tries to call a dependency, by how they ended",
                         With(name, "outcome", OutcomeName(static_cast<Outcome>(i))));
  for (int i = 0; i < kNoRetryCount; ++i)
    refused_retries_[static_cast<std::size_t>(i)] =
        &metrics.Counter("nova_dependency_retries_refused_total", "Retries that were not made, by reason",
                         With(name, "reason", NoRetryName(static_cast<NoRetry>(i))));
  // The series of faults exist where there is a plan: elsewhere they would only raise questions.
  for (int i = 1; i < kFaultCount && !config_.faults.empty(); ++i)
    faults_[static_cast<std::size_t>(i)] = &metrics.Counter("nova_faults_injected_total", "Faults injected on purpose",
                                                            With(name, "fault", FaultName(static_cast<Fault>(i))));
  metrics.Gauge("nova_dependency_timeout_seconds", "The longest a call may take, whatever its caller grants", Of(name))
      .Set(std::chrono::duration<double>(config.timeout).count());
  PermitGauge(metrics, name, "max").Set(config.calls_max);
}

Breaker::OnTransition Dependency::Publish(telemetry::Metrics& metrics, OnTransition also) {
  std::array<prometheus::Gauge*, kStates.size()> gauges{};
  std::array<std::array<prometheus::Counter*, kStates.size()>, kStates.size()> counters{};
  for (const auto from : kStates) {
    gauges[static_cast<std::size_t>(from)] = &StateGauge(metrics, name_, from);
    for (const auto to : kStates) {
      // A breaker closes only by way of half-open, and nothing else is half-open before it was open.
      const bool possible = (from == Breaker::State::kClosed && to == Breaker::State::kOpen) ||
                            (from == Breaker::State::kOpen && to == Breaker::State::kHalfOpen) ||
                            (from == Breaker::State::kHalfOpen && to != from);
      if (possible)
        counters[static_cast<std::size_t>(from)][static_cast<std::size_t>(to)] =
            &TransitionCounter(metrics, name_, from, to);
    }
  }
  gauges[static_cast<std::size_t>(Breaker::State::kClosed)]->Set(1);
  return [name = name_, gauges, counters, also = std::move(also)](Breaker::State from, Breaker::State to) {
    gauges[static_cast<std::size_t>(from)]->Set(0);
    gauges[static_cast<std::size_t>(to)]->Set(1);
    counters[static_cast<std::size_t>(from)][static_cast<std::size_t>(to)]->Increment();
    // The probes of a dependency that stays away change the state every other second: that is no news.
    if (to == Breaker::State::kOpen && from == Breaker::State::kClosed)
      telemetry::LogWarn("a dependency fails; its callers are refused until it is back", {{"dependency", name.text()}});
    if (to == Breaker::State::kClosed) telemetry::LogInfo("a dependency is back", {{"dependency", name.text()}});
    if (also) also(from, to);
  };
}

std::uint64_t Dependency::RandomSeed() {
  std::random_device device;
  return (std::uint64_t{device()} << 32U) | device();
}

std::uint64_t Dependency::Random() {
  // splitmix64 (Steele, Lea, Flood 2014): its state is one counter, so threads need no lock.
  std::uint64_t z = random_.fetch_add(0x9e3779b97f4a7c15U, std::memory_order_relaxed) + 0x9e3779b97f4a7c15U;
  z = (z ^ (z >> 30U)) * 0xbf58476d1ce4e5b9U;
  z = (z ^ (z >> 27U)) * 0x94d049bb133111ebU;
  return z ^ (z >> 31U);
}

Fault Dependency::DrawFault() {
  if (config_.faults.empty()) [[likely]]
    return Fault::kNone;
  const Fault fault = config_.faults.Draw(Random());
  if (fault != Fault::kNone) faults_[static_cast<std::size_t>(fault)]->Increment();
  return fault;
}

void Dependency::Observe(Duration took, bool slow) {
  seconds_.Observe(std::chrono::duration<double>(took).count());
  if (slow) slow_calls_.Increment();
}

}  // namespace nova::resilience
