#include "audit/counting_relay.h"

#include <utility>

namespace nova::audit {
namespace {

using runtime::Call;
using runtime::Task;

constexpr Duration kLookAgain = std::chrono::milliseconds(2);
constexpr Duration kStopLimit = std::chrono::seconds(5);

// "secretsmanager.GetSecretValue" asks for "GetSecretValue".
std::string OperationOf(const http::Request& request) {
  const std::string_view target = request.headers.Get("X-Amz-Target");
  return std::string(target.substr(target.rfind('.') + 1));
}

// Of a connection and not of the request: made anew for the next one.
bool IsOfConnection(std::string_view name) {
  static const http::Headers kOfConnection{
      {"Accept", {}}, {"Connection", {}}, {"Content-Length", {}}, {"traceparent", {}}};
  return kOfConnection.Has(name);
}

}  // namespace

Result<std::unique_ptr<CountingRelay>> CountingRelay::Start(runtime::Runtime& runtime, CountingRelayConfig config) {
  std::unique_ptr<CountingRelay> relay(new CountingRelay(runtime, std::move(config)));
  NOVA_TRY(relay->server_.Start());
  return relay;
}

CountingRelay::CountingRelay(runtime::Runtime& runtime, CountingRelayConfig config)
    : config_(std::move(config)),
      upstream_("upstream", metrics_, resilience::ForProbes(resilience::Kind::kHttp)),
      http_(upstream_),
      server_(runtime, {}) {
  server_.Handle("POST", "/", [this](Call& call, const http::Request& request) { return Serve(call, request); });
}

CountingRelay::~CountingRelay() { (void)server_.Stop(kStopLimit); }

std::string CountingRelay::endpoint() const { return "http://127.0.0.1:" + std::to_string(server_.port()); }

int CountingRelay::Count(const std::string& operation) const {
  const std::lock_guard lock(mutex_);
  const auto found = counts_.find(operation);
  return found == counts_.end() ? 0 : found->second;
}

Task<http::Response> CountingRelay::Serve(Call& call, const http::Request& request) {
  {
    const std::lock_guard lock(mutex_);
    ++counts_[OperationOf(request)];
  }
  const SteadyTime hold_end = Clock::System().Now() + kHoldMax;
  while (config_.may_answer && !config_.may_answer() && Clock::System().Now() < hold_end) {
    NOVA_CO_TRY(co_await runtime::Sleep(call, kLookAgain));
  }
  // Host stays as it came: it is part of what was signed.
  http::Request onward{.method = request.method, .path = request.path, .query = request.query, .body = request.body};
  for (const auto& [name, value] : request.headers) {
    if (!IsOfConnection(name)) onward.headers.Add(name, value);
  }
  NOVA_CO_TRY(http::Response answer,
              co_await http_.Send(call, config_.upstream, std::move(onward), resilience::Idempotency::kNone));
  // The headers of the answer are this server's own; Content-Type comes along.
  answer.headers = {};
  co_return answer;
}

}  // namespace nova::audit
