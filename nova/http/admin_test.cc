#include "nova/http/admin.h"

#include <atomic>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "nova/http/client.h"
#include "nova/http/test_peer.h"
#include "nova/telemetry/metrics.h"

namespace nova::http {
namespace {

using runtime::Call;
using runtime::Task;
using testing::HasSubstr;

class AdminTest : public testing::Test {
 protected:
  AdminTest() {
    metrics_.Counter("nova_admin_test_total", "For this test").Increment(7);
    server_ = MakeAdminServer(runtime_, {.port = 0},
                              {.scrape = [this] { return metrics_.Scrape(); },
                               .readiness = [this] { return Readiness{.ok = ready_, .json = R"({"database":"?"})"}; },
                               .status = [] { return std::string(R"({"service":"identity"})"); }});
    const auto started = server_->Start();
    EXPECT_TRUE(started) << started.error().message();
  }
  ~AdminTest() override { EXPECT_TRUE(server_->Stop(kPeerLimit)); }

  Response Get(std::string path) {
    auto response = runtime_.RunBlocking<Response>(kPeerLimit, [&](Call& call) -> Task<Response> {
      const Client client(admin_port_);
      co_return co_await client.Get(call, "127.0.0.1", server_->port(), path);
    });
    EXPECT_TRUE(response) << response.error().ToString();
    return response ? *std::move(response) : Response{.status = 0};
  }

  runtime::Runtime runtime_{{.threads = 2}};
  telemetry::Metrics metrics_;
  resilience::HttpDependency admin_port_{"admin_port", metrics_};
  std::atomic<bool> ready_ = true;
  std::unique_ptr<Server> server_;
};

TEST_F(AdminTest, MetricsArePrometheusText) {
  const Response response = Get("/metrics");
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.content_type, "text/plain; version=0.0.4; charset=utf-8");
  EXPECT_THAT(response.body, HasSubstr("nova_admin_test_total 7\n"));
}

TEST_F(AdminTest, ReadinessFollowsItsSourceAndLivenessDoesNot) {
  EXPECT_EQ(Get("/readyz").status, 200);
  ready_ = false;
  const Response response = Get("/readyz");
  EXPECT_EQ(response.status, 503);
  EXPECT_EQ(response.content_type, "application/json");
  EXPECT_EQ(response.body, R"({"database":"?"})");
  EXPECT_EQ(Get("/livez").status, 200) << "a lost dependency must not get the process killed";
}

TEST_F(AdminTest, StatusIsJsonThatNoCacheKeeps) {
  const Response response = Get("/statusz");
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.content_type, "application/json");
  EXPECT_EQ(response.headers.Get("Cache-Control"), "no-store");
  EXPECT_EQ(response.body, R"({"service":"identity"})");
}

TEST_F(AdminTest, TheErrorForATakenPortNamesItsSetting) {
  const auto second = MakeAdminServer(runtime_, {.port = server_->port()}, {});
  const auto started = second->Start();
  ASSERT_FALSE(started);
  EXPECT_THAT(started.error().message(), HasSubstr("--admin-port (NOVA_ADMIN_PORT)"));
}

TEST(AdminConfig, IsBoundToItsNames) {
  AdminConfig admin;
  config::Config config({.args = {"--admin-port=0"}, .environment = {{"NOVA_ADMIN_ADDRESS", "0.0.0.0"}}});
  Bind(config, admin);
  EXPECT_TRUE(config.Finish());
  EXPECT_EQ(admin.port, 0);
  EXPECT_EQ(admin.address, "0.0.0.0");
}

}  // namespace
}  // namespace nova::http
