// `nova serve <service>`: one service, one process, until SIGTERM.
#include <chrono>
#include <cstdlib>
#include <set>
#include <string>

#include "app/command.h"
#include "app/modules.h"
#include "app/topology.h"
#include "nova/config/app_env.h"
#include "nova/health/monitor.h"
#include "nova/health/service.h"
#include "nova/http/admin.h"
#include "nova/resilience/config.h"
#include "nova/rpc/client.h"
#include "nova/rpc/reflection.h"
#include "nova/rpc/server.h"
#include "nova/runtime/scope.h"
#include "nova/runtime/stop_signals.h"
#include "nova/telemetry/log.h"
#include "nova/tls/config.h"
#include "nova/tls/credentials.h"
#include "nova/tls/handshakes.h"
#include "nova/tls/publisher.h"
#include "nova/tls/report.h"

namespace nova::app {
namespace {

using std::chrono::seconds;

// How long the parts of a process that has drained may take to end.
constexpr seconds kStopLimit{5};
// From one attempt to reach a dependency at start to the next.
constexpr std::chrono::milliseconds kConnectRetryDelay{200};

class ServeVerb final : public Verb {
 public:
  void Bind(config::Config& config) override {
    config.Positional("service", service_, {.help = "one of `nova modules`", .required = true});
    config::Bind(config, app_env_);
    telemetry::Bind(config, log_);
    tls::Bind(config, tls_);
    tls::Bind(config, channel_tls_);
    rpc::Bind(config, server_);
    http::Bind(config, admin_);
    health::Bind(config, health_);
    resilience::Bind(config, crash_);
    config.Field(
        "serve.startup_limit", startup_limit_,
        {.help = "how long hard dependencies may take to answer first", .min = seconds(1), .max = seconds(600)});
    config.Field(
        "serve.drain_delay", drain_delay_,
        {.help = "from not ready to the first refused call; callers need it to turn away", .max = seconds(60)});
    // Without a name yet (help, and the list of known variables) every service's settings are shown.
    for (const ModuleEntry& entry : Modules()) {
      if (!service_.empty() && entry.name != service_) continue;
      module_ = entry.make();
      module_->Bind(config);
      if (service_.empty()) unnamed_.push_back(std::move(module_));
    }
  }

  Result<ExitCode> Run() override;

 private:
  // Whose certificates this process uses; null without TLS.
  struct Identities {
    std::unique_ptr<tls::IdentityPublisher> server;
    std::unique_ptr<tls::IdentityPublisher> client;

    std::vector<tls::CertificateInUse> InUse() const {
      std::vector<tls::CertificateInUse> certificates;
      if (server) certificates.push_back(tls::Describe("server", *server));
      if (client) certificates.push_back(tls::Describe("client", *client));
      return certificates;
    }
  };
  Result<rpc::ServerSecurity> Security(Identities& identities);
  // Who it is when it calls other services.
  Result<tls::ChannelIdentity> Me(Identities& identities);
  // From the first contact with the dependencies to the end of the last call.
  Result<void> Serve(runtime::Runtime& runtime, runtime::Scope& background, health::Monitor& monitor,
                     const Identities& identities, rpc::ServerSecurity security, const runtime::StopSignals& stop);
  Result<void> AwaitDependencies(runtime::Runtime& runtime, const runtime::StopSignals& stop);

