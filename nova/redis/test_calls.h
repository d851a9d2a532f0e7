// For the tests of this folder: calls started from the test's thread, each on a strand of its own.
#pragma once

#include <chrono>
#include <functional>
#include <future>
#include <gtest/gtest.h>
#include <limits>
#include <memory>
#include <string>
#include <utility>

#include "nova/redis/reply.h"
#include "nova/resilience/dependency.h"
#include "nova/runtime/runtime.h"
#include "nova/runtime/scope.h"
#include "nova/telemetry/metrics.h"
#include "tests/eventually.h"

namespace nova::redis {

using tests::Eventually;

// No test waits longer than this for anything.
inline constexpr std::chrono::seconds kPlentyOfTime{30};

// Policies that stay out of the way: by them nothing ends, is refused or is slow, unless a test says so.
inline resilience::DependencyConfig NoPolicies() {
  auto config = resilience::DependencyConfig::Default(resilience::Kind::kCache);
  config.timeout = config.slow = kPlentyOfTime;
  config.calls_max = 100'000;
  config.breaker.calls_min = std::numeric_limits<int>::max();
  return config;
}

class Calls {
 public:
  explicit Calls(runtime::Runtime& runtime) : scope_(runtime) {}
  ~Calls() { EXPECT_TRUE(scope_.Stop(kPlentyOfTime).ok()); }
  Calls(const Calls&) = delete;
  Calls& operator=(const Calls&) = delete;

  // Runs `work` under a call with `timeout`; the future gets what it returns.
  template <class T>
  std::future<Result<T>> Start(std::function<runtime::Task<T>(runtime::Call&)> work, Duration timeout = kPlentyOfTime) {
    const auto promise = std::make_shared<std::promise<Result<T>>>();
    scope_.Spawn("test", [promise, work = std::move(work), timeout](runtime::Call& call) -> runtime::Task<void> {
      Result<T> result;
      {
        runtime::Call limited(call, timeout);
        result = co_await work(limited);
      }
      promise->set_value(std::move(result));
      co_return Ok();
    });
    return promise->get_future();
  }

 private:
  runtime::Scope scope_;
};

// What a result holds, whether or not it is what the test expects.
template <class T>
Code CodeOf(const Result<T>& result) {
  return result.ok() ? Code::kOk : result.error().code();
}
template <class T>
std::string DetailOf(const Result<T>& result) {
  return result.ok() ? "no error" : result.error().detail();
}
inline std::string TextOf(const Result<Reply>& reply) { return reply.ok() ? reply->text : reply.error().ToString(); }

// The value, or a failure of the test.
template <class T>
T ValueOf(const Result<T>& result) {
  if (result.ok()) return *result;
  ADD_FAILURE() << result.error().ToString();
  return {};
}

// The value of one metric as it is scraped, such as `x_total{client="main"}`; 0 if there is none.
inline double MetricValue(const telemetry::Metrics& metrics, const std::string& name) {
  const std::string text = "\n" + metrics.Scrape();
  const std::size_t at = text.find("\n" + name + " ");
  return at == std::string::npos ? 0 : std::stod(text.substr(at + name.size() + 2));
}

}  // namespace nova::redis
