#include "audit/tcp.h"

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/redirect_error.hpp>
#include <charconv>
#include <vector>

#include "nova/runtime/one_shot.h"

namespace nova::audit {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;
using runtime::Call;
using runtime::CancelHook;
using runtime::Task;
using runtime::use_task;

using Endpoints = std::vector<tcp::endpoint>;

Error NotReached(const HostPort& target, const error_code& error) {
  return Unavailable(target.host + ":" + std::to_string(target.port) + ": " + error.message());
}

Task<Endpoints> Resolve(Call& call, const HostPort& target) {
  error_code numeric;
  const auto address = asio::ip::make_address(target.host, numeric);
  if (!numeric) co_return Endpoints{tcp::endpoint(address, static_cast<std::uint16_t>(target.port))};
  // A look-up cannot be interrupted, so the wait for it is given up instead; the resolver lives until it is over.
  const auto resolver = std::make_shared<tcp::resolver>(call.strand());
  const runtime::OneShot<Endpoints> done;
  resolver->async_resolve(target.host, std::to_string(target.port), tcp::resolver::numeric_service,
                          [resolver, done, target](const error_code& error, const tcp::resolver::results_type& found) {
                            Endpoints endpoints;
                            for (const auto& entry : found) endpoints.push_back(entry.endpoint());
                            (void)done.TrySet(error ? Result<Endpoints>(NotReached(target, error))
                                                    : Result<Endpoints>(std::move(endpoints)));
                          });
  auto endpoints = co_await done.Wait(call);
  if (!endpoints) resolver->cancel();
  co_return endpoints;
}

}  // namespace

Result<HostPort> ParseTarget(std::string_view target) {
  const std::size_t colon = target.rfind(':');
  HostPort parsed;
  bool valid = colon != std::string_view::npos;
  if (valid) {
    std::string_view host = target.substr(0, colon);
    if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
    parsed.host = host;
    const char* const end = target.data() + target.size();
    const auto [rest, error] = std::from_chars(target.data() + colon + 1, end, parsed.port);
    valid = !host.empty() && error == std::errc() && rest == end && parsed.port >= 1 && parsed.port <= 65535;
  }
  if (!valid) return InvalidArgument("not a host:port: '" + std::string(target) + "'");
  return parsed;
}

Task<void> Open(Call& call, const HostPort& target, tcp::socket& socket) {
  NOVA_CO_TRY(const Endpoints endpoints, co_await Resolve(call, target));
  error_code error = asio::error::host_not_found;
  for (const tcp::endpoint& endpoint : endpoints) {
    NOVA_CO_TRY(call.Check());
    error_code ignored;
    socket.close(ignored);
    co_await socket.async_connect(endpoint, asio::redirect_error(use_task, error));
    if (!error) break;
  }
  NOVA_CO_TRY(call.Check());
  if (error) co_return NotReached(target, error);
  co_return Ok();
}

Task<void> Connects(Call& call, HostPort target) {
  tcp::socket socket(call.strand());
  const CancelHook hook(call, [&](const Error&) {
    error_code ignored;
    socket.close(ignored);
  });
  co_return co_await Open(call, target, socket);
}

}  // namespace nova::audit
