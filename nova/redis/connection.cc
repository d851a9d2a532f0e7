#include "nova/redis/connection.h"

#include <boost/asio/buffer.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/write.hpp>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509_vfy.h>
#include <poll.h>
#include <utility>
#include <vector>

#include "nova/runtime/one_shot.h"

namespace nova::redis {
namespace {

using asio::ip::tcp;
using runtime::Call;
using runtime::CancelHook;
using runtime::OneShot;
using runtime::Task;
using runtime::use_task;
using ErrorCode = boost::system::error_code;

// Addresses of one name that are tried, in order, within the one timeout.
constexpr std::size_t kAddressesMax = 8;
// A peer that does not acknowledge for so long is gone.
constexpr int kTcpUserTimeoutMs = 10'000;

using Endpoints = std::vector<tcp::endpoint>;

Task<Endpoints> Resolve(Call& call, const std::string& host, int port) {
  ErrorCode not_an_address;
  const auto address = asio::ip::make_address(host, not_an_address);
  if (!not_an_address) co_return Endpoints{tcp::endpoint(address, static_cast<std::uint16_t>(port))};
  // A look-up under way cannot be stopped: it holds its own state, and a call that ends does not wait for it.
  const auto resolver = std::make_shared<tcp::resolver>(call.strand().io());
  const OneShot<Endpoints> done;
  resolver->async_resolve(host, std::to_string(port), tcp::resolver::numeric_service,
                          [resolver, done](const ErrorCode& error, const tcp::resolver::results_type& found) {
                            Endpoints endpoints;
                            for (const auto& entry : found) {
                              if (endpoints.size() == kAddressesMax) break;
                              endpoints.push_back(entry.endpoint());
                            }
                            (void)done.TrySet(error ? Result<Endpoints>(RedisUnavailable(error.message()))
                                                    : Result<Endpoints>(std::move(endpoints)));
                          });
  auto endpoints = co_await done.Wait(call);
  if (!endpoints) {
    resolver->cancel();
    co_return std::move(endpoints).error().WithContext("resolve the name");
  }
  co_return endpoints;
}

// What cannot be set costs only promptness.
void TuneSocket(tcp::socket& socket) {
  ErrorCode ignored;
  socket.set_option(tcp::no_delay(true), ignored);
  socket.set_option(asio::socket_base::keep_alive(true), ignored);
  using UserTimeout = asio::detail::socket_option::integer<IPPROTO_TCP, TCP_USER_TIMEOUT>;
  socket.set_option(UserTimeout(kTcpUserTimeoutMs), ignored);
}

// The remedy for a certificate that was refused.
std::string CertificateRefused(long why, const std::string& name) {
  const std::string reason = X509_verify_cert_error_string(why);
  if (why == X509_V_ERR_HOSTNAME_MISMATCH || why == X509_V_ERR_IP_ADDRESS_MISMATCH)
    return "Redis's certificate does not carry the name " + name + " (" + reason +
           "): set redis.server_name (NOVA_REDIS_SERVER_NAME) to a name it carries";
  return "Redis's certificate is not trusted (" + reason +
         "): redis.ca_path (NOVA_REDIS_CA_PATH) must name the authority that signed it";
}

}  // namespace

Error RedisUnavailable(std::string detail) { return Unavailable("Redis is unavailable", std::move(detail)); }

Connection::Connection(asio::io_context& io, std::int64_t reply_bytes_max) : socket_(io), parser_(reply_bytes_max) {}

Task<std::unique_ptr<Connection>> Connection::Open(Call& call, const ClientConfig& config) {
  NOVA_CO_TRY(call.Check());
  std::unique_ptr<Connection> connection(new Connection(call.strand().io(), config.reply_bytes_max));
  Result<void> connected = co_await connection->Connect(call, config);
  if (!connected)
    co_return std::move(connected).error().WithContext("connect to Redis at " + config.host + ":" +
                                                       std::to_string(config.port));
  co_return connection;
}

Task<void> Connection::Connect(Call& call, const ClientConfig& config) {
  NOVA_CO_TRY(co_await ConnectTcp(call, config));
  TuneSocket(socket_);
  if (config.tls) {
    std::optional<Error> ended;
    const CancelHook hook(call, [&](const Error& reason) {
      ended = reason;
      Close();
    });
    Result<void> secured = co_await ConnectTls(config);
    if (ended) co_return std::move(*ended).WithContext("TLS");
    if (!secured) co_return std::move(secured).error().WithContext("TLS");
  }
  co_return co_await LogIn(call, config);
}

Task<void> Connection::ConnectTcp(Call& call, const ClientConfig& config) {
  NOVA_CO_TRY(const Endpoints endpoints, co_await Resolve(call, config.host, config.port));
  std::optional<Error> ended;
  const CancelHook hook(call, [&](const Error& reason) {
    ended = reason;
    Close();
  });
  ErrorCode error = asio::error::host_not_found;
  for (const tcp::endpoint& endpoint : endpoints) {
    if (ended) break;
    Close();
    co_await socket_.async_connect(endpoint, asio::redirect_error(use_task, error));
    if (!error) break;
  }
  if (ended) co_return *std::move(ended);
  if (error) co_return RedisUnavailable(error.message() + ": is it running, and are redis.host and redis.port right?");
  co_return Ok();
}

Task<void> Connection::ConnectTls(const ClientConfig& config) {
  tls_context_.emplace(asio::ssl::context::tls_client);
  SSL_CTX_set_min_proto_version(tls_context_->native_handle(), TLS1_3_VERSION);
  ErrorCode error;
  tls_context_->load_verify_file(config.ca_path, error);
  ERR_clear_error();
  if (error)
    co_return RedisUnavailable("redis.ca_path (NOVA_REDIS_CA_PATH): no certificate can be read from " + config.ca_path +
                               ": " + error.message());
  tls_.emplace(socket_, *tls_context_);
  SSL* const ssl = tls_->native_handle();
  tls_->set_verify_mode(asio::ssl::verify_peer, error);
  const std::string& name = config.server_name.empty() ? config.host : config.server_name;
  ErrorCode not_an_address;
  asio::ip::make_address(name, not_an_address);
  // An address is not a name: it is looked for elsewhere in the certificate, and is not sent as SNI.
  const bool expects = not_an_address
                           ? SSL_set1_host(ssl, name.c_str()) == 1 && SSL_set_tlsext_host_name(ssl, name.c_str()) == 1
                           : X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), name.c_str()) == 1;
  if (error || !expects)
    co_return RedisUnavailable("redis.server_name (NOVA_REDIS_SERVER_NAME): no certificate can carry " + name);
  SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
  co_await tls_->async_handshake(asio::ssl::stream_base::client, asio::redirect_error(use_task, error));
  if (!error) co_return Ok();
  if (const long why = SSL_get_verify_result(ssl); why != X509_V_OK)
    co_return RedisUnavailable(CertificateRefused(why, name));
  co_return RedisUnavailable(error.message() + ": does Redis listen with TLS 1.3 on redis.port?");
}

