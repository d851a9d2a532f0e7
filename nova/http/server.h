// A small HTTP/1.1 server for the admin port and the gateway. Made for hostile clients: headers, bodies, time and
// connections are bounded, and every connection is one coroutine on a strand of its own.
//
//   Server server(runtime, {.port = 9090});
//   server.Handle("GET", "/livez", [](runtime::Call&, const Request&) -> runtime::Task<Response> {
//     co_return Response{.body = "ok\n"};
//   });
//   NOVA_TRY(server.Start());
//   ...
//   NOVA_TRY(server.Stop(5s));
//
// What it answers by itself: 400 malformed, 404, 405 with Allow, 408 (the request took longer than read_timeout to
// arrive), 413 body and 431 header over the limit, 500 (the handler failed), 503 (too many connections), 504 (the
// handler reached its timeout). HEAD is answered by the GET handler, without the body.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "nova/base/result.h"
#include "nova/http/message.h"
#include "nova/runtime/runtime.h"

namespace nova::http {

struct ServerConfig {
  // A numeric address.
  std::string address = "127.0.0.1";
  // 0: any free port; port() tells which.
  int port = 0;
  // Named in the error when the port is taken, so that the reader knows what to change: "--admin-port
  // (NOVA_ADMIN_PORT)".
  std::string port_setting = "port";
  int header_bytes_max = 8 * 1024;
  int body_bytes_max = 1024 * 1024;
  // From the first wait for a request to its last byte, the idle time of a kept-alive connection included; and again
  // for writing the response.
  std::chrono::milliseconds read_timeout{10'000};
  std::chrono::milliseconds write_timeout{10'000};
  // The deadline of the handler's Call.
  std::chrono::milliseconds handler_timeout{10'000};
  // Connections served at a time; one more is answered 503 and closed.
  int connections_max = 256;
};

// `call` carries the handler timeout, the trace of a `traceparent` header, and ends when the server stops. An error
// becomes a response: its code decides the status, its public message is the body, its detail goes to the log. A client
// that goes away is noticed when the response is written; until then the handler timeout bounds what it can cost.
using Handler = std::function<runtime::Task<Response>(runtime::Call& call, const Request& request)>;

// Start and Stop are for one thread; handlers run on the runtime's.
class Server {
 public:
  Server(runtime::Runtime& runtime, ServerConfig config);
  // Precondition: stopped, or never started.
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // The paths must be equal; there are no patterns. Before Start only.
  void Handle(std::string method, std::string path, Handler handler);

  // Binds the port and accepts. Errors: INVALID_ARGUMENT, one line that names the setting, if the port is taken or the
  // address is not one of this machine.
  Result<void> Start();

  // The port bound; after Start.
  int port() const;

  // Refuses new connections, cancels what runs, closes everything; blocks for `limit` at most. It does not wait for
  // requests under way: who wants to drain stops sending traffic here first. Not to be called from a handler. Errors:
  // DEADLINE_EXCEEDED if a handler ignores its cancellation; call Stop again before destruction.
  Result<void> Stop(Duration limit);

 private:
  struct State;

  std::unique_ptr<State> state_;
};

}  // namespace nova::http
