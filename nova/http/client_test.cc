#include "nova/http/client.h"

#include <atomic>
#include <boost/asio/ip/tcp.hpp>
#include <future>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <optional>
#include <thread>

#include "nova/http/server.h"
#include "nova/http/test_peer.h"
#include "nova/runtime/scope.h"
#include "tests/eventually.h"

namespace nova::http {
namespace {

using namespace std::chrono_literals;
using runtime::Call;
using runtime::Task;
using testing::HasSubstr;
using testing::StartsWith;

class ClientTest : public testing::Test {
 protected:
  Result<Response> Get(int port, std::string path = "/", ClientConfig config = {}, std::string host = "127.0.0.1",
                       Duration timeout = kPeerLimit) {
    return runtime_.RunBlocking<Response>(timeout, [=, this](Call& call) -> Task<Response> {
      const Client client(dependency_, config);
      co_return co_await client.Get(call, host, port, path);
    });
  }

  // What the client makes of `answer`, followed by the end of the connection.
  Result<Response> GetFrom(std::string answer, ClientConfig config = {}) {
    PeerListener listener;
    std::thread server([&] {
      Peer peer = listener.Accept();
      request_ = peer.ReadMessage();
      (void)peer.Send(answer);
    });
    auto response = Get(listener.port(), "/path?q=1", config);
    server.join();
    return response;
  }

  // Any request, likewise.
  Result<Response> SendTo(Request request, std::string answer) {
    PeerListener listener;
    std::thread server([&] {
      Peer peer = listener.Accept();
      request_ = peer.ReadMessage();
      (void)peer.Send(answer);
    });
    auto response = runtime_.RunBlocking<Response>(kPeerLimit, [&](Call& call) -> Task<Response> {
      const Client client(dependency_);
      co_return co_await client.Send(call, {.host = "127.0.0.1", .port = listener.port()}, request,
                                     resilience::Idempotency::kNone);
    });
    server.join();
    return response;
  }

  // No retries, unless a test says so.
  static resilience::DependencyConfig Policies() {
    auto policies = resilience::DependencyConfig::Default(resilience::Kind::kHttp);
    policies.timeout = kPeerLimit;
    policies.retry.tries_max = 1;
    return policies;
  }
  double Outcomes(const std::string& outcome) const {
    const std::string name = "nova_dependency_calls_total{dependency=\"http\",outcome=\"" + outcome + "\"} ";
    const std::string text = metrics_.Scrape();
    const std::size_t at = text.find(name);
    return at == std::string::npos ? -1 : std::stod(text.substr(at + name.size()));
  }

