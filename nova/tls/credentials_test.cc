#include "nova/tls/credentials.h"

#include <atomic>
#include <future>
#include <grpc/grpc_security_constants.h>
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <thread>

#include "nova/tls/authority.h"
#include "nova/tls/test_pki.h"

namespace nova::tls {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

// Before any test uses TLS, as main does it.
class Tls13Environment final : public testing::Environment {
  void SetUp() override {
    const auto required = RequireTls13();
    ASSERT_TRUE(required) << required.error().ToString();
  }
};
[[maybe_unused]] const auto* const kEnvironment = testing::AddGlobalTestEnvironment(new Tls13Environment);

constexpr char kPeerKey[] = "peer";
constexpr char kSerialKey[] = "serial";

std::string Serial(const grpc::AuthContext& context) {
  const auto pems = context.FindPropertyValues(GRPC_X509_PEM_CERT_PROPERTY_NAME);
  if (pems.empty()) return "";
  const auto certificates = ParseCertificates({pems.front().data(), pems.front().size()});
  if (!certificates) return "";
  const BignumPtr number(ASN1_INTEGER_to_BN(X509_get0_serialNumber(certificates->front().get()), nullptr));
  char* text = BN_bn2hex(number.get());
  std::string serial(text);
  OPENSSL_free(text);
  return serial;
}

// Answers any method with what it was sent, and says in the trailers who the caller is.
class EchoService final : public grpc::CallbackGenericService {
 private:
  class Reactor final : public grpc::ServerGenericBidiReactor {
   public:
    explicit Reactor(grpc::GenericCallbackServerContext* context) {
      const auto auth = context->auth_context();
      context->AddTrailingMetadata(kPeerKey, PeerPrincipal(*auth));
      context->AddTrailingMetadata(kSerialKey, Serial(*auth));
      StartRead(&message_);
    }
    void OnReadDone(bool ok) override {
      if (ok) {
        StartWriteAndFinish(&message_, {}, grpc::Status::OK);
      } else {
        Finish(grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "no message"));
      }
    }
    void OnDone() override { delete this; }

   private:
    grpc::ByteBuffer message_;
  };

  grpc::ServerGenericBidiReactor* CreateReactor(grpc::GenericCallbackServerContext* context) override {
    return new Reactor(context);
  }
};

struct Answer {
  grpc::Status status;
  std::string peer;           // who the server saw
  std::string client_serial;  // of the certificate it saw
  std::string server_serial;  // of the certificate the server showed
};

Answer Echo(const std::shared_ptr<grpc::Channel>& channel, std::chrono::milliseconds timeout = 20s) {
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
  const auto& trailers = context.GetServerTrailingMetadata();
  const auto trailer = [&trailers](const char* key) {
    const auto found = trailers.find(key);
    return found == trailers.end() ? std::string() : std::string(found->second.data(), found->second.size());
  };
  Answer answer{.status = status, .peer = trailer(kPeerKey), .client_serial = trailer(kSerialKey), .server_serial = {}};
  if (answer.status.ok()) answer.server_serial = Serial(*context.auth_context());
  return answer;
}

class CredentialsTest : public testing::Test {
 protected:
  // Short, because a refused handshake is retried until then.
  static constexpr auto kRefusedTimeout = 2s;

  CredentialsTest() {
    auto made = Authority::Create(directory_ / "ca", Clock::System());
    if (!made) throw std::runtime_error(made.error().ToString());
    authority_.emplace(*std::move(made));
  }
  ~CredentialsTest() override { StopServer(); }

