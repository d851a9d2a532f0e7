#include "nova/secrets/credentials.h"

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <memory>
#include <string>
#include <thread>
#include <tuple>
#include <unistd.h>
#include <vector>

#include "nova/base/timestamp.h"
#include "nova/runtime/runtime.h"
#include "nova/runtime/scope.h"
#include "nova/secrets/failure.h"
#include "nova/secrets/fake_aws.h"
#include "nova/telemetry/metrics.h"
#include "tests/eventually.h"

namespace nova::secrets {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using runtime::Call;
using runtime::Task;
using testing::HasSubstr;
using testing::Not;

constexpr char kRole[] = "arn:aws:iam::123456789012:role/nova";
constexpr char kToken[] = "MARK-token-of-the-pod";
constexpr char kInstancePath[] = "/latest/meta-data/iam/security-credentials/";

std::string Xml(const std::string& key_id, WallTime end) {
  return "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>" + key_id +
         "</AccessKeyId><SecretAccessKey>MARK-key</SecretAccessKey><SessionToken>MARK-session</SessionToken>"
         "<Expiration>" +
         Timestamp(end) +
         "</Expiration></Credentials><AssumedRoleUser><Arn>arn:aws:sts::123456789012:assumed-role/nova/pod</Arn>"
         "</AssumedRoleUser></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>";
}

std::string Json(const std::string& key_id, WallTime end) {
  return R"({"AccessKeyId":")" + key_id + R"(","SecretAccessKey":"MARK-key","Token":"MARK-session","Expiration":")" +
         Timestamp(end) + R"("})";
}

http::Response XmlError(int status, const std::string& code) {
  return {
      .status = status,
      .body = "<ErrorResponse><Error><Code>" + code + "</Code><Message>MARK of AWS</Message></Error></ErrorResponse>"};
}

class CredentialsTest : public testing::Test {
 protected:
  CredentialsTest() : folder_(fs::temp_directory_path() / ("nova-credentials-" + std::to_string(::getpid()))) {
    fs::create_directories(folder_);
    WriteToken(kToken);
  }
  ~CredentialsTest() override {
    if (provider_) EXPECT_TRUE(provider_->Close(5s));
    fs::remove_all(folder_);
  }

  std::string token_file() const { return folder_ / "token"; }
  void WriteToken(const std::string& text) const { std::ofstream(token_file()) << text << "\n"; }

  CredentialsConfig WebIdentity() const {
    CredentialsConfig config;
    config.role_arn = kRole;
    config.web_identity_token_file = token_file();
    config.sts_endpoint = aws_.endpoint();
    return config;
  }
  CredentialsConfig PodIdentity() const {
    CredentialsConfig config;
    config.container_full_uri = aws_.endpoint() + "/v1/credentials";
    config.container_token_file = token_file();
    return config;
  }
  CredentialsConfig Instance() const {
    CredentialsConfig config;
    config.instance_endpoint = aws_.endpoint();
    return config;
  }

  Result<void> Create(const CredentialsConfig& config) {
    auto provider = CredentialsProvider::Create(runtime_, metrics_, dependency_, config, "eu-central-1", clock_);
    if (!provider) return provider.error();
    provider_ = *std::move(provider);
    return Ok();
  }
  Result<CredentialsHandle> Get(Duration limit = 10s) {
    return runtime_.RunBlocking<CredentialsHandle>(limit, [&](Call& call) { return provider_->Get(call); });
  }
  // Key ids K0, K1, ... for requests 0, 1, ..., each good for `life`.
  void AnswersWithXml(Duration life = 1h) {
    aws_.Answers([this, life](const http::Request&, std::size_t number) {
      return http::Response{.body = Xml("K" + std::to_string(number), clock_.WallNow() + life)};
    });
  }

  const fs::path folder_;
  FakeClock clock_;
  telemetry::Metrics metrics_;
  resilience::HttpDependency dependency_{"aws_credentials", metrics_};
  runtime::Runtime runtime_{{.threads = 2}};
  FakeAws aws_{runtime_,
               {{"POST", "/"},
                {"GET", "/v1/credentials"},
                {"PUT", "/latest/api/token"},
                {"GET", kInstancePath},
                {"GET", std::string(kInstancePath) + "node"}}};
  std::unique_ptr<CredentialsProvider> provider_;
};

