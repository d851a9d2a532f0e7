#include "nova/health/monitor.h"

#include <boost/json.hpp>
#include <utility>

#include "nova/telemetry/log.h"

namespace nova::health {

using runtime::Call;
using runtime::OneShot;
using runtime::Task;

void Bind(config::Config& config, HealthConfig& health) {
  using std::chrono::milliseconds;
  using std::chrono::seconds;
  config.Field("health.period", health.period,
               {.help = "time between two probes of a dependency", .min = milliseconds(100), .max = seconds(60)});
  config.Field("health.timeout", health.timeout,
               {.help = "longest one probe may take", .min = milliseconds(10), .max = seconds(60)});
  config.Field("health.fall", health.fall, {.help = "failures in a row until NOT_SERVING", .min = 1, .max = 100});
  config.Field("health.rise", health.rise, {.help = "successes in a row until SERVING", .min = 1, .max = 100});
}

std::string Snapshot::ToJson() const {
  boost::json::array list;
  for (const DependencyStatus& dependency : dependencies) {
    list.push_back({{"name", dependency.name},
                    {"hard", dependency.hard},
                    {"healthy", dependency.healthy},
                    {"cause", dependency.cause}});
  }
  return boost::json::serialize(boost::json::object{
      {"serving", serving}, {"draining", draining}, {"cause", cause}, {"dependencies", std::move(list)}});
}

Monitor::Monitor(telemetry::Metrics& metrics, HealthConfig config)
    : metrics_(metrics),
      config_(config),
      serving_metric_(metrics.Gauge("nova_health_serving", "1 while the process serves.")),
      flips_metric_(metrics.Counter("nova_health_flips_total", "Changes between serving and not serving.")) {}

void Monitor::AddHard(std::string name, Probe probe) { Add(std::move(name), true, std::move(probe)); }
void Monitor::AddSoft(std::string name, Probe probe) { Add(std::move(name), false, std::move(probe)); }

void Monitor::Add(std::string name, bool hard, Probe probe) {
  const telemetry::Labels labels = {{"dependency", name}};
  dependencies_.push_back(std::make_unique<Dependency>(Dependency{
      .name = name,
      .hard = hard,
      .probe = std::move(probe),
      .healthy_metric =
          &metrics_.Gauge("nova_health_dependency_healthy", "1 while the dependency counts as healthy.", labels),
      .failures = &metrics_.Counter("nova_health_probe_failures_total", "Probes that failed.", labels),
      .state = Hysteresis({.fall = config_.fall, .rise = config_.rise}),
      .cause = "not probed yet"}));
}

void Monitor::Start(runtime::Scope& scope) {
  Update([] {});
  for (const auto& dependency : dependencies_) {
    scope.Spawn("health probe of " + dependency->name,
                [this, &dependency = *dependency](Call& call) { return ProbeLoop(call, dependency); });
  }
}

Task<void> Monitor::ProbeLoop(Call& call, Dependency& dependency) {
  for (;;) {
    const SteadyTime started = Clock::System().Now();
    bool late = false;
    Result<void> result;
    {
      Call probe(call, config_.timeout);
      // The probe may need longer than its deadline to end: a statement is cancelled in the server too. What counts is
      // that there was no answer in time, and that is known now.
      const runtime::CancelHook deadline(probe, [&](const Error& reason) {
        late = true;
        if (call.Check()) Observe(dependency, reason);
      });
      result = co_await dependency.probe(probe);
    }
    NOVA_CO_TRY(call.Check());
    if (!late) Observe(dependency, result);
    // Probes begin a period apart, however long each took.
    NOVA_CO_TRY(co_await runtime::Sleep(call, started + config_.period - Clock::System().Now()));
  }
}

void Monitor::Observe(Dependency& dependency, const Result<void>& result) {
  bool changed = false;
  bool healthy = false;
  Update([&] {
    changed = dependency.state.Observe(result.ok());
    healthy = dependency.state.healthy();
    // While unhealthy the last failure stays the cause, also when a success begins the way back.
    if (!result)
      dependency.cause = result.error().ToString();
    else if (healthy)
      dependency.cause.clear();
  });
  if (!result) dependency.failures->Increment();
  dependency.healthy_metric->Set(healthy ? 1 : 0);
  if (!changed) return;
  const auto level = healthy ? telemetry::Level::kInfo : telemetry::Level::kError;
  telemetry::Log(level, healthy ? "dependency is healthy" : "dependency is lost",
                 {{"dependency", dependency.name},
                  {"hard", dependency.hard},
                  {"cause", result ? std::string() : result.error().ToString()}});
}

void Monitor::Drain() {
  Update([this] { draining_ = true; });
}

void Monitor::Update(const std::function<void()>& change) {
  std::vector<OneShot<bool>> to_wake;
  {
    std::lock_guard lock(mutex_);
    const bool was_draining = draining_;
    change();
    bool serving = !draining_;
    for (const auto& dependency : dependencies_)
      serving = serving && (!dependency->hard || dependency->state.healthy());
    serving_metric_.Set(serving ? 1 : 0);
    if (serving == serving_ && draining_ == was_draining) return;
    if (serving != serving_) flips_metric_.Increment();
    serving_ = serving;
    ++version_;
    to_wake = std::exchange(waiters_, {});
  }
  for (const auto& waiter : to_wake) (void)waiter.TrySet(true);
}

Snapshot Monitor::Get() const {
  std::lock_guard lock(mutex_);
  return GetLocked();
}

bool Monitor::serving() const {
  std::lock_guard lock(mutex_);
  return serving_;
}

Snapshot Monitor::GetLocked() const {
  Snapshot snapshot{.serving = serving_, .draining = draining_, .version = version_};
  for (const auto& dependency : dependencies_) {
    const bool healthy = dependency->state.healthy();
    snapshot.dependencies.push_back(
        {.name = dependency->name, .hard = dependency->hard, .healthy = healthy, .cause = dependency->cause});
    if (dependency->hard && !healthy && snapshot.cause.empty())
      snapshot.cause = dependency->name + ": " + dependency->cause;
  }
  if (draining_) snapshot.cause = "the process is draining";
  return snapshot;
}

Task<Snapshot> Monitor::Changed(Call& call, std::uint64_t seen) {
  const OneShot<bool> waiter;
  {
    std::lock_guard lock(mutex_);
    if (version_ != seen) co_return GetLocked();
    waiters_.push_back(waiter);
  }
  const auto woken = co_await waiter.Wait(call);
  std::lock_guard lock(mutex_);
  if (woken) co_return GetLocked();
  std::erase_if(waiters_, [&](const OneShot<bool>& other) { return other == waiter; });
  co_return woken.error();
}

}  // namespace nova::health
