// The loop against a runtime API of our own on loopback: Lambda's is only to be had inside of Lambda.
#include "nova/secrets/lambda.h"

#include <atomic>
#include <boost/json.hpp>
#include <functional>
#include <future>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "nova/http/test_peer.h"
#include "nova/runtime/runtime.h"
#include "nova/runtime/scope.h"
#include "nova/secrets/fake_aws.h"
#include "nova/telemetry/log.h"
#include "nova/telemetry/metrics.h"
#include "tests/eventually.h"

namespace nova::secrets {
namespace {

namespace json = boost::json;
using namespace std::chrono_literals;
using http::kPeerLimit;
using runtime::Call;
using runtime::Task;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

constexpr std::size_t kPayloadBytesMax = 6 * 1024 * 1024;
const std::string kNext = "/2018-06-01/runtime/invocation/next";
const std::string kInitError = "/2018-06-01/runtime/init/error";
std::string AnswerTo(const std::string& id) { return "/2018-06-01/runtime/invocation/" + id + "/response"; }
std::string ErrorOf(const std::string& id) { return "/2018-06-01/runtime/invocation/" + id + "/error"; }

Task<std::string> Echo(Call&, const Invocation& invocation) { co_return "echo of " + invocation.event; }

struct Event {
  std::string id;
  std::string text;
  std::string deadline_ms = {};
};

class LambdaTest : public testing::Test {
 protected:
  LambdaTest() {
    telemetry::InitLogging({}, [this](std::string_view line) {
      std::lock_guard lock(mutex_);
      log_ += std::string(line) + "\n";
    });
  }
  ~LambdaTest() override { telemetry::InitLogging({}); }

  // Every event is "first" or "second", so that the runtime API knows where they are answered.
  static std::vector<std::pair<std::string, std::string>> Routes() {
    std::vector<std::pair<std::string, std::string>> routes = {{"GET", kNext}, {"POST", kInitError}};
    for (const char* id : {"first", "second"}) {
      routes.emplace_back("POST", AnswerTo(id));
      routes.emplace_back("POST", ErrorOf(id));
    }
    return routes;
  }

  // Hands out these events, takes every answer with `taken`, and has gone when there are no more events.
  void HandOut(std::vector<Event> events, int taken = 202) {
    const auto next = std::make_shared<std::size_t>(0);
    api_.Answers(
        [events = std::move(events), taken, next](const http::Request& request, std::size_t) -> http::Response {
          if (request.method == "POST") return {.status = taken};
          if (*next == events.size()) return {.status = 410};
          const Event& event = events[(*next)++];
          http::Response response{.content_type = "application/json", .body = event.text};
          response.headers.Add("Lambda-Runtime-Aws-Request-Id", event.id);
          if (!event.deadline_ms.empty()) response.headers.Add("Lambda-Runtime-Deadline-Ms", event.deadline_ms);
          return response;
        });
  }

  Result<void> Serve(LambdaHandler handler, const std::string& address) {
    return runtime_.RunBlocking<void>(
        kPeerLimit, [&](Call& call) { return ServeLambda(call, http_, address, std::move(handler)); });
  }
  Result<void> Serve(LambdaHandler handler) { return Serve(std::move(handler), Address()); }
  std::string Address() const { return api_.endpoint().substr(std::string_view("http://").size()); }

  // Without the questions for events.
  std::vector<http::Request> Posted() const {
    std::vector<http::Request> posted;
    for (const http::Request& request : api_.requests()) {
      if (request.method == "POST") posted.push_back(request);
    }
    return posted;
  }
  std::string Logged() const {
    std::lock_guard lock(mutex_);
    return log_;
  }

  static resilience::DependencyConfig Policies() {
    auto policies = resilience::DependencyConfig::Default(resilience::Kind::kHttp);
    policies.timeout = kPeerLimit;
    policies.retry.tries_max = 2;
    policies.retry.budget_ratio = 1;
    policies.retry.backoff = 1ms;
    return policies;
  }

