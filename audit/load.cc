#include "audit/load.h"

#include <algorithm>

#include "api/health/v1/health.nova.h"

namespace nova::audit {
namespace {

using Methods = grpc::health::v1::HealthMethods;
using runtime::Call;
using runtime::Task;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr Duration kDeadline = seconds(5);
// Between the calls of one caller: enough for the processor to do what is being watched, too.
constexpr Duration kPause = milliseconds(2);
constexpr Duration kNewcomerPause = milliseconds(20);
constexpr Duration kUserPause = milliseconds(20);
// From the end of a stream until it is opened again.
constexpr Duration kStreamPause = milliseconds(100);
constexpr Duration kStopLimit = seconds(5);
// Of all its calls and streams at once; those that are refused by this end would say nothing about the other.
constexpr int kCallsMax = 10'000;

resilience::DependencyConfig Policies() {
  auto policies = resilience::ForProbes(resilience::Kind::kPeer);
  policies.calls_max = kCallsMax;
  return policies;
}

}  // namespace

Load::Load(runtime::Runtime& runtime, const AuditConfig& config, const tls::ChannelIdentity& identity, Traffic* traffic)
    : identity_(identity), services_("services", metrics_, Policies()), scope_(runtime) {
  const auto call_over_and_over = [&](std::string name, Duration pause, bool connects_anew, Callers::Work work) {
    works_.push_back({.name = std::move(name),
                      .connects_anew = connects_anew,
                      .callers = std::make_unique<Callers>(
                          runtime, Callers::Config{.deadline = kDeadline, .pause = pause}, std::move(work))});
  };
  const auto new_client = [&](const ServiceTarget& service) -> rpc::Client& {
    return *clients_.emplace_back(std::make_unique<rpc::Client>(metrics_, services_, To(service), identity_));
  };
  for (const ServiceTarget& service : config.services) {
    for (int i = 0; i < kClients; ++i) {
      call_over_and_over(service.name, kPause, false, [&client = new_client(service)](Call& call) -> Task<void> {
        NOVA_CO_TRY(co_await client.Invoke(call, Methods::kCheck, grpc::health::v1::HealthCheckRequest()));
        co_return Ok();
      });
    }
    for (int i = 0; i < kNewcomers; ++i) {
      call_over_and_over(service.name + ", newly connected", kNewcomerPause, true,
                         [this, to = To(service)](Call& call) { return CallAnew(call, to); });
    }
    for (int i = 0; i < kStreams; ++i) {
      ++streams_expected_;
      scope_.Spawn("a stream of the audit", [this, &client = new_client(service), name = service.name](Call& call) {
        return Follow(call, client, name);
      });
    }
  }
  if (traffic == nullptr) return;
  call_over_and_over("identity VerifyToken", kUserPause, false,
                     [traffic](Call& call) { return traffic->VerifyToken(call); });
  call_over_and_over("user GetSettings", kUserPause, false,
                     [traffic](Call& call) { return traffic->ReadSettings(call); });
  call_over_and_over("user GetUser", kUserPause, false, [traffic](Call& call) { return traffic->ReadProfile(call); });
}

Load::~Load() { (void)Stop(); }

rpc::ClientConfig Load::To(const ServiceTarget& service) const {
  return {.principal = service.name, .target = service.grpc_target, .own_connection = true};
}

Task<void> Load::CallAnew(Call& call, rpc::ClientConfig to) {
  rpc::Client client(metrics_, services_, std::move(to), identity_);
  NOVA_CO_TRY(co_await client.Invoke(call, Methods::kCheck, grpc::health::v1::HealthCheckRequest()));
  co_return Ok();
}

Task<void> Load::FollowOne(Call& call, rpc::Client& client, bool& open) {
  NOVA_CO_TRY(auto stream, client.Open(call, Methods::kWatch));
  NOVA_CO_TRY(co_await stream.Write(call, grpc::health::v1::HealthCheckRequest()));
  NOVA_CO_TRY(co_await stream.WritesDone(call));
  for (;;) {
    NOVA_CO_TRY(const auto status, co_await stream.Read(call));
    if (!status) break;
    if (std::exchange(open, true)) continue;
    const std::lock_guard lock(mutex_);
    ++streams_open_;
  }
  NOVA_CO_TRY(co_await stream.Finish(call));
  co_return Unavailable("the stream ended");
}

Task<void> Load::Follow(Call& scope, rpc::Client& client, std::string service) {
  for (;;) {
    bool open = false;
    const auto ended = co_await FollowOne(scope, client, open);
    // When it is we who end it, it has been counted.
    NOVA_CO_TRY(scope.Check());
    {
      const std::lock_guard lock(mutex_);
      streams_open_ -= open ? 1 : 0;
      ++streams_ended_;
      if (first_end_.empty()) first_end_ = "a stream of " + service + ": " + ended.error().ToString();
    }
    NOVA_CO_TRY(co_await runtime::Sleep(scope, kStreamPause));
  }
}

bool Load::IsReady() const {
  const bool answered = std::ranges::all_of(works_, [](const Work& work) { return work.callers->seen().answered > 0; });
  const std::lock_guard lock(mutex_);
  return answered && streams_open_ == streams_expected_;
}

Load::Seen Load::seen() const {
  Seen sum;
  for (const Work& work : works_) {
    const Callers::Seen seen = work.callers->seen();
    sum.calls += seen.calls;
    sum.failed += seen.calls - seen.answered;
    sum.connections += work.connects_anew ? seen.calls : 0;
    sum.slowest = std::max(sum.slowest, seen.slowest);
    if (sum.first_failure.empty() && !seen.first_failure.empty())
      sum.first_failure = work.name + ": " + seen.first_failure;
  }
  const std::lock_guard lock(mutex_);
  sum.failed += streams_ended_;
  sum.streams = streams_at_stop_ < 0 ? streams_open_ : streams_at_stop_;
  if (sum.first_failure.empty()) sum.first_failure = first_end_;
  return sum;
}

Load::Seen Load::Stop() {
  {
    const std::lock_guard lock(mutex_);
    if (streams_at_stop_ < 0) streams_at_stop_ = streams_open_;
  }
  for (const Work& work : works_) (void)work.callers->Stop();
  (void)scope_.Stop(kStopLimit);
  return seen();
}

}  // namespace nova::audit
