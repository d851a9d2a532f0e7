#include "app/modules.h"

#include <algorithm>
#include <optional>

#include "app/service_module.h"
#include "nova/auth/password.h"
#include "services/identity/config.h"
#include "services/identity/events.h"
#include "services/identity/migrations.h"
#include "services/identity/rpc.h"
#include "services/identity/service.h"
#include "services/identity/store.h"
#include "services/user/config.h"
#include "services/user/events.h"
#include "services/user/migrations.h"
#include "services/user/profile_cache.h"
#include "services/user/rpc.h"
#include "services/user/service.h"
#include "services/user/store.h"

namespace nova::app {
namespace {

using runtime::Call;
using runtime::Task;

class IdentityModule final : public ServiceModule {
 public:
  IdentityModule() : ServiceModule("identity", {.tokens = TokenKeys::Role::kIssues}) {}

  std::vector<rpc::Service> Services() override {
    std::vector<rpc::Service> services;
    services.push_back(identity::MakeRpcService(*service_));
    return services;
  }

 private:
  void BindService(config::Config& config) override { identity::Bind(config, config_); }

  Result<void> BuildService(runtime::Runtime&, telemetry::Metrics& metrics) override {
    NOVA_TRY(identity::Validate(config_.service));
    NOVA_TRY(hasher_, auth::PasswordHasher::Create(config_.password, metrics));
    store_.emplace(pool(), outbox());
    service_.emplace(*store_, *hasher_, token_keys().signer(), token_keys().verifier(), metrics, config_.service);
    identity::Consume(consumer(), *service_);
    return Ok();
  }

  void StartService(runtime::Scope& background) override { service_->Start(background); }

  Result<void> CloseService(Duration) override {
    service_.reset();
    hasher_.reset();  // its threads wake tasks of the runtime
    return Ok();
  }

  identity::IdentityConfig config_;
  std::unique_ptr<auth::PasswordHasher> hasher_;
  std::optional<identity::Store> store_;
  std::optional<identity::Service> service_;
};

class UserModule final : public ServiceModule {
 public:
  UserModule() : ServiceModule("user", {.caches = true}) {}

  std::vector<rpc::Service> Services() override {
    std::vector<rpc::Service> services;
    services.push_back(user::MakeRpcService(*service_));
    return services;
  }

 private:
  void BindService(config::Config& config) override { user::Bind(config, config_); }

  Result<void> BuildService(runtime::Runtime& runtime, telemetry::Metrics& metrics) override {
    store_.emplace(pool(), outbox());
    profiles_.emplace(runtime, metrics, cache(), *store_, config_);
    service_.emplace(*store_, &*profiles_, metrics);
    user::Consume(consumer(), *service_);
    return Ok();
  }

  Result<void> CloseService(Duration limit) override {
    service_.reset();
    return profiles_ ? profiles_->Close(limit) : Ok();
  }

  user::UserConfig config_;
  std::optional<user::Store> store_;
  std::optional<user::ProfileCache> profiles_;
  std::optional<user::Service> service_;
};

template <class T>
std::unique_ptr<Module> Make() {
  return std::make_unique<T>();
}

}  // namespace

std::span<const ModuleEntry> Modules() {
  static const std::vector<ModuleEntry> modules = {
      {.name = "identity",
       .description = "accounts, passwords, access tokens",
       .hard = {"postgres"},
       .soft = {"redis"},
       .migrations = identity::Migrations(),
       .make = Make<IdentityModule>},
      {.name = "user",
       .description = "profiles, settings, privacy",
       .hard = {"postgres"},
       .soft = {"redis", "identity"},
       .migrations = user::Migrations(),
       .make = Make<UserModule>},
  };
  return modules;
}

const ModuleEntry* FindModule(std::string_view name) {
  const auto modules = Modules();
  const auto found = std::ranges::find(modules, name, &ModuleEntry::name);
  return found == modules.end() ? nullptr : &*found;
}

}  // namespace nova::app
