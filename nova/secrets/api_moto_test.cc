// SecretsApi against moto, which others wrote from AWS' documentation and which verifies signatures with botocore.
#include <boost/json.hpp>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <iostream>
#include <iterator>
#include <memory>
#include <regex>
#include <string>
#include <vector>

#include "local/process.h"
#include "nova/http/client.h"
#include "nova/runtime/runtime.h"
#include "nova/secrets/api.h"
#include "nova/telemetry/metrics.h"
#include "tests/fixture.h"

namespace nova::secrets {
namespace {

namespace json = boost::json;
using namespace std::chrono_literals;
using runtime::Call;
using runtime::Task;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;
using testing::UnorderedElementsAre;

constexpr Duration kLimit = 30s;
// Ids of versions have 32 characters at least.
constexpr char kFirst[] = "11111111-1111-1111-1111-111111111111";
constexpr char kSecond[] = "22222222-2222-2222-2222-222222222222";
constexpr char kNobody[] = "99999999-9999-9999-9999-999999999999";
// moto takes anybody, and wants to see a region and a service.
constexpr char kUnsigned[] = "AWS4-HMAC-SHA256 Credential=AKIATEST/20260101/us-east-1/";

// A moto on a free port of this machine; ends with the process.
class Moto {
 public:
  explicit Moto(const std::string& python) : log_(folder_.path() / "moto.log") {
    process_ = tests::Must(local::Process::Spawn(
        {.name = "moto",
         .program = python,
         .arguments = {"-m", "moto.server", "-H", "127.0.0.1", "-p", "0"},
         .environment = {{"PATH", "/usr/bin:/bin"}, {"PYTHONUNBUFFERED", "1"}, {"PYTHONDONTWRITEBYTECODE", "1"}},
         .log_file = log_}));
    tests::Must(local::AwaitReady(process_, "moto", log_, kLimit, [this]() -> Result<void> {
      std::ifstream file(log_);
      const std::string text{std::istreambuf_iterator<char>(file), {}};
      std::smatch found;
      if (!std::regex_search(text, found, std::regex(R"(Running on http://127\.0\.0\.1:(\d+))")))
        return Unavailable("moto has not said its port yet");
      port_ = std::stoi(found[1]);
      return Ok();
    }));
  }

  int port() const { return port_; }
  std::string endpoint() const { return "http://127.0.0.1:" + std::to_string(port_); }

 private:
  tests::FixtureFolder folder_{"nova-moto-"};
  std::filesystem::path log_;
  local::Process process_;
  int port_ = 0;
};

class FixedCredentials final : public CredentialsProvider {
 public:
  explicit FixedCredentials(std::string id = "AKIATEST", std::string key = "key")
      : credentials_(std::make_shared<const Credentials>(
            Credentials{.access_key_id = std::move(id), .secret_access_key = Secret<>(std::move(key))})) {}
  Task<CredentialsHandle> Get(Call&) override { co_return credentials_; }
  void Refused(const CredentialsHandle&) override {}
  IdentityInUse identity() const override { return {}; }
  Result<void> Close(Duration) override { return Ok(); }

 private:
  const CredentialsHandle credentials_;
};

class MotoTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    const char* const python = std::getenv("NOVA_TEST_PYTHON");
    if (python != nullptr) {
      moto_ = new Moto(python);
    } else {
      std::cerr << "*** NOVA_TEST_PYTHON is not set: ./dev test installs moto (tests/requirements.txt) and sets it "
                   "***\n";
    }
  }
  static void TearDownTestSuite() {
    delete moto_;
    moto_ = nullptr;
  }
  void SetUp() override {
    if (moto_ == nullptr) GTEST_SKIP() << "no moto";
    // It has forgotten the test before.
    ASSERT_EQ(Post("/moto-api/reset", "", "").status, 200);
    ASSERT_EQ(Post("/moto-api/reset-auth", "", "inf").status, 200);
    api_ = Api(credentials_);
  }

  std::unique_ptr<SecretsApi> Api(CredentialsProvider& credentials) {
    return std::make_unique<SecretsApi>(metrics_, dependency_, credentials,
                                        ApiConfig{.region = "us-east-1", .endpoint = moto_->endpoint()});
  }

