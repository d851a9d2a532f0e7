// A small HTTP/1.1 client for what the platform asks by itself: probes, scrapes, the admin ports of peers, AWS. One
// connection per request; TLS 1.3 with the server's certificate and name verified, or plaintext.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "nova/base/result.h"
#include "nova/http/message.h"
#include "nova/resilience/dependency.h"
#include "nova/resilience/protect.h"
#include "nova/runtime/call.h"
#include "nova/runtime/task.h"

namespace nova::http {

struct ClientConfig {
  int header_bytes_max = 16 * 1024;
  int body_bytes_max = 8 * 1024 * 1024;
  // PEM file of the authorities that servers are verified with; read for each connection, so that it may be replaced.
  // Empty: those of the system.
  std::string ca_path = {};
};

// Where a request goes.
struct Origin {
  bool tls = false;
  std::string host = {};
  int port = 80;

  // As the header Host has it: without the port where it is the scheme's own, IPv6 in brackets.
  std::string Authority() const;
};

// "http://host", "https://host:8443", with or without a "/" at the end. Errors: INVALID_ARGUMENT for anything else:
// another scheme, a path, a query, a user, a port that is none.
Result<Origin> ParseOrigin(std::string_view url);

// Thread-safe.
class Client {
 public:
  // Opens nothing. `dependency` must outlive it.
  explicit Client(resilience::HttpDependency& dependency, ClientConfig config = {});
  // Precondition: no Get runs.
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // GET http://host:port<path>, whatever the status of the answer: a 503 is an answer too, to the caller and to the
  // circuit breaker. `host` is a name or an address; names are resolved without blocking the caller's thread.
  // It goes through resilience::Protect, and because a GET may be repeated, one that was UNAVAILABLE may be tried
  // again. Errors: UNAVAILABLE (not resolved, refused, broken off, not HTTP; or the circuit breaker is open),
  // RESOURCE_EXHAUSTED (the answer is over a limit, or the bulkhead is full), INVALID_ARGUMENT (not an address),
  // DEADLINE_EXCEEDED, why the call ended.
  // Deadline: the earlier of the dependency's timeout and the call's, over all tries. Cancellation: closes the socket
  // at once. A look-up of a name cannot be stopped: it goes on, and keeps the place in the bulkhead, as an orphan.
  runtime::Task<Response> Get(runtime::Call& call, std::string host, int port, std::string path) const;

  // The same for any request to any origin. `request.path` begins with '/'; `query` is what follows "?", if anything.
  // Host (unless it is there), Content-Length, Connection and traceparent are added here; a header with a line break,
  // or one of those that are added, is INVALID_ARGUMENT. `patience`: how long the server may take by design, added to
  // the dependency's timeout (ProtectOptions::patience). Over TLS also UNAVAILABLE, whose detail tells which: a
  // certificate for another name, one that no authority signed, one that has expired, a server without TLS 1.3; and
  // INVALID_ARGUMENT, which names ca_path, if that cannot be read.
  runtime::Task<Response> Send(runtime::Call& call, Origin origin, Request request, resilience::Idempotency idempotency,
                               Duration patience = {}) const;

  // One try within an attempt that the caller makes: for protocols in which only the body says whether a request
  // failed, and that sign each try anew. `attempt` must be one of this client's dependency; `origin` and `request` must
  // outlive the task. Beyond Host, Content-Length, Connection and Accept nothing is added: what goes out is what was
  // signed. Errors, deadline and cancellation as above, without the policies'.
  runtime::Task<Response> Exchange(resilience::Attempt& attempt, const Origin& origin, const Request& request) const;

  resilience::HttpDependency& dependency() const { return dependency_; }

 private:
  class LookUps;

  resilience::HttpDependency& dependency_;
  const ClientConfig config_;
  // Shared with look-ups, which may outlive the client.
  const std::shared_ptr<LookUps> look_ups_;
};

}  // namespace nova::http
