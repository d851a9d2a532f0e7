#include "audit/audit.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <set>

#include "audit/checks.h"
#include "tests/mtls_fixture.h"

namespace nova::audit {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

tls::ChannelTlsConfig Identity(tests::MtlsFixture& mtls) {
  const auto leaf = mtls.Leaf("audit");
  return {.server_ca_path = leaf / "ca.crt", .certificate_path = leaf / "tls.crt", .key_path = leaf / "tls.key"};
}

// Nobody listens on port 1 of loopback.
AuditConfig DeadStack() {
  AuditConfig config;
  config.services = {{.name = "identity", .grpc_target = "127.0.0.1:1", .admin_target = "127.0.0.1:1"}};
  config.pooled.port = 1;
  config.direct.port = 1;
  config.pgbouncer_admin.port = 1;
  config.redis.port = 1;
  return config;
}

TEST(Audit, CoversEveryPromiseAndSaysHowForEveryFigure) {
  EXPECT_THAT(Promises(AllChecks()), ElementsAre("P0-1", "P0-3", "P0-4", "P0-5", "Secrets"));
  std::set<std::string_view> names;
  for (const Check& check : AllChecks()) {
    EXPECT_TRUE(names.insert(check.name).second) << check.name;
    EXPECT_FALSE(check.floor.empty()) << check.name;
    EXPECT_FALSE(check.how.empty()) << check.name;
  }
}

TEST(Audit, AnUnknownPromiseIsRefusedWithTheListOfPromises) {
  runtime::Runtime runtime;
  AuditConfig config = DeadStack();
  config.only = "P0-2";
  const auto rows = audit::Run(runtime, config);
  ASSERT_FALSE(rows.ok());
  EXPECT_EQ(rows.error().code(), Code::kInvalidArgument);
  EXPECT_EQ(rows.error().message(),
            "--only: there is no promise 'P0-2'; the promises are P0-1, P0-3, P0-4, P0-5, Secrets");

  config::Config settings(config::Sources{.args = {"--only", "P0-2"}});
  Bind(settings, config);
  const auto finished = settings.Finish();
  ASSERT_FALSE(finished.ok());
  EXPECT_THAT(finished.error().message(), HasSubstr("P0-1, P0-3, P0-4, P0-5, Secrets"));
}

TEST(Audit, AStackThatIsNotThereIsOneErrorWithTheRemedy) {
  runtime::Runtime runtime;
  const auto rows = audit::Run(runtime, DeadStack());
  ASSERT_FALSE(rows.ok());
  EXPECT_EQ(rows.error().code(), Code::kUnavailable);
  EXPECT_EQ(rows.error().message(),
            "no part of the stack answers (tried identity 127.0.0.1:1, PgBouncer 127.0.0.1:1, PostgreSQL "
            "127.0.0.1:1): start it with `nova up`");
}

class ChecksTest : public ::testing::Test {
 protected:
  std::unique_ptr<GrpcProbe> MakeGrpcProbe() {
    config_.identity = Identity(mtls_);
    auto probe = GrpcProbe::Create(runtime_, config_);
    if (!probe) throw std::runtime_error(probe.error().ToString());
    return *std::move(probe);
  }

  tests::MtlsFixture mtls_;
  runtime::Runtime runtime_;
  AuditConfig config_ = DeadStack();
  std::unique_ptr<GrpcProbe> grpc_ = MakeGrpcProbe();
  PeerProbe peers_{runtime_, config_, *grpc_};
  WireProbe wire_{config_, *grpc_};
  RotationProbe rotations_{runtime_, config_};
  DatabaseProbe database_{runtime_, config_};
  FaultProbe faults_{runtime_, config_};
  HealthProbe health_{runtime_, config_};
  SecretCacheProbe secret_cache_{runtime_, config_};
  TokenKeyProbe token_keys_{runtime_, config_};
  LeakProbe leaks_{runtime_, config_};
  Stack stack_{.grpc = *grpc_,
               .peers = peers_,
               .wire = wire_,
               .rotations = rotations_,
               .database = database_,
               .faults = faults_,
               .health = health_,
               .secret_cache = secret_cache_,
               .token_keys = token_keys_,
               .leaks = leaks_};

  std::vector<Row> Run(std::span<const Check> checks, const std::string& only, bool faults) {
    AuditConfig config = config_;
    config.only = only;
    config.faults = faults;
    return RunChecks(checks, stack_, config);
  }
};

TEST_F(ChecksTest, RunThoseAskedForInTheOrderOfTheTable) {
  constexpr Check kTable[] = {
      {.promise = "A",
       .name = "fails",
       .unit = "s",
       .floor = "1",
       .how = "asked",
       .measure = [](Stack&) { return Finding::Judge(false, "2", "and it was slow"); }},
      {.promise = "B", .name = "is not built", .floor = "1", .how = "a program"},
      {.promise = "B",
       .name = "is intrusive",
       .floor = "1",
       .how = "a fault",
       .intrusive = true,
       .measure = [](Stack&) { return Finding::Judge(true, "1"); }},
  };
  const auto all = Run(kTable, "", false);
  ASSERT_EQ(all.size(), 3U);
  EXPECT_EQ(all[0].status, Row::Status::kFail);
  EXPECT_EQ(all[0].value, "2");
  EXPECT_EQ(all[0].how, "asked; and it was slow");
  EXPECT_EQ(all[1].status, Row::Status::kNotMeasured);
  EXPECT_EQ(all[1].how, "its proof is not built yet: a program");
  EXPECT_EQ(all[2].status, Row::Status::kNotMeasured);
  EXPECT_THAT(all[2].how, StartsWith("intrusive; needs --faults"));
  EXPECT_EQ(all[2].value, "");

  const auto only_b = Run(kTable, "B", true);
  ASSERT_EQ(only_b.size(), 2U);
  EXPECT_EQ(only_b[0].check, "is not built");
  EXPECT_EQ(only_b[1].status, Row::Status::kPass);
}

TEST_F(ChecksTest, AreNotMadeOnceSomebodyWantsTheAuditToEnd) {
  constexpr Check kTable[] = {
      {.promise = "A", .name = "is not made", .floor = "1", .how = "asked", .measure = [](Stack&) {
         return Finding::Judge(true, "1");
       }}};
  config_.interrupted = [] { return true; };
  const auto rows = Run(kTable, "", false);
  EXPECT_EQ(rows[0].status, Row::Status::kNotMeasured);
  EXPECT_EQ(rows[0].how, "asked; interrupted");
}

// A refusal proves nothing where nobody listens, and a figure needs somebody to measure: nothing may pass.
TEST_F(ChecksTest, NothingPassesWithoutAStack) {
  const auto rows = Run(AllChecks(), "", true);
  for (const Row& row : rows) {
    const bool about_health = row.promise == "P0-4" && row.value == "0 of 1";
    EXPECT_EQ(row.status, about_health ? Row::Status::kFail : Row::Status::kNotMeasured)
        << row.check << ": " << row.how;
  }
  EXPECT_EQ(ExitCode(rows), 1);
}

}  // namespace
}  // namespace nova::audit
