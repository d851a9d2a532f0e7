// Bad peers of every kind against what Nova makes of gRPC: servers meet bad clients, channels meet bad servers. Each is
// refused, and counted once, under its reason.
#include <algorithm>
#include <arpa/inet.h>
#include <array>
#include <csignal>
#include <functional>
#include <future>
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <optional>
#include <sstream>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>

#include "nova/tls/credentials.h"
#include "nova/tls/handshakes.h"
#include "nova/tls/test_pki.h"

namespace nova::tls {
namespace {

using namespace std::chrono_literals;
using SslPtr = std::unique_ptr<SSL, OpenSslDeleter<&SSL_free>>;

// Until something that must happen counts as not happening.
constexpr auto kPatience = 20s;
// An alert, or what an accepted connection gets first, comes at once.
constexpr timeval kSocketPatience{.tv_sec = 20, .tv_usec = 0};

class Environment final : public testing::Environment {
  void SetUp() override {
    const auto required = RequireTls13();
    ASSERT_TRUE(required) << required.error().ToString();
    // OpenSSL writes to sockets that the other end may have closed.
    std::signal(SIGPIPE, SIG_IGN);
  }
};
[[maybe_unused]] const auto* const kEnvironment = testing::AddGlobalTestEnvironment(new Environment);

TestCertificateSpec At(TestCertificateSpec spec, std::chrono::hours begins, std::chrono::hours ends) {
  const WallTime now = Clock::System().WallNow();
  spec.not_before = now + begins;
  spec.not_after = now + ends;
  return spec;
}
TestCertificateSpec Valid(TestCertificateSpec spec) { return At(std::move(spec), -1h, 24h); }
TestCertificateSpec Leaf() { return Valid({}); }
TestCertificateSpec Leaf(std::string names) {
  TestCertificateSpec spec = Leaf();
  spec.names = std::move(names);
  return spec;
}

// What an end shows; nothing at all if empty.
struct Shown {
  std::string chain_pem;
  std::string key_pem;
};
Shown Show(const TestCertificate& certificate) { return {certificate.certificate_pem, certificate.key_pem}; }

struct Pki {
  TestCertificate authority = MakeCertificate(Valid(AuthoritySpec()));
  TestCertificate foreign = MakeCertificate(Valid(AuthoritySpec("another authority")));
  TestCertificate intermediate = MakeCertificate(Valid(AuthoritySpec("intermediate")), &authority);

  // Of the principal "identity", which this test calls by; with one thing wrong.
  Shown Good() const { return Show(MakeCertificate(Leaf(), &authority)); }
  Shown Expired() const { return Show(MakeCertificate(At({}, -48h, -24h), &authority)); }
  Shown NotYetValid() const { return Show(MakeCertificate(At({}, 24h, 48h), &authority)); }
  Shown UnknownCa() const { return Show(MakeCertificate(Leaf(), &foreign)); }
  Shown UnknownCaInChain() const {
    Shown shown = UnknownCa();
    shown.chain_pem += foreign.certificate_pem;
    return shown;
  }
  // What an attacker would make who knows the authority's name, not its key.
  Shown ForgedCa() const {
    const TestCertificate forged = MakeCertificate(Valid(AuthoritySpec()));
    return Show(MakeCertificate(Leaf(), &forged));
  }
  Shown SelfSigned() const { return Show(MakeCertificate(Leaf())); }
  Shown Named(std::string names) const { return Show(MakeCertificate(Leaf(std::move(names)), &authority)); }
  Shown Used(std::string extended_key_usage) const {
    TestCertificateSpec spec = Leaf();
    spec.extended_key_usage = std::move(extended_key_usage);
    return Show(MakeCertificate(spec, &authority));
  }
  Shown WeakKey() const {
    TestCertificateSpec spec = Leaf();
    spec.key = "RSA-1024";
    return Show(MakeCertificate(spec, &authority));
  }
  Shown BrokenChain() const { return Show(MakeCertificate(Leaf(), &intermediate)); }
  Shown WholeChain() const {
    Shown shown = BrokenChain();
    shown.chain_pem += intermediate.certificate_pem;
    return shown;
  }
};
const Pki& ThePki() {
  static const Pki& pki = *new Pki;
  return pki;
}

// How the bad end behaves.
enum class Manner {
  kTls,
  kPlaintext,     // HTTP/2 without TLS
  kHttp,          // HTTP/1.1 without TLS
  kClose,         // at once
  kCloseAtHello,  // a client after it has sent its ClientHello, a server after it has got it
  kNothing,       // stays, and does nothing
  kNothingMore,   // a client stays after its ClientHello
};

constexpr std::string_view kHttp2Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
constexpr std::string_view kHttp2Settings("\0\0\0\4\0\0\0\0\0", 9);
constexpr std::string_view kHttpRequest = "GET / HTTP/1.1\r\nHost: identity\r\n\r\n";

struct BadPeer {
  std::string name;
  std::function<Shown(const Pki&)> shows = [](const Pki& pki) { return pki.Good(); };
  HandshakeError reason;
  Manner manner = Manner::kTls;
  int version = TLS1_3_VERSION;
  std::string protocol = "h2";  // by ALPN
  bool trusts_us = true;        // or refuses what it is shown
};
void PrintTo(const BadPeer& peer, std::ostream* out) { *out << peer.name; }

class Socket {
 public:
  explicit Socket(int fd) : fd_(fd) {
    ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &kSocketPatience, sizeof(kSocketPatience));
  }
  ~Socket() { ::close(fd_); }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;