  fs::path Issue(Authority& authority, const std::string& principal, const std::string& folder) {
    const auto issued =
        authority.Issue({.principal = principal, .dns_extra = {}, .ips_extra = {}}, directory_ / folder);
    EXPECT_TRUE(issued) << issued.error().ToString();
    return directory_ / folder;
  }
  std::unique_ptr<IdentityPublisher> Publish(const fs::path& folder, Usage usage) {
    auto publisher = IdentityPublisher::Create({.files = TestFiles(folder), .usage = usage, .poll_interval = 100ms},
                                               Clock::System(), metrics_);
    if (!publisher) throw std::runtime_error(publisher.error().ToString());
    return *std::move(publisher);
  }
  void StartServer(const std::shared_ptr<grpc::ServerCredentials>& credentials) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", credentials, &port_);
    builder.RegisterCallbackGenericService(&service_);
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
  }
  void StartMutualServer() {
    server_identity_ = Publish(Issue(*authority_, "identity", "identity"), Usage::kServer);
    StartServer(MakeServerCredentials(*server_identity_, ClientCertificate::kRequired));
  }
  void StopServer() {
    if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now() + 5s);
    server_.reset();
  }
  std::string Address() const { return "127.0.0.1:" + std::to_string(port_); }

  // A channel with connections of its own, so that every first call is a handshake.
  std::shared_ptr<grpc::Channel> Channel(const ChannelCredentials& credentials) const {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    credentials.ApplyTo(arguments);
    return grpc::CreateCustomChannel(Address(), credentials.credentials, arguments);
  }
  CommandResult SClient(const std::string& arguments) const {
    const std::string folder = (directory_ / "gateway").string();
    return RunCommand("timeout 20 openssl s_client -connect " + Address() + " -alpn h2 -verify_return_error -CAfile " +
                      folder + "/ca.crt " + arguments + " </dev/null");
  }

  TestDirectory directory_;
  telemetry::Metrics metrics_;
  std::optional<Authority> authority_;
  std::unique_ptr<IdentityPublisher> server_identity_;
  EchoService service_;
  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
};

TEST_F(CredentialsTest, BothSidesKnowEachOther) {
  StartMutualServer();
  const auto client = Publish(Issue(*authority_, "gateway", "gateway"), Usage::kClient);
  const ChannelIdentity identity(*client);
  const Answer answer = Echo(Channel(identity.For("identity")));
  EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.peer, "gateway");
  EXPECT_EQ(answer.server_serial, server_identity_->info().serial);
  EXPECT_EQ(answer.client_serial, client->info().serial);
}

TEST_F(CredentialsTest, ServerOfAnotherPrincipalIsRefusedByTheClient) {
  StartMutualServer();
  const auto client = Publish(Issue(*authority_, "gateway", "gateway"), Usage::kClient);
  const ChannelIdentity identity(*client);
  // The right one first, through the same credentials and to the same address: nothing of it may rub off.
  EXPECT_TRUE(Echo(Channel(identity.For("identity"))).status.ok());
  const Answer answer = Echo(Channel(identity.For("user")), kRefusedTimeout);
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::UNAVAILABLE) << answer.status.error_message();
}

