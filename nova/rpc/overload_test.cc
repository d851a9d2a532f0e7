// A real server at its limit. The calls are made through gRPC's own generic stub, which sends whatever body it is given
// and shows the trailing metadata.
#include <atomic>
#include <deque>
#include <future>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <thread>

#include "api/health/v1/health.nova.h"
#include "api/reflection/v1alpha/reflection.nova.h"
#include "nova/health/monitor.h"
#include "nova/health/service.h"
#include "nova/rpc/client.h"
#include "nova/rpc/codec.h"
#include "nova/rpc/reflection.h"
#include "nova/rpc/server.h"
#include "tests/load.nova.h"
#include "tests/mtls_fixture.h"

namespace nova::rpc {
namespace {

using nova::tests::LoadRequest;
using nova::tests::LoadResponse;
using runtime::Call;
using runtime::Task;
using std::chrono::milliseconds;
using std::chrono::seconds;
using Methods = nova::tests::LoadServiceMethods;

constexpr std::uint32_t kUntilCancelled = 60'000'000;

// One call, under way or ended.
class RawCall {
 public:
  RawCall(grpc::GenericStub& stub, const char* path, grpc::ByteBuffer body) : body_(std::move(body)) {
    context_.set_deadline(std::chrono::system_clock::now() + seconds(30));
    stub.UnaryCall(&context_, path, {}, &body_, &answer_,
                   [this](grpc::Status status) { ended_.set_value(std::move(status)); });
  }
  ~RawCall() {
    context_.TryCancel();
    (void)Status();
  }
  RawCall(const RawCall&) = delete;
  RawCall& operator=(const RawCall&) = delete;

  const grpc::Status& Status() { return status_.get(); }
  Code GetCode() { return static_cast<Code>(Status().error_code()); }
  // Empty if there is none.
  std::string Trailer(const std::string& key) {
    (void)Status();
    const auto& trailers = context_.GetServerTrailingMetadata();
    const auto found = trailers.find(key);
    return found == trailers.end() ? "" : std::string(found->second.data(), found->second.size());
  }

 private:
  grpc::ClientContext context_;
  grpc::ByteBuffer body_;
  grpc::ByteBuffer answer_;
  std::promise<grpc::Status> ended_;
  std::shared_future<grpc::Status> status_ = ended_.get_future().share();
};

class OverloadTest : public ::testing::Test {
 protected:
  // A fixed limit of 4: 2 calls of low priority, 3 of normal, 4 of high, 6 of critical.
  void Start(int initial = 4, int min = 4, int max = 4) {
    ServerConfig config;
    config.address = "127.0.0.1";
    config.port = 0;
    config.overload.initial = initial;
    config.overload.min = min;
    config.overload.max = max;
    config.overload.slack = milliseconds(1);
    config.overload.burst = milliseconds(0);
    server_.emplace(runtime_, metrics_, config,
                    ServerSecurity{.credentials = Mtls().ServerCredentials("echo"), .stack = {}});
    server_->Add(MakeLoad());
    server_->Add(MakeReflectionService({Methods::kService}));
    server_->Add(health::MakeHealthService(monitor_, {Methods::kService}));
    const auto started = server_->Start();
    ASSERT_TRUE(started.ok()) << started.error().ToString();
    identity_.emplace(Mtls().ChannelIdentity("operator"));
    const auto credentials = identity_->For("echo");
    grpc::ChannelArguments arguments;
    credentials.ApplyTo(arguments);
    stub_.emplace(grpc::CreateCustomChannel(Target(), credentials.credentials, arguments));
  }

  static tests::MtlsFixture& Mtls() {
    static tests::MtlsFixture mtls;
    return mtls;
  }

  Service MakeLoad() {
    Service service(Methods::kService);
    const auto load = [this](Call& call, const LoadRequest& request) -> Task<LoadResponse> {
      const int now = running_.fetch_add(1) + 1;
      started_.fetch_add(1);
      // As if all calls waited for one another.
      const Duration wait =
          std::chrono::microseconds(request.wait_us()) + now * std::chrono::microseconds(request.work_us());
      const auto slept = co_await runtime::Sleep(call, wait);
      running_.fetch_sub(1);
      if (!slept) co_return slept.error();
      co_return LoadResponse();
    };
    service.Handle(Methods::kCritical, load);
    service.Handle(Methods::kHigh, load);
    service.Handle(Methods::kNormal, load);
    service.Handle(Methods::kLow, load);
    service.Handle(Methods::kStream,
                   [this](Call& call, const LoadRequest& request, Writer<LoadResponse>&) -> Task<void> {
                     started_.fetch_add(1);
                     co_return co_await runtime::Sleep(call, std::chrono::microseconds(request.wait_us()));
                   });
    return service;
  }

  std::string Target() const { return "127.0.0.1:" + std::to_string(server_->port()); }