  std::string service_;
  config::AppEnv app_env_ = config::AppEnv::kDevelopment;
  telemetry::LogConfig log_;
  tls::ServerTlsConfig tls_;
  tls::ChannelTlsConfig channel_tls_;  // as whom it calls its peers
  rpc::ServerConfig server_;
  http::AdminConfig admin_;
  health::HealthConfig health_;
  resilience::CrashConfig crash_;
  std::chrono::milliseconds startup_limit_ = seconds(10);
  std::chrono::milliseconds drain_delay_ = seconds(1);
  telemetry::Metrics metrics_;  // outlives the module's pools
  std::unique_ptr<Module> module_;
  std::vector<std::unique_ptr<Module>> unnamed_;
};

Result<rpc::ServerSecurity> ServeVerb::Security(Identities& identities) {
  rpc::ServerSecurity security;
  security.stack.verify_token = module_->TokenVerifier();
  // Peers are known by their certificates: where those are optional, nobody can be asked who they are.
  security.stack.authorize_peers = tls_.enabled() && tls_.require_client_cert;
  security.stack.principals = FullTopology(kPortBaseDefault).principals;
  if (!tls_.enabled()) {
    security.credentials = tls::MakePlaintextServerCredentials();
    return security;
  }
  NOVA_TRY(identities.server,
           tls::IdentityPublisher::Create({.files = tls_.files(), .usage = tls::Usage::kServer, .principal = service_},
                                          Clock::System(), metrics_));
  security.credentials =
      tls::MakeServerCredentials(*identities.server, tls_.require_client_cert ? tls::ClientCertificate::kRequired
                                                                              : tls::ClientCertificate::kOptional);
  return security;
}

Result<tls::ChannelIdentity> ServeVerb::Me(Identities& identities) {
  if (!channel_tls_.enabled()) return tls::ChannelIdentity::Plaintext();
  NOVA_TRY(identities.client, tls::IdentityPublisher::Create(
                                  {.files = channel_tls_.files(), .usage = tls::Usage::kClient, .principal = service_},
                                  Clock::System(), metrics_));
  return tls::ChannelIdentity(*identities.client);
}

Result<ExitCode> ServeVerb::Run() {
  if (!module_)
    return InvalidArgument("service: there is no service '" + service_ + "'; `nova modules` lists those there are");
  const runtime::StopSignals stop;
  log_.service = service_;
  telemetry::InitLogging(log_);
  NOVA_TRY(tls_.Validate(app_env_));
  NOVA_TRY(channel_tls_.Validate(app_env_));
  NOVA_TRY(resilience::Arm(crash_, app_env_));

  // Before anything uses TLS.
  const tls::HandshakeObserver handshakes(metrics_,
                                          {.server = server_.handshake_timeout, .client = rpc::kConnectTimeout});
  runtime::Runtime runtime;
  runtime::Scope background(runtime);
  health::Monitor monitor(metrics_, health_);  // its probes run in the background
  Identities identities;
  NOVA_TRY(auto security, Security(identities));
  NOVA_TRY(const tls::ChannelIdentity me, Me(identities));
  // The module's pools have work of their own under way, so from here on every path closes it.
  Result<void> ran = module_->Build(runtime, metrics_, me);
  if (ran) ran = Serve(runtime, background, monitor, identities, std::move(security), stop);
  const auto stopped = background.Stop(kStopLimit);
  const auto closed = module_->Close(kStopLimit);
  // What ignores its end cannot be taken apart safely under its feet.
  for (const auto* result : {&stopped, &closed}) {
    if (*result) continue;
    telemetry::LogError("stopping took too long; ending at once", {{"error", result->error()}});
    telemetry::ShutdownLogging();
    std::_Exit(kCheckFailed);
  }
  module_.reset();
  NOVA_TRY(ran);
  telemetry::LogInfo("stopped");
  return kDone;
}

Result<void> ServeVerb::Serve(runtime::Runtime& runtime, runtime::Scope& background, health::Monitor& monitor,
                              const Identities& identities, rpc::ServerSecurity security,
                              const runtime::StopSignals& stop) {
  NOVA_TRY(AwaitDependencies(runtime, stop));
  if (stop.received()) return Ok();

  module_->AddDependencies(monitor);
  rpc::Server server(runtime, metrics_, server_, std::move(security));
  std::set<std::string> names;
  for (rpc::Service& service : module_->Services()) {
    names.insert(service.name());
    server.Add(std::move(service));
  }
  rpc::Service health = health::MakeHealthService(monitor, names);
  names.insert(health.name());
  server.Add(std::move(health));
  server.Add(rpc::MakeReflectionService({names.begin(), names.end()}));
  const auto admin = http::MakeAdminServer(
      runtime, admin_,
      {.scrape = [this] { return metrics_.Scrape(); },
       .readiness =
           [&monitor] {
             const health::Snapshot snapshot = monitor.Get();
             return http::Readiness{.ok = snapshot.serving, .json = snapshot.ToJson()};
           },
       .status =
           [this, &monitor, &identities] {
             return module_->AddStatus(tls::AddCertificates(monitor.Get().ToJson(), identities.InUse()));
           }});

  NOVA_TRY(server.Start());
  NOVA_TRY(admin->Start());
  if (identities.server) identities.server->Watch(background);
  if (identities.client) identities.client->Watch(background);
  monitor.Start(background);
  module_->Start(background);
  telemetry::LogInfo("serving", {{"grpc_port", server.port()},
                                 {"admin_port", admin->port()},
                                 {"mtls", tls_.enabled() && tls_.require_client_cert},
                                 {"app_env", config::AppEnvName(app_env_)}});
  stop.Await();
  telemetry::LogInfo("stopping");
  // Not ready first; then time for callers to see that; then the calls under way; then what they stood on.
  monitor.Drain();
  NOVA_TRY(runtime.RunBlocking<void>(Duration::max(),
                                     [&](runtime::Call& call) { return runtime::Sleep(call, drain_delay_); }));
  server.Stop();
  return admin->Stop(kStopLimit);
}

Result<void> ServeVerb::AwaitDependencies(runtime::Runtime& runtime, const runtime::StopSignals& stop) {
  return runtime.RunBlocking<void>(startup_limit_, [&](runtime::Call& call) -> runtime::Task<void> {
    for (;;) {
      // A pooler that is being replaced refuses connections for a moment, or takes them and says nothing.
      const auto connected = co_await module_->Connect(call);
      if (connected || stop.received()) co_return Ok();
      const Code code = connected.error().code();
      if (code != Code::kUnavailable && code != Code::kDeadlineExceeded) co_return connected.error();
      if (!co_await runtime::Sleep(call, kConnectRetryDelay)) co_return connected.error();
    }
  });
}

}  // namespace

std::unique_ptr<Verb> MakeServe() { return std::make_unique<ServeVerb>(); }

}  // namespace nova::app