  mutable std::mutex mutex_;
  std::string log_;  // guarded by mutex_
  runtime::Runtime runtime_{{.threads = 2}};
  telemetry::Metrics metrics_;
  resilience::HttpDependency dependency_{"lambda_runtime", metrics_, Policies()};
  http::Client http_{dependency_};
  FakeAws api_{runtime_, Routes()};
};

TEST_F(LambdaTest, EventsAreAnsweredOneAfterTheOther) {
  HandOut({{"first", "{}"}, {"second", "[1]"}});
  const auto served = Serve(Echo);
  ASSERT_FALSE(served) << "the runtime API is gone";
  EXPECT_EQ(served.error().code(), Code::kUnavailable);
  EXPECT_THAT(served.error().detail(), HasSubstr("HTTP 410"));
  const auto asked = api_.requests();
  ASSERT_EQ(asked.size(), 5U);
  EXPECT_EQ(asked[0].path, kNext);
  EXPECT_EQ(asked[1].path, AnswerTo("first"));
  EXPECT_EQ(asked[1].body, "echo of {}");
  EXPECT_EQ(asked[1].headers.Get("Content-Type"), "application/json");
  EXPECT_FALSE(asked[1].headers.Has("Lambda-Runtime-Function-Error-Type"));
  EXPECT_EQ(asked[2].path, kNext);
  EXPECT_EQ(asked[3].path, AnswerTo("second"));
  EXPECT_EQ(asked[3].body, "echo of [1]");
  EXPECT_EQ(asked[4].path, kNext);
}

TEST_F(LambdaTest, TheCallEndsAtTheInvocationsDeadline) {
  const auto in = [](Duration left) {
    const auto end = (Clock::System().WallNow() + left).time_since_epoch();
    return std::to_string(std::chrono::duration_cast<std::chrono::milliseconds>(end).count());
  };
  constexpr Duration kLongest = 15min;
  const std::vector<std::tuple<std::string, Duration, Duration>> cases = {
      {in(60s), 50s, 60s},
      {in(-1s), 0s, 0s},
      {"0", 0s, 0s},
      // None at all, or nonsense: what Lambda allows at most.
      {"", kLongest - 10s, kLongest},
      {"soon", kLongest - 10s, kLongest},
      {"12x", kLongest - 10s, kLongest},
      {"-1", kLongest - 10s, kLongest},
      {in(24h), kLongest - 10s, kLongest},
      {std::to_string(std::numeric_limits<std::int64_t>::max()), kLongest - 10s, kLongest},
      {"99999999999999999999", kLongest - 10s, kLongest},
  };
  for (const auto& [deadline_ms, least, most] : cases) {
    HandOut({{"first", "{}", deadline_ms}});
    std::optional<Duration> left;
    // Here without a limit of the test's own, which would be the earlier one.
    EXPECT_FALSE(runtime_.RunBlocking<void>(Duration::max(), [&](Call& call) {
      return ServeLambda(call, http_, Address(), [&](Call& invocation, const Invocation&) -> Task<std::string> {
        left = invocation.Remaining();
        NOVA_CO_TRY(invocation.Check());
        co_return "{}";
      });
    }));
    ASSERT_TRUE(left) << deadline_ms;
    EXPECT_GE(*left, least) << deadline_ms;
    EXPECT_LE(*left, most) << deadline_ms;
    EXPECT_EQ(Posted().back().path, most == 0s ? ErrorOf("first") : AnswerTo("first")) << deadline_ms;
  }
}

TEST_F(LambdaTest, AnErrorIsToldWithoutItsDetail) {
  HandOut({{"first", "{}"}, {"second", "{}"}});
  EXPECT_FALSE(Serve([](Call& call, const Invocation& invocation) -> Task<std::string> {
    if (invocation.request_id == "first") co_return PermissionDenied("not with \"this\" role", "role MARK");
    co_return co_await Echo(call, invocation);
  }));
  const auto posted = Posted();
  ASSERT_EQ(posted.size(), 2U);
  EXPECT_EQ(posted[0].path, ErrorOf("first"));
  EXPECT_EQ(posted[0].headers.Get("Lambda-Runtime-Function-Error-Type"), "Nova.PERMISSION_DENIED");
  EXPECT_EQ(json::parse(posted[0].body),
            (json::object{{"errorType", "PERMISSION_DENIED"}, {"errorMessage", "not with \"this\" role"}}));
  EXPECT_EQ(posted[1].path, AnswerTo("second")) << "one that fails is not the last";
  EXPECT_THAT(Logged(), AllOf(HasSubstr("invocation failed"), HasSubstr("\"first\""), HasSubstr("MARK")));
}

TEST_F(LambdaTest, WhatIsLargerThanLambdaAllowsIsAnError) {
  HandOut({{"first", std::string(kPayloadBytesMax, ' ')}, {"second", std::string(kPayloadBytesMax + 1, ' ')}});
  int called = 0;
  EXPECT_FALSE(Serve([&](Call&, const Invocation& invocation) -> Task<std::string> {
    ++called;
    EXPECT_EQ(invocation.event.size(), kPayloadBytesMax);
    co_return std::string(kPayloadBytesMax + 1, ' ');
  }));
  EXPECT_EQ(called, 1);
  const auto posted = Posted();
  ASSERT_EQ(posted.size(), 2U);
  EXPECT_EQ(posted[0].path, ErrorOf("first"));
  EXPECT_THAT(posted[0].body, AllOf(HasSubstr("RESOURCE_EXHAUSTED"), HasSubstr("the answer is larger than 6 MiB")));
  EXPECT_EQ(posted[1].path, ErrorOf("second"));
  EXPECT_THAT(posted[1].body, AllOf(HasSubstr("RESOURCE_EXHAUSTED"), HasSubstr("the event is larger than 6 MiB")));
}

// For what a server of HTTP would not do. Answers requests one after the other; "" cuts the connection. Returns what it
// was asked.
std::vector<std::string> AnswerEach(http::PeerListener& listener, const std::vector<std::string>& answers) {
  std::vector<std::string> asked;
  for (const std::string& answer : answers) {
    http::Peer peer = listener.Accept();
    asked.push_back(peer.ReadMessage());
    (void)peer.Send(answer);
  }
  return asked;
}
const std::string kEvent = "HTTP/1.1 200 OK\r\nLambda-Runtime-Aws-Request-Id: a-1\r\nContent-Length: 2\r\n\r\n{}";
const std::string kTaken = "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n";
const std::string kGone = "HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n";

TEST_F(LambdaTest, AnAnswerThatIsCutOffIsPostedAgain) {
  http::PeerListener listener;
  auto asked = std::async(std::launch::async, [&] { return AnswerEach(listener, {kEvent, "", kTaken, kGone}); });
  EXPECT_FALSE(Serve(Echo, "127.0.0.1:" + std::to_string(listener.port())));
  const auto requests = asked.get();
  EXPECT_THAT(requests[1], HasSubstr("POST " + AnswerTo("a-1")));
  EXPECT_THAT(requests[2], AllOf(HasSubstr("POST " + AnswerTo("a-1")), HasSubstr("echo of {}")));
  EXPECT_THAT(Logged(), Not(HasSubstr("the answer was lost")));
}

// After the tries of the policy.
TEST_F(LambdaTest, AnAnswerThatIsLostIsLoggedAndTheNextEventIsServed) {
  http::PeerListener listener;
  auto asked =
      std::async(std::launch::async, [&] { return AnswerEach(listener, {kEvent, "", "", kEvent, kTaken, kGone}); });
  const auto served = Serve(Echo, "127.0.0.1:" + std::to_string(listener.port()));
  EXPECT_THAT(served.error().detail(), HasSubstr("HTTP 410"));
  EXPECT_THAT(asked.get()[4], HasSubstr("POST " + AnswerTo("a-1")));
  EXPECT_THAT(Logged(), AllOf(HasSubstr("the answer was lost"), HasSubstr("a-1")));
}

TEST_F(LambdaTest, AnAnswerThatIsNotTakenIsLoggedAndTheNextEventIsServed) {
  HandOut({{"first", "{}"}, {"second", "{}"}}, 400);
  EXPECT_FALSE(Serve(Echo));
  EXPECT_EQ(Posted().size(), 2U) << "to say it again would not help";
  EXPECT_THAT(Logged(), AllOf(HasSubstr("the answer was lost"), HasSubstr("HTTP 400")));
}

TEST_F(LambdaTest, ARuntimeApiThatIsBrokenForGoodEndsIt) {
  HandOut({{"first", "{}"}, {"second", "{}"}}, 500);
  const auto served = Serve(Echo);
  ASSERT_FALSE(served);
  EXPECT_EQ(served.error().code(), Code::kUnavailable);
  EXPECT_THAT(served.error().detail(), HasSubstr("HTTP 500"));
  EXPECT_EQ(api_.count(), 2U);

  http::PeerListener listener;
  listener.Close();
  const auto refused = Serve(Echo, "127.0.0.1:" + std::to_string(listener.port()));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Code::kUnavailable);
}

// Lambda has handed it out, and will not do so again.
TEST_F(LambdaTest, AnEventThatIsCutOffIsNotAskedForAgain) {
  http::PeerListener listener;
  auto asked = std::async(std::launch::async, [&] { return AnswerEach(listener, {kEvent.substr(0, 30)}); });
  const auto served = Serve(Echo, "127.0.0.1:" + std::to_string(listener.port()));
  ASSERT_FALSE(served);
  EXPECT_EQ(served.error().code(), Code::kUnavailable);
  EXPECT_EQ(asked.get().size(), 1U);
}

TEST_F(LambdaTest, AnIdThatIsNoneIsNotMadeAPath) {
  for (const std::string& id : {std::string(), std::string("../../init/error?"), std::string("a b"), std::string("a/b"),
                                std::string(129, 'a')}) {
    HandOut({{id, "{}"}});
    const auto served = Serve(Echo);
    ASSERT_FALSE(served) << id;
    EXPECT_EQ(served.error().code(), Code::kUnavailable);
    EXPECT_THAT(served.error().message(), HasSubstr("without an id"));
  }
  EXPECT_TRUE(Posted().empty());
}

TEST_F(LambdaTest, AnEventIsWaitedForBeyondTheTimeout) {
  auto policies = Policies();
  policies.timeout = 50ms;
  resilience::HttpDependency impatient("impatient", metrics_, policies);
  const http::Client http(impatient);
  http::PeerListener listener;
  std::thread server([&] {
    http::Peer peer = listener.Accept();
    (void)peer.ReadMessage();
    EXPECT_FALSE(peer.Readable(300ms)) << "it has gone";
    (void)peer.Send(kGone);
  });
  const auto served = runtime_.RunBlocking<void>(kPeerLimit, [&](Call& call) {
    return ServeLambda(call, http, "127.0.0.1:" + std::to_string(listener.port()), Echo);
  });
  server.join();
  EXPECT_THAT(served.error().detail(), HasSubstr("HTTP 410"));
}

class LambdaEndTest : public LambdaTest {
 protected:
  // Serves until `begun` is true, is stopped, and says why it ended.
  Code StopOnce(const std::function<bool()>& begun, const LambdaHandler& handler) {
    runtime::Scope scope(runtime_);
    std::promise<Code> ended;
    scope.Spawn("lambda", [&](Call& call) -> Task<void> {
      const auto served = co_await ServeLambda(call, http_, Address(), handler);
      ended.set_value(served ? Code::kOk : served.error().code());
      co_return Ok();
    });
    EXPECT_TRUE(tests::Eventually(begun));
    EXPECT_TRUE(scope.Stop(kPeerLimit));
    return ended.get_future().get();
  }
};

TEST_F(LambdaEndTest, CancellationEndsTheWaitForAnEvent) {
  api_.Hangs(true);
  EXPECT_EQ(StopOnce([&] { return api_.count() == 1; }, Echo), Code::kCancelled);
}

TEST_F(LambdaEndTest, CancellationEndsAnInvocationWithoutAnAnswer) {
  HandOut({{"first", "{}"}});
  std::atomic<bool> begun = false;
  const auto handler = [&](Call& call, const Invocation&) -> Task<std::string> {
    begun = true;
    NOVA_CO_TRY(co_await runtime::Sleep(call, 1h));
    co_return "{}";
  };
  EXPECT_EQ(StopOnce([&] { return begun.load(); }, handler), Code::kCancelled);
  EXPECT_TRUE(Posted().empty()) << "whether it failed is not known";
  EXPECT_THAT(Logged(), Not(HasSubstr("failed")));
}

TEST_F(LambdaTest, AFunctionThatCannotStartSaysWhy) {
  const auto report = [&](const std::string& address) {
    return runtime_.RunBlocking<void>(kPeerLimit, [&](Call& call) {
      return ReportInitError(call, http_, address, InvalidArgument("AWS_REGION is not set", "MARK"));
    });
  };
  HandOut({});
  EXPECT_TRUE(report(Address()));
  const auto posted = Posted();
  ASSERT_EQ(posted.size(), 1U);
  EXPECT_EQ(posted[0].path, kInitError);
  EXPECT_EQ(posted[0].headers.Get("Lambda-Runtime-Function-Error-Type"), "Nova.INVALID_ARGUMENT");
  EXPECT_EQ(json::parse(posted[0].body),
            (json::object{{"errorType", "INVALID_ARGUMENT"}, {"errorMessage", "AWS_REGION is not set"}}));

  HandOut({}, 403);
  const auto refused = report(Address());
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Code::kUnavailable);
  EXPECT_THAT(refused.error().detail(), HasSubstr("HTTP 403"));
}

TEST_F(LambdaTest, AnAddressThatIsNoneNamesTheVariable) {
  for (const char* address : {"", "a b", "http://127.0.0.1:1", "127.0.0.1:port", "127.0.0.1:1/path"}) {
    const auto served = Serve(Echo, address);
    ASSERT_FALSE(served) << address;
    EXPECT_EQ(served.error().code(), Code::kInvalidArgument);
    EXPECT_THAT(served.error().message(), HasSubstr("AWS_LAMBDA_RUNTIME_API"));
  }
}

}  // namespace
}  // namespace nova::secrets
