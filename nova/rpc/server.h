// Server: gRPC's callback server with Nova's stack in front of every handler.
//
// Each method takes its body raw, so that the layers (server_stack.cc) decide before anything is decoded. Each call has
// one strand and one coroutine, which begins on gRPC's own thread: a handler that never waits also ends there.
//
//   Server server(runtime, metrics, config, {.credentials = ..., .stack = {...}});
//   server.Add(std::move(service));
//   NOVA_TRY(server.Start());
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "nova/config/config.h"
#include "nova/resilience/limiter.h"
#include "nova/rpc/server_stack.h"
#include "nova/rpc/service.h"
#include "nova/runtime/runtime.h"
#include "nova/telemetry/metrics.h"

namespace grpc {
class ServerCredentials;
}

namespace nova::rpc {

struct ServerConfig {
  std::string address = "0.0.0.0";
  // 0 takes any free port.
  int port = 9080;
  // A longer request is refused with RESOURCE_EXHAUSTED before it is read to its end.
  int message_bytes_max = 4 * 1024 * 1024;
  int streams_max_per_connection = 1000;
  // A connection whose TLS handshake is not over by then is closed.
  std::chrono::milliseconds handshake_timeout = std::chrono::seconds(10);
  // Bounds how long a connection outlives the certificates it was made with: gRPC lets it be up to a tenth older, and
  // streams go on for the grace.
  std::chrono::milliseconds connection_age_max = std::chrono::minutes(30);
  std::chrono::milliseconds connection_age_grace = std::chrono::minutes(1);
  // A client that died without a word is noticed after both.
  std::chrono::milliseconds keepalive_period = std::chrono::seconds(30);
  std::chrono::milliseconds keepalive_timeout = std::chrono::seconds(10);
  // Over all connections; past it gRPC stops reading, then closes.
  std::int64_t buffer_bytes_max = std::int64_t{256} * 1024 * 1024;
  // How long calls may go on after Stop() was asked for.
  std::chrono::milliseconds drain_limit = std::chrono::seconds(10);
  // How much it works on at once, and when it sheds.
  resilience::LimiterConfig overload;
};

void Bind(config::Config& config, ServerConfig& server);

struct ServerSecurity {
  std::shared_ptr<grpc::ServerCredentials> credentials;
  ServerStackConfig stack;
};

class Server {
 public:
  Server(runtime::Runtime& runtime, telemetry::Metrics& metrics, ServerConfig config, ServerSecurity security);
  // Stops, if that was not done.
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // Before Start().
  void Add(Service service);

  // Errors: FAILED_PRECONDITION naming a method without handler or declaration; INVALID_ARGUMENT naming a port that
  // is taken, or a setting that is wrong.
  Result<void> Start();
  // The port that was bound; 0 before Start().
  int port() const { return port_; }

  // Accepts no new calls, lets the running ones end within drain_limit, then cancels them and waits for their handlers.
  void Stop();

  // Calls that are not over yet: a handler runs, or gRPC still delivers its answer.
  int calls_in_flight() const { return in_flight_->load(std::memory_order_relaxed); }

 private:
  class Endpoint;
  class ServerCall;
  class UnaryServerCall;
  class StreamServerCall;

  // Why a call ends that nobody waits for any more.
  Error AbandonReason() const;

  runtime::Runtime& runtime_;
  telemetry::Metrics& metrics_;
  const ServerConfig config_;
  const ServerSecurity security_;
  // Shared with the calls, which count themselves out as their last act.
  const std::shared_ptr<std::atomic<int>> in_flight_ = std::make_shared<std::atomic<int>>(0);
  std::atomic<bool> stopping_ = false;
  int port_ = 0;
  // Constant after Start().
  std::vector<Service> services_;
  std::vector<MethodPolicy> methods_;
  ServerStack stack_;
  std::vector<std::unique_ptr<Endpoint>> endpoints_;
  struct Grpc;
  std::unique_ptr<Grpc> grpc_;
};

}  // namespace nova::rpc
