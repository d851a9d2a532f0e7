#include "nova/http/server.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <boost/asio/buffer.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/http/status.hpp>
#include <ctime>
#include <map>
#include <utility>

#include "nova/http/parse.h"
#include "nova/runtime/scope.h"
#include "nova/telemetry/log.h"

namespace nova::http {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using runtime::Call;
using runtime::CancelHook;
using runtime::Task;
using runtime::use_task;
using namespace std::chrono_literals;

constexpr int kBacklog = 128;
// How long a connection we end is read on, so that the peer gets our last words instead of a reset.
constexpr auto kLinger = 1s;
// Connections over the limit that are told so; more are closed without a word.
constexpr int kRefusalsMax = 64;
// After accept failed, mostly for want of file descriptors.
constexpr auto kAcceptRetry = 100ms;

int StatusOf(Code code) {
  switch (code) {
    case Code::kOk:
      return 200;
    case Code::kInvalidArgument:
    case Code::kFailedPrecondition:
    case Code::kOutOfRange:
      return 400;
    case Code::kUnauthenticated:
      return 401;
    case Code::kPermissionDenied:
      return 403;
    case Code::kNotFound:
      return 404;
    case Code::kAlreadyExists:
    case Code::kAborted:
      return 409;
    case Code::kResourceExhausted:
      return 429;
    case Code::kUnimplemented:
      return 501;
    case Code::kCancelled:
    case Code::kUnavailable:
      return 503;
    case Code::kDeadlineExceeded:
      return 504;
    case Code::kUnknown:
    case Code::kInternal:
    case Code::kDataLoss:
      return 500;
  }
  return 500;
}

Response Plain(int status, std::string_view text) {
  return Response{.status = status, .body = std::string(text) + "\n"};
}

std::string HttpDate() {
  const std::time_t now = std::chrono::system_clock::to_time_t(Clock::System().WallNow());
  std::tm parts{};
  gmtime_r(&now, &parts);
  std::array<char, 40> text;
  const std::size_t size = std::strftime(text.data(), text.size(), "%a, %d %b %Y %H:%M:%S GMT", &parts);
  return {text.data(), size};
}

bool IsToken(std::string_view text) {
  constexpr std::string_view kMarks = "!#$%&'*+-.^_`|~";
  return !text.empty() && std::ranges::all_of(text, [&](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           kMarks.find(c) != std::string_view::npos;
  });
}

// A handler that copies input into a header must not be able to split the response.
bool IsSendable(const Response& response) {
  const auto valid = [](std::string_view value) {
    return std::ranges::all_of(value, [](char c) {
      const auto byte = static_cast<unsigned char>(c);
      return byte == '\t' || (byte >= 0x20 && byte != 0x7f);
    });
  };
  if (response.status < 200 || response.status > 999 || !valid(response.content_type)) return false;
  return std::ranges::all_of(response.headers,
                             [&](const auto& entry) { return IsToken(entry.first) && valid(entry.second); });
}

// What was read: a request, or the reason why there is none.
struct Incoming {
  Request request = {};
  bool keep_alive = false;
  // HTTP/1.0 keeps a connection only if the answer says so.
  bool old_protocol = false;
  // Not 200: answer this and close.
  Response refusal = {};
};

Incoming Refuse(int status, std::string_view text) { return Incoming{.refusal = Plain(status, text)}; }

Incoming RefuseUnparsable(const beast::error_code& error) {
  if (error == wire::error::header_limit) return Refuse(431, "the header is too large");
  if (error == wire::error::body_limit || error == wire::error::buffer_overflow)
    return Refuse(413, "the body is too large");
  return Refuse(400, "this is not an HTTP request");
}

std::string Head(const Response& response, const Incoming& to, bool keep_alive) {
  const auto reason = wire::obsolete_reason(wire::int_to_status(static_cast<unsigned>(response.status)));
  std::string head = "HTTP/1.1 " + std::to_string(response.status) + " ";
  head.append(reason.data(), reason.size()).append("\r\nDate: ").append(HttpDate()).append("\r\n");
  if (response.status != 204 && response.status != 304) {
    if (!response.content_type.empty()) head.append("Content-Type: ").append(response.content_type).append("\r\n");
    head.append("Content-Length: ").append(std::to_string(response.body.size())).append("\r\n");
  }
  if (!keep_alive) {
    head.append("Connection: close\r\n");
  } else if (to.old_protocol) {
    head.append("Connection: keep-alive\r\n");
  }
  for (const auto& [name, value] : response.headers) head.append(name).append(": ").append(value).append("\r\n");
  head.append("\r\n");
  return head;
}

// Runs on one socket and one strand. TLS belongs here: the stream becomes ssl::stream<tcp::socket>, and Serve begins
// with its handshake, under read_timeout.
class Connection {
 public:
  Connection(tcp::socket socket, std::atomic<int>& count) : socket_(std::move(socket)), count_(count) { ++count_; }
  ~Connection() { --count_; }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // Yields a request or a refusal. Errors: the connection is over, without an answer.
  Task<Incoming> Read(Call& call, const ServerConfig& config);
  // Errors: the peer is gone or too slow.
  Task<void> Write(Call& call, std::string_view head, std::string_view body, Duration timeout);
  // Says that nothing more comes and reads until the peer agrees, kLinger at most.
  Task<void> Close(Call& call);

