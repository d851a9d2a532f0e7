// The checks of P0-1 and P0-4 against servers that keep the promise and servers that break it.
#include "audit/grpc_probe.h"

#include <fstream>
#include <gmock/gmock.h>
#include <grpcpp/security/server_credentials.h>
#include <gtest/gtest.h>
#include <sstream>

#include "nova/health/service.h"
#include "nova/http/admin.h"
#include "tests/mtls_fixture.h"

namespace nova::audit {
namespace {

using std::chrono::seconds;
using ::testing::HasSubstr;
using Status = Row::Status;

std::string ReadAll(const std::filesystem::path& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

class GrpcProbeTest : public ::testing::Test {
 protected:
  GrpcProbeTest() {
    monitor_.AddHard("postgres", [this](runtime::Call&) -> runtime::Task<void> {
      if (!healthy_) co_return Unavailable("down for the test");
      co_return Ok();
    });
  }

  ~GrpcProbeTest() override {
    probe_.reset();
    server_.reset();
    if (admin_) EXPECT_TRUE(admin_->Stop(seconds(10)).ok());
    EXPECT_TRUE(scope_.Stop(seconds(10)).ok());
  }

  static tests::MtlsFixture& Mtls() {
    static tests::MtlsFixture mtls;
    return mtls;
  }

  // The identity service as the audit sees it: its health and its admin port.
  void Serve(std::shared_ptr<grpc::ServerCredentials> credentials, bool authorize_peers = true,
             const std::string& service = "nova.identity.v2.IdentityService") {
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
        {.scrape = [] { return std::string(); },
         .readiness = [this] { return http::Readiness{.ok = monitor_.serving(), .json = monitor_.Get().ToJson()}; },
         .status = [] { return std::string("{}"); }});
    const auto admin_started = admin_->Start();
    ASSERT_TRUE(admin_started.ok()) << admin_started.error().ToString();

    const auto leaf = Mtls().Leaf("audit");
    config_.identity = {
        .server_ca_path = leaf / "ca.crt", .certificate_path = leaf / "tls.crt", .key_path = leaf / "tls.key"};
    config_.services = {{.name = "identity",
                         .grpc_target = "127.0.0.1:" + std::to_string(server_->port()),
                         .admin_target = "127.0.0.1:" + std::to_string(admin_->port())}};
    config_.handshake_samples = 20;
    auto probe = GrpcProbe::Create(runtime_, config_);
    ASSERT_TRUE(probe.ok()) << probe.error().ToString();
    probe_ = *std::move(probe);
  }

  bool healthy_ = true;
  runtime::Runtime runtime_;
  runtime::Scope scope_{runtime_};
  telemetry::Metrics metrics_;
  health::Monitor monitor_{metrics_, {}};
  std::optional<rpc::Server> server_;
  std::unique_ptr<http::Server> admin_;
  AuditConfig config_;
  std::unique_ptr<GrpcProbe> probe_;
};

void ExpectAll(const Finding& finding) {
  EXPECT_EQ(finding.status, Status::kPass) << finding.note;
  EXPECT_EQ(finding.value, "1 of 1");
}

TEST_F(GrpcProbeTest, AServiceThatKeepsThePromisesPasses) {
  Serve(Mtls().ServerCredentials("identity"));
  ExpectAll(probe_->PlaintextRefused());
  ExpectAll(probe_->NoCertificateRefused());
  ExpectAll(probe_->ForeignAuthorityRefused());
  ExpectAll(probe_->WrongNameRefused());
  ExpectAll(probe_->ProcessServing());
  ExpectAll(probe_->ServicesServing());
  ExpectAll(probe_->WatchAnswers());
  ExpectAll(probe_->AdminAnswers());
}

TEST_F(GrpcProbeTest, HandshakesAreTimedAgainstPlaintextInOneRun) {
  Serve(Mtls().ServerCredentials("identity"));
  // How long they take here is not a matter of right or wrong; that both figures come from real samples is.
  const Finding p95 = probe_->HandshakeP95();
  ASSERT_NE(p95.status, Status::kNotMeasured) << p95.note;
  const Finding over = probe_->HandshakeOverPlaintext();
  ASSERT_NE(over.status, Status::kNotMeasured) << over.note;
  EXPECT_GT(std::stod(p95.value), 0.0);
  EXPECT_LT(std::stod(over.value), std::stod(p95.value));
  EXPECT_THAT(p95.note, HasSubstr("20 samples per service; slowest identity: p50 "));
  EXPECT_THAT(over.note, HasSubstr("plaintext p50 "));
}

TEST_F(GrpcProbeTest, APlaintextServerFailsThePlaintextCheck) {
  Serve(tls::MakePlaintextServerCredentials(), false);
  const Finding finding = probe_->PlaintextRefused();
  EXPECT_EQ(finding.status, Status::kFail);
  EXPECT_EQ(finding.value, "0 of 1");
  EXPECT_EQ(finding.note, "identity: it answers plaintext HTTP/2");
  EXPECT_EQ(probe_->HandshakeP95().status, Status::kNotMeasured);
}

TEST_F(GrpcProbeTest, AServerThatOnlyAsksForACertificateFails) {
  const auto leaf = Mtls().Leaf("identity");
  const auto publisher =
      tls::IdentityPublisher::Create({.files = {.certificate = {.path = leaf / "tls.crt", .variable = ""},
                                                .key = {.path = leaf / "tls.key", .variable = ""},
                                                .ca = {.path = leaf / "ca.crt", .variable = ""}},
                                      .usage = tls::Usage::kServer},
                                     Clock::System(), metrics_);
  ASSERT_TRUE(publisher.ok());
  // It refuses the call, but only after it has read it.
  Serve(tls::MakeServerCredentials(**publisher, tls::ClientCertificate::kOptional));
  ExpectAll(probe_->PlaintextRefused());
  const Finding finding = probe_->NoCertificateRefused();
  EXPECT_EQ(finding.status, Status::kFail) << finding.note;
  EXPECT_THAT(finding.note, HasSubstr("identity: it answers"));
  server_.reset();
}

TEST_F(GrpcProbeTest, AServerThatTakesAnyAuthorityFails) {
  const auto leaf = Mtls().Leaf("identity");
  grpc::SslServerCredentialsOptions options(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_BUT_DONT_VERIFY);
  options.pem_root_certs = ReadAll(leaf / "ca.crt");
  options.pem_key_cert_pairs = {{.private_key = ReadAll(leaf / "tls.key"), .cert_chain = ReadAll(leaf / "tls.crt")}};
  Serve(grpc::SslServerCredentials(options));
  const Finding finding = probe_->ForeignAuthorityRefused();
  EXPECT_EQ(finding.status, Status::kFail) << finding.note;
  EXPECT_THAT(finding.note, HasSubstr("identity: it answers"));
}

TEST_F(GrpcProbeTest, AServerThatHoldsAnotherCertificateFails) {
  Serve(Mtls().ServerCredentials("operator"));
  const Finding finding = probe_->WrongNameRefused();
  EXPECT_EQ(finding.status, Status::kFail);
  EXPECT_EQ(finding.note, "identity: a channel to 'operator' accepts it");
}

TEST_F(GrpcProbeTest, ALostDependencyFailsHealth) {
  healthy_ = false;
  Serve(Mtls().ServerCredentials("identity"));
  for (const Finding& finding : {probe_->ProcessServing(), probe_->ServicesServing(), probe_->WatchAnswers()}) {
    EXPECT_EQ(finding.status, Status::kFail);
    EXPECT_EQ(finding.note, "identity: NOT_SERVING");
  }
  const Finding admin = probe_->AdminAnswers();
  EXPECT_EQ(admin.status, Status::kFail);
  EXPECT_EQ(admin.note, "identity: /readyz answers 503");
}

TEST_F(GrpcProbeTest, AServiceThatDoesNotKnowItsOwnNameFails) {
  Serve(Mtls().ServerCredentials("identity"), true, "nova.user.v2.UserService");
  ExpectAll(probe_->ProcessServing());
  const Finding check = probe_->ServicesServing();
  EXPECT_EQ(check.status, Status::kFail);
  EXPECT_THAT(check.note, HasSubstr("NOT_FOUND"));
  const Finding watch = probe_->WatchAnswers();
  EXPECT_EQ(watch.status, Status::kFail);
  EXPECT_EQ(watch.note, "identity: SERVICE_UNKNOWN");
}

TEST(RpcServiceName, FollowsTheRuleOfTheContracts) {
  EXPECT_EQ(RpcServiceName("identity"), "nova.identity.v2.IdentityService");
}

}  // namespace
}  // namespace nova::audit
