// What became of the files a publisher looked at, told once each: counted and logged. Included by the sources of this
// folder only.
#pragma once

#include <string>
#include <string_view>

#include "nova/base/error.h"
#include "nova/telemetry/metrics.h"
#include "nova/tls/publisher.h"

namespace nova::tls {

// Not thread-safe.
class Reloads {
 public:
  Reloads(telemetry::Metrics& metrics, std::string side);

  const std::string& side() const { return side_; }

  // The files are those in use.
  IdentityPublisher::Outcome Unchanged();
  IdentityPublisher::Outcome Published();
  // Says so unless it is the problem that was said last. `in_use` tells people what goes on to be used.
  IdentityPublisher::Outcome Refused(const Error& error, std::string_view in_use);

 private:
  const std::string side_;
  prometheus::Counter& published_total_;
  prometheus::Counter& refused_total_;
  std::string last_problem_;  // empty: the files were good when last seen
};

}  // namespace nova::tls
