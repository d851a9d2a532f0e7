// Runtime: the threads of a process. One io_context that runs every strand; no other part of Nova starts threads for
// asynchronous work.
#pragma once

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <thread>
#include <vector>

#include "nova/runtime/call.h"
#include "nova/runtime/strand.h"
#include "nova/runtime/task.h"

namespace nova::runtime {

struct RuntimeConfig {
  // 0: one per core.
  int threads = 0;
};

// Thread-safe.
class Runtime {
 public:
  explicit Runtime(RuntimeConfig config = {});
  // Drops what is still queued and joins the threads. Stop every Scope first.
  ~Runtime();
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  Strand NewStrand() { return Strand(io_); }
  asio::io_context& io() { return io_; }

  // Runs one task to its end from a thread that is not the runtime's: main, tests, command-line verbs. `timeout`
  // becomes the call's deadline.
  template <class T>
  Result<T> RunBlocking(Duration timeout, std::function<Task<T>(Call&)> work);

 private:
  asio::io_context io_;
  asio::executor_work_guard<asio::io_context::executor_type> guard_;
  std::vector<std::thread> threads_;
};

// Returns when `delay` has passed. Errors: why the call ended. Cancellation: at once.
Task<void> Sleep(Call& call, Duration delay);

}  // namespace nova::runtime

#include "nova/runtime/runtime_inl.h"