  runtime::Runtime runtime_{{.threads = 2}};
  telemetry::Metrics metrics_;
  resilience::HttpDependency dependency_{"http", metrics_, Policies()};
  std::string request_;
};

TEST_F(ClientTest, GetsFromOurServer) {
  Server server(runtime_, {});
  server.Handle("GET", "/metrics", [](Call& call, const Request& request) -> Task<Response> {
    co_return Response{.headers = {{"X-Same-Trace", std::string(request.headers.Get("traceparent"))}},
                       .body = call.trace().TraceId() + request.query};
  });
  ASSERT_TRUE(server.Start());
  const auto response = Get(server.port(), "/metrics?all");
  ASSERT_TRUE(response) << response.error().ToString();
  EXPECT_EQ(response->status, 200);
  EXPECT_EQ(response->content_type, "text/plain; charset=utf-8");
  EXPECT_TRUE(response->body.ends_with("all"));
  EXPECT_THAT(std::string(response->headers.Get("x-same-trace")),
              HasSubstr(response->body.substr(0, response->body.size() - 3)));
  const auto missing = Get(server.port(), "/nothing");
  ASSERT_TRUE(missing) << "a status is an answer, not an error";
  EXPECT_EQ(missing->status, 404);
  EXPECT_TRUE(server.Stop(kPeerLimit));
}

TEST_F(ClientTest, ResolvesNames) {
  Server server(runtime_, {});
  server.Handle("GET", "/", [](Call&, const Request&) -> Task<Response> { co_return Response{.body = "x"}; });
  ASSERT_TRUE(server.Start());
  const auto response = Get(server.port(), "/", {}, "localhost");
  ASSERT_TRUE(response) << response.error().ToString();
  EXPECT_EQ(response->body, "x");
  EXPECT_TRUE(server.Stop(kPeerLimit));
}

TEST_F(ClientTest, ReadsEveryFormOfBody) {
  auto by_length = GetFrom("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody, and more");
  EXPECT_THAT(request_, StartsWith("GET /path?q=1 HTTP/1.1\r\nHost: 127.0.0.1:"));
  ASSERT_TRUE(by_length) << by_length.error().ToString();
  EXPECT_EQ(by_length->body, "body");
  auto chunked = GetFrom("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nbo\r\n2\r\ndy\r\n0\r\n\r\n");
  ASSERT_TRUE(chunked) << chunked.error().ToString();
  EXPECT_EQ(chunked->body, "body");
  auto by_end = GetFrom("HTTP/1.1 200 OK\r\n\r\nbody");
  ASSERT_TRUE(by_end) << by_end.error().ToString();
  EXPECT_EQ(by_end->body, "body");
  auto none = GetFrom("HTTP/1.1 204 No Content\r\n\r\n");
  ASSERT_TRUE(none) << none.error().ToString();
  EXPECT_EQ(none->status, 204);
}

TEST_F(ClientTest, AnAnswerThatBreaksOffIsNoAnswer) {
  for (const char* text :
       {"", "HTTP/1.1 200 OK\r\nContent-Len", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhal",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nbo\r\n", "SSH-2.0-OpenSSH_9.2\r\n",
        // Which of the two is meant?
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 2\r\n\r\nbody",
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"}) {
    const auto response = GetFrom(text);
    ASSERT_FALSE(response) << text;
    EXPECT_EQ(response.error().code(), Code::kUnavailable) << text;
    EXPECT_THAT(response.error().detail(), HasSubstr("GET http://127.0.0.1:"));
  }
}

TEST_F(ClientTest, AnswersOverALimitAreRefused) {
  const ClientConfig small{.header_bytes_max = 1000, .body_bytes_max = 1000};
  for (const std::string& text : {"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n" + std::string(1001, 'x'),
                                  "HTTP/1.1 200 OK\r\n\r\n" + std::string(1001, 'x'),
                                  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1f4\r\n" +
                                      std::string(500, 'x') + "\r\n1f5\r\n" + std::string(501, 'x') + "\r\n0\r\n\r\n",
                                  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;" + std::string(9000, 'x'),
                                  "HTTP/1.1 200 OK\r\nX: " + std::string(2000, 'x') + "\r\n\r\n"}) {
    const auto response = GetFrom(text, small);
    ASSERT_FALSE(response);
    EXPECT_EQ(response.error().code(), Code::kResourceExhausted) << response.error().ToString();
  }
}

TEST_F(ClientTest, InterimAnswersAreNotTheAnswer) {
  const std::string interim = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
  const auto response = GetFrom(interim + "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody");
  ASSERT_TRUE(response) << response.error().ToString();
  EXPECT_EQ(response->status, 200);
  EXPECT_EQ(response->body, "body");
  EXPECT_FALSE(response->headers.Has("Link"));

  EXPECT_THAT(GetFrom(interim).error().detail(), HasSubstr("broke off"));
  std::string many;
  for (int i = 0; i < 10; ++i) many += interim;
  EXPECT_THAT(GetFrom(many).error().detail(), HasSubstr("interim"));
  EXPECT_THAT(GetFrom("HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n").error().detail(),
              HasSubstr("another protocol"));
}

TEST_F(ClientTest, TheAnswerToHeadHasNoBody) {
  const auto response =
      SendTo({.method = "HEAD", .path = "/"}, "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\nX: y\r\n\r\n");
  EXPECT_THAT(request_, StartsWith("HEAD / HTTP/1.1\r\n"));
  ASSERT_TRUE(response) << response.error().ToString();
  EXPECT_EQ(response->body, "");
  EXPECT_EQ(response->headers.Get("Content-Length"), "1000000000");
}

TEST_F(ClientTest, ALengthIsSaidWhereThereMayBeABody) {
  const std::string ok = "HTTP/1.1 204 No Content\r\n\r\n";
  EXPECT_TRUE(SendTo({.method = "POST", .path = "/", .body = "body"}, ok));
  EXPECT_THAT(request_, HasSubstr("\r\nContent-Length: 4\r\n"));
  EXPECT_TRUE(request_.ends_with("\r\n\r\nbody"));
  for (const char* method : {"POST", "PUT"}) {
    EXPECT_TRUE(SendTo({.method = method, .path = "/"}, ok));
    EXPECT_THAT(request_, HasSubstr("\r\nContent-Length: 0\r\n"));
  }
  for (const char* method : {"GET", "HEAD", "DELETE"}) {
    EXPECT_TRUE(SendTo({.method = method, .path = "/"}, ok));
    EXPECT_THAT(request_, testing::Not(HasSubstr("Content-Length")));
  }
}

// A signature covers what was signed, and nothing else.
TEST_F(ClientTest, WhatIsExchangedIsWhatTheCallerMade) {
  PeerListener listener;
  std::thread server([&] {
    Peer peer = listener.Accept();
    request_ = peer.ReadMessage();
    (void)peer.Send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
  });
  const Origin origin{.host = "127.0.0.1", .port = listener.port()};
  const Request request{.method = "POST",
                        .path = "/a%20b",
                        .query = "c=d",
                        .headers = {{"Host", "signed.example"}, {"X-Empty", ""}, {"X-Twice", "1"}, {"X-Twice", "2"}},
                        .body = "e"};
  const auto response = runtime_.RunBlocking<Response>(kPeerLimit, [&](Call& call) -> Task<Response> {
    const Client client(dependency_);
    const auto exchange = [&](resilience::Attempt& attempt) { return client.Exchange(attempt, origin, request); };
    co_return co_await resilience::Protect(call, dependency_, exchange);
  });
  server.join();
  ASSERT_TRUE(response) << response.error().ToString();
  EXPECT_EQ(request_,
            "POST /a%20b?c=d HTTP/1.1\r\nHost: signed.example\r\nX-Empty: \r\nX-Twice: 1\r\nX-Twice: 2\r\n"
            "Content-Length: 1\r\nConnection: close\r\nAccept: */*\r\n\r\ne");
}

TEST_F(ClientTest, ANameThatNobodyHasIsUnavailable) {
  const auto response = Get(1, "/", {}, "nobody.invalid");
  ASSERT_FALSE(response);
  EXPECT_EQ(response.error().code(), Code::kUnavailable);
  EXPECT_THAT(response.error().detail(), HasSubstr("GET http://nobody.invalid:1/: Host not found"));
}

TEST_F(ClientTest, ARefusedConnectionIsUnavailable) {
  PeerListener listener;
  listener.Close();
  const auto response = Get(listener.port());
  ASSERT_FALSE(response);
  EXPECT_EQ(response.error().code(), Code::kUnavailable);
  EXPECT_THAT(response.error().detail(), HasSubstr("Connection refused"));
}

TEST_F(ClientTest, TheDeadlineEndsTheWaitAndClosesTheSocket) {
  PeerListener listener;
  const auto response = Get(listener.port(), "/", {}, "127.0.0.1", 100ms);
  ASSERT_FALSE(response);
  EXPECT_EQ(response.error().code(), Code::kDeadlineExceeded);
  Peer peer = listener.Accept();
  EXPECT_THAT(peer.ReadToEnd(), StartsWith("GET / ")) << "and then the end, which ReadToEnd waits for";
}

TEST_F(ClientTest, CancellationEndsTheWaitAndClosesTheSocket) {
  PeerListener listener;
  runtime::Scope scope(runtime_);
  std::promise<Code> ended;
  scope.Spawn("get", [&](Call& call) -> Task<void> {
    const Client client(dependency_);
    const auto response = co_await client.Get(call, "127.0.0.1", listener.port(), "/");
    ended.set_value(response ? Code::kOk : response.error().code());
    co_return Ok();
  });
  Peer peer = listener.Accept();
  EXPECT_THAT(peer.ReadMessage(), StartsWith("GET / "));
  EXPECT_TRUE(scope.Stop(kPeerLimit));
  EXPECT_EQ(ended.get_future().get(), Code::kCancelled);
  EXPECT_TRUE(peer.AtEnd());
}

// Larger than what the sockets take while nobody reads.
TEST_F(ClientTest, CancellationEndsAWriteAndClosesTheSocket) {
  const std::string body(64 * 1024 * 1024, 'x');
  PeerListener listener;
  runtime::Scope scope(runtime_);
  std::promise<Code> ended;
  scope.Spawn("post", [&](Call& call) -> Task<void> {
    const Client client(dependency_);
    const auto response =
        co_await client.Send(call, {.host = "127.0.0.1", .port = listener.port()},
                             {.method = "POST", .path = "/", .body = body}, resilience::Idempotency::kNone);
    ended.set_value(response ? Code::kOk : response.error().code());
    co_return Ok();
  });
  Peer peer = listener.Accept();
  EXPECT_THAT(peer.ReadMessage(/*with_body=*/false), StartsWith("POST / "));
  EXPECT_TRUE(scope.Stop(kPeerLimit));
  EXPECT_EQ(ended.get_future().get(), Code::kCancelled);
  EXPECT_LT(peer.ReadToEnd().size(), body.size()) << "the rest was not sent after all";
}

TEST_F(ClientTest, ACallThatHasEndedOpensNoConnection) {
  PeerListener listener;
  const auto response = Get(listener.port(), "/", {}, "127.0.0.1", 0ms);
  ASSERT_FALSE(response);
  EXPECT_EQ(response.error().code(), Code::kDeadlineExceeded);
}

TEST_F(ClientTest, WhatCouldSmuggleASecondRequestIsRefused) {
  for (const char* path : {"/a\r\nX: 1", "/a b", "", "a"})
    EXPECT_EQ(Get(1, path).error().code(), Code::kInvalidArgument) << path;
  EXPECT_EQ(Get(1, "/", {}, "a\r\nb").error().code(), Code::kInvalidArgument);
  EXPECT_EQ(Get(0).error().code(), Code::kInvalidArgument);
}

TEST_F(ClientTest, AnyStatusIsAnAnswerAndABrokenConnectionIsNone) {
  for (int i = 0; i < 3; ++i) {
    const auto response = GetFrom("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");
    ASSERT_TRUE(response) << response.error().ToString();
    EXPECT_EQ(response->status, 503);
  }
  EXPECT_EQ(Outcomes("ok"), 3);
  EXPECT_FALSE(GetFrom(""));
  EXPECT_EQ(Outcomes("failed"), 1);
}

TEST_F(ClientTest, WhatBrokeOffIsTriedAgainWithinTheBudget) {
  auto policies = Policies();
  policies.retry.tries_max = 2;
  policies.retry.budget_ratio = 1;
  policies.retry.backoff = 1ms;
  resilience::HttpDependency patient("patient", metrics_, policies);
  PeerListener listener;
  std::thread server([&] {
    {
      Peer first = listener.Accept();
      (void)first.ReadMessage();
    }
    Peer second = listener.Accept();
    EXPECT_THAT(second.ReadMessage(), StartsWith("GET /again "));
    (void)second.Send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
  });
  const auto response = runtime_.RunBlocking<Response>(kPeerLimit, [&](Call& call) -> Task<Response> {
    const Client client(patient);
    co_return co_await client.Get(call, "127.0.0.1", listener.port(), "/again");
  });
  // Without a second try the server would wait for ever.
  if (!response) Peer::Connect(listener.port()).Close();
  server.join();
  ASSERT_TRUE(response) << response.error().ToString();
  EXPECT_EQ(response->body, "ok");
}

TEST_F(ClientTest, APeerThatHangsIsLeftAtThePolicysTimeout) {
  auto policies = Policies();
  policies.timeout = 50ms;
  resilience::HttpDependency impatient("impatient", metrics_, policies);
  PeerListener listener;
  const auto response = runtime_.RunBlocking<Response>(kPeerLimit, [&](Call& call) -> Task<Response> {
    const Client client(impatient);
    co_return co_await client.Get(call, "127.0.0.1", listener.port(), "/");
  });
  ASSERT_FALSE(response);
  EXPECT_EQ(response.error().code(), Code::kDeadlineExceeded);
  EXPECT_THAT(response.error().detail(), HasSubstr("RESILIENCE_IMPATIENT_TIMEOUT_MS"));
}

// Look-ups cannot be stopped. The runtime makes one after the other, so those of others keep that of the client
// waiting.
TEST_F(ClientTest, ALookUpWhoseCallerHasGoneKeepsItsPlaceUntilItIsOver) {
  constexpr int kOthers = 5000;
  boost::asio::ip::tcp::resolver resolver(runtime_.io());
  std::atomic<int> over = 0;
  for (const bool client_goes_first : {false, true}) {
    over = 0;
    for (int i = 0; i < kOthers; ++i)
      resolver.async_resolve("localhost", "1", [&](const auto&, const auto&) { ++over; });
    std::optional<Client> client(std::in_place, dependency_);
    const auto response = runtime_.RunBlocking<Response>(
        5ms, [&](Call& call) -> Task<Response> { co_return co_await client->Get(call, "localhost", 1, "/"); });
    ASSERT_LT(over, kOthers) << "they were too fast for this test";
    EXPECT_EQ(response.error().code(), Code::kDeadlineExceeded);
    EXPECT_EQ(dependency_.bulkhead().orphaned(), 1);
    EXPECT_EQ(dependency_.bulkhead().in_use(), 1);
    if (!client_goes_first) EXPECT_TRUE(tests::Eventually([&] { return dependency_.bulkhead().in_use() == 0; }));
    client.reset();
    EXPECT_EQ(dependency_.bulkhead().in_use(), 0) << "what is left of the look-up has nothing of the dependency's";
    EXPECT_EQ(dependency_.bulkhead().orphaned(), 0);
    EXPECT_TRUE(tests::Eventually([&] { return over == kOthers; }));
  }
}

TEST(OriginTest, UrlsOfServersAreRead) {
  const auto authority = [](std::string_view url) {
    const auto origin = ParseOrigin(url);
    return origin ? (origin->tls ? "tls " : "") + origin->Authority() : origin.error().message();
  };
  EXPECT_EQ(authority("http://host"), "host");
  EXPECT_EQ(authority("http://host/"), "host");
  EXPECT_EQ(authority("http://host:80"), "host");
  EXPECT_EQ(authority("https://host"), "tls host");
  EXPECT_EQ(authority("https://host:443/"), "tls host");
  EXPECT_EQ(authority("https://host:80"), "tls host:80");
  EXPECT_EQ(authority("http://[::1]:5000"), "[::1]:5000");
  for (const char* url : {"", "host", "ftp://host", "http://", "http://:80", "http://host:0", "http://host:65536",
                          "http://host:80x", "http://host:", "http://host/path", "http://host?query", "http://[::1",
                          "http://[::1]x", "http://ho st", "http://user:MARK@host"}) {
    const auto origin = ParseOrigin(url);
    EXPECT_FALSE(origin) << url;
    EXPECT_EQ(origin.error().code(), Code::kInvalidArgument);
    EXPECT_THAT(origin.error().ToString(), testing::Not(HasSubstr("MARK")));
  }
}

TEST_F(ClientTest, NothingFromElsewhereCanSplitARequest) {
  const auto send = [&](Request request) {
    return runtime_.RunBlocking<Response>(kPeerLimit, [&](Call& call) -> Task<Response> {
      const Client client(dependency_);
      co_return co_await client.Send(call, {.host = "127.0.0.1", .port = 1}, request, resilience::Idempotency::kNone);
    });
  };
  const std::vector<Request> bad = {
      {.method = "GET", .path = "/a b"},
      {.method = "GET", .path = "/a\r\nX: y"},
      {.method = "GET", .path = "a"},
      {.method = "GET", .path = "/", .query = "a\nb"},
      {.method = "GE T", .path = "/"},
      {.method = "", .path = "/"},
      {.method = "GET", .path = "/", .headers = {{"X", "a\r\nY: b"}}},
      {.method = "GET", .path = "/", .headers = {{"X: y\r\nZ", "a"}}},
      {.method = "GET", .path = "/", .headers = {{"", "a"}}},
      {.method = "GET", .path = "/", .headers = {{"content-LENGTH", "5"}}},
      {.method = "GET", .path = "/", .headers = {{"Transfer-Encoding", "chunked"}}},
      {.method = "GET", .path = "/", .headers = {{"traceparent", "x"}}},
  };
  for (const Request& request : bad) {
    const auto response = send(request);
    ASSERT_FALSE(response);
    EXPECT_EQ(response.error().code(), Code::kInvalidArgument);
  }
}

}  // namespace
}  // namespace nova::http
