// The template part of runtime.h; include that.
#pragma once

#include <boost/asio/co_spawn.hpp>
#include <future>

namespace nova::runtime {
namespace internal {

template <class T>
Awaitable<void> RunToPromise(Strand strand, Duration timeout, std::function<Task<T>(Call&)> work,
                             std::promise<Result<T>>* promise) {
  Result<T> result;
  {
    CallOptions options;
    if (timeout != Duration::max()) options.deadline = Clock::System().Now() + timeout;
    Call call(std::move(strand), std::move(options));
    result = co_await work(call);
  }
  // Its captures may refer to what the waiting thread destroys next.
  work = nullptr;
  // By value from here on: the waiter may be gone as soon as the promise is kept.
  promise->set_value(std::move(result));
}

}  // namespace internal

template <class T>
Result<T> Runtime::RunBlocking(Duration timeout, std::function<Task<T>(Call&)> work) {
  std::promise<Result<T>> promise;
  auto future = promise.get_future();
  const Strand strand = NewStrand();
  asio::co_spawn(strand, internal::RunToPromise<T>(strand, timeout, std::move(work), &promise),
                 [](std::exception_ptr thrown) {
                   if (thrown) std::rethrow_exception(thrown);  // a bug: let it end the process loudly
                 });
  return future.get();
}

}  // namespace nova::runtime
