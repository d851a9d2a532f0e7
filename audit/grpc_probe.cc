#include "audit/grpc_probe.h"

#include <algorithm>
#include <cctype>
#include <cmath>

#include "audit/samples.h"
#include "audit/tcp.h"
#include "nova/health/service.h"
#include "nova/http/client.h"
#include "nova/rpc/client.h"

namespace nova::audit {
namespace {

namespace v1 = grpc::health::v1;
using Methods = v1::HealthMethods;
using runtime::Call;
using runtime::Task;
using std::chrono::minutes;
using std::chrono::seconds;
using Status = Row::Status;

// One question to one port.
constexpr Duration kAskLimit = seconds(5);
// A whole series of samples; each sample has the limit of its call besides.
constexpr Duration kSeriesLimit = minutes(5);
// Untimed calls before a series, so that neither end pays for its first.
constexpr int kWarmUps = 5;
constexpr double kP95 = 0.95;
constexpr Duration kHandshakeLimit = std::chrono::milliseconds(10);
constexpr Duration kOverPlaintextLimit = std::chrono::milliseconds(5);
constexpr char kHandshakeSeconds[] = "nova_tls_handshake_seconds";
const Exposition::Labels kOfServers = {{"side", "server"}};

// A principal that serves nothing.
constexpr std::string_view kNoServer = "operator";

rpc::ServerConfig ControlConfig() { return {.address = "127.0.0.1", .port = 0, .drain_limit = seconds(1)}; }

rpc::ServerSecurity ControlSecurity() {
  return {.credentials = tls::MakePlaintextServerCredentials(),
          .stack = {.authorize_peers = false, .verify_token = nullptr}};
}

}  // namespace

std::string RpcServiceName(const std::string& service) {
  std::string type = service;
  if (!type.empty()) type.front() = static_cast<char>(std::toupper(static_cast<unsigned char>(type.front())));
  return "nova." + service + ".v2." + type + "Service";
}

GrpcProbe::GrpcProbe(runtime::Runtime& runtime, const AuditConfig& config)
    : runtime_(runtime),
      config_(config),
      scraper_(runtime, config),
      scope_(runtime),
      monitor_(metrics_, {}),
      control_(runtime, metrics_, ControlConfig(), ControlSecurity()) {}

GrpcProbe::~GrpcProbe() {
  control_.Stop();
  (void)scope_.Stop(kAskLimit);
}

Result<std::unique_ptr<GrpcProbe>> GrpcProbe::Create(runtime::Runtime& runtime, const AuditConfig& config) {
  std::unique_ptr<GrpcProbe> probe(new GrpcProbe(runtime, config));
  NOVA_TRY(probe->Start());
  return probe;
}

Result<void> GrpcProbe::Start() {
  NOVA_TRY(publisher_, tls::IdentityPublisher::Create({.files = config_.identity.files(), .usage = tls::Usage::kClient},
                                                      Clock::System(), metrics_));
  publisher_->Watch(scope_);
  identity_.emplace(*publisher_);
  monitor_.Start(scope_);
  control_.Add(health::MakeHealthService(monitor_, {}));
  NOVA_TRY(control_.Start());
  control_target_ = "127.0.0.1:" + std::to_string(control_.port());
  return Ok();
}

Task<v1::HealthCheckResponse> GrpcProbe::Check(Call& call, const tls::ChannelIdentity& identity, std::string principal,
                                               std::string target, std::string service) {
  rpc::Client client(metrics_, services_,
                     {.principal = std::move(principal), .target = std::move(target), .own_connection = true},
                     identity);
  v1::HealthCheckRequest request;
  request.set_service(std::move(service));
  co_return co_await client.Invoke(call, Methods::kCheck, request);
}

Result<v1::HealthCheckResponse> GrpcProbe::CheckNow(const tls::ChannelIdentity& identity, const std::string& principal,
                                                    const std::string& target, const std::string& service) {
  return runtime_.RunBlocking<v1::HealthCheckResponse>(
      kAskLimit, [&](Call& call) { return Check(call, identity, principal, target, service); });
}

Result<void> GrpcProbe::AnswersAudit(const ServiceTarget& service) {
  NOVA_TRY(CheckNow(*identity_, service.name, service.grpc_target));
  return Ok();
}

Result<void> GrpcProbe::ControlAnswers() {
  NOVA_TRY(CheckNow(tls::ChannelIdentity::Plaintext(), "control", control_target_));
  return Ok();
}

Finding GrpcProbe::WrongNameRefused() {
  return OnEveryService(config_.services, [&](const ServiceTarget& service) -> Verdict {
    const auto called = CheckNow(*identity_, std::string(kNoServer), service.grpc_target);
    if (called || called.error().code() != Code::kUnavailable)
      return Verdict::Fail("a channel to '" + std::string(kNoServer) + "' accepts it");
    // A refusal counts only from a port that answers who asks for it by its name.
    if (const auto answered = AnswersAudit(service); !answered)
      return Verdict::NotMeasured("no answer under its own name either: " + answered.error().ToString());
    return Verdict::Pass();
  });
}

Task<Duration> GrpcProbe::TimeFirstCall(Call& call, const tls::ChannelIdentity& identity, std::string principal,
                                        std::string target) {
  const SteadyTime start = Clock::System().Now();
  rpc::Client client(metrics_, services_,
                     {.principal = std::move(principal), .target = std::move(target), .own_connection = true},
                     identity);
  NOVA_CO_TRY(co_await client.Invoke(call, Methods::kCheck, v1::HealthCheckRequest()));
  // Before the channel is taken down, which nobody waits for.
  co_return Clock::System().Now() - start;
}

Task<GrpcProbe::Handshakes> GrpcProbe::MeasureHandshakes(Call& call) {
  const tls::ChannelIdentity plaintext = tls::ChannelIdentity::Plaintext();
  Handshakes handshakes;
  for (const ServiceTarget& service : config_.services) handshakes.services.push_back({service.name, {}});
  for (int round = -kWarmUps; round < config_.handshake_samples; ++round) {
    for (std::size_t i = 0; i < config_.services.size(); ++i) {
      const ServiceTarget& service = config_.services[i];
      NOVA_CO_TRY(const Duration time, co_await TimeFirstCall(call, *identity_, service.name, service.grpc_target));
      if (round >= 0) handshakes.services[i].samples.push_back(time);
    }
    NOVA_CO_TRY(const Duration time, co_await TimeFirstCall(call, plaintext, "control", control_target_));
    if (round >= 0) handshakes.plaintext.push_back(time);
  }
  co_return handshakes;
}

const GrpcProbe::Handshakes::OfService& GrpcProbe::Handshakes::Slowest() const {
  return *std::ranges::max_element(services, {}, [](const OfService& of) { return Percentile(of.samples, kP95); });
}

const Result<GrpcProbe::Handshakes>& GrpcProbe::MeasuredHandshakes() {
  if (!handshakes_) {
    if (config_.services.empty()) return handshakes_.emplace(FailedPrecondition("no service is known"));
    auto first = scraper_.ScrapeAll();
    handshakes_ =
        runtime_.RunBlocking<Handshakes>(kSeriesLimit, [this](Call& call) { return MeasureHandshakes(call); });
    if (*handshakes_) {
      (*handshakes_)->scraped_first = std::move(first);
      (*handshakes_)->scraped_last = scraper_.ScrapeAll();
    }
  }
  return *handshakes_;
}

Finding GrpcProbe::HandshakeP95() {
  const auto& measured = MeasuredHandshakes();
  if (!measured) return Finding::NotMeasured(measured.error().ToString());
  const auto& slowest = measured->Slowest();
  const Duration p95 = Percentile(slowest.samples, kP95);
  return Finding::Judge(p95 < kHandshakeLimit, FormatMilliseconds(p95),
                        std::to_string(slowest.samples.size()) + " samples per service; slowest " + slowest.name +
                            ": " + Describe(slowest.samples) + "; " + DescribeLoad());
}

Finding GrpcProbe::HandshakeOverPlaintext() {
  const auto& measured = MeasuredHandshakes();
  if (!measured) return Finding::NotMeasured(measured.error().ToString());
  const auto& slowest = measured->Slowest();
  const Duration over = Percentile(slowest.samples, kP95) - Percentile(measured->plaintext, kP95);
  return Finding::Judge(over < kOverPlaintextLimit, FormatMilliseconds(over),
                        slowest.name + " " + Describe(slowest.samples) + "; plaintext " +
                            Describe(measured->plaintext) + "; " + DescribeLoad());
}

Finding GrpcProbe::HandshakeAsServersSaw() {
  const auto& measured = MeasuredHandshakes();
  if (!measured) return Finding::NotMeasured(measured.error().ToString());
  for (const auto* scraped : {&measured->scraped_first, &measured->scraped_last}) {
    if (!*scraped) return Finding::NotMeasured(scraped->error().ToString());
  }
  double slowest = 0;
  double fewest = HUGE_VAL;
  std::string of;
  for (const ServiceTarget& service : config_.services) {
    const auto times = Growth(measured->scraped_last->at(service.name).HistogramOf(kHandshakeSeconds, kOfServers),
                              measured->scraped_first->at(service.name).HistogramOf(kHandshakeSeconds, kOfServers));
    const auto p95 = UpperBound(times, kP95);
    if (!p95 || times.rbegin()->second < config_.handshake_samples)
      return Finding::NotMeasured(service.name + " did not time as many handshakes as were made");
    fewest = std::min(fewest, times.rbegin()->second);
    if (*p95 <= slowest) continue;
    slowest = *p95;
    of = service.name;
  }
  if (std::isinf(slowest)) return Finding::Judge(false, "more than a bucket is for", "slowest " + of);
  // A bucket tells only that the figure is not above its edge.
  const Duration edge = std::chrono::duration_cast<Duration>(std::chrono::duration<double>(slowest));
  return Finding::Judge(
      edge <= kHandshakeLimit, "<= " + FormatMilliseconds(edge),
      "slowest " + of + "; " + std::to_string(std::llround(fewest)) + " or more per service; " + DescribeLoad());
}

Finding GrpcProbe::ServingAs(bool by_service_name) {
  return OnEveryService(config_.services, [&](const ServiceTarget& service) -> Verdict {
    const auto answer = CheckNow(*identity_, service.name, service.grpc_target,
                                 by_service_name ? RpcServiceName(service.name) : std::string());
    if (!answer) return {Status::kFail, answer.error().ToString()};
    if (answer->status() != v1::HealthCheckResponse::SERVING)
      return {Status::kFail, v1::HealthCheckResponse::ServingStatus_Name(answer->status())};
    return {Status::kPass, {}};
  });
}

Finding GrpcProbe::ProcessServing() { return ServingAs(false); }

Finding GrpcProbe::ServicesServing() { return ServingAs(true); }

Finding GrpcProbe::WatchAnswers() {
  return OnEveryService(config_.services, [&](const ServiceTarget& service) -> Verdict {
    const auto first =
        runtime_.RunBlocking<v1::HealthCheckResponse>(kAskLimit, [&](Call& call) -> Task<v1::HealthCheckResponse> {
          rpc::Client client(metrics_, services_,
                             {.principal = service.name, .target = service.grpc_target, .own_connection = true},
                             *identity_);
          NOVA_CO_TRY(auto stream, client.Open(call, Methods::kWatch));
          v1::HealthCheckRequest request;
          request.set_service(RpcServiceName(service.name));
          NOVA_CO_TRY(co_await stream.Write(call, request));
          NOVA_CO_TRY(co_await stream.WritesDone(call));
          NOVA_CO_TRY(const auto status, co_await stream.Read(call));
          if (!status) {
            NOVA_CO_TRY(co_await stream.Finish(call));
            co_return Internal("the stream ended without a status");
          }
          co_return *status;
        });
    if (!first) return {Status::kFail, first.error().ToString()};
    if (first->status() != v1::HealthCheckResponse::SERVING)
      return {Status::kFail, v1::HealthCheckResponse::ServingStatus_Name(first->status())};
    return {Status::kPass, {}};
  });
}

Finding GrpcProbe::AdminAnswers() {
  const http::Client client(admin_ports_);
  return OnEveryService(config_.services, [&](const ServiceTarget& service) -> Verdict {
    const auto address = ParseTarget(service.admin_target);
    if (!address) return {Status::kNotMeasured, address.error().message()};
    for (const char* path : {"/livez", "/readyz"}) {
      const auto response = runtime_.RunBlocking<http::Response>(
          kAskLimit, [&](Call& call) { return client.Get(call, address->host, address->port, path); });
      if (!response) return {Status::kFail, path + (": " + response.error().ToString())};
      if (response->status != 200) return {Status::kFail, path + (" answers " + std::to_string(response->status))};
    }
    return {Status::kPass, {}};
  });
}

}  // namespace nova::audit
