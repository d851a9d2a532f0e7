// A resumed session shows no certificate: who it was made with is believed, not verified again. So a session must not
// outlive the trust it was made under. Nova sees to that twice: its servers give no tickets (protocol.h), and its
// channels keep none. And gRPC sees to it once more on the server's side, whose tickets end with the certificates that
// were in use.
#include <arpa/inet.h>
#include <chrono>
#include <cstdint>
#include <future>
#include <grpc/grpc_security.h>
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <memory>
#include <netinet/in.h>
#include <stdexcept>
#include <string>
#include <sys/socket.h>
#include <unistd.h>
#include <utility>

#include "nova/telemetry/metrics.h"
#include "nova/tls/credentials.h"
#include "nova/tls/openssl.h"
#include "nova/tls/publisher.h"
#include "nova/tls/test_pki.h"
#include "tests/eventually.h"

namespace nova::tls {
namespace {

using namespace std::chrono_literals;
using tests::Eventually;

using SessionPtr = std::unique_ptr<SSL_SESSION, OpenSslDeleter<&SSL_SESSION_free>>;
using SslPtr = std::unique_ptr<SSL, OpenSslDeleter<&SSL_free>>;

// Before any test uses TLS, as main does it.
class Tls13Environment final : public testing::Environment {
  void SetUp() override {
    const auto required = RequireTls13();
    ASSERT_TRUE(required) << required.error().ToString();
  }
};
[[maybe_unused]] const auto* const kEnvironment = testing::AddGlobalTestEnvironment(new Tls13Environment);

// What every context of this process that is made from now on gives as a server.
void SetTickets(int count) {
  const std::string text =
      "openssl_conf = test\n[test]\nssl_conf = test_ssl\n[test_ssl]\nsystem_default = test_default\n"
      "[test_default]\nProtocol = -ALL, TLSv1.3\nNumTickets = " +
      std::to_string(count) + "\n";
  const ConfPtr configuration(NCONF_new(nullptr));
  const BioPtr bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
  long line = 0;
  ASSERT_EQ(NCONF_load_bio(configuration.get(), bio.get(), &line), 1) << line;
  ASSERT_EQ(CONF_modules_load(configuration.get(), nullptr, 0), 1) << OpenSslReason();
}

class SessionCache {
 public:
  SessionCache() : cache_(grpc_ssl_session_cache_create_lru(kSessionsMax)) {}
  ~SessionCache() { grpc_ssl_session_cache_destroy(cache_); }
  SessionCache(const SessionCache&) = delete;
  SessionCache& operator=(const SessionCache&) = delete;

  void ApplyTo(grpc::ChannelArguments& arguments) const {
    const grpc_arg argument = grpc_ssl_session_cache_create_channel_arg(cache_);
    arguments.SetPointerWithVtable(argument.key, argument.value.pointer.p, argument.value.pointer.vtable);
  }

 private:
  static constexpr std::size_t kSessionsMax = 8;
  grpc_ssl_session_cache* const cache_;
};

class EchoService final : public grpc::CallbackGenericService {
 private:
  class Reactor final : public grpc::ServerGenericBidiReactor {
   public:
    Reactor() { StartRead(&message_); }
    void OnReadDone(bool /*ok*/) override { StartWriteAndFinish(&message_, {}, grpc::Status::OK); }
    void OnDone() override { delete this; }

   private:
    grpc::ByteBuffer message_;
  };
  grpc::ServerGenericBidiReactor* CreateReactor(grpc::GenericCallbackServerContext*) override { return new Reactor; }
};

// How a connection, and what was asked over it, went.
struct Outcome {
  bool accepted = false;
  bool resumed = false;
  SessionPtr session = {};  // the newest ticket that the server gave to a raw client
  std::string problem = {};
};

class ResumptionTest : public testing::Test {
 protected:
  // Short, because a refused handshake is retried until then.
  static constexpr auto kRefusedTimeout = 2s;
  static constexpr auto kTimeout = 20s;

  ResumptionTest() {
    first_ = MakeCertificate(Now(AuthoritySpec("first authority")));
    second_ = MakeCertificate(Now(AuthoritySpec("second authority")));
    Put("server", "identity", first_, first_.certificate_pem);
    Put("client", "gateway", first_, first_.certificate_pem);
    server_identity_ = Publish("server", Usage::kServer);
    client_identity_ = Publish("client", Usage::kClient);
  }
  ~ResumptionTest() override {
    if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now() + 5s);
  }

