// Rotations of a service of this process, done well and badly.
#include "audit/rotation_probe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "audit/peer_probe.h"
#include "nova/tls/authority.h"
#include "tests/probe_fixture.h"

namespace nova::audit {
namespace {

using std::chrono::seconds;
using ::testing::HasSubstr;
using Status = Row::Status;
using tests::ExpectAll;

// Until every process has taken up what lies in its files and uses it: the publishers look once a second, and their
// users a moment later, of which nobody is told. The rest is for a busy machine.
constexpr Duration kTakenUp = seconds(1) + tls::kHandshakesFollowWithin + seconds(2);

// Of a leaf that has to be renewed; long enough for a busy machine.
constexpr seconds kShortLife{20};

class RotationProbeTest : public tests::ProbeFixture {
 protected:
  ~RotationProbeTest() override {
    // It refers to the publisher.
    server_.reset();
    EXPECT_TRUE(watch_.Stop(seconds(5)).ok());
  }

  // An authority of its own, because it is replaced.
  void ServeRotating() {
    const auto leaf = mtls_.Leaf("identity");
    auto publisher =
        tls::IdentityPublisher::Create({.files = {.certificate = {.path = leaf / "tls.crt", .variable = ""},
                                                  .key = {.path = leaf / "tls.key", .variable = ""},
                                                  .ca = {.path = leaf / "ca.crt", .variable = ""}},
                                        .usage = tls::Usage::kServer},
                                       Clock::System(), metrics_);
    ASSERT_TRUE(publisher.ok()) << publisher.error().ToString();
    publisher_ = *std::move(publisher);
    publisher_->Watch(watch_);
    Serve(tls::MakeServerCredentials(*publisher_, tls::ClientCertificate::kRequired), true,
          "nova.identity.v2.IdentityService", mtls_);
  }

  Result<void> Issue(seconds lifetime = std::chrono::days(90)) {
    NOVA_TRY(tls::Authority authority, tls::Authority::Load(mtls_.directory() / "ca", Clock::System()));
    for (const char* principal : {"identity", "audit"})
      NOVA_TRY(authority.Issue({.principal = principal, .lifetime = lifetime}, mtls_.directory() / principal));
    return Ok();
  }

  // One step of replacing the authority, and what every set needs then.
  Result<void> Step(Result<void> (tls::Authority::*step)(), bool issue) {
    {
      NOVA_TRY(tls::Authority authority, tls::Authority::Load(mtls_.directory() / "ca", Clock::System()));
      NOVA_TRY((authority.*step)());
      for (const char* principal : {"identity", "audit"}) {
        const tls::LeafSpec spec{.principal = principal};
        NOVA_TRY(issue ? authority.Issue(spec, mtls_.directory() / principal)
                       : authority.IssueTrust(spec, mtls_.directory() / principal));
      }
    }
    return runtime_.RunBlocking<void>(Duration::max(),
                                      [](runtime::Call& call) { return runtime::Sleep(call, kTakenUp); });
  }