TEST_F(CredentialsTest, ClientWithoutACertificateIsRefused) {
  StartMutualServer();
  Issue(*authority_, "gateway", "gateway");
  grpc::ChannelArguments arguments;
  arguments.SetSslTargetNameOverride(ServiceDnsName("identity"));
  const auto channel = grpc::CreateCustomChannel(
      Address(),
      grpc::SslCredentials(
          {.pem_root_certs = authority_->certificate_pem(), .pem_private_key = {}, .pem_cert_chain = {}}),
      arguments);
  EXPECT_EQ(Echo(channel, kRefusedTimeout).status.error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(CredentialsTest, PlaintextClientIsRefused) {
  StartMutualServer();
  const Answer answer = Echo(Channel(ChannelIdentity::Plaintext().For("identity")), kRefusedTimeout);
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::UNAVAILABLE) << answer.status.error_message();
}

TEST_F(CredentialsTest, StrangersAreRefusedByBothSides) {
  StartMutualServer();
  auto stranger = Authority::Create(directory_ / "other-ca", Clock::System());
  ASSERT_TRUE(stranger);
  const fs::path folder = Issue(*stranger, "gateway", "stranger");
  const auto lone = Publish(folder, Usage::kClient);
  // The client does not know the server's authority.
  EXPECT_EQ(Echo(Channel(ChannelIdentity(*lone).For("identity")), kRefusedTimeout).status.error_code(),
            grpc::StatusCode::UNAVAILABLE);
  // Nor does the server know the client's: the client trusts both here, and shows the stranger's certificate.
  fs::remove(folder / "ca.crt");
  directory_.Write("stranger/ca.crt", authority_->certificate_pem() + stranger->certificate_pem());
  const auto trusting = Publish(folder, Usage::kClient);
  EXPECT_EQ(Echo(Channel(ChannelIdentity(*trusting).For("identity")), kRefusedTimeout).status.error_code(),
            grpc::StatusCode::UNAVAILABLE);
}

TEST_F(CredentialsTest, OptionalClientCertificateIsStillVerified) {
  server_identity_ = Publish(Issue(*authority_, "identity", "identity"), Usage::kServer);
  StartServer(MakeServerCredentials(*server_identity_, ClientCertificate::kOptional));
  grpc::ChannelArguments arguments;
  arguments.SetSslTargetNameOverride(ServiceDnsName("identity"));
  const auto anonymous = grpc::CreateCustomChannel(
      Address(),
      grpc::SslCredentials(
          {.pem_root_certs = authority_->certificate_pem(), .pem_private_key = {}, .pem_cert_chain = {}}),
      arguments);
  const Answer nobody = Echo(anonymous);
  EXPECT_TRUE(nobody.status.ok()) << nobody.status.error_message();
  EXPECT_EQ(nobody.peer, "");

  const auto client = Publish(Issue(*authority_, "gateway", "gateway"), Usage::kClient);
  EXPECT_EQ(Echo(Channel(ChannelIdentity(*client).For("identity"))).peer, "gateway");

  auto stranger = Authority::Create(directory_ / "other-ca", Clock::System());
  ASSERT_TRUE(stranger);
  const fs::path folder = Issue(*stranger, "gateway", "stranger");
  fs::remove(folder / "ca.crt");
  directory_.Write("stranger/ca.crt", authority_->certificate_pem() + stranger->certificate_pem());
  const auto forged = Publish(folder, Usage::kClient);
  EXPECT_FALSE(Echo(Channel(ChannelIdentity(*forged).For("identity")), kRefusedTimeout).status.ok());
}

TEST_F(CredentialsTest, CertificateWithoutAPrincipalIsRefused) {
  StartMutualServer();
  // Made by the right authority for something else, and used by a client that checks nothing.
  TestCertificate issuer{.certificate = std::move(ParseCertificates(authority_->certificate_pem())->front()),
                         .key = *ParsePrivateKey(Secret<>(ReadAll(directory_ / "ca/ca.key"))),
                         .certificate_pem = authority_->certificate_pem(),
                         .key_pem = ReadAll(directory_ / "ca/ca.key")};
  const WallTime now = std::chrono::system_clock::now();
  for (const char* names : {"DNS:gateway.nova.svc.cluster.local", "URI:spiffe://other/gateway", "URI:spiffe://nova/a/b",
                            "URI:spiffe://nova/gateway,URI:spiffe://nova/operator"}) {
    const TestCertificate leaf =
        MakeCertificate({.names = names, .not_before = now - 1h, .not_after = now + 1h}, &issuer);
    grpc::ChannelArguments arguments;
    arguments.SetSslTargetNameOverride(ServiceDnsName("identity"));
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    const auto channel =
        grpc::CreateCustomChannel(Address(),
                                  grpc::SslCredentials({.pem_root_certs = authority_->certificate_pem(),
                                                        .pem_private_key = leaf.key_pem,
                                                        .pem_cert_chain = leaf.certificate_pem}),
                                  arguments);
    EXPECT_EQ(Echo(channel, kRefusedTimeout).status.error_code(), grpc::StatusCode::UNAVAILABLE) << names;
  }
}

TEST_F(CredentialsTest, ChannelsShareCredentialsUntilTheAuthoritiesChange) {
  const fs::path folder = Issue(*authority_, "gateway", "gateway");
  const auto client = Publish(folder, Usage::kClient);
  const ChannelIdentity identity(*client);
  const ChannelIdentity copy = identity;
  const ChannelCredentials before = identity.For("identity");
  EXPECT_EQ(before.trust_version, identity.trust_version());
  EXPECT_EQ(copy.For("user").credentials, before.credentials);
  // Another leaf is no other trust.
  Issue(*authority_, "gateway", "gateway");
  ASSERT_EQ(client->Check(), IdentityPublisher::Outcome::kPublished);
  EXPECT_EQ(identity.For("identity").credentials, before.credentials);

  auto other = Authority::Create(directory_ / "other-ca", Clock::System());
  ASSERT_TRUE(other);
  fs::remove(folder / "ca.crt");
  directory_.Write("gateway/ca.crt", authority_->certificate_pem() + other->certificate_pem());
  ASSERT_EQ(client->Check(), IdentityPublisher::Outcome::kPublished);
  EXPECT_GT(identity.trust_version(), before.trust_version);
  const ChannelCredentials after = copy.For("identity");
  EXPECT_NE(after.credentials, before.credentials);
  EXPECT_EQ(after.trust_version, identity.trust_version());
  EXPECT_EQ(identity.For("user").credentials, after.credentials);
  EXPECT_EQ(ChannelIdentity::Plaintext().trust_version(), 0);
}

TEST_F(CredentialsTest, TheFirstHandshakeOfNewCredentialsUsesTheNewAuthorities) {
  StartMutualServer();
  auto other = Authority::Create(directory_ / "other-ca", Clock::System());
  ASSERT_TRUE(other);
  // A client that trusts only the other one at first, and the server's a moment later.
  const fs::path folder = Issue(*authority_, "gateway", "gateway");
  const fs::path stranger = Issue(*other, "gateway", "stranger");
  const auto client = Publish(stranger, Usage::kClient);
  const ChannelIdentity identity(*client);
  EXPECT_FALSE(Echo(Channel(identity.For("identity")), kRefusedTimeout).status.ok());
  for (const char* name : {"tls.crt", "tls.key", "ca.crt"}) {
    fs::remove(stranger / name);
    directory_.Write(std::string("stranger/") + name, ReadAll(folder / name));
  }
  ASSERT_EQ(client->Check(), IdentityPublisher::Outcome::kPublished);
  const Answer answer = Echo(Channel(identity.For("identity")), kRefusedTimeout);
  EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
}

TEST_F(CredentialsTest, PlaintextWorksOnlyWhereBothSidesChoseIt) {
  StartServer(MakePlaintextServerCredentials());
  const Answer answer = Echo(Channel(ChannelIdentity::Plaintext().For("identity")));
  EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.peer, "");
  const auto client = Publish(Issue(*authority_, "gateway", "gateway"), Usage::kClient);
  EXPECT_FALSE(Echo(Channel(ChannelIdentity(*client).For("identity")), kRefusedTimeout).status.ok());
}

