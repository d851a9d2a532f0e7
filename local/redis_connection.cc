#include "local/redis_connection.h"

#include <array>
#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/asio/write.hpp>
#include <cstdlib>
#include <fmt/format.h>
#include <hiredis/hiredis.h>
#include <optional>

namespace nova::local {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;

constexpr std::size_t kReadBytes = 16384;

struct FreeReader {
  void operator()(redisReader* reader) const { ::redisReaderFree(reader); }
};
struct FreeReply {
  void operator()(redisReply* reply) const { ::freeReplyObject(reply); }
};

std::string TextOf(const redisReply& reply) {
  return reply.str == nullptr ? std::string() : std::string(reply.str, static_cast<std::size_t>(reply.len));
}

RedisReply Converted(const redisReply& reply) {
  RedisReply converted{.nil = reply.type == REDIS_REPLY_NIL, .integer = reply.integer, .text = TextOf(reply)};
  for (std::size_t i = 0; i < reply.elements; ++i) converted.elements.push_back(Converted(*reply.element[i]));
  return converted;
}

// The first word of a refusal is its kind.
Error Refusal(std::string text) {
  const std::string_view kind = std::string_view(text).substr(0, text.find(' '));
  if (kind == "LOADING" || kind == "BUSY" || kind == "MASTERDOWN") return Unavailable(std::move(text));
  if (kind == "WRONGPASS" || kind == "NOAUTH") return Unauthenticated(std::move(text));
  if (kind == "NOPERM") return PermissionDenied(std::move(text));
  return Internal(std::move(text));
}

}  // namespace

struct RedisConnection::State {
  State(int port_of_server, asio::ssl::context settings) : port(port_of_server), tls(std::move(settings)) {}

  // Runs one asynchronous operation to its end; after `end` it is ended by closing the socket.
  template <class Start>
  Result<std::size_t> Await(SteadyTime end, std::string_view what, Start start) {
    std::optional<error_code> done;
    std::size_t count = 0;
    start([&](error_code error, std::size_t n = 0) {
      done = error;
      count = n;
    });
    context.restart();
    context.run_until(end);
    if (!done) {
      error_code ignored;
      stream.lowest_layer().close(ignored);
      context.restart();
      context.run();
      return DeadlineExceeded(fmt::format("Redis on port {} does not answer", port), std::string(what));
    }
    if (*done) return Unavailable(fmt::format("{} Redis on port {}: {}", what, port, done->message()));
    return count;
  }

  const int port;
  asio::io_context context{1};
  asio::ssl::context tls;
  asio::ssl::stream<asio::ip::tcp::socket> stream{context, tls};
  std::unique_ptr<redisReader, FreeReader> reader{::redisReaderCreate()};
};

RedisConnection::RedisConnection(std::unique_ptr<State> state) : state_(std::move(state)) {}
RedisConnection::RedisConnection(RedisConnection&&) noexcept = default;
RedisConnection& RedisConnection::operator=(RedisConnection&&) noexcept = default;
RedisConnection::~RedisConnection() = default;

Result<RedisConnection> RedisConnection::Open(const RedisTarget& target, Duration limit) {
  const SteadyTime end = Clock::System().Now() + limit;
  error_code error;
  asio::ssl::context tls(asio::ssl::context::tls_client);
  ::SSL_CTX_set_min_proto_version(tls.native_handle(), TLS1_3_VERSION);
  tls.set_verify_mode(asio::ssl::verify_peer);
  tls.set_verify_callback(asio::ssl::host_name_verification(target.server_name));
  tls.load_verify_file(target.ca_file.string(), error);
  if (error) return Unavailable(fmt::format("cannot read {}: {}", target.ca_file.string(), error.message()));
  auto state = std::make_unique<State>(target.port, std::move(tls));
  State& s = *state;
  NOVA_TRY(s.Await(end, "cannot connect to", [&](auto handler) {
    s.stream.lowest_layer().async_connect(
        {asio::ip::address_v4::loopback(), static_cast<asio::ip::port_type>(target.port)}, handler);
  }));
  NOVA_TRY(s.Await(end, "no TLS with",
                   [&](auto handler) { s.stream.async_handshake(asio::ssl::stream_base::client, handler); }));
  RedisConnection connection(std::move(state));
  NOVA_TRY(connection.Execute({"AUTH", target.user, target.password.Expose()}, end - Clock::System().Now()));
  return connection;
}

Result<RedisReply> RedisConnection::Execute(const std::vector<std::string>& arguments, Duration limit) {
  State& s = *state_;
  const SteadyTime end = Clock::System().Now() + limit;
  std::string command = fmt::format("*{}\r\n", arguments.size());
  for (const std::string& argument : arguments) command += fmt::format("${}\r\n{}\r\n", argument.size(), argument);
  auto sent = s.Await(end, "cannot write to",
                      [&](auto handler) { asio::async_write(s.stream, asio::buffer(command), handler); });
  // It may have been a password.
  WipeMemory(command.data(), command.size());
  if (!sent) return std::move(sent).error();
  while (true) {
    void* complete = nullptr;
    if (::redisReaderGetReply(s.reader.get(), &complete) != REDIS_OK) {
      return Unavailable(fmt::format("what Redis on port {} says is not understood", s.port), s.reader->errstr);
    }
    if (complete != nullptr) {
      const std::unique_ptr<redisReply, FreeReply> reply(static_cast<redisReply*>(complete));
      if (reply->type == REDIS_REPLY_ERROR) return Refusal(TextOf(*reply));
      return Converted(*reply);
    }
    std::array<char, kReadBytes> chunk;
    NOVA_TRY(const std::size_t got, s.Await(end, "cannot read from", [&](auto handler) {
      s.stream.async_read_some(asio::buffer(chunk), handler);
    }));
    ::redisReaderFeed(s.reader.get(), chunk.data(), got);
  }
}

}  // namespace nova::local
