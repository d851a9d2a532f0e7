// `nova probe`: the health of one service over gRPC, with a certificate of its own; fit for a Kubernetes exec probe.
#include <chrono>
#include <cstdio>
#include <string>

#include "api/health/v1/health.nova.h"
#include "app/command.h"
#include "app/stack_access.h"
#include "nova/rpc/client.h"
#include "nova/runtime/runtime.h"
#include "nova/telemetry/log.h"

namespace nova::app {
namespace {

namespace v1 = grpc::health::v1;
using runtime::Call;
using runtime::Task;

class ProbeVerb final : public Verb {
 public:
  void Bind(config::Config& config) override {
    config.Positional("service", service_, {.help = "whose health, and who must answer; identity by default"});
    config.Field("probe.target", target_,
                 {.help = "host:port; by default the service on this machine", .flag = "target"});
    config.Field("probe.name", name_,
                 {.help = "full name of the gRPC service to ask for; empty asks for the process", .flag = "name"});
    config.Field("probe.timeout", timeout_,
                 {.help = "longest the answer may take", .flag = "timeout", .min = std::chrono::milliseconds(10)});
    access_.Bind(config);
  }

  Result<ExitCode> Run() override {
    telemetry::InitLogging(
        {.level = telemetry::Level::kWarn, .service = "probe", .format = telemetry::LogFormat::kText});
    if (service_.empty()) service_ = "identity";
    NOVA_TRY(access_.Resolve());
    if (target_.empty()) {
      if (access_.topology().Find(service_) == nullptr)
        return InvalidArgument("service: there is no service '" + service_ + "'; `nova modules` lists those there are");
      target_ = access_.Target(service_);
    }
    NOVA_TRY(const auto identity, access_.Identity(metrics_));
    resilience::PeerDependency peer("probed", metrics_, resilience::ForProbes(resilience::Kind::kPeer));
    rpc::Client client(metrics_, peer, {.principal = service_, .target = target_}, identity);
    v1::HealthCheckRequest request;
    request.set_service(name_);
    runtime::Runtime runtime({.threads = 1});
    const auto answer = runtime.RunBlocking<v1::HealthCheckResponse>(
        timeout_, [&](Call& call) { return client.Invoke(call, v1::HealthMethods::kCheck, request); });
    if (!answer) return Error(answer.error()).WithContext("asking " + service_ + " at " + target_);
    const bool serving = answer->status() == v1::HealthCheckResponse::SERVING;
    std::printf("%s\n", v1::HealthCheckResponse::ServingStatus_Name(answer->status()).c_str());
    return serving ? kDone : kCheckFailed;
  }

 private:
  std::string service_;
  std::string target_;
  std::string name_;
  std::chrono::milliseconds timeout_ = std::chrono::seconds(1);
  StackAccess access_{"probe"};
  telemetry::Metrics metrics_;
};

}  // namespace

std::unique_ptr<Verb> MakeProbe() { return std::make_unique<ProbeVerb>(); }

}  // namespace nova::app
