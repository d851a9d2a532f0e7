#include "bench/echo_load.h"

#include <algorithm>
#include <grpcpp/client_context.h>
#include <stdexcept>

namespace nova::bench {

struct EchoLoad::Attempt {
  grpc::ClientContext context;
  tests::EchoResponse response;
  std::chrono::steady_clock::time_point begin = std::chrono::steady_clock::now();
};

EchoLoad::EchoLoad(tests::EchoService::Stub& stub, int in_flight, int calls, std::uint32_t wait_us)
    : stub_(stub), in_flight_(in_flight), calls_(calls) {
  request_.set_text("sixteen bytes!!!");
  request_.set_wait_us(wait_us);
  latencies_us_.resize(static_cast<std::size_t>(calls));
}

EchoFigures EchoLoad::Run(const ServerProcess& server) {
  const Seconds cpu_before = server.Cpu();
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < std::min(in_flight_, calls_); ++i) Next();
  {
    std::unique_lock lock(mutex_);
    ended_.wait(lock, [this] { return finished_ == calls_; });
  }
  const Seconds wall = std::chrono::steady_clock::now() - begin;
  const Seconds cpu = server.Cpu() - cpu_before;
  if (failed_ > 0) throw std::runtime_error(std::to_string(failed_) + " calls failed: " + failure_);
  std::ranges::sort(latencies_us_);
  return {.rps = calls_ / wall.count(),
          .p50_us = latencies_us_[latencies_us_.size() / 2],
          .p99_us = latencies_us_[latencies_us_.size() * 99 / 100],
          .cpu_us = cpu.count() * 1e6 / calls_};
}

void EchoLoad::Next() {
  const int index = started_.fetch_add(1);
  if (index >= calls_) return;
  auto* const attempt = new Attempt;
  attempt->context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
  stub_.async()->Echo(&attempt->context, &request_, &attempt->response, [this, attempt, index](grpc::Status status) {
    const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - attempt->begin;
    latencies_us_[static_cast<std::size_t>(index)] = took.count();
    delete attempt;
    Next();
    std::lock_guard lock(mutex_);
    if (!status.ok()) {
      ++failed_;
      failure_ = status.error_message();
    }
    if (++finished_ == calls_) ended_.notify_all();
  });
}

}  // namespace nova::bench