  template <class Message>
  static grpc::ByteBuffer Body(const Message& message) {
    grpc::ByteBuffer bytes;
    EXPECT_TRUE(Encode(message, bytes).ok());
    return bytes;
  }
  static LoadRequest Wait(std::uint32_t wait_us, std::uint32_t work_us = 0) {
    LoadRequest request;
    request.set_wait_us(wait_us);
    request.set_work_us(work_us);
    return request;
  }
  // Bytes that are no LoadRequest.
  static grpc::ByteBuffer Garbage() {
    const grpc::Slice slice("\xff\xff\xff\xff");
    return grpc::ByteBuffer(&slice, 1);
  }

  template <class Method>
  Code Try(Method method) {
    return RawCall(*stub_, method.path, Body(Wait(0))).GetCode();
  }
  // A call that stays until Release().
  template <class Method>
  void Hold(Method method) {
    const int before = started_.load();
    held_.emplace_back(*stub_, method.path, Body(Wait(kUntilCancelled)));
    ASSERT_TRUE(Await([&] { return started_.load() == before + 1; })) << method.path << " was not let in";
  }
  void Release() {
    held_.clear();
    EXPECT_TRUE(Await([&] { return server_->calls_in_flight() == 0; }));
  }

  // There is nothing to await: it happens in the server. Bounded.
  bool Await(const std::function<bool()>& condition) {
    return runtime_
        .RunBlocking<void>(seconds(20),
                           [&](Call& call) -> Task<void> {
                             while (!condition()) NOVA_CO_TRY(co_await runtime::Sleep(call, milliseconds(1)));
                             co_return Ok();
                           })
        .ok();
  }

  // `series`: the name with its labels, as in the scrape. -1 if it is not there.
  double Metric(const std::string& series) const {
    const std::string scrape = "\n" + metrics_.Scrape();
    const auto at = scrape.find("\n" + series + " ");
    return at == std::string::npos ? -1 : std::stod(scrape.substr(at + series.size() + 2));
  }
  double Shed(const std::string& priority) const {
    return Metric("nova_overload_shed_total{priority=\"" + priority + "\"}");
  }

