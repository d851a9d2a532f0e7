#include "nova/tls/handshakes.h"

#include <gtest/gtest.h>
#include <openssl/err.h>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "nova/tls/protocol.h"
#include "nova/tls/test_pki.h"

namespace nova::tls {
namespace {

using namespace std::chrono_literals;
using SslPtr = std::unique_ptr<SSL, OpenSslDeleter<&SSL_free>>;

constexpr HandshakeLimits kLong{.server = 60s, .client = 60s};

class Environment final : public testing::Environment {
  void SetUp() override { ASSERT_TRUE(RequireTls13()); }
};
[[maybe_unused]] const auto* const kEnvironment = testing::AddGlobalTestEnvironment(new Environment);

TestCertificateSpec Now(TestCertificateSpec spec) {
  spec.not_before = Clock::System().WallNow() - 1h;
  spec.not_after = Clock::System().WallNow() + 24h;
  return spec;
}

int SelectFirst(SSL* /*ssl*/, const unsigned char** selected, unsigned char* size, const unsigned char* offered,
                unsigned /*offered_size*/, void* /*argument*/) {
  *selected = offered + 1;
  *size = *offered;
  return SSL_TLSEXT_ERR_OK;
}

// Two ends in one process, joined by memory.
class Pair {
 public:
  explicit Pair(const TestCertificate& authority) {
    static const TestCertificate& leaf = *new TestCertificate(MakeCertificate(Now({}), &authority));
    server_context_.reset(SSL_CTX_new(TLS_server_method()));
    client_context_.reset(SSL_CTX_new(TLS_client_method()));
    SSL_CTX_use_certificate(server_context_.get(), leaf.certificate.get());
    SSL_CTX_use_PrivateKey(server_context_.get(), leaf.key.get());
    SSL_CTX_set_alpn_select_cb(server_context_.get(), SelectFirst, nullptr);
    X509_STORE_add_cert(SSL_CTX_get_cert_store(client_context_.get()), authority.certificate.get());
    SSL_CTX_set_verify(client_context_.get(), SSL_VERIFY_PEER, nullptr);
    client.reset(SSL_new(client_context_.get()));
    server.reset(SSL_new(server_context_.get()));
    static constexpr std::array<unsigned char, 3> kHttp2 = {2, 'h', '2'};
    SSL_set_alpn_protos(client.get(), kHttp2.data(), kHttp2.size());
    BIO* one = nullptr;
    BIO* other = nullptr;
    BIO_new_bio_pair(&one, 0, &other, 0);
    SSL_set_bio(client.get(), one, one);
    SSL_set_bio(server.get(), other, other);
    SSL_set_connect_state(client.get());
    SSL_set_accept_state(server.get());
  }
  ~Pair() { ERR_clear_error(); }

  bool Handshake() {
    for (int round = 0; round < 4; ++round) {
      SSL_do_handshake(client.get());
      SSL_do_handshake(server.get());
    }
    return SSL_is_init_finished(client.get()) == 1 && SSL_is_init_finished(server.get()) == 1;
  }
  static void Send(const SslPtr& from, const SslPtr& to) {
    char byte = 'x';
    ASSERT_EQ(SSL_write(from.get(), &byte, 1), 1);
    ASSERT_EQ(SSL_read(to.get(), &byte, 1), 1);
  }

 private:
  SslContextPtr server_context_;
  SslContextPtr client_context_;

 public:
  SslPtr client;
  SslPtr server;
};

class HandshakesTest : public testing::Test {
 protected:
  static const TestCertificate& TheAuthority() {
    static const TestCertificate& authority = *new TestCertificate(MakeCertificate(Now(AuthoritySpec())));
    return authority;
  }

