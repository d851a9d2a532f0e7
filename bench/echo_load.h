// Unary calls of tests.EchoService in a closed loop, and what they cost.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "bench/server_process.h"
#include "tests/echo.grpc.pb.h"

namespace nova::bench {

struct EchoFigures {
  double rps = 0;
  double p50_us = 0;
  double p99_us = 0;
  double cpu_us = 0;  // of the server, per call
};

// `in_flight` calls at any time, each answer starting the next. For one run.
class EchoLoad {
 public:
  EchoLoad(tests::EchoService::Stub& stub, int in_flight, int calls, std::uint32_t wait_us);

  // Throws std::runtime_error if a call failed.
  EchoFigures Run(const ServerProcess& server);

 private:
  struct Attempt;

  void Next();

  tests::EchoService::Stub& stub_;
  const int in_flight_;
  const int calls_;
  tests::EchoRequest request_;
  std::atomic<int> started_ = 0;
  std::vector<double> latencies_us_;
  std::mutex mutex_;
  std::condition_variable ended_;
  int finished_ = 0;     // guarded by mutex_
  int failed_ = 0;       // guarded by mutex_
  std::string failure_;  // guarded by mutex_
};

}  // namespace nova::bench