 private:
  // False: nothing more can be read.
  Task<bool> ReadSome(const bool& ended);

  tcp::socket socket_;
  std::atomic<int>& count_;
  beast::flat_buffer buffer_;
};

Task<bool> Connection::ReadSome(const bool& ended) {
  if (ended) co_return false;
  beast::error_code error;
  const std::size_t size =
      co_await socket_.async_read_some(buffer_.prepare(kReadChunk), asio::redirect_error(use_task, error));
  buffer_.commit(size);
  co_return !error;
}

Task<Incoming> Connection::Read(Call& connection, const ServerConfig& config) {
  wire::request_parser<wire::string_body> parser;
  parser.header_limit(static_cast<std::uint32_t>(config.header_bytes_max));
  parser.body_limit(static_cast<std::uint64_t>(config.body_bytes_max));
  parser.eager(true);

  Call call(connection, config.read_timeout);
  bool ended = false;
  // Cancelled, not closed: a slow client is told so.
  const CancelHook hook(call, [&](const Error&) {
    ended = true;
    beast::error_code ignored;
    socket_.cancel(ignored);
  });

  bool begun = false;
  bool continued = false;
  for (;;) {
    begun = begun || buffer_.size() > 0;
    if (const auto error = Feed(parser, buffer_)) co_return RefuseUnparsable(error);
    if (parser.is_done()) break;
    // What the parser leaves behind is a header or chunk header that has no end yet.
    if (buffer_.size() > static_cast<std::size_t>(config.header_bytes_max))
      co_return Refuse(431, "the header is too large");
    if (parser.is_header_done() && !continued && beast::iequals(parser.get()[wire::field::expect], "100-continue")) {
      continued = true;
      NOVA_CO_TRY(co_await Write(call, "HTTP/1.1 100 Continue\r\n\r\n", "", config.write_timeout));
    }
    NOVA_CO_TRY(const bool open, co_await ReadSome(ended));
    if (open) continue;
    NOVA_CO_TRY(connection.Check());
    if (ended && begun) co_return Refuse(408, "the request took too long");
    co_return Unavailable("the connection is closed");
  }

  const auto& message = parser.get();
  Incoming incoming{.keep_alive = message.keep_alive(), .old_protocol = message.version() < 11};
  if (message.version() > 11) co_return Refuse(505, "HTTP/1.1 is spoken here");
  if (message.version() == 11 && message.count(wire::field::host) != 1)
    co_return Refuse(400, "one Host header is needed");
  Request& request = incoming.request;
  request.method = std::string(message.method_string());
  std::string_view target(message.target().data(), message.target().size());
  if (const std::size_t scheme = target.find("://"); !target.starts_with('/') && scheme != std::string_view::npos) {
    // The absolute form, as proxies use it.
    const std::size_t path = target.find('/', scheme + 3);
    target = path == std::string_view::npos ? "/" : target.substr(path);
  }
  if (!target.starts_with('/')) co_return Refuse(400, "the target must be a path");
  const std::size_t question = std::min(target.find('?'), target.size());
  request.path = std::string(target.substr(0, question));
  if (question < target.size()) request.query = std::string(target.substr(question + 1));
  request.headers = CopyHeaders(message);
  request.body = std::move(parser.get().body());
  co_return incoming;
}

Task<void> Connection::Write(Call& connection, std::string_view head, std::string_view body, Duration timeout) {
  Call call(connection, timeout);
  // Closed, not cancelled: every later step of the composed write fails as well.
  const CancelHook hook(call, [this](const Error&) {
    beast::error_code ignored;
    socket_.close(ignored);
  });
  const std::array<asio::const_buffer, 2> parts = {asio::buffer(head), asio::buffer(body)};
  beast::error_code error;
  co_await asio::async_write(socket_, parts, asio::redirect_error(use_task, error));
  if (error) co_return Unavailable("the connection is closed", error.message());
  co_return Ok();
}

Task<void> Connection::Close(Call& connection) {
  beast::error_code ignored;
  socket_.shutdown(tcp::socket::shutdown_send, ignored);
  Call call(connection, kLinger);
  bool ended = false;
  const CancelHook hook(call, [&](const Error&) {
    ended = true;
    beast::error_code also_ignored;
    socket_.cancel(also_ignored);
  });
  for (bool open = true; open;) {
    buffer_.clear();
    NOVA_CO_TRY(open, co_await ReadSome(ended));
  }
  socket_.close(ignored);
  co_return Ok();
}

}  // namespace

