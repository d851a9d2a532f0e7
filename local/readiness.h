// Asks services on this machine whether they are ready, and for their status page.
#pragma once

#include <string>

#include "nova/base/clock.h"
#include "nova/base/result.h"
#include "nova/http/client.h"
#include "nova/resilience/dependency.h"
#include "nova/runtime/runtime.h"
#include "nova/telemetry/metrics.h"

namespace nova::local {

// Used by one thread at a time.
class ReadinessProbe {
 public:
  ReadinessProbe() : runtime_({.threads = 1}) {}

  // OK when GET /readyz on 127.0.0.1:admin_port answers 200. Errors: UNAVAILABLE when it answers otherwise, with the
  // answer as detail, or not at all; DEADLINE_EXCEEDED.
  Result<void> Check(int admin_port, Duration limit);
  // The JSON object of GET /statusz. Errors: the same.
  Result<std::string> Status(int admin_port, Duration limit);

 private:
  Result<http::Response> Get(int admin_port, const char* path, Duration limit);

  runtime::Runtime runtime_;
  telemetry::Metrics metrics_;  // nobody scrapes them
  resilience::HttpDependency admin_ports_{"admin_ports", metrics_, resilience::ForProbes(resilience::Kind::kHttp)};
  http::Client client_{admin_ports_};
};

}  // namespace nova::local