  Result<SecretValue> Fetch(const std::string& id, Version version = Version::Stage(kCurrent)) {
    return Fetch(*api_, id, version);
  }
  Result<SecretValue> Fetch(SecretsApi& api, const std::string& id, Version version = Version::Stage(kCurrent)) {
    return runtime_.RunBlocking<SecretValue>(
        kLimit, [&](Call& call) { return api.Fetch(call, id, std::string(version.text()), version.is_id()); });
  }
  Result<void> Create(const std::string& id, const std::string& value = {}, const std::string& token = kFirst) {
    return runtime_.RunBlocking<void>(kLimit, [&](Call& call) {
      return api_->CreateSecret(call, {.secret_id = id, .token = token, .value = Secret<>(value)});
    });
  }
  Result<void> Put(SecretsApi& api, const std::string& id, const std::string& token, const std::string& value,
                   std::vector<std::string> stages) {
    return runtime_.RunBlocking<void>(kLimit, [&](Call& call) {
      return api.Put(call, {.secret_id = id, .token = token, .value = Secret<>(value), .stages = std::move(stages)});
    });
  }
  Result<void> Put(const std::string& id, const std::string& token, const std::string& value,
                   std::vector<std::string> stages = {}) {
    return Put(*api_, id, token, value, std::move(stages));
  }
  Result<void> Move(const std::string& id, std::string_view stage, const std::string& to, const std::string& from) {
    return runtime_.RunBlocking<void>(
        kLimit, [&](Call& call) { return api_->MoveStage(call, id, std::string(stage), to, from); });
  }
  std::vector<std::string> StagesOf(const std::string& id, const std::string& version) {
    const auto found = Fetch(id, Version::Id(version));
    EXPECT_TRUE(found) << found.error().ToString();
    return found ? found->stages : std::vector<std::string>();
  }

  // What SecretsApi has no business with.
  http::Response Post(const std::string& path, const std::string& service, std::string body,
                      const std::string& target = {}) {
    http::Request request{.method = "POST", .path = path, .body = std::move(body)};
    const bool is_form = target.empty() && !service.empty();
    request.headers.Add("Content-Type", is_form          ? "application/x-www-form-urlencoded"
                                        : target.empty() ? "text/plain"
                                                         : "application/x-amz-json-1.1");
    if (!target.empty()) request.headers.Add("X-Amz-Target", target);
    if (!service.empty())
      request.headers.Add("Authorization", kUnsigned + service + "/aws4_request, SignedHeaders=host, Signature=none");
    const auto response = runtime_.RunBlocking<http::Response>(kLimit, [&](Call& call) {
      return http_.Send(call, {.host = "127.0.0.1", .port = moto_->port()}, request, resilience::Idempotency::kNone);
    });
    EXPECT_TRUE(response) << response.error().ToString();
    return response ? *response : http::Response{.status = 0};
  }
  void Operation(const std::string& operation, const json::object& request) {
    const auto response = Post("/", "secretsmanager", json::serialize(request), "secretsmanager." + operation);
    EXPECT_EQ(response.status, 200) << response.body;
  }
  std::string Iam(const std::string& request) {
    const auto response = Post("/", "iam", request + "&Version=2010-05-08");
    EXPECT_EQ(response.status, 200) << response.body;
    return response.body;
  }

  inline static Moto* moto_ = nullptr;
  telemetry::Metrics metrics_;
  resilience::HttpDependency dependency_{"secrets_manager", metrics_};
  runtime::Runtime runtime_{{.threads = 2}};
  const http::Client http_{dependency_};
  FixedCredentials credentials_;
  std::unique_ptr<SecretsApi> api_;
};

std::string Between(const std::string& text, const std::string& begin, const std::string& end) {
  const std::size_t found = text.find(begin);
  if (found == std::string::npos) return {};
  const std::size_t at = found + begin.size();
  return text.substr(at, text.find(end, at) - at);
}

TEST_F(MotoTest, WhatIsMadeIsReadByNameByLabelAndById) {
  const WallTime before = Clock::System().WallNow();
  ASSERT_TRUE(Create("prod/nova/jwt", "the value"));
  for (const Version version : {Version::Stage(kCurrent), Version::Id(kFirst)}) {
    const auto found = Fetch("prod/nova/jwt", version);
    ASSERT_TRUE(found) << found.error().ToString();
    EXPECT_EQ(found->value.Expose(), "the value");
    EXPECT_EQ(found->version_id, kFirst);
    EXPECT_THAT(found->stages, ElementsAre("AWSCURRENT"));
    // moto has whole seconds.
    EXPECT_GE(found->created_at, before - 1s);
    EXPECT_LE(found->created_at, Clock::System().WallNow());
  }
  EXPECT_EQ(Create("prod/nova/jwt", "another", kSecond).error().code(), Code::kAlreadyExists);
  EXPECT_EQ(Create("prod/nova/jwt").error().code(), Code::kAlreadyExists);
}

