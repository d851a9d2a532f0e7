#include "bench/rpc_servers.h"

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cstdio>
#include <functional>
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/grpcpp.h>
#include <memory>
#include <thread>

#include "bench/server_process.h"
#include "nova/rpc/codec.h"
#include "nova/rpc/server.h"
#include "nova/runtime/runtime.h"
#include "nova/telemetry/log.h"
#include "tests/echo.grpc.pb.h"
#include "tests/echo.nova.h"
#include "tests/mtls_fixture.h"

namespace nova::bench {
namespace {

using tests::EchoRequest;
using tests::EchoResponse;

// The bare servers wait on the same timers and as many threads as Nova's runtime.
class Timers {
 public:
  void After(std::uint32_t microseconds, std::function<void()> then) {
    auto timer = std::make_shared<boost::asio::steady_timer>(runtime_.io(), std::chrono::microseconds(microseconds));
    timer->async_wait([timer, then = std::move(then)](const boost::system::error_code&) { then(); });
  }

 private:
  runtime::Runtime runtime_;
};

class BareService final : public tests::EchoService::CallbackService {
 public:
  grpc::ServerUnaryReactor* Echo(grpc::CallbackServerContext* context, const EchoRequest* request,
                                 EchoResponse* response) override {
    auto* const reactor = context->DefaultReactor();
    response->set_text(request->text());
    if (request->wait_us() == 0)
      reactor->Finish(grpc::Status::OK);
    else
      timers_.After(request->wait_us(), [reactor] { reactor->Finish(grpc::Status::OK); });
    return reactor;
  }

 private:
  Timers timers_;
};

class RawService final : public tests::EchoService::WithRawCallbackMethod_Echo<tests::EchoService::Service> {
 public:
  grpc::ServerUnaryReactor* Echo(grpc::CallbackServerContext* context, const grpc::ByteBuffer* bytes,
                                 grpc::ByteBuffer* answer) override {
    auto* const reactor = context->DefaultReactor();
    EchoRequest request;
    EchoResponse response;
    if (!rpc::Decode(*bytes, request)) return reactor->Finish(grpc::Status(grpc::INVALID_ARGUMENT, "")), reactor;
    response.set_text(request.text());
    if (!rpc::Encode(response, *answer)) return reactor->Finish(grpc::Status(grpc::INTERNAL, "")), reactor;
    if (request.wait_us() == 0)
      reactor->Finish(grpc::Status::OK);
    else
      timers_.After(request.wait_us(), [reactor] { reactor->Finish(grpc::Status::OK); });
    return reactor;
  }

 private:
  Timers timers_;
};

class GenericService final : public grpc::CallbackGenericService {
 public:
  grpc::ServerGenericBidiReactor* CreateReactor(grpc::GenericCallbackServerContext*) override {
    return new Reactor(timers_);
  }

 private:
  class Reactor final : public grpc::ServerGenericBidiReactor {
   public:
    explicit Reactor(Timers& timers) : timers_(timers) { StartRead(&buffer_); }
    void OnReadDone(bool ok) override {
      EchoRequest request;
      EchoResponse response;
      if (!ok || !rpc::Decode(buffer_, request)) return Finish(grpc::Status(grpc::INVALID_ARGUMENT, ""));
      response.set_text(request.text());
      if (!rpc::Encode(response, buffer_)) return Finish(grpc::Status(grpc::INTERNAL, ""));
      if (request.wait_us() == 0)
        StartWriteAndFinish(&buffer_, {}, grpc::Status::OK);
      else
        timers_.After(request.wait_us(), [this] { StartWriteAndFinish(&buffer_, {}, grpc::Status::OK); });
    }
    void OnDone() override { delete this; }

   private:
    bool InternalInlineable() override { return true; }
    Timers& timers_;
    grpc::ByteBuffer buffer_;
  };
  Timers timers_;
};

int RunGrpc(tests::MtlsFixture& mtls, const std::function<void(grpc::ServerBuilder&)>& add) {
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", mtls.ServerCredentials("echo"), &port);
  add(builder);
  const auto server = builder.BuildAndStart();
  if (!server) return 3;
  ServeUntilStdinEnds(port);
  server->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(1));
  return 0;
}

rpc::Service NovaService() {
  using runtime::Call;
  using runtime::Task;
  using Methods = tests::EchoServiceMethods;
  const auto echo = [](Call& call, const EchoRequest& request) -> Task<EchoResponse> {
    if (request.wait_us() > 0) NOVA_CO_TRY(co_await runtime::Sleep(call, std::chrono::microseconds(request.wait_us())));
    EchoResponse response;
    response.set_text(request.text());
    co_return response;
  };
  const auto stream = [](Call&, auto&&...) -> Task<void> { co_return FailedPrecondition("not part of this bench"); };
  const auto join = [](Call&, rpc::Reader<EchoRequest>&) -> Task<EchoResponse> {
    co_return FailedPrecondition("not part of this bench");
  };
  rpc::Service service(Methods::kService);
  service.Handle(Methods::kEcho, echo);
  service.Handle(Methods::kHurried, echo);
  service.Handle(Methods::kOperatorOnly, echo);
  service.Handle(Methods::kForCaller, echo);
  service.Handle(Methods::kForAnyone, echo);
  service.Handle(Methods::kFail, echo);
  service.Handle(Methods::kRepeat, stream);
  service.Handle(Methods::kJoin, join);
  service.Handle(Methods::kChat, stream);
  return service;
}

int RunNova(tests::MtlsFixture& mtls) {
  telemetry::InitLogging({.service = "bench"});
  runtime::Runtime runtime;
  telemetry::Metrics metrics;
  rpc::ServerStackConfig stack;
  stack.verify_token = [](std::string_view) -> Result<runtime::Caller> { return runtime::Caller(); };
  rpc::Server server(runtime, metrics, {.address = "127.0.0.1", .port = 0},
                     {.credentials = mtls.ServerCredentials("echo"), .stack = stack});
  server.Add(NovaService());
  if (const auto started = server.Start(); !started) {
    std::fprintf(stderr, "%s\n", started.error().ToString().c_str());
    return 3;
  }
  ServeUntilStdinEnds(server.port());
  return 0;
}

}  // namespace

std::vector<std::string> ServerKinds() { return {"bare", "raw", "generic", "nova"}; }

int RunServer(const std::string& kind, const std::string& certificates) {
  tests::MtlsFixture mtls{std::filesystem::path(certificates)};
  if (kind == "nova") return RunNova(mtls);
  BareService bare;
  RawService raw;
  GenericService generic;
  return RunGrpc(mtls, [&](grpc::ServerBuilder& builder) {
    if (kind == "bare") builder.RegisterService(&bare);
    if (kind == "raw") builder.RegisterService(&raw);
    if (kind == "generic") builder.RegisterCallbackGenericService(&generic);
  });
}

}  // namespace nova::bench
