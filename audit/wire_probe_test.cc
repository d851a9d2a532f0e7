// Packet captures of servers of this process. They need the capability CAP_NET_RAW.
#include "audit/wire_probe.h"

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/write.hpp>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "audit/bad_peer.h"
#include "audit/capture.h"
#include "nova/rpc/client.h"
#include "tests/probe_fixture.h"

namespace nova::audit {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;
using Status = Row::Status;
using tests::ExpectAll;

class WireProbeTest : public tests::ProbeFixture {
 protected:
  void SetUp() override {
    const auto capture = Capture::Start({1}, [](const TcpSegment&) {});
    if (capture) return;
    EXPECT_EQ(capture.error().code(), Code::kPermissionDenied) << capture.error().ToString();
    EXPECT_THAT(capture.error().message(), HasSubstr("sudo setcap cap_net_raw+ep /"));
    GTEST_SKIP() << "NOT TESTED: " << capture.error().message();
  }

  Finding Look() {
    WireProbe wire(config_, *probe_);
    return wire.EveryByteIsTls();
  }

  // Some calls to the service; how many is all the same.
  Result<void> Demo() {
    for (int i = 0; i < 3; ++i) NOVA_TRY(probe_->AnswersAudit(config_.services.front()));
    return Ok();
  }
};

TEST_F(WireProbeTest, AServiceThatSpeaksTlsPasses) {
  Serve(Mtls().ServerCredentials("identity"));
  config_.demo = [this] { return Demo(); };
  const Finding finding = Look();
  ExpectAll(finding);
  EXPECT_THAT(finding.note, HasSubstr("4 ClientHellos, 4 connections"));
  EXPECT_THAT(finding.note, HasSubstr("the plaintext control: after 0 records come the bytes 505249202a"));
  EXPECT_THAT(finding.note, HasSubstr("packets, none lost"));
}

TEST_F(WireProbeTest, AConnectionThatIsOlderThanTheCaptureIsReadToo) {
  Serve(Mtls().ServerCredentials("identity"));
  telemetry::Metrics metrics;
  resilience::PeerDependency services("services", metrics);
  rpc::Client client(metrics, services,
                     {.principal = "identity", .target = config_.services[0].grpc_target, .own_connection = true},
                     Mtls().ChannelIdentity("audit"));
  const auto call = [&] {
    return runtime_.RunBlocking<void>(std::chrono::seconds(5), [&](runtime::Call& of) -> runtime::Task<void> {
      NOVA_CO_TRY(
          co_await client.Invoke(of, grpc::health::v1::HealthMethods::kCheck, grpc::health::v1::HealthCheckRequest()));
      co_return Ok();
    });
  };
  ASSERT_TRUE(call().ok());
  config_.demo = call;
  const Finding finding = Look();
  ExpectAll(finding);
  EXPECT_THAT(finding.note, HasSubstr("2 connections (1 older than the capture)"));
}

TEST_F(WireProbeTest, OnePlaintextConnectionAmongOthersFails) {
  Serve(Mtls().ServerCredentials("identity"));
  config_.demo = [this]() -> Result<void> {
    NOVA_TRY(Demo());
    NOVA_TRY(const HostPort target, ParseTarget(config_.services.front().grpc_target));
    NOVA_TRY(const Approach plaintext, MakeApproach(BadPeer::kPlaintext, {}, config_.identity));
    NOVA_TRY(runtime_.RunBlocking<Reception>(std::chrono::seconds(5),
                                             [&](runtime::Call& call) { return Knock(call, target, plaintext); }));
    return Ok();
  };
  const Finding finding = Look();
  EXPECT_EQ(finding.status, Status::kFail);
  EXPECT_EQ(finding.value, "0 of 1");
  EXPECT_THAT(finding.note, StartsWith("identity: after 0 records come the bytes 505249202a, which begin none; "));
}

TEST_F(WireProbeTest, TheCaptureSeesIpv6Too) {
  namespace asio = boost::asio;
  using asio::ip::tcp;
  asio::io_context io;
  const tcp::endpoint loopback(asio::ip::address_v6::loopback(), 0);
  boost::system::error_code error;
  tcp::acceptor acceptor(io);
  acceptor.open(tcp::v6(), error);
  if (!error) acceptor.bind(loopback, error);
  if (error) GTEST_SKIP() << "NOT TESTED: this machine has no ::1: " << error.message();
  acceptor.listen();
  const int port = acceptor.local_endpoint().port();
  TlsRecords records({port});
  const auto capture = Capture::Start({port}, [&records](const TcpSegment& segment) { records.Add(segment); });
  ASSERT_TRUE(capture.ok()) << capture.error().ToString();
  tcp::socket client(io);
  client.connect(acceptor.local_endpoint());
  tcp::socket server = acceptor.accept();
  const std::string said = "neither TLS nor HTTP/2";
  asio::write(client, asio::buffer(said));
  asio::write(server, asio::buffer(said));
  const auto packets = (*capture)->Stop();
  ASSERT_TRUE(packets.ok()) << packets.error().ToString();
  // SYN, its answer, ACK; two times payload and ACK, of which the second may wait.
  EXPECT_GE(*packets, 6U);
  EXPECT_EQ(records.Seen(port).connections, 1);
  EXPECT_EQ(records.Seen(port).joined, 0);
  EXPECT_EQ(records.Seen(port).bytes, 2 * said.size());
  EXPECT_THAT(records.Seen(port).broken, StartsWith("after 0 records come the bytes 6e65697468"));
}

TEST_F(WireProbeTest, WhatDidNotHappenProvesNothing) {
  Serve(Mtls().ServerCredentials("identity"));
  EXPECT_EQ(Look().note, "there is no demo to look at");
  config_.demo = [] { return Result<void>(Internal("it broke off")); };
  EXPECT_THAT(Look().note, HasSubstr("it broke off"));
  EXPECT_EQ(Look().status, Status::kNotMeasured);
  config_.services.front().grpc_target = "10.1.2.3:9080";
  EXPECT_THAT(Look().note, HasSubstr("is not on this machine's loopback"));
}

}  // namespace
}  // namespace nova::audit
