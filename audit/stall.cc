#include "audit/stall.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <climits>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <iterator>
#include <poll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <system_error>
#include <unistd.h>
#include <utility>

#include "nova/base/clock.h"

namespace nova::audit {
namespace {

namespace fs = std::filesystem;

// A process that runs stops at its next step; one that waits for a disk does not before that has answered.
constexpr Duration kStopLimit = std::chrono::seconds(2);
constexpr int kLookAgainMs = 1;

class Descriptor {
 public:
  explicit Descriptor(int number) : number_(number) {}
  Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Descriptor& operator=(Descriptor&&) = delete;
  ~Descriptor() { Close(); }
  int get() const { return number_; }
  void Close() {
    if (number_ >= 0) ::close(std::exchange(number_, -1));
  }

 private:
  int number_;
};

// A pid may be given to somebody else; this names one process for good.
Descriptor OpenProcess(pid_t pid) { return Descriptor(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0))); }

bool Send(int process, int signal) { return ::syscall(SYS_pidfd_send_signal, process, signal, nullptr, 0) == 0; }

// 'R', 'S', 'D', 'T' (stopped), 't' (traced), 'Z'; 0 if there is no such process.
char StateOf(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  const std::string text(std::istreambuf_iterator<char>(file), {});
  // The name stands in parentheses, and may hold some.
  const std::size_t name_end = text.rfind(')');
  return name_end == std::string::npos || name_end + 2 >= text.size() ? '\0' : text[name_end + 2];
}

bool StandsStill(char state) { return state == 'T' || state == 't'; }
bool HasEnded(char state) { return state == '\0' || state == 'Z' || state == 'X'; }

std::vector<pid_t> ChildrenOf(pid_t pid) {
  std::vector<pid_t> children;
  std::error_code ignored;
  for (const auto& thread : fs::directory_iterator("/proc/" + std::to_string(pid) + "/task", ignored)) {
    std::ifstream file(thread.path() / "children");
    children.insert(children.end(), std::istream_iterator<pid_t>(file), std::istream_iterator<pid_t>());
  }
  return children;
}

// In the helper, of which only this thread exists, with memory as it happened to be: nothing but system calls, and
// those not by way of a sanitizer. Waits for the end of the process at the other end of `pipe`.
[[noreturn]] void Watch(int pipe, int process) {
  // Not only this pipe: whatever else it held open would seem to live on.
  const auto [low, high] = std::minmax(pipe, process);
  if (low > 0) ::syscall(SYS_close_range, 0U, static_cast<unsigned>(low) - 1U, 0U);
  if (high > low + 1) ::syscall(SYS_close_range, static_cast<unsigned>(low) + 1U, static_cast<unsigned>(high) - 1U, 0U);
  ::syscall(SYS_close_range, static_cast<unsigned>(high) + 1U, UINT_MAX, 0U);
  char byte = 0;
  while (::syscall(SYS_read, pipe, &byte, 1) != 0 && errno == EINTR) {
  }
  ::syscall(SYS_pidfd_send_signal, process, SIGCONT, nullptr, 0);
  ::syscall(SYS_exit_group, 0);
  __builtin_unreachable();
}

}  // namespace

