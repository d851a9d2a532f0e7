// A small HTTP/1.1 client for what the platform asks by itself: probes, scrapes, the admin ports of peers. One
// connection per request, plaintext.
#pragma once

#include <memory>
#include <string>

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
};

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

 private:
  class LookUps;

  runtime::Task<Response> Try(resilience::Attempt& attempt, const std::string& host, int port,
                              const std::string& path) const;

  resilience::HttpDependency& dependency_;
  const ClientConfig config_;
  // Shared with look-ups, which may outlive the client.
  const std::shared_ptr<LookUps> look_ups_;
};

}  // namespace nova::http
