// For the tests of audit/: a service as the audit sees it, in this process: its health over mTLS, and its admin
// port with its metrics.
#pragma once

#include <atomic>
#include <gtest/gtest.h>
#include <memory>
#include <optional>
#include <string>

#include "audit/audit.h"
#include "audit/grpc_probe.h"
#include "nova/health/monitor.h"
#include "nova/health/service.h"
#include "nova/http/admin.h"
#include "nova/rpc/server.h"
#include "nova/tls/handshakes.h"
#include "nova/tls/protocol.h"
#include "tests/mtls_fixture.h"

namespace nova::tests {

class ProbeFixture : public ::testing::Test {
 protected:
  ProbeFixture() {
    const auto required = tls::RequireTls13();
    if (!required) ADD_FAILURE() << required.error().ToString();
    monitor_.AddHard("postgres", [this](runtime::Call&) -> runtime::Task<void> {
      if (!healthy_) co_return Unavailable("down for the test");
      co_return Ok();
    });
  }

  ~ProbeFixture() override {
    probe_.reset();
    server_.reset();
    if (admin_) EXPECT_TRUE(admin_->Stop(std::chrono::seconds(10)).ok());
    EXPECT_TRUE(scope_.Stop(std::chrono::seconds(10)).ok());
  }

  static MtlsFixture& Mtls() {
    static MtlsFixture mtls;
    return mtls;
  }

  // The service identity. `mtls`: of whom the audit has its certificate.
  void Serve(std::shared_ptr<grpc::ServerCredentials> credentials, bool authorize_peers = true,
             const std::string& service = "nova.identity.v2.IdentityService", MtlsFixture& mtls = Mtls()) {
    using std::chrono::seconds;
    monitor_.Start(scope_);
    const auto decided = runtime_.RunBlocking<void>(seconds(20), [this](runtime::Call& call) -> runtime::Task<void> {
      for (auto snapshot = monitor_.Get(); snapshot.serving != healthy_;) {
        NOVA_CO_TRY(snapshot, co_await monitor_.Changed(call, snapshot.version));
      }
      co_return Ok();
    });
    ASSERT_TRUE(decided.ok());
    rpc::ServerSecurity security;
    security.credentials = std::move(credentials);
    security.stack.authorize_peers = authorize_peers;
    server_.emplace(runtime_, metrics_, rpc::ServerConfig{.address = "127.0.0.1", .port = 0, .drain_limit = seconds(1)},
                    security);
    server_->Add(health::MakeHealthService(monitor_, {service}));
    const auto started = server_->Start();
    ASSERT_TRUE(started.ok()) << started.error().ToString();

    admin_ = http::MakeAdminServer(
        runtime_, {.port = 0},
        {.scrape = [this] { return Scraped(); },
         .readiness = [this] { return http::Readiness{.ok = monitor_.serving(), .json = monitor_.Get().ToJson()}; },
         .status = [] { return std::string("{}"); }});
    const auto admin_started = admin_->Start();
    ASSERT_TRUE(admin_started.ok()) << admin_started.error().ToString();

    const auto leaf = mtls.Leaf("audit");
    config_.identity = {
        .server_ca_path = leaf / "ca.crt", .certificate_path = leaf / "tls.crt", .key_path = leaf / "tls.key"};
    config_.authority = mtls.directory() / "ca";
    config_.services = {{.name = "identity",
                         .grpc_target = "127.0.0.1:" + std::to_string(server_->port()),
                         .admin_target = "127.0.0.1:" + std::to_string(admin_->port())}};
    config_.handshake_samples = 20;
    auto probe = audit::GrpcProbe::Create(runtime_, config_);
    ASSERT_TRUE(probe.ok()) << probe.error().ToString();
    probe_ = *std::move(probe);
  }

  // What the service says on /metrics.
  virtual std::string Scraped() { return metrics_.Scrape(); }

  std::atomic<bool> healthy_ = true;
  runtime::Runtime runtime_;
  runtime::Scope scope_{runtime_};
  telemetry::Metrics metrics_;
  // Of both ends, which it tells apart.
  tls::HandshakeObserver observer_{metrics_, {}};
  // It looks ten times as often as a service's, because tests wait for it.
  health::Monitor monitor_{metrics_, {.period = std::chrono::milliseconds(100)}};
  std::optional<rpc::Server> server_;
  std::unique_ptr<http::Server> admin_;
  audit::AuditConfig config_;
  std::unique_ptr<audit::GrpcProbe> probe_;
};

inline void ExpectAll(const audit::Finding& finding) {
  EXPECT_EQ(finding.status, audit::Row::Status::kPass) << finding.value << ": " << finding.note;
  EXPECT_EQ(finding.value, "1 of 1");
}

}  // namespace nova::tests