  void SetUp() override { StartServer(); }

  void StartServer() {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", MakeServerCredentials(*server_identity_, ClientCertificate::kRequired),
                             &port_);
    builder.RegisterCallbackGenericService(&service_);
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
  }

  // A new certificate, and who is trusted, in the folder that a publisher looks at.
  void Put(const std::string& folder, const std::string& principal, const TestCertificate& issuer,
           const std::string& trusted) {
    TestCertificateSpec spec = Now({.common_name = principal});
    spec.names = std::string("URI:") + std::string(kSpiffePrefix) + principal + ",DNS:" + ServiceDnsName(principal);
    const TestCertificate leaf = MakeCertificate(spec, &issuer);
    directory_.Write(folder + "/tls.crt", leaf.certificate_pem);
    directory_.Write(folder + "/tls.key", leaf.key_pem);
    directory_.Write(folder + "/ca.crt", trusted);
  }
  std::string Both() const { return first_.certificate_pem + second_.certificate_pem; }

  // A session that is given from now on differs from those before only if the handshakes follow what was published.
  void PublishServer() {
    ASSERT_EQ(server_identity_->Check(), IdentityPublisher::Outcome::kPublished);
    const std::string serial = server_identity_->info().serial;
    ASSERT_TRUE(Eventually([&] { return ShownSerial() == serial; }));
  }

  // A client of OpenSSL alone: connects, resumes if it is given a session, and waits for the server's first message,
  // which comes only if the client was accepted.
  Outcome Connect(SSL_SESSION* session = nullptr) {
    const SslPtr ssl = Handshake(session);
    Outcome outcome;
    outcome.resumed = SSL_session_reused(ssl.get()) == 1;
    char byte = 0;
    outcome.accepted = SSL_read(ssl.get(), &byte, 1) == 1;
    if (!outcome.accepted) outcome.problem = OpenSslReason();
    outcome.session = std::exchange(session_, nullptr);
    Close(*ssl);
    return outcome;
  }