  int fd() const { return fd_; }
  void Send(std::string_view bytes) const { ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL); }
  // The number of bytes that came, 0 at the end.
  long Receive() const {
    std::array<char, 4096> buffer{};
    return ::recv(fd_, buffer.data(), buffer.size(), 0);
  }
  void ReceiveAll() const {
    while (Receive() > 0) continue;
  }

 private:
  const int fd_;
};

sockaddr_in LoopbackAddress(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  return address;
}

void Require(bool ok, const char* what) {
  if (!ok) throw std::runtime_error(std::string(what) + ": " + OpenSslReason());
}

int SelectHttp2(SSL* /*ssl*/, const unsigned char** selected, unsigned char* size, const unsigned char* /*offered*/,
                unsigned /*offered_size*/, void* /*argument*/) {
  static constexpr std::array<unsigned char, 2> kHttp2 = {'h', '2'};
  *selected = kHttp2.data();
  *size = kHttp2.size();
  return SSL_TLSEXT_ERR_OK;
}

// One end of one connection, by OpenSSL alone. Make it before the HandshakeObserver: then that does not watch it.
class RawEnd {
 public:
  RawEnd(Side side, const BadPeer& peer) : manner_(peer.manner) {
    const bool serves = side == Side::kServer;
    context_.reset(SSL_CTX_new(serves ? TLS_server_method() : TLS_client_method()));
    SSL_CTX* const context = context_.get();
    Require(context != nullptr, "make context");
    // Old versions and weak keys, which this process otherwise refuses to use.
    SSL_CTX_set_security_level(context, 0);
    SSL_CTX_clear_options(context, SSL_OP_NO_TLSv1_1 | SSL_OP_NO_TLSv1_2);
    Require(SSL_CTX_set_min_proto_version(context, peer.version) == 1, "set version");
    Require(SSL_CTX_set_max_proto_version(context, peer.version) == 1, "set version");

    const Shown shown = peer.shows(ThePki());
    if (!shown.chain_pem.empty()) {
      const auto chain = ParseCertificates(shown.chain_pem);
      const auto key = ParsePrivateKey(Secret<>(shown.key_pem));
      Require(chain && key, "read certificate");
      Require(SSL_CTX_use_certificate(context, chain->front().get()) == 1, "use certificate");
      Require(SSL_CTX_use_PrivateKey(context, key->get()) == 1, "use key");
      for (std::size_t index = 1; index < chain->size(); ++index)
        Require(SSL_CTX_add1_chain_cert(context, chain->at(index).get()) == 1, "use chain");
    }
    if (serves || !peer.trusts_us) {
      const Pki& pki = ThePki();
      X509* const trusted = (peer.trusts_us ? pki.authority : pki.foreign).certificate.get();
      Require(X509_STORE_add_cert(SSL_CTX_get_cert_store(context), trusted) == 1, "trust");
      SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
    }
    if (serves && !peer.protocol.empty()) SSL_CTX_set_alpn_select_cb(context, SelectHttp2, nullptr);

    ssl_.reset(SSL_new(context));
    Require(ssl_ != nullptr, "make connection");
    if (!serves && !peer.protocol.empty()) {
      const std::string list = static_cast<char>(peer.protocol.size()) + peer.protocol;
      Require(SSL_set_alpn_protos(ssl_.get(), reinterpret_cast<const unsigned char*>(list.data()),
                                  static_cast<unsigned>(list.size())) == 0,
              "offer protocol");
    }
  }

