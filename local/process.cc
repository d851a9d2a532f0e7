#include "local/process.h"

#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <fstream>
#include <iterator>
#include <linux/close_range.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <utility>

namespace nova::local {
namespace {

// From SIGKILL to the end of a process; one that hangs in the kernel takes longer, and is left to it.
constexpr Duration kKillLimit = std::chrono::seconds(10);

namespace fs = std::filesystem;
using std::chrono::milliseconds;

constexpr Duration kPollInterval = milliseconds(20);

// What the child does between fork and exec. Another thread of the supervisor may have held any lock at the fork, so
// only system calls are allowed here, and all memory was prepared before. Identity is changed by raw system calls,
// because the C library's wrappers try to change the other threads as well, which this process no longer has.
struct ChildPlan {
  char* const* argv;
  char* const* envp;
  const char* program;
  const char* working_directory;
  int output;
  int null;
  int error_pipe;
  pid_t supervisor;
  int death_signal;
  rlim_t open_files;
  bool change_user;
  uid_t uid;
  gid_t gid;
  const gid_t* groups;
  std::size_t group_count;
};

// Where the child failed; sent to the supervisor through a pipe that exec closes.
enum class Step : int { kUser = 1, kSupervisorGone, kWorkingDirectory, kExec };

struct Failure {
  Step step;
  int error;
};

[[noreturn]] void ExitChild(const ChildPlan& plan, Step step) {
  Failure failure{step, errno};
  // Nobody can be told when the pipe is gone too.
  [[maybe_unused]] ssize_t written = ::write(plan.error_pipe, &failure, sizeof failure);
  ::_exit(127);
}

[[noreturn]] void BecomeProgram(const ChildPlan& plan) {
  struct sigaction default_action{};
  default_action.sa_handler = SIG_DFL;
  for (int signal = 1; signal < NSIG; ++signal) ::sigaction(signal, &default_action, nullptr);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);

  ::setsid();
  ::umask(077);
  ::dup2(plan.null, STDIN_FILENO);
  ::dup2(plan.output, STDOUT_FILENO);
  ::dup2(plan.output, STDERR_FILENO);
  // Whatever a library opened without O_CLOEXEC must not leak into a child, sockets and locks least of all.
  ::syscall(SYS_close_range, 3U, ~0U, CLOSE_RANGE_CLOEXEC);

  if (plan.open_files != 0) {
    rlimit limit{};
    if (::getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < plan.open_files) {
      limit.rlim_cur = plan.open_files < limit.rlim_max ? plan.open_files : limit.rlim_max;
      ::setrlimit(RLIMIT_NOFILE, &limit);
    }
  }
  if (plan.change_user) {
    if (::syscall(SYS_setgroups, plan.group_count, plan.groups) != 0) ExitChild(plan, Step::kUser);
    if (::syscall(SYS_setresgid, plan.gid, plan.gid, plan.gid) != 0) ExitChild(plan, Step::kUser);
    if (::syscall(SYS_setresuid, plan.uid, plan.uid, plan.uid) != 0) ExitChild(plan, Step::kUser);
  }
  // After the change of user, which clears it. A supervisor that died before this line is seen by the next one.
  ::prctl(PR_SET_PDEATHSIG, plan.death_signal);
  if (::getppid() != plan.supervisor) {
    errno = ESRCH;
    ExitChild(plan, Step::kSupervisorGone);
  }
  if (::chdir(plan.working_directory) != 0) ExitChild(plan, Step::kWorkingDirectory);
  ::execve(plan.program, plan.argv, plan.envp);
  ExitChild(plan, Step::kExec);
}

Error SpawnError(const ProcessSpec& spec, std::string_view what, int error) {
  std::string message = fmt::format("cannot start {}: {}: {}", spec.name, what, ErrnoText(error));
  if (error == ENOENT || error == ENOTDIR) return NotFound(std::move(message));
  if (error == EACCES || error == EPERM) return PermissionDenied(std::move(message));
  return Internal(std::move(message));
}

std::vector<char*> Pointers(std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  pointers.reserve(texts.size() + 1);
  for (std::string& text : texts) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() { Close(); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }
  void Close() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }

