// WorkerPool: a bounded set of threads for work that blocks or burns CPU (password hashing, PQcancel), so that it can
// never starve the runtime.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "nova/runtime/one_shot.h"

namespace nova::runtime {

struct WorkerPoolConfig {
  std::string name = {};
  int threads = 1;
  // Jobs waiting for a thread; one more is refused.
  int queue_max = 64;
};

// Thread-safe. The runtime whose tasks await its jobs must outlive it.
class WorkerPool {
 public:
  explicit WorkerPool(WorkerPoolConfig config);
  // Runs what was accepted to its end, then joins.
  ~WorkerPool();
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  // Runs `job`, which must own its data, and returns what it returns.
  // Errors: RESOURCE_EXHAUSTED if the queue is full; whatever the job returns.
  // Cancellation: the wait ends at once; a job still queued is dropped, a running one ends by itself.
  template <class T>
  Task<T> Run(Call& call, std::function<Result<T>()> job);

  // Jobs waiting for a thread.
  int queued() const;
  // Jobs on a thread, those whose caller gave up included.
  int running() const;

 private:
  struct Job {
    std::function<void()> run;
    std::function<bool()> abandoned;
  };
  bool TrySubmit(Job job);
  void Work();

  const WorkerPoolConfig config_;
  mutable std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<Job> queue_;  // guarded by mutex_
  int running_ = 0;        // guarded by mutex_
  bool stopping_ = false;  // guarded by mutex_
  std::vector<std::thread> threads_;
};

template <class T>
Task<T> WorkerPool::Run(Call& call, std::function<Result<T>()> job) {
  NOVA_CO_TRY(call.Check());
  struct Shared {
    OneShot<T> done;
    std::atomic<bool> abandoned = false;
  };
  const auto shared = std::make_shared<Shared>();
  Job entry{.run = [shared, job = std::move(job)] { (void)shared->done.TrySet(job()); },
            .abandoned = [shared] { return shared->abandoned.load(); }};
  if (!TrySubmit(std::move(entry)))
    co_return ResourceExhausted("the service is busy, try again later", "worker pool " + config_.name + " is full");
  auto result = co_await shared->done.Wait(call);
  shared->abandoned = true;
  co_return result;
}

}  // namespace nova::runtime