  // As a client: connects, and goes on until the server closes. Whether that ever sent application data, as a gRPC
  // server does at once to whoever it accepts.
  bool Knock(int port) {
    socket_.emplace(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const sockaddr_in address = LoopbackAddress(port);
    Require(::connect(socket_->fd(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0, "connect");
    SSL_set_fd(ssl_.get(), socket_->fd());
    SSL_set_connect_state(ssl_.get());
    bool served = false;
    switch (manner_) {
      case Manner::kTls: {
        char byte = 0;
        served = SSL_do_handshake(ssl_.get()) == 1 && SSL_read(ssl_.get(), &byte, 1) == 1;
        if (!served) socket_->ReceiveAll();
        break;
      }
      case Manner::kPlaintext:
      case Manner::kHttp:
        socket_->Send(manner_ == Manner::kPlaintext ? kHttp2Preface : kHttpRequest);
        socket_->ReceiveAll();
        break;
      case Manner::kCloseAtHello:
      case Manner::kNothingMore:
        SayHello();
        if (manner_ == Manner::kNothingMore) socket_->ReceiveAll();
        break;
      case Manner::kNothing:
        socket_->ReceiveAll();
        break;
      case Manner::kClose:
        break;
    }
    ERR_clear_error();
    socket_.reset();
    return served;
  }

  // As a server of one connection, until the client closes it. Nobody listens any more when that has come.
  void Serve(std::optional<Socket>& listener) {
    socket_.emplace(::accept4(listener->fd(), nullptr, nullptr, SOCK_CLOEXEC));
    listener.reset();
    SSL_set_fd(ssl_.get(), socket_->fd());
    SSL_set_accept_state(ssl_.get());
    switch (manner_) {
      case Manner::kTls:
        if (SSL_do_handshake(ssl_.get()) == 1)
          SSL_write(ssl_.get(), kHttp2Settings.data(), static_cast<int>(kHttp2Settings.size()));
        else
          // What was written, such as an alert, is lost to the other end if this one closes with something unread.
          ::shutdown(socket_->fd(), SHUT_WR);
        socket_->ReceiveAll();
        break;
      case Manner::kPlaintext:
        socket_->Send(kHttp2Settings);
        socket_->ReceiveAll();
        break;
      case Manner::kHttp:
        socket_->Receive();
        socket_->Send("HTTP/1.1 400 Bad Request\r\n\r\n");
        socket_->ReceiveAll();
        break;
      case Manner::kCloseAtHello:
        socket_->Receive();
        break;
      case Manner::kNothing:
      case Manner::kNothingMore:
        socket_->ReceiveAll();
        break;
      case Manner::kClose:
        break;
    }
    ERR_clear_error();
    socket_.reset();
  }

 private:
  void SayHello() {
    // Into memory first: the handshake then stops where it would wait.
    BIO* const written = BIO_new(BIO_s_mem());
    SSL_set_bio(ssl_.get(), BIO_new(BIO_s_mem()), written);
    SSL_do_handshake(ssl_.get());
    char* hello = nullptr;
    const long size = BIO_get_mem_data(written, &hello);
    socket_->Send({hello, static_cast<std::size_t>(size)});
  }

  const Manner manner_;
  SslContextPtr context_;
  SslPtr ssl_;
  std::optional<Socket> socket_;
};

class RawServer {
 public:
  explicit RawServer(const BadPeer& peer)
      : end_(Side::kServer, peer), listener_(std::in_place, ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address = LoopbackAddress(0);
    socklen_t size = sizeof(address);
    auto* const generic = reinterpret_cast<sockaddr*>(&address);
    Require(::bind(listener_->fd(), generic, size) == 0 && ::listen(listener_->fd(), 1) == 0, "listen");
    ::getsockname(listener_->fd(), generic, &size);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { end_.Serve(listener_); });
  }
  ~RawServer() { thread_.join(); }
  RawServer(const RawServer&) = delete;
  RawServer& operator=(const RawServer&) = delete;

  int port() const { return port_; }

 private:
  RawEnd end_;
  std::optional<Socket> listener_;  // the thread's, once that runs
  int port_ = 0;
  std::thread thread_;
};

// Answers any method, with nothing.
class AnyService final : public grpc::CallbackGenericService {
  class Reactor final : public grpc::ServerGenericBidiReactor {
   public:
    Reactor() { StartWriteAndFinish(&nothing_, {}, grpc::Status::OK); }
    void OnDone() override { delete this; }

   private:
    const grpc::Slice slice_{""};
    const grpc::ByteBuffer nothing_{&slice_, 1};
  };
  grpc::ServerGenericBidiReactor* CreateReactor(grpc::GenericCallbackServerContext* /*context*/) override {
    return new Reactor;
  }
};

grpc::Status CallOnce(const std::shared_ptr<grpc::Channel>& channel) {
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kPatience);
  const grpc::Slice slice("hello");
  const grpc::ByteBuffer request(&slice, 1);
  grpc::ByteBuffer response;
  std::promise<grpc::Status> done;
  stub.UnaryCall(&context, "/test.Any/Thing", {}, &request, &response,
                 [&done](grpc::Status status) { done.set_value(std::move(status)); });
  return done.get_future().get();
}

class NegativeMatrix : public testing::TestWithParam<BadPeer> {
 protected:
  NegativeMatrix() {
    Put("identity", ThePki().Good());
    Put("gateway", ThePki().Named("URI:spiffe://nova/gateway,DNS:gateway.nova.svc.cluster.local"));
  }
  ~NegativeMatrix() override { StopServer(); }

