#include "nova/runtime/strand.h"

namespace nova::runtime {
namespace {

// After so many pieces in a row a busy strand goes to the back of the line: one call cannot keep a thread.
constexpr int kDrainMax = 16;

}  // namespace

thread_local Strand::State* Strand::current_ = nullptr;

bool Strand::State::TryEnter() {
  std::lock_guard lock(mutex);
  if (busy) return false;
  busy = true;
  return true;
}

bool Strand::State::Push(Work work) {
  std::lock_guard lock(mutex);
  if (abandoned) return false;
  queue.push_back(std::move(work));
  return !std::exchange(busy, true);
}

bool Strand::State::Pop(Work& work) {
  std::lock_guard lock(mutex);
  if (queue.empty()) {
    busy = false;
    return false;
  }
  work = std::move(queue.front());
  queue.pop_front();
  return true;
}

// What the io_context is given to run; knows whether it was run or thrown away.
class Strand::DrainTask {
 public:
  explicit DrainTask(std::shared_ptr<State> state) : state_(std::move(state)) {}
  DrainTask(DrainTask&&) noexcept = default;
  DrainTask& operator=(DrainTask&&) = delete;
  ~DrainTask() {
    if (state_) state_->Abandon();
  }

  void operator()() {
    const auto state = std::move(state_);
    State* const outer = std::exchange(current_, state.get());
    state->Drain();
    current_ = outer;
  }

 private:
  std::shared_ptr<State> state_;
};

void Strand::State::ScheduleDrain() { asio::post(io, DrainTask(shared_from_this())); }

void Strand::State::Abandon() {
  // Work that is dropped may post more while it dies.
  for (std::deque<Work> dropped;; dropped.clear()) {
    std::lock_guard lock(mutex);
    abandoned = true;
    if (queue.empty()) return;
    dropped.swap(queue);
  }
}

void Strand::State::Drain() {
  for (int i = 0; i < kDrainMax; ++i) {
    Work work;
    if (!Pop(work)) return;
    std::move(work)();
  }
  ScheduleDrain();
}

}  // namespace nova::runtime
