#include "local/supervisor.h"

#include <algorithm>
#include <fmt/format.h>
#include <optional>
#include <poll.h>
#include <utility>

#include "nova/telemetry/log.h"

namespace nova::local {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// Between two questions to a component that is not ready yet, and the longest that one question may take: it is how
// long the loop is blind.
constexpr Duration kReadyInterval = milliseconds(50);
constexpr Duration kReadyQuestionLimit = milliseconds(500);
// Without chores or delays the loop looks around this often.
constexpr Duration kIdleInterval = seconds(10);

std::int64_t WallMilliseconds() {
  return std::chrono::duration_cast<milliseconds>(Clock::System().WallNow().time_since_epoch()).count();
}

// A process that ends while it starts usually has said why in its last line.
Error EndedWhileStarting(Component& component, const ExitStatus& status) {
  std::string message =
      fmt::format("{} ended with {} while starting (log: {}): {}", component.name(), status.ToString(),
                  component.log_file().string(), LastLineOfFile(component.log_file()));
  if (status.by_signal) return Internal(std::move(message));
  if (status.value == 2) return FailedPrecondition(std::move(message));
  if (status.value == 3) return Unavailable(std::move(message));
  return Internal(std::move(message));
}

bool MayBecomeReady(const Error& error) {
  return error.code() == Code::kUnavailable || error.code() == Code::kDeadlineExceeded;
}

}  // namespace

struct Supervisor::Child {
  std::unique_ptr<Component> component;
  Phase phase = Phase::kStopped;
  int restarts = 0;
  Duration delay{};
  SteadyTime launched_at{};
  SteadyTime ready_at{};
  SteadyTime retry_at{};
  std::int64_t started_at_ms = 0;

  bool Running() const {
    Process* process = component->process();
    return process != nullptr && process->Running();
  }
};

Supervisor::Supervisor(const runtime::StopSignals& signals, SupervisorConfig config)
    : signals_(signals), config_(std::move(config)) {}

Supervisor::~Supervisor() {
  // Whoever wants the error calls Stop.
  static_cast<void>(Stop());
}

void Supervisor::Changed() {
  if (config_.changed) config_.changed();
}

std::vector<ComponentState> Supervisor::States() const {
  std::vector<ComponentState> states;
  for (const auto& child : children_) {
    states.push_back({.name = child->component->name(),
                      .phase = child->phase,
                      .pid = child->Running() ? child->component->process()->pid() : 0,
                      .port = child->component->port(),
                      .admin_port = child->component->admin_port(),
                      .restarts = child->restarts,
                      .started_at_ms = child->started_at_ms});
  }
  return states;
}

Result<void> Supervisor::Start(std::unique_ptr<Component> component) {
  const Clock& clock = Clock::System();
  if (signals_.received()) return Cancelled("stopped by a signal");
  auto& child = *children_.emplace_back(std::make_unique<Child>());
  child.component = std::move(component);
  child.delay = config_.restart_delay_min;
  NOVA_TRY(child.component->Launch());
  child.launched_at = clock.Now();
  child.started_at_ms = WallMilliseconds();
  child.phase = Phase::kStarting;
  Changed();
  const SteadyTime end = child.launched_at + child.component->ready_limit();
  while (true) {
    if (signals_.received()) return Cancelled("stopped by a signal");
    if (!child.Running()) {
      return EndedWhileStarting(*child.component, *child.component->process()->exit_status());
    }
    auto ready = child.component->CheckReady(kReadyQuestionLimit);
    if (ready) break;
    if (!MayBecomeReady(ready.error())) return ready;
    if (clock.Now() >= end) {
      return DeadlineExceeded(fmt::format("{} is not ready after {} s; see {}", child.component->name(),
                                          std::chrono::duration_cast<seconds>(child.component->ready_limit()).count(),
                                          child.component->log_file().string()),
                              ready.error().message());
    }
    WaitForEvent(kReadyInterval);
  }
  child.phase = Phase::kReady;
  child.ready_at = clock.Now();
  Changed();
  return Ok();
}

