// Child processes of a supervisor. A child never outlives it: whichever way the supervisor ends, SIGKILL included,
// the kernel sends the child the signal named in its spec.
//
//   ProcessSpec spec{.name = "pgbouncer", .program = "/usr/sbin/pgbouncer", .arguments = {"nova.ini"},
//                    .log_file = folder / "pgbouncer.log"};
//   NOVA_TRY(auto process, Process::Spawn(spec));
//   NOVA_TRY(process.Terminate({{SIGTERM, 5s}}));
#pragma once

#include <chrono>
#include <csignal>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <sys/types.h>
#include <vector>

#include "local/file.h"
#include "nova/base/clock.h"
#include "nova/base/result.h"

namespace nova::local {

struct ProcessSpec {
  // For messages.
  std::string name;
  // Absolute; PATH is not searched.
  std::filesystem::path program;
  // What the program is told it is called (argv[0]); empty: its path, by which some programs find their parts.
  std::string title = {};
  // Without the title.
  std::vector<std::string> arguments = {};
  // The whole environment: nothing is inherited.
  std::map<std::string, std::string> environment = {};
  std::filesystem::path working_directory = "/";
  // Standard output and error are appended to it; it is created by the supervisor with mode 0600. Empty: discarded.
  std::filesystem::path log_file = {};
  // Nobody: the supervisor's own account.
  std::optional<User> user = std::nullopt;
  // What the kernel sends when the supervisor dies, and what the destructor sends.
  int death_signal = SIGKILL;
  // Open files the child may have; raised as far as the hard limit allows. 0: as inherited.
  std::size_t open_files = 0;
};

struct ExitStatus {
  // Either the exit code or the signal's number.
  bool by_signal = false;
  int value = 0;

  bool clean() const { return !by_signal && value == 0; }
  // "exit status 2", "signal 9 (Killed)".
  std::string ToString() const;
};

// One step of an orderly end: a signal, and how long the process may take to follow it.
struct TerminateStep {
  int signal = SIGTERM;
  Duration limit = std::chrono::seconds(5);
};

// Thread-compatible. Movable.
class Process {
 public:
  // How long the destructor waits for `death_signal` to work before it sends SIGKILL.
  static constexpr Duration kDestroyLimit = std::chrono::seconds(5);

  // Starts the program; returns when it has been executed (not when it is ready). It gets a session of its own, so a
  // Ctrl-C at the terminal reaches only the supervisor, which then ends its children in order.
  //
  // Must be called on the main thread: the kernel sends the death signal when the *thread* that forked ends, and
  // only the main thread is sure to live as long as the process.
  //
  // Errors: FAILED_PRECONDITION off the main thread; NOT_FOUND or PERMISSION_DENIED for the program, log or working
  // directory; INTERNAL otherwise.
  static Result<Process> Spawn(const ProcessSpec& spec);

  Process() = default;
  Process(Process&& other) noexcept;
  Process& operator=(Process&& other) noexcept;
  // Ends a process that still runs.
  ~Process();

  pid_t pid() const { return pid_; }
  // Becomes readable when the process ends; -1 once it was waited for.
  int descriptor() const { return descriptor_; }
  // False also for a process that ended and was not waited for yet.
  bool Running();
  // Set once the process was seen to have ended.
  const std::optional<ExitStatus>& exit_status() const { return exit_status_; }

  // Errors: FAILED_PRECONDITION when it has ended.
  Result<void> Send(int signal);
  // Errors: DEADLINE_EXCEEDED when it still runs after `limit`.
  Result<ExitStatus> Wait(Duration limit);
  // Takes the steps in order until the process has ended; SIGKILL, and a wait without limit, follows the last one.
  Result<ExitStatus> Terminate(const std::vector<TerminateStep>& steps);

 private:
  // Collects the exit status if there is one; never blocks.
  void Reap();
  void Destroy();

  std::string name_;
  pid_t pid_ = -1;
  int descriptor_ = -1;
  int death_signal_ = SIGKILL;
  std::optional<ExitStatus> exit_status_;
};

// Runs a program to its end. Errors: those of Spawn; DEADLINE_EXCEEDED after `limit` (it is killed then); INTERNAL
// when it ends in any other way than exit status 0, with the last line of its log.
Result<void> RunToEnd(const ProcessSpec& spec, Duration limit);

// Asks `check` until it is OK, or says FAILED_PRECONDITION: what no waiting mends. `name` and `log_file` are for the
// messages. Errors: that one; INTERNAL when the process ends, with the last line of its log; DEADLINE_EXCEEDED after
// `limit`, with the last answer as detail.
Result<void> AwaitReady(Process& process, std::string_view name, const std::filesystem::path& log_file, Duration limit,
                        const std::function<Result<void>()>& check);

// The moment a process started, in clock ticks since boot; with its pid it names a process for as long as the machine
// is up, which a pid alone does not. Empty when there is no such process (a zombie counts as none).
std::optional<std::uint64_t> StartTicks(pid_t pid);

// The processes whose working directory is `folder` and whose program is called `program`. Every child of a supervisor
// works in a folder of its own, so this finds the orphans of one that is gone.
std::vector<pid_t> FindProcesses(const std::filesystem::path& folder, std::string_view program);

// Returns when FindProcesses finds nobody: waits for what an earlier supervisor left behind, which was told to end when
// that died, and kills it after `limit`. Errors: FAILED_PRECONDITION naming a process that cannot be killed.
Result<void> EndOrphans(const std::filesystem::path& folder, std::string_view program, Duration limit);

// The direct children of a process, whoever owns them.
std::vector<pid_t> ChildrenOf(pid_t pid);

}  // namespace nova::local