TEST_F(CredentialsTest, TheEnvironmentIsTakenAsItIs) {
  CredentialsConfig config = WebIdentity();  // and is not asked
  config.access_key_id = "AKIAEXAMPLEEXAMPLE12";
  config.secret_access_key = Secret<>("MARK");
  ASSERT_TRUE(Create(config));
  const auto credentials = Get();
  ASSERT_TRUE(credentials);
  EXPECT_EQ((*credentials)->access_key_id, "AKIAEXAMPLEEXAMPLE12");
  EXPECT_FALSE((*credentials)->expires_at);
  EXPECT_EQ(provider_->identity().source, CredentialSource::kEnvironment);
  EXPECT_EQ(provider_->identity().name, "AKIA...LE12");
  EXPECT_EQ(aws_.count(), 0U);
}

// Nothing could replace them: whoever asks is told so, and they are tried again after a while.
TEST_F(CredentialsTest, ThoseOfTheEnvironmentThatAwsRefusesNameTheVariables) {
  CredentialsConfig config;
  config.access_key_id = "AKIAEXAMPLEEXAMPLE12";
  config.secret_access_key = Secret<>("MARK");
  ASSERT_TRUE(Create(config));
  const auto credentials = Get();
  provider_->Refused(*credentials);
  const auto refused = Get();
  ASSERT_FALSE(refused);
  EXPECT_EQ(FailureOf(refused.error()), Failure::kExpiredCredentials);
  EXPECT_THAT(refused.error().message(),
              testing::AllOf(HasSubstr("AKIA...LE12"), HasSubstr("AWS_SECRET_ACCESS_KEY"), Not(HasSubstr("MARK"))));
  clock_.Advance(1s);
  EXPECT_EQ(*Get(), *credentials);
}

TEST_F(CredentialsTest, WebIdentityAsksStsForTheRole) {
  AnswersWithXml();
  ASSERT_TRUE(Create(WebIdentity()));
  EXPECT_EQ(aws_.count(), 0U);
  const auto credentials = Get();
  ASSERT_TRUE(credentials) << credentials.error().ToString();
  EXPECT_EQ((*credentials)->access_key_id, "K0");
  EXPECT_EQ((*credentials)->session_token.Expose(), "MARK-session");
  ASSERT_EQ(aws_.count(), 1U);
  const http::Request request = aws_.requests()[0];
  EXPECT_FALSE(request.headers.Has("Authorization"));
  EXPECT_THAT(request.body, testing::StartsWith("Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleArn="
                                                "arn%3Aaws%3Aiam%3A%3A123456789012%3Arole%2Fnova&RoleSessionName="));
  EXPECT_THAT(request.body, testing::EndsWith(std::string("&WebIdentityToken=") + kToken));
  EXPECT_EQ(provider_->identity().name, "arn:aws:sts::123456789012:assumed-role/nova/pod");
  ASSERT_TRUE(provider_->identity().expires_at);
}

TEST_F(CredentialsTest, PodIdentitySendsTheTokenOfTheFile) {
  aws_.Answers(
      [this](const http::Request&, std::size_t) { return http::Response{.body = Json("KP", clock_.WallNow() + 1h)}; });
  ASSERT_TRUE(Create(PodIdentity()));
  const auto credentials = Get();
  ASSERT_TRUE(credentials) << credentials.error().ToString();
  EXPECT_EQ((*credentials)->access_key_id, "KP");
  EXPECT_EQ(aws_.requests()[0].headers.Get("Authorization"), kToken);
  EXPECT_EQ(provider_->identity().source, CredentialSource::kPodIdentity);
}

TEST_F(CredentialsTest, TheInstanceIsAskedTheSecondVersionOfItsProtocol) {
  aws_.Answers([this](const http::Request& request, std::size_t number) -> http::Response {
    if (request.method == "PUT") return {.body = "t" + std::to_string(number)};
    if (request.headers.Get("X-aws-ec2-metadata-token").empty()) return {.status = 401};
    if (request.path == kInstancePath) return {.body = "node\n"};
    return {.body = Json("KI", clock_.WallNow() + 6h)};
  });
  ASSERT_TRUE(Create(Instance()));
  const auto credentials = Get();
  ASSERT_TRUE(credentials) << credentials.error().ToString();
  EXPECT_EQ((*credentials)->access_key_id, "KI");
  EXPECT_EQ(provider_->identity().name, "role node of the instance");
  ASSERT_EQ(aws_.count(), 3U);
  EXPECT_EQ(aws_.requests()[0].headers.Get("X-aws-ec2-metadata-token-ttl-seconds"), "21600");
  EXPECT_EQ(aws_.requests()[2].headers.Get("X-aws-ec2-metadata-token"), "t0");
}

