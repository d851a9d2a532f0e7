// `nova migrate`: brings databases to the schema of this binary, directly and under a lock.
#include <cstdio>
#include <string>

#include "app/command.h"
#include "app/migration.h"
#include "app/modules.h"
#include "app/stack_access.h"
#include "nova/config/app_env.h"
#include "nova/events/outbox.h"
#include "nova/runtime/runtime.h"
#include "nova/telemetry/log.h"

namespace nova::app {

Result<postgres::MigrationReport> MigrateService(std::string_view service, const postgres::ConnectionConfig& direct) {
  const ModuleEntry* const module = FindModule(service);
  if (module == nullptr)
    return InvalidArgument("service: there is no service '" + std::string(service) +
                           "'; `nova modules` lists those there are");
  runtime::Runtime runtime({.threads = 1});
  return runtime.RunBlocking<postgres::MigrationReport>(
      kMigrationLimit, [&](runtime::Call& call) { return events::Migrate(call, direct, module->migrations); });
}

namespace {

class MigrateVerb final : public Verb {
 public:
  void Bind(config::Config& config) override {
    config.Positional("service", service_, {.help = "one service; by default all that this machine's stack has"});
    // Elsewhere: the database itself, not the pooler in front of it.
    config::Bind(config, app_env_);
    postgres::Bind(config, direct_);
    access_.Bind(config);
  }

  Result<ExitCode> Run() override {
    telemetry::InitLogging(
        {.level = telemetry::Level::kWarn, .service = "migrate", .format = telemetry::LogFormat::kText});
    if (!direct_.database.empty()) {
      if (service_.empty()) service_ = direct_.database;
      NOVA_TRY(postgres::Validate(direct_, app_env_));
      NOVA_TRY(Migrate(service_, direct_));
      return kDone;
    }
    NOVA_TRY(access_.Resolve());
    if (!service_.empty() && access_.topology().Find(service_) == nullptr)
      return InvalidArgument("service: there is no service '" + service_ + "'; `nova modules` lists those there are");
    for (const config::ServiceSpec& spec : access_.topology().services) {
      if (!service_.empty() && spec.name != service_) continue;
      NOVA_TRY(const auto direct, access_.DirectDatabase(spec.database, spec.role));
      NOVA_TRY(Migrate(spec.name, direct));
    }
    return kDone;
  }

 private:
  static Result<void> Migrate(const std::string& service, const postgres::ConnectionConfig& direct) {
    NOVA_TRY(const auto report, MigrateService(service, direct));
    for (const std::string& name : report.applied) std::printf("%s: applied %s\n", service.c_str(), name.c_str());
    std::printf("%s: at version %d\n", service.c_str(), report.version);
    return Ok();
  }

  std::string service_;
  config::AppEnv app_env_ = config::AppEnv::kDevelopment;
  postgres::ConnectionConfig direct_;
  StackAccess access_{"operator"};
};

}  // namespace

std::unique_ptr<Verb> MakeMigrate() { return std::make_unique<MigrateVerb>(); }

}  // namespace nova::app