  void Put(const std::string& folder, const Shown& shown) {
    directory_.Write(folder + "/tls.crt", shown.chain_pem);
    directory_.Write(folder + "/tls.key", shown.key_pem);
    directory_.Write(folder + "/ca.crt", ThePki().authority.certificate_pem);
  }

  // From here on everything that TLS is used for is watched.
  void Watch(HandshakeLimits limits = {.server = 60s, .client = 60s}) { observer_.emplace(metrics_, limits); }

  std::unique_ptr<IdentityPublisher> Publish(const std::string& folder, Usage usage) {
    auto publisher = IdentityPublisher::Create(
        {.files = TestFiles(directory_ / folder), .usage = usage, .directory = directory_.path()}, Clock::System(),
        metrics_);
    if (!publisher) throw std::runtime_error(publisher.error().ToString());
    return *std::move(publisher);
  }

  int StartServer(ClientCertificate client_certificate = ClientCertificate::kRequired,
                  std::chrono::milliseconds handshake_timeout = 60s) {
    server_identity_ = Publish("identity", Usage::kServer);
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", MakeServerCredentials(*server_identity_, client_certificate), &port);
    builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, static_cast<int>(handshake_timeout.count()));
    builder.RegisterCallbackGenericService(&service_);
    server_ = builder.BuildAndStart();
    if (server_ == nullptr) throw std::runtime_error("the server does not start");
    return port;
  }
  void StopServer() {
    if (server_ == nullptr) return;
    server_->Shutdown(std::chrono::system_clock::now());
    server_->Wait();
    server_.reset();
  }

  // A channel to "identity"; `connect_timeout` is for one attempt, a refused one is not soon followed by another.
  std::shared_ptr<grpc::Channel> Channel(int port, std::chrono::milliseconds connect_timeout = 2 * kPatience) {
    if (client_identity_ == nullptr) client_identity_ = Publish("gateway", Usage::kClient);
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    // An attempt may last as long as the longer of these; the next one begins when the first is over.
    arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, static_cast<int>(connect_timeout.count()));
    arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, static_cast<int>(connect_timeout.count()));
    const ChannelCredentials credentials = ChannelIdentity(*client_identity_).For("identity");
    credentials.ApplyTo(arguments);
    return grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(port), credentials.credentials, arguments);
  }

  // What one attempt to connect comes to.
  static grpc_connectivity_state Connect(const std::shared_ptr<grpc::Channel>& channel) {
    const auto limit = std::chrono::system_clock::now() + kPatience;
    grpc_connectivity_state state = channel->GetState(true);
    while (state != GRPC_CHANNEL_READY && state != GRPC_CHANNEL_TRANSIENT_FAILURE &&
           channel->WaitForStateChange(state, limit))
      state = channel->GetState(false);
    return state;
  }

  // The counts that are not zero, as they are exported.
  std::vector<std::string> Failures() const {
    std::vector<std::string> lines;
    std::istringstream text(metrics_.Scrape());
    for (std::string line; std::getline(text, line);)
      if (line.starts_with("nova_tls_handshake_errors_total{") && !line.ends_with(" 0")) lines.push_back(line);
    std::ranges::sort(lines);
    return lines;
  }
  static std::vector<std::string> One(Side side, HandshakeError error) {
    return {"nova_tls_handshake_errors_total{reason=\"" + std::string(HandshakeErrorName(error)) + "\",side=\"" +
            std::string(SideName(side)) + "\"} 1"};
  }
  double Succeeded(Side side) const {
    const std::string name = "nova_tls_handshake_seconds_count{side=\"" + std::string(SideName(side)) + "\"} ";
    const std::string text = metrics_.Scrape();
    const std::size_t found = text.find(name);
    return found == std::string::npos ? -1 : std::stod(text.substr(found + name.size()));
  }
  // gRPC drops a connection in its own time.
  void AwaitFailures(const std::vector<std::string>& failures) const {
    const auto limit = std::chrono::steady_clock::now() + kPatience;
    while (Failures() != failures && std::chrono::steady_clock::now() < limit) std::this_thread::yield();
  }

  // The bad one has been here: a good one is served, and when all connections are closed the counts are these.
  void ExpectHealthyAndCounted(int port, const std::vector<std::string>& failures) {
    AwaitFailures(failures);
    const double server_before = Succeeded(Side::kServer);
    const double client_before = Succeeded(Side::kClient);
    const grpc::Status answered = CallOnce(Channel(port));
    EXPECT_TRUE(answered.ok()) << answered.error_message();
    StopServer();
    EXPECT_EQ(Failures(), failures);
    EXPECT_EQ(Succeeded(Side::kServer), server_before + 1);
    EXPECT_EQ(Succeeded(Side::kClient), client_before + 1);
  }
  TestDirectory directory_;
  telemetry::Metrics metrics_;
  std::optional<HandshakeObserver> observer_;
  AnyService service_;
  std::unique_ptr<IdentityPublisher> server_identity_;
  std::unique_ptr<IdentityPublisher> client_identity_;
  std::unique_ptr<grpc::Server> server_;
};

