#include "nova/runtime/scope.h"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/post.hpp>
#include <cassert>
#include <condition_variable>
#include <list>
#include <mutex>

namespace nova::runtime {
namespace {

Error Stopping() { return Cancelled("the process is stopping"); }

}  // namespace

struct Scope::State {
  struct Entry {
    std::string name;
    Strand strand;
    Call* call = nullptr;  // confined to the entry's strand
  };
  using EntryHandle = std::list<std::shared_ptr<Entry>>::iterator;

  static Awaitable<void> Run(std::shared_ptr<State> state, EntryHandle handle, Work work, OnError on_error);

  std::mutex mutex;
  std::condition_variable ended;
  std::list<std::shared_ptr<Entry>> entries;  // guarded by mutex
  bool stopped = false;                       // guarded by mutex
};

Scope::Scope(Runtime& runtime) : runtime_(runtime), state_(std::make_shared<State>()) {}

Scope::~Scope() { assert(state_->entries.empty() && "a Scope must be stopped before it dies"); }

void Scope::Spawn(std::string name, Work work, OnError on_error) {
  const auto entry = std::make_shared<State::Entry>(std::move(name), runtime_.NewStrand());
  State::EntryHandle handle;
  {
    std::lock_guard lock(state_->mutex);
    if (state_->stopped) return;
    handle = state_->entries.insert(state_->entries.end(), entry);
  }
  asio::co_spawn(entry->strand, State::Run(state_, handle, std::move(work), std::move(on_error)),
                 [](std::exception_ptr thrown) {
                   if (thrown) std::rethrow_exception(thrown);  // a bug: let it end the process loudly
                 });
}

Awaitable<void> Scope::State::Run(std::shared_ptr<State> state, EntryHandle handle, Work work, OnError on_error) {
  const std::shared_ptr<Entry> entry = *handle;
  {
    Call call(entry->strand);
    entry->call = &call;
    {
      std::lock_guard lock(state->mutex);
      if (state->stopped) call.Cancel(Stopping());
    }
    const Result<void> result = co_await work(call);
    entry->call = nullptr;
    if (!result && on_error && result.error().code() != Code::kCancelled) on_error(entry->name, result.error());
  }
  // The captures of the work may refer to what the scope's owner destroys next.
  work = nullptr;
  on_error = nullptr;
  std::lock_guard lock(state->mutex);
  state->entries.erase(handle);
  state->ended.notify_all();
}

Result<void> Scope::Stop(Duration limit) {
  std::unique_lock lock(state_->mutex);
  state_->stopped = true;
  for (const auto& entry : state_->entries) {
    asio::post(entry->strand, [entry] {
      if (entry->call != nullptr) entry->call->Cancel(Stopping());
    });
  }
  if (state_->ended.wait_for(lock, limit, [this] { return state_->entries.empty(); })) return Ok();
  return DeadlineExceeded("stopping took too long", "still running: " + state_->entries.front()->name);
}

}  // namespace nova::runtime