// One process, and the helper that watches over it.
class Stall::Stopped {
 public:
  // Precondition: `pid` was seen not to stand still.
  static Result<std::unique_ptr<Stopped>> Begin(const std::string& name, pid_t pid, Descriptor process) {
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) return Internal("no pipe: " + std::string(std::strerror(errno)));
    Descriptor watched(ends[0]);
    std::unique_ptr<Stopped> stopped(new Stopped(std::move(process), Descriptor(ends[1])));
    NOVA_TRY(stopped->StartHelper(watched.get()));
    if (!Send(stopped->process_.get(), SIGSTOP)) {
      if (errno == EPERM)
        return PermissionDenied(name + ": may not be stopped; run the audit as the user that runs `nova up`");
      return NotFound(name + ": it has just ended");
    }
    const SteadyTime limit = Clock::System().Now() + kStopLimit;
    for (;;) {
      const char state = StateOf(pid);
      if (StandsStill(state)) return stopped;
      if (HasEnded(state)) return NotFound(name + ": it has just ended");
      if (Clock::System().Now() >= limit) return Internal(name + ": it does not stop (state " + state + ")");
      // The kernel tells only a parent when a process has stopped.
      ::poll(nullptr, 0, kLookAgainMs);
    }
  }

  // Goes on, before the helper is let go.
  ~Stopped() {
    Send(process_.get(), SIGCONT);
    watch_.Close();
    if (helper_ > 0) {
      while (::waitpid(helper_, nullptr, 0) < 0 && errno == EINTR) {
      }
    }
  }
  Stopped(const Stopped&) = delete;
  Stopped& operator=(const Stopped&) = delete;

 private:
  Stopped(Descriptor process, Descriptor watch) : process_(std::move(process)), watch_(std::move(watch)) {}

  Result<void> StartHelper(int pipe) {
    // A Ctrl-C is for everybody at the terminal; the helper has something to do first.
    sigset_t all;
    sigset_t before;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_BLOCK, &all, &before);
    // Without the handlers of libraries, which know nothing of this.
    helper_ = ::_Fork();
    if (helper_ == 0) Watch(pipe, process_.get());
    const int error = errno;
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    if (helper_ < 0) return Internal("no helper process: " + std::string(std::strerror(error)));
    return Ok();
  }

  Descriptor process_;
  // Its other end is the helper's; it closes with this process.
  Descriptor watch_;
  pid_t helper_ = -1;
};

Stall::Stall() = default;
Stall::Stall(Stall&&) noexcept = default;
Stall& Stall::operator=(Stall&&) noexcept = default;
Stall::~Stall() { End(); }

void Stall::End() {
  // The last one that stopped is the first to go on: a parent finds its children at work.
  while (!stopped_.empty()) stopped_.pop_back();
}

Result<Stall> Stall::Begin(const ProcessTarget& target) {
  Descriptor process = OpenProcess(target.pid);
  std::error_code error;
  const fs::path works_in = fs::read_symlink("/proc/" + std::to_string(target.pid) + "/cwd", error);
  if (error == std::errc::permission_denied)
    return PermissionDenied(target.name + ": may not be stopped; run the audit as the user that runs `nova up`");
  // Asked in this order, the answers are about the process that `process` names.
  if (process.get() < 0 || error || !Send(process.get(), 0))
    return NotFound(target.name + ": there is no process " + std::to_string(target.pid));
  const fs::path folder = fs::weakly_canonical(target.folder, error);
  if (works_in != folder)
    return NotFound(target.name + ": process " + std::to_string(target.pid) + " is another one, it works in " +
                    works_in.string());
  if (StandsStill(StateOf(target.pid)))
    return FailedPrecondition(target.name + ": it stands still already; `kill -CONT " + std::to_string(target.pid) +
                              "` lets it go on");

  Stall stall;
  NOVA_TRY(auto root, Stopped::Begin(target.name, target.pid, std::move(process)));
  stall.stopped_.push_back(std::move(root));
  std::vector<pid_t> parents{target.pid};
  while (!parents.empty()) {
    const pid_t parent = parents.back();
    parents.pop_back();
    // It stands still, so these are all there will be, and none of their pids becomes free.
    for (const pid_t child : ChildrenOf(parent)) {
      Descriptor opened = OpenProcess(child);
      const char state = StateOf(child);
      if (HasEnded(state) || StandsStill(state)) continue;
      auto stopped = Stopped::Begin(target.name, child, std::move(opened));
      // One that was on its way out has gone.
      if (!stopped && stopped.error().code() == Code::kNotFound) continue;
      if (!stopped) return std::move(stopped).error();
      stall.stopped_.push_back(*std::move(stopped));
      parents.push_back(child);
    }
  }
  return stall;
}

}  // namespace nova::audit
