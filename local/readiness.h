// Asks services on this machine whether they are ready.
#pragma once

#include "nova/base/clock.h"
#include "nova/base/result.h"
#include "nova/http/client.h"
#include "nova/runtime/runtime.h"

namespace nova::local {

// Used by one thread at a time.
class ReadinessProbe {
 public:
  ReadinessProbe() : runtime_({.threads = 1}) {}

  // OK when GET /readyz on 127.0.0.1:admin_port answers 200. Errors: UNAVAILABLE when it answers otherwise, with the
  // answer as detail, or not at all; DEADLINE_EXCEEDED.
  Result<void> Check(int admin_port, Duration limit);

 private:
  runtime::Runtime runtime_;
  http::Client client_;
};

}  // namespace nova::local
