// Every module of the map starts alone, over a real database and pooler, and every method it serves is declared.
#include <gtest/gtest.h>
#include <set>
#include <string>
#include <utility>

#include "app/migration.h"
#include "app/modules.h"
#include "nova/auth/keys.h"
#include "nova/rpc/server.h"
#include "nova/tls/credentials.h"
#include "tests/postgres_fixture.h"

namespace nova::app {
namespace {

TEST(ModulesTest, AreSortedAndUnique) {
  std::string last;
  for (const ModuleEntry& entry : Modules()) {
    EXPECT_LT(last, entry.name);
    last = entry.name;
  }
}

class EveryModule : public ::testing::TestWithParam<std::string> {};

TEST_P(EveryModule, StartsAlone) {
  const ModuleEntry& entry = *FindModule(GetParam());
  auto& postgres = tests::PostgresFixture::Instance();
  postgres.CreateDatabase(GetParam());
  const auto migrated = MigrateService(entry.name, postgres.Direct(GetParam()));
  ASSERT_TRUE(migrated.ok()) << migrated.error().ToString();

  const auto connection = postgres.Pooled(GetParam());
  config::Sources sources;
  sources.environment = {{"NOVA_POSTGRES_HOST", connection.host},
                         {"NOVA_POSTGRES_PORT", std::to_string(connection.port)},
                         {"NOVA_POSTGRES_DATABASE", connection.database},
                         {"NOVA_POSTGRES_USER", connection.user},
                         {"NOVA_POSTGRES_PASSWORD", connection.password.Expose()},
                         {"NOVA_POSTGRES_SSL_MODE", std::string(postgres::SslModeName(connection.ssl_mode))},
                         {"NOVA_POSTGRES_SSL_ROOT_CERT", connection.ssl_root_cert},
                         // Nobody listens there: what is soft must not be needed.
                         {"NOVA_REDIS_TLS", "false"},
                         {"NOVA_REDIS_PORT", std::to_string(tests::FreePort())},
                         {"NOVA_PEERS_IDENTITY_TARGET", "127.0.0.1:" + std::to_string(tests::FreePort())}};
  if (GetParam() == "identity") {
    const auto key = auth::SigningKey::Generate(auth::Algorithm::kEdDsa);
    ASSERT_TRUE(key.ok());
    sources.environment["NOVA_AUTH_JWT_SIGNING_KEY"] = key->ToPem()->Expose();
  }
  config::Config config(std::move(sources));
  const auto module = entry.make();
  module->Bind(config);
  const auto finished = config.Finish();
  ASSERT_TRUE(finished.ok()) << finished.error().ToString();

  runtime::Runtime runtime;
  runtime::Scope background(runtime);
  telemetry::Metrics metrics;
  const auto built = module->Build(runtime, metrics, tls::ChannelIdentity::Plaintext());
  ASSERT_TRUE(built.ok()) << built.error().ToString();
  const auto connected =
      runtime.RunBlocking<void>(std::chrono::seconds(20), [&](runtime::Call& call) { return module->Connect(call); });
  EXPECT_TRUE(connected.ok()) << connected.error().ToString();
  health::Monitor monitor(metrics, {});
  module->AddDependencies(monitor);
  // The map tells people what decides health; this is what does.
  std::set<std::string_view> hard;
  std::set<std::string_view> soft;
  const health::Snapshot snapshot = monitor.Get();
  for (const auto& dependency : snapshot.dependencies) (dependency.hard ? hard : soft).insert(dependency.name);
  EXPECT_EQ(hard, std::set<std::string_view>(entry.hard.begin(), entry.hard.end()));
  EXPECT_EQ(soft, std::set<std::string_view>(entry.soft.begin(), entry.soft.end()));
  {
    rpc::Server server(
        runtime, metrics, {.address = "127.0.0.1", .port = 0},
        {.credentials = tls::MakePlaintextServerCredentials(), .stack = {.verify_token = module->TokenVerifier()}});
    for (auto& service : module->Services()) server.Add(std::move(service));
    const auto started = server.Start();
    EXPECT_TRUE(started.ok()) << started.error().ToString();
    module->Start(background);
  }
  EXPECT_TRUE(background.Stop(std::chrono::seconds(10)).ok());
  EXPECT_TRUE(module->Close(std::chrono::seconds(10)).ok());
}

TEST(ModulesTest, OnlyIdentityMayHoldWhatSigns) {
  const auto key = auth::SigningKey::Generate(auth::Algorithm::kEdDsa);
  ASSERT_TRUE(key.ok());
  const std::pair<std::string, std::string> settings[] = {{"NOVA_AUTH_JWT_SIGNING_KEY", key->ToPem()->Expose()},
                                                          {"NOVA_AUTH_JWT_ALGORITHM", "HS256"}};
  for (const ModuleEntry& entry : Modules()) {
    if (entry.name == "identity") continue;
    for (const auto& [name, value] : settings) {
      config::Config config(config::Sources{.environment = {{"NOVA_POSTGRES_DATABASE", "x"},
                                                            {"NOVA_POSTGRES_USER", "x"},
                                                            {"NOVA_POSTGRES_SSL_MODE", "disable"},
                                                            {"NOVA_REDIS_TLS", "false"},
                                                            {name, value}}});
      const auto module = entry.make();
      module->Bind(config);
      ASSERT_TRUE(config.Finish().ok());
      runtime::Runtime runtime({.threads = 1});
      telemetry::Metrics metrics;
      const auto built = module->Build(runtime, metrics, tls::ChannelIdentity::Plaintext());
      ASSERT_FALSE(built.ok()) << entry.name;
      EXPECT_EQ(built.error().code(), Code::kInvalidArgument);
      EXPECT_NE(built.error().message().find(name), std::string::npos);
      EXPECT_TRUE(module->Close(std::chrono::seconds(10)).ok());
    }
  }
}

std::vector<std::string> Names() {
  std::vector<std::string> names;
  for (const ModuleEntry& entry : Modules()) names.emplace_back(entry.name);
  return names;
}

INSTANTIATE_TEST_SUITE_P(Modules, EveryModule, ::testing::ValuesIn(Names()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace nova::app
