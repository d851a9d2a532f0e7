// Server and client together, over real mTLS on loopback.
#include <array>
#include <atomic>
#include <boost/asio/buffer.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <future>
#include <gtest/gtest.h>
#include <stdexcept>
#include <thread>

#include "api/health/v1/health.nova.h"
#include "api/reflection/v1alpha/reflection.nova.h"
#include "nova/rpc/client.h"
#include "nova/rpc/reflection.h"
#include "nova/rpc/server.h"
#include "nova/tls/authority.h"
#include "nova/tls/publisher.h"
#include "tests/echo.nova.h"
#include "tests/eventually.h"
#include "tests/mtls_fixture.h"

namespace nova::rpc {
namespace {

using nova::tests::CarelessServiceMethods;
using nova::tests::EchoRequest;
using nova::tests::EchoResponse;
using runtime::Call;
using runtime::Task;
using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::seconds;
using Methods = nova::tests::EchoServiceMethods;

EchoRequest Text(std::string text, std::uint32_t wait_us = 0) {
  EchoRequest request;
  request.set_text(std::move(text));
  request.set_wait_us(wait_us);
  return request;
}

// What the handlers saw, for the test to await.
struct Seen {
  std::promise<Error> ended;  // the error a cancelled handler got
  std::promise<void> started;
};

Task<EchoResponse> Answer(Call& call, const EchoRequest& request) {
  if (request.wait_us() > 0) NOVA_CO_TRY(co_await runtime::Sleep(call, std::chrono::microseconds(request.wait_us())));
  EchoResponse response;
  response.set_text(request.text());
  response.set_peer(call.peer());
  response.set_trace_id(call.trace().TraceId());
  if (call.caller()) response.set_caller(call.caller()->account.ToString());
  response.set_remaining_ms(
      static_cast<std::uint32_t>(std::chrono::duration_cast<milliseconds>(call.Remaining()).count()));
  co_return response;
}

Service MakeEcho(Seen& seen) {
  Service service(Methods::kService);
  service.Handle(Methods::kEcho, [&seen](Call& call, const EchoRequest& request) -> Task<EchoResponse> {
    if (request.text() != "watch me") co_return co_await Answer(call, request);
    seen.started.set_value();
    auto answer = co_await Answer(call, request);
    seen.ended.set_value(answer ? Error(Code::kOk, "") : answer.error());
    co_return answer;
  });
  service.Handle(Methods::kHurried, Answer);
  service.Handle(Methods::kOperatorOnly, Answer);
  service.Handle(Methods::kForCaller, Answer);
  service.Handle(Methods::kForAnyone, Answer);
  service.Handle(Methods::kFail, [](Call&, const EchoRequest& request) -> Task<EchoResponse> {
    if (request.text() == "throw") throw std::runtime_error("a bug with a private text");
    if (request.text() == "talk") co_return InvalidArgument(std::string(100'000, '\x01'));
    co_return InvalidArgument("text: is not to my liking", "a private detail");
  });
  service.Handle(Methods::kRepeat,
                 [&seen](Call& call, const EchoRequest& request, Writer<EchoResponse>& writer) -> Task<void> {
                   if (request.wait_us() > 0) seen.started.set_value();
                   for (std::size_t i = 0; i < request.text().size(); ++i) {
                     const auto answer = co_await Answer(call, request);
                     if (!answer) {
                       seen.ended.set_value(answer.error());
                       co_return answer.error();
                     }
                     NOVA_CO_TRY(co_await writer.Write(call, *answer));
                   }
                   co_return Ok();
                 });
  service.Handle(Methods::kJoin, [&seen](Call& call, Reader<EchoRequest>& reader) -> Task<EchoResponse> {
    EchoResponse joined;
    bool watched = false;
    for (;;) {
      const auto request = co_await reader.Read(call);
      if (watched && (!request || !*request)) seen.ended.set_value(request ? Error(Code::kOk, "") : request.error());
      if (!request) co_return request.error();
      if (!*request) co_return joined;
      if ((*request)->text() == "watch me") {
        watched = true;
        seen.started.set_value();
      }
      joined.mutable_text()->append((*request)->text());
    }
  });
  service.Handle(Methods::kChat,
                 [](Call& call, Reader<EchoRequest>& reader, Writer<EchoResponse>& writer) -> Task<void> {
                   for (;;) {
                     NOVA_CO_TRY(const auto request, co_await reader.Read(call));
                     if (!request) co_return Ok();
                     if (request->text() == "hurry") {
                       // Gives up on two reads in a row, while the first is still under way.
                       for (int i = 0;; ++i) {
                         Call patience(call, milliseconds(1));
                         const auto read = co_await reader.Read(patience);
                         if (i == 1) co_return Aborted(std::string(CodeName(read.error().code())));
                       }
                     }
                     NOVA_CO_TRY(const auto answer, co_await Answer(call, *request));
                     NOVA_CO_TRY(co_await writer.Write(call, answer));
                   }
                 });
  return service;
}

class RpcTest : public ::testing::Test {
 protected:
  void SetUp() override {
    account_ = Uuid::New();
    ServerStackConfig stack;
    stack.verify_token = [this](std::string_view token) -> Result<runtime::Caller> {
      if (token == "throw") throw std::runtime_error("a bug in a layer");
      if (token != "good") return Unauthenticated("the access token is not valid");
      return runtime::Caller{.account = account_, .session = {}};
    };
    config_.address = "127.0.0.1";
    config_.port = 0;
    config_.message_bytes_max = 100'000;
    config_.drain_limit = seconds(5);
    server_.emplace(runtime_, metrics_, config_,
                    ServerSecurity{.credentials = Mtls().ServerCredentials("echo"), .stack = stack});
    server_->Add(MakeEcho(seen_));
    server_->Add(MakeReflectionService({Methods::kService}));
    const auto started = server_->Start();
    ASSERT_TRUE(started.ok()) << started.error().ToString();
    gateway_ = MakeClient("gateway");
  }

  static tests::MtlsFixture& Mtls() {
    static tests::MtlsFixture mtls;
    return mtls;
  }

  std::unique_ptr<Client> MakeClient(const std::string& as, const std::string& expect = "echo") {
    return std::make_unique<Client>(
        metrics_, peer_,
        ClientConfig{
            .principal = expect, .target = "127.0.0.1:" + std::to_string(server_->port()), .own_connection = true},
        Mtls().ChannelIdentity(as));
  }

  template <class Method>
  Result<EchoResponse> Invoke(Client& client, Method method, EchoRequest request, Duration timeout = seconds(20),
                              InvokeOptions options = {}) {
    return runtime_.RunBlocking<EchoResponse>(
        timeout, [&](Call& call) { return client.Invoke(call, method, request, options); });
  }

  // What the dependency limits is tested by retry_test.cc; here the methods do.
  static resilience::DependencyConfig Patient() {
    resilience::DependencyConfig config = resilience::ForProbes(resilience::Kind::kPeer);
    config.timeout = hours(1);
    return config;
  }

  // A refused or cancelled call must not leave its handler behind.
  void ExpectNothingRuns() {
    const auto quiet = runtime_.RunBlocking<void>(seconds(10), [this](Call& call) -> Task<void> {
      while (server_->calls_in_flight() > 0) NOVA_CO_TRY(co_await runtime::Sleep(call, milliseconds(1)));
      co_return Ok();
    });
    EXPECT_TRUE(quiet.ok()) << server_->calls_in_flight() << " calls still run";
  }

  Uuid account_;
  ServerConfig config_;
  Seen seen_;
  telemetry::Metrics metrics_;
  resilience::PeerDependency peer_{"echo", metrics_, Patient()};
  runtime::Runtime runtime_;
  std::optional<Server> server_;
  std::unique_ptr<Client> gateway_;
};

TEST_F(RpcTest, AnswersAndKnowsItsPeer) {
  const auto answer = Invoke(*gateway_, Methods::kEcho, Text("hello"));
  ASSERT_TRUE(answer.ok()) << answer.error().ToString();
  EXPECT_EQ(answer->text(), "hello");
  EXPECT_EQ(answer->peer(), "gateway");
  ExpectNothingRuns();
}

TEST_F(RpcTest, AWaitingHandlerAnswersFromTheRuntime) {
  const auto answer = Invoke(*gateway_, Methods::kEcho, Text("later", 1'000));
  ASSERT_TRUE(answer.ok()) << answer.error().ToString();
  EXPECT_EQ(answer->text(), "later");
}

TEST_F(RpcTest, ManyConcurrentCallsAllGetTheirOwnAnswer) {
  std::vector<std::thread> threads;
  std::atomic<int> right = 0;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 100; ++i) {
        const std::string text = std::to_string(t) + ":" + std::to_string(i);
        const auto answer = Invoke(*gateway_, Methods::kEcho, Text(text, i % 2 == 0 ? 0 : 200));
        if (answer && answer->text() == text) ++right;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(right, 400);
  ExpectNothingRuns();
}

TEST_F(RpcTest, DefaultDenyByPeer) {
  const auto refused = Invoke(*gateway_, Methods::kOperatorOnly, Text("x"));
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code(), Code::kPermissionDenied);
  EXPECT_NE(metrics_.Scrape().find("nova_rpc_peer_refused_total"), std::string::npos);
  const auto operator_client = MakeClient("operator");
  EXPECT_TRUE(Invoke(*operator_client, Methods::kOperatorOnly, Text("x")).ok());
}

TEST_F(RpcTest, RefusesBeforeTheBodyIsDecoded) {
  // Bytes that are no message: a layer's refusal comes first, the decoder's only when all layers agree.
  const Method<MethodKind::kUnary, EchoResponse, EchoResponse> not_allowed{
      Methods::kOperatorOnly.service, Methods::kOperatorOnly.name, Methods::kOperatorOnly.path};
  EchoResponse garbage;
  garbage.GetReflection()->MutableUnknownFields(&garbage)->AddVarint(1,
                                                                     7);  // field 1 with the wrong wire type is skipped
  garbage.set_text(std::string("\xff\xfe", 2));                           // no UTF-8, which proto3 refuses
  const auto refused = runtime_.RunBlocking<EchoResponse>(
      seconds(20), [&](Call& call) { return gateway_->Invoke(call, not_allowed, garbage); });
  EXPECT_EQ(refused.error().code(), Code::kPermissionDenied);
  const Method<MethodKind::kUnary, EchoResponse, EchoResponse> allowed{Methods::kEcho.service, Methods::kEcho.name,
                                                                       Methods::kEcho.path};
  const auto malformed = runtime_.RunBlocking<EchoResponse>(
      seconds(20), [&](Call& call) { return gateway_->Invoke(call, allowed, garbage); });
  EXPECT_EQ(malformed.error().code(), Code::kInvalidArgument);
  EXPECT_NE(malformed.error().message().find("nova.tests.EchoRequest"), std::string::npos);
}

TEST_F(RpcTest, AServerOfAnotherNameIsRefusedByTheClient) {
  const auto client = MakeClient("gateway", "identity");
  const auto refused = Invoke(*client, Methods::kEcho, Text("x"), seconds(5));
  EXPECT_EQ(refused.error().code(), Code::kUnavailable);
}

TEST_F(RpcTest, TheCallerComesFromTheVerifiedToken) {
  const Secret<> good(std::string("good"));
  const Secret<> bad(std::string("bad"));
  const auto answer = Invoke(*gateway_, Methods::kForCaller, Text("x"), seconds(20), {.access_token = &good});
  ASSERT_TRUE(answer.ok()) << answer.error().ToString();
  EXPECT_EQ(answer->caller(), account_.ToString());
  EXPECT_EQ(Invoke(*gateway_, Methods::kForCaller, Text("x")).error().code(), Code::kUnauthenticated);
  EXPECT_EQ(Invoke(*gateway_, Methods::kForCaller, Text("x"), seconds(20), {.access_token = &bad}).error().code(),
            Code::kUnauthenticated);
}

TEST_F(RpcTest, AnOptionalCallerIsNobodyWithoutATokenAndRefusedWithAWrongOne) {
  const Secret<> good(std::string("good"));
  const Secret<> bad(std::string("bad"));
  const auto named = Invoke(*gateway_, Methods::kForAnyone, Text("x"), seconds(20), {.access_token = &good});
  ASSERT_TRUE(named.ok()) << named.error().ToString();
  EXPECT_EQ(named->caller(), account_.ToString());
  const auto nobody = Invoke(*gateway_, Methods::kForAnyone, Text("x"));
  ASSERT_TRUE(nobody.ok()) << nobody.error().ToString();
  EXPECT_EQ(nobody->caller(), "");
  EXPECT_EQ(Invoke(*gateway_, Methods::kForAnyone, Text("x"), seconds(20), {.access_token = &bad}).error().code(),
            Code::kUnauthenticated);
}

TEST_F(RpcTest, TheDeadlineTravelsToTheHandler) {
  const auto answer = Invoke(*gateway_, Methods::kEcho, Text("x"), seconds(5));
  ASSERT_TRUE(answer.ok());
  EXPECT_LE(answer->remaining_ms(), 5'000U);
  EXPECT_GT(answer->remaining_ms(), 0U);
  // The method's own limit is 20 s, however much the client grants.
  const auto patient = Invoke(*gateway_, Methods::kEcho, Text("x"), hours(1));
  EXPECT_LE(patient->remaining_ms(), 20'000U);
}

TEST_F(RpcTest, TheClientsDeadlineEndsTheHandler) {
  const auto late = Invoke(*gateway_, Methods::kEcho, Text("watch me", 60'000'000), milliseconds(100));
  EXPECT_EQ(late.error().code(), Code::kDeadlineExceeded);
  const Code code = seen_.ended.get_future().get().code();
  EXPECT_TRUE(code == Code::kDeadlineExceeded || code == Code::kCancelled) << CodeName(code);
  ExpectNothingRuns();
}

TEST_F(RpcTest, TheMethodsLimitEndsTheHandler) {
  const auto late = Invoke(*gateway_, Methods::kHurried, Text("x", 60'000'000), seconds(20));
  EXPECT_EQ(late.error().code(), Code::kDeadlineExceeded);
  ExpectNothingRuns();
}

TEST_F(RpcTest, ACallWhoseDeadlineHasPassedIsNotSent) {
  const auto late = Invoke(*gateway_, Methods::kEcho, Text("x"), -seconds(1));
  EXPECT_EQ(late.error().code(), Code::kDeadlineExceeded);
}

TEST_F(RpcTest, CancellationReachesTheHandler) {
  const auto cancelled = runtime_.RunBlocking<EchoResponse>(hours(1), [&](Call& call) -> Task<EchoResponse> {
    std::thread([this, &call, strand = call.strand()] {
      seen_.started.get_future().wait();
      boost::asio::post(strand, [&call] { call.Cancel(Cancelled("changed my mind")); });
    }).detach();
    const auto request = Text("watch me", 60'000'000);
    co_return co_await gateway_->Invoke(call, Methods::kEcho, request);
  });
  EXPECT_EQ(cancelled.error().code(), Code::kCancelled);
  EXPECT_EQ(seen_.ended.get_future().get().code(), Code::kCancelled);
  ExpectNothingRuns();
}

TEST_F(RpcTest, AClientThatVanishesEndsTheHandler) {
  auto doomed = MakeClient("gateway");
  const auto ended = runtime_.RunBlocking<void>(seconds(20), [&](Call& call) -> Task<void> {
    Call inner(call, hours(1));
    auto stream = doomed->Open(inner, Methods::kRepeat);
    if (!stream) co_return stream.error();
    const auto request = Text("xx", 60'000'000);
    NOVA_CO_TRY(co_await stream->Write(inner, request));
    NOVA_CO_TRY(co_await stream->WritesDone(inner));
    // Once the handler runs, the stream is dropped.
    for (auto started = seen_.started.get_future(); started.wait_for(seconds(0)) != std::future_status::ready;)
      NOVA_CO_TRY(co_await runtime::Sleep(call, milliseconds(1)));
    co_return Ok();
  });
  ASSERT_TRUE(ended.ok()) << ended.error().ToString();
  doomed.reset();
  EXPECT_EQ(seen_.ended.get_future().get().code(), Code::kCancelled);
  ExpectNothingRuns();
}

TEST_F(RpcTest, AClientThatVanishesIsNotOneThatHasSentItsLast) {
  const auto ended = runtime_.RunBlocking<void>(seconds(20), [&](Call& call) -> Task<void> {
    auto stream = gateway_->Open(call, Methods::kJoin);
    if (!stream) co_return stream.error();
    const auto request = Text("watch me");
    NOVA_CO_TRY(co_await stream->Write(call, request));
    for (auto started = seen_.started.get_future(); started.wait_for(seconds(0)) != std::future_status::ready;)
      NOVA_CO_TRY(co_await runtime::Sleep(call, milliseconds(1)));
    co_return Ok();
  });
  ASSERT_TRUE(ended.ok()) << ended.error().ToString();
  // A handler that took this for the end would act on half of what was meant.
  EXPECT_EQ(seen_.ended.get_future().get().code(), Code::kCancelled);
  ExpectNothingRuns();
}

TEST_F(RpcTest, AReadThatWasGivenUpIsTheLastOfItsStream) {
  const auto result = runtime_.RunBlocking<void>(seconds(20), [&](Call& call) -> Task<void> {
    auto stream = gateway_->Open(call, Methods::kChat);
    if (!stream) co_return stream.error();
    const auto request = Text("hurry");
    NOVA_CO_TRY(co_await stream->Write(call, request));
    NOVA_CO_TRY(const auto nothing, co_await stream->Read(call));
    EXPECT_FALSE(nothing.has_value());
    co_return co_await stream->Finish(call);
  });
  EXPECT_EQ(result.error().code(), Code::kAborted);
  EXPECT_EQ(result.error().message(), "CANCELLED");
  ExpectNothingRuns();
}

TEST_F(RpcTest, AnExceptionInALayerCostsItsCallAndNoMore) {
  const Secret<> token(std::string("throw"));
  const auto refused = Invoke(*gateway_, Methods::kForCaller, Text("x"), seconds(20), {.access_token = &token});
  EXPECT_EQ(refused.error().code(), Code::kInternal);
  EXPECT_TRUE(Invoke(*gateway_, Methods::kEcho, Text("still here")).ok());
  ExpectNothingRuns();
}

TEST_F(RpcTest, ALongMessageDoesNotReplaceTheStatus) {
  const auto refused = Invoke(*gateway_, Methods::kFail, Text("talk"));
  EXPECT_EQ(refused.error().code(), Code::kInvalidArgument);
  EXPECT_EQ(refused.error().message().size(), 1024U);
}

TEST_F(RpcTest, ErrorsKeepTheirCodeAndPublicMessageOnly) {
  const auto refused = Invoke(*gateway_, Methods::kFail, Text("x"));
  EXPECT_EQ(refused.error().code(), Code::kInvalidArgument);
  EXPECT_EQ(refused.error().message(), "text: is not to my liking");
  const auto thrown = Invoke(*gateway_, Methods::kFail, Text("throw"));
  EXPECT_EQ(thrown.error().code(), Code::kInternal);
  EXPECT_NE(thrown.error().detail().find("internal error"), std::string::npos);
  EXPECT_EQ(thrown.error().ToString().find("private"), std::string::npos);
  EXPECT_TRUE(Invoke(*gateway_, Methods::kEcho, Text("still here")).ok());
}

TEST_F(RpcTest, AMessageOverTheLimitIsRefusedAndTheServerGoesOn) {
  const auto refused = Invoke(*gateway_, Methods::kEcho, Text(std::string(200'000, 'x')));
  EXPECT_EQ(refused.error().code(), Code::kResourceExhausted);
  EXPECT_TRUE(Invoke(*gateway_, Methods::kEcho, Text("still here")).ok());
  ExpectNothingRuns();
}

TEST_F(RpcTest, TheClientRefusesAMethodThatDeclaresNothing) {
  EXPECT_EQ(Invoke(*gateway_, CarelessServiceMethods::kUndeclared, Text("x")).error().code(),
            Code::kFailedPrecondition);
}

TEST_F(RpcTest, AMethodTheServerDoesNotHaveIsUnimplemented) {
  const auto unknown = runtime_.RunBlocking<EchoResponse>(seconds(20), [&](Call& call) -> Task<EchoResponse> {
    namespace v1 = grpc::health::v1;
    const v1::HealthCheckRequest request;
    NOVA_CO_TRY(co_await gateway_->Invoke(call, v1::HealthMethods::kCheck, request));
    co_return EchoResponse();
  });
  EXPECT_EQ(unknown.error().code(), Code::kUnimplemented);
}

TEST_F(RpcTest, ServerStream) {
  const auto result = runtime_.RunBlocking<int>(seconds(20), [&](Call& call) -> Task<int> {
    auto stream = gateway_->Open(call, Methods::kRepeat);
    if (!stream) co_return stream.error();
    const auto request = Text("abc");
    NOVA_CO_TRY(co_await stream->Write(call, request));
    NOVA_CO_TRY(co_await stream->WritesDone(call));
    int count = 0;
    for (;; ++count) {
      NOVA_CO_TRY(const auto message, co_await stream->Read(call));
      if (!message) break;
      EXPECT_EQ(message->text(), "abc");
    }
    NOVA_CO_TRY(co_await stream->Finish(call));
    co_return count;
  });
  ASSERT_TRUE(result.ok()) << result.error().ToString();
  EXPECT_EQ(*result, 3);
}

TEST_F(RpcTest, ClientStream) {
  const auto result = runtime_.RunBlocking<std::string>(seconds(20), [&](Call& call) -> Task<std::string> {
    auto stream = gateway_->Open(call, Methods::kJoin);
    if (!stream) co_return stream.error();
    for (const char* text : {"a", "b", "c"}) {
      const auto request = Text(text);
      NOVA_CO_TRY(co_await stream->Write(call, request));
    }
    NOVA_CO_TRY(co_await stream->WritesDone(call));
    NOVA_CO_TRY(const auto message, co_await stream->Read(call));
    NOVA_CO_TRY(co_await stream->Finish(call));
    co_return message ? message->text() : std::string("nothing");
  });
  ASSERT_TRUE(result.ok()) << result.error().ToString();
  EXPECT_EQ(*result, "abc");
}

TEST_F(RpcTest, BidiStreamUntilTheMethodsLimit) {
  const auto result = runtime_.RunBlocking<void>(seconds(20), [&](Call& call) -> Task<void> {
    Call patient(call, hours(1));
    auto stream = gateway_->Open(patient, Methods::kChat);
    if (!stream) co_return stream.error();
    for (const char* text : {"one", "two"}) {
      const auto request = Text(text);
      NOVA_CO_TRY(co_await stream->Write(call, request));
      NOVA_CO_TRY(const auto message, co_await stream->Read(call));
      EXPECT_TRUE(message && message->text() == text);
    }
    // Nothing more is sent: the server ends the stream after its 200 ms.
    NOVA_CO_TRY(const auto nothing, co_await stream->Read(call));
    EXPECT_FALSE(nothing.has_value());
    co_return co_await stream->Finish(call);
  });
  EXPECT_EQ(result.error().code(), Code::kDeadlineExceeded);
  ExpectNothingRuns();
}

TEST_F(RpcTest, TheTraceContinuesAtTheNextHop) {
  const auto result = runtime_.RunBlocking<void>(seconds(20), [&](Call& call) -> Task<void> {
    const auto request = Text("x");
    NOVA_CO_TRY(const auto answer, co_await gateway_->Invoke(call, Methods::kEcho, request));
    EXPECT_EQ(answer.trace_id(), call.trace().TraceId());
    co_return Ok();
  });
  EXPECT_TRUE(result.ok());
}

TEST_F(RpcTest, ReflectionListsServicesForTheOperatorOnly) {
  namespace v1alpha = grpc::reflection::v1alpha;
  const auto list = [&](Client& client) {
    return runtime_.RunBlocking<int>(seconds(20), [&](Call& call) -> Task<int> {
      auto stream = client.Open(call, v1alpha::ServerReflectionMethods::kServerReflectionInfo);
      if (!stream) co_return stream.error();
      v1alpha::ServerReflectionRequest request;
      request.set_list_services("*");
      NOVA_CO_TRY(co_await stream->Write(call, request));
      NOVA_CO_TRY(const auto listed, co_await stream->Read(call));
      request.set_file_containing_symbol("nova.tests.EchoService");
      if (listed) NOVA_CO_TRY(co_await stream->Write(call, request));
      NOVA_CO_TRY(const auto file, co_await stream->Read(call));
      NOVA_CO_TRY(co_await stream->WritesDone(call));
      NOVA_CO_TRY(co_await stream->Finish(call));
      // echo.proto, options.proto, descriptor.proto
      EXPECT_EQ(file->file_descriptor_response().file_descriptor_proto_size(), 3);
      co_return listed->list_services_response().service_size();
    });
  };
  const auto operator_client = MakeClient("operator");
  const auto listed = list(*operator_client);
  ASSERT_TRUE(listed.ok()) << listed.error().ToString();
  EXPECT_EQ(*listed, 2);
  EXPECT_FALSE(list(*gateway_).ok());
}

TEST_F(RpcTest, StopLetsRunningCallsEnd) {
  auto running =
      std::async(std::launch::async, [&] { return Invoke(*gateway_, Methods::kEcho, Text("watch me", 300'000)); });
  seen_.started.get_future().wait();
  server_->Stop();
  const auto answer = running.get();
  EXPECT_TRUE(answer.ok()) << answer.error().ToString();
}

TEST_F(RpcTest, StopCancelsWhatDoesNotEndWithinTheLimit) {
  config_.drain_limit = milliseconds(50);
  Server hasty(runtime_, metrics_, config_,
               ServerSecurity{.credentials = Mtls().ServerCredentials("echo"),
                              .stack = {.verify_token = [](std::string_view) -> Result<runtime::Caller> {
                                return runtime::Caller{};
                              }}});
  Seen seen;
  hasty.Add(MakeEcho(seen));
  ASSERT_TRUE(hasty.Start().ok());
  Client client(metrics_, peer_,
                {.principal = "echo", .target = "127.0.0.1:" + std::to_string(hasty.port()), .own_connection = true},
                Mtls().ChannelIdentity("gateway"));
  auto running =
      std::async(std::launch::async, [&] { return Invoke(client, Methods::kEcho, Text("watch me", 60'000'000)); });
  seen.started.get_future().wait();
  hasty.Stop();
  EXPECT_FALSE(running.get().ok());
  EXPECT_EQ(hasty.calls_in_flight(), 0);
}

TEST_F(RpcTest, CountsCallsByStatus) {
  ASSERT_TRUE(Invoke(*gateway_, Methods::kEcho, Text("x")).ok());
  const std::string scrape = metrics_.Scrape();
  EXPECT_NE(scrape.find("grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Echo\","
                        "grpc_service=\"nova.tests.EchoService\",grpc_type=\"unary\"} 1"),
            std::string::npos)
      << scrape;
}

TEST(ServerStartTest, RefusesAMethodThatDeclaresNothing) {
  runtime::Runtime runtime;
  telemetry::Metrics metrics;
  Server server(runtime, metrics, {.address = "127.0.0.1", .port = 0},
                {.credentials = tls::MakePlaintextServerCredentials(), .stack = {}});
  Service service(CarelessServiceMethods::kService);
  service.Handle(CarelessServiceMethods::kUndeclared, Answer);
  server.Add(std::move(service));
  const auto started = server.Start();
  ASSERT_FALSE(started.ok());
  EXPECT_NE(started.error().message().find("nova.tests.CarelessService.Undeclared declares no timeout_ms"),
            std::string::npos);
}

TEST(ServerStartTest, RefusesAMethodWithoutHandler) {
  runtime::Runtime runtime;
  telemetry::Metrics metrics;
  Server server(runtime, metrics, {.address = "127.0.0.1", .port = 0},
                {.credentials = tls::MakePlaintextServerCredentials(), .stack = {}});
  server.Add(Service(Methods::kService));
  const auto started = server.Start();
  ASSERT_FALSE(started.ok());
  EXPECT_NE(started.error().message().find("has no handler"), std::string::npos);
}

TEST_F(RpcTest, NamesATakenPort) {
  config_.port = server_->port();
  Server second(runtime_, metrics_, config_, {.credentials = Mtls().ServerCredentials("echo"), .stack = {}});
  second.Add(MakeReflectionService({}));
  const auto started = second.Start();
  ASSERT_FALSE(started.ok());
  EXPECT_EQ(started.error().code(), Code::kInvalidArgument);
  EXPECT_NE(started.error().message().find("NOVA_GRPC_PORT"), std::string::npos);
}

TEST_F(RpcTest, AConnectionThatDoesNotProveWhoItIsIsClosed) {
  ServerConfig config = config_;
  config.handshake_timeout = milliseconds(200);
  Server server(runtime_, metrics_, config, {.credentials = Mtls().ServerCredentials("echo"), .stack = {}});
  server.Add(MakeReflectionService({Methods::kService}));
  ASSERT_TRUE(server.Start().ok());
  boost::asio::io_context io;
  boost::asio::ip::tcp::socket silent(io);
  const SteadyTime begin = Clock::System().Now();
  silent.connect({boost::asio::ip::make_address("127.0.0.1"), static_cast<std::uint16_t>(server.port())});
  char byte = 0;
  boost::system::error_code error;
  (void)silent.read_some(boost::asio::buffer(&byte, 1), error);
  EXPECT_TRUE(error) << "nothing was said, so nothing is answered";
  EXPECT_GE(Clock::System().Now() - begin, config.handshake_timeout - milliseconds(10)) << "gRPC rounds its times";
  EXPECT_LT(Clock::System().Now() - begin, seconds(5)) << "gRPC's own limit is two minutes";
}

// A server of one authority, and a client of another that at first trusts both.
class RpcTrustTest : public RpcTest {
 protected:
  RpcTrustTest() : server_authority_(MakeAuthority("server-ca")), client_authority_(MakeAuthority("client-ca")) {}

  void SetUp() override {
    const std::string both = server_authority_.certificate_pem() + client_authority_.certificate_pem();
    Issue(server_authority_, "echo", both);
    Issue(client_authority_, "gateway", both);
    echo_ = Publish("echo", tls::Usage::kServer);
    me_ = Publish("gateway", tls::Usage::kClient);
    config_.address = "127.0.0.1";
    config_.port = 0;
    server_.emplace(runtime_, metrics_, config_,
                    ServerSecurity{.credentials = tls::MakeServerCredentials(*echo_, tls::ClientCertificate::kRequired),
                                   .stack = {.verify_token = [](std::string_view) -> Result<runtime::Caller> {
                                     return Unauthenticated("nobody has a token");
                                   }}});
    server_->Add(MakeEcho(seen_));
    const auto started = server_->Start();
    ASSERT_TRUE(started.ok()) << started.error().ToString();
    gateway_ = std::make_unique<Client>(
        metrics_, peer_, ClientConfig{.principal = "echo", .target = "127.0.0.1:" + std::to_string(server_->port())},
        tls::ChannelIdentity(*me_));
  }
  void TearDown() override {
    gateway_.reset();
    server_.reset();
    std::filesystem::remove_all(directory_);
  }

  tls::Authority MakeAuthority(const std::string& name) const {
    auto made = tls::Authority::Create(directory_ / name, Clock::System());
    if (!made) throw std::runtime_error(made.error().ToString());
    return *std::move(made);
  }
  std::filesystem::path File(const std::string& principal, const std::string& name) const {
    return directory_ / principal / name;
  }
  // A leaf of `authority`, with these in its ca.crt.
  void Issue(tls::Authority& authority, const std::string& principal, const std::string& trusted) const {
    const auto issued = authority.Issue({.principal = principal}, directory_ / principal);
    ASSERT_TRUE(issued.ok()) << issued.error().ToString();
    Trust(principal, trusted);
  }
  void Trust(const std::string& principal, const std::string& trusted) const {
    std::ofstream(File(principal, "next.crt")) << trusted;
    std::filesystem::rename(File(principal, "next.crt"), File(principal, "ca.crt"));
  }
  std::unique_ptr<tls::IdentityPublisher> Publish(const std::string& principal, tls::Usage usage) {
    const tls::PublisherConfig config{.files = {.certificate = {.path = File(principal, "tls.crt"), .variable = ""},
                                                .key = {.path = File(principal, "tls.key"), .variable = ""},
                                                .ca = {.path = File(principal, "ca.crt"), .variable = ""}},
                                      .usage = usage};
    auto publisher = tls::IdentityPublisher::Create(config, Clock::System(), metrics_);
    if (!publisher) throw std::runtime_error(publisher.error().ToString());
    return *std::move(publisher);
  }
  Result<EchoResponse> Say(const std::string& text) {
    return Invoke(*gateway_, Methods::kEcho, Text(text), seconds(2));
  }
  // Established connections to the server, as the kernel knows them; gRPC's sockets are of IPv6, its addresses are not.
  int Connections() const {
    std::array<char, 32> remote{};
    std::snprintf(remote.data(), remote.size(), "0100007F:%04X 01 ", static_cast<unsigned>(server_->port()));
    int found = 0;
    for (const char* name : {"/proc/self/net/tcp", "/proc/self/net/tcp6"}) {
      std::ifstream table(name);
      for (std::string line; std::getline(table, line);) found += line.contains(remote.data()) ? 1 : 0;
    }
    return found;
  }

  const std::filesystem::path directory_ =
      std::filesystem::path(::testing::TempDir()) / ("rpc-trust-" + Uuid::New().ToString());
  tls::Authority server_authority_;
  tls::Authority client_authority_;
  tls::Authority unused_ = MakeAuthority("unused-ca");
  std::unique_ptr<tls::IdentityPublisher> echo_;
  std::unique_ptr<tls::IdentityPublisher> me_;
};

TEST_F(RpcTrustTest, NoNewCallGoesOverAConnectionOfAWithdrawnAuthority) {
  ASSERT_TRUE(Say("before").ok());
  std::promise<void> go_on;
  const std::shared_future<void> may_end = go_on.get_future().share();
  // Opened before, and at work until after.
  auto stream = std::async(std::launch::async, [&] {
    return runtime_.RunBlocking<EchoResponse>(seconds(60), [&](Call& call) -> Task<EchoResponse> {
      NOVA_CO_TRY(auto join, gateway_->Open(call, Methods::kJoin));
      NOVA_CO_TRY(co_await join.Write(call, Text("watch me")));
      while (may_end.wait_for(seconds(0)) != std::future_status::ready) {
        NOVA_CO_TRY(co_await join.Write(call, Text("")));
        NOVA_CO_TRY(co_await runtime::Sleep(call, milliseconds(1)));
      }
      NOVA_CO_TRY(co_await join.Write(call, Text(", and now the end")));
      NOVA_CO_TRY(co_await join.WritesDone(call));
      NOVA_CO_TRY(const auto joined, co_await join.Read(call));
      NOVA_CO_TRY(co_await join.Finish(call));
      co_return joined.value_or(EchoResponse());
    });
  });
  seen_.started.get_future().wait();
  EXPECT_EQ(Connections(), 1);

  Trust("gateway", client_authority_.certificate_pem());
  ASSERT_EQ(me_->Check(), tls::IdentityPublisher::Outcome::kPublished);
  const auto refused = Say("the connection is there, and must not be used");
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code(), Code::kUnavailable) << refused.error().ToString();
  EXPECT_EQ(Connections(), 1) << "of the stream";

  // The server comes over to the authority that is left.
  Issue(client_authority_, "echo", client_authority_.certificate_pem());
  ASSERT_EQ(echo_->Check(), tls::IdentityPublisher::Outcome::kPublished);
  EXPECT_TRUE(tests::Eventually([&] { return Say("after").ok(); }));
  EXPECT_EQ(Connections(), 2);

  go_on.set_value();
  const auto streamed = stream.get();
  ASSERT_TRUE(streamed.ok()) << streamed.error().ToString();
  EXPECT_EQ(streamed->text(), "watch me, and now the end");
  EXPECT_TRUE(tests::Eventually([&] { return Connections() == 1; })) << "what nobody uses is closed";
  EXPECT_TRUE(Say("after").ok());
  ExpectNothingRuns();
}

TEST_F(RpcTrustTest, NobodyNoticesThatTheAuthoritiesChange) {
  const std::string both = server_authority_.certificate_pem() + client_authority_.certificate_pem();
  std::atomic<bool> stop = false;
  std::atomic<int> answered = 0;
  std::vector<std::future<void>> callers;
  for (int i = 0; i < 3; ++i) {
    callers.push_back(std::async(std::launch::async, [&] {
      while (!stop) {
        const auto answer = Invoke(*gateway_, Methods::kEcho, Text("x"));
        EXPECT_TRUE(answer.ok()) << answer.error().ToString();
        ++answered;
      }
    }));
  }
  // Who trusts one more, or one less whom nobody needs, connects anew each time.
  for (int round = 0; round < 20; ++round) {
    const int before = answered;
    EXPECT_TRUE(tests::Eventually([&] { return answered > before + 20; }));
    const std::uint64_t version = me_->trust_version();
    Trust("gateway", round % 2 == 0 ? both + unused_.certificate_pem() : both);
    EXPECT_EQ(me_->Check(), tls::IdentityPublisher::Outcome::kPublished);
    EXPECT_GT(me_->trust_version(), version);
  }
  stop = true;
  for (auto& caller : callers) caller.get();
  EXPECT_TRUE(tests::Eventually([&] { return Connections() == 1; }));
  ExpectNothingRuns();
}

TEST_F(RpcTrustTest, ANewLeafIsNoReasonToConnectAnew) {
  ASSERT_TRUE(Say("before").ok());
  Issue(client_authority_, "gateway", server_authority_.certificate_pem() + client_authority_.certificate_pem());
  ASSERT_EQ(me_->Check(), tls::IdentityPublisher::Outcome::kPublished);
  ASSERT_TRUE(Say("after").ok());
  EXPECT_EQ(Connections(), 1);
}

}  // namespace
}  // namespace nova::rpc
