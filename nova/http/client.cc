#include "nova/http/client.h"

#include <algorithm>
#include <array>
#include <boost/asio/ip/tcp.hpp>
#include <charconv>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "nova/base/secret.h"
#include "nova/http/connection.h"
#include "nova/http/parse.h"
#include "nova/runtime/one_shot.h"

namespace nova::http {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using resilience::Attempt;
using resilience::Bulkhead;
using runtime::Call;
using runtime::CancelHook;
using runtime::Task;

constexpr int kHttpPort = 80;
constexpr int kHttpsPort = 443;
// Interim answers (1xx) before the answer; nobody asked for any.
constexpr int kInterimAnswersMax = 8;
// What the client writes by itself.
constexpr std::array<std::string_view, 4> kOwnHeaders = {"content-length", "connection", "transfer-encoding", "accept"};

Error Broken(const std::string& what, std::string_view reason) {
  return Unavailable("the server could not be reached", what + ": " + std::string(reason));
}

bool IsVisible(std::string_view text) {
  return std::ranges::all_of(text, [](char c) { return c > 0x20 && c < 0x7f; });
}

// A look-up of a name, which lives until it is over.
struct LookUp {
  explicit LookUp(const runtime::Strand& strand) : resolver(strand) {}
  tcp::resolver resolver;
  bool over = false;
};

bool IsToken(std::string_view text) {
  constexpr std::string_view kAlso = "!#$%&'*+-.^_`|~";
  return !text.empty() && std::ranges::all_of(text, [&](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           kAlso.find(c) != std::string_view::npos;
  });
}

bool IsFieldValue(std::string_view text) {
  return std::ranges::none_of(text,
                              [](char c) { return (static_cast<unsigned char>(c) < 0x20 && c != '\t') || c == 0x7f; });
}

std::string Lower(std::string_view text) {
  std::string lower(text);
  std::ranges::transform(lower, lower.begin(),
                         [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
  return lower;
}

// For messages: without the query, which may hold what is nobody's business.
std::string Describe(const Origin& origin, const Request& request) {
  return request.method + (origin.tls ? " https://" : " http://") + origin.Authority() + request.path;
}

// Nothing that comes from elsewhere may end a line of the request and begin another.
Result<void> Check(const Origin& origin, const Request& request) {
  if (origin.host.empty() || !IsVisible(origin.host) || origin.port < 1 || origin.port > 65535 ||
      !request.path.starts_with('/') || !IsVisible(request.path) || !IsVisible(request.query))
    return InvalidArgument("this is not an address to ask: " + Describe(origin, request));
  if (!IsToken(request.method)) return InvalidArgument("this is not a method of HTTP");
  for (const auto& [name, value] : request.headers) {
    if (!IsToken(name) || !IsFieldValue(value)) return InvalidArgument("a header is not one of HTTP", "named " + name);
    if (std::ranges::find(kOwnHeaders, Lower(name)) != kOwnHeaders.end())
      return InvalidArgument("the header " + name + " is the client's own");
  }
  return Ok();
}

std::string Serialize(const Origin& origin, const Request& request) {
  std::string text = request.method + " " + request.path;
  if (!request.query.empty()) text += "?" + request.query;
  text += " HTTP/1.1\r\n";
  if (!request.headers.Has("Host")) text += "Host: " + origin.Authority() + "\r\n";
  for (const auto& [name, value] : request.headers) text.append(name).append(": ").append(value).append("\r\n");
  if (!request.body.empty() || request.method == "POST" || request.method == "PUT")
    text += "Content-Length: " + std::to_string(request.body.size()) + "\r\n";
  text += "Connection: close\r\nAccept: */*\r\n\r\n";
  return text;
}

// Its bytes are wiped, because requests and answers may carry secrets.
struct Wiped {
  std::string text;
  ~Wiped() { WipeMemory(text.data(), text.size()); }
};
struct WipedBuffer {
  beast::flat_buffer buffer;
  ~WipedBuffer() {
    // Also what was consumed: the storage begins before the readable bytes, and prepare() gives the rest of it.
    const std::size_t size = buffer.capacity();
    buffer.clear();
    const auto all = buffer.prepare(size);
    WipeMemory(all.data(), all.size());
  }
};

// The next answer on the connection, of whatever status. What follows it stays in the buffer.
Task<Response> ReadAnswer(Connection& connection, const ClientConfig& config, const Request& request,
                          beast::flat_buffer& buffer, const std::string& what) {
  wire::response_parser<wire::string_body> parser;
  parser.header_limit(static_cast<std::uint32_t>(config.header_bytes_max));
  parser.body_limit(static_cast<std::uint64_t>(config.body_bytes_max));
  parser.eager(true);
  // Its answer has no body, whatever its headers say.
  parser.skip(request.method == "HEAD");
  for (;;) {
    if (const auto bad = Feed(parser, buffer)) {
      if (bad == wire::error::header_limit || bad == wire::error::body_limit || bad == wire::error::buffer_overflow)
        co_return ResourceExhausted("the server's answer is too large", what);
      co_return Broken(what, "the answer is not HTTP: " + bad.message());
    }
    if (parser.is_done()) break;
    if (buffer.size() > static_cast<std::size_t>(config.header_bytes_max))
      co_return ResourceExhausted("the server's answer is too large", what);
    NOVA_CO_TRY(const bool more, co_await connection.Read(buffer));
    if (more) continue;
    // The end of the connection may be the end of the body; the parser knows.
    beast::error_code cut;
    if (parser.got_some()) parser.put_eof(cut);
    if (cut || !parser.is_done()) co_return Broken(what, "the answer broke off");
    break;
  }

  auto& message = parser.get();
  Response response{.status = static_cast<int>(message.result_int()), .headers = CopyHeaders(message)};
  response.content_type = std::string(response.headers.Get("Content-Type"));
  response.body = std::move(message.body());
  co_return response;
}

// What happens on the connection; ends with an error when that is closed.
Task<Response> Converse(Connection& connection, const ClientConfig& config, const Origin& origin,
                        const Request& request, Endpoints endpoints, const std::string& what) {
  NOVA_CO_TRY(co_await connection.Connect(std::move(endpoints)));
  if (origin.tls) NOVA_CO_TRY(co_await connection.StartTls(origin.host, config.ca_path));
  {
    const Wiped head{Serialize(origin, request)};
    NOVA_CO_TRY(co_await connection.Write(head.text));
    if (!request.body.empty()) NOVA_CO_TRY(co_await connection.Write(request.body));
  }

  WipedBuffer received;
  for (int interim = 0; interim <= kInterimAnswersMax; ++interim) {
    NOVA_CO_TRY(Response response, co_await ReadAnswer(connection, config, request, received.buffer, what));
    if (response.status >= 200) co_return response;
    if (response.status == 101) co_return Broken(what, "the server wants to speak another protocol");
  }
  co_return Broken(what, "the server sends interim answers, and no answer");
}

}  // namespace

// The places in the bulkhead of look-ups whose caller has gone. They are kept here and not by the look-ups, because a
// resolver may take long, and what is left of it must not outlive the dependency. Thread-safe.
class Client::LookUps {
 public:
  void Keep(const LookUp* look_up, Bulkhead::Permit permit) {
    std::lock_guard lock(mutex_);
    permits_.emplace(look_up, std::move(permit));
  }
  // The permits are given back under the lock: whoever called Clear may destroy the dependency next.
  void End(const LookUp* look_up) {
    std::lock_guard lock(mutex_);
    permits_.erase(look_up);
  }
  void Clear() {
    std::lock_guard lock(mutex_);
    permits_.clear();
  }

  static Task<Endpoints> Resolve(std::shared_ptr<LookUps> self, Attempt& attempt, std::string host, int port,
                                 std::string what);

 private:
  std::mutex mutex_;
  std::unordered_map<const LookUp*, Bulkhead::Permit> permits_;  // guarded by mutex_
};

Task<Endpoints> Client::LookUps::Resolve(std::shared_ptr<LookUps> self, Attempt& attempt, std::string host, int port,
                                         std::string what) {
  beast::error_code numeric;
  const auto address = asio::ip::make_address(host, numeric);
  if (!numeric) co_return Endpoints{tcp::endpoint(address, static_cast<std::uint16_t>(port))};

  // It cannot be interrupted, so the wait for it is given up instead. Its end comes on the strand of the call.
  const auto look_up = std::make_shared<LookUp>(attempt.call().strand());
  const runtime::OneShot<Endpoints> done;
  look_up->resolver.async_resolve(
      host, std::to_string(port), tcp::resolver::numeric_service,
      [self, look_up, done, what](const beast::error_code& error, const tcp::resolver::results_type& found) {
        look_up->over = true;
        self->End(look_up.get());
        Endpoints endpoints;
        for (const auto& entry : found) endpoints.push_back(entry.endpoint());
        (void)done.TrySet(error ? Result<Endpoints>(Broken(what, error.message()))
                                : Result<Endpoints>(std::move(endpoints)));
      });
  auto endpoints = co_await done.Wait(attempt.call());
  if (!endpoints && !look_up->over) {
    look_up->resolver.cancel();
    Bulkhead::Permit permit = attempt.TakePermit();
    permit.Orphan();
    self->Keep(look_up.get(), std::move(permit));
  }
  co_return endpoints;
}

Client::Client(resilience::HttpDependency& dependency, ClientConfig config)
    : dependency_(dependency), config_(config), look_ups_(std::make_shared<LookUps>()) {}

Client::~Client() { look_ups_->Clear(); }

std::string Origin::Authority() const {
  std::string text = host.find(':') == std::string::npos ? host : "[" + host + "]";
  if (port != (tls ? kHttpsPort : kHttpPort)) text += ":" + std::to_string(port);
  return text;
}

Result<Origin> ParseOrigin(std::string_view url) {
  const auto bad = [&](std::string_view why) {
    return InvalidArgument("'" + std::string(url) + "' is not a URL such as https://host:8443: " + std::string(why));
  };
  if (!IsVisible(url))
    return InvalidArgument("this is not a URL such as https://host:8443: it holds blanks or controls");
  Origin origin;
  if (url.starts_with("https://")) {
    origin = {.tls = true, .host = {}, .port = kHttpsPort};
  } else if (!url.starts_with("http://")) {
    return bad("it begins with neither http:// nor https://");
  }
  std::string_view rest = url.substr(origin.tls ? 8 : 7);
  if (rest.find('@') != std::string_view::npos)
    return InvalidArgument("a URL here has no user and no password");  // and is not repeated, because it has
  if (rest.ends_with('/')) rest.remove_suffix(1);
  if (rest.find_first_of("/?#") != std::string_view::npos) return bad("it has a path");
  std::string_view port;
  if (rest.starts_with('[')) {
    const std::size_t end = rest.find(']');
    if (end == std::string_view::npos) return bad("a bracket is not closed");
    origin.host = rest.substr(1, end - 1);
    port = rest.substr(end + 1);
    if (!port.empty() && !port.starts_with(':')) return bad("something follows the address");
  } else {
    const std::size_t colon = rest.find(':');
    origin.host = rest.substr(0, colon);
    if (colon != std::string_view::npos) port = rest.substr(colon);
  }
  if (origin.host.empty()) return bad("it names no host");
  if (!port.empty()) {
    const std::string_view digits = port.substr(1);
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), origin.port);
    if (error != std::errc() || end != digits.data() + digits.size() || origin.port < 1 || origin.port > 65535)
      return bad("its port is none");
  }
  return origin;
}

