#include "nova/postgres/config.h"

#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>

namespace nova::postgres {
namespace {

using namespace std::chrono_literals;

struct Bound {
  PoolConfig pool;
  Result<void> finished;
};

Bound BindFrom(std::map<std::string, std::string> environment) {
  Bound bound;
  config::Config config(config::Sources{.args = {}, .environment = std::move(environment)});
  Bind(config, bound.pool);
  bound.finished = config.Finish();
  return bound;
}

TEST(PostgresConfig, DefaultsAreSafe) {
  const Bound bound = BindFrom({});
  ASSERT_TRUE(bound.finished.ok());
  EXPECT_EQ(bound.pool.connection.ssl_mode, SslMode::kVerifyFull);
  EXPECT_EQ(bound.pool.acquire_timeout, 2s);
  EXPECT_EQ(bound.pool.size_max, 10);
}

TEST(PostgresConfig, ReadsTheEnvironment) {
  const Bound bound = BindFrom({{"NOVA_POSTGRES_HOST", "pgbouncer"},
                                {"NOVA_POSTGRES_PORT", "7432"},
                                {"NOVA_POSTGRES_DATABASE", "identity"},
                                {"NOVA_POSTGRES_USER", "identity"},
                                {"NOVA_POSTGRES_PASSWORD", "hidden"},
                                {"NOVA_POSTGRES_SSL_MODE", "verify-ca"},
                                {"NOVA_POSTGRES_POOL_SIZE", "15"},
                                {"NOVA_POSTGRES_CANCEL_DRAIN", "3s"}});
  ASSERT_TRUE(bound.finished.ok()) << bound.finished.error().ToString();
  EXPECT_EQ(bound.pool.connection.host, "pgbouncer");
  EXPECT_EQ(bound.pool.connection.port, 7432);
  EXPECT_EQ(bound.pool.connection.password.Expose(), "hidden");
  EXPECT_EQ(bound.pool.connection.ssl_mode, SslMode::kVerifyCa);
  EXPECT_EQ(bound.pool.size_max, 15);
  EXPECT_EQ(bound.pool.cancel_drain, 3s);
}

TEST(PostgresConfig, AnUnknownSslModeIsRefused) {
  const Bound bound = BindFrom({{"NOVA_POSTGRES_SSL_MODE", "prefer"}});
  ASSERT_FALSE(bound.finished.ok());
  EXPECT_NE(bound.finished.error().message().find("NOVA_POSTGRES_SSL_MODE"), std::string::npos);
}

TEST(PostgresConfig, ValidateNamesTheSettingThatIsMissing) {
  ConnectionConfig connection;
  EXPECT_NE(Validate(connection).error().message().find("NOVA_POSTGRES_DATABASE"), std::string::npos);
  connection.database = "identity";
  EXPECT_NE(Validate(connection).error().message().find("NOVA_POSTGRES_USER"), std::string::npos);
  connection.user = "identity";
  EXPECT_NE(Validate(connection).error().message().find("NOVA_POSTGRES_SSL_ROOT_CERT"), std::string::npos);
  connection.ssl_root_cert = "/nonexistent/ca.crt";
  EXPECT_NE(Validate(connection).error().message().find("/nonexistent/ca.crt"), std::string::npos);

  const auto file = std::filesystem::path(::testing::TempDir()) / "postgres_config_test_ca.crt";
  std::ofstream(file) << "x";
  connection.ssl_root_cert = file.string();
  EXPECT_TRUE(Validate(connection).ok());
  std::filesystem::remove(file);
  EXPECT_FALSE(Validate(connection).ok());

  connection.ssl_mode = SslMode::kRequire;
  EXPECT_TRUE(Validate(connection).ok());
  connection.ssl_mode = SslMode::kVerifyFull;
  connection.host = "/run/postgresql";
  EXPECT_TRUE(Validate(connection).ok());
}

TEST(PostgresConfig, OutsideOfDevelopmentTheServerMustProveItsName) {
  ConnectionConfig connection;
  connection.host = "/run/postgresql";  // TLS does not apply, so nothing but the mode is missing
  connection.database = connection.user = "identity";
  for (const SslMode mode : {SslMode::kDisable, SslMode::kRequire, SslMode::kVerifyCa}) {
    connection.ssl_mode = mode;
    EXPECT_TRUE(Validate(connection, config::AppEnv::kDevelopment).ok());
    for (const config::AppEnv env : {config::AppEnv::kStaging, config::AppEnv::kProduction}) {
      const Result<void> valid = Validate(connection, env);
      ASSERT_FALSE(valid.ok()) << SslModeName(mode);
      EXPECT_EQ(valid.error().code(), Code::kFailedPrecondition);
      for (const std::string_view part : {std::string_view("NOVA_POSTGRES_SSL_MODE"), SslModeName(mode),
                                          config::AppEnvName(env), std::string_view("verify-full")}) {
        EXPECT_NE(valid.error().message().find(part), std::string::npos) << valid.error().message();
      }
    }
  }
  connection.ssl_mode = SslMode::kVerifyFull;
  EXPECT_TRUE(Validate(connection, config::AppEnv::kProduction).ok());
  connection.host = "pgbouncer";
  EXPECT_NE(Validate(connection, config::AppEnv::kProduction).error().message().find("NOVA_POSTGRES_SSL_ROOT_CERT"),
            std::string::npos);
}

}  // namespace
}  // namespace nova::postgres