std::string NameOf(const testing::TestParamInfo<BadPeer>& info) { return info.param.name; }
Shown Nothing(const Pki& /*pki*/) { return {}; }

class ServerMeets : public NegativeMatrix {};

TEST_P(ServerMeets, BadClient) {
  RawEnd client(Side::kClient, GetParam());
  Watch();
  const int port = StartServer();
  EXPECT_FALSE(client.Knock(port));
  ExpectHealthyAndCounted(port, One(Side::kServer, GetParam().reason));
}

INSTANTIATE_TEST_SUITE_P(
    Matrix, ServerMeets,
    testing::Values(
        BadPeer{.name = "NoCertificate", .shows = Nothing, .reason = HandshakeError::kNoClientCertificate},
        BadPeer{.name = "Expired", .shows = &Pki::Expired, .reason = HandshakeError::kCertificateExpired},
        BadPeer{.name = "NotYetValid", .shows = &Pki::NotYetValid, .reason = HandshakeError::kCertificateNotYetValid},
        BadPeer{.name = "UnknownCa", .shows = &Pki::UnknownCa, .reason = HandshakeError::kCertificateUnknownCa},
        BadPeer{
            .name = "UnknownCaShown", .shows = &Pki::UnknownCaInChain, .reason = HandshakeError::kCertificateUnknownCa},
        BadPeer{.name = "ForgedCa", .shows = &Pki::ForgedCa, .reason = HandshakeError::kCertificateUnknownCa},
        BadPeer{.name = "SelfSigned", .shows = &Pki::SelfSigned, .reason = HandshakeError::kCertificateSelfSigned},
        BadPeer{.name = "NameOfAnotherDomain",
                .shows = [](const Pki& pki) { return pki.Named("URI:spiffe://mars/identity"); },
                .reason = HandshakeError::kCertificateWrongName},
        BadPeer{.name = "NoUriName",
                .shows = [](const Pki& pki) { return pki.Named("DNS:identity.nova.svc.cluster.local"); },
                .reason = HandshakeError::kCertificateWrongName},
        BadPeer{.name = "TwoUriNames",
                .shows = [](const Pki& pki) { return pki.Named("URI:spiffe://nova/identity,URI:spiffe://nova/user"); },
                .reason = HandshakeError::kCertificateWrongName},
        BadPeer{.name = "NoPrincipalsName",
                .shows = [](const Pki& pki) { return pki.Named("URI:spiffe://nova/Identity/x"); },
                .reason = HandshakeError::kCertificateWrongName},
        BadPeer{.name = "WrongUsage",
                .shows = [](const Pki& pki) { return pki.Used("serverAuth"); },
                .reason = HandshakeError::kCertificateWrongUsage},
        BadPeer{.name = "WeakKey", .shows = &Pki::WeakKey, .reason = HandshakeError::kCertificateWeakKey},
        BadPeer{.name = "BrokenChain", .shows = &Pki::BrokenChain, .reason = HandshakeError::kCertificateUnknownCa},
        BadPeer{.name = "Plaintext", .reason = HandshakeError::kPlaintext, .manner = Manner::kPlaintext},
        BadPeer{.name = "PlaintextHttp", .reason = HandshakeError::kPlaintext, .manner = Manner::kHttp},
        BadPeer{.name = "Tls12", .reason = HandshakeError::kProtocol, .version = TLS1_2_VERSION},
        BadPeer{.name = "Tls11", .reason = HandshakeError::kProtocol, .version = TLS1_1_VERSION},
        BadPeer{.name = "NoApplicationProtocol", .reason = HandshakeError::kProtocol, .protocol = ""},
        BadPeer{.name = "OtherApplicationProtocol", .reason = HandshakeError::kProtocol, .protocol = "http/1.1"},
        BadPeer{.name = "RefusesOurs", .reason = HandshakeError::kRefusedByPeer, .trusts_us = false},
        BadPeer{.name = "ConnectAndClose", .reason = HandshakeError::kPeerClosed, .manner = Manner::kClose},
        BadPeer{.name = "HelloAndClose", .reason = HandshakeError::kPeerClosed, .manner = Manner::kCloseAtHello}),
    NameOf);