TEST_F(MotoTest, EveryValueComesBackAsItWas) {
  ASSERT_TRUE(Create("a"));
  std::string controls;
  for (char c = 1; c < 0x20; ++c) controls += c;
  for (const std::string& value : {std::string("{\"a\":\"b\\n\"}"), std::string("-----BEGIN\nPRIVATE\n"), controls,
                                   std::string("\xc3\xa9\xe1\x88\xb4\xf0\x9f\x94\x91 \xe2\x80\xa8"),
                                   std::string(kSecretBytesMax, '"'), std::string(kSecretBytesMax, '\x01')}) {
    const std::string token = std::to_string(value.size()) + "-" + std::to_string(std::hash<std::string>()(value)) +
                              "-00000000000000000000000000000000";
    ASSERT_TRUE(Put("a", token, value));
    const auto found = Fetch("a");
    ASSERT_TRUE(found) << found.error().ToString();
    EXPECT_EQ(found->version_id, token);
    EXPECT_TRUE(found->value.Expose() == value);
  }
  Operation("CreateSecret", {{"Name", "bytes"}, {"SecretBinary", "AP/+gA=="}});
  const auto bytes = Fetch("bytes");
  ASSERT_TRUE(bytes) << bytes.error().ToString();
  EXPECT_EQ(bytes->value.Expose(), std::string("\0\xff\xfe\x80", 4));
}

TEST_F(MotoTest, LabelsMoveAsARotationMovesThem) {
  ASSERT_TRUE(Create("a", "old"));
  ASSERT_TRUE(Put("a", kSecond, "new", {"AWSPENDING"}));
  EXPECT_EQ(Fetch("a")->value.Expose(), "old");
  EXPECT_EQ(Fetch("a", Version::Stage(kPending))->value.Expose(), "new");
  EXPECT_EQ(FailureOf(Fetch("a", Version::Stage(kPrevious)).error()), Failure::kNotFound);

  ASSERT_TRUE(Move("a", kCurrent, kSecond, kFirst));
  EXPECT_EQ(Fetch("a")->value.Expose(), "new");
  EXPECT_EQ(Fetch("a", Version::Stage(kPrevious))->value.Expose(), "old");
  EXPECT_THAT(StagesOf("a", kSecond), UnorderedElementsAre("AWSPENDING", "AWSCURRENT"));

  ASSERT_TRUE(Move("a", kPending, {}, kSecond));
  EXPECT_EQ(FailureOf(Fetch("a", Version::Stage(kPending)).error()), Failure::kNotFound);
  EXPECT_THAT(StagesOf("a", kSecond), ElementsAre("AWSCURRENT"));
  EXPECT_THAT(StagesOf("a", kFirst), ElementsAre("AWSPREVIOUS"));

  // Back again, as the runbook does it.
  ASSERT_TRUE(Move("a", kCurrent, kFirst, kSecond));
  EXPECT_EQ(Fetch("a")->value.Expose(), "old");
  EXPECT_EQ(Fetch("a", Version::Stage(kPrevious))->value.Expose(), "new");
}

TEST_F(MotoTest, AVersionIsPutOnceAndCurrentUnlessOtherwiseSaid) {
  ASSERT_TRUE(Create("a", "old"));
  ASSERT_TRUE(Put("a", kSecond, "new"));
  ASSERT_TRUE(Put("a", kSecond, "new"));
  EXPECT_EQ(Fetch("a")->version_id, kSecond);
  EXPECT_EQ(Fetch("a", Version::Stage(kPrevious))->version_id, kFirst);
  const auto other = Put("a", kSecond, "MARK");
  EXPECT_EQ(other.error().code(), Code::kAlreadyExists) << other.error().ToString();
  EXPECT_THAT(other.error().ToString(), Not(HasSubstr("MARK")));
  EXPECT_EQ(Fetch("a")->value.Expose(), "new");
}

