#include "nova/tls/reloads.h"

#include <utility>

#include "nova/telemetry/log.h"

namespace nova::tls {
namespace {

using Outcome = IdentityPublisher::Outcome;

prometheus::Counter& Total(telemetry::Metrics& metrics, const std::string& side, const std::string& result) {
  return metrics.Counter("nova_tls_reloads_total", "Certificate sets found in the files, by what became of them",
                         {{"side", side}, {"result", result}});
}

}  // namespace

Reloads::Reloads(telemetry::Metrics& metrics, std::string side)
    : side_(std::move(side)),
      published_total_(Total(metrics, side_, "published")),
      refused_total_(Total(metrics, side_, "refused")) {}

Outcome Reloads::Unchanged() {
  last_problem_.clear();
  return Outcome::kUnchanged;
}

Outcome Reloads::Published() {
  last_problem_.clear();
  published_total_.Increment();
  return Outcome::kPublished;
}

Outcome Reloads::Refused(const Error& error, std::string_view in_use) {
  if (last_problem_ == error.message()) return Outcome::kUnchanged;
  last_problem_ = error.message();
  refused_total_.Increment();
  telemetry::LogError("certificate refused; the last good one stays in use",
                      {{"side", side_}, {"in_use", in_use}, {"error", error}});
  return Outcome::kRefused;
}

}  // namespace nova::tls
