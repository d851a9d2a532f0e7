#include "nova/http/server.h"

#include <atomic>
#include <future>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdexcept>
#include <thread>
#include <vector>

#include "nova/http/test_peer.h"
#include "nova/runtime/one_shot.h"

namespace nova::http {
namespace {

using namespace std::chrono_literals;
using runtime::Call;
using runtime::Task;
using testing::AllOf;
using testing::EndsWith;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

constexpr std::string_view kGet = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";

class ServerTest : public testing::Test {
 protected:
  ~ServerTest() override {
    if (server_) EXPECT_TRUE(server_->Stop(kPeerLimit));
  }

  Server& Start(ServerConfig config = {}) {
    server_ = std::make_unique<Server>(runtime_, config);
    server_->Handle("GET", "/", [](Call&, const Request&) -> Task<Response> { co_return Response{.body = "hello"}; });
    server_->Handle("POST", "/echo", [](Call&, const Request& request) -> Task<Response> {
      co_return Response{.headers = {{"X-Query", request.query}}, .body = request.body};
    });
    server_->Handle("GET", "/hang", [this](Call& call, const Request&) -> Task<Response> {
      ++hanging_;
      const auto slept = co_await runtime::Sleep(call, 1h);
      ended_with_ = slept.error().code();
      co_return slept.error();
    });
    server_->Handle("GET", "/fail", [](Call&, const Request&) -> Task<Response> {
      co_return Unavailable("try later", "host db-1 refused");
    });
    server_->Handle("GET", "/throw", [](Call&, const Request&) -> Task<Response> {
      throw std::runtime_error("a bug");
      co_return Response{};
    });
    server_->Handle("GET", "/split", [](Call&, const Request& request) -> Task<Response> {
      co_return Response{.headers = {{"X-Copy", std::string(request.headers.Get("x-in")) + "\r\nX-Evil: 1"}}};
    });
    server_->Handle("GET", "/trace", [](Call& call, const Request&) -> Task<Response> {
      co_return Response{.body = call.trace().TraceId()};
    });
    server_->Handle("GET", "/large", [](Call&, const Request&) -> Task<Response> {
      co_return Response{.body = std::string(64 * 1024 * 1024, 'x')};
    });
    server_->Handle("GET", "/empty",
                    [](Call&, const Request&) -> Task<Response> { co_return Response{.status = 204}; });
    server_->Handle("GET", "/deaf", [this](Call& call, const Request&) -> Task<Response> {
      ++hanging_;
      Call own(call.strand());  // unlike every decent handler, it waits under no call but its own
      NOVA_CO_TRY(co_await deaf_.Wait(own));
      co_return Response{};
    });
    const auto started = server_->Start();
    EXPECT_TRUE(started) << started.error().message();
    return *server_;
  }

  Peer Connect() { return Peer::Connect(server_->port()); }
  // One request on a connection of its own, everything that comes back.
  std::string Talk(std::string_view text) {
    Peer peer = Connect();
    EXPECT_TRUE(peer.Send(text));
    return peer.ReadToEnd();
  }
  // Polls a condition that another thread brings about.
  template <class Condition>
  static bool Eventually(Condition condition) {
    const auto limit = std::chrono::steady_clock::now() + kPeerLimit;
    while (!condition()) {
      if (std::chrono::steady_clock::now() > limit) return false;
      std::this_thread::yield();
    }
    return true;
  }