  tests::MtlsFixture mtls_;
  runtime::Scope watch_{runtime_};
  std::unique_ptr<tls::IdentityPublisher> publisher_;
};

TEST_F(RotationProbeTest, NobodyNoticesLeavesThatAreReplaced) {
  ServeRotating();
  int rotations = 0;
  config_.rotate_leaves = [&]() -> Result<void> {
    ++rotations;
    return Issue();
  };
  RotationProbe probe(runtime_, config_);
  const Finding finding = probe.FailedWhileLeavesRotate();
  EXPECT_EQ(finding.status, Status::kPass) << finding.value << ": " << finding.note;
  EXPECT_EQ(finding.value, "0");
  EXPECT_EQ(rotations, RotationProbe::kLeafRotations);
  EXPECT_THAT(finding.note, HasSubstr("3 rotations of "));
  EXPECT_THAT(finding.note, HasSubstr("4 streams open"));
  EXPECT_THAT(finding.note, HasSubstr("; 0 handshakes that the servers saw failing"));
}

TEST_F(RotationProbeTest, ARotationThatDoesNotHappenFails) {
  ServeRotating();
  config_.rotate_leaves = [] { return Ok(); };
  RotationProbe probe(runtime_, config_);
  const Finding finding = probe.FailedWhileLeavesRotate();
  EXPECT_EQ(finding.status, Status::kFail);
  EXPECT_THAT(finding.note, HasSubstr("identity still shows its former certificate"));
}

TEST_F(RotationProbeTest, NobodyNoticesAnAuthorityThatIsReplacedAndNobodyTrustsTheFormer) {
  ServeRotating();
  config_.rotate_authority = [&]() -> Result<void> {
    NOVA_TRY(Step(&tls::Authority::IntroduceNext, false));
    NOVA_TRY(Step(&tls::Authority::SignWithNext, true));
    return Step(&tls::Authority::WithdrawFormer, false);
  };
  RotationProbe probe(runtime_, config_);
  PeerProbe peers(runtime_, config_, *probe_);
  EXPECT_FALSE(probe.former().has_value());
  const Finding finding = probe.FailedWhileAuthorityRotates();
  EXPECT_EQ(finding.status, Status::kPass) << finding.value << ": " << finding.note;
  EXPECT_EQ(finding.value, "0");
  ASSERT_TRUE(probe.former().has_value());
  ExpectAll(peers.WithdrawnRefused(probe.former()));
  // The probes that were there before have followed.
  ExpectAll(probe_->ProcessServing());
}

TEST_F(RotationProbeTest, AnAuthorityThatSignsBeforeItIsTrustedFails) {
  ServeRotating();
  config_.rotate_authority = [&]() -> Result<void> {
    std::error_code ignored;
    std::filesystem::remove_all(mtls_.directory() / "ca", ignored);
    {
      NOVA_TRY(tls::Authority::Create(mtls_.directory() / "ca", Clock::System()));
    }
    NOVA_TRY(tls::Authority authority, tls::Authority::Load(mtls_.directory() / "ca", Clock::System()));
    NOVA_TRY(authority.Issue({.principal = "identity"}, mtls_.directory() / "identity"));
    (void)publisher_->Check();
    NOVA_TRY(runtime_.RunBlocking<void>(Duration::max(),
                                        [](runtime::Call& call) { return runtime::Sleep(call, kTakenUp); }));
    return authority.Issue({.principal = "audit"}, mtls_.directory() / "audit");
  };
  RotationProbe probe(runtime_, config_);
  const Finding finding = probe.FailedWhileAuthorityRotates();
  EXPECT_EQ(finding.status, Status::kFail);
  EXPECT_THAT(finding.note, HasSubstr("first failure: identity, newly connected: UNAVAILABLE"));
  EXPECT_GT(std::stoi(finding.value), 0);
}

TEST_F(RotationProbeTest, AnExpiringLeafThatIsRenewedPasses) {
  ServeRotating();
  config_.shorten_leaf = [&](const std::string& service, seconds left) -> Result<void> {
    EXPECT_EQ(service, "identity");
    NOVA_TRY(Issue(left));
    watch_.Spawn("renews", [&](runtime::Call& call) -> runtime::Task<void> {
      NOVA_CO_TRY(co_await runtime::Sleep(call, kTakenUp));
      co_return Issue();
    });
    return Ok();
  };
  RotationProbe probe(runtime_, config_, kShortLife);
  const Finding finding = probe.ExpiringAreRenewed();
  ExpectAll(finding);
  EXPECT_THAT(finding.note, HasSubstr("renewed after "));
}

TEST_F(RotationProbeTest, ALeafThatWasNeverInUseProvesNothing) {
  ServeRotating();
  config_.shorten_leaf = [&](const std::string&, seconds) { return Issue(); };
  RotationProbe probe(runtime_, config_, kShortLife);
  const Finding finding = probe.ExpiringAreRenewed();
  EXPECT_EQ(finding.status, Status::kNotMeasured);
  EXPECT_THAT(finding.note, HasSubstr("identity: the short-lived leaf was never in use"));
}

TEST_F(RotationProbeTest, AnExpiringLeafThatIsNotRenewedFails) {
  ServeRotating();
  config_.shorten_leaf = [&](const std::string&, seconds left) { return Issue(left); };
  RotationProbe probe(runtime_, config_, kShortLife);
  const Finding finding = probe.ExpiringAreRenewed();
  EXPECT_EQ(finding.status, Status::kFail);
  EXPECT_EQ(finding.value, "0 of 1");
  EXPECT_THAT(finding.note, HasSubstr("identity: not renewed before the end of the leaf"));
  EXPECT_THAT(finding.note, HasSubstr("the short-lived leaf itself was seen on 1 ports"));
}

TEST_F(RotationProbeTest, WithoutAHandOnTheStackNothingIsMeasured) {
  ServeRotating();
  RotationProbe probe(runtime_, config_);
  for (const Finding& finding :
       {probe.FailedWhileLeavesRotate(), probe.FailedWhileAuthorityRotates(), probe.ExpiringAreRenewed()}) {
    EXPECT_EQ(finding.status, Status::kNotMeasured);
    EXPECT_THAT(finding.note, HasSubstr("not a `nova up` of this host"));
  }
}

}  // namespace
}  // namespace nova::audit