TEST_F(CredentialsTest, ATokenThatTheInstanceForgotIsAskedForAgainOnce) {
  aws_.Answers([this](const http::Request& request, std::size_t number) -> http::Response {
    if (request.method == "PUT") return {.body = "t" + std::to_string(number)};
    if (request.headers.Get("X-aws-ec2-metadata-token") == "t0") return {.status = 401};
    if (request.path == kInstancePath) return {.body = "node"};
    return {.body = Json("KI", clock_.WallNow() + 6h)};
  });
  ASSERT_TRUE(Create(Instance()));
  EXPECT_TRUE(Get());
  EXPECT_EQ(aws_.count(), 5U);
}

// Whoever answers in the instance's place must not choose where the token is sent.
TEST_F(CredentialsTest, WhatIsNoTokenOrNoRoleOfAnInstanceIsRefused) {
  for (const auto& [token, role, says] :
       {std::tuple("t", "../../other", "it names no role"), std::tuple("t", "", "it names no role"),
        std::tuple("t", "a?b", "it names no role"), std::tuple("t\r\nX: y", "node", "it is no token"),
        std::tuple("", "node", "it is no token")}) {
    SCOPED_TRACE(says);
    if (provider_) EXPECT_TRUE(provider_->Close(5s));
    aws_.Answers([token, role](const http::Request& request, std::size_t) -> http::Response {
      return {.body = request.method == "PUT" ? token : role};
    });
    ASSERT_TRUE(Create(Instance()));
    const auto credentials = Get();
    ASSERT_FALSE(credentials);
    EXPECT_EQ(FailureOf(credentials.error()), Failure::kExpiredCredentials);
    EXPECT_THAT(credentials.error().message(), HasSubstr(says));
  }
  for (const http::Request& request : aws_.requests())
    EXPECT_TRUE(request.path == "/latest/api/token" || request.path == kInstancePath) << request.path;
}

TEST_F(CredentialsTest, AnInstanceThatHasAnsweredOnceIsKnownToBeThere) {
  aws_.Answers([this](const http::Request& request, std::size_t) -> http::Response {
    if (request.method == "PUT") return {.body = "t"};
    if (request.path == kInstancePath) return {.body = "node"};
    return {.body = Json("KI", clock_.WallNow() + 6h)};
  });
  ASSERT_TRUE(Create(Instance()));
  ASSERT_TRUE(Get());
  aws_.Answers([](const http::Request&, std::size_t) { return http::Response{.status = 500}; });
  clock_.Advance(7h);
  const auto failed = Get();
  ASSERT_FALSE(failed);
  EXPECT_EQ(FailureOf(failed.error()), Failure::kNetwork);
  EXPECT_THAT(failed.error().message(), testing::StartsWith("the instance's metadata: "));
}

TEST_F(CredentialsTest, WithoutAnInstanceTheErrorSaysWhatCouldBeSet) {
  CredentialsConfig config;
  config.instance_endpoint = "http://127.0.0.1:1";
  ASSERT_TRUE(Create(config));
  const auto credentials = Get();
  ASSERT_FALSE(credentials);
  EXPECT_THAT(credentials.error().message(),
              testing::AllOf(HasSubstr("AWS_ACCESS_KEY_ID"), HasSubstr("AWS_ROLE_ARN"), HasSubstr("instance")));
  config.instance_disabled = true;
  EXPECT_THAT(Create(config).error().message(), HasSubstr("AWS_EC2_METADATA_DISABLED"));
}

// A pod whose own identity is broken must not go on as its node.
TEST_F(CredentialsTest, ASourceThatFailsNeverGivesWayToTheNext) {
  CredentialsConfig all = WebIdentity();
  all.container_full_uri = aws_.endpoint() + "/v1/credentials";
  all.container_token_file = token_file();
  all.instance_endpoint = aws_.endpoint();
  aws_.Answers([this](const http::Request& request, std::size_t) -> http::Response {
    if (request.path == "/") return XmlError(403, "AccessDenied");
    return {.body = request.method == "PUT" ? "t" : Json("K", clock_.WallNow() + 1h)};
  });
  ASSERT_TRUE(Create(all));
  const auto web = Get();
  ASSERT_FALSE(web);
  EXPECT_EQ(FailureOf(web.error()), Failure::kExpiredCredentials);
  EXPECT_THAT(web.error().message(), testing::AllOf(HasSubstr("web identity"), HasSubstr(kRole)));
  EXPECT_THAT(web.error().ToString(), Not(HasSubstr("MARK")));
  for (const http::Request& request : aws_.requests()) EXPECT_EQ(request.path, "/");

  CredentialsConfig pod = all;
  pod.role_arn.clear();
  pod.web_identity_token_file.clear();
  const std::size_t before = aws_.count();
  aws_.Answers([this](const http::Request& request, std::size_t) -> http::Response {
    if (request.path == "/v1/credentials") return {.status = 403, .body = R"({"code":"AccessDenied","message":"x"})"};
    return {.body = request.method == "PUT" ? "t" : Json("K", clock_.WallNow() + 1h)};
  });
  EXPECT_TRUE(provider_->Close(5s));
  ASSERT_TRUE(Create(pod));
  EXPECT_EQ(FailureOf(Get().error()), Failure::kExpiredCredentials);
  const auto requests = aws_.requests();
  for (std::size_t i = before; i < requests.size(); ++i) EXPECT_EQ(requests[i].path, "/v1/credentials");
}

