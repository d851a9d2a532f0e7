#include "app/stack_access.h"

#include <unistd.h>

#include "app/topology.h"
#include "local/state.h"

namespace nova::app {

void StackAccess::Bind(config::Config& config) {
  config.Field("up.data_dir", data_dir_, {.help = "data folder of `nova up`", .flag = "data-dir"});
  config.Field(
      "up.port_base", port_base_,
      {.help = "first port of the stack; 0 asks the running one", .flag = "port-base", .min = 0, .max = 65000});
  tls::Bind(config, tls_);
}

Result<void> StackAccess::Resolve() {
  if (data_dir_.empty()) {
    NOVA_TRY(const auto root, local::DefaultDataDir(config::Sources::FromProcess(0, nullptr).environment, geteuid()));
    data_dir_ = root.string();
  }
  layout_ = {.root = data_dir_};
  int port_base = port_base_;
  if (port_base == 0) {
    const auto state = local::ReadState(layout_);
    port_base = state ? state->port_base : kPortBaseDefault;
  }
  topology_ = LocalTopology(port_base);
  if (tls_.enabled()) return tls_.Validate(config::AppEnv::kProduction);

  const auto leaf = layout_.certificate(principal_);
  std::error_code ignored;
  if (!std::filesystem::exists(leaf / "tls.crt", ignored))
    return NotFound("there is no stack in " + data_dir_ +
                    ": start one with `nova up`, name its folder with --data-dir, or " +
                    "set GRPC_CLIENT_CERT_PATH, GRPC_CLIENT_KEY_PATH and GRPC_SERVER_CA_CERT_PATH");
  tls_ = {.server_ca_path = leaf / "ca.crt", .certificate_path = leaf / "tls.crt", .key_path = leaf / "tls.key"};
  return Ok();
}

std::string StackAccess::Target(std::string_view service) const {
  return "127.0.0.1:" + std::to_string(topology_.Find(service)->grpc_port);
}

Result<postgres::ConnectionConfig> StackAccess::DirectDatabase(const std::string& database,
                                                               const std::string& role) const {
  return Database(database, role, topology_.postgres_port);
}

Result<postgres::ConnectionConfig> StackAccess::PooledDatabase(const std::string& database,
                                                               const std::string& role) const {
  return Database(database, role, topology_.pgbouncer_port);
}

Result<postgres::ConnectionConfig> StackAccess::Database(const std::string& database, const std::string& role,
                                                         int port) const {
  const auto file = layout_.password(role);
  auto password = local::ReadFile(file);
  if (!password)
    return NotFound("there is no password for the role '" + role + "' in " + layout_.root.string() +
                    ": start the stack with `nova up`, or name its folder with --data-dir");
  return postgres::ConnectionConfig{.host = "127.0.0.1",
                                    .port = port,
                                    .database = database,
                                    .user = role,
                                    .password = Secret<>(*std::move(password)),
                                    .ssl_mode = postgres::SslMode::kVerifyFull,
                                    .ssl_root_cert = layout_.certificate(principal_) / "ca.crt",
                                    .application_name = "nova-" + principal_};
}

Result<tls::ChannelIdentity> StackAccess::Identity(telemetry::Metrics& metrics) {
  NOVA_TRY(publisher_, tls::IdentityPublisher::Create({.files = tls_.files(), .usage = tls::Usage::kClient},
                                                      Clock::System(), metrics));
  return tls::ChannelIdentity(*publisher_);
}

}  // namespace nova::app
