// OneShot<T>: a value set once, from any thread, and awaited once, by one task. Whoever sets first wins, and the end of
// the waiter's call is one of the contenders: a setter that loses learns it and can give the value to somebody else.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <optional>

#include "nova/runtime/call.h"
#include "nova/runtime/task.h"

namespace nova::runtime {

template <class T>
class OneShot {
 public:
  OneShot() : state_(std::make_shared<State>()) {}

  // True if this was the first: the value will reach the waiter, who may still drop it unread. Thread-safe.
  bool TrySet(Result<T> value) const { return state_->TrySet(std::move(value)); }

  friend bool operator==(const OneShot& a, const OneShot& b) { return a.state_ == b.state_; }

  // Returns the value set. Errors: the error set, or why the call ended. Cancellation: at once. Await once only.
  Task<T> Wait(Call& call) const {
    const auto state = state_;
    const CancelHook hook(call, [state](const Error& reason) { (void)state->TrySet(reason); });
    co_await Await<bool>([state](Resolver<bool> resolver) {
      std::unique_lock lock(state->mutex);
      if (state->value) {
        lock.unlock();
        resolver(true);
        return;
      }
      state->wake = std::move(resolver);
    });
    std::lock_guard lock(state->mutex);
    co_return *std::move(state->value);
  }

 private:
  struct State {
    bool TrySet(Result<T> result) {
      std::optional<Resolver<bool>> to_wake;
      {
        std::lock_guard lock(mutex);
        if (value) return false;
        value.emplace(std::move(result));
        to_wake = std::exchange(wake, std::nullopt);
      }
      if (to_wake) (*to_wake)(true);
      return true;
    }
    std::mutex mutex;
    std::optional<Result<T>> value;      // guarded by mutex
    std::optional<Resolver<bool>> wake;  // guarded by mutex
  };

  std::shared_ptr<State> state_;
};

}  // namespace nova::runtime