class ServerWaitsFor : public NegativeMatrix {};

TEST_P(ServerWaitsFor, SilentClient) {
  RawEnd client(Side::kClient, GetParam());
  Watch({.server = 300ms, .client = 60s});
  const int port = StartServer(ClientCertificate::kRequired, 300ms);
  EXPECT_FALSE(client.Knock(port));
  // No good one here: on a busy machine that too may take longer than this limit.
  AwaitFailures(One(Side::kServer, GetParam().reason));
  StopServer();
  EXPECT_EQ(Failures(), One(Side::kServer, GetParam().reason));
}

INSTANTIATE_TEST_SUITE_P(
    Matrix, ServerWaitsFor,
    testing::Values(BadPeer{.name = "FromTheStart", .reason = HandshakeError::kTimeout, .manner = Manner::kNothing},
                    BadPeer{
                        .name = "AfterItsHello", .reason = HandshakeError::kTimeout, .manner = Manner::kNothingMore}),
    NameOf);

class ServerAccepts : public NegativeMatrix {};

TEST_P(ServerAccepts, GoodClient) {
  RawEnd client(Side::kClient, GetParam());
  Watch();
  const int port = StartServer(GetParam().name == "NoCertificateWhereOptional" ? ClientCertificate::kOptional
                                                                               : ClientCertificate::kRequired);
  EXPECT_TRUE(client.Knock(port));
  ExpectHealthyAndCounted(port, {});
}

// The same raw client with nothing wrong: what the others are refused for is what is wrong with them.
INSTANTIATE_TEST_SUITE_P(Matrix, ServerAccepts,
                         testing::Values(BadPeer{.name = "Good", .reason = {}},
                                         BadPeer{.name = "WholeChain", .shows = &Pki::WholeChain, .reason = {}},
                                         BadPeer{.name = "ClientUsageOnly",
                                                 .shows = [](const Pki& pki) { return pki.Used("clientAuth"); },
                                                 .reason = {}},
                                         BadPeer{.name = "NoCertificateWhereOptional", .shows = Nothing, .reason = {}}),
                         NameOf);

TEST_F(ServerMeets, BadCertificateWhereNoneIsNeeded) {
  RawEnd client(Side::kClient, {.name = "", .shows = &Pki::Expired, .reason = {}});
  Watch();
  const int port = StartServer(ClientCertificate::kOptional);
  EXPECT_FALSE(client.Knock(port));
  ExpectHealthyAndCounted(port, One(Side::kServer, HandshakeError::kCertificateExpired));
}

TEST_F(ServerMeets, ClientOfWithdrawnCa) {
  const Pki& pki = ThePki();
  const BadPeer of_former{.name = "", .shows = &Pki::UnknownCa, .reason = {}};
  RawEnd before(Side::kClient, of_former);
  RawEnd after(Side::kClient, of_former);
  // Two authorities, as in the midst of a rotation.
  directory_.Write("identity/ca.crt", pki.authority.certificate_pem + pki.foreign.certificate_pem);
  Watch();
  const int port = StartServer();
  EXPECT_TRUE(before.Knock(port));
  EXPECT_EQ(Failures(), std::vector<std::string>());
  directory_.Write("identity/ca.crt", pki.authority.certificate_pem);
  ASSERT_EQ(server_identity_->Check(), IdentityPublisher::Outcome::kPublished);
  // There is nothing to await: what gRPC has read of the published files cannot be seen, but this is its promise.
  const auto limit = std::chrono::steady_clock::now() + kHandshakesFollowWithin;
  while (std::chrono::steady_clock::now() < limit) std::this_thread::yield();
  EXPECT_FALSE(after.Knock(port));
  ExpectHealthyAndCounted(port, One(Side::kServer, HandshakeError::kCertificateUnknownCa));
}

