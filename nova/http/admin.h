// The admin port of a process: /metrics for Prometheus, /livez and /readyz for Kubernetes, /statusz for people.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "nova/config/config.h"
#include "nova/http/server.h"

namespace nova::http {

struct AdminConfig {
  std::string address = "127.0.0.1";
  // 0: any free port.
  int port = 9090;
};

// admin.address, admin.port.
void Bind(config::Config& config, AdminConfig& admin);

struct Readiness {
  bool ok = false;
  // A JSON object that says why.
  std::string json = "{}";
};

// Called on the runtime's threads, concurrently: they must be thread-safe and must not wait.
struct AdminSource {
  // Prometheus text format: Metrics::Scrape.
  std::function<std::string()> scrape;
  std::function<Readiness()> readiness;
  // A JSON object.
  std::function<std::string()> status;
};

// /livez answers 200 as long as the process answers at all: a lost dependency must not get a process killed. /readyz
// answers 200 or 503. The server is not started yet, and takes more paths until it is.
std::unique_ptr<Server> MakeAdminServer(runtime::Runtime& runtime, const AdminConfig& config, AdminSource source);

}  // namespace nova::http