TEST_F(CredentialsTest, HalfOfAPairNamesTheOtherHalf) {
  const auto message = [&](auto change) {
    CredentialsConfig config;
    change(config);
    const auto created = Create(config);
    EXPECT_EQ(created.error().code(), Code::kInvalidArgument);
    return created.error().message();
  };
  EXPECT_THAT(message([](auto& c) { c.access_key_id = "AKID"; }), testing::StartsWith("AWS_SECRET_ACCESS_KEY: is not"));
  EXPECT_THAT(message([](auto& c) { c.secret_access_key = Secret<>("x"); }),
              testing::StartsWith("AWS_ACCESS_KEY_ID: "));
  EXPECT_THAT(message([](auto& c) { c.session_token = Secret<>("x"); }), testing::StartsWith("AWS_SESSION_TOKEN: "));
  EXPECT_THAT(message([](auto& c) { c.role_arn = kRole; }), testing::StartsWith("AWS_WEB_IDENTITY_TOKEN_FILE: "));
  EXPECT_THAT(message([](auto& c) { c.web_identity_token_file = "/x"; }), testing::StartsWith("AWS_ROLE_ARN: "));
  EXPECT_THAT(message([](auto& c) { c.container_full_uri = "https://x"; }),
              testing::StartsWith("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE: "));
  EXPECT_THAT(message([](auto& c) { c.container_token_file = "/x"; }),
              testing::StartsWith("AWS_CONTAINER_CREDENTIALS_FULL_URI: "));
  EXPECT_THAT(message([&](auto& c) {
                c = WebIdentity();
                c.role_arn = "nonsense";
              }),
              testing::StartsWith("AWS_ROLE_ARN: "));
  EXPECT_THAT(message([&](auto& c) {
                c = WebIdentity();
                c.web_identity_token_file = "/no/such/file";
              }),
              HasSubstr("/no/such/file"));
}

TEST_F(CredentialsTest, ATokenGoesInPlaintextToTheNodeAlone) {
  const auto create = [&](const std::string& uri) {
    CredentialsConfig config = PodIdentity();
    config.container_full_uri = uri;
    const auto created = Create(config);
    if (provider_) EXPECT_TRUE(provider_->Close(5s));
    provider_.reset();
    return created.ok();
  };
  for (const char* uri : {"http://127.0.0.1/v1", "http://127.8.9.10:80/v1?a=b", "http://[::1]/v1",
                          "http://169.254.170.2/v1", "http://169.254.170.23/v1/credentials",
                          "http://[fd00:ec2::23]/v1/credentials", "https://anybody.example.com/v1"})
    EXPECT_TRUE(create(uri)) << uri;
  for (const char* uri : {"http://169.254.170.3/v1", "http://169.254.169.254/v1", "http://10.0.0.1/v1",
                          "http://localhost/v1", "http://127.0.0.1.example.com/v1", "http://[fd00:ec2::24]/v1",
                          "http://user@127.0.0.1/v1", "ftp://127.0.0.1/", "/v1", ""})
    EXPECT_FALSE(create(uri)) << uri;
}

TEST_F(CredentialsTest, TheTokenIsReadAnewEachTime) {
  AnswersWithXml();
  ASSERT_TRUE(Create(WebIdentity()));
  ASSERT_TRUE(Get());
  WriteToken("MARK-second");
  clock_.Advance(2h);
  ASSERT_TRUE(Get());
  EXPECT_THAT(aws_.requests()[1].body, testing::EndsWith("MARK-second"));
}

