// Client: calls to one peer service. Every call goes through resilience::Protect: it has a deadline (the earliest of
// the caller's, the method's and, unless it is a stream, the dependency's), is tried again if its method may be
// repeated and the budgets allow it, and is refused while the peer is known to be down. Each try carries the trace and
// is counted. A call ends when its caller's call ends: cancellation reaches the peer. When the authorities that servers
// are verified with change, the next call goes over a new connection; those under way end on the old one, which is then
// closed.
//
//   resilience::PeerDependency peer("identity", metrics, config);
//   Client identity(metrics, peer, {.principal = "identity", .target = "identity:9080"}, channel_identity);
//   NOVA_CO_TRY(auto reply, co_await identity.Invoke(call, IdentityServiceMethods::kVerifyToken, request));
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "nova/base/secret.h"
#include "nova/resilience/dependency.h"
#include "nova/rpc/client_stack.h"
#include "nova/rpc/codec.h"
#include "nova/rpc/stream.h"
#include "nova/runtime/task.h"
#include "nova/tls/credentials.h"

namespace nova::rpc {

// One attempt to connect, the TLS handshake included; gRPC's own figure is 20 s.
inline constexpr std::chrono::milliseconds kConnectTimeout{5'000};

struct ClientConfig {
  // Who must answer: the server's certificate has to carry this name.
  std::string principal;
  // host:port
  std::string target;
  int message_bytes_max = 4 * 1024 * 1024;
  // Give this client a connection of its own instead of sharing one per process and target.
  bool own_connection = false;
};

struct InvokeOptions {
  // Needed by methods that act for an end user; sent as `authorization: Bearer`.
  const Secret<>* access_token = nullptr;
};

// One streaming call, seen from the client. Ends with the call it was opened with; dropping it cancels it; a wait that
// ends early ends it too. Confined to the strand of that call.
class RawClientStream : public RawStream {
 public:
  // Tells the peer that no more messages follow.
  virtual runtime::Task<void> WritesDone(runtime::Call& call) = 0;
  // The status of the peer; await it after Read() has yielded nothing. Errors: that status, or why the call ended.
  virtual runtime::Task<void> Finish(runtime::Call& call) = 0;
};

template <class Request, class Response>
class ClientStream {
 public:
  explicit ClientStream(std::shared_ptr<RawClientStream> raw) : raw_(std::move(raw)) {}

  runtime::Task<void> Write(runtime::Call& call, const Request& request) {
    Writer<Request> writer(*raw_);
    co_return co_await writer.Write(call, request);
  }
  runtime::Task<void> WritesDone(runtime::Call& call) { return raw_->WritesDone(call); }
  // Nothing once the peer has sent its last; then Finish() tells how it ended.
  runtime::Task<std::optional<Response>> Read(runtime::Call& call) {
    NOVA_CO_TRY(const auto bytes, co_await raw_->Read(call));
    if (!bytes) co_return std::optional<Response>();
    std::optional<Response> response(std::in_place);
    if (!Decode(*bytes, *response)) co_return Internal("the peer's answer could not be read", response->GetTypeName());
    co_return response;
  }
  runtime::Task<void> Finish(runtime::Call& call) { return raw_->Finish(call); }

 private:
  std::shared_ptr<RawClientStream> raw_;
};

// Thread-safe. Destroy it after the calls that use it have ended, before the runtime, and not on one of gRPC's threads.
class Client {
 public:
  // `metrics`, `peer` and what the identity stands on outlive it. Several clients of one peer share its dependency.
  Client(telemetry::Metrics& metrics, resilience::PeerDependency& peer, ClientConfig config,
         tls::ChannelIdentity identity);
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // Returns the peer's answer. Errors: the peer's status; UNAVAILABLE if it cannot be reached, is not who it should be,
  // or its breaker is open; RESOURCE_EXHAUSTED if the bulkhead is full; DEADLINE_EXCEEDED; why the call ended.
  // Cancellation: the peer's handler is told, and the bulkhead's permit is back when gRPC has reported the end.
  template <class Request, class Response>
  runtime::Task<Response> Invoke(runtime::Call& call, UnaryMethod<Request, Response> method, const Request& request,
                                 InvokeOptions options = {}) {
    grpc::ByteBuffer bytes;
    NOVA_CO_TRY(Encode(request, bytes));
    NOVA_CO_TRY(const auto answer,
                co_await InvokeRaw(call, {method.service, method.name, method.path}, bytes, options));
    Response response;
    if (!Decode(answer, response)) co_return Internal("the peer's answer could not be read", method.path);
    co_return response;
  }

  // Opens a stream of any kind; for a server stream write one request, then WritesDone. `call` must outlive it. It is
  // never opened a second time by itself. Its permit of the bulkhead is back when gRPC has reported the stream's end.
  // Errors: UNAVAILABLE if the peer's breaker is open; RESOURCE_EXHAUSTED if the bulkhead is full; why the call ended.
  template <MethodKind Kind, class Request, class Response>
    requires(Kind != MethodKind::kUnary)
  Result<ClientStream<Request, Response>> Open(runtime::Call& call, Method<Kind, Request, Response> method,
                                               InvokeOptions options = {}) {
    NOVA_TRY(auto raw, OpenRaw(call, {method.service, method.name, method.path}, options));
    return ClientStream<Request, Response>(std::move(raw));
  }

 private:
  struct Channel;
  class StreamClientCall;

  // Method<> without its types.
  struct MethodName {
    const char* service;
    const char* name;
    const char* path;
  };

  runtime::Task<grpc::ByteBuffer> InvokeRaw(runtime::Call& call, MethodName method, grpc::ByteBuffer request,
                                            InvokeOptions options);
  runtime::Task<grpc::ByteBuffer> Try(resilience::Attempt& attempt, const MethodPolicy& method,
                                      const grpc::ByteBuffer& request, InvokeOptions options);
  Result<std::shared_ptr<RawClientStream>> OpenRaw(runtime::Call& call, MethodName method, InvokeOptions options);
  Result<const MethodPolicy*> Policy(MethodName method);
  std::shared_ptr<Channel> MakeChannel() const;
  // For one new call: its connections were verified with the authorities of now.
  std::shared_ptr<Channel> CurrentChannel(const runtime::Call& call);
  Result<void> Prepare(Outgoing& outgoing);
  void Finished(const Outgoing& outgoing, const Result<void>& outcome);

  resilience::PeerDependency& peer_;
  const ClientConfig config_;
  const tls::ChannelIdentity identity_;
  std::mutex mutex_;
  std::map<std::string, MethodPolicy, std::less<>> policies_;  // by path; guarded by mutex_; entries never move
  const ClientStack stack_;
  std::mutex channel_mutex_;
  std::shared_ptr<Channel> channel_;  // guarded by channel_mutex_; the calls on an earlier one hold it
  // Streams that gRPC has not reported the end of.
  const std::shared_ptr<std::atomic<int>> streams_ = std::make_shared<std::atomic<int>>(0);
};

}  // namespace nova::rpc
