// Asks the main loop to end when the process gets SIGINT, SIGTERM or SIGHUP.
#pragma once

#include <array>
#include <csignal>

namespace nova::runtime {

// One at a time in a process. Handlers and not a signal mask: threads that exist already, a log's for example, would
// not have the mask, and one of them would take the signal and end the process.
class StopSignals {
 public:
  StopSignals();
  // Restores what was there before.
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  // Readable from the first signal on.
  int descriptor() const { return descriptor_; }
  bool received() const;
  // Blocks the calling thread, main, until the first signal.
  void Await() const;

 private:
  static constexpr std::array kSignals{SIGINT, SIGTERM, SIGHUP};

  int descriptor_;
  std::array<struct sigaction, kSignals.size()> before_{};
  struct sigaction pipe_before_{};
};

}  // namespace nova::runtime
