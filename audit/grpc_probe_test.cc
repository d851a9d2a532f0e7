// The checks of P0-1 and P0-4 against servers that keep the promise and servers that break it.
#include "audit/grpc_probe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/probe_fixture.h"

namespace nova::audit {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;
using Status = Row::Status;
using tests::ExpectAll;

class GrpcProbeTest : public tests::ProbeFixture {};

TEST_F(GrpcProbeTest, AServiceThatKeepsThePromisesPasses) {
  Serve(Mtls().ServerCredentials("identity"));
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

TEST_F(GrpcProbeTest, HandshakesAreTimedByTheServerToo) {
  Serve(Mtls().ServerCredentials("identity"));
  const Finding p95 = probe_->HandshakeAsServersSaw();
  ASSERT_NE(p95.status, Status::kNotMeasured) << p95.note;
  EXPECT_THAT(p95.value, StartsWith("<= "));
  EXPECT_THAT(p95.note, StartsWith("slowest identity; 2"));
}

TEST_F(GrpcProbeTest, APlaintextServerHasNoHandshakeToTime) {
  Serve(tls::MakePlaintextServerCredentials(), false);
  EXPECT_EQ(probe_->HandshakeP95().status, Status::kNotMeasured);
  EXPECT_EQ(probe_->HandshakeAsServersSaw().status, Status::kNotMeasured);
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
