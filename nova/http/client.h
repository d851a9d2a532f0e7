// A small HTTP/1.1 client for what the platform asks by itself: probes, scrapes, the admin ports of peers. One
// connection per request, plaintext.
#pragma once

#include <string>

#include "nova/base/result.h"
#include "nova/http/message.h"
#include "nova/runtime/call.h"
#include "nova/runtime/task.h"

namespace nova::http {

struct ClientConfig {
  int header_bytes_max = 16 * 1024;
  int body_bytes_max = 8 * 1024 * 1024;
};

// Stateless but for its limits; thread-safe.
class Client {
 public:
  explicit Client(ClientConfig config = {}) : config_(config) {}

  // GET http://host:port<path>, whatever the status of the answer. `host` is a name or an address; names are resolved
  // without blocking the caller's thread.
  // Errors: UNAVAILABLE (not resolved, refused, broken off, not HTTP), RESOURCE_EXHAUSTED (the answer is over a limit),
  // why the call ended. Cancellation: closes the socket at once. Deadline: the call's; a call without one may wait for
  // ever.
  runtime::Task<Response> Get(runtime::Call& call, std::string host, int port, std::string path) const;

 private:
  ClientConfig config_;
};

}  // namespace nova::http
