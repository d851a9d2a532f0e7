#include "nova/tls/config.h"

#include <array>
#include <string_view>
#include <utility>

#include "nova/telemetry/log.h"

namespace nova::tls {
namespace {

constexpr std::string_view kServerCertPath = "GRPC_SERVER_CERT_PATH";
constexpr std::string_view kServerKeyPath = "GRPC_SERVER_KEY_PATH";
constexpr std::string_view kClientCaCertPath = "GRPC_CLIENT_CA_CERT_PATH";
constexpr std::string_view kRequireClientCert = "GRPC_REQUIRE_CLIENT_CERT";
constexpr std::string_view kServerCaCertPath = "GRPC_SERVER_CA_CERT_PATH";
constexpr std::string_view kClientCertPath = "GRPC_CLIENT_CERT_PATH";
constexpr std::string_view kClientKeyPath = "GRPC_CLIENT_KEY_PATH";

struct Setting {
  std::string_view variable;
  const std::string* value;
};
using Settings = std::array<Setting, 3>;

// "A, B and C": the variables of `settings` that are set, or that are not.
std::string Names(const Settings& settings, bool set) {
  std::string text;
  std::string_view last;
  for (const Setting& setting : settings) {
    if (setting.value->empty() == set) continue;
    if (!last.empty()) text.append(text.empty() ? "" : ", ").append(last);
    last = setting.variable;
  }
  return text.append(text.empty() ? "" : " and ").append(last);
}

Result<void> ValidatePaths(const Settings& settings, config::AppEnv env, std::string_view consequence) {
  const std::string missing = Names(settings, false);
  if (missing.empty()) return Ok();
  const bool none_set = Names(settings, true).empty();
  if (env != config::AppEnv::kDevelopment)
    return FailedPrecondition("APP_ENV=" + std::string(config::AppEnvName(env)) + " requires mutual TLS: set " +
                              missing);
  if (!none_set)
    return FailedPrecondition("TLS is half configured: set " + missing + " as well, or unset " + Names(settings, true));
  telemetry::LogWarn("TLS IS OFF: " + std::string(consequence) + "; only APP_ENV=development allows it",
                     {{"remedy", "set " + missing}});
  return Ok();
}

config::FieldOptions Path(std::string_view help, std::string_view variable) {
  return {.help = std::string(help), .env = std::string(variable)};
}

}  // namespace

CertificateFiles ServerTlsConfig::files() const {
  return {.certificate = {.path = certificate_path, .variable = std::string(kServerCertPath)},
          .key = {.path = key_path, .variable = std::string(kServerKeyPath)},
          .ca = {.path = client_ca_path, .variable = std::string(kClientCaCertPath)}};
}

Result<void> ServerTlsConfig::Validate(config::AppEnv env) const {
  if (!require_client_cert && env != config::AppEnv::kDevelopment)
    return FailedPrecondition(std::string(kRequireClientCert) +
                              "=false is for APP_ENV=development only: unset it, or set it to true");
  NOVA_TRY(ValidatePaths(
      {{{kServerCertPath, &certificate_path}, {kServerKeyPath, &key_path}, {kClientCaCertPath, &client_ca_path}}}, env,
      "this server takes plaintext calls from anyone"));
  if (enabled() && !require_client_cert) {
    telemetry::LogWarn(
        "CLIENT CERTIFICATES ARE OPTIONAL: this server takes calls from unknown peers; only APP_ENV=development allows "
        "it",
        {{"remedy", "unset " + std::string(kRequireClientCert)}});
  }
  return Ok();
}

CertificateFiles ChannelTlsConfig::files() const {
  return {.certificate = {.path = certificate_path, .variable = std::string(kClientCertPath)},
          .key = {.path = key_path, .variable = std::string(kClientKeyPath)},
          .ca = {.path = server_ca_path, .variable = std::string(kServerCaCertPath)}};
}

Result<void> ChannelTlsConfig::Validate(config::AppEnv env) const {
  return ValidatePaths(
      {{{kServerCaCertPath, &server_ca_path}, {kClientCertPath, &certificate_path}, {kClientKeyPath, &key_path}}}, env,
      "calls to other services are plaintext and their servers are not verified");
}

void Bind(config::Config& config, ServerTlsConfig& server) {
  config.Field("tls.server_certificate", server.certificate_path,
               Path("PEM file with the server's certificate chain", kServerCertPath));
  config.Field("tls.server_key", server.key_path, Path("PEM file with the server's private key", kServerKeyPath));
  config.Field("tls.client_ca", server.client_ca_path,
               Path("PEM file with the authorities that sign clients", kClientCaCertPath));
  config.Field("tls.require_client_cert", server.require_client_cert,
               Path("refuse clients without a certificate", kRequireClientCert));
}

void Bind(config::Config& config, ChannelTlsConfig& channel) {
  config.Field("tls.server_ca", channel.server_ca_path,
               Path("PEM file with the authorities that sign servers", kServerCaCertPath));
  config.Field("tls.client_certificate", channel.certificate_path,
               Path("PEM file with the certificate shown to other services", kClientCertPath));
  config.Field("tls.client_key", channel.key_path,
               Path("PEM file with the private key of that certificate", kClientKeyPath));
}

}  // namespace nova::tls