TEST_F(CredentialsTest, AFileThatHoldsNoTokenIsNamed) {
  AnswersWithXml();
  ASSERT_TRUE(Create(WebIdentity()));
  for (const std::string& text :
       {std::string(), std::string("two words"), std::string("t\xc3\xb6ken"), std::string(100'000, 'x')}) {
    WriteToken(text);
    const auto credentials = Get();
    ASSERT_FALSE(credentials);
    EXPECT_THAT(credentials.error().message(), HasSubstr(token_file()));
    EXPECT_THAT(credentials.error().message(), Not(HasSubstr("words")));
    clock_.Advance(1h);
  }
  EXPECT_EQ(aws_.count(), 0U);
}

TEST_F(CredentialsTest, AllWhoAskAtFirstShareOneRequest) {
  AnswersWithXml();
  ASSERT_TRUE(Create(WebIdentity()));
  constexpr int kReaders = 10'000;
  std::atomic<int> done = 0;
  std::atomic<int> good = 0;
  runtime::Scope scope(runtime_);
  for (int i = 0; i < kReaders; ++i) {
    scope.Spawn("reader", [&](Call& call) -> Task<void> {
      const auto credentials = co_await provider_->Get(call);
      if (credentials && (*credentials)->access_key_id == "K0") ++good;
      ++done;
      co_return Ok();
    });
  }
  EXPECT_TRUE(tests::Eventually([&] { return done == kReaders; }));
  EXPECT_TRUE(scope.Stop(5s));
  EXPECT_EQ(good, kReaders);
  EXPECT_EQ(aws_.count(), 1U);
}

TEST_F(CredentialsTest, WhoGivesUpDoesNotEndItForTheOthers) {
  aws_.Hangs(true);
  ASSERT_TRUE(Create(WebIdentity()));
  EXPECT_EQ(Get(20ms).error().code(), Code::kDeadlineExceeded);
  EXPECT_EQ(Get(20ms).error().code(), Code::kDeadlineExceeded);
  EXPECT_TRUE(tests::Eventually([&] { return aws_.count() == 1; }));
}

TEST_F(CredentialsTest, CloseEndsWhoeverWaits) {
  aws_.Hangs(true);
  ASSERT_TRUE(Create(WebIdentity()));
  std::thread waiter([&] { EXPECT_EQ(Get().error().code(), Code::kCancelled); });
  EXPECT_TRUE(tests::Eventually([&] { return aws_.count() == 1; }));
  EXPECT_TRUE(provider_->Close(5s));
  waiter.join();
  EXPECT_EQ(Get().error().code(), Code::kCancelled);
}

TEST_F(CredentialsTest, TheyAreRefreshedBeforeAnybodyWaits) {
  AnswersWithXml();
  ASSERT_TRUE(Create(WebIdentity()));
  EXPECT_EQ((*Get())->access_key_id, "K0");
  clock_.Advance(40min);
  EXPECT_EQ((*Get())->access_key_id, "K0");
  EXPECT_EQ(aws_.count(), 1U);
  // 14 minutes are left: whoever asks gets the present ones, and new ones are fetched behind their back.
  clock_.Advance(6min);
  EXPECT_EQ((*Get())->access_key_id, "K0");
  EXPECT_TRUE(tests::Eventually([&] { return (*Get())->access_key_id == "K1"; }));
  EXPECT_EQ(aws_.count(), 2U);
}

TEST_F(CredentialsTest, AFailedRefreshIsNobodysErrorWhileThePresentOnesAreGood) {
  AnswersWithXml();
  ASSERT_TRUE(Create(WebIdentity()));
  ASSERT_TRUE(Get());
  aws_.Answers([](const http::Request&, std::size_t) { return XmlError(500, "InternalFailure"); });
  clock_.Advance(46min);
  ASSERT_TRUE(Get());
  EXPECT_TRUE(tests::Eventually([&] { return aws_.count() == 2; }));
  // After ten minutes before the end their absence would be an error, but they have not ended.
  clock_.Advance(9min);
  EXPECT_EQ((*Get())->access_key_id, "K0");
  clock_.Advance(6min);
  const auto ended = Get();
  ASSERT_FALSE(ended);
  EXPECT_EQ(FailureOf(ended.error()), Failure::kNetwork);
  // Until the pause is over nobody asks again.
  const std::size_t before = aws_.count();
  EXPECT_FALSE(Get());
  EXPECT_EQ(aws_.count(), before);
  AnswersWithXml();
  clock_.Advance(1min);
  EXPECT_TRUE(Get());
}

TEST_F(CredentialsTest, ShortLivedOnesAreNotFetchedAllTheTime) {
  AnswersWithXml(2min);
  ASSERT_TRUE(Create(WebIdentity()));
  ASSERT_TRUE(Get());
  for (int i = 0; i < 80; ++i) {
    clock_.Advance(1s);
    ASSERT_TRUE(Get());
  }
  EXPECT_EQ(aws_.count(), 1U);
  clock_.Advance(25s);
  ASSERT_TRUE(Get());
  EXPECT_TRUE(tests::Eventually([&] { return (*Get())->access_key_id == "K1"; }));
}

// The clock of this machine may be wrong: AWS decides, and the source is not asked for others at every call.
TEST_F(CredentialsTest, ThoseThatHadEndedWhenTheyCameAreGivenOut) {
  AnswersWithXml(-5min);
  ASSERT_TRUE(Create(WebIdentity()));
  EXPECT_EQ((*Get())->access_key_id, "K0");
  clock_.Advance(59s);
  EXPECT_EQ((*Get())->access_key_id, "K0");
  EXPECT_EQ(aws_.count(), 1U);
  clock_.Advance(2s);
  EXPECT_EQ((*Get())->access_key_id, "K1");
}

TEST_F(CredentialsTest, ThoseThatAwsRefusesAreReplacedButNotInAStorm) {
  AnswersWithXml();
  ASSERT_TRUE(Create(WebIdentity()));
  const auto first = Get();
  provider_->Refused(*first);
  const auto second = Get();
  ASSERT_TRUE(second);
  EXPECT_EQ((*second)->access_key_id, "K1");
  // News of the first ones comes late, and of the second ones too soon.
  provider_->Refused(*first);
  provider_->Refused(*second);
  EXPECT_EQ((*Get())->access_key_id, "K1");
  clock_.Advance(2s);
  provider_->Refused(*second);
  EXPECT_EQ((*Get())->access_key_id, "K2");
}

TEST_F(CredentialsTest, EveryErrorOfStsHasItsKind) {
  const struct {
    int status;
    const char* code;
    Failure failure;
  } cases[] = {{400, "InvalidIdentityToken", Failure::kExpiredCredentials},
               {400, "IDPCommunicationError", Failure::kNetwork},
               {400, "ExpiredTokenException", Failure::kExpiredCredentials},
               {403, "AccessDenied", Failure::kExpiredCredentials},
               {400, "Throttling", Failure::kThrottled},
               {400, "RequestLimitExceeded", Failure::kThrottled},
               {403, "MARK is what no code looks like", Failure::kExpiredCredentials},
               {500, "InternalFailure", Failure::kNetwork}};
  ASSERT_TRUE(Create(WebIdentity()));
  for (const auto& one : cases) {
    SCOPED_TRACE(one.code);
    aws_.Answers([&](const http::Request&, std::size_t) { return XmlError(one.status, one.code); });
    const auto credentials = Get();
    ASSERT_FALSE(credentials);
    EXPECT_EQ(FailureOf(credentials.error()), one.failure) << credentials.error().ToString();
    EXPECT_THAT(credentials.error().ToString(), Not(HasSubstr("MARK")));
    clock_.Advance(1h);
  }
}

TEST_F(CredentialsTest, AnswersThatAreNoneAreRefusedWithoutShowingThem) {
  ASSERT_TRUE(Create(WebIdentity()));
  const std::string good = Xml("K", clock_.WallNow() + 100h);
  std::string twice = good;
  twice.insert(twice.find("<SecretAccessKey>"), "<SecretAccessKey>MARK-other</SecretAccessKey>");
  std::string entity = good;
  entity.replace(entity.find("MARK-session"), 4, "&lt;M");
  std::string late = good;
  late.replace(late.find("<Expiration>") + 12, 4, "soon");
  std::string odd = good;
  odd.replace(odd.find("Z</Expiration>"), 1, ".5 Z");
  for (const std::string& body : {std::string(), std::string("MARK"), good.substr(0, 200), twice, entity, late, odd}) {
    aws_.Answers([&](const http::Request&, std::size_t) { return http::Response{.body = body}; });
    const auto credentials = Get();
    ASSERT_FALSE(credentials) << body;
    EXPECT_EQ(FailureOf(credentials.error()), Failure::kExpiredCredentials);
    EXPECT_THAT(credentials.error().ToString(), Not(HasSubstr("MARK")));
    clock_.Advance(1h);
  }
}

}  // namespace
}  // namespace nova::secrets
