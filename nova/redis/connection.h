// Connection: one connection to Redis, TCP or TLS, logged in. It knows bytes and replies; deadlines and order are made
// of it by Pipeline, for many commands at once, and by Exchange, for one.
#pragma once

#include <array>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "nova/base/clock.h"
#include "nova/base/result.h"
#include "nova/redis/config.h"
#include "nova/redis/parser.h"
#include "nova/redis/reply.h"
#include "nova/runtime/call.h"
#include "nova/runtime/task.h"

namespace nova::redis {

namespace asio = boost::asio;

// The error of a Redis that cannot be reached; `detail` says why, and the remedy if there is one.
Error RedisUnavailable(std::string detail);

// Confined to the strand of the call that uses it; may be handed to another between two uses.
class Connection {
 public:
  // Resolves, connects, makes TLS (reading the authorities anew), logs in, and asks once: what it returns has answered.
  // `config` must live until it returns. Errors: UNAVAILABLE naming the address, the step and, where one can help, the
  // setting; why the call ended. Cancellation: at once.
  static runtime::Task<std::unique_ptr<Connection>> Open(runtime::Call& call, const ClientConfig& config);

  // Sends one command and reads its reply, with nothing else on the way. An error of the server is a Reply. After any
  // other error the connection is closed. Errors: UNAVAILABLE; why the call ended. Cancellation: at once, by closing.
  runtime::Task<Reply> Exchange(runtime::Call& call, std::string_view command);

  // The halves of Exchange. Neither knows a call: Close ends them. A Write and a Read may run side by side, two of one
  // kind may not. Errors: UNAVAILABLE.
  runtime::Task<void> Write(std::string_view bytes);
  runtime::Task<void> Read();
  // The next complete reply of what was read. Errors: as Parser::Next.
  Result<std::optional<Reply>> Next() { return parser_.Next(); }
  void Close();

  // When it began to be opened: it was verified with the authorities of then, or later ones.
  SteadyTime begun() const { return begun_; }

  // False if the peer has closed, or said something nobody asked for. Precondition: nothing is on the way.
  bool PeerIsSilent();

 private:
  using Socket = asio::ip::tcp::socket;

  Connection(asio::io_context& io, std::int64_t reply_bytes_max);
  runtime::Task<void> Connect(runtime::Call& call, const ClientConfig& config);
  runtime::Task<void> ConnectTcp(runtime::Call& call, const ClientConfig& config);
  runtime::Task<void> ConnectTls(const ClientConfig& config);
  runtime::Task<void> LogIn(runtime::Call& call, const ClientConfig& config);

  const SteadyTime begun_ = Clock::System().Now();
  Socket socket_;
  // Empty without TLS. The context outlives the stream.
  std::optional<asio::ssl::context> tls_context_;
  std::optional<asio::ssl::stream<Socket&>> tls_;
  Parser parser_;
  std::array<char, 16 * 1024> received_;
};

}  // namespace nova::redis
