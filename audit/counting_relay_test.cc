#include "audit/counting_relay.h"

#include <atomic>
#include <gtest/gtest.h>

#include "audit/callers.h"
#include "tests/eventually.h"

namespace nova::audit {
namespace {

using runtime::Call;
using runtime::Task;
using std::chrono::seconds;

class CountingRelayTest : public ::testing::Test {
 protected:
  CountingRelayTest() {
    upstream_.Handle("POST", "/", [this](Call&, const http::Request& request) -> Task<http::Response> {
      {
        const std::lock_guard lock(mutex_);
        received_ = request;
      }
      ++answered_;
      co_return http::Response{.status = 400, .content_type = "application/x-amz-json-1.1", .body = R"({"a":1})"};
    });
    if (const auto started = upstream_.Start(); !started) throw std::runtime_error(started.error().ToString());
  }
  ~CountingRelayTest() override { EXPECT_TRUE(upstream_.Stop(seconds(5))); }

  std::unique_ptr<CountingRelay> Relay(std::function<bool()> may_answer = {}) {
    auto relay = CountingRelay::Start(
        runtime_, {.upstream = {.host = "127.0.0.1", .port = upstream_.port()}, .may_answer = std::move(may_answer)});
    if (!relay) throw std::runtime_error(relay.error().ToString());
    return *std::move(relay);
  }

  Task<http::Response> Ask(Call& call, const CountingRelay& relay) {
    NOVA_CO_TRY(const http::Origin origin, http::ParseOrigin(relay.endpoint()));
    co_return co_await http_.Send(call, origin,
                                  {.method = "POST",
                                   .path = "/",
                                   .headers = {{"Host", "signed.example"},
                                               {"X-Amz-Target", "secretsmanager.GetSecretValue"},
                                               {"X-Amz-Date", "20260101T000000Z"},
                                               {"Authorization", "AWS4-HMAC-SHA256 x"},
                                               {"Content-Type", "application/x-amz-json-1.1"}},
                                   .body = R"({"SecretId":"x"})"},
                                  resilience::Idempotency::kNone);
  }

  runtime::Runtime runtime_;
  telemetry::Metrics metrics_;
  resilience::HttpDependency dependency_{"relay", metrics_, resilience::ForProbes(resilience::Kind::kHttp)};
  http::Client http_{dependency_};
  http::Server upstream_{runtime_, {}};
  std::atomic<int> answered_ = 0;
  std::mutex mutex_;
  http::Request received_;
};

TEST_F(CountingRelayTest, PassesOnWhatWasSignedAndCountsIt) {
  const auto relay = Relay();
  for (int i = 1; i <= 3; ++i) {
    const auto answer =
        runtime_.RunBlocking<http::Response>(seconds(10), [&](Call& call) { return Ask(call, *relay); });
    ASSERT_TRUE(answer) << answer.error().ToString();
    EXPECT_EQ(answer->status, 400);
    EXPECT_EQ(answer->content_type, "application/x-amz-json-1.1");
    EXPECT_EQ(answer->body, R"({"a":1})");
    EXPECT_EQ(relay->Count("GetSecretValue"), i);
  }
  EXPECT_EQ(relay->Count("PutSecretValue"), 0);
  EXPECT_EQ(answered_, 3);
  EXPECT_EQ(received_.headers.Get("Host"), "signed.example");
  EXPECT_EQ(received_.headers.Get("X-Amz-Target"), "secretsmanager.GetSecretValue");
  EXPECT_EQ(received_.headers.Get("X-Amz-Date"), "20260101T000000Z");
  EXPECT_EQ(received_.headers.Get("Authorization"), "AWS4-HMAC-SHA256 x");
  EXPECT_EQ(received_.body, R"({"SecretId":"x"})");
}

TEST_F(CountingRelayTest, HoldsTheAnswerBackAndCountsBefore) {
  std::atomic<bool> may_answer = false;
  const auto relay = Relay([&] { return may_answer.load(); });
  const Timing timing(runtime_, seconds(10), [&](Call& call) -> Task<void> {
    NOVA_CO_TRY(co_await Ask(call, *relay));
    co_return Ok();
  });
  ASSERT_TRUE(tests::Eventually([&] { return relay->Count("GetSecretValue") == 1; }));
  EXPECT_EQ(answered_, 0);
  may_answer = true;
  ASSERT_TRUE(tests::Eventually([&] { return timing.ended().has_value(); }));
  EXPECT_TRUE(timing.ended()->outcome);
  EXPECT_EQ(answered_, 1);
}

}  // namespace
}  // namespace nova::audit
