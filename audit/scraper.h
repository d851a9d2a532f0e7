// Scraper: what the services say on their admin ports, /metrics above all.
#pragma once

#include <map>
#include <string>

#include "audit/audit.h"
#include "audit/exposition.h"
#include "nova/http/client.h"
#include "nova/resilience/dependency.h"
#include "nova/telemetry/metrics.h"

namespace nova::audit {

// Used by one thread that is not the runtime's.
class Scraper {
 public:
  using Scrapes = std::map<std::string, Exposition>;  // by service

  // `runtime` and `config` must outlive it.
  Scraper(runtime::Runtime& runtime, const AuditConfig& config) : runtime_(runtime), config_(config) {}

  // What the service's admin port answers, whatever its status. Takes two seconds at most. Errors: those of
  // http::Client::Get, naming the service.
  Result<std::string> Get(const ServiceTarget& service, const std::string& path);
  // /metrics. Errors, besides: INVALID_ARGUMENT.
  Result<Exposition> Scrape(const ServiceTarget& service);
  Result<Scrapes> ScrapeAll();

 private:
  runtime::Runtime& runtime_;
  const AuditConfig& config_;
  telemetry::Metrics metrics_;  // nobody scrapes them
  resilience::HttpDependency admin_ports_{"admin_ports", metrics_, resilience::ForProbes(resilience::Kind::kHttp)};
  http::Client http_{admin_ports_};
};

}  // namespace nova::audit