  runtime::Runtime runtime_{{.threads = 2}};
  std::atomic<int> hanging_ = 0;
  std::atomic<Code> ended_with_ = Code::kOk;
  runtime::OneShot<bool> deaf_;
  std::unique_ptr<Server> server_;
};

TEST_F(ServerTest, AnswersARequest) {
  Start();
  EXPECT_THAT(Talk("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
              AllOf(StartsWith("HTTP/1.1 200 OK\r\n"), HasSubstr("\r\nContent-Length: 5\r\n"), HasSubstr("\r\nDate: "),
                    HasSubstr("\r\nConnection: close\r\n"), EndsWith("\r\n\r\nhello")));
}

TEST_F(ServerTest, KeepsTheConnectionForMoreRequests) {
  Start();
  Peer peer = Connect();
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(peer.Send(kGet));
    EXPECT_THAT(peer.ReadMessage(), AllOf(StartsWith("HTTP/1.1 200"), EndsWith("hello")));
  }
}

TEST_F(ServerTest, AnswersPipelinedRequestsInOrder) {
  Start();
  Peer peer = Connect();
  ASSERT_TRUE(
      peer.Send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\none"
                "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\ntwo"));
  EXPECT_THAT(peer.ReadMessage(), EndsWith("one"));
  EXPECT_THAT(peer.ReadMessage(), EndsWith("two"));
}

TEST_F(ServerTest, ARequestMayArriveByteByByte) {
  Start();
  Peer peer = Connect();
  for (const char c : kGet) ASSERT_TRUE(peer.Send(std::string_view(&c, 1)));
  EXPECT_THAT(peer.ReadMessage(), EndsWith("hello"));
}

TEST_F(ServerTest, OldProtocolClosesUnlessAskedToStay) {
  Start();
  EXPECT_THAT(Talk("GET / HTTP/1.0\r\n\r\n"), AllOf(HasSubstr("Connection: close"), EndsWith("hello")));
  Peer peer = Connect();
  ASSERT_TRUE(peer.Send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"));
  EXPECT_THAT(peer.ReadMessage(), HasSubstr("Connection: keep-alive"));
}

TEST_F(ServerTest, ReadsABodyByLengthInChunksAndAfterContinue) {
  Start();
  Peer peer = Connect();
  ASSERT_TRUE(peer.Send("POST /echo?a=1&b HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody"));
  EXPECT_THAT(peer.ReadMessage(), AllOf(HasSubstr("\r\nX-Query: a=1&b\r\n"), EndsWith("\r\n\r\nbody")));
  ASSERT_TRUE(
      peer.Send("POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nbo\r\n2\r\ndy\r\n0\r\n\r\n"));
  EXPECT_THAT(peer.ReadMessage(), EndsWith("\r\n\r\nbody"));
  ASSERT_TRUE(peer.Send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"));
  EXPECT_EQ(peer.ReadMessage(), "HTTP/1.1 100 Continue\r\n\r\n");
  ASSERT_TRUE(peer.Send("body"));
  EXPECT_THAT(peer.ReadMessage(), EndsWith("\r\n\r\nbody"));
}

TEST_F(ServerTest, HeadHasTheHeaderOfGetAndNoBody) {
  Start();
  Peer peer = Connect();
  ASSERT_TRUE(peer.Send("HEAD / HTTP/1.1\r\nHost: x\r\n\r\n"));
  EXPECT_THAT(peer.ReadMessage(false), AllOf(HasSubstr("Content-Length: 5\r\n"), EndsWith("\r\n\r\n")));
  ASSERT_TRUE(peer.Send(kGet));  // nothing stands between the two answers
  EXPECT_THAT(peer.ReadMessage(), StartsWith("HTTP/1.1 200"));
}

TEST_F(ServerTest, NoContentHasNoBodyAndNoLength) {
  Start();
  Peer peer = Connect();
  ASSERT_TRUE(peer.Send("GET /empty HTTP/1.1\r\nHost: x\r\n\r\n"));
  EXPECT_THAT(peer.ReadMessage(), AllOf(StartsWith("HTTP/1.1 204"), Not(HasSubstr("Content-Length"))));
}

TEST_F(ServerTest, UnknownPathsAndMethodsAreToldApart) {
  Start();
  Peer peer = Connect();
  ASSERT_TRUE(peer.Send("GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n"));
  EXPECT_THAT(peer.ReadMessage(), StartsWith("HTTP/1.1 404"));
  ASSERT_TRUE(peer.Send("DELETE / HTTP/1.1\r\nHost: x\r\n\r\n"));
  EXPECT_THAT(peer.ReadMessage(), AllOf(StartsWith("HTTP/1.1 405"), HasSubstr("\r\nAllow: GET, HEAD\r\n")));
  ASSERT_TRUE(peer.Send("GET /echo HTTP/1.1\r\nHost: x\r\n\r\n"));
  EXPECT_THAT(peer.ReadMessage(), AllOf(StartsWith("HTTP/1.1 405"), HasSubstr("\r\nAllow: POST\r\n")));
  ASSERT_TRUE(peer.Send("GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n"));
  EXPECT_THAT(peer.ReadMessage(), EndsWith("hello")) << "the absolute form is a path too";
}

TEST_F(ServerTest, MalformedRequestsAreAnsweredAndTheConnectionCloses) {
  Start();
  for (const std::string_view text :
       {"\x16\x03\x01\x02 garbage\r\n\r\n", "GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        "GET x HTTP/1.1\r\nHost: x\r\n\r\n", "GET / HTTP/9.9\r\nHost: x\r\n\r\n", "GET / HTTP/1.1\r\nHost : x\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"}) {
    EXPECT_THAT(Talk(text), AllOf(StartsWith("HTTP/1.1 400"), HasSubstr("Connection: close"))) << text;
  }
}

TEST_F(ServerTest, GarbageBehindARequestIsRefusedAfterItsAnswer) {
  Start();
  const std::string answers = Talk(std::string(kGet) + "\x01\x02\x03 not http\r\n\r\n");
  EXPECT_THAT(answers, AllOf(StartsWith("HTTP/1.1 200"), HasSubstr("helloHTTP/1.1 400")));
}

TEST_F(ServerTest, HeadersOverTheLimitAreRefused) {
  Start({.header_bytes_max = 1024});
  EXPECT_THAT(Talk("GET / HTTP/1.1\r\nHost: x\r\nX-Large: " + std::string(2000, 'x') + "\r\n\r\n"),
              StartsWith("HTTP/1.1 431"));
  // Without an end: the limit must hold while the header is still coming.
  EXPECT_THAT(Talk("GET / HTTP/1.1\r\nHost: x\r\nX-Large: " + std::string(200'000, 'x')), StartsWith("HTTP/1.1 431"));
}

TEST_F(ServerTest, BodiesOverTheLimitAreRefused) {
  Start({.body_bytes_max = 1000});
  EXPECT_THAT(Talk("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n"), StartsWith("HTTP/1.1 413"));
  EXPECT_THAT(Talk("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n" + std::string(1001, 'x')),
              StartsWith("HTTP/1.1 413"));
  EXPECT_THAT(
      Talk("POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n" + std::string(1001, 'x')),
      StartsWith("HTTP/1.1 413"));
  Peer peer = Connect();
  ASSERT_TRUE(peer.Send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n" + std::string(1000, 'x')));
  EXPECT_THAT(peer.ReadMessage(), StartsWith("HTTP/1.1 200")) << "the limit itself is allowed";
}

TEST_F(ServerTest, AnEndlessChunkHeaderIsRefused) {
  Start({.header_bytes_max = 1024});
  EXPECT_THAT(
      Talk("POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;" + std::string(100'000, 'x')),
      StartsWith("HTTP/1.1 4"));
}

TEST_F(ServerTest, AClientThatDripsItsHeaderIsCut) {
  Start({.read_timeout = 200ms});
  Peer peer = Connect();
  ASSERT_TRUE(peer.Send("GET / HTTP/1.1\r\nHost: x\r\n"));
  // Every byte is progress, yet the time for the whole request is fixed.
  bool told = false;
  for (int i = 0; i < 1000 && !told; ++i) {
    if (!peer.Send("a")) break;
    told = peer.Readable(10ms);
  }
  EXPECT_TRUE(told);
  EXPECT_THAT(peer.ReadMessage(), StartsWith("HTTP/1.1 408"));
}

TEST_F(ServerTest, AClientThatStallsInItsBodyIsCut) {
  Start({.read_timeout = 100ms});
  EXPECT_THAT(Talk("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf"), StartsWith("HTTP/1.1 408"));
}

TEST_F(ServerTest, AnIdleConnectionIsClosedWithoutAWord) {
  Start({.read_timeout = 100ms});
  Peer never_spoke = Connect();
  EXPECT_EQ(never_spoke.ReadToEnd(), "");
  Peer kept_alive = Connect();
  ASSERT_TRUE(kept_alive.Send(kGet));
  EXPECT_THAT(kept_alive.ReadMessage(), StartsWith("HTTP/1.1 200"));
  EXPECT_TRUE(kept_alive.AtEnd());
}

TEST_F(ServerTest, AClientThatDoesNotReadIsCut) {
  Start({.write_timeout = 100ms, .connections_max = 1});
  Peer peer = Connect();
  ASSERT_TRUE(peer.Send("GET /large HTTP/1.1\r\nHost: x\r\n\r\n"));
  ASSERT_TRUE(peer.Readable(kPeerLimit));
  // Its place is free again although it still holds its end open.
  EXPECT_TRUE(
      Eventually([&] { return Talk("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").contains("200"); }));
}

TEST_F(ServerTest, OneConnectionTooManyIsToldSo) {
  Start({.connections_max = 1});
  Peer first = Connect();
  ASSERT_TRUE(first.Send(kGet));
  EXPECT_THAT(first.ReadMessage(), StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(Talk(kGet), AllOf(StartsWith("HTTP/1.1 503"), HasSubstr("Connection: close")));
  ASSERT_TRUE(first.Send(kGet));
  EXPECT_THAT(first.ReadMessage(), StartsWith("HTTP/1.1 200")) << "who is in is not disturbed";
  first.Close();
  EXPECT_TRUE(
      Eventually([&] { return Talk("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").contains("200"); }));
}

TEST_F(ServerTest, AFloodOfConnectionsLeavesTheServerHealthy) {
  Start({.connections_max = 4});
  {
    std::vector<Peer> flood;
    for (int i = 0; i < 200; ++i) flood.push_back(Connect());
  }
  EXPECT_TRUE(
      Eventually([&] { return Talk("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").contains("200"); }));
}

TEST_F(ServerTest, AHandlerOutOfTimeIsAnswered504) {
  Start({.handler_timeout = 50ms});
  Peer peer = Connect();
  ASSERT_TRUE(peer.Send("GET /hang HTTP/1.1\r\nHost: x\r\n\r\n"));
  EXPECT_THAT(peer.ReadMessage(), StartsWith("HTTP/1.1 504"));
  ASSERT_TRUE(peer.Send(kGet));
  EXPECT_THAT(peer.ReadMessage(), StartsWith("HTTP/1.1 200"));
}

TEST_F(ServerTest, AnErrorBecomesAStatusWithoutItsPrivateDetail) {
  Start();
  Peer peer = Connect();
  ASSERT_TRUE(peer.Send("GET /fail HTTP/1.1\r\nHost: x\r\n\r\n"));
  EXPECT_THAT(peer.ReadMessage(),
              AllOf(StartsWith("HTTP/1.1 503"), EndsWith("\r\n\r\ntry later\n"), Not(HasSubstr("db-1"))));
}

TEST_F(ServerTest, AHandlerThatThrowsCostsOneRequest) {
  Start();
  Peer peer = Connect();
  ASSERT_TRUE(peer.Send("GET /throw HTTP/1.1\r\nHost: x\r\n\r\n"));
  EXPECT_THAT(peer.ReadMessage(), AllOf(StartsWith("HTTP/1.1 500"), Not(HasSubstr("a bug"))));
  ASSERT_TRUE(peer.Send(kGet));
  EXPECT_THAT(peer.ReadMessage(), StartsWith("HTTP/1.1 200"));
}

TEST_F(ServerTest, AHandlerCannotBeTrickedIntoSplittingItsResponse) {
  Start();
  Peer peer = Connect();
  ASSERT_TRUE(peer.Send("GET /split HTTP/1.1\r\nHost: x\r\nX-In: a\r\n\r\n"));
  EXPECT_THAT(peer.ReadMessage(), AllOf(StartsWith("HTTP/1.1 500"), Not(HasSubstr("X-Evil"))));
}

TEST_F(ServerTest, TheTraceOfTheRequestContinues) {
  Start();
  Peer peer = Connect();
  ASSERT_TRUE(
      peer.Send("GET /trace HTTP/1.1\r\nHost: x\r\n"
                "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n"));
  EXPECT_THAT(peer.ReadMessage(), EndsWith("0af7651916cd43dd8448eb211c80319c"));
}

TEST_F(ServerTest, AClientThatVanishesWhileItsHandlerRunsLeavesTheServerHealthy) {
  Start({.handler_timeout = 100ms, .connections_max = 1});
  {
    Peer peer = Connect();
    ASSERT_TRUE(peer.Send("GET /hang HTTP/1.1\r\nHost: x\r\n\r\n"));
    ASSERT_TRUE(Eventually([&] { return hanging_ == 1; }));
  }
  EXPECT_TRUE(
      Eventually([&] { return Talk("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").contains("200"); }));
}

TEST_F(ServerTest, StopClosesIdleConnectionsAndThePort) {
  Server& server = Start();
  Peer idle = Connect();
  Peer midway = Connect();
  ASSERT_TRUE(idle.Send(kGet));
  EXPECT_THAT(idle.ReadMessage(), StartsWith("HTTP/1.1 200"));
  ASSERT_TRUE(midway.Send("GET / HT"));
  EXPECT_TRUE(server.Stop(kPeerLimit));
  EXPECT_TRUE(idle.AtEnd());
  EXPECT_TRUE(midway.AtEnd());
  Server second(runtime_, {.port = server.port()});
  EXPECT_TRUE(second.Start()) << "the port is free again";
  EXPECT_TRUE(second.Stop(kPeerLimit));
}

TEST_F(ServerTest, StopCancelsWhatHandlersWaitFor) {
  Server& server = Start();
  Peer peer = Connect();
  ASSERT_TRUE(peer.Send("GET /hang HTTP/1.1\r\nHost: x\r\n\r\n"));
  ASSERT_TRUE(Eventually([&] { return hanging_ == 1; }));
  EXPECT_TRUE(server.Stop(kPeerLimit));
  EXPECT_EQ(ended_with_, Code::kCancelled);
  EXPECT_TRUE(peer.AtEnd());
}

TEST_F(ServerTest, StopGivesUpOnAHandlerThatIgnoresIt) {
  Server& server = Start();
  Peer peer = Connect();
  ASSERT_TRUE(peer.Send("GET /deaf HTTP/1.1\r\nHost: x\r\n\r\n"));
  ASSERT_TRUE(Eventually([&] { return hanging_ == 1; }));
  const auto stopped = server.Stop(50ms);
  ASSERT_FALSE(stopped);
  EXPECT_EQ(stopped.error().code(), Code::kDeadlineExceeded);
  EXPECT_TRUE(deaf_.TrySet(true));
  EXPECT_TRUE(server.Stop(kPeerLimit));
}

TEST_F(ServerTest, ATakenPortIsReportedInOneLineThatNamesTheSetting) {
  Server& first = Start();
  Server second(runtime_, {.port = first.port(), .port_setting = "--admin-port (NOVA_ADMIN_PORT)"});
  const auto started = second.Start();
  ASSERT_FALSE(started);
  EXPECT_EQ(started.error().code(), Code::kInvalidArgument);
  EXPECT_EQ(started.error().message(), "--admin-port (NOVA_ADMIN_PORT): port " + std::to_string(first.port()) +
                                           " of 127.0.0.1 is taken; stop what listens there or choose another port");
}

TEST_F(ServerTest, AnAddressThatIsNotOursIsReported) {
  Server name(runtime_, {.address = "localhost"});
  const auto by_name = name.Start();
  ASSERT_FALSE(by_name);
  EXPECT_THAT(by_name.error().message(), HasSubstr("must be numeric"));
  Server foreign(runtime_, {.address = "192.0.2.1"});
  const auto elsewhere = foreign.Start();
  ASSERT_FALSE(elsewhere);
  EXPECT_THAT(elsewhere.error().message(), HasSubstr("192.0.2.1"));
}

}  // namespace
}  // namespace nova::http
