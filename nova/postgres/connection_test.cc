// What a connection does when there is no PostgreSQL at the other end.
#include "nova/postgres/connection.h"

#include <boost/asio/ip/tcp.hpp>
#include <gtest/gtest.h>

#include "nova/runtime/runtime.h"

namespace nova::postgres {
namespace {

using namespace std::chrono_literals;
using asio::ip::tcp;
using runtime::Call;
using runtime::Task;

constexpr std::string_view kPassword = "correct-horse-battery";

ConnectionConfig To(int port) {
  return {.host = "127.0.0.1",
          .port = port,
          .database = "identity",
          .user = "identity",
          .password = Secret<>(std::string(kPassword)),
          .ssl_mode = SslMode::kDisable,
          .ssl_root_cert = {},
          .application_name = "nova-test"};
}

class ConnectionTest : public ::testing::Test {
 protected:
  // The error of an attempt to connect.
  Error Failure(const ConnectionConfig& config, Duration timeout) {
    const Result<void> result = runtime_.RunBlocking<void>(timeout, [&](Call& call) -> Task<void> {
      NOVA_CO_TRY(co_await Connection::Open(call, config, 100ms, canceller_));
      co_return Ok();
    });
    EXPECT_FALSE(result.ok());
    if (result.ok()) return {};
    EXPECT_EQ(result.error().ToString().find(kPassword), std::string::npos) << result.error().ToString();
    return result.error();
  }

  runtime::Runtime runtime_{{.threads = 2}};
  Canceller canceller_;
};

// Listens; whether anybody answers is up to the test.
struct Listener {
  tcp::acceptor acceptor;
  explicit Listener(asio::io_context& io) : acceptor(io, tcp::endpoint(asio::ip::address_v4::loopback(), 0)) {}
  int port() const { return acceptor.local_endpoint().port(); }
};

TEST_F(ConnectionTest, ARefusedPortIsUnavailableAndNamed) {
  int port = 0;
  {
    Listener gone(runtime_.io());
    port = gone.port();
  }
  const Error error = Failure(To(port), 10s);
  EXPECT_EQ(error.code(), Code::kUnavailable);
  EXPECT_EQ(error.message(), "the database is unavailable");
  EXPECT_NE(error.detail().find("connect to 127.0.0.1:" + std::to_string(port)), std::string::npos) << error.detail();
}

TEST_F(ConnectionTest, APeerThatSaysNothingEndsAtTheDeadline) {
  Listener silent(runtime_.io());
  const SteadyTime begin = Clock::System().Now();
  EXPECT_EQ(Failure(To(silent.port()), 50ms).code(), Code::kDeadlineExceeded);
  EXPECT_LT(Clock::System().Now() - begin, 5s);
}

TEST_F(ConnectionTest, APeerThatHangsUpIsUnavailable) {
  Listener rude(runtime_.io());
  rude.acceptor.async_accept([](const boost::system::error_code&, tcp::socket) {});
  EXPECT_EQ(Failure(To(rude.port()), 10s).code(), Code::kUnavailable);
}

TEST_F(ConnectionTest, APeerThatSpeaksAnotherProtocolIsUnavailable) {
  Listener web(runtime_.io());
  web.acceptor.async_accept([](const boost::system::error_code&, tcp::socket socket) {
    boost::system::error_code ignored;
    asio::write(socket, asio::buffer(std::string_view("HTTP/1.1 400 Bad Request\r\n\r\n")), ignored);
  });
  EXPECT_EQ(Failure(To(web.port()), 10s).code(), Code::kUnavailable);
}

TEST_F(ConnectionTest, APeerWithoutTlsIsNotSpokenToInPlainText) {
  Listener plain(runtime_.io());
  std::promise<std::string> after_refusal;
  plain.acceptor.async_accept([&](const boost::system::error_code&, tcp::socket socket) {
    boost::system::error_code ignored;
    std::array<char, 8> ssl_request{};
    asio::read(socket, asio::buffer(ssl_request), ignored);
    asio::write(socket, asio::buffer("N", 1), ignored);
    std::string rest;
    asio::read(socket, asio::dynamic_buffer(rest), ignored);
    after_refusal.set_value(rest);
  });
  ConnectionConfig config = To(plain.port());
  config.ssl_mode = SslMode::kRequire;
  EXPECT_EQ(Failure(config, 10s).code(), Code::kUnavailable);
  EXPECT_EQ(after_refusal.get_future().get(), "");
}

TEST_F(ConnectionTest, AMissingAuthorityFileIsUnavailableAndNamed) {
  Listener silent(runtime_.io());
  ConnectionConfig config = To(silent.port());
  config.ssl_mode = SslMode::kVerifyFull;
  config.ssl_root_cert = "/nonexistent/ca.crt";
  silent.acceptor.async_accept([](const boost::system::error_code&, tcp::socket socket) {
    boost::system::error_code ignored;
    std::array<char, 8> ssl_request{};
    asio::read(socket, asio::buffer(ssl_request), ignored);
    asio::write(socket, asio::buffer("S", 1), ignored);
  });
  const Error error = Failure(config, 10s);
  EXPECT_EQ(error.code(), Code::kUnavailable);
  EXPECT_NE(error.detail().find("/nonexistent/ca.crt"), std::string::npos) << error.detail();
}

TEST_F(ConnectionTest, AnEndedCallConnectsNowhere) {
  Listener listener(runtime_.io());
  const Result<void> result = runtime_.RunBlocking<void>(10s, [&](Call& call) -> Task<void> {
    call.Cancel(Cancelled("the client went away"));
    NOVA_CO_TRY(co_await Connection::Open(call, To(listener.port()), 100ms, canceller_));
    co_return Ok();
  });
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().code(), Code::kCancelled);
  listener.acceptor.non_blocking(true);
  boost::system::error_code error;
  tcp::socket nobody(runtime_.io());
  listener.acceptor.accept(nobody, error);
  EXPECT_EQ(error, asio::error::would_block);
}

}  // namespace
}  // namespace nova::postgres
