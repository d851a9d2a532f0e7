// The map of the binary: every service it can run, what each needs, and how it is built.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "nova/config/config.h"
#include "nova/health/monitor.h"
#include "nova/postgres/migrate.h"
#include "nova/rpc/server_stack.h"
#include "nova/rpc/service.h"
#include "nova/runtime/runtime.h"
#include "nova/runtime/scope.h"
#include "nova/telemetry/metrics.h"
#include "nova/tls/credentials.h"

namespace nova::app {

// A service while it is being made and while it runs. `nova serve` calls the functions in the order they stand here.
class Module {
 public:
  virtual ~Module() = default;
  virtual void Bind(config::Config& config) = 0;
  // Everything that can be wrong with the configuration shows here. Nothing is contacted yet.
  // `me`: who this process is when it calls other services; outlives the module.
  virtual Result<void> Build(runtime::Runtime& runtime, telemetry::Metrics& metrics,
                             const tls::ChannelIdentity& me) = 0;
  // Returns when every hard dependency answered once. Errors: UNAVAILABLE naming it, if another try may help.
  virtual runtime::Task<void> Connect(runtime::Call& call) = 0;
  virtual void AddDependencies(health::Monitor& monitor) = 0;
  // Work that goes on beside calls, until `background` stops.
  virtual void Start(runtime::Scope& background) = 0;
  virtual std::vector<rpc::Service> Services() = 0;
  // Adds to a JSON object, for the status page, what the module alone knows. Thread-safe, while it runs.
  virtual std::string AddStatus(std::string object) const = 0;
  // How access tokens are verified; null if no method needs it.
  virtual rpc::TokenVerifier TokenVerifier() = 0;
  // After the last call has ended. Blocks for `limit` at most.
  virtual Result<void> Close(Duration limit) = 0;
};

struct ModuleEntry {
  std::string_view name;
  std::string_view description;
  // Hard dependencies decide health, soft ones are used when they are there.
  std::vector<std::string_view> hard;
  std::vector<std::string_view> soft;
  std::span<const postgres::Migration> migrations;
  std::unique_ptr<Module> (*make)();
};

// Sorted by name.
std::span<const ModuleEntry> Modules();
// Null if there is none of that name.
const ModuleEntry* FindModule(std::string_view name);

}  // namespace nova::app
