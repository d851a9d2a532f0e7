// The client over TLS, against a server of OpenSSL's that shows what a test wants to see refused.
#include <array>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/asio/write.hpp>
#include <functional>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <openssl/ssl.h>
#include <semaphore>
#include <string>
#include <sys/socket.h>
#include <thread>
#include <utility>

#include "nova/http/client.h"
#include "nova/http/test_peer.h"
#include "nova/runtime/runtime.h"
#include "nova/runtime/scope.h"
#include "nova/tls/test_pki.h"

namespace nova::http {
namespace {

namespace asio = boost::asio;
namespace ssl = boost::asio::ssl;
using namespace std::chrono_literals;
using runtime::Call;
using runtime::Task;
using testing::HasSubstr;

tls::TestCertificateSpec Valid(tls::TestCertificateSpec spec) {
  spec.not_before = Clock::System().WallNow() - 1h;
  spec.not_after = Clock::System().WallNow() + 24h;
  return spec;
}

class ClientTlsTest : public testing::Test {
 protected:
  using Stream = ssl::stream<asio::ip::tcp::socket>;

  tls::TestCertificate Leaf(const std::string& names) {
    auto spec = Valid({});
    spec.names = names;
    return tls::MakeCertificate(spec, &authority_);
  }

  // One connection to a server that shows `leaf` and, once TLS stands, does `serve`.
  Result<Response> SendTo(const tls::TestCertificate& leaf, const std::string& host,
                          const std::function<void(Stream&)>& serve = Answer,
                          Request request = {.method = "GET", .path = "/"}, int version_max = TLS1_3_VERSION) {
    asio::io_context io;
    ssl::context context(ssl::context::tls_server);
    context.use_certificate_chain(asio::buffer(leaf.certificate_pem));
    context.use_private_key(asio::buffer(leaf.key_pem), ssl::context::pem);
    SSL_CTX_set_max_proto_version(context.native_handle(), version_max);
    asio::ip::tcp::acceptor acceptor(io, {asio::ip::make_address("127.0.0.1"), 0});
    std::thread server([&] {
      Stream stream(acceptor.accept(), context);
      const timeval limit{.tv_sec = kPeerLimit.count(), .tv_usec = 0};
      ::setsockopt(stream.lowest_layer().native_handle(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
      boost::system::error_code error;
      stream.handshake(ssl::stream_base::server, error);
      if (!error) serve(stream);
      // To close with something unread would reset the connection, and the answer would be lost with it.
      auto& socket = stream.next_layer();
      socket.shutdown(asio::ip::tcp::socket::shutdown_send, error);
      std::array<char, 4096> ignored;
      while (!error) socket.read_some(asio::buffer(ignored), error);
    });
    const Origin origin{.tls = true, .host = host, .port = acceptor.local_endpoint().port()};
    auto response = runtime_.RunBlocking<Response>(limit_, [&](Call& call) -> Task<Response> {
      give_up_ = [&call] { asio::post(call.strand(), [&call] { call.Cancel(Cancelled("enough")); }); };
      const Client client(dependency_, {.ca_path = ca_path_});
      co_return co_await client.Send(call, origin, request, resilience::Idempotency::kNone);
    });
    over_.release();
    server.join();
    return response;
  }

  static std::string ReadRequest(Stream& stream) {
    std::string text;
    std::array<char, 4096> part;
    boost::system::error_code error;
    while (text.find("\r\n\r\n") == std::string::npos && !error)
      text.append(part.data(), stream.read_some(asio::buffer(part), error));
    return text;
  }
  static void Write(Stream& stream, const std::string& text) {
    boost::system::error_code ignored;
    asio::write(stream, asio::buffer(text), ignored);
  }
  static void Answer(Stream& stream) {
    ReadRequest(stream);
    Write(stream, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
  }

  const tls::TestDirectory folder_;
  const tls::TestCertificate authority_ = tls::MakeCertificate(Valid(tls::AuthoritySpec()));
  std::string ca_path_ = folder_.Write("ca.pem", authority_.certificate_pem);
  Duration limit_ = kPeerLimit;
  // Ends the client's call, as its caller would; for the server, while the client waits for it.
  std::function<void()> give_up_;
  // The client has its answer, or an error.
  std::counting_semaphore<> over_{0};
  telemetry::Metrics metrics_;
  resilience::HttpDependency dependency_{"http", metrics_};
  runtime::Runtime runtime_{{.threads = 2}};
};

TEST_F(ClientTlsTest, AServerThatProvesItsNameIsAsked) {
  std::string request;
  std::string server_name;
  const auto response =
      SendTo(Leaf("DNS:localhost"), "localhost",
             [&](Stream& stream) {
               if (const char* name = SSL_get_servername(stream.native_handle(), TLSEXT_NAMETYPE_host_name))
                 server_name = name;
               EXPECT_STREQ(SSL_get_version(stream.native_handle()), "TLSv1.3");
               request = ReadRequest(stream);
               Write(stream, "HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
             },
             {.method = "POST", .path = "/a", .query = "b=c", .headers = {{"X-One", "1"}}, .body = "body"});
  ASSERT_TRUE(response) << response.error().ToString();
  EXPECT_EQ(response->status, 201);
  EXPECT_EQ(response->body, "hello");
  EXPECT_EQ(server_name, "localhost");
  EXPECT_THAT(request, testing::StartsWith("POST /a?b=c HTTP/1.1\r\n"));
  EXPECT_THAT(request, HasSubstr("\r\nX-One: 1\r\n"));
  EXPECT_THAT(request, HasSubstr("\r\nContent-Length: 4\r\n"));
}

TEST_F(ClientTlsTest, AnAddressIsProvedAsAnAddress) {
  EXPECT_TRUE(SendTo(Leaf("IP:127.0.0.1"), "127.0.0.1"));
  const auto refused = SendTo(Leaf("DNS:127.0.0.1"), "127.0.0.1");
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().detail(), HasSubstr("IP address mismatch"));
}

TEST_F(ClientTlsTest, AnotherNameIsRefused) {
  const auto response = SendTo(Leaf("DNS:example.com,DNS:*.localhost"), "localhost");
  ASSERT_FALSE(response);
  EXPECT_EQ(response.error().code(), Code::kUnavailable);
  EXPECT_EQ(response.error().message(), "the server's certificate is not good");
  EXPECT_THAT(response.error().detail(), HasSubstr("hostname mismatch: it is not for localhost"));
}

TEST_F(ClientTlsTest, AnotherAuthorityIsRefused) {
  const auto other = tls::MakeCertificate(Valid(tls::AuthoritySpec("another authority")));
  ca_path_ = folder_.Write("other.pem", other.certificate_pem);
  const auto response = SendTo(Leaf("DNS:localhost"), "localhost");
  ASSERT_FALSE(response);
  EXPECT_EQ(response.error().message(), "the server's certificate is not good");
  EXPECT_THAT(response.error().detail(), HasSubstr("none of the authorities in " + ca_path_ + " signed it"));
  // The system's authorities know neither of them.
  ca_path_.clear();
  EXPECT_THAT(SendTo(Leaf("DNS:localhost"), "localhost").error().detail(),
              HasSubstr("none of the system's authorities signed it"));
  // Nor does a server's certificate speak for itself.
  auto alone = Valid({});
  EXPECT_THAT(SendTo(tls::MakeCertificate(alone), "localhost").error().detail(), HasSubstr("self-signed"));
}

// The file is read for each connection.
TEST_F(ClientTlsTest, AuthoritiesAreReplacedWithoutARestart) {
  const auto other = tls::MakeCertificate(Valid(tls::AuthoritySpec("another authority")));
  folder_.Write("ca.pem", other.certificate_pem);
  EXPECT_FALSE(SendTo(Leaf("DNS:localhost"), "localhost"));
  folder_.Write("ca.pem", other.certificate_pem + authority_.certificate_pem);
  EXPECT_TRUE(SendTo(Leaf("DNS:localhost"), "localhost"));
}

TEST_F(ClientTlsTest, ACertificateOfAClientIsNoServers) {
  auto spec = Valid({});
  spec.extended_key_usage = "clientAuth";
  const auto response = SendTo(tls::MakeCertificate(spec, &authority_), "localhost");
  ASSERT_FALSE(response);
  EXPECT_EQ(response.error().message(), "the server's certificate is not good");
}

TEST_F(ClientTlsTest, AnExpiredCertificateIsRefused) {
  auto spec = Valid({});
  spec.not_before -= 48h;
  spec.not_after = Clock::System().WallNow() - 1h;
  const auto response = SendTo(tls::MakeCertificate(spec, &authority_), "localhost");
  ASSERT_FALSE(response);
  EXPECT_THAT(response.error().detail(), HasSubstr("expired"));
}

TEST_F(ClientTlsTest, AnOlderProtocolIsRefused) {
  const auto response =
      SendTo(Leaf("DNS:localhost"), "localhost", Answer, {.method = "GET", .path = "/"}, TLS1_2_VERSION);
  ASSERT_FALSE(response);
  EXPECT_EQ(response.error().code(), Code::kUnavailable);
  EXPECT_THAT(response.error().detail(), HasSubstr("the server does not speak TLS 1.3"));
}

TEST_F(ClientTlsTest, AServerWithoutTlsIsTold) {
  for (const auto& [answer, says] : {std::pair("HTTP/1.1 400 Bad Request\r\n\r\n", "the server does not speak TLS"),
                                     std::pair("", "closed the connection during the TLS handshake")}) {
    PeerListener listener;
    std::thread server([&] {
      Peer peer = listener.Accept();
      // Or closing would reset the connection.
      EXPECT_FALSE(peer.ReadSome().empty()) << "a ClientHello";
      (void)peer.Send(answer);
    });
    const auto response = runtime_.RunBlocking<Response>(kPeerLimit, [&](Call& call) -> Task<Response> {
      const Client client(dependency_, {.ca_path = ca_path_});
      co_return co_await client.Send(call, {.tls = true, .host = "localhost", .port = listener.port()},
                                     {.method = "GET", .path = "/"}, resilience::Idempotency::kNone);
    });
    server.join();
    ASSERT_FALSE(response);
    EXPECT_EQ(response.error().code(), Code::kUnavailable);
    EXPECT_THAT(response.error().detail(), HasSubstr(says));
  }
}

TEST_F(ClientTlsTest, AuthoritiesThatCannotBeReadAreNamed) {
  for (const std::string& path : {std::string("/no/such/file"), folder_.Write("noise.pem", "noise")}) {
    ca_path_ = path;
    const auto response = SendTo(Leaf("DNS:localhost"), "localhost");
    ASSERT_FALSE(response);
    EXPECT_EQ(response.error().code(), Code::kInvalidArgument);
    EXPECT_THAT(response.error().message(), HasSubstr(path));
  }
}

// Over TLS the end of a connection is announced; without that, somebody else may have cut the answer.
TEST_F(ClientTlsTest, AnAnswerThatIsCutIsNoAnswer) {
  const auto response = SendTo(Leaf("DNS:localhost"), "localhost", [](Stream& stream) {
    ReadRequest(stream);
    Write(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello");
    stream.lowest_layer().close();
  });
  ASSERT_FALSE(response);
  EXPECT_EQ(response.error().code(), Code::kUnavailable);
  const auto whole = SendTo(Leaf("DNS:localhost"), "localhost", [](Stream& stream) {
    ReadRequest(stream);
    Write(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello");
    boost::system::error_code ignored;
    stream.shutdown(ignored);
  });
  ASSERT_TRUE(whole) << whole.error().ToString();
  EXPECT_EQ(whole->body, "hello");
}

TEST_F(ClientTlsTest, WhoGivesUpLeavesAtOnce) {
  bool has_left = false;
  const auto response = SendTo(Leaf("DNS:localhost"), "localhost", [&](Stream& stream) {
    ReadRequest(stream);
    give_up_();
    std::array<char, 1> byte;
    boost::system::error_code error;
    stream.read_some(asio::buffer(byte), error);
    has_left = error && error != asio::error::try_again;
  });
  EXPECT_EQ(response.error().code(), Code::kCancelled);
  EXPECT_TRUE(has_left);
}

// Larger than what the sockets take while nobody reads.
TEST_F(ClientTlsTest, WhoGivesUpWhileWritingLeavesAtOnce) {
  limit_ = 200ms;
  const std::string body(64 * 1024 * 1024, 'x');
  std::size_t received = 0;
  const auto response = SendTo(Leaf("DNS:localhost"), "localhost",
                               [&](Stream& stream) {
                                 over_.acquire();
                                 std::array<char, 16 * 1024> part;
                                 boost::system::error_code error;
                                 while (!error) received += stream.read_some(asio::buffer(part), error);
                                 EXPECT_NE(error, asio::error::try_again) << "the client has not left";
                               },
                               {.method = "POST", .path = "/", .body = body});
  EXPECT_EQ(response.error().code(), Code::kDeadlineExceeded);
  EXPECT_LT(received, body.size());
}

TEST_F(ClientTlsTest, WhoGivesUpWhileTlsIsSetUpLeavesAtOnce) {
  PeerListener listener;
  const auto response = runtime_.RunBlocking<Response>(200ms, [&](Call& call) -> Task<Response> {
    const Client client(dependency_, {.ca_path = ca_path_});
    co_return co_await client.Send(call, {.tls = true, .host = "localhost", .port = listener.port()},
                                   {.method = "GET", .path = "/"}, resilience::Idempotency::kNone);
  });
  EXPECT_EQ(response.error().code(), Code::kDeadlineExceeded);
  Peer peer = listener.Accept();
  EXPECT_FALSE(peer.ReadToEnd().empty()) << "a ClientHello, and then the end, which ReadToEnd waits for";
}

}  // namespace
}  // namespace nova::http