Task<Response> Client::Get(Call& call, std::string host, int port, std::string path) const {
  co_return co_await Send(call, Origin{.tls = false, .host = std::move(host), .port = port},
                          Request{.method = "GET", .path = std::move(path)}, resilience::Idempotency::kSafe);
}

Task<Response> Client::Send(Call& call, Origin origin, Request request, resilience::Idempotency idempotency,
                            Duration patience) const {
  NOVA_CO_TRY(Check(origin, request));
  if (request.headers.Has("traceparent")) co_return InvalidArgument("the header traceparent is the client's own");
  request.headers.Add("traceparent", call.trace().Child().ToTraceparent());
  const auto exchange = [&](Attempt& attempt) { return Exchange(attempt, origin, request); };
  const resilience::ProtectOptions options{.idempotency = idempotency, .patience = patience};
  co_return co_await resilience::Protect(call, dependency_, exchange, options);
}

Task<Response> Client::Exchange(Attempt& attempt, const Origin& origin, const Request& request) const {
  NOVA_CO_TRY(Check(origin, request));
  Call& call = attempt.call();
  const std::string what = Describe(origin, request);
  NOVA_CO_TRY(Endpoints endpoints, co_await LookUps::Resolve(look_ups_, attempt, origin.host, origin.port, what));

  Connection connection(call.strand(), what);
  std::optional<Error> ended;
  // A closed connection fails every later step too, so one hook is enough for all that follows.
  const CancelHook hook(call, [&](const Error& reason) {
    ended = reason;
    connection.Close();
  });
  if (ended) co_return *ended;
  Result<Response> response = co_await Converse(connection, config_, origin, request, std::move(endpoints), what);
  if (ended) co_return *ended;
  co_return response;
}

}  // namespace nova::http