 private:
  int fd_ = -1;
};

// Rounded up, so that a wait never ends before its limit.
int PollMilliseconds(Duration duration) {
  auto count = std::chrono::ceil<milliseconds>(duration).count();
  if (count < 0) return 0;
  return count > 3'600'000 ? 3'600'000 : static_cast<int>(count);
}

}  // namespace

std::string ExitStatus::ToString() const {
  if (!by_signal) return fmt::format("exit status {}", value);
  const char* description = ::sigdescr_np(value);
  return fmt::format("signal {} ({})", value, description == nullptr ? "unknown" : description);
}

Result<Process> Process::Spawn(const ProcessSpec& spec) {
  if (::syscall(SYS_gettid) != ::getpid()) {
    return FailedPrecondition(fmt::format("cannot start {}: children are started by the main thread only", spec.name));
  }

  std::vector<std::string> arguments{spec.title.empty() ? spec.program.string() : spec.title};
  arguments.insert(arguments.end(), spec.arguments.begin(), spec.arguments.end());
  std::vector<std::string> environment;
  for (const auto& [name, value] : spec.environment) environment.push_back(fmt::format("{}={}", name, value));
  std::vector<char*> argv = Pointers(arguments);
  std::vector<char*> envp = Pointers(environment);

  Descriptor null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  if (null.get() < 0) return SpawnError(spec, "/dev/null", errno);
  Descriptor log(spec.log_file.empty()
                     ? ::fcntl(null.get(), F_DUPFD_CLOEXEC, 3)
                     : ::open(spec.log_file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (log.get() < 0) return SpawnError(spec, spec.log_file.string(), errno);
  std::array<int, 2> ends{-1, -1};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) return SpawnError(spec, "pipe", errno);
  Descriptor reader(ends[0]);
  Descriptor writer(ends[1]);
  // The child's dup2 calls must not overwrite them.
  if (null.get() <= STDERR_FILENO || log.get() <= STDERR_FILENO || writer.get() <= STDERR_FILENO) {
    return SpawnError(spec, "standard streams of the supervisor are closed", EBADF);
  }

  ChildPlan plan{.argv = argv.data(),
                 .envp = envp.data(),
                 .program = spec.program.c_str(),
                 .working_directory = spec.working_directory.c_str(),
                 .output = log.get(),
                 .null = null.get(),
                 .error_pipe = writer.get(),
                 .supervisor = ::getpid(),
                 .death_signal = spec.death_signal,
                 .open_files = spec.open_files,
                 .change_user = spec.user && spec.user->uid != ::geteuid(),
                 .uid = spec.user ? spec.user->uid : 0,
                 .gid = spec.user ? spec.user->gid : 0,
                 .groups = spec.user ? spec.user->groups.data() : nullptr,
                 .group_count = spec.user ? spec.user->groups.size() : 0};
  // No handler of the supervisor may run in the child before it has reset them.
  sigset_t all;
  sigset_t before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  pid_t pid = ::fork();
  if (pid == 0) BecomeProgram(plan);
  int fork_error = errno;
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (pid < 0) return SpawnError(spec, "fork", fork_error);

  Process process;
  process.name_ = spec.name;
  process.pid_ = pid;
  process.death_signal_ = spec.death_signal;
  process.descriptor_ = static_cast<int>(::syscall(SYS_pidfd_open, pid, 0));
  if (process.descriptor_ < 0) {
    int error = errno;
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
    process.pid_ = -1;
    return SpawnError(spec, "pidfd_open", error);
  }

  writer.Close();
  Failure failure{};
  ssize_t got;
  do {
    got = ::read(reader.get(), &failure, sizeof failure);
  } while (got < 0 && errno == EINTR);
  if (got != sizeof failure) return process;

  process.Destroy();
  switch (failure.step) {
    case Step::kUser:
      return SpawnError(spec, fmt::format("become user {}", spec.user->name), failure.error);
    case Step::kSupervisorGone:
      return SpawnError(spec, "the supervisor is gone", failure.error);
    case Step::kWorkingDirectory:
      return SpawnError(spec, spec.working_directory.string(), failure.error);
    case Step::kExec:
      break;
  }
  return SpawnError(spec, spec.program.string(), failure.error);
}

Process::Process(Process&& other) noexcept { *this = std::move(other); }

Process& Process::operator=(Process&& other) noexcept {
  if (this != &other) {
    Destroy();
    name_ = std::move(other.name_);
    pid_ = std::exchange(other.pid_, -1);
    descriptor_ = std::exchange(other.descriptor_, -1);
    death_signal_ = other.death_signal_;
    exit_status_ = std::exchange(other.exit_status_, std::nullopt);
  }
  return *this;
}

Process::~Process() { Destroy(); }

void Process::Destroy() {
  // Terminate fails only for a process that is gone already.
  if (descriptor_ >= 0) static_cast<void>(Terminate({{death_signal_, kDestroyLimit}}));
}

void Process::Reap() {
  if (descriptor_ < 0) return;
  siginfo_t info{};
  if (::waitid(static_cast<idtype_t>(P_PIDFD), static_cast<id_t>(descriptor_), &info, WEXITED | WNOHANG) != 0) {
    // ECHILD: somebody else waited for it; how it ended cannot be known any more.
    if (errno == EINTR) return;
    exit_status_ = ExitStatus{.by_signal = false, .value = -1};
  } else if (info.si_pid == 0) {
    return;
  } else {
    exit_status_ = ExitStatus{.by_signal = info.si_code != CLD_EXITED, .value = info.si_status};
  }
  ::close(descriptor_);
  descriptor_ = -1;
}

bool Process::Running() {
  Reap();
  return descriptor_ >= 0;
}

Result<void> Process::Send(int signal) {
  if (!Running() || ::syscall(SYS_pidfd_send_signal, descriptor_, signal, nullptr, 0) != 0) {
    return FailedPrecondition(fmt::format("{} is not running", name_));
  }
  return Ok();
}

Result<ExitStatus> Process::Wait(Duration limit) {
  const Clock& clock = Clock::System();
  SteadyTime end = clock.Now() + limit;
  while (Running()) {
    Duration left = end - clock.Now();
    if (left <= Duration::zero()) {
      return DeadlineExceeded(fmt::format("{} (pid {}) still runs after {} ms", name_, pid_,
                                          std::chrono::duration_cast<milliseconds>(limit).count()));
    }
    pollfd wait{.fd = descriptor_, .events = POLLIN, .revents = 0};
    ::poll(&wait, 1, PollMilliseconds(left));
  }
  if (!exit_status_) return FailedPrecondition("no process was started");
  return *exit_status_;
}

Result<ExitStatus> Process::Terminate(const std::vector<TerminateStep>& steps) {
  for (const TerminateStep& step : steps) {
    if (!Running()) break;
    // A process that was stopped acts on no signal but SIGKILL; one that ends meanwhile is what is wanted.
    static_cast<void>(Send(step.signal));
    static_cast<void>(Send(SIGCONT));
    if (auto ended = Wait(step.limit); ended) return *ended;
  }
  if (Running()) static_cast<void>(Send(SIGKILL));
  return Wait(kKillLimit);
}

Result<void> RunToEnd(const ProcessSpec& spec, Duration limit) {
  NOVA_TRY(Process process, Process::Spawn(spec));
  auto ended = process.Wait(limit);
  if (!ended) return std::move(ended).error();
  if (!ended->clean()) {
    return Internal(fmt::format("{} failed with {} (log: {}): {}", spec.name, ended->ToString(), spec.log_file.string(),
                                LastLineOfFile(spec.log_file)));
  }
  return Ok();
}

std::optional<std::uint64_t> StartTicks(pid_t pid) {
  std::ifstream file(fmt::format("/proc/{}/stat", pid));
  std::string line;
  if (!std::getline(file, line)) return std::nullopt;
  // "pid (name) state ppid ...": the name may hold spaces and parentheses, so fields count from the last one.
  auto close = line.rfind(')');
  if (close == std::string::npos || close + 2 >= line.size()) return std::nullopt;
  std::string_view rest(line);
  rest.remove_prefix(close + 2);
  if (rest.front() == 'Z' || rest.front() == 'X') return std::nullopt;
  // The state is field 3, the start time field 22.
  for (int field = 3; field < 22; ++field) {
    auto space = rest.find(' ');
    if (space == std::string_view::npos) return std::nullopt;
    rest.remove_prefix(space + 1);
  }
  std::uint64_t ticks = 0;
  if (std::from_chars(rest.data(), rest.data() + rest.size(), ticks).ec != std::errc()) return std::nullopt;
  return ticks;
}

std::vector<pid_t> FindProcesses(const fs::path& folder, std::string_view program) {
  std::vector<pid_t> found;
  std::error_code error;
  const fs::path wanted = fs::canonical(folder, error);
  if (error) return found;
  for (const fs::directory_entry& entry : fs::directory_iterator("/proc", error)) {
    const std::string name = entry.path().filename().string();
    pid_t pid = 0;
    if (std::from_chars(name.data(), name.data() + name.size(), pid).ec != std::errc()) continue;
    // Both links vanish with the process and are closed to other users: then it is none of ours.
    std::error_code unreadable;
    if (fs::read_symlink(entry.path() / "cwd", unreadable) != wanted || unreadable) continue;
    std::string executable = fs::read_symlink(entry.path() / "exe", unreadable).filename().string();
    // What the kernel appends when the file was replaced meanwhile, by a build for example.
    constexpr std::string_view kDeleted = " (deleted)";
    if (executable.ends_with(kDeleted)) executable.resize(executable.size() - kDeleted.size());
    if (!unreadable && executable == program) found.push_back(pid);
  }
  return found;
}

Result<void> AwaitReady(Process& process, std::string_view name, const fs::path& log_file, Duration limit,
                        const std::function<Result<void>()>& check) {
  const Clock& clock = Clock::System();
  const SteadyTime end = clock.Now() + limit;
  while (true) {
    if (!process.Running()) {
      return Internal(fmt::format("{} ended with {} (log: {}): {}", name, process.exit_status()->ToString(),
                                  log_file.string(), LastLineOfFile(log_file)));
    }
    auto ready = check();
    if (ready || ready.error().code() == Code::kFailedPrecondition) return ready;
    if (clock.Now() >= end) {
      return DeadlineExceeded(
          fmt::format("{} is not ready after {} s; see {}", name,
                      std::chrono::duration_cast<std::chrono::seconds>(limit).count(), log_file.string()),
          ready.error().message());
    }
    // Returns early when the process ends.
    static_cast<void>(process.Wait(kPollInterval));
  }
}

Result<void> EndOrphans(const fs::path& folder, std::string_view program, Duration limit) {
  const Clock& clock = Clock::System();
  auto gone_within = [&](Duration wait) {
    SteadyTime end = clock.Now() + wait;
    while (!FindProcesses(folder, program).empty()) {
      if (clock.Now() >= end) return false;
      ::poll(nullptr, 0, PollMilliseconds(kPollInterval));
    }
    return true;
  };
  if (gone_within(limit)) return Ok();
  // All of them at once: what would start others anew is among them.
  for (pid_t pid : FindProcesses(folder, program)) ::kill(pid, SIGKILL);
  if (gone_within(limit)) return Ok();
  return FailedPrecondition(
      fmt::format("a {} of an earlier run still works in {} and cannot be ended; end it (kill -9 "
                  "{}) and start again",
                  program, folder.string(), fmt::join(FindProcesses(folder, program), " ")));
}

std::vector<pid_t> ChildrenOf(pid_t pid) {
  std::ifstream file(fmt::format("/proc/{0}/task/{0}/children", pid));
  return std::vector<pid_t>(std::istream_iterator<pid_t>(file), std::istream_iterator<pid_t>());
}

}  // namespace nova::local