TEST_F(ServerMeets, ManyBadClientsAtOnce) {
  constexpr int kEach = 8;
  std::vector<std::unique_ptr<RawEnd>> clients;
  for (int index = 0; index < kEach; ++index) {
    clients.push_back(std::make_unique<RawEnd>(Side::kClient, BadPeer{.name = "", .shows = Nothing, .reason = {}}));
    clients.push_back(
        std::make_unique<RawEnd>(Side::kClient, BadPeer{.name = "", .reason = {}, .version = TLS1_2_VERSION}));
    clients.push_back(
        std::make_unique<RawEnd>(Side::kClient, BadPeer{.name = "", .reason = {}, .manner = Manner::kClose}));
  }
  Watch();
  const int port = StartServer();
  std::vector<std::thread> threads;
  threads.reserve(clients.size());
  for (auto& client : clients) threads.emplace_back([&client, port] { EXPECT_FALSE(client->Knock(port)); });
  for (auto& thread : threads) thread.join();
  std::vector<std::string> expected;
  for (const HandshakeError error :
       {HandshakeError::kNoClientCertificate, HandshakeError::kPeerClosed, HandshakeError::kProtocol}) {
    expected.push_back(One(Side::kServer, error).front());
    expected.back().back() = '0' + kEach;
  }
  AwaitFailures(expected);
  ExpectHealthyAndCounted(port, expected);
}

// `openssl s_client` as a peer that is not ours.
TEST_F(ServerMeets, SClient) {
  Watch();
  const int port = StartServer();
  const std::string connect =
      "openssl s_client -alpn h2 -connect 127.0.0.1:" + std::to_string(port) + " </dev/null -quiet -no_ign_eof ";
  const auto show = [&](const std::string& folder, const Shown& shown) {
    return "-cert " + directory_.Write(folder + "/tls.crt", shown.chain_pem) + " -key " +
           directory_.Write(folder + "/tls.key", shown.key_pem);
  };
  std::vector<std::string> expected;
  const auto knock = [&](const std::string& options, HandshakeError reason) {
    RunCommand(connect + options);
    expected.push_back(One(Side::kServer, reason).front());
    std::ranges::sort(expected);
    AwaitFailures(expected);
    EXPECT_EQ(Failures(), expected) << options;
  };
  knock("", HandshakeError::kNoClientCertificate);
  knock(show("self_signed", ThePki().SelfSigned()), HandshakeError::kCertificateSelfSigned);
  knock(show("expired", ThePki().Expired()), HandshakeError::kCertificateExpired);
  knock(show("good", ThePki().Good()) + " -tls1_2", HandshakeError::kProtocol);
  EXPECT_TRUE(CallOnce(Channel(port)).ok());
}

class ChannelMeets : public NegativeMatrix {};

TEST_P(ChannelMeets, BadServer) {
  std::optional<RawServer> bad(std::in_place, GetParam());
  Watch();
  EXPECT_EQ(Connect(Channel(bad->port())), GRPC_CHANNEL_TRANSIENT_FAILURE);
  bad.reset();
  // The same process goes on to reach a good one.
  ExpectHealthyAndCounted(StartServer(), One(Side::kClient, GetParam().reason));
}

