#include "nova/runtime/stop_signals.h"

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

namespace nova::runtime {
namespace {

// What the handler writes to; a handler has no other way to know.
std::atomic<int> g_descriptor{-1};

void OnSignal(int) {
  int saved = errno;
  std::uint64_t one = 1;
  [[maybe_unused]] ssize_t written = ::write(g_descriptor.load(), &one, sizeof one);
  errno = saved;
}

}  // namespace

StopSignals::StopSignals() : descriptor_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  g_descriptor.store(descriptor_);
  struct sigaction action{};
  action.sa_handler = OnSignal;
  action.sa_flags = SA_RESTART;
  for (std::size_t i = 0; i < kSignals.size(); ++i) ::sigaction(kSignals[i], &action, &before_[i]);
  // A reader of our output that goes away is no reason to end.
  struct sigaction ignore{};
  ignore.sa_handler = SIG_IGN;
  ::sigaction(SIGPIPE, &ignore, &pipe_before_);
}

StopSignals::~StopSignals() {
  for (std::size_t i = 0; i < kSignals.size(); ++i) ::sigaction(kSignals[i], &before_[i], nullptr);
  ::sigaction(SIGPIPE, &pipe_before_, nullptr);
  g_descriptor.store(-1);
  ::close(descriptor_);
}

bool StopSignals::received() const {
  pollfd look{.fd = descriptor_, .events = POLLIN, .revents = 0};
  return ::poll(&look, 1, 0) == 1;
}

void StopSignals::Await() const {
  pollfd look{.fd = descriptor_, .events = POLLIN, .revents = 0};
  while (::poll(&look, 1, -1) != 1) {
  }
}

}  // namespace nova::runtime
