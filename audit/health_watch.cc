#include "audit/health_watch.h"

#include <algorithm>
#include <utility>

#include "api/health/v1/health.nova.h"
#include "audit/grpc_probe.h"

namespace nova::audit {
namespace {

namespace v1 = grpc::health::v1;
using runtime::Call;
using runtime::Task;

// From the end of a stream until it is opened again.
constexpr Duration kAgain = std::chrono::milliseconds(100);
constexpr Duration kStopLimit = std::chrono::seconds(5);

}  // namespace

HealthWatch::Stream::Stream(telemetry::Metrics& metrics, resilience::PeerDependency& dependency,
                            const ServiceTarget& target, std::string watched, const tls::ChannelIdentity& identity)
    : name(target.name + (watched.empty() ? "" : " (" + watched + ")")),
      service(target.name),
      rpc_service(std::move(watched)),
      client(metrics, dependency, {.principal = target.name, .target = target.grpc_target, .own_connection = true},
             identity) {}

HealthWatch::HealthWatch(runtime::Runtime& runtime, const AuditConfig& config, const tls::ChannelIdentity& identity)
    : scope_(runtime) {
  for (const ServiceTarget& service : config.services) {
    for (const std::string& rpc_service : {std::string(), RpcServiceName(service.name)}) {
      Stream& stream = streams_.emplace_back(metrics_, services_, service, rpc_service, identity);
      scope_.Spawn("the audit watches " + stream.name, [this, &stream](Call& call) { return Follow(call, stream); });
    }
  }
}

HealthWatch::~HealthWatch() { (void)scope_.Stop(kStopLimit); }

Task<void> HealthWatch::Follow(Call& scope, Stream& stream) {
  for (;;) {
    const auto ended = co_await FollowOne(scope, stream);
    // When it is we who end it, nothing is lost.
    NOVA_CO_TRY(scope.Check());
    {
      const std::lock_guard lock(mutex_);
      ++lost_;
      stream.end = ended.error().ToString();
    }
    NOVA_CO_TRY(co_await runtime::Sleep(scope, kAgain));
  }
}

Task<void> HealthWatch::FollowOne(Call& call, Stream& stream) {
  v1::HealthCheckRequest request;
  request.set_service(stream.rpc_service);
  NOVA_CO_TRY(auto watch, stream.client.Open(call, v1::HealthMethods::kWatch));
  NOVA_CO_TRY(co_await watch.Write(call, request));
  NOVA_CO_TRY(co_await watch.WritesDone(call));
  for (;;) {
    NOVA_CO_TRY(const auto status, co_await watch.Read(call));
    if (!status) break;
    Note(stream, status->status() == v1::HealthCheckResponse::SERVING);
  }
  NOVA_CO_TRY(co_await watch.Finish(call));
  co_return Unavailable("the stream ended");
}

void HealthWatch::Note(Stream& stream, bool serving) {
  const std::lock_guard lock(mutex_);
  const bool is_change = stream.serving && *stream.serving != serving;
  stream.serving = serving;
  if (is_change)
    changes_.push_back(
        {.name = stream.name, .service = stream.service, .serving = serving, .at = Clock::System().Now()});
}

bool HealthWatch::AllServing() const {
  const std::lock_guard lock(mutex_);
  return std::ranges::all_of(streams_, [](const Stream& stream) { return stream.serving.value_or(false); });
}

std::string HealthWatch::NotServing() const {
  const std::lock_guard lock(mutex_);
  std::string list;
  for (const Stream& stream : streams_) {
    if (stream.serving.value_or(false)) continue;
    list += (list.empty() ? "" : "; ") + stream.name + ": " +
            (stream.serving ? "NOT_SERVING" : "no status" + (stream.end.empty() ? "" : ", " + stream.end));
  }
  return list;
}

std::vector<std::string> HealthWatch::NamesOf(const std::string& service) const {
  std::vector<std::string> names;
  for (const Stream& stream : streams_) {
    if (stream.service == service) names.push_back(stream.name);
  }
  return names;
}

std::vector<HealthWatch::Change> HealthWatch::Changes(std::size_t since) const {
  const std::lock_guard lock(mutex_);
  return {changes_.begin() + static_cast<std::ptrdiff_t>(std::min(since, changes_.size())), changes_.end()};
}

int HealthWatch::lost() const {
  const std::lock_guard lock(mutex_);
  return lost_;
}

}  // namespace nova::audit
