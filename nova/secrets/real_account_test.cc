// Against a real account of AWS, whose credentials are in the environment as for a service. Only for who asks for it:
//
//   AWS_REGION=eu-central-1 AWS_SECRETS_TEST_SECRET_NAME=test/nova/jwt build/chassis/secrets/secrets_real_account_test
//
// reads that secret; with AWS_SECRETS_TEST_ROTATE=true it is rotated as well (and made, if there is none).
#include <cstdlib>
#include <gtest/gtest.h>
#include <iostream>
#include <map>
#include <string>

#include "nova/config/config.h"
#include "nova/runtime/runtime.h"
#include "nova/secrets/aws.h"
#include "nova/secrets/failure.h"
#include "nova/secrets/rotation.h"
#include "nova/secrets/secret_manager.h"

namespace nova::secrets {
namespace {

using runtime::Call;
using runtime::Runtime;
using std::chrono::seconds;

constexpr seconds kLimit{60};

std::string Variable(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? std::string() : std::string(value);
}

class RealAccountTest : public testing::Test {
 protected:
  void SetUp() override {
    secret_ = Variable("AWS_SECRETS_TEST_SECRET_NAME");
    if (secret_.empty())
      GTEST_SKIP() << "AWS_SECRETS_TEST_SECRET_NAME is not set: nothing was tried against a real account of AWS "
                      "(docs/guides/secrets.md says how)";
    config::Config config(config::Sources::FromProcess(0, nullptr));
    AwsConfig aws;
    Bind(config, aws);
    auto created = Aws::Create(runtime_, metrics_, aws, config::AppEnv::kProduction);
    ASSERT_TRUE(created) << created.error().ToString();
    aws_ = *std::move(created);
  }

  void TearDown() override {
    if (aws_) EXPECT_TRUE(aws_->Close(kLimit));
  }

  Result<SecretHandle> Get(SecretManager& secrets, const std::string& id) {
    return runtime_.RunBlocking<SecretHandle>(kLimit, [&](Call& call) { return secrets.GetSecret(call, id); });
  }

  std::string secret_;
  telemetry::Metrics metrics_;
  Runtime runtime_{{.threads = 2}};
  std::unique_ptr<Aws> aws_;
};

TEST_F(RealAccountTest, ASecretIsReadOnce) {
  auto secrets = SecretManager::Builder(runtime_, metrics_, aws_->api()).Build();
  ASSERT_TRUE(secrets) << secrets.error().ToString();
  const auto first = Get(**secrets, secret_);
  ASSERT_TRUE(first) << first.error().ToString();
  EXPECT_FALSE((*first)->value.empty());
  EXPECT_FALSE((*first)->version_id.empty());
  EXPECT_LT((*first)->created_at, Clock::System().WallNow());
  EXPECT_TRUE(Get(**secrets, secret_));
  EXPECT_EQ((*secrets)->Stats().fetches, 1u);
  const IdentityInUse identity = aws_->identity();
  std::cout << "read as " << CredentialSourceName(identity.source) << " " << identity.name << "\n";
  EXPECT_TRUE((*secrets)->Close(kLimit));
}

TEST_F(RealAccountTest, ASecretThatIsNotThereIsAnErrorOfItsOwn) {
  auto secrets = SecretManager::Builder(runtime_, metrics_, aws_->api()).Build();
  ASSERT_TRUE(secrets) << secrets.error().ToString();
  const auto missing = Get(**secrets, secret_ + "-that-is-not-there");
  ASSERT_FALSE(missing);
  const auto failure = FailureOf(missing.error());
  // Whoever may read one secret only is not told which others there are.
  EXPECT_TRUE(failure == Failure::kNotFound || failure == Failure::kAccessDenied) << missing.error().ToString();
  EXPECT_TRUE((*secrets)->Close(kLimit));
}

TEST_F(RealAccountTest, ARotationMovesItsLabels) {
  if (Variable("AWS_SECRETS_TEST_ROTATE") != "true")
    GTEST_SKIP() << "AWS_SECRETS_TEST_ROTATE is not true: nothing was rotated in a real account of AWS";
  ASSERT_NE(secret_.find("test"), std::string::npos)
      << "AWS_SECRETS_TEST_SECRET_NAME must name a secret for tests, with `test` in its name: its keys are replaced";
  Rotator rotator(aws_->api(), {.secret_id = secret_, .announce = seconds(2), .create = true});
  const auto rotate = [&](bool now) {
    return runtime_.RunBlocking<RotationReport>(kLimit, [&](Call& call) { return rotator.Rotate(call, now); });
  };
  const auto before = rotate(false);
  ASSERT_TRUE(before) << before.error().ToString();
  const auto after = rotate(true);
  ASSERT_TRUE(after) << after.error().ToString();
  EXPECT_EQ(after->outcome, RotationReport::Outcome::kRotated);
  EXPECT_NE(after->kid, before->kid);
  const std::pair<std::string_view, std::string> expected[] = {
      {kCurrent, after->version_id}, {kPrevious, before->version_id}, {kPending, ""}};
  for (const auto& [stage, id] : expected) {
    const auto found = runtime_.RunBlocking<SecretValue>(
        kLimit, [&](Call& call) { return aws_->api().Fetch(call, secret_, std::string(stage), false); });
    EXPECT_EQ(found ? found->version_id : "", id) << stage;
  }
  // Another run of the schedule leaves it alone.
  const auto again = rotate(false);
  ASSERT_TRUE(again) << again.error().ToString();
  EXPECT_EQ(again->outcome, RotationReport::Outcome::kNotDue);
  EXPECT_EQ(again->version_id, after->version_id);
}

}  // namespace
}  // namespace nova::secrets
