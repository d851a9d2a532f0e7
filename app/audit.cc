// `nova audit`: what was promised, measured on a stack that runs.
#include "audit/audit.h"

#include <cstdio>
#include <unistd.h>

#include "app/command.h"
#include "app/demo_scenario.h"
#include "app/modules.h"
#include "app/stack_access.h"
#include "local/redis_server.h"
#include "local/rotation.h"
#include "local/secrets_manager.h"
#include "local/state.h"
#include "nova/runtime/runtime.h"
#include "nova/runtime/stop_signals.h"
#include "nova/telemetry/log.h"

namespace nova::app {
namespace {

constexpr char kAudit[] = "audit";  // the principal, and the database role of the same name
constexpr char kConsole[] = "pgbouncer";
constexpr char kUser[] = "operator";  // may register a user, and act as one

class AuditVerb final : public Verb {
 public:
  void Bind(config::Config& config) override {
    audit::Bind(config, audit_);
    access_.Bind(config);
  }

  Result<ExitCode> Run() override {
    // The audit provokes errors on purpose; its rows say what came of them.
    telemetry::InitLogging(
        {.level = telemetry::Level::kError, .service = kAudit, .format = telemetry::LogFormat::kText});
    NOVA_TRY(access_.Resolve());
    audit_.topology = access_.topology();
    audit_.identity = access_.tls();
    for (const config::ServiceSpec& spec : audit_.topology.services) {
      audit_.services.push_back({.name = spec.name,
                                 .grpc_target = access_.Target(spec.name),
                                 .admin_target = "127.0.0.1:" + std::to_string(spec.admin_port),
                                 .dependencies = DependenciesOf(spec.name)});
    }
    const std::string& database = audit_.topology.services.front().database;
    NOVA_TRY(audit_.pooled, access_.PooledDatabase(database, kAudit));
    NOVA_TRY(audit_.direct, access_.DirectDatabase(database, kAudit));
    NOVA_TRY(audit_.pgbouncer_admin, access_.PooledDatabase(kConsole, kAudit));

    NOVA_TRY(AddFaultTargets());
    audit_.authority = access_.layout().authority();
    NOVA_TRY(AddSecrets());
    audit_.demo = [this] { return Demo(); };
    const local::RotationConfig rotation{.data_dir = access_.layout().root, .principals = audit_.topology.principals};
    audit_.rotate_leaves = [rotation] { return Taken(local::RotateLeaves(rotation)); };
    audit_.rotate_authority = [rotation] { return Taken(local::RotateAuthority(rotation)); };
    audit_.shorten_leaf = [rotation](const std::string& service, std::chrono::seconds left) {
      return local::ShortenLeaf(rotation, service, left);
    };
    if (isatty(STDERR_FILENO) != 0)
      audit_.progress = [](std::string_view what) {
        std::fprintf(stderr, "  %.*s\n", static_cast<int>(what.size()), what.data());
      };
    // A Ctrl-C ends the audit, not what it has to put back.
    const runtime::StopSignals stop;
    audit_.interrupted = [&stop] { return stop.received(); };

    runtime::Runtime runtime;
    NOVA_TRY(const auto rows, audit::Run(runtime, audit_));
    std::fputs((audit_.json ? audit::ToJson(rows) : audit::ToTable(rows, isatty(STDOUT_FILENO) != 0)).c_str(), stdout);
    return static_cast<ExitCode>(audit::ExitCode(rows));
  }

 private:
  static std::vector<std::string> DependenciesOf(std::string_view service) {
    const ModuleEntry* const module = FindModule(service);
    if (module == nullptr) return {};
    std::vector<std::string> names(module->hard.begin(), module->hard.end());
    names.insert(names.end(), module->soft.begin(), module->soft.end());
    return names;
  }

  // Whom the faults may stop, and the users that they are watched with.
  Result<void> AddFaultTargets() {
    const local::Layout& layout = access_.layout();
    const auto leaf = layout.certificate(kUser);
    audit_.user_identity = {
        .server_ca_path = leaf / "ca.crt", .certificate_path = leaf / "tls.crt", .key_path = leaf / "tls.key"};
    audit_.redis.port = audit_.topology.redis_port;
    audit_.redis.user = kAudit;
    audit_.redis.ca_path = leaf / "ca.crt";
    audit_.redis.server_name = tls::ServiceDnsName(local::kRedisPrincipal);
    NOVA_TRY(auto password, local::ReadFile(layout.redis_password(kAudit)));
    audit_.redis.password = Secret<>(std::move(password));
    // Without a state there is nobody to stop, and the rows will say so.
    const auto state = local::ReadState(layout);
    if (!state) return Ok();
    for (const local::ComponentState& component : state->components) {
      if (component.pid == 0) continue;
      const auto folder = component.name == "postgres"    ? layout.cluster()
                          : component.name == "pgbouncer" ? layout.pooler()
                          : component.name == "redis"     ? layout.redis()
                                                          : layout.service(component.name);
      audit_.processes.push_back({.name = component.name, .pid = component.pid, .folder = folder});
    }
    return Ok();
  }

  // The Secrets Manager, if the stack has one, and where to look for what must not be written anywhere.
  Result<void> AddSecrets() {
    const local::Layout& layout = access_.layout();
    audit_.logs = layout.logs();
    audit_.secret_folders = {layout.secrets(), layout.certificates(), layout.authority()};
    const auto local = local::ReadSecretsManager(layout);
    // Without one the rows that need it say so.
    if (!local && local.error().code() == Code::kNotFound) return Ok();
    NOVA_TRY(local);
    NOVA_TRY(Secret<> key, local::SecretAccessKey(*local));
    audit_.secrets = {.endpoint = local->endpoint,
                      .region = local->region,
                      .secret_id = local->jwt_secret,
                      .issuer = std::string(local::kTokenIssuer),
                      .access_key_id = local->access_key_id,
                      .secret_access_key = std::move(key),
                      .soft_ttl = local->soft_ttl,
                      .keys_refresh_interval = local->keys_refresh_interval,
                      .announce = local->announce};
    return Ok();
  }

  // Whether every process of a stack that runs uses what is new.
  static Result<void> Taken(const Result<local::RotationReport>& rotated) {
    NOVA_TRY(rotated);
    if (!rotated->live) return FailedPrecondition("the certificates were replaced, but no stack runs to take them up");
    return Ok();
  }

  // What a person does with the stack.
  Result<void> Demo() const {
    telemetry::Metrics metrics;  // nobody scrapes them
    NOVA_TRY(const auto publisher,
             tls::IdentityPublisher::Create({.files = audit_.user_identity.files(), .usage = tls::Usage::kClient},
                                            Clock::System(), metrics));
    Stage stage([](const Step&) {});
    NOVA_TRY(RunDemo(stage, {.identity = access_.Target("identity"), .user = access_.Target("user")},
                     tls::ChannelIdentity(*publisher), metrics));
    for (const Step& step : stage.steps()) {
      if (!step.passed) return Internal("a step of the demo failed", step.what + ": " + step.observed);
    }
    return Ok();
  }

  audit::AuditConfig audit_;
  StackAccess access_{kAudit};
};

}  // namespace

std::unique_ptr<Verb> MakeAudit() { return std::make_unique<AuditVerb>(); }

}  // namespace nova::app
