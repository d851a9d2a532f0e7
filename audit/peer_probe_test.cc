// Bad peers against a server that keeps the promise and against servers that break it, each in one way.
#include "audit/peer_probe.h"

#include <fstream>
#include <gmock/gmock.h>
#include <grpcpp/security/server_credentials.h>
#include <gtest/gtest.h>
#include <sstream>

#include "tests/probe_fixture.h"

namespace nova::audit {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using Status = Row::Status;
using tests::ExpectAll;

std::string ReadAll(const std::filesystem::path& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

class PeerProbeTest : public tests::ProbeFixture {
 protected:
  std::string Scraped() override { return scraped_ ? scraped_() : tests::ProbeFixture::Scraped(); }

  // gRPC's plain credentials, as one would make them without this chassis.
  static std::shared_ptr<grpc::ServerCredentials> PlainCredentials(grpc_ssl_client_certificate_request_type request) {
    const auto leaf = Mtls().Leaf("identity");
    grpc::SslServerCredentialsOptions options(request);
    options.pem_root_certs = ReadAll(leaf / "ca.crt");
    options.pem_key_cert_pairs = {{.private_key = ReadAll(leaf / "tls.key"), .cert_chain = ReadAll(leaf / "tls.crt")}};
    return grpc::SslServerCredentials(options);
  }

  PeerProbe& Peers() {
    if (!peers_) peers_.emplace(runtime_, config_, *probe_);
    return *peers_;
  }

  std::function<std::string()> scraped_;
  std::optional<PeerProbe> peers_;
};

TEST_F(PeerProbeTest, AServerThatKeepsThePromiseRefusesAndCountsEveryKind) {
  Serve(Mtls().ServerCredentials("identity"));
  for (int i = 0; i < kBadPeerCount; ++i) {
    const auto peer = static_cast<BadPeer>(i);
    if (peer == BadPeer::kWithdrawnCa) continue;
    const Finding finding = Peers().Refused(peer);
    SCOPED_TRACE(i);
    ExpectAll(finding);
    EXPECT_THAT(finding.note, HasSubstr("1 each under " + std::string(tls::HandshakeErrorName(ReasonFor(peer)))));
  }
}

TEST_F(PeerProbeTest, AnAuthorityThatNobodyKnowsIsAsGoodAsAWithdrawnOne) {
  Serve(Mtls().ServerCredentials("identity"));
  EXPECT_THAT(Peers().WithdrawnRefused({}).note, HasSubstr("run it with --faults"));
  tests::MtlsFixture other;
  (void)other.Leaf("audit");
  const auto keys = ReadAuthorityKeys(other.directory() / "ca");
  ASSERT_TRUE(keys.ok()) << keys.error().ToString();
  const auto former = MadeApproach(*keys);
  ASSERT_TRUE(former.ok());
  const Finding finding = Peers().WithdrawnRefused(*former);
  ExpectAll(finding);
  EXPECT_THAT(finding.note, StartsWith("1 each under certificate_rejected_unknown_ca"));
}

TEST_F(PeerProbeTest, WithoutTheAuthorityOnlyWhatNeedsItsKeyIsNotMeasured) {
  Serve(Mtls().ServerCredentials("identity"));
  config_.authority.clear();
  ExpectAll(Peers().Refused(BadPeer::kSelfSigned));
  const Finding finding = Peers().Refused(BadPeer::kExpired);
  EXPECT_EQ(finding.status, Status::kNotMeasured);
  EXPECT_THAT(finding.note, HasSubstr("the key of the authority is not at hand"));
}

TEST_F(PeerProbeTest, AnotherStacksAuthorityProvesNothing) {
  Serve(Mtls().ServerCredentials("identity"));
  tests::MtlsFixture other;
  (void)other.Leaf("audit");
  config_.authority = other.directory() / "ca";
  const Finding finding = Peers().Refused(BadPeer::kExpired);
  EXPECT_EQ(finding.status, Status::kNotMeasured);
  EXPECT_THAT(finding.note, HasSubstr("refused by identity with a faultless certificate made for it"));
}

TEST_F(PeerProbeTest, APlaintextServerFails) {
  Serve(tls::MakePlaintextServerCredentials(), false);
  const Finding finding = Peers().Refused(BadPeer::kPlaintext);
  EXPECT_NE(finding.status, Status::kPass);
  EXPECT_THAT(finding.note, HasSubstr("the same client is refused by identity with the audit's own certificate"));
}

TEST_F(PeerProbeTest, AServerThatOnlyAsksForACertificateFails) {
  Serve(PlainCredentials(GRPC_SSL_REQUEST_CLIENT_CERTIFICATE_AND_VERIFY));
  const Finding finding = Peers().Refused(BadPeer::kNoCertificate);
  EXPECT_EQ(finding.status, Status::kFail);
  EXPECT_EQ(finding.value, "0 of 1");
  EXPECT_EQ(finding.note, "identity: it is served");
}

TEST_F(PeerProbeTest, AServerThatTakesAnyAuthorityFails) {
  Serve(PlainCredentials(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_BUT_DONT_VERIFY));
  for (const BadPeer peer : {BadPeer::kUnknownCa, BadPeer::kSelfSigned, BadPeer::kExpired}) {
    const Finding finding = Peers().Refused(peer);
    EXPECT_EQ(finding.status, Status::kFail);
    EXPECT_EQ(finding.note, "identity: it is served");
  }
}

TEST_F(PeerProbeTest, AServerThatDoesNotLookAtTheNameFails) {
  Serve(PlainCredentials(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY));
  ExpectAll(Peers().Refused(BadPeer::kUnknownCa));
  EXPECT_EQ(Peers().Refused(BadPeer::kWrongName).note, "identity: it is served");
}

TEST_F(PeerProbeTest, ARefusalThatIsNotCountedRightFails) {
  Serve(Mtls().ServerCredentials("identity"));
  int looks = 0;
  scraped_ = [&looks] {
    return "nova_tls_handshake_errors_total{side=\"server\",reason=\"protocol\"} " + std::to_string(looks++) + "\n";
  };
  const Finding wrong = Peers().Refused(BadPeer::kNoCertificate);
  EXPECT_EQ(wrong.status, Status::kFail);
  EXPECT_THAT(wrong.note, AllOf(HasSubstr("under protocol, not 1 under no_client_certificate")));
  scraped_ = [] { return std::string("nova_other 1\n"); };
  const Finding none = Peers().Refused(BadPeer::kNoCertificate);
  EXPECT_EQ(none.note, "identity: counted nothing, not 1 under no_client_certificate");
}

}  // namespace
}  // namespace nova::audit
