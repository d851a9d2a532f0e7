// Bare TCP, to see what a port says to a client that does not speak its protocol, or not well.
#pragma once

#include <boost/asio/ip/tcp.hpp>
#include <string>
#include <string_view>

#include "nova/base/result.h"
#include "nova/runtime/call.h"
#include "nova/runtime/task.h"

namespace nova::audit {

struct HostPort {
  std::string host;
  int port = 0;
};

// "host:port" or "[::1]:port". Errors: INVALID_ARGUMENT.
Result<HostPort> ParseTarget(std::string_view target);

// Connects `socket`, which whoever calls it closes when the call ends. Errors: UNAVAILABLE; the end of the call.
runtime::Task<void> Open(runtime::Call& call, const HostPort& target, boost::asio::ip::tcp::socket& socket);

// Returns when the port accepted a connection, which is closed again. Errors: UNAVAILABLE; the end of the call.
// Cancellation: at once.
runtime::Task<void> Connects(runtime::Call& call, HostPort target);

}  // namespace nova::audit
