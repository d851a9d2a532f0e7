// The checks of the cache against a Secrets Manager in this process.
#include "audit/secret_cache_probe.h"

#include <atomic>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "audit/secrets_access.h"
#include "nova/http/server.h"

namespace nova::audit {
namespace {

using runtime::Call;
using runtime::Task;
using std::chrono::minutes;
using std::chrono::nanoseconds;
using std::chrono::seconds;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using Status = Row::Status;

constexpr std::string_view kAnswer =
    R"({"ARN":"arn:aws:secretsmanager:us-east-1:123456789012:secret:dev/nova/jwt-a1b2c3","Name":"dev/nova/jwt",)"
    R"("VersionId":"11111111-2222-3333-4444-555555555555","SecretString":"a value","VersionStages":["AWSCURRENT"],)"
    R"("CreatedDate":1700000000.5})";

class SecretCacheProbeTest : public ::testing::Test {
 protected:
  SecretCacheProbeTest() {
    server_.Handle("POST", "/", [this](Call&, const http::Request&) -> Task<http::Response> {
      ++requests_;
      if (status_ != 200)
        co_return http::Response{.status = status_,
                                 .content_type = "application/x-amz-json-1.1",
                                 .body = R"({"__type":"AccessDeniedException","Message":"no"})"};
      co_return http::Response{.content_type = "application/x-amz-json-1.1", .body = std::string(kAnswer)};
    });
    if (const auto started = server_.Start(); !started) throw std::runtime_error(started.error().ToString());
    config_.secrets = {.endpoint = "http://127.0.0.1:" + std::to_string(server_.port()),
                       .region = "us-east-1",
                       .secret_id = "dev/nova/jwt",
                       .access_key_id = "AKIAIOSFODNN7EXAMPLE",
                       .secret_access_key = Secret<>("secret access key of a test")};
  }
  ~SecretCacheProbeTest() override { EXPECT_TRUE(server_.Stop(seconds(5))); }

  runtime::Runtime runtime_;
  http::Server server_{runtime_, {}};
  std::atomic<int> requests_ = 0;
  std::atomic<int> status_ = 200;
  AuditConfig config_;
};

TEST_F(SecretCacheProbeTest, FirstReadsMakeOneCall) {
  SecretCacheProbe probe(runtime_, config_);
  const Finding finding = probe.CallsOfFirstReads(500);
  EXPECT_EQ(finding.status, Status::kPass) << finding.note;
  EXPECT_EQ(finding.value, "1");
  EXPECT_EQ(finding.note, "500 of 500 readers answered, 500 of them after waiting for the request, with 1 version");
  EXPECT_EQ(requests_, 1);
}

TEST_F(SecretCacheProbeTest, FirstReadsThatAreRefusedFail) {
  status_ = 400;
  SecretCacheProbe probe(runtime_, config_);
  const Finding finding = probe.CallsOfFirstReads(10);
  EXPECT_EQ(finding.status, Status::kFail);
  EXPECT_THAT(finding.note, StartsWith("first failure: PERMISSION_DENIED"));
}

TEST_F(SecretCacheProbeTest, CachedReadsAreTimedByOneThreadAndByEight) {
  SecretCacheProbe probe(runtime_, config_);
  const Finding finding = probe.CachedRead();
  // How long they take here is not a matter of right or wrong; that the figures come from reads without a request is.
  ASSERT_NE(finding.status, Status::kNotMeasured) << finding.note;
  EXPECT_GT(std::stod(finding.value), 0.0);
  EXPECT_THAT(finding.note, HasSubstr("with 1 thread; p50 "));
  EXPECT_THAT(finding.note, HasSubstr("with 8 threads; the aim"));
  EXPECT_EQ(requests_, 2);
}

TEST_F(SecretCacheProbeTest, AValueIsCachedForFiveMinutes) {
  const auto life = LiveThrough(minutes(61));
  ASSERT_TRUE(life) << life.error().ToString();
  EXPECT_EQ(life->age_max, minutes(5));
  EXPECT_GE(life->fetches, 12);
  EXPECT_LE(life->fetches, 13);
}

TEST_F(SecretCacheProbeTest, WithoutASecretsManagerNothingIsMeasured) {
  config_.secrets.reset();
  SecretCacheProbe probe(runtime_, config_);
  for (const Finding& finding : {probe.CallsOfFirstReads(10), probe.CachedRead(), probe.AgeOfCached()}) {
    EXPECT_EQ(finding.status, Status::kNotMeasured);
    EXPECT_EQ(finding.note, NoSecretsManager().message());
  }
}

TEST(DescribeCachedReads, SaysWhatIsTypicalAndWhatIsSlow) {
  CachedReads reads{.threads = 8};
  for (int i = 1; i <= 100; ++i) reads.samples.push_back(nanoseconds(i * 10));
  EXPECT_EQ(Describe(reads), "p50 500 ns, p99 990 ns with 8 threads");
}

}  // namespace
}  // namespace nova::audit
