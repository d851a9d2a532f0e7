#include "nova/runtime/worker_pool.h"

#include <pthread.h>

namespace nova::runtime {

WorkerPool::WorkerPool(WorkerPoolConfig config) : config_(std::move(config)) {
  threads_.reserve(static_cast<std::size_t>(config_.threads));
  for (int i = 0; i < config_.threads; ++i) {
    threads_.emplace_back([this] {
      pthread_setname_np(pthread_self(), config_.name.substr(0, 15).c_str());
      Work();
    });
  }
}

WorkerPool::~WorkerPool() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  ready_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

int WorkerPool::queued() const {
  std::lock_guard lock(mutex_);
  return static_cast<int>(queue_.size());
}

int WorkerPool::running() const {
  std::lock_guard lock(mutex_);
  return running_;
}

bool WorkerPool::TrySubmit(Job job) {
  {
    std::lock_guard lock(mutex_);
    if (stopping_) return false;
    // Jobs nobody waits for any more must not take a living caller's place.
    if (static_cast<int>(queue_.size()) >= config_.queue_max)
      std::erase_if(queue_, [](const Job& queued) { return queued.abandoned(); });
    if (static_cast<int>(queue_.size()) >= config_.queue_max) return false;
    queue_.push_back(std::move(job));
  }
  ready_.notify_one();
  return true;
}

void WorkerPool::Work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    ready_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
    if (queue_.empty()) return;
    Job job = std::move(queue_.front());
    queue_.pop_front();
    if (job.abandoned()) continue;
    ++running_;
    lock.unlock();
    job.run();
    job = {};
    lock.lock();
    --running_;
  }
}

}  // namespace nova::runtime
