#include "nova/secrets/api.h"

#include <atomic>
#include <boost/json.hpp>
#include <ctime>
#include <functional>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "nova/http/test_peer.h"
#include "nova/runtime/runtime.h"
#include "nova/runtime/scope.h"
#include "nova/secrets/fake_aws.h"
#include "nova/telemetry/metrics.h"
#include "tests/eventually.h"

namespace nova::secrets {
namespace {

namespace json = boost::json;
using namespace std::chrono_literals;
using runtime::Call;
using runtime::Task;
using testing::HasSubstr;
using testing::Not;

// In no message may it appear.
constexpr char kMark[] = "MARK-5d1c-of-a-secret";

constexpr char kToken[] = "MARK-81fa-of-a-session";

// Credentials number n, until they are refused.
class CountedCredentials final : public CredentialsProvider {
 public:
  Task<CredentialsHandle> Get(Call&) override {
    ++asked_;
    if (fails_) co_return Fail(Failure::kNetwork, "web identity: STS is not reached");
    co_return std::make_shared<const Credentials>(Credentials{.access_key_id = "AKID" + std::to_string(refused_.load()),
                                                              .secret_access_key = Secret<>("key"),
                                                              .session_token = Secret<>(has_token_ ? kToken : "")});
  }
  void Refused(const CredentialsHandle&) override { ++refused_; }
  IdentityInUse identity() const override { return {}; }
  Result<void> Close(Duration) override { return Ok(); }
  int refused() const { return refused_; }
  int asked() const { return asked_; }
  // Before they are asked for.
  void FailAll() { fails_ = true; }
  void HaveToken() { has_token_ = true; }

