#include "nova/tls/config.h"

#include <gtest/gtest.h>
#include <string>
#include <vector>

#include "nova/telemetry/log.h"

namespace nova::tls {
namespace {

using config::AppEnv;

// Collects the log while it lives.
class LogCapture {
 public:
  LogCapture() {
    telemetry::InitLogging({}, [this](std::string_view line) { lines_.emplace_back(line); });
  }
  ~LogCapture() {
    telemetry::InitLogging({}, [](std::string_view) {});
  }
  const std::vector<std::string>& lines() const { return lines_; }

 private:
  std::vector<std::string> lines_;
};

const ServerTlsConfig kFullServer{.certificate_path = "/c", .key_path = "/k", .client_ca_path = "/a"};
const ChannelTlsConfig kFullChannel{.server_ca_path = "/a", .certificate_path = "/c", .key_path = "/k"};

std::string Message(const Result<void>& result) {
  if (result) return "";
  EXPECT_EQ(result.error().code(), Code::kFailedPrecondition);
  return result.error().message();
}

TEST(TlsConfigTest, FullConfigurationPassesEverywhereInSilence) {
  const LogCapture log;
  for (const AppEnv env : {AppEnv::kDevelopment, AppEnv::kStaging, AppEnv::kProduction}) {
    EXPECT_TRUE(kFullServer.Validate(env));
    EXPECT_TRUE(kFullChannel.Validate(env));
  }
  EXPECT_TRUE(kFullServer.enabled());
  EXPECT_TRUE(kFullChannel.enabled());
  EXPECT_TRUE(log.lines().empty());
}

TEST(TlsConfigTest, StagingAndProductionRefuseToRunWithoutAnyOfThem) {
  EXPECT_EQ(Message(ServerTlsConfig{}.Validate(AppEnv::kProduction)),
            "APP_ENV=production requires mutual TLS: set GRPC_SERVER_CERT_PATH, GRPC_SERVER_KEY_PATH and "
            "GRPC_CLIENT_CA_CERT_PATH");
  EXPECT_EQ(Message(ChannelTlsConfig{}.Validate(AppEnv::kStaging)),
            "APP_ENV=staging requires mutual TLS: set GRPC_SERVER_CA_CERT_PATH, GRPC_CLIENT_CERT_PATH and "
            "GRPC_CLIENT_KEY_PATH");
  ServerTlsConfig without_key = kFullServer;
  without_key.key_path.clear();
  EXPECT_EQ(Message(without_key.Validate(AppEnv::kProduction)),
            "APP_ENV=production requires mutual TLS: set GRPC_SERVER_KEY_PATH");
}

TEST(TlsConfigTest, DevelopmentMayRunWithoutAndSaysSo) {
  const LogCapture log;
  EXPECT_TRUE(ServerTlsConfig{}.Validate(AppEnv::kDevelopment));
  EXPECT_FALSE(ServerTlsConfig{}.enabled());
  ASSERT_EQ(log.lines().size(), 1u);
  EXPECT_TRUE(log.lines()[0].contains(R"("level":"warn")")) << log.lines()[0];
  for (const char* name : {"GRPC_SERVER_CERT_PATH", "GRPC_SERVER_KEY_PATH", "GRPC_CLIENT_CA_CERT_PATH"})
    EXPECT_TRUE(log.lines()[0].contains(name)) << log.lines()[0];
  EXPECT_TRUE(ChannelTlsConfig{}.Validate(AppEnv::kDevelopment));
  ASSERT_EQ(log.lines().size(), 2u);
  EXPECT_TRUE(log.lines()[1].contains("GRPC_SERVER_CA_CERT_PATH")) << log.lines()[1];
}

TEST(TlsConfigTest, HalfAConfigurationIsRefusedInDevelopmentToo) {
  EXPECT_EQ(Message(ServerTlsConfig{.certificate_path = "/c", .key_path = {}, .client_ca_path = {}}.Validate(
                AppEnv::kDevelopment)),
            "TLS is half configured: set GRPC_SERVER_KEY_PATH and GRPC_CLIENT_CA_CERT_PATH as well, or unset "
            "GRPC_SERVER_CERT_PATH");
  EXPECT_EQ(Message(ChannelTlsConfig{.server_ca_path = {}, .certificate_path = "/c", .key_path = "/k"}.Validate(
                AppEnv::kDevelopment)),
            "TLS is half configured: set GRPC_SERVER_CA_CERT_PATH as well, or unset GRPC_CLIENT_CERT_PATH and "
            "GRPC_CLIENT_KEY_PATH");
}

TEST(TlsConfigTest, ClientCertificatesAreOptionalInDevelopmentOnly) {
  ServerTlsConfig optional = kFullServer;
  optional.require_client_cert = false;
  for (const AppEnv env : {AppEnv::kStaging, AppEnv::kProduction})
    EXPECT_TRUE(Message(optional.Validate(env)).starts_with("GRPC_REQUIRE_CLIENT_CERT=false"));
  const LogCapture log;
  EXPECT_TRUE(optional.Validate(AppEnv::kDevelopment));
  ASSERT_EQ(log.lines().size(), 1u);
  EXPECT_TRUE(log.lines()[0].contains("GRPC_REQUIRE_CLIENT_CERT")) << log.lines()[0];
}

TEST(TlsConfigTest, IsBoundToTheNamesOfTheField) {
  config::Config source({.args = {},
                         .environment = {{"GRPC_SERVER_CERT_PATH", "/1"},
                                         {"GRPC_SERVER_KEY_PATH", "/2"},
                                         {"GRPC_CLIENT_CA_CERT_PATH", "/3"},
                                         {"GRPC_REQUIRE_CLIENT_CERT", "false"},
                                         {"GRPC_SERVER_CA_CERT_PATH", "/4"},
                                         {"GRPC_CLIENT_CERT_PATH", "/5"},
                                         {"GRPC_CLIENT_KEY_PATH", "/6"}}});
  ServerTlsConfig server;
  ChannelTlsConfig channel;
  Bind(source, server);
  Bind(source, channel);
  ASSERT_TRUE(source.Finish());
  EXPECT_EQ(server.files().certificate.path, "/1");
  EXPECT_EQ(server.files().key.path, "/2");
  EXPECT_EQ(server.files().ca.path, "/3");
  EXPECT_FALSE(server.require_client_cert);
  EXPECT_EQ(channel.files().ca.path, "/4");
  EXPECT_EQ(channel.files().certificate.path, "/5");
  EXPECT_EQ(channel.files().key.path, "/6");
  EXPECT_EQ(channel.files().key.variable, "GRPC_CLIENT_KEY_PATH");
}

TEST(TlsConfigTest, ClientCertificatesAreRequiredByDefault) {
  config::Config source({.args = {}, .environment = {}});
  ServerTlsConfig server;
  Bind(source, server);
  ASSERT_TRUE(source.Finish());
  EXPECT_TRUE(server.require_client_cert);
}

}  // namespace
}  // namespace nova::tls
