// Task<T>: a lazy coroutine that yields a Result<T>. It runs on a Strand; whoever co_awaits it waits for its end, so
// work is structured by scope.
//
//   Task<Profile> Load(Call& call, Uuid id) {
//     NOVA_CO_TRY(auto rows, co_await pool_.Query(call, kSelectProfile, id));
//     ...
//     co_return profile;
//   }
//
// Cancellation and deadlines travel in the Call, not in Asio's cancellation slots: a cancelled wait yields an Error
// like any other failure, and nothing throws.
#pragma once

#include <atomic>
#include <boost/asio/async_result.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <memory>
#include <utility>

#include "nova/base/result.h"
#include "nova/runtime/strand.h"

namespace nova::runtime {

template <class T>
using Task = asio::awaitable<Result<T>, Strand>;

// A coroutine whose value is not a Result; for the primitives of this folder.
template <class T>
using Awaitable = asio::awaitable<T, Strand>;

// The completion token of every Asio operation inside a Task.
inline constexpr asio::use_awaitable_t<Strand> use_task;

// Suspends until the Resolver given to `start` is called, from whatever thread, and yields what it was called with.
// The resolver is copyable; only its first call counts. The wait itself cannot be cancelled: `start` must arrange
// for an early end (see OneShot for the cancellable form).
template <class T>
class Resolver {
 public:
  template <class Handler>
  Resolver(Strand strand, Handler handler)
      : state_(std::make_shared<Model<Handler>>(std::move(strand), std::move(handler))) {}

  void operator()(T value) const { state_->Resolve(std::move(value)); }

 private:
  struct Concept {
    virtual ~Concept() = default;
    virtual void Resolve(T value) = 0;
  };
  template <class Handler>
  struct Model final : Concept {
    Model(Strand on, Handler h) : strand(std::move(on)), handler(std::move(h)) {}
    void Resolve(T value) override {
      if (used.exchange(true)) return;
      asio::post(strand, [h = std::move(handler), v = std::move(value)]() mutable { std::move(h)(std::move(v)); });
    }
    Strand strand;
    std::atomic<bool> used = false;
    Handler handler;  // belongs to whoever set `used`
  };

  std::shared_ptr<Concept> state_;
};

template <class T, class Start>
Awaitable<T> Await(Start start) {
  const Strand strand = co_await asio::this_coro::executor;
  co_return co_await asio::async_initiate<const asio::use_awaitable_t<Strand>, void(T)>(
      [](auto handler, Strand on, Start begin) { begin(Resolver<T>(std::move(on), std::move(handler))); }, use_task,
      strand, std::move(start));
}

}  // namespace nova::runtime