 private:
  std::atomic<int> asked_ = 0;
  std::atomic<int> refused_ = 0;
  bool fails_ = false;
  bool has_token_ = false;
};

http::Response Json(int status, json::object body) {
  return {.status = status, .content_type = "application/x-amz-json-1.1", .body = json::serialize(body)};
}

http::Response Failed(int status, std::string_view code, std::string_view message = "said by AWS") {
  return Json(status, {{"__type", code}, {"message", message}});
}

http::Response Value(std::string_view value = "value") {
  return Json(200, {{"Name", "a"},
                    {"VersionId", "v-1"},
                    {"VersionStages", {"AWSCURRENT", "mine"}},
                    {"CreatedDate", 1'700'000'000.25},
                    {"SecretString", value}});
}

std::string TextOf(WallTime time, const char* format) {
  const std::time_t seconds = std::chrono::system_clock::to_time_t(time);
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  char text[64];
  return {text, std::strftime(text, sizeof text, format, &parts)};
}

// To the hour.
std::string AmzDate(WallTime time) { return TextOf(time, "%Y%m%dT%H"); }
std::string AmzDateOf(const std::string& request) {
  constexpr std::string_view kName = "X-Amz-Date: ";
  const std::size_t at = request.find(kName);
  return at == std::string::npos ? "" : request.substr(at + kName.size(), sizeof "20231114T22" - 1);
}

// A peer that still waits for requests ends with those that never came.
void Release(const http::PeerListener& listener, int requests) {
  for (int i = 0; i < requests; ++i) http::Peer::Connect(listener.port());
}

// With the Date that our own server does not write.
void Send(http::Peer& peer, const http::Response& answer, WallTime date) {
  EXPECT_TRUE(peer.Send("HTTP/1.1 " + std::to_string(answer.status) +
                        " x\r\nDate: " + TextOf(date, "%a, %d %b %Y %H:%M:%S GMT") +
                        "\r\nContent-Length: " + std::to_string(answer.body.size()) + "\r\n\r\n" + answer.body));
}

class ApiTest : public testing::Test {
 protected:
  ApiTest() {
    aws_.Answers([](const http::Request&, std::size_t) { return Value(); });
  }

  SecretsApi Api() {
    return {metrics_, dependency_, credentials_, {.region = "eu-central-1", .endpoint = aws_.endpoint()}};
  }
  Result<SecretValue> Fetch(Duration limit = 10s, std::string id = "prod/nova/jwt") {
    SecretsApi api = Api();
    return runtime_.RunBlocking<SecretValue>(
        limit, [&](Call& call) { return api.Fetch(call, id, "AWSCURRENT", /*version_is_id=*/false); });
  }
  // What the next request answers, whatever it is.
  void AnswersAlways(http::Response response) {
    aws_.Answers([response](const http::Request&, std::size_t) { return response; });
  }
  // Deposits enough for a retry.
  void EarnRetries() {
    for (int i = 0; i < 20; ++i) ASSERT_TRUE(Fetch());
  }
  std::string Metrics() const { return metrics_.Scrape(); }
  Result<void> Run(const std::function<Task<void>(Call&)>& work) { return runtime_.RunBlocking<void>(10s, work); }

  telemetry::Metrics metrics_;
  resilience::HttpDependency dependency_{"secrets_manager", metrics_};
  CountedCredentials credentials_;
  runtime::Runtime runtime_{{.threads = 2}};
  FakeAws aws_{runtime_};
};

TEST_F(ApiTest, AsksAsTheProtocolSays) {
  const auto fetched = Fetch();
  ASSERT_TRUE(fetched) << fetched.error().ToString();
  EXPECT_EQ(fetched->value.Expose(), "value");
  EXPECT_EQ(fetched->version_id, "v-1");
  EXPECT_EQ(fetched->stages, (std::vector<std::string>{"AWSCURRENT", "mine"}));
  EXPECT_EQ(fetched->created_at, WallTime(1'700'000'000'250ms));
  const auto requests = aws_.requests();
  ASSERT_EQ(requests.size(), 1U);
  const http::Headers& headers = requests[0].headers;
  EXPECT_EQ(headers.Get("Content-Type"), "application/x-amz-json-1.1");
  EXPECT_EQ(headers.Get("X-Amz-Target"), "secretsmanager.GetSecretValue");
  EXPECT_THAT(std::string(headers.Get("Authorization")),
              testing::MatchesRegex("AWS4-HMAC-SHA256 Credential=AKID0/[0-9]{8}/eu-central-1/secretsmanager/"
                                    "aws4_request, SignedHeaders=content-type;host;x-amz-date;x-amz-target, "
                                    "Signature=[0-9a-f]{64}"));
  EXPECT_EQ(json::parse(requests[0].body),
            (json::value{{"SecretId", "prod/nova/jwt"}, {"VersionStage", "AWSCURRENT"}}));
  EXPECT_THAT(Metrics(), HasSubstr("nova_secrets_requests_total{operation=\"GetSecretValue\",result=\"ok\"} 1"));
}

TEST_F(ApiTest, ReadsBytesToo) {
  AnswersAlways(Json(200, {{"VersionId", "v"}, {"CreatedDate", 1}, {"SecretBinary", "AAEC/w=="}}));
  const auto fetched = Fetch();
  ASSERT_TRUE(fetched) << fetched.error().ToString();
  EXPECT_EQ(fetched->value.Expose(), std::string("\0\1\2\xff", 4));
}

TEST_F(ApiTest, EveryErrorOfAwsHasItsKind) {
  const struct {
    int status;
    const char* code;
    Failure failure;
  } cases[] = {
      {400, "ResourceNotFoundException", Failure::kNotFound},
      {400, "com.amazonaws.secretsmanager#ResourceNotFoundException", Failure::kNotFound},
      {400, "ResourceNotFoundException:http://internal.amazon.com/coral/", Failure::kNotFound},
      {400, "InvalidRequestException", Failure::kNotFound},
      {400, "InvalidParameterException", Failure::kNotFound},
      {400, "ValidationException", Failure::kNotFound},
      {400, "AccessDeniedException", Failure::kAccessDenied},
      {403, "AccessDenied", Failure::kAccessDenied},
      {400, "NotAuthorized", Failure::kAccessDenied},
      {403, "OptInRequired", Failure::kAccessDenied},
      {400, "DecryptionFailure", Failure::kDecryptionFailed},
      {400, "EncryptionFailure", Failure::kDecryptionFailed},
      {400, "ThrottlingException", Failure::kThrottled},
      {400, "Throttling", Failure::kThrottled},
      {429, "", Failure::kThrottled},
      {400, "TooManyRequestsException", Failure::kThrottled},
      {400, "RequestLimitExceeded", Failure::kThrottled},
      {503, "SlowDown", Failure::kThrottled},
      {400, "LimitExceededException", Failure::kThrottled},
      {400, "ExpiredTokenException", Failure::kExpiredCredentials},
      {403, "ExpiredToken", Failure::kExpiredCredentials},
      {403, "UnrecognizedClientException", Failure::kExpiredCredentials},
      {403, "InvalidClientTokenId", Failure::kExpiredCredentials},
      {403, "InvalidSignatureException", Failure::kExpiredCredentials},
      {403, "RequestTimeTooSkewed", Failure::kExpiredCredentials},
      {400, "RequestExpired", Failure::kExpiredCredentials},
      {400, "IncompleteSignature", Failure::kExpiredCredentials},
      {403, "MissingAuthenticationToken", Failure::kExpiredCredentials},
      {500, "InternalServiceError", Failure::kNetwork},
      {500, "InternalFailure", Failure::kNetwork},
      {400, "RequestTimeout", Failure::kNetwork},
      {503, "ServiceUnavailable", Failure::kNetwork},
      {502, "", Failure::kNetwork},
      {504, "Nonsense", Failure::kNetwork},
  };
  for (const auto& one : cases) {
    SCOPED_TRACE(one.code);
    AnswersAlways(Failed(one.status, one.code));
    const auto fetched = Fetch();
    ASSERT_FALSE(fetched);
    EXPECT_EQ(FailureOf(fetched.error()), one.failure) << fetched.error().ToString();
  }
  EXPECT_THAT(Metrics(), HasSubstr("nova_secrets_requests_total{operation=\"GetSecretValue\",result=\"throttled\"} 7"));
  // None of ours, and no reason to think that time would mend it.
  AnswersAlways(Failed(400, "NewException"));
  EXPECT_EQ(Fetch().error().code(), Code::kInternal);
  EXPECT_THAT(Metrics(), HasSubstr("result=\"other\"} 1"));
}

// It says so with the code for whatever else is denied, but another person has to act.
TEST_F(ApiTest, AKeyOfKmsThatIsDeniedIsAFailureToDecrypt) {
  AnswersAlways(Failed(400, "AccessDeniedException", "Access to KMS is not allowed"));
  const auto fetched = Fetch();
  EXPECT_EQ(FailureOf(fetched.error()), Failure::kDecryptionFailed);
  EXPECT_THAT(fetched.error().message(), HasSubstr("KMS does not allow this identity its key"));
}

TEST_F(ApiTest, WhatIsNotSecretsManagerIsCalledThat) {
  AnswersAlways({.status = 404, .body = "<html>nothing here</html>"});
  const auto fetched = Fetch();
  EXPECT_EQ(fetched.error().code(), Code::kInternal);
  EXPECT_THAT(fetched.error().message(), HasSubstr("AWS_ENDPOINT_URL_SECRETS_MANAGER"));
  EXPECT_THAT(fetched.error().ToString(), Not(HasSubstr("html")));
}

TEST_F(ApiTest, WhoMayNotReadIsToldWhatAwsSays) {
  const std::string said =
      "User: arn:aws:sts::123456789012:assumed-role/nova/pod is not authorized to perform: "
      "secretsmanager:GetSecretValue on resource: prod/nova/jwt";
  http::Response answer = Failed(400, "AccessDeniedException", said + "\n" + std::string(10'000, '\n'));
  answer.headers.Add("x-amzn-RequestId", "2f9b8a14-6a6b-4d8d-9f2e-6f0d0a5b6c7d");
  AnswersAlways(answer);
  const auto fetched = Fetch();
  EXPECT_THAT(fetched.error().detail(),
              testing::StartsWith(
                  "HTTP 400, AccessDeniedException, request 2f9b8a14-6a6b-4d8d-9f2e-6f0d0a5b6c7d: " + said + " "));
  EXPECT_THAT(fetched.error().detail(), Not(HasSubstr("\n")));
  EXPECT_LT(fetched.error().detail().size(), 500U);
}

// AWS answers a wrong signature with all that it thinks should have been signed.
TEST_F(ApiTest, WhatAwsRepeatsOfARequestIsNotShown) {
  credentials_.HaveToken();
  ASSERT_TRUE(Fetch());
  EXPECT_EQ(aws_.requests()[0].headers.Get("X-Amz-Security-Token"), kToken);
  EXPECT_THAT(std::string(aws_.requests()[0].headers.Get("Authorization")), HasSubstr(";x-amz-security-token;"));

  const std::string mark = kMark;
  const std::string canonical =
      "The Canonical String for this request should have been\n'POST\n/\n\n"
      "x-amz-security-token:" +
      std::string(kToken) + "\n\n' " + mark;
  SecretsApi api = Api();
  for (const char* code :
       {"InvalidSignatureException", "SignatureDoesNotMatch", "IncompleteSignature", "UnrecognizedClientException",
        "ExpiredTokenException", "MissingAuthenticationToken", "InvalidParameterException", "ValidationException",
        "SerializationException", "ResourceExistsException", "InternalServiceError", "ThrottlingException", "Nonsense",
        "", kMark, "a b c"}) {
    SCOPED_TRACE(code);
    AnswersAlways(Failed(400, std::string_view(code) == kMark ? mark + std::string(1000, 'x') : code, canonical));
    const auto put = Run([&](Call& call) {
      return api.Put(call, {.secret_id = "s", .token = "t", .value = Secret<>(kMark), .stages = {}});
    });
    ASSERT_FALSE(put);
    EXPECT_THAT(put.error().ToString(), Not(HasSubstr("MARK")));
  }
}

TEST_F(ApiTest, WithoutCredentialsSecretsManagerIsNotAskedAndNotBlamed) {
  EarnRetries();
  const std::size_t before = aws_.count();
  const int asked = credentials_.asked();
  credentials_.FailAll();
  for (int i = 0; i < 100; ++i) {
    const auto fetched = Fetch();
    ASSERT_FALSE(fetched);
    EXPECT_EQ(FailureOf(fetched.error()), Failure::kNetwork);
    EXPECT_EQ(fetched.error().message(), "web identity: STS is not reached");
  }
  EXPECT_EQ(aws_.count(), before);
  EXPECT_EQ(credentials_.asked(), asked + 100);
  EXPECT_EQ(dependency_.breaker().state(), resilience::Breaker::State::kClosed);
}

TEST_F(ApiTest, TheHeaderNamesTheErrorWhereTheBodyDoesNot) {
  http::Response response{.status = 400, .body = "<html>"};
  response.headers.Add("x-amzn-ErrorType", "AccessDeniedException:http://internal");
  AnswersAlways(response);
  EXPECT_EQ(FailureOf(Fetch().error()), Failure::kAccessDenied);
}

TEST_F(ApiTest, AnswersThatAreNoneAreRefusedWithoutShowingThem) {
  const std::string mark = kMark;
  const std::vector<std::string> bodies = {
      "",
      mark,
      "{\"SecretString\":\"" + mark,
      "[\"" + mark + "\"]",
      "{\"SecretString\":\"" + mark + "\",\"SecretString\":\"b\",\"VersionId\":\"v\",\"CreatedDate\":1}",
      "{\"VersionId\":\"v\",\"CreatedDate\":1,\"Other\":\"" + mark + "\"}",
      "{\"SecretString\":[\"" + mark + "\"],\"VersionId\":\"v\",\"CreatedDate\":1}",
      "{\"SecretString\":\"" + mark + "\",\"CreatedDate\":1}",
      "{\"SecretString\":\"" + mark + "\",\"VersionId\":\"v\"}",
      "{\"SecretString\":\"" + mark + "\",\"VersionId\":\"v\",\"CreatedDate\":1e300}",
      "{\"SecretBinary\":\"" + mark + "!\",\"VersionId\":\"v\",\"CreatedDate\":1}",
      "{\"SecretBinary\":\"AAA\",\"VersionId\":\"v\",\"CreatedDate\":1}",
      "{\"SecretBinary\":\"A===\",\"VersionId\":\"v\",\"CreatedDate\":1}",
      "{\"SecretBinary\":\"A=AA\",\"VersionId\":\"v\",\"CreatedDate\":1}",
      "{\"SecretBinary\":\"AAAA    \",\"VersionId\":\"v\",\"CreatedDate\":1}",
      "{\"SecretBinary\":\"AAAA----\",\"VersionId\":\"v\",\"CreatedDate\":1}",
      "{\"SecretString\":\"" + mark + std::string(kSecretBytesMax, 'x') + "\",\"VersionId\":\"v\",\"CreatedDate\":1}",
  };
  for (const std::string& body : bodies) {
    SCOPED_TRACE(body.substr(0, 80));
    AnswersAlways({.status = 200, .body = body});
    const auto fetched = Fetch();
    ASSERT_FALSE(fetched);
    EXPECT_EQ(FailureOf(fetched.error()), Failure::kInvalidFormat) << fetched.error().ToString();
    EXPECT_THAT(fetched.error().ToString(), Not(HasSubstr("MARK")));
  }
}

TEST_F(ApiTest, AValueMayHave64KiBAndNoMore) {
  AnswersAlways(Value(std::string(kSecretBytesMax, '"')));
  const auto fetched = Fetch();
  ASSERT_TRUE(fetched) << fetched.error().ToString();
  EXPECT_EQ(fetched->value.Expose().size(), kSecretBytesMax);
  AnswersAlways(Value(std::string(1024 * 1024, 'x')));
  EXPECT_EQ(FailureOf(Fetch().error()), Failure::kInvalidFormat);
}

TEST_F(ApiTest, WhatAnotherTryCanMendIsTriedAgain) {
  for (const auto& failure : {Failed(503, "ServiceUnavailable"), Failed(400, "ThrottlingException")}) {
    EarnRetries();
    const std::size_t before = aws_.count();
    aws_.Answers([&](const http::Request&, std::size_t number) { return number == before ? failure : Value(); });
    const auto fetched = Fetch();
    EXPECT_TRUE(fetched) << fetched.error().ToString();
    EXPECT_EQ(aws_.count(), before + 2);
    AnswersAlways(Value());
  }
  // A quota comes back with the day, not with the second.
  for (const char* code : {"AccessDeniedException", "ResourceNotFoundException", "LimitExceededException"}) {
    EarnRetries();
    const std::size_t before = aws_.count();
    AnswersAlways(Failed(400, code));
    EXPECT_FALSE(Fetch());
    EXPECT_EQ(aws_.count(), before + 1) << code;
    AnswersAlways(Value());
  }
}

TEST_F(ApiTest, EachTryIsSignedAnew) {
  EarnRetries();
  const std::size_t before = aws_.count();
  FakeClock clock;
  aws_.Answers([&](const http::Request&, std::size_t number) {
    clock.Advance(7s);
    return number == before ? Failed(503, "ServiceUnavailable") : Value();
  });
  SecretsApi api(metrics_, dependency_, credentials_, {.region = "eu-central-1", .endpoint = aws_.endpoint()}, clock);
  const auto fetched =
      runtime_.RunBlocking<SecretValue>(10s, [&](Call& call) { return api.Fetch(call, "a", "AWSCURRENT", false); });
  ASSERT_TRUE(fetched) << fetched.error().ToString();
  const auto requests = aws_.requests();
  ASSERT_EQ(requests.size(), before + 2);
  const http::Headers& first = requests[before].headers;
  const http::Headers& second = requests[before + 1].headers;
  EXPECT_EQ(first.Get("X-Amz-Date"), "20231114T221320Z");
  EXPECT_EQ(second.Get("X-Amz-Date"), "20231114T221327Z");
  EXPECT_NE(first.Get("Authorization"), second.Get("Authorization"));
}

TEST_F(ApiTest, AMoveOfALabelIsNeverRepeated) {
  EarnRetries();
  SecretsApi api = Api();
  for (const auto& failure : {Failed(503, "ServiceUnavailable"), Failed(400, "ThrottlingException")}) {
    const std::size_t before = aws_.count();
    AnswersAlways(failure);
    EXPECT_FALSE(Run([&](Call& call) { return api.MoveStage(call, "s", "AWSCURRENT", "new", "old"); }));
    EXPECT_EQ(aws_.count(), before + 1);
  }
}

TEST_F(ApiTest, ExpiredCredentialsAreReplacedOnce) {
  aws_.Answers([](const http::Request&, std::size_t number) {
    return number == 0 ? Failed(400, "ExpiredTokenException") : Value();
  });
  EXPECT_TRUE(Fetch());
  ASSERT_EQ(aws_.count(), 2U);
  EXPECT_THAT(std::string(aws_.requests()[0].headers.Get("Authorization")), HasSubstr("Credential=AKID0/"));
  EXPECT_THAT(std::string(aws_.requests()[1].headers.Get("Authorization")), HasSubstr("Credential=AKID1/"));

  AnswersAlways(Failed(400, "ExpiredTokenException"));
  EXPECT_EQ(FailureOf(Fetch().error()), Failure::kExpiredCredentials);
  EXPECT_EQ(aws_.count(), 4U);
}

TEST_F(ApiTest, BothRoundsShareOneTimeout) {
  FakeClock clock;
  aws_.Answers([&](const http::Request&, std::size_t) {
    clock.Advance(dependency_.config().timeout);
    return Failed(400, "ExpiredTokenException");
  });
  SecretsApi api(metrics_, dependency_, credentials_, {.region = "eu-central-1", .endpoint = aws_.endpoint()}, clock);
  const auto fetched =
      runtime_.RunBlocking<SecretValue>(60s, [&](Call& call) { return api.Fetch(call, "a", "AWSCURRENT", false); });
  EXPECT_EQ(FailureOf(fetched.error()), Failure::kExpiredCredentials);
  EXPECT_EQ(aws_.count(), 1U);
  EXPECT_EQ(credentials_.refused(), 1);
}

TEST_F(ApiTest, AClockThatIsWrongIsCorrectedOnceAndForAll) {
  const FakeClock clock;
  const WallTime theirs = clock.WallNow() + 1h;
  http::PeerListener listener;
  std::vector<std::string> dates;
  std::thread peer([&] {
    for (int i = 0; i < 3; ++i) {
      http::Peer connection = listener.Accept();
      dates.push_back(AmzDateOf(connection.ReadMessage()));
      Send(connection, i == 0 ? Failed(403, "InvalidSignatureException", "Signature expired") : Value(), theirs);
    }
  });
  SecretsApi api(metrics_, dependency_, credentials_,
                 {.region = "eu-central-1", .endpoint = "http://127.0.0.1:" + std::to_string(listener.port())}, clock);
  for (int i = 0; i < 2; ++i) {
    const auto fetched =
        runtime_.RunBlocking<SecretValue>(10s, [&](Call& call) { return api.Fetch(call, "a", "AWSCURRENT", false); });
    EXPECT_TRUE(fetched) << fetched.error().ToString();
  }
  Release(listener, HasFailure() ? 3 : 0);
  peer.join();
  ASSERT_EQ(dates.size(), 3U);
  EXPECT_EQ(dates[1], AmzDate(theirs));
  EXPECT_EQ(dates[2], AmzDate(theirs));
  EXPECT_EQ(credentials_.refused(), 0);
}

TEST_F(ApiTest, AllThatWereUnderWayProfitFromTheCorrection) {
  constexpr int kRequests = 5;
  const FakeClock clock;
  const WallTime theirs = clock.WallNow() - 48h;
  http::PeerListener listener;
  std::thread peer([&] {
    // All are signed before the first is refused.
    std::vector<http::Peer> connections;
    for (int i = 0; i < kRequests; ++i) {
      connections.push_back(listener.Accept());
      EXPECT_NE(AmzDateOf(connections.back().ReadMessage()), AmzDate(theirs));
    }
    for (http::Peer& connection : connections) {
      Send(connection, Failed(400, "InvalidSignatureException", "Signature not yet current"), theirs);
      connection.Close();
    }
    for (int i = 0; i < kRequests; ++i) {
      http::Peer connection = listener.Accept();
      EXPECT_EQ(AmzDateOf(connection.ReadMessage()), AmzDate(theirs));
      Send(connection, Value(), theirs);
    }
  });
  SecretsApi api(metrics_, dependency_, credentials_,
                 {.region = "eu-central-1", .endpoint = "http://127.0.0.1:" + std::to_string(listener.port())}, clock);
  std::atomic<int> ended = 0;
  std::atomic<int> good = 0;
  runtime::Scope scope(runtime_);
  for (int i = 0; i < kRequests; ++i) {
    scope.Spawn("reader", [&](Call& call) -> Task<void> {
      const auto fetched = co_await api.Fetch(call, "a", "AWSCURRENT", false);
      if (fetched) ++good;
      ++ended;
      co_return Ok();
    });
  }
  EXPECT_TRUE(tests::Eventually([&] { return ended == kRequests; }));
  EXPECT_TRUE(scope.Stop(5s));
  Release(listener, kRequests - good);
  peer.join();
  EXPECT_EQ(good, kRequests);
  EXPECT_EQ(credentials_.refused(), 0);
}

TEST_F(ApiTest, ASignatureThatIsRefusedUnderARightClockIsTriedOnce) {
  AnswersAlways(Failed(403, "InvalidSignatureException"));
  EXPECT_EQ(FailureOf(Fetch().error()), Failure::kExpiredCredentials);
  EXPECT_EQ(aws_.count(), 1U);
}

TEST_F(ApiTest, WhoDoesNotAnswerIsWaitedForAsLongAsTheCallMay) {
  aws_.Hangs(true);
  const auto fetched = Fetch(50ms);
  ASSERT_FALSE(fetched);
  EXPECT_EQ(fetched.error().code(), Code::kDeadlineExceeded);
  EXPECT_EQ(FailureOf(fetched.error()), Failure::kNetwork);
}

TEST_F(ApiTest, WhoIsCancelledWaitsNoLonger) {
  aws_.Hangs(true);
  std::atomic<bool> ended = false;
  std::optional<Error> error;
  runtime::Scope scope(runtime_);
  SecretsApi api = Api();
  scope.Spawn("reader", [&](Call& call) -> Task<void> {
    const auto fetched = co_await api.Fetch(call, "a", "AWSCURRENT", false);
    if (!fetched) error = fetched.error();
    ended = true;
    co_return Ok();
  });
  EXPECT_TRUE(tests::Eventually([&] { return aws_.count() == 1; }));
  EXPECT_TRUE(scope.Stop(5s));
  ASSERT_TRUE(ended);
  ASSERT_TRUE(error);
  EXPECT_EQ(error->code(), Code::kCancelled);
}

TEST_F(ApiTest, AConnectionThatIsCutIsAFailureOfTheNetwork) {
  http::PeerListener listener;
  for (const std::string& sent :
       {std::string(), std::string("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"Secr")}) {
    std::thread peer([&] {
      http::Peer connection = listener.Accept();
      connection.ReadMessage();
      connection.Send(sent);
    });
    SecretsApi api(metrics_, dependency_, credentials_,
                   {.region = "eu-central-1", .endpoint = "http://127.0.0.1:" + std::to_string(listener.port())});
    const auto fetched =
        runtime_.RunBlocking<SecretValue>(10s, [&](Call& call) { return api.Fetch(call, "a", "AWSCURRENT", false); });
    peer.join();
    ASSERT_FALSE(fetched);
    EXPECT_EQ(FailureOf(fetched.error()), Failure::kNetwork) << fetched.error().ToString();
  }
}

TEST_F(ApiTest, TheRotatorsOperationsSayWhatTheyMean) {
  AnswersAlways(Json(200, {}));
  SecretsApi api = Api();
  ASSERT_TRUE(Run([&](Call& call) {
    return api.Put(call, {.secret_id = "s", .token = "t", .value = Secret<>(kMark), .stages = {"AWSPENDING"}});
  }));
  ASSERT_TRUE(Run([&](Call& call) { return api.MoveStage(call, "s", "AWSCURRENT", "new", "old"); }));
  ASSERT_TRUE(Run([&](Call& call) { return api.MoveStage(call, "s", "AWSPENDING", "", "old"); }));
  ASSERT_TRUE(Run([&](Call& call) { return api.CreateSecret(call, {.secret_id = "s"}); }));
  const std::vector<std::pair<std::string, json::value>> expected = {
      {"PutSecretValue",
       {{"SecretId", "s"},
        {"ClientRequestToken", "t"},
        {"SecretString", kMark},
        {"VersionStages", json::array{"AWSPENDING"}}}},
      {"UpdateSecretVersionStage",
       {{"SecretId", "s"}, {"VersionStage", "AWSCURRENT"}, {"MoveToVersionId", "new"}, {"RemoveFromVersionId", "old"}}},
      {"UpdateSecretVersionStage", {{"SecretId", "s"}, {"VersionStage", "AWSPENDING"}, {"RemoveFromVersionId", "old"}}},
      {"CreateSecret", json::object{{"Name", "s"}}}};
  const auto requests = aws_.requests();
  ASSERT_EQ(requests.size(), expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(requests[i].headers.Get("X-Amz-Target"), "secretsmanager." + expected[i].first);
    EXPECT_EQ(json::parse(requests[i].body), expected[i].second);
  }
  AnswersAlways(Failed(400, "ResourceExistsException"));
  EXPECT_EQ(Run([&](Call& call) { return api.CreateSecret(call, {.secret_id = "s"}); }).error().code(),
            Code::kAlreadyExists);
  AnswersAlways(Failed(400, "InvalidParameterException", "RemoveFromVersionId can't be empty"));
  const auto moved = Run([&](Call& call) { return api.MoveStage(call, "s", "AWSCURRENT", "new", ""); });
  EXPECT_EQ(moved.error().code(), Code::kInvalidArgument);
  EXPECT_THAT(moved.error().detail(), HasSubstr("RemoveFromVersionId can't be empty"));
}

TEST(ApiConfigTest, SettingsThatCannotBeAreNamed) {
  const auto message = [](ApiConfig api) {
    const auto valid = Validate(api);
    return valid ? std::string() : valid.error().message();
  };
  EXPECT_EQ(message({.region = "eu-central-1"}), "");
  EXPECT_EQ(message({.region = "eu-central-1", .endpoint = "http://127.0.0.1:5000"}), "");
  EXPECT_EQ(message({.region = "eu-central-1", .endpoint = "https://vpce.example.com/"}), "");
  EXPECT_THAT(message({}), HasSubstr("AWS_REGION: is not set"));
  EXPECT_THAT(message({.region = "x/y"}), HasSubstr("AWS_REGION"));
  EXPECT_THAT(message({.region = "eu-central-1", .endpoint = "nonsense"}),
              HasSubstr("AWS_ENDPOINT_URL_SECRETS_MANAGER"));
  EXPECT_THAT(message({.region = "eu-central-1", .endpoint = "http://10.0.0.1"}), HasSubstr("plaintext"));
  EXPECT_THAT(message({.region = "eu-central-1", .endpoint = {}, .ca_path = "/no/such/file"}),
              HasSubstr("AWS_CA_BUNDLE"));
}

TEST(ApiConfigTest, TheMoreSpecialVariableWins) {
  const auto bind = [](std::map<std::string, std::string> environment) {
    config::Config config({.environment = std::move(environment)});
    ApiConfig api;
    Bind(config, api);
    return api;
  };
  const ApiConfig both = bind({{"AWS_REGION", "a-1"},
                               {"AWS_DEFAULT_REGION", "b-1"},
                               {"AWS_ENDPOINT_URL", "http://a"},
                               {"AWS_ENDPOINT_URL_SECRETS_MANAGER", "http://b"}});
  EXPECT_EQ(both.region, "a-1");
  EXPECT_EQ(both.endpoint, "http://b");
  const ApiConfig general = bind({{"AWS_DEFAULT_REGION", "b-1"}, {"AWS_ENDPOINT_URL", "http://a"}});
  EXPECT_EQ(general.region, "b-1");
  EXPECT_EQ(general.endpoint, "http://a");
}

}  // namespace
}  // namespace nova::secrets