  // A call over a new channel, and a connection of its own.
  Outcome Call(const ChannelCredentials& credentials, const SessionCache* cache,
               std::chrono::milliseconds timeout = kTimeout) const {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    credentials.ApplyTo(arguments);
    if (cache != nullptr) cache->ApplyTo(arguments);
    const auto channel =
        grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(port_), credentials.credentials, arguments);
    grpc::GenericStub stub(channel);
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + timeout);
    const grpc::Slice slice("hello");
    const grpc::ByteBuffer request(&slice, 1);
    grpc::ByteBuffer response;
    std::promise<grpc::Status> done;
    stub.UnaryCall(&context, "/test.Echo/Say", {}, &request, &response,
                   [&done](grpc::Status status) { done.set_value(std::move(status)); });
    const grpc::Status status = done.get_future().get();
    Outcome outcome{.accepted = status.ok(), .problem = status.error_message()};
    if (!status.ok()) return outcome;
    const auto reused = context.auth_context()->FindPropertyValues(GRPC_SSL_SESSION_REUSED_PROPERTY);
    outcome.resumed = !reused.empty() && reused.front() == "true";
    return outcome;
  }

  TestDirectory directory_;
  telemetry::Metrics metrics_;
  TestCertificate first_;
  TestCertificate second_;
  std::unique_ptr<IdentityPublisher> server_identity_;
  std::unique_ptr<IdentityPublisher> client_identity_;

 private:
  static TestCertificateSpec Now(TestCertificateSpec spec) {
    const WallTime now = Clock::System().WallNow();
    spec.not_before = now - 1h;
    spec.not_after = now + std::chrono::days(30);
    return spec;
  }

  std::unique_ptr<IdentityPublisher> Publish(const std::string& folder, Usage usage) {
    auto publisher =
        IdentityPublisher::Create({.files = TestFiles(directory_ / folder), .usage = usage}, Clock::System(), metrics_);
    if (!publisher) throw std::runtime_error(publisher.error().ToString());
    return *std::move(publisher);
  }

  // The client's context is made anew for each connection; what the server said lasts in `session_` alone.
  SslPtr Handshake(SSL_SESSION* session) {
    const SslContextPtr context(SSL_CTX_new(TLS_client_method()));
    const std::string folder = (directory_ / "client").string();
    EXPECT_EQ(SSL_CTX_use_certificate_chain_file(context.get(), (folder + "/tls.crt").c_str()), 1);
    EXPECT_EQ(SSL_CTX_use_PrivateKey_file(context.get(), (folder + "/tls.key").c_str(), SSL_FILETYPE_PEM), 1);
    EXPECT_EQ(SSL_CTX_load_verify_locations(context.get(), (folder + "/ca.crt").c_str(), nullptr), 1);
    SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER, nullptr);
    SSL_CTX_set_session_cache_mode(context.get(), SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_set_app_data(context.get(), this);
    SSL_CTX_sess_set_new_cb(context.get(), [](SSL* ssl, SSL_SESSION* given) {
      static_cast<ResumptionTest*>(SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl)))->session_.reset(given);
      return 1;  // the reference is ours
    });
    constexpr unsigned char kProtocols[] = {2, 'h', '2'};
    SslPtr ssl(SSL_new(context.get()));
    EXPECT_EQ(SSL_set_alpn_protos(ssl.get(), kProtocols, sizeof kProtocols), 0);
    const int socket = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const sockaddr_in address{.sin_family = AF_INET,
                              .sin_port = htons(static_cast<std::uint16_t>(port_)),
                              .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)},
                              .sin_zero = {}};
    // A server that says nothing must fail the test, not hang it.
    const timeval limit{.tv_sec = std::chrono::seconds(kTimeout).count(), .tv_usec = 0};
    EXPECT_EQ(setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit), 0);
    EXPECT_EQ(connect(socket, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    SSL_set_fd(ssl.get(), socket);
    if (session != nullptr) {
      EXPECT_EQ(SSL_set_session(ssl.get(), session), 1);
    }
    EXPECT_EQ(SSL_connect(ssl.get()), 1) << OpenSslReason();
    return ssl;
  }

  static void Close(SSL& ssl) {
    // Without a goodbye, which would come to a peer that is gone.
    SSL_set_shutdown(&ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
    ::close(SSL_get_fd(&ssl));
  }

  std::string ShownSerial() {
    const SslPtr ssl = Handshake(nullptr);
    const X509Ptr shown(SSL_get1_peer_certificate(ssl.get()));
    Close(*ssl);
    session_.reset();
    if (shown == nullptr) return "";
    const BignumPtr number(ASN1_INTEGER_to_BN(X509_get0_serialNumber(shown.get()), nullptr));
    char* const text = BN_bn2hex(number.get());
    std::string serial(text);
    OPENSSL_free(text);
    return serial;
  }

  EchoService service_;
  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
  SessionPtr session_;
};

// --- As Nova's processes are. ---

TEST_F(ResumptionTest, ServersGiveNoTickets) {
  for (int i = 0; i < 2; ++i) {
    const Outcome outcome = Connect();
    EXPECT_TRUE(outcome.accepted) << outcome.problem;
    EXPECT_EQ(outcome.session, nullptr);
  }
}

TEST_F(ResumptionTest, ChannelFindsNothingToResumeEvenWithASessionCache) {
  const SessionCache cache;
  const ChannelIdentity identity(*client_identity_);
  for (int i = 0; i < 3; ++i) {
    const Outcome outcome = Call(identity.For("identity"), &cache);
    EXPECT_TRUE(outcome.accepted) << outcome.problem;
    EXPECT_FALSE(outcome.resumed);
  }
}

// --- Were there tickets: a server that is not ours, or that lost its setting. ---

class TicketsTest : public ResumptionTest {
 protected:
  void SetUp() override {
    SetTickets(2);
    StartServer();
  }
  // As RequireTls13 had it.
  void TearDown() override { SetTickets(0); }

  // A ticket that is good for one more connection.
  SessionPtr Ticket() {
    Outcome outcome = Connect();
    EXPECT_TRUE(outcome.accepted) << outcome.problem;
    EXPECT_NE(outcome.session, nullptr);
    return std::move(outcome.session);
  }
};

TEST_F(TicketsTest, SessionIsResumedWhileNothingChanges) {
  const SessionPtr ticket = Ticket();
  const Outcome raw = Connect(ticket.get());
  EXPECT_TRUE(raw.accepted) << raw.problem;
  EXPECT_TRUE(raw.resumed);

  const SessionCache cache;
  const ChannelIdentity identity(*client_identity_);
  EXPECT_FALSE(Call(identity.For("identity"), &cache).resumed);
  const Outcome channel = Call(identity.For("identity"), &cache);
  EXPECT_TRUE(channel.accepted) << channel.problem;
  EXPECT_TRUE(channel.resumed);
}

TEST_F(TicketsTest, ChannelKeepsNoSession) {
  const ChannelIdentity identity(*client_identity_);
  for (int i = 0; i < 3; ++i) {
    const Outcome outcome = Call(identity.For("identity"), nullptr);
    EXPECT_TRUE(outcome.accepted) << outcome.problem;
    EXPECT_FALSE(outcome.resumed);
  }
}

TEST_F(TicketsTest, SessionOfAClientWhoseAuthorityIsWithdrawnIsRefused) {
  // Both ends trust both at first, and the client goes on to: it is the server that refuses.
  Put("client", "gateway", first_, Both());
  ASSERT_EQ(client_identity_->Check(), IdentityPublisher::Outcome::kPublished);
  Put("server", "identity", second_, Both());
  PublishServer();
  const SessionPtr ticket = Ticket();
  const SessionCache cache;
  const ChannelIdentity identity(*client_identity_);
  EXPECT_TRUE(Call(identity.For("identity"), &cache).accepted);
  EXPECT_TRUE(Call(identity.For("identity"), &cache).resumed);
  EXPECT_TRUE(Connect(ticket.get()).resumed);

  // As the last step of replacing an authority: the server's own certificate stays.
  directory_.Write("server/ca.crt", second_.certificate_pem);
  ASSERT_EQ(server_identity_->Check(), IdentityPublisher::Outcome::kPublished);
  ASSERT_TRUE(Eventually([&] { return !Connect().accepted; }));

  const Outcome raw = Connect(ticket.get());
  EXPECT_FALSE(raw.resumed);
  EXPECT_FALSE(raw.accepted);
  EXPECT_FALSE(Call(identity.For("identity"), &cache, kRefusedTimeout).accepted);

  // One that the second authority knows is welcome: the server refuses nobody else.
  Put("client", "gateway", second_, Both());
  const Outcome known = Connect();
  EXPECT_TRUE(known.accepted) << known.problem;
}

TEST_F(TicketsTest, SessionEndsWithTheServersLeaf) {
  const SessionPtr ticket = Ticket();
  const SessionCache cache;
  const ChannelIdentity identity(*client_identity_);
  EXPECT_TRUE(Call(identity.For("identity"), &cache).accepted);

  Put("server", "identity", first_, first_.certificate_pem);
  PublishServer();

  // Not resumed, and none the worse for it: a full handshake follows.
  const Outcome raw = Connect(ticket.get());
  EXPECT_TRUE(raw.accepted) << raw.problem;
  EXPECT_FALSE(raw.resumed);
  const Outcome channel = Call(identity.For("identity"), &cache);
  EXPECT_TRUE(channel.accepted) << channel.problem;
  EXPECT_FALSE(channel.resumed);
}

TEST_F(TicketsTest, ServerWhoseAuthorityIsWithdrawnIsRefusedByTheClient) {
  // The server trusts both throughout, and goes on to show what the client trusts no longer.
  Put("server", "identity", first_, Both());
  PublishServer();
  const ChannelIdentity identity(*client_identity_);
  EXPECT_TRUE(Call(identity.For("identity"), nullptr).accepted);
  const SessionCache cache;
  EXPECT_TRUE(Call(identity.For("identity"), &cache).accepted);

  Put("client", "gateway", second_, second_.certificate_pem);
  ASSERT_EQ(client_identity_->Check(), IdentityPublisher::Outcome::kPublished);

  EXPECT_FALSE(Call(identity.For("identity"), nullptr, kRefusedTimeout).accepted);
  // This is why no channel of Nova has a cache: gRPC keeps it when the authorities change, and a server that gives
  // tickets is then believed without a certificate. Whoever wants one needs a new one for each trust_version().
  const Outcome kept = Call(identity.For("identity"), &cache);
  EXPECT_TRUE(kept.accepted && kept.resumed) << "gRPC has learnt it: the reason above is gone";
  const SessionCache fresh;
  EXPECT_FALSE(Call(identity.For("identity"), &fresh, kRefusedTimeout).accepted);
}

}  // namespace
}  // namespace nova::tls
