#include "app/modules.h"

#include <algorithm>
#include <optional>

#include "nova/auth/jwt.h"
#include "nova/auth/password.h"
#include "nova/postgres/pool.h"
#include "services/identity/config.h"
#include "services/identity/migrations.h"
#include "services/identity/rpc.h"
#include "services/identity/service.h"
#include "services/identity/store.h"

namespace nova::app {
namespace {

using runtime::Call;
using runtime::Task;

class IdentityModule final : public Module {
 public:
  void Bind(config::Config& config) override { identity::Bind(config, config_); }

  Result<void> Build(runtime::Runtime& runtime, telemetry::Metrics& metrics) override {
    NOVA_TRY(postgres::Validate(config_.database.connection));
    NOVA_TRY(auth::JwtKeys keys, auth::LoadJwtKeys(config_.jwt));
    if (!keys.signing)
      return InvalidArgument(
          "NOVA_AUTH_JWT_SIGNING_KEY: identity signs tokens and needs its private key; name the PEM file in "
          "NOVA_AUTH_JWT_SIGNING_KEY_FILE");
    NOVA_TRY(hasher_, auth::PasswordHasher::Create(config_.password, metrics));
    pool_.emplace(runtime, metrics, config_.database);
    health_pool_.emplace(runtime, metrics, postgres::ForHealth(config_.database));
    store_.emplace(*pool_);
    verifier_.emplace(config_.jwt, keys.verification);
    service_.emplace(*store_, *hasher_, config_.jwt, auth::JwtSigner(*std::move(keys.signing)), *verifier_, metrics);
    return Ok();
  }

  Task<void> Connect(Call& call) override {
    auto answered = co_await health_pool_->Ping(call);
    if (answered) co_return Ok();
    const postgres::ConnectionConfig& database = config_.database.connection;
    co_return std::move(answered).error().WithContext("at " + database.host + ":" + std::to_string(database.port) +
                                                      "; is it up, and are NOVA_POSTGRES_HOST, NOVA_POSTGRES_PORT, "
                                                      "NOVA_POSTGRES_USER and NOVA_POSTGRES_PASSWORD right?");
  }

  void AddDependencies(health::Monitor& monitor) override {
    monitor.AddHard("postgres", [this](Call& call) { return health_pool_->Ping(call); });
  }

  std::vector<rpc::Service> Services() override {
    std::vector<rpc::Service> services;
    services.push_back(identity::MakeRpcService(*service_));
    return services;
  }

  rpc::TokenVerifier TokenVerifier() override {
    return [this](std::string_view token) -> Result<runtime::Caller> {
      NOVA_TRY(const auth::Claims claims, verifier_->Verify(token));
      return auth::CallerOf(claims);
    };
  }

  Result<void> Close(Duration limit) override {
    service_.reset();
    hasher_.reset();  // its threads wake tasks of the runtime
    if (!pool_) return Ok();
    const auto closed = pool_->Close(limit);
    NOVA_TRY(health_pool_->Close(limit));
    return closed;
  }

 private:
  identity::IdentityConfig config_;
  std::unique_ptr<auth::PasswordHasher> hasher_;
  std::optional<postgres::Pool> pool_;
  std::optional<postgres::Pool> health_pool_;
  std::optional<identity::Store> store_;
  std::optional<auth::JwtVerifier> verifier_;
  std::optional<identity::Service> service_;
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
       .soft = {},
       .migrations = identity::Migrations(),
       .make = Make<IdentityModule>},
  };
  return modules;
}

const ModuleEntry* FindModule(std::string_view name) {
  const auto modules = Modules();
  const auto found = std::ranges::find(modules, name, &ModuleEntry::name);
  return found == modules.end() ? nullptr : &*found;
}

}  // namespace nova::app