  std::atomic<int> running_ = 0;
  std::atomic<int> started_ = 0;
  telemetry::Metrics metrics_;
  runtime::Runtime runtime_;
  health::Monitor monitor_{metrics_, {}};
  std::optional<Server> server_;
  std::optional<tls::ChannelIdentity> identity_;
  std::optional<grpc::GenericStub> stub_;
  std::deque<RawCall> held_;
};

TEST_F(OverloadTest, WhatIsShedIsNotDecodedAndIsToldWhenToComeBack) {
  Start();
  EXPECT_EQ(RawCall(*stub_, Methods::kNormal.path, Garbage()).GetCode(), Code::kInvalidArgument);
  for (int i = 0; i < 3; ++i) Hold(Methods::kNormal);
  const int started = started_.load();
  for (int i = 0; i < 10; ++i) {
    RawCall shed(*stub_, Methods::kNormal.path, Garbage());
    EXPECT_EQ(shed.GetCode(), Code::kResourceExhausted);
    const std::string push_back = shed.Trailer("grpc-retry-pushback-ms");
    ASSERT_FALSE(push_back.empty());
    EXPECT_GE(std::stoi(push_back), 75);
    EXPECT_LE(std::stoi(push_back), 126);
  }
  EXPECT_EQ(started_.load(), started);
  EXPECT_EQ(Shed("normal"), 10);
  EXPECT_EQ(Metric("grpc_server_handled_total{grpc_code=\"RESOURCE_EXHAUSTED\",grpc_method=\"Normal\",grpc_service=\"" +
                   std::string(Methods::kService) + "\",grpc_type=\"unary\"}"),
            10);
  Release();
}

TEST_F(OverloadTest, TheLeastImportantIsShedFirst) {
  Start();
  for (const char* priority : {"low", "normal", "high", "critical"}) EXPECT_EQ(Shed(priority), 0);
  for (int i = 0; i < 2; ++i) Hold(Methods::kLow);
  EXPECT_EQ(Try(Methods::kLow), Code::kResourceExhausted);
  Hold(Methods::kNormal);
  EXPECT_EQ(Try(Methods::kNormal), Code::kResourceExhausted);
  Hold(Methods::kHigh);
  EXPECT_EQ(Try(Methods::kHigh), Code::kResourceExhausted);
  EXPECT_EQ(Try(Methods::kCritical), Code::kOk);
  for (int i = 0; i < 2; ++i) Hold(Methods::kCritical);
  EXPECT_EQ(Try(Methods::kCritical), Code::kResourceExhausted);
  for (const char* priority : {"low", "normal", "high", "critical"}) EXPECT_EQ(Shed(priority), 1);
  EXPECT_EQ(Metric("nova_overload_in_flight"), 6);
  EXPECT_EQ(Metric("nova_overload_limit"), 4);
  Release();
  EXPECT_EQ(Metric("nova_overload_in_flight"), 0);
  EXPECT_EQ(Try(Methods::kLow), Code::kOk);
}

TEST_F(OverloadTest, HealthAndReflectionAnswerWhateverTheLoad) {
  Start();
  for (int i = 0; i < 6; ++i) Hold(Methods::kCritical);
  ASSERT_EQ(Try(Methods::kCritical), Code::kResourceExhausted);
  using Health = grpc::health::v1::HealthMethods;
  RawCall check(*stub_, Health::kCheck.path, Body(grpc::health::v1::HealthCheckRequest()));
  EXPECT_EQ(check.GetCode(), Code::kOk) << check.Status().error_message();

  resilience::PeerDependency peer("echo", metrics_);
  Client client(metrics_, peer, {.principal = "echo", .target = Target(), .own_connection = true}, *identity_);
  const auto listed = runtime_.RunBlocking<bool>(seconds(20), [&](Call& call) -> Task<bool> {
    using Reflection = grpc::reflection::v1alpha::ServerReflectionMethods;
    NOVA_CO_TRY(auto stream, client.Open(call, Reflection::kServerReflectionInfo));
    grpc::reflection::v1alpha::ServerReflectionRequest request;
    request.set_list_services("");
    NOVA_CO_TRY(co_await stream.Write(call, request));
    NOVA_CO_TRY(const auto answer, co_await stream.Read(call));
    co_return answer && answer->has_list_services_response();
  });
  ASSERT_TRUE(listed.ok()) << listed.error().ToString();
  EXPECT_TRUE(*listed);
  Release();
}

TEST_F(OverloadTest, StreamsAreNotLimitedAndTakeNoPlaces) {
  Start();
  resilience::PeerDependency peer("echo", metrics_);
  Client client(metrics_, peer, {.principal = "echo", .target = Target(), .own_connection = true}, *identity_);
  const auto opened = runtime_.RunBlocking<void>(seconds(20), [&](Call& call) -> Task<void> {
    std::deque<ClientStream<LoadRequest, LoadResponse>> streams;
    for (int i = 0; i < 10; ++i) {
      NOVA_CO_TRY(auto stream, client.Open(call, Methods::kStream));
      NOVA_CO_TRY(co_await stream.Write(call, Wait(kUntilCancelled)));
      NOVA_CO_TRY(co_await stream.WritesDone(call));
      streams.push_back(std::move(stream));
    }
    while (started_.load() < 10) NOVA_CO_TRY(co_await runtime::Sleep(call, milliseconds(1)));
    co_return Ok();
  });
  ASSERT_TRUE(opened.ok()) << opened.error().ToString();
  EXPECT_EQ(Metric("nova_overload_in_flight"), 0);
  EXPECT_EQ(Try(Methods::kLow), Code::kOk);
}

TEST_F(OverloadTest, TheLimitFollowsWhatCallsTake) {
  Start(16, 4, 16);
  ASSERT_EQ(Metric("nova_overload_limit"), 16);
  // Alone, a call takes 3 ms.
  for (int i = 0; i < 20; ++i)
    ASSERT_EQ(RawCall(*stub_, Methods::kHigh.path, Body(Wait(0, 3'000))).GetCode(), Code::kOk);
  EXPECT_EQ(Metric("nova_overload_limit"), 16);
  // Twelve at once take 36 ms each.
  std::atomic<bool> stop = false;
  std::vector<std::thread> threads;
  for (int t = 0; t < 12; ++t) {
    threads.emplace_back([&] {
      while (!stop) (void)RawCall(*stub_, Methods::kHigh.path, Body(Wait(0, 3'000))).GetCode();
    });
  }
  EXPECT_TRUE(Await([&] { return Metric("nova_overload_limit") < 8; })) << Metric("nova_overload_limit");
  EXPECT_TRUE(Await([&] { return Shed("high") > 0; }));
  EXPECT_GT(Metric("nova_overload_stretch"), 0);
  stop = true;
  for (std::thread& thread : threads) thread.join();
}

TEST_F(OverloadTest, LimitsThatContradictEachOtherStopTheStart) {
  ServerConfig config;
  config.port = 0;
  config.overload.min = 65;
  config.overload.max = 64;
  Server server(runtime_, metrics_, config,
                ServerSecurity{.credentials = Mtls().ServerCredentials("echo"), .stack = {}});
  server.Add(MakeLoad());
  const auto started = server.Start();
  ASSERT_FALSE(started.ok());
  EXPECT_EQ(started.error().code(), Code::kInvalidArgument);
  EXPECT_NE(started.error().message().find("NOVA_OVERLOAD_MIN"), std::string::npos);
  EXPECT_EQ(server.port(), 0);
}

}  // namespace
}  // namespace nova::rpc
