#include "nova/runtime/runtime.h"

#include <algorithm>
#include <pthread.h>
#include <string>

namespace nova::runtime {

Runtime::Runtime(RuntimeConfig config) : guard_(asio::make_work_guard(io_)) {
  const int count =
      config.threads > 0 ? config.threads : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  threads_.reserve(static_cast<std::size_t>(count));
  for (int i = 0; i < count; ++i) {
    threads_.emplace_back([this, i] {
      // Fifteen characters is the kernel's limit for a thread's name.
      pthread_setname_np(pthread_self(), ("nova-io-" + std::to_string(i)).c_str());
      io_.run();
    });
  }
}

Runtime::~Runtime() {
  guard_.reset();
  io_.stop();
  for (std::thread& thread : threads_) thread.join();
}

Task<void> Sleep(Call& call, Duration delay) {
  NOVA_CO_TRY(call.Check());
  asio::steady_timer timer(call.strand());
  timer.expires_after(delay);
  Error why;
  bool cancelled = false;
  const CancelHook hook(call, [&](const Error& reason) {
    why = reason;
    cancelled = true;
    timer.cancel();
  });
  // A hook that fired before the wait began has nothing to cancel yet.
  if (!cancelled) {
    boost::system::error_code ignored;
    co_await timer.async_wait(asio::redirect_error(use_task, ignored));
  }
  if (cancelled) co_return why;
  co_return Ok();
}

}  // namespace nova::runtime
