// Stall: a process of this machine that exists, holds its connections, and does nothing: SIGSTOP, and SIGCONT at the
// end, whatever the end is. A helper process waits for the death of this one, so that a kill -9 of the audit leaves
// nobody standing still either.
//
//   NOVA_TRY(Stall stall, Stall::Begin({.name = "redis", .pid = 4711, .folder = "/var/lib/nova/redis"}));
//   ...
//   stall.End();   // or its destructor
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <sys/types.h>
#include <vector>

#include "nova/base/result.h"

namespace nova::audit {

struct ProcessTarget {
  // For people.
  std::string name;
  pid_t pid = 0;
  // Where it works. Another process that was given the same pid works elsewhere, and is left alone.
  std::filesystem::path folder;
};

// Confined to one thread. Movable.
class Stall {
 public:
  // Stops the process, and then its descendants, which cannot become more by then; returns when all stand still.
  // Errors, after which everything runs as before: NOT_FOUND if there is no such process, or it is another one;
  // FAILED_PRECONDITION if it stands still already, which is somebody else's affair; PERMISSION_DENIED; INTERNAL.
  static Result<Stall> Begin(const ProcessTarget& target);

  Stall(Stall&&) noexcept;
  Stall& operator=(Stall&&) noexcept;
  ~Stall();

  // They go on. Again does nothing.
  void End();
  // How many stand still.
  std::size_t size() const { return stopped_.size(); }

 private:
  class Stopped;

  Stall();

  std::vector<std::unique_ptr<Stopped>> stopped_;
};

}  // namespace nova::audit