TEST_F(MotoTest, WhatIsNotThereIsNotFound) {
  EXPECT_EQ(FailureOf(Fetch("nothing").error()), Failure::kNotFound);
  EXPECT_EQ(FailureOf(Put("nothing", kFirst, "x").error()), Failure::kNotFound);
  EXPECT_EQ(FailureOf(Move("nothing", kCurrent, kFirst, kSecond).error()), Failure::kNotFound);
  ASSERT_TRUE(Create("empty"));
  EXPECT_EQ(FailureOf(Fetch("empty").error()), Failure::kNotFound);
  ASSERT_TRUE(Create("a", "x"));
  EXPECT_EQ(FailureOf(Fetch("a", Version::Id(kNobody)).error()), Failure::kNotFound);
  EXPECT_EQ(FailureOf(Fetch("a", Version::Stage("nobody")).error()), Failure::kNotFound);
  EXPECT_THAT(metrics_.Scrape(),
              HasSubstr("nova_secrets_requests_total{operation=\"GetSecretValue\",result=\"not_found\"} 4"));

  Operation("DeleteSecret", {{"SecretId", "a"}});
  const auto deleted = Fetch("a");
  EXPECT_EQ(FailureOf(deleted.error()), Failure::kNotFound);
  EXPECT_THAT(deleted.error().message(), HasSubstr("is it being deleted?"));
}

TEST_F(MotoTest, WhatCannotBeIsTheCallersMistake) {
  ASSERT_TRUE(Create("a", "x"));
  ASSERT_TRUE(Put("a", kSecond, "y", {"AWSPENDING"}));
  for (const auto& [to, from] : std::vector<std::pair<std::string, std::string>>{
           {kSecond, ""}, {kSecond, kSecond}, {kSecond, kNobody}, {kNobody, kFirst}}) {
    const auto moved = Move("a", kCurrent, to, from);
    ASSERT_FALSE(moved) << to << " " << from;
    EXPECT_EQ(moved.error().code(), Code::kInvalidArgument) << moved.error().ToString();
  }
  const auto put = Put("a", "short", "MARK");
  EXPECT_EQ(put.error().code(), Code::kInvalidArgument) << put.error().ToString();
  EXPECT_THAT(put.error().ToString(), Not(HasSubstr("MARK")));
}

// Told so, moto looks at who asks: it computes the signature by itself, and knows what a user may do.
TEST_F(MotoTest, OnlyWhoSignsRightAndMayGetsAnAnswer) {
  ASSERT_TRUE(Create("a", "value"));
  Iam("Action=CreateUser&UserName=service");
  const std::string key = Iam("Action=CreateAccessKey&UserName=service");
  // A role of a service: GetSecretValue, and nothing else.
  Iam("Action=PutUserPolicy&UserName=service&PolicyName=read&PolicyDocument=%7B%22Version%22%3A%222012-10-17%22%2C"
      "%22Statement%22%3A%5B%7B%22Effect%22%3A%22Allow%22%2C%22Action%22%3A%22secretsmanager%3AGetSecretValue%22%2C"
      "%22Resource%22%3A%22%2A%22%7D%5D%7D");
  const std::string id = Between(key, "<AccessKeyId>", "<");
  const std::string secret = Between(key, "<SecretAccessKey>", "<");
  ASSERT_FALSE(id.empty() || secret.empty());
  ASSERT_EQ(Post("/moto-api/reset-auth", "", "0").status, 200);

  FixedCredentials right(id, secret);
  const auto found = Fetch(*Api(right), "a");
  EXPECT_TRUE(found) << found.error().ToString();
  // Its reasons moto gives in XML, as AWS does not in this protocol, so they count for nothing here.
  const auto put = Put(*Api(right), "a", kSecond, "x", {});
  EXPECT_THAT(put.error().detail(), HasSubstr("HTTP 403"));
  FixedCredentials wrong(id, secret + "x");
  EXPECT_THAT(Fetch(*Api(wrong), "a").error().detail(), HasSubstr("HTTP 403"));
  FixedCredentials unknown("AKIANOBODYNOBODY1234", secret);
  EXPECT_THAT(Fetch(*Api(unknown), "a").error().detail(), HasSubstr("HTTP 403"));
}

}  // namespace
}  // namespace nova::secrets
