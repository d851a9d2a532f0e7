#include "local/state.h"

#include <array>
#include <boost/json.hpp>
#include <fmt/format.h>
#include <system_error>

namespace nova::local {
namespace {

namespace json = boost::json;

constexpr std::array kPhases{Phase::kStarting, Phase::kReady, Phase::kRestarting, Phase::kStopping, Phase::kStopped};

std::int64_t Integer(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  return value != nullptr && value->is_int64() ? value->get_int64() : 0;
}

std::string Text(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  return value != nullptr && value->is_string() ? std::string(value->get_string()) : std::string();
}

Phase PhaseOf(const json::object& object) {
  const std::string name = Text(object, "state");
  for (Phase phase : kPhases) {
    if (PhaseName(phase) == name) return phase;
  }
  return Phase::kStopped;
}

}  // namespace

std::string_view PhaseName(Phase phase) {
  switch (phase) {
    case Phase::kStarting:
      return "starting";
    case Phase::kReady:
      return "ready";
    case Phase::kRestarting:
      return "restarting";
    case Phase::kStopping:
      return "stopping";
    case Phase::kStopped:
      break;
  }
  return "stopped";
}

Result<void> WriteState(const Layout& layout, const StackState& state) {
  json::array components;
  for (const ComponentState& component : state.components) {
    components.push_back(json::object{{"name", component.name},
                                      {"state", PhaseName(component.phase)},
                                      {"pid", component.pid},
                                      {"port", component.port},
                                      {"admin_port", component.admin_port},
                                      {"restarts", component.restarts},
                                      {"started_at_ms", component.started_at_ms}});
  }
  json::object object{{"state", PhaseName(state.phase)},
                      {"supervisor", state.supervisor},
                      {"port_base", state.port_base},
                      {"started_at_ms", state.started_at_ms},
                      {"leaf_lifetime_s", state.leaf_lifetime.count()},
                      {"components", std::move(components)}};
  // It says nothing about a machine that has crashed since, so it need not survive that.
  return WriteFile(layout.state(), json::serialize(object) + "\n", {.mode = 0644, .durable = false});
}

Result<StackState> ReadState(const Layout& layout) {
  NOVA_TRY(std::string text, ReadFile(layout.state()));
  std::error_code error;
  json::value value = json::parse(text, error);
  if (error || !value.is_object()) return Internal(fmt::format("{} is not readable", layout.state().string()));
  const json::object& object = value.get_object();
  StackState state{.phase = PhaseOf(object),
                   .supervisor = static_cast<pid_t>(Integer(object, "supervisor")),
                   .port_base = static_cast<int>(Integer(object, "port_base")),
                   .started_at_ms = Integer(object, "started_at_ms"),
                   .leaf_lifetime = std::chrono::seconds(Integer(object, "leaf_lifetime_s")),
                   .components = {}};
  const json::value* components = object.if_contains("components");
  if (components == nullptr || !components->is_array()) return state;
  for (const json::value& entry : components->get_array()) {
    if (!entry.is_object()) continue;
    const json::object& component = entry.get_object();
    state.components.push_back({.name = Text(component, "name"),
                                .phase = PhaseOf(component),
                                .pid = static_cast<pid_t>(Integer(component, "pid")),
                                .port = static_cast<int>(Integer(component, "port")),
                                .admin_port = static_cast<int>(Integer(component, "admin_port")),
                                .restarts = static_cast<int>(Integer(component, "restarts")),
                                .started_at_ms = Integer(component, "started_at_ms")});
  }
  return state;
}

}  // namespace nova::local