void Supervisor::Run() {
  const Clock& clock = Clock::System();
  SteadyTime chores_at = clock.Now();
  while (!signals_.received()) {
    SteadyTime wake = clock.Now() + kIdleInterval;
    for (auto& child : children_) {
      if (child->phase == Phase::kRestarting && clock.Now() >= child->retry_at) Relaunch(*child);
      if (child->phase != Phase::kRestarting && !child->Running()) HandleEnd(*child);
      if (child->phase == Phase::kStarting) HandleStarting(*child);
      if (child->phase == Phase::kStarting) wake = std::min(wake, clock.Now() + kReadyInterval);
      if (child->phase == Phase::kRestarting) wake = std::min(wake, child->retry_at);
    }
    if (config_.chores) {
      if (clock.Now() >= chores_at) chores_at = clock.Now() + config_.chores();
      wake = std::min(wake, chores_at);
    }
    WaitForEvent(wake - clock.Now());
  }
}

void Supervisor::HandleEnd(Child& child) {
  const Clock& clock = Clock::System();
  if (child.phase == Phase::kReady && clock.Now() - child.ready_at >= config_.stable_after) {
    child.delay = config_.restart_delay_min;
  }
  telemetry::LogWarn("a component ended; it is started again",
                     {{"component", child.component->name()},
                      {"end", child.component->process()->exit_status()->ToString()},
                      {"delay_ms", std::chrono::duration_cast<milliseconds>(child.delay).count()},
                      {"log", child.component->log_file().string()}});
  child.phase = Phase::kRestarting;
  child.retry_at = clock.Now() + child.delay;
  child.delay = std::min(child.delay * 2, config_.restart_delay_max);
  Changed();
}

void Supervisor::Relaunch(Child& child) {
  const Clock& clock = Clock::System();
  ++child.restarts;
  auto launched = child.component->Launch();
  if (!launched) {
    telemetry::LogError("a component does not start",
                        {{"component", child.component->name()}, {"error", launched.error()}});
    child.retry_at = clock.Now() + child.delay;
    child.delay = std::min(child.delay * 2, config_.restart_delay_max);
    return;
  }
  child.phase = Phase::kStarting;
  child.launched_at = clock.Now();
  child.started_at_ms = WallMilliseconds();
  Changed();
}

void Supervisor::HandleStarting(Child& child) {
  const Clock& clock = Clock::System();
  // One that never becomes ready is left alone: its readiness tells others, and killing it would cure nothing.
  if (!child.component->CheckReady(kReadyQuestionLimit)) return;
  child.phase = Phase::kReady;
  child.ready_at = clock.Now();
  telemetry::LogInfo(
      "a component is ready again",
      {{"component", child.component->name()},
       {"restarts", child.restarts},
       {"after_ms", std::chrono::duration_cast<milliseconds>(child.ready_at - child.launched_at).count()}});
  Changed();
}

void Supervisor::WaitForEvent(Duration limit) {
  std::vector<pollfd> events{{.fd = signals_.descriptor(), .events = POLLIN, .revents = 0}};
  for (const auto& child : children_) {
    if (child->Running()) {
      events.push_back({.fd = child->component->process()->descriptor(), .events = POLLIN, .revents = 0});
    }
  }
  auto ms = std::max<std::int64_t>(0, std::chrono::ceil<milliseconds>(limit).count());
  ::poll(events.data(), events.size(), static_cast<int>(ms));
}

Result<void> Supervisor::Stop() {
  std::optional<Error> first;
  for (auto child = children_.rbegin(); child != children_.rend(); ++child) {
    if ((*child)->Running()) {
      (*child)->phase = Phase::kStopping;
      Changed();
      auto stopped = (*child)->component->Stop();
      if (!stopped && !first) first = std::move(stopped).error();
    }
    (*child)->phase = Phase::kStopped;
  }
  if (!children_.empty()) Changed();
  children_.clear();
  if (first) return *std::move(first);
  return Ok();
}

}  // namespace nova::local
