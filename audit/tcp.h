// Bare TCP, to see what a port says to a client that does not speak its protocol.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>

#include "nova/base/result.h"
#include "nova/runtime/call.h"
#include "nova/runtime/task.h"

namespace nova::audit {

// More than any refusal needs; what comes beyond it is not read.
inline constexpr std::size_t kAnswerBytesMax = 16 * 1024;

struct HostPort {
  std::string host;
  int port = 0;
};

// "host:port" or "[::1]:port". Errors: INVALID_ARGUMENT.
Result<HostPort> ParseTarget(std::string_view target);

// Returns when the port accepted a connection, which is closed again. Errors: UNAVAILABLE; the end of the call.
// Cancellation: at once.
runtime::Task<void> Connects(runtime::Call& call, HostPort target);

struct Answer {
  std::string bytes;
  // By the peer, within the time given.
  bool closed = false;
};

// Connects, sends `bytes` and reads until the peer closes or has said `enough`, for `limit` after the connection at
// most. Errors: UNAVAILABLE if there is no connection; the end of the call. Cancellation: at once.
runtime::Task<Answer> Converse(runtime::Call& call, HostPort target, std::string bytes, Duration limit,
                               std::function<bool(std::string_view said)> enough);

}  // namespace nova::audit
