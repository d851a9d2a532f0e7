// What identity's tests share: the service over a real database, reached through PgBouncer as in production.
#pragma once

#include <gtest/gtest.h>
#include <memory>
#include <string>
#include <utility>

#include "nova/auth/jwt.h"
#include "nova/auth/password.h"
#include "nova/postgres/migrate.h"
#include "nova/postgres/pool.h"
#include "nova/runtime/runtime.h"
#include "nova/telemetry/metrics.h"
#include "services/identity/migrations.h"
#include "services/identity/service.h"
#include "tests/postgres_fixture.h"

namespace nova::identity {

// Each test begins with empty tables.
class IdentityTest : public testing::Test {
 protected:
  static constexpr char kDatabase[] = "identity";
  static constexpr char kPassword[] = "correct horse battery";

  static void SetUpTestSuite() {
    auto& postgres = tests::PostgresFixture::Instance();
    postgres.CreateDatabase(kDatabase);
    runtime::Runtime runtime({.threads = 1});
    const auto report = runtime.RunBlocking<postgres::MigrationReport>(
        std::chrono::seconds(60), [&](runtime::Call& call) -> runtime::Task<postgres::MigrationReport> {
          co_return co_await postgres::Migrate(call, postgres.Direct(kDatabase), Migrations());
        });
    ASSERT_TRUE(report) << report.error().ToString();
  }

  void SetUp() override { Execute("TRUNCATE accounts, sessions"); }
  void TearDown() override { EXPECT_TRUE(pool_.Close(std::chrono::seconds(10))); }

  // As the superuser, past the service.
  static void Execute(const std::string& sql) { (void)tests::PostgresFixture::Instance().Query(sql, kDatabase); }
  // The one value that the statement yields; empty if it yields none.
  static std::string ValueOf(const std::string& sql) {
    const auto result = tests::PostgresFixture::Instance().Query(sql, kDatabase);
    return result.rows.empty() ? "" : result.rows[0][0].value_or("");
  }
  static std::string CountOf(const std::string& table) { return ValueOf("SELECT count(*) FROM " + table); }

  template <class T>
  Result<T> Run(std::function<runtime::Task<T>(runtime::Call&)> work, Duration timeout = std::chrono::seconds(60)) {
    return runtime_.RunBlocking<T>(timeout, std::move(work));
  }

  static Registration Ada() {
    return {.email = "ada@example.com",
            .username = "ada",
            .password = Secret<>(kPassword),
            .idempotency_key = Uuid::New().ToString()};
  }
  Result<Account> Register(Registration registration) {
    return Run<Account>([&](runtime::Call& call) { return service_.Register(call, registration); });
  }
  Result<Login> LogIn(std::string identifier, std::string password) {
    return Run<Login>([&](runtime::Call& call) {
      return service_.LogIn(call, {.identifier = identifier, .password = Secret<>(password)});
    });
  }
  // As the end user of the token.
  Result<Account> GetAccount(const Secret<>& access_token) {
    return Run<Account>([&](runtime::Call& call) -> runtime::Task<Account> {
      NOVA_CO_TRY(const auth::Claims claims, service_.VerifyToken(access_token.Expose()));
      call.set_caller(auth::CallerOf(claims));
      co_return co_await service_.GetAccount(call);
    });
  }

  // argon2id computations so far; `operation` is hash or verify.
  std::uint64_t Computations(const std::string& operation) {
    return metrics_
        .Histogram("nova_auth_password_seconds", "Time of one argon2id computation", telemetry::kLatencyBuckets,
                   {{"operation", operation}})
        .Collect()
        .histogram.sample_count;
  }

  FakeClock clock_;
  telemetry::Metrics metrics_;
  runtime::Runtime runtime_{{.threads = 2}};
  postgres::Pool pool_{
      runtime_, metrics_, {.connection = tests::PostgresFixture::Instance().Pooled(kDatabase), .size_max = 8}};
  Store store_{pool_};
  std::unique_ptr<auth::PasswordHasher> hasher_ = *auth::PasswordHasher::Create({}, metrics_);
  const auth::JwtConfig jwt_;
  const auth::JwtSigner signer_{*auth::SigningKey::Generate(jwt_.algorithm)};
  const auth::JwtVerifier verifier_{
      jwt_, std::make_shared<const auth::Jwks>(std::vector{signer_.key().verification_key()}), clock_};
  Service service_{store_, *hasher_, jwt_, signer_, verifier_, metrics_, clock_};
};

}  // namespace nova::identity