  double Failed(Side side, HandshakeError error) {
    return metrics_
        .Counter("nova_tls_handshake_errors_total", "TLS handshakes that failed, by why",
                 {{"side", std::string(SideName(side))}, {"reason", std::string(HandshakeErrorName(error))}})
        .Value();
  }
  double Failed() {
    double sum = 0;
    for (int error = 0; error < kHandshakeErrorCount; ++error)
      sum += Failed(Side::kServer, static_cast<HandshakeError>(error)) +
             Failed(Side::kClient, static_cast<HandshakeError>(error));
    return sum;
  }
  prometheus::ClientMetric::Histogram Seconds(Side side) {
    return metrics_
        .Histogram("nova_tls_handshake_seconds", "Duration of the TLS handshakes that succeeded",
                   telemetry::kLatencyBuckets, {{"side", std::string(SideName(side))}})
        .Collect()
        .histogram;
  }

  telemetry::Metrics metrics_;
};

TEST_F(HandshakesTest, EveryReasonIsThereFromTheStart) {
  const HandshakeObserver observer(metrics_, kLong);
  const std::string text = metrics_.Scrape();
  std::set<std::string_view> names;
  for (int error = 0; error < kHandshakeErrorCount; ++error) {
    const std::string_view name = HandshakeErrorName(static_cast<HandshakeError>(error));
    EXPECT_TRUE(names.insert(name).second) << name;
    for (const Side side : {Side::kServer, Side::kClient}) {
      const std::string line = "nova_tls_handshake_errors_total{reason=\"" + std::string(name) + "\",side=\"" +
                               std::string(SideName(side)) + "\"} 0\n";
      EXPECT_TRUE(text.contains(line)) << line;
    }
  }
  EXPECT_EQ(HandshakeErrorName(HandshakeError::kNoClientCertificate), "no_client_certificate");
  EXPECT_EQ(HandshakeErrorName(HandshakeError::kCertificateOther), "certificate_rejected_other");
  EXPECT_EQ(HandshakeErrorName(HandshakeError::kTimeout), "timeout");
  for (const char* edge : {"0.005", "0.01"})
    EXPECT_TRUE(text.contains("nova_tls_handshake_seconds_bucket{side=\"server\",le=\"" + std::string(edge) + "\"}"))
        << edge;
}

TEST_F(HandshakesTest, OneThatIsUsedIsTimedOnBothSides) {
  const HandshakeObserver observer(metrics_, kLong);
  const auto before = std::chrono::steady_clock::now();
  {
    Pair pair(TheAuthority());
    ASSERT_TRUE(pair.Handshake());
    EXPECT_EQ(Seconds(Side::kServer).sample_count, 0U) << "the peer has not shown yet that it accepts";
    for (int message = 0; message < 3; ++message) {
      Pair::Send(pair.client, pair.server);
      Pair::Send(pair.server, pair.client);
    }
  }
  const double most = std::chrono::duration<double>(std::chrono::steady_clock::now() - before).count();
  for (const Side side : {Side::kServer, Side::kClient}) {
    EXPECT_EQ(Seconds(side).sample_count, 1U);
    EXPECT_GT(Seconds(side).sample_sum, 0);
    EXPECT_LT(Seconds(side).sample_sum, most);
  }
  EXPECT_EQ(Failed(), 0);
}

TEST_F(HandshakesTest, AClientThatTheServerNeverAnswersHasFailed) {
  const HandshakeObserver observer(metrics_, kLong);
  {
    Pair pair(TheAuthority());
    ASSERT_TRUE(pair.Handshake());
  }
  EXPECT_EQ(Failed(Side::kClient, HandshakeError::kPeerClosed), 1);
  EXPECT_EQ(Failed(), 1) << "on the server's side everything was right";
  EXPECT_EQ(Seconds(Side::kClient).sample_count, 0U);
  EXPECT_EQ(Seconds(Side::kServer).sample_count, 0U);
}

TEST_F(HandshakesTest, AClientWithoutApplicationProtocolsNeedsNone) {
  const HandshakeObserver observer(metrics_, kLong);
  Pair pair(TheAuthority());
  SSL_set_alpn_protos(pair.client.get(), nullptr, 0);
  ASSERT_TRUE(pair.Handshake());
  EXPECT_EQ(Failed(Side::kClient, HandshakeError::kProtocol), 0);
  EXPECT_EQ(Failed(Side::kServer, HandshakeError::kProtocol), 1) << "a gRPC server drops it";
}

TEST_F(HandshakesTest, AClientThatRefusesSeesWhyAndTheServerThatItWasRefused) {
  const HandshakeObserver observer(metrics_, kLong);
  Pair pair(TheAuthority());
  ASSERT_EQ(SSL_set1_host(pair.client.get(), "user.nova.svc.cluster.local"), 1);
  ERR_clear_error();
  SSL_do_handshake(pair.client.get());
  SSL_do_handshake(pair.server.get());
  ASSERT_EQ(SSL_do_handshake(pair.client.get()), -1);
  EXPECT_EQ(ERR_GET_REASON(ERR_peek_error()), SSL_R_CERTIFICATE_VERIFY_FAILED) << "the queue is the caller's";
  SSL_do_handshake(pair.server.get());
  EXPECT_EQ(Failed(Side::kClient, HandshakeError::kCertificateWrongName), 1);
  EXPECT_EQ(Failed(Side::kServer, HandshakeError::kRefusedByPeer), 1);
  pair.client.reset();
  pair.server.reset();
  EXPECT_EQ(Failed(), 2) << "once is enough";
}

TEST_F(HandshakesTest, GivenUpBeforeTheLimitIsClosedByThePeerAndAfterItATimeout) {
  for (const bool late : {false, true}) {
    SCOPED_TRACE(late);
    const HandshakeObserver observer(metrics_, late ? HandshakeLimits{.server = 0s, .client = 0s} : kLong);
    Pair pair(TheAuthority());
    SSL_do_handshake(pair.client.get());
    SSL_do_handshake(pair.server.get());
    pair.client.reset();
    pair.server.reset();
    const HandshakeError expected = late ? HandshakeError::kTimeout : HandshakeError::kPeerClosed;
    EXPECT_EQ(Failed(Side::kServer, expected), 1);
    EXPECT_EQ(Failed(Side::kClient, expected), 1);
  }
  EXPECT_EQ(Failed(), 4);
}

TEST_F(HandshakesTest, AClientThatReachedNobodyHasNotFailed) {
  const HandshakeObserver observer(metrics_, kLong);
  Pair untouched(TheAuthority());
  untouched.client.reset();
  Pair unsent(TheAuthority());
  SSL_do_handshake(unsent.client.get());
  unsent.client.reset();
  EXPECT_EQ(Failed(), 0);
}

TEST_F(HandshakesTest, AServerWhoseClientSaysNothingHas) {
  const HandshakeObserver observer(metrics_, kLong);
  Pair pair(TheAuthority());
  pair.server.reset();
  EXPECT_EQ(Failed(Side::kServer, HandshakeError::kPeerClosed), 1);
}

TEST_F(HandshakesTest, NonsenseAfterTheHelloIsProtocolAndBeforeItPlaintext) {
  const HandshakeObserver observer(metrics_, kLong);
  const auto feed = [](const SslPtr& ssl, const SslPtr& other, std::string_view bytes) {
    BIO_write(SSL_get_wbio(other.get()), bytes.data(), static_cast<int>(bytes.size()));
    EXPECT_LT(SSL_do_handshake(ssl.get()), 1);
  };
  Pair plaintext(TheAuthority());
  feed(plaintext.server, plaintext.client, "*1\r\n$4\r\nPING\r\n");
  EXPECT_EQ(Failed(Side::kServer, HandshakeError::kPlaintext), 1);
  Pair nonsense(TheAuthority());
  SSL_do_handshake(nonsense.client.get());
  SSL_do_handshake(nonsense.server.get());
  feed(nonsense.server, nonsense.client, "*1\r\n$4\r\nPING\r\n");
  EXPECT_EQ(Failed(Side::kServer, HandshakeError::kProtocol), 1);
}

TEST_F(HandshakesTest, WhatOutlivesTheObserverIsNotCounted) {
  std::optional<HandshakeObserver> observer(std::in_place, metrics_, kLong);
  Pair pair(TheAuthority());
  SSL_do_handshake(pair.client.get());
  SSL_do_handshake(pair.server.get());
  observer.reset();
  CountHandshakeError(Side::kServer, HandshakeError::kCertificateWrongName);
  // Nor under the next one, which may be told other limits.
  telemetry::Metrics next_metrics;
  const HandshakeObserver next(next_metrics, kLong);
  pair.client.reset();
  pair.server.reset();
  EXPECT_EQ(Failed(), 0);
  EXPECT_FALSE(next_metrics.Scrape().contains("} 1\n"));
}

TEST_F(HandshakesTest, WhatWasMadeBeforeTheObserverIsNotWatched) {
  std::optional<HandshakeObserver> first(std::in_place, metrics_, kLong);
  first.reset();
  Pair pair(TheAuthority());
  const HandshakeObserver observer(metrics_, kLong);
  ASSERT_TRUE(pair.Handshake());
  Pair::Send(pair.client, pair.server);
  EXPECT_EQ(Seconds(Side::kServer).sample_count, 0U);
}

TEST_F(HandshakesTest, ACopyOfAnSslObjectIsOneOfItsOwn) {
  const HandshakeObserver observer(metrics_, kLong);
  Pair pair(TheAuthority());
  SslPtr copy(SSL_dup(pair.server.get()));
  ASSERT_NE(copy, nullptr);
  ASSERT_EQ(SSL_get_rbio(copy.get()), nullptr);
  copy.reset();
  EXPECT_EQ(Failed(), 0) << "it was never joined to anything";
  pair.server.reset();
  EXPECT_EQ(Failed(Side::kServer, HandshakeError::kPeerClosed), 1);
}

TEST_F(HandshakesTest, WhatIsRefusedAfterTlsAcceptedItIsCountedOnce) {
  const HandshakeObserver observer(metrics_, kLong);
  for (const double round : {1, 2}) {
    Pair refused(TheAuthority());
    ASSERT_TRUE(refused.Handshake());
    CountHandshakeError(Side::kClient, HandshakeError::kCertificateWrongName);
    refused.client.reset();
    EXPECT_EQ(Failed(Side::kClient, HandshakeError::kCertificateWrongName), round);
    EXPECT_EQ(Failed(), round);
  }
  Pair unanswered(TheAuthority());
  ASSERT_TRUE(unanswered.Handshake());
  unanswered.client.reset();
  EXPECT_EQ(Failed(Side::kClient, HandshakeError::kPeerClosed), 1);
}

TEST_F(HandshakesTest, ManyThreadsAtOnce) {
  const HandshakeObserver observer(metrics_, kLong);
  const TestCertificate& authority = TheAuthority();
  const Pair first(authority);  // makes what they share
  constexpr int kThreads = 4;
  constexpr int kEach = 25;
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  for (int index = 0; index < kThreads; ++index)
    threads.emplace_back([&authority] {
      for (int round = 0; round < kEach; ++round) {
        Pair pair(authority);
        if (round % 2 == 0) SSL_set1_host(pair.client.get(), "nobody");
        if (pair.Handshake()) {
          Pair::Send(pair.client, pair.server);
          Pair::Send(pair.server, pair.client);
        }
      }
    });
  for (auto& thread : threads) thread.join();
  constexpr int kRefused = kThreads * ((kEach + 1) / 2);
  EXPECT_EQ(Failed(Side::kClient, HandshakeError::kCertificateWrongName), kRefused);
  EXPECT_EQ(Failed(Side::kServer, HandshakeError::kRefusedByPeer), kRefused);
  EXPECT_EQ(Seconds(Side::kClient).sample_count, static_cast<unsigned>(kThreads * kEach - kRefused));
  EXPECT_EQ(Seconds(Side::kServer).sample_count, static_cast<unsigned>(kThreads * kEach - kRefused));
}

using HandshakesDeathTest = HandshakesTest;

TEST_F(HandshakesDeathTest, ThereIsOneObserver) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const HandshakeObserver observer(metrics_, kLong);
  EXPECT_DEATH(HandshakeObserver(metrics_, kLong), "");
}

}  // namespace
}  // namespace nova::tls
