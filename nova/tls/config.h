// Where a process finds its certificates, as a server and as a caller of other services, and what each deployment
// allows. Files and not values: Kubernetes mounts them, and they are replaced while the process runs.
#pragma once

#include <string>

#include "nova/base/result.h"
#include "nova/config/app_env.h"
#include "nova/config/config.h"
#include "nova/tls/certificate.h"

namespace nova::tls {

struct ServerTlsConfig {
  std::string certificate_path;     // GRPC_SERVER_CERT_PATH
  std::string key_path;             // GRPC_SERVER_KEY_PATH
  std::string client_ca_path;       // GRPC_CLIENT_CA_CERT_PATH: who may have signed a client's certificate
  bool require_client_cert = true;  // GRPC_REQUIRE_CLIENT_CERT

  // False: plaintext. Meaningful once Validate has passed.
  bool enabled() const { return !certificate_path.empty(); }
  CertificateFiles files() const;

  // Whether `env` may run like this. All three paths must be set; in development all three may be unset (plaintext), or
  // the client's certificate be optional, and then a warning that names the variables is logged. Does not open the
  // files. Errors: FAILED_PRECONDITION, one line that names the variables and the remedy.
  Result<void> Validate(config::AppEnv env) const;
};

struct ChannelTlsConfig {
  std::string server_ca_path;    // GRPC_SERVER_CA_CERT_PATH: who may have signed a server's certificate
  std::string certificate_path;  // GRPC_CLIENT_CERT_PATH
  std::string key_path;          // GRPC_CLIENT_KEY_PATH

  bool enabled() const { return !certificate_path.empty(); }
  CertificateFiles files() const;

  // As ServerTlsConfig::Validate.
  Result<void> Validate(config::AppEnv env) const;
};

void Bind(config::Config& config, ServerTlsConfig& server);
void Bind(config::Config& config, ChannelTlsConfig& channel);

}  // namespace nova::tls
