// `nova audit`: what was promised, measured on a stack that runs.
#include "audit/audit.h"

#include <cstdio>
#include <unistd.h>

#include "app/command.h"
#include "app/stack_access.h"
#include "nova/runtime/runtime.h"
#include "nova/telemetry/log.h"

namespace nova::app {
namespace {

constexpr char kAudit[] = "audit";  // the principal, and the database role of the same name
constexpr char kConsole[] = "pgbouncer";

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
                                 .admin_target = "127.0.0.1:" + std::to_string(spec.admin_port)});
    }
    const std::string& database = audit_.topology.services.front().database;
    NOVA_TRY(audit_.pooled, access_.PooledDatabase(database, kAudit));
    NOVA_TRY(audit_.direct, access_.DirectDatabase(database, kAudit));
    NOVA_TRY(audit_.pgbouncer_admin, access_.PooledDatabase(kConsole, kAudit));

    runtime::Runtime runtime;
    NOVA_TRY(const auto rows, audit::Run(runtime, audit_));
    std::fputs((audit_.json ? audit::ToJson(rows) : audit::ToTable(rows, isatty(STDOUT_FILENO) != 0)).c_str(), stdout);
    return static_cast<ExitCode>(audit::ExitCode(rows));
  }

 private:
  audit::AuditConfig audit_;
  StackAccess access_{kAudit};
};

}  // namespace

std::unique_ptr<Verb> MakeAudit() { return std::make_unique<AuditVerb>(); }

}  // namespace nova::app
