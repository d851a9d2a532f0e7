#include "local/control.h"

#include <algorithm>
#include <array>
#include <boost/json.hpp>
#include <cerrno>
#include <cstdlib>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <system_error>
#include <unistd.h>

#include "local/process.h"
#include "local/readiness.h"

namespace nova::local {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;
using std::chrono::milliseconds;

constexpr Duration kAnswerLimit = milliseconds(500);
constexpr Duration kPollInterval = milliseconds(50);
// A supervisor that has the lock writes its pid at once.
constexpr Duration kPidLimit = std::chrono::seconds(1);

Result<Layout> ExistingLayout(const fs::path& root) {
  std::error_code error;
  Layout layout{.root = fs::canonical(root, error)};
  if (error) return NotFound(fmt::format("there is no data folder {}; name one with --data-dir", root.string()));
  return layout;
}

void Pause() { ::poll(nullptr, 0, static_cast<int>(std::chrono::duration_cast<milliseconds>(kPollInterval).count())); }

std::int64_t Milliseconds(WallTime time) {
  return std::chrono::duration_cast<milliseconds>(time.time_since_epoch()).count();
}

// "3 d 04 h", "2 h 05 min", "1 min 09 s", "12 s".
std::string Uptime(std::int64_t ms) {
  std::int64_t s = std::max<std::int64_t>(0, ms / 1000);
  if (s >= 86400) return fmt::format("{} d {:02} h", s / 86400, s % 86400 / 3600);
  if (s >= 3600) return fmt::format("{} h {:02} min", s / 3600, s % 3600 / 60);
  if (s >= 60) return fmt::format("{} min {:02} s", s / 60, s % 60);
  return fmt::format("{} s", s);
}

std::string NumberOrDash(std::int64_t number) { return number == 0 ? "-" : std::to_string(number); }

}  // namespace

std::string ComponentStatus::Summary() const {
  return answer.empty() || state.pid == 0 ? std::string(PhaseName(state.phase)) : answer;
}

bool ComponentStatus::ready() const { return Summary() == PhaseName(Phase::kReady); }

bool StackStatus::ready() const {
  return running && state.phase == Phase::kReady && std::ranges::all_of(components, &ComponentStatus::ready);
}

Result<StackStatus> ReadStatus(const fs::path& root) {
  NOVA_TRY(Layout layout, ExistingLayout(root));
  StackStatus status{.folder = layout.root, .running = FileLock::IsHeld(layout.lock()), .state = {}, .components = {}};
  // Without a supervisor the file is what a killed one left.
  if (!status.running) return status;
  auto state = ReadState(layout);
  if (!state) {
    // It has just begun.
    status.state.phase = Phase::kStarting;
    status.state.supervisor = SupervisorOf(layout);
    return status;
  }
  status.state = *std::move(state);
  ReadinessProbe probe;
  for (const ComponentState& component : status.state.components) {
    ComponentStatus& seen = status.components.emplace_back(ComponentStatus{.state = component, .answer = {}});
    if (component.pid == 0 || component.admin_port == 0) continue;
    auto ready = probe.Check(component.admin_port, kAnswerLimit);
    if (ready) {
      seen.answer = "ready";
    } else {
      // Only an answer has a detail: the body that says why.
      seen.answer = ready.error().message().starts_with("not ready") ? "not ready" : "no answer";
    }
  }
  return status;
}

std::string StatusTable(const StackStatus& status, WallTime now) {
  if (!status.running) return fmt::format("nothing runs on {}\n", status.folder.string());
  std::vector<std::array<std::string, 7>> rows{{"COMPONENT", "STATE", "PID", "PORT", "ADMIN", "UPTIME", "RESTARTS"}};
  for (const ComponentStatus& component : status.components) {
    const ComponentState& state = component.state;
    rows.push_back({state.name, component.Summary(), NumberOrDash(state.pid), NumberOrDash(state.port),
                    NumberOrDash(state.admin_port),
                    state.pid == 0 ? "-" : Uptime(Milliseconds(now) - state.started_at_ms),
                    std::to_string(state.restarts)});
  }
  std::array<std::size_t, 7> widths{};
  for (const auto& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text = fmt::format("{} on {}", PhaseName(status.state.phase), status.folder.string());
  // A supervisor that has just begun has told nothing of itself yet.
  if (status.state.started_at_ms != 0) {
    text += fmt::format(" (supervisor pid {}, up {})", status.state.supervisor,
                        Uptime(Milliseconds(now) - status.state.started_at_ms));
  }
  text += "\n";
  for (const auto& row : rows) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) line += fmt::format("{:<{}}", row[i], widths[i] + 2);
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  return text;
}

std::string StatusJson(const StackStatus& status, WallTime now) {
  json::array components;
  for (const ComponentStatus& component : status.components) {
    const ComponentState& state = component.state;
    components.push_back(json::object{
        {"name", state.name},
        {"state", component.Summary()},
        {"pid", state.pid},
        {"port", state.port},
        {"admin_port", state.admin_port},
        {"restarts", state.restarts},
        {"uptime_seconds",
         state.pid == 0 ? 0 : std::max<std::int64_t>(0, (Milliseconds(now) - state.started_at_ms) / 1000)}});
  }
  json::object object{{"running", status.running},
                      {"ready", status.ready()},
                      {"state", PhaseName(status.state.phase)},
                      {"data_dir", status.folder.string()},
                      {"supervisor", status.state.supervisor},
                      {"port_base", status.state.port_base},
                      {"components", std::move(components)}};
  return json::serialize(object) + "\n";
}

Result<bool> Down(const fs::path& root, Duration limit) {
  const Clock& clock = Clock::System();
  NOVA_TRY(Layout layout, ExistingLayout(root));
  pid_t pid = SupervisorOf(layout);
  for (SteadyTime end = clock.Now() + kPidLimit; pid == 0 && FileLock::IsHeld(layout.lock()) && clock.Now() < end;) {
    Pause();
    pid = SupervisorOf(layout);
  }
  if (pid == 0) {
    if (!FileLock::IsHeld(layout.lock())) return false;
    return FailedPrecondition(
        fmt::format("{} is locked by a process that is not this machine's `nova up`", layout.root.string()));
  }
  if (::kill(pid, SIGTERM) != 0 && errno != ESRCH) {
    return PermissionDenied(fmt::format("cannot stop pid {} ({}): run `nova down` as the account that ran `nova up`",
                                        pid, ErrnoText(errno)));
  }
  for (SteadyTime end = clock.Now() + limit; FileLock::IsHeld(layout.lock());) {
    if (clock.Now() >= end) {
      return DeadlineExceeded(fmt::format("pid {0} still stops after {1} s; `kill -9 {0}` ends it and loses no data",
                                          pid, std::chrono::duration_cast<std::chrono::seconds>(limit).count()));
    }
    Pause();
  }
  return true;
}

}  // namespace nova::local
