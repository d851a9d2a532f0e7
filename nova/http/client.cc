#include "nova/http/client.h"

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/write.hpp>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

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
using runtime::use_task;

using Endpoints = std::vector<tcp::endpoint>;

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

std::string Authority(const std::string& host, int port) {
  return (host.find(':') == std::string::npos ? host : "[" + host + "]") + ":" + std::to_string(port);
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

Task<Response> Client::Get(Call& call, std::string host, int port, std::string path) const {
  if (host.empty() || !IsVisible(host) || !path.starts_with('/') || !IsVisible(path) || port < 1 || port > 65535)
    co_return InvalidArgument("this is not an address to get: " + Authority(host, port) + path);
  const auto get = [&](Attempt& attempt) { return Try(attempt, host, port, path); };
  co_return co_await resilience::Protect(call, dependency_, get, {.idempotency = resilience::Idempotency::kSafe});
}

Task<Response> Client::Try(Attempt& attempt, const std::string& host, int port, const std::string& path) const {
  Call& call = attempt.call();
  const std::string authority = Authority(host, port);
  const std::string what = "GET http://" + authority + path;
  NOVA_CO_TRY(const Endpoints endpoints, co_await LookUps::Resolve(look_ups_, attempt, host, port, what));

  tcp::socket socket(call.strand());
  std::optional<Error> ended;
  // A closed socket fails every later step too, so one hook is enough for all that follows.
  const CancelHook hook(call, [&](const Error& reason) {
    ended = reason;
    beast::error_code ignored;
    socket.close(ignored);
  });

  beast::error_code error = asio::error::host_not_found;
  for (const tcp::endpoint& endpoint : endpoints) {
    if (ended) co_return *ended;
    beast::error_code ignored;
    socket.close(ignored);
    co_await socket.async_connect(endpoint, asio::redirect_error(use_task, error));
    if (!error) break;
  }
  if (ended) co_return *ended;
  if (error) co_return Broken(what, error.message());

  const std::string request =
      "GET " + path + " HTTP/1.1\r\nHost: " + authority +
      "\r\nConnection: close\r\nAccept: */*\r\ntraceparent: " + call.trace().Child().ToTraceparent() + "\r\n\r\n";
  co_await asio::async_write(socket, asio::buffer(request), asio::redirect_error(use_task, error));
  if (ended) co_return *ended;
  if (error) co_return Broken(what, error.message());

  wire::response_parser<wire::string_body> parser;
  parser.header_limit(static_cast<std::uint32_t>(config_.header_bytes_max));
  parser.body_limit(static_cast<std::uint64_t>(config_.body_bytes_max));
  parser.eager(true);
  beast::flat_buffer buffer;
  while (!parser.is_done()) {
    const std::size_t size =
        co_await socket.async_read_some(buffer.prepare(kReadChunk), asio::redirect_error(use_task, error));
    if (ended) co_return *ended;
    buffer.commit(size);
    if (error == asio::error::eof) {
      // The end of the connection may be the end of the body; the parser knows.
      beast::error_code cut;
      if (parser.got_some()) parser.put_eof(cut);
      if (cut || !parser.is_done()) co_return Broken(what, "the answer broke off");
      break;
    }
    if (error) co_return Broken(what, error.message());
    if (const auto bad = Feed(parser, buffer)) {
      if (bad == wire::error::header_limit || bad == wire::error::body_limit || bad == wire::error::buffer_overflow)
        co_return ResourceExhausted("the server's answer is too large", what);
      co_return Broken(what, "the answer is not HTTP: " + bad.message());
    }
    if (buffer.size() > static_cast<std::size_t>(config_.header_bytes_max))
      co_return ResourceExhausted("the server's answer is too large", what);
  }

  auto& message = parser.get();
  Response response{.status = static_cast<int>(message.result_int()), .headers = CopyHeaders(message)};
  response.content_type = std::string(response.headers.Get("Content-Type"));
  response.body = std::move(message.body());
  co_return response;
}

}  // namespace nova::http