TEST_F(CredentialsTest, OnlyTls13IsSpoken) {
  StartMutualServer();
  const std::string folder = Issue(*authority_, "gateway", "gateway").string();
  const std::string pair = "-cert " + folder + "/tls.crt -key " + folder + "/tls.key ";
  const CommandResult accepted = SClient(pair + "-tls1_3");
  EXPECT_EQ(accepted.exit_code, 0) << accepted.output;
  EXPECT_TRUE(accepted.output.contains("New, TLSv1.3,")) << accepted.output;
  const CommandResult refused = SClient(pair + "-tls1_2");
  EXPECT_NE(refused.exit_code, 0) << refused.output;
  EXPECT_TRUE(refused.output.contains("New, (NONE), Cipher is (NONE)")) << refused.output;
}

TEST_F(CredentialsTest, Tls13IsRequiredOfTheClientSideToo) {
  // Every context of the process, whatever minimum its maker asks for.
  const SslContextPtr context(SSL_CTX_new(TLS_client_method()));
  ASSERT_EQ(SSL_CTX_set_min_proto_version(context.get(), TLS1_2_VERSION), 1);
  EXPECT_TRUE(SSL_CTX_get_options(context.get()) & SSL_OP_NO_TLSv1_2);
  EXPECT_FALSE(SSL_CTX_get_options(context.get()) & SSL_OP_NO_TLSv1_3);
  EXPECT_TRUE(RequireTls13()) << "a second call changes nothing";
}