struct Server::State {
  State(runtime::Runtime& on, ServerConfig with) : runtime(on), config(std::move(with)), acceptor(on.io()), scope(on) {}

  Task<void> Accept(Call& call);
  void Admit(tcp::socket socket);
  Task<void> Serve(Call& call, std::shared_ptr<Connection> connection);
  Task<void> TurnAway(Call& call, std::shared_ptr<Connection> connection);
  Task<Response> Answer(Call& connection, const Request& request);
  Task<Response> RunHandler(Call& connection, const Request& request, const Handler& handler);

  // Constant after Start.
  runtime::Runtime& runtime;
  const ServerConfig config;
  std::map<std::string, std::map<std::string, Handler, std::less<>>, std::less<>> routes;  // by path, then method
  int port = 0;
  // Confined to the strand of Accept.
  tcp::acceptor acceptor;

  std::atomic<int> connections = 0;
  std::atomic<int> refusals = 0;
  runtime::Scope scope;  // last: its tasks use all of the above
};

Server::Server(runtime::Runtime& runtime, ServerConfig config)
    : state_(std::make_unique<State>(runtime, std::move(config))) {}

Server::~Server() = default;

void Server::Handle(std::string method, std::string path, Handler handler) {
  state_->routes[std::move(path)][std::move(method)] = std::move(handler);
}

int Server::port() const { return state_->port; }

Result<void> Server::Start() {
  State& state = *state_;
  const ServerConfig& config = state.config;
  const std::string where = config.port_setting + ": port " + std::to_string(config.port) + " of " + config.address;
  if (config.port < 0 || config.port > 65535) return InvalidArgument(where + " must be from 0 to 65535");
  beast::error_code error;
  const auto address = asio::ip::make_address(config.address, error);
  if (error) return InvalidArgument(where + " cannot be bound: the address must be numeric, such as 127.0.0.1");
  const tcp::endpoint endpoint(address, static_cast<std::uint16_t>(config.port));
  state.acceptor.open(endpoint.protocol(), error);
  if (!error) state.acceptor.set_option(tcp::acceptor::reuse_address(true), error);
  if (!error) state.acceptor.bind(endpoint, error);
  if (!error) state.acceptor.listen(kBacklog, error);
  if (!error) state.port = state.acceptor.local_endpoint(error).port();
  if (error) {
    beast::error_code ignored;
    state.acceptor.close(ignored);
    if (error == asio::error::address_in_use)
      return InvalidArgument(where + " is taken; stop what listens there or choose another port");
    return InvalidArgument(where + " cannot be bound: " + error.message());
  }
  state.scope.Spawn("http accept " + config.address + ":" + std::to_string(state.port),
                    [&state](Call& call) { return state.Accept(call); });
  return Ok();
}

Result<void> Server::Stop(Duration limit) { return state_->scope.Stop(limit); }

Task<void> Server::State::Accept(Call& call) {
  bool ended = false;
  const CancelHook hook(call, [&](const Error&) {
    ended = true;
    beast::error_code ignored;
    acceptor.close(ignored);
  });
  bool failing = false;
  while (!ended) {
    tcp::socket socket(runtime.io());
    beast::error_code error;
    co_await acceptor.async_accept(socket, asio::redirect_error(use_task, error));
    if (ended) break;
    if (error) {
      // Said once: a process without file descriptors must not fill its log as well.
      if (!std::exchange(failing, true))
        telemetry::LogWarn("cannot accept connections", {{"port", port}, {"reason", error.message()}});
      NOVA_CO_TRY(co_await runtime::Sleep(call, kAcceptRetry));
      continue;
    }
    failing = false;
    Admit(std::move(socket));
  }
  co_return Ok();
}

