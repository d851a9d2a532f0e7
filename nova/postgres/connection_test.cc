// What a connection does when there is no PostgreSQL at the other end.
#include "nova/postgres/connection.h"

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>
#include <future>
#include <gtest/gtest.h>
#include <thread>

#include "nova/runtime/runtime.h"

namespace nova::postgres {
namespace {

using namespace std::chrono_literals;
using namespace std::string_literals;
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
      NOVA_CO_TRY(co_await Connection::Open(call, config));
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

// Speaks as much of the protocol as one log-in, one statement and one cancel request need.
class ScriptedServer {
 public:
  // `answer` is sent once the cancel request has arrived.
  ScriptedServer(asio::io_context& io, std::string answer)
      : listener_(io), thread_([this, &io, answer = std::move(answer)] { Serve(io, answer); }) {}
  ~ScriptedServer() {
    // Ends an accept whose client never came.
    ::shutdown(listener_.acceptor.native_handle(), SHUT_RDWR);
    thread_.join();
  }

  int port() const { return listener_.port(); }

  static std::string Message(char type, std::string_view body) {
    return type + Int32(static_cast<std::uint32_t>(body.size() + 4)) + std::string(body);
  }
  static std::string Ready() { return Message('Z', "I"); }

 private:
  static constexpr std::uint32_t kPid = 4711;
  static constexpr std::uint32_t kKey = 0xc0ffee;
  static constexpr std::uint32_t kCancelRequest = 80877102;

  static std::string Int32(std::uint32_t value) {
    std::string bytes;
    for (int shift = 24; shift >= 0; shift -= 8) bytes += static_cast<char>(value >> shift);
    return bytes;
  }

  void Serve(asio::io_context& io, const std::string& answer) {
    boost::system::error_code ignored;
    tcp::socket session(io);
    listener_.acceptor.accept(session, ignored);
    std::array<char, 4096> buffer{};
    session.read_some(asio::buffer(buffer), ignored);
    asio::write(session, asio::buffer(Message('R', Int32(0)) + Message('K', Int32(kPid) + Int32(kKey)) + Ready()),
                ignored);
    session.read_some(asio::buffer(buffer), ignored);
    {
      tcp::socket cancel(io);
      listener_.acceptor.accept(cancel, ignored);
      std::string request;
      asio::read(cancel, asio::dynamic_buffer(request), asio::transfer_exactly(16), ignored);
      EXPECT_EQ(request, Int32(16) + Int32(kCancelRequest) + Int32(kPid) + Int32(kKey));
    }
    asio::write(session, asio::buffer(answer), ignored);
    // Until the client closes.
    asio::read(session, asio::buffer(buffer), ignored);
  }

  Listener listener_;
  std::thread thread_;
};

class CancelTest : public ConnectionTest {
 protected:
  // Lets a statement run into its deadline at a server that sends `answer` after the cancel request. Returns whether
  // the connection can be used afterwards.
  bool UsableAfter(std::string answer) {
    ScriptedServer server(runtime_.io(), std::move(answer));
    const auto usable = runtime_.RunBlocking<bool>(10s, [&](Call& call) -> Task<bool> {
      NOVA_CO_TRY(const auto connection, co_await Connection::Open(call, To(server.port())));
      Call limited(call, 50ms);
      const auto rows = co_await connection->Query(limited, {"test", "SELECT 1"}, {});
      EXPECT_FALSE(rows.ok());
      if (!rows) EXPECT_EQ(rows.error().code(), Code::kDeadlineExceeded);
      EXPECT_TRUE(connection->abandoned());
      EXPECT_FALSE(connection->usable());
      Call drain(call, 5s);
      const auto drained = co_await connection->Drain(drain, canceller_);
      EXPECT_EQ(drained.ok(), connection->usable());
      EXPECT_FALSE(connection->abandoned());
      co_return connection->usable();
    });
    EXPECT_TRUE(usable.ok()) << usable.error().ToString();
    return usable.ok() && *usable;
  }
};

TEST_F(CancelTest, AConfirmedCancelKeepsTheConnection) {
  const std::string fields = "SERROR\0C57014\0Mcanceling statement\0\0"s;
  EXPECT_TRUE(UsableAfter(ScriptedServer::Message('E', fields) + ScriptedServer::Ready()));
}

// The request may still be on its way, and would hit the next statement.
TEST_F(CancelTest, ACancelThatCameTooLateCostsTheConnection) {
  const std::string done = "SELECT 0\0"s;
  EXPECT_FALSE(UsableAfter(ScriptedServer::Message('1', "") + ScriptedServer::Message('2', "") +
                           ScriptedServer::Message('n', "") + ScriptedServer::Message('C', done) +
                           ScriptedServer::Ready()));
}

TEST_F(CancelTest, AnotherErrorIsNoConfirmation) {
  const std::string fields = "SERROR\0C22012\0Mdivision by zero\0\0"s;
  EXPECT_FALSE(UsableAfter(ScriptedServer::Message('E', fields) + ScriptedServer::Ready()));
}

TEST_F(ConnectionTest, AnEndedCallConnectsNowhere) {
  Listener listener(runtime_.io());
  const Result<void> result = runtime_.RunBlocking<void>(10s, [&](Call& call) -> Task<void> {
    call.Cancel(Cancelled("the client went away"));
    NOVA_CO_TRY(co_await Connection::Open(call, To(listener.port())));
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
