// CountingRelay: a Secrets Manager on loopback that asks another one, and counts what it is asked. How many
// requests a client makes of a thousand readers shows here, whatever the client says about itself.
//
//   NOVA_TRY(const auto relay, CountingRelay::Start(runtime, {.upstream = origin}));
//   ...                                      // a client of relay->endpoint()
//   relay->Count("GetSecretValue")
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "nova/base/result.h"
#include "nova/http/client.h"
#include "nova/http/server.h"
#include "nova/resilience/dependency.h"
#include "nova/runtime/runtime.h"
#include "nova/telemetry/metrics.h"

namespace nova::audit {

struct CountingRelayConfig {
  http::Origin upstream = {};
  // A request waits until this holds, for CountingRelay::kHoldMax at most. May be empty. Called on the runtime's
  // threads.
  std::function<bool()> may_answer = {};
};

// Thread-safe.
class CountingRelay {
 public:
  static constexpr std::chrono::seconds kHoldMax{4};

  // On a free port. `runtime` must outlive it. Errors: those of http::Server::Start.
  static Result<std::unique_ptr<CountingRelay>> Start(runtime::Runtime& runtime, CountingRelayConfig config);
  // Breaks off what is under way.
  ~CountingRelay();
  CountingRelay(const CountingRelay&) = delete;
  CountingRelay& operator=(const CountingRelay&) = delete;

  // "http://127.0.0.1:<port>"
  std::string endpoint() const;

  // Requests that came, whatever became of them, for an operation: "GetSecretValue".
  int Count(const std::string& operation) const;

 private:
  CountingRelay(runtime::Runtime& runtime, CountingRelayConfig config);
  runtime::Task<http::Response> Serve(runtime::Call& call, const http::Request& request);

  const CountingRelayConfig config_;
  telemetry::Metrics metrics_;  // nobody scrapes them
  resilience::HttpDependency upstream_;
  http::Client http_;
  mutable std::mutex mutex_;
  std::map<std::string, int> counts_;  // guarded by mutex_
  http::Server server_;
};

}  // namespace nova::audit