void Server::State::Admit(tcp::socket socket) {
  if (connections < config.connections_max) {
    const auto connection = std::make_shared<Connection>(std::move(socket), connections);
    scope.Spawn("http connection", [this, connection](Call& call) { return Serve(call, connection); });
  } else if (refusals < kRefusalsMax) {
    const auto connection = std::make_shared<Connection>(std::move(socket), refusals);
    scope.Spawn("http refusal", [this, connection](Call& call) { return TurnAway(call, connection); });
  }
  // Else it is closed with the socket.
}

Task<void> Server::State::TurnAway(Call& call, std::shared_ptr<Connection> connection) {
  const Response busy = Plain(503, "too many connections, try again later");
  const std::string head = Head(busy, {}, false);
  NOVA_CO_TRY(co_await connection->Write(call, head, busy.body, kLinger));
  co_return co_await connection->Close(call);
}

// The errors that end a connection are the peer's, or ours to stop: nobody is interested.
Task<void> Server::State::Serve(Call& call, std::shared_ptr<Connection> connection) {
  for (bool keep_alive = true; keep_alive;) {
    auto incoming = co_await connection->Read(call, config);
    if (!incoming) co_return Ok();
    const bool refused = incoming->refusal.status != 200;
    keep_alive = incoming->keep_alive && !refused;
    Response response = std::move(incoming->refusal);
    if (!refused) {
      auto answered = co_await Answer(call, incoming->request);
      if (!answered) co_return Ok();
      response = *std::move(answered);
    }
    const bool bodiless = incoming->request.method == "HEAD" || response.status == 204 || response.status == 304;
    const std::string head = Head(response, *incoming, keep_alive);
    const std::string_view body = bodiless ? std::string_view() : std::string_view(response.body);
    if (!co_await connection->Write(call, head, body, config.write_timeout)) co_return Ok();
  }
  (void)co_await connection->Close(call);
  co_return Ok();
}

Task<Response> Server::State::Answer(Call& connection, const Request& request) {
  const auto path = routes.find(request.path);
  if (path == routes.end()) co_return Plain(404, "there is nothing here");
  auto route = path->second.find(request.method);
  if (route == path->second.end() && request.method == "HEAD") route = path->second.find("GET");
  if (route == path->second.end()) {
    std::string allowed;
    for (const auto& [method, handler] : path->second) {
      allowed.append(allowed.empty() ? "" : ", ").append(method);
      if (method == "GET" && !path->second.contains("HEAD")) allowed.append(", HEAD");
    }
    Response response = Plain(405, "this method is not allowed here");
    response.headers.Add("Allow", std::move(allowed));
    co_return response;
  }
  auto response = co_await RunHandler(connection, request, route->second);
  NOVA_CO_TRY(connection.Check());
  if (!response) {
    const Error& error = response.error();
    const int status = StatusOf(error.code());
    const telemetry::Level level = status >= 500 ? telemetry::Level::kWarn : telemetry::Level::kDebug;
    telemetry::Log(level, "http request failed",
                   {{"method", request.method}, {"path", request.path}, {"status", status}, {"error", error}});
    co_return Plain(status, error.message());
  }
  if (!IsSendable(*response)) {
    telemetry::LogError("http handler made a response that cannot be sent",
                        {{"method", request.method}, {"path", request.path}, {"status", response->status}});
    co_return Plain(500, "internal error");
  }
  co_return response;
}

Task<Response> Server::State::RunHandler(Call& connection, const Request& request, const Handler& handler) {
  runtime::CallOptions options;
  options.deadline = Clock::System().Now() + config.handler_timeout;
  if (const auto trace = runtime::TraceContext::Parse(request.headers.Get("traceparent")))
    options.trace = trace->Child();
  Call call(connection.strand(), std::move(options));
  const CancelHook link(connection, [&call](const Error& reason) { call.Cancel(reason); });
  // The one place where a handler's bug ends: it costs a request, not the process.
  try {
    co_return co_await handler(call, request);
  } catch (const std::exception& bug) {
    telemetry::LogError("http handler threw",
                        {{"method", request.method}, {"path", request.path}, {"what", bug.what()}});
  }
  co_return Internal("internal error");
}

}  // namespace nova::http