TEST_F(CredentialsTest, LeavesRotateUnderLoadWithoutAFailedCall) {
  runtime::Runtime runtime({.threads = 1});
  runtime::Scope scope(runtime);
  StartMutualServer();
  const auto client = Publish(Issue(*authority_, "gateway", "gateway"), Usage::kClient);
  server_identity_->Watch(scope);
  client->Watch(scope);
  const ChannelIdentity identity(*client);

  std::atomic<bool> done = false;
  std::atomic<int> calls = 0;
  std::atomic<int> failed = 0;
  std::mutex mutex;
  std::string first_failure;
  const auto count = [&](const Answer& answer) {
    ++calls;
    if (answer.status.ok() && answer.peer == "gateway") return;
    ++failed;
    const std::lock_guard lock(mutex);
    if (first_failure.empty()) first_failure = answer.status.error_message();
  };
  // One caller keeps its connection, one makes a new one for every call.
  std::thread steady([&, channel = Channel(identity.For("identity"))] {
    while (!done) count(Echo(channel));
  });
  std::thread fresh([&] {
    while (!done) count(Echo(Channel(identity.For("identity"))));
  });

  const auto wait_for = [](const std::function<bool()>& condition) {
    const auto limit = std::chrono::steady_clock::now() + 20s;
    while (!condition()) {
      if (std::chrono::steady_clock::now() > limit) return false;
      std::this_thread::yield();
    }
    return true;
  };
  for (int round = 0; round < 3; ++round) {
    const std::string server_before = server_identity_->info().serial;
    const std::string client_before = client->info().serial;
    Issue(*authority_, "identity", "identity");
    Issue(*authority_, "gateway", "gateway");
    // Seen on the wire, by a handshake of its own.
    EXPECT_TRUE(wait_for([&] {
      const Answer answer = Echo(Channel(identity.For("identity")));
      count(answer);
      return server_identity_->info().serial != server_before && client->info().serial != client_before &&
             answer.server_serial == server_identity_->info().serial && answer.client_serial == client->info().serial;
    })) << "round "
        << round;
  }

  // A pair that does not match, for longer than gRPC takes to look again.
  const std::string good_serial = server_identity_->info().serial;
  fs::remove(directory_ / "identity/tls.key");
  directory_.Write("identity/tls.key", MakeCertificate({}).key_pem);
  auto& refused =
      metrics_.Counter("nova_tls_reloads_total", "Certificate sets found in the files, by what became of them",
                       {{"side", "server"}, {"result", "refused"}});
  EXPECT_TRUE(wait_for([&] { return refused.Value() >= 1; }));
  const auto until = std::chrono::steady_clock::now() + 2500ms;
  while (std::chrono::steady_clock::now() < until) {
    const Answer answer = Echo(Channel(identity.For("identity")));
    count(answer);
    EXPECT_EQ(answer.server_serial, good_serial);
  }

  done = true;
  steady.join();
  fresh.join();
  EXPECT_EQ(failed, 0) << "of " << calls << ": " << first_failure;
  EXPECT_GT(calls, 100);
  EXPECT_TRUE(scope.Stop(5s));
}

}  // namespace
}  // namespace nova::tls
