// Every module of the map starts alone, over a real database and pooler, and every method it serves is declared.
#include <gtest/gtest.h>
#include <set>
#include <string>

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
  const auto key = auth::SigningKey::Generate(auth::Algorithm::kEdDsa);
  ASSERT_TRUE(key.ok());
  config::Config config(config::Sources{
      .args = {},
      .environment = {{"NOVA_POSTGRES_HOST", connection.host},
                      {"NOVA_POSTGRES_PORT", std::to_string(connection.port)},
                      {"NOVA_POSTGRES_DATABASE", connection.database},
                      {"NOVA_POSTGRES_USER", connection.user},
                      {"NOVA_POSTGRES_PASSWORD", connection.password.Expose()},
                      {"NOVA_POSTGRES_SSL_MODE", std::string(postgres::SslModeName(connection.ssl_mode))},
                      {"NOVA_POSTGRES_SSL_ROOT_CERT", connection.ssl_root_cert},
                      {"NOVA_AUTH_JWT_SIGNING_KEY", key->ToPem()->Expose()}}});
  const auto module = entry.make();
  module->Bind(config);
  const auto finished = config.Finish();
  ASSERT_TRUE(finished.ok()) << finished.error().ToString();

  runtime::Runtime runtime;
  telemetry::Metrics metrics;
  const auto built = module->Build(runtime, metrics);
  ASSERT_TRUE(built.ok()) << built.error().ToString();
  const auto connected =
      runtime.RunBlocking<void>(std::chrono::seconds(20), [&](runtime::Call& call) { return module->Connect(call); });
  EXPECT_TRUE(connected.ok()) << connected.error().ToString();
  {
    rpc::Server server(
        runtime, metrics, {.address = "127.0.0.1", .port = 0},
        {.credentials = tls::MakePlaintextServerCredentials(), .stack = {.verify_token = module->TokenVerifier()}});
    for (auto& service : module->Services()) server.Add(std::move(service));
    const auto started = server.Start();
    EXPECT_TRUE(started.ok()) << started.error().ToString();
  }
  EXPECT_TRUE(module->Close(std::chrono::seconds(10)).ok());
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