Task<void> Connection::LogIn(Call& call, const ClientConfig& config) {
  if (!config.password.empty()) {
    std::vector<std::string_view> arguments = {"AUTH"};
    if (!config.user.empty()) arguments.emplace_back(config.user);
    arguments.emplace_back(config.password.Expose());
    const Secret<> command(Format(arguments));
    NOVA_CO_TRY(const Reply reply, co_await Exchange(call, command.Expose()));
    if (reply.is_error()) co_return RedisUnavailable(ToError(reply).detail());
  }
  // A server that loads its data lets one log in, but answers nothing else.
  NOVA_CO_TRY(const Reply pong, co_await Exchange(call, Format(Command("PING"))));
  if (pong.is_error()) co_return RedisUnavailable(ToError(pong).detail());
  co_return Ok();
}

Task<Reply> Connection::Exchange(Call& call, std::string_view command) {
  NOVA_CO_TRY(call.Check());
  std::optional<Error> ended;
  const CancelHook hook(call, [&](const Error& reason) {
    ended = reason;
    Close();
  });
  Result<void> moved = co_await Write(command);
  while (moved && !ended) {
    auto reply = Next();
    if (!reply) {
      moved = std::move(reply).error();
    } else if (*reply) {
      co_return **std::move(reply);
    } else {
      moved = co_await Read();
    }
  }
  Close();
  if (ended) co_return *std::move(ended);
  co_return std::move(moved).error();
}

Task<void> Connection::Write(std::string_view bytes) {
  ErrorCode error;
  if (tls_) {
    co_await asio::async_write(*tls_, asio::buffer(bytes), asio::redirect_error(use_task, error));
  } else {
    co_await asio::async_write(socket_, asio::buffer(bytes), asio::redirect_error(use_task, error));
  }
  if (error) co_return RedisUnavailable("the connection broke: " + error.message());
  co_return Ok();
}

Task<void> Connection::Read() {
  ErrorCode error;
  std::size_t size = 0;
  if (tls_) {
    size = co_await tls_->async_read_some(asio::buffer(received_), asio::redirect_error(use_task, error));
  } else {
    size = co_await socket_.async_read_some(asio::buffer(received_), asio::redirect_error(use_task, error));
  }
  if (error == asio::error::eof || error == asio::ssl::error::stream_truncated)
    co_return RedisUnavailable("Redis closed the connection");
  if (error) co_return RedisUnavailable("the connection broke: " + error.message());
  co_return parser_.Feed({received_.data(), size});
}

void Connection::Close() {
  ErrorCode ignored;
  socket_.close(ignored);
}

bool Connection::PeerIsSilent() {
  if (!socket_.is_open()) return false;
  pollfd socket{.fd = socket_.native_handle(), .events = POLLIN, .revents = 0};
  return ::poll(&socket, 1, 0) == 0;
}

}  // namespace nova::redis