INSTANTIATE_TEST_SUITE_P(
    Matrix, ChannelMeets,
    testing::Values(
        BadPeer{.name = "Expired", .shows = &Pki::Expired, .reason = HandshakeError::kCertificateExpired},
        BadPeer{.name = "NotYetValid", .shows = &Pki::NotYetValid, .reason = HandshakeError::kCertificateNotYetValid},
        BadPeer{.name = "UnknownCa", .shows = &Pki::UnknownCa, .reason = HandshakeError::kCertificateUnknownCa},
        BadPeer{
            .name = "UnknownCaShown", .shows = &Pki::UnknownCaInChain, .reason = HandshakeError::kCertificateUnknownCa},
        BadPeer{.name = "ForgedCa", .shows = &Pki::ForgedCa, .reason = HandshakeError::kCertificateUnknownCa},
        BadPeer{.name = "SelfSigned", .shows = &Pki::SelfSigned, .reason = HandshakeError::kCertificateSelfSigned},
        BadPeer{.name = "WrongName",
                .shows =
                    [](const Pki& pki) {
                      return pki.Named("URI:spiffe://nova/user,DNS:user.nova.svc.cluster.local,DNS:localhost");
                    },
                .reason = HandshakeError::kCertificateWrongName},
        BadPeer{.name = "WrongUsage",
                .shows = [](const Pki& pki) { return pki.Used("clientAuth"); },
                .reason = HandshakeError::kCertificateWrongUsage},
        BadPeer{.name = "WeakKey", .shows = &Pki::WeakKey, .reason = HandshakeError::kCertificateWeakKey},
        BadPeer{.name = "BrokenChain", .shows = &Pki::BrokenChain, .reason = HandshakeError::kCertificateUnknownCa},
        BadPeer{.name = "Plaintext", .reason = HandshakeError::kPlaintext, .manner = Manner::kPlaintext},
        BadPeer{.name = "PlaintextHttp", .reason = HandshakeError::kPlaintext, .manner = Manner::kHttp},
        BadPeer{.name = "Tls12", .reason = HandshakeError::kProtocol, .version = TLS1_2_VERSION},
        BadPeer{.name = "Tls11", .reason = HandshakeError::kProtocol, .version = TLS1_1_VERSION},
        BadPeer{.name = "NoApplicationProtocol", .reason = HandshakeError::kProtocol, .protocol = ""},
        BadPeer{.name = "RefusesOurs", .reason = HandshakeError::kRefusedByPeer, .trusts_us = false},
        BadPeer{.name = "ClosesAtOnce", .reason = HandshakeError::kPeerClosed, .manner = Manner::kClose},
        BadPeer{.name = "ClosesAtHello", .reason = HandshakeError::kPeerClosed, .manner = Manner::kCloseAtHello}),
    NameOf);

// Both ends are gRPC's. The server sends no alert, so all the channel can tell is that it never got an answer.
TEST_F(ChannelMeets, ServerThatDoesNotTrustIt) {
  const Pki& pki = ThePki();
  Put("gateway", pki.UnknownCa());
  directory_.Write("gateway/ca.crt", pki.authority.certificate_pem + pki.foreign.certificate_pem);
  Watch();
  const int port = StartServer();
  EXPECT_EQ(Connect(Channel(port)), GRPC_CHANNEL_TRANSIENT_FAILURE);
  std::vector<std::string> expected = One(Side::kClient, HandshakeError::kPeerClosed);
  expected.insert(expected.begin(), One(Side::kServer, HandshakeError::kCertificateUnknownCa).front());
  AwaitFailures(expected);
  StopServer();
  EXPECT_EQ(Failures(), expected);
  EXPECT_EQ(Succeeded(Side::kServer), 0);
  EXPECT_EQ(Succeeded(Side::kClient), 0);
}

TEST_F(ChannelMeets, GoodRawServer) {
  std::optional<RawServer> good(std::in_place, BadPeer{.name = "", .reason = {}});
  Watch();
  EXPECT_EQ(Connect(Channel(good->port())), GRPC_CHANNEL_READY);
  good.reset();
  ExpectHealthyAndCounted(StartServer(), {});
}

TEST_F(ChannelMeets, SilentServer) {
  std::optional<RawServer> silent(std::in_place, BadPeer{.name = "", .reason = {}, .manner = Manner::kNothing});
  // gRPC varies the time by a fifth.
  Watch({.server = 60s, .client = 400ms});
  EXPECT_EQ(Connect(Channel(silent->port(), 500ms)), GRPC_CHANNEL_TRANSIENT_FAILURE);
  silent.reset();
  ExpectHealthyAndCounted(StartServer(), One(Side::kClient, HandshakeError::kTimeout));
}

TEST_F(ChannelMeets, NobodyAtAll) {
  Watch();
  int port = 0;
  {
    const Socket listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address = LoopbackAddress(0);
    socklen_t size = sizeof(address);
    auto* const generic = reinterpret_cast<sockaddr*>(&address);
    ASSERT_EQ(::bind(listener.fd(), generic, size), 0);
    ::getsockname(listener.fd(), generic, &size);
    port = ntohs(address.sin_port);
  }
  EXPECT_EQ(Connect(Channel(port)), GRPC_CHANNEL_TRANSIENT_FAILURE);
  // No handshake was begun, so none has failed.
  ExpectHealthyAndCounted(StartServer(), {});
}

}  // namespace
}  // namespace nova::tls
