// Starts components one after the other, starts a component again whose process ends, and stops all in reverse order.
//
//   runtime::StopSignals signals;
//   Supervisor supervisor(signals, {.changed = [&] { Write(supervisor.States()); }});
//   NOVA_TRY(supervisor.Start(std::make_unique<PostgresComponent>(...)));   // returns when it is ready
//   supervisor.Run();                                                       // returns when a signal came
//   NOVA_TRY(supervisor.Stop());
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "local/process.h"
#include "local/state.h"
#include "nova/base/clock.h"
#include "nova/base/result.h"
#include "nova/runtime/stop_signals.h"

namespace nova::local {

// A child with its own idea of how to start, when it is ready and how to stop.
class Component {
 public:
  virtual ~Component() = default;

  virtual std::string name() const = 0;
  virtual int port() const = 0;
  virtual int admin_port() const { return 0; }
  virtual std::filesystem::path log_file() const = 0;
  // From the start of the process until it is ready, at the first start.
  virtual Duration ready_limit() const = 0;

  // Starts the process; called again after it has ended.
  virtual Result<void> Launch() = 0;
  // Null before Launch.
  virtual Process* process() = 0;
  // Asks once. Errors: UNAVAILABLE and DEADLINE_EXCEEDED when it is not ready yet; any other when waiting is in vain.
  virtual Result<void> CheckReady(Duration limit) = 0;
  // Bounded. The process has ended on return, whatever is returned.
  virtual Result<void> Stop() = 0;
};

struct SupervisorConfig {
  // From the end of a process to the start of the next: the first delay, which doubles up to the last one.
  Duration restart_delay_min = std::chrono::milliseconds(200);
  Duration restart_delay_max = std::chrono::seconds(10);
  // A process that was ready for this long begins with the first delay again.
  Duration stable_after = std::chrono::seconds(10);
  // Called on the main thread whenever States() has changed. May be empty.
  std::function<void()> changed = {};
  // Called on the main thread by Run, for what must be done from time to time; returns when it wants to be called
  // again. May be empty.
  std::function<Duration()> chores = {};
};

// Used by the main thread only.
class Supervisor {
 public:
  // `signals` must outlive the supervisor.
  Supervisor(const runtime::StopSignals& signals, SupervisorConfig config);
  // Stops what still runs.
  ~Supervisor();
  Supervisor(const Supervisor&) = delete;
  Supervisor& operator=(const Supervisor&) = delete;

  // Launches a component and returns when it is ready. Errors: CANCELLED when a signal came; when the process ended,
  // FAILED_PRECONDITION, UNAVAILABLE or INTERNAL after its exit status 2, 3 or any other, naming its log;
  // DEADLINE_EXCEEDED after its ready_limit.
  Result<void> Start(std::unique_ptr<Component> component);

  // Returns when a signal came.
  void Run();

  // Stops all components, the last one started first. Errors: the first one; the others are stopped none the less.
  Result<void> Stop();

  std::vector<ComponentState> States() const;

 private:
  struct Child;

  void Changed();
  void Relaunch(Child& child);
  void HandleEnd(Child& child);
  void HandleStarting(Child& child);
  // Waits until a process ends, a signal comes, or `limit` has passed.
  void WaitForEvent(Duration limit);

  const runtime::StopSignals& signals_;
  const SupervisorConfig config_;
  std::vector<std::unique_ptr<Child>> children_;  // in start order
};

}  // namespace nova::local
