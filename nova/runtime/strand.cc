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

void Strand::State::ScheduleDrain() {
  asio::post(io, [state = shared_from_this()] {
    State* const outer = std::exchange(current_, state.get());
    state->Drain();
    current_ = outer;
  });
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
