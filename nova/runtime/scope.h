// Scope: background work with an owner. What is spawned into a scope has ended when the scope has stopped; nothing is
// detached.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "nova/runtime/runtime.h"

namespace nova::runtime {

// Thread-safe.
class Scope {
 public:
  using Work = std::function<Task<void>(Call&)>;
  using OnError = std::function<void(const std::string& name, const Error& error)>;

  explicit Scope(Runtime& runtime);
  // Precondition: stopped, or nothing was spawned.
  ~Scope();
  Scope(const Scope&) = delete;
  Scope& operator=(const Scope&) = delete;

  // Starts `work` on a strand of its own. `name` appears in errors. Its error, if it is not a cancellation, is given
  // to `on_error`; work that must go on handles its own errors. After Stop nothing is started.
  void Spawn(std::string name, Work work, OnError on_error = {});

  // Cancels every task and blocks until all have ended, `limit` at most. Errors: DEADLINE_EXCEEDED naming a task that
  // still runs. Not to be called from a task.
  Result<void> Stop(Duration limit);

 private:
  struct State;

  Runtime& runtime_;
  // Shared with the tasks, whose last breath may come after Stop has returned.
  std::shared_ptr<State> state_;
};

}  // namespace nova::runtime
