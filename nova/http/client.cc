#include "nova/http/client.h"

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/write.hpp>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "nova/http/parse.h"
#include "nova/runtime/one_shot.h"

namespace nova::http {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using runtime::Call;
using runtime::CancelHook;
using runtime::Task;
using runtime::use_task;

using Endpoints = std::vector<tcp::endpoint>;

Error Broken(const std::string& what, std::string_view reason) {
  return Unavailable("the server could not be reached", what + ": " + std::string(reason));
}

Task<Endpoints> Resolve(Call& call, const std::string& host, int port, const std::string& what) {
  beast::error_code numeric;
  const auto address = asio::ip::make_address(host, numeric);
  if (!numeric) co_return Endpoints{tcp::endpoint(address, static_cast<std::uint16_t>(port))};

  // A look-up cannot be interrupted, so the wait for it is given up instead; the resolver lives until it is over.
  const auto resolver = std::make_shared<tcp::resolver>(call.strand());
  const runtime::OneShot<Endpoints> done;
  resolver->async_resolve(
      host, std::to_string(port), tcp::resolver::numeric_service,
      [resolver, done, what](const beast::error_code& error, const tcp::resolver::results_type& found) {
        Endpoints endpoints;
        for (const auto& entry : found) endpoints.push_back(entry.endpoint());
        (void)done.TrySet(error ? Result<Endpoints>(Broken(what, error.message()))
                                : Result<Endpoints>(std::move(endpoints)));
      });
  auto endpoints = co_await done.Wait(call);
  if (!endpoints) resolver->cancel();
  co_return endpoints;
}

bool IsVisible(std::string_view text) {
  return std::ranges::all_of(text, [](char c) { return c > 0x20 && c < 0x7f; });
}

}  // namespace

Task<Response> Client::Get(Call& call, std::string host, int port, std::string path) const {
  const std::string authority =
      (host.find(':') == std::string::npos ? host : "[" + host + "]") + ":" + std::to_string(port);
  if (host.empty() || !IsVisible(host) || !path.starts_with('/') || !IsVisible(path) || port < 1 || port > 65535)
    co_return InvalidArgument("this is not an address to get: " + authority + path);
  const std::string what = "GET http://" + authority + path;
  NOVA_CO_TRY(call.Check());
  NOVA_CO_TRY(const Endpoints endpoints, co_await Resolve(call, host, port, what));

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
