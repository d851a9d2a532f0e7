#include "nova/rpc/server.h"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/post.hpp>
#include <exception>
#include <grpcpp/ext/health_check_service_server_builder_option.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/impl/service_type.h>
#include <grpcpp/support/server_callback.h>
#include <optional>

// The header moved between gRPC releases; generated code finds it through others.
#if __has_include(<grpcpp/impl/server_callback_handlers.h>)
#include <grpcpp/impl/server_callback_handlers.h>
#else
#include <grpcpp/impl/codegen/server_callback_handlers.h>
#endif

#include "nova/rpc/status.h"
#include "nova/runtime/one_shot.h"
#include "nova/telemetry/log.h"

namespace nova::rpc {

namespace asio = boost::asio;
using runtime::Awaitable;
using runtime::Call;
using runtime::OneShot;
using runtime::Strand;
using runtime::Task;

namespace {

// A client that asks more often whether we are alive is cut off; ours ask every 20 s (client.cc).
constexpr int kClientPingIntervalMinMs = 10'000;

}  // namespace

void Bind(config::Config& config, ServerConfig& server) {
  using std::chrono::hours;
  using std::chrono::milliseconds;
  using std::chrono::seconds;
  config.Field("grpc.address", server.address, {.help = "address the gRPC server listens on"});
  config.Field("grpc.port", server.port,
               {.help = "port of the gRPC server; 0 takes a free one", .min = 0, .max = 65535});
  config.Field("grpc.message_bytes_max", server.message_bytes_max,
               {.help = "largest request accepted", .min = 1024, .max = 64 * 1024 * 1024});
  config.Field("grpc.streams_max_per_connection", server.streams_max_per_connection,
               {.help = "concurrent calls on one connection", .min = 1, .max = 100'000});
  config.Field(
      "grpc.handshake_timeout", server.handshake_timeout,
      {.help = "time a new connection gets to prove who it is", .min = milliseconds(100), .max = seconds(120)});
  config.Field("grpc.connection_age_max", server.connection_age_max,
               {.help = "age at which a connection is asked to end", .min = seconds(1), .max = hours(24)});
  config.Field("grpc.connection_age_grace", server.connection_age_grace,
               {.help = "time its last calls get then", .min = seconds(1), .max = hours(1)});
  config.Field(
      "grpc.keepalive_period", server.keepalive_period,
      {.help = "silence after which a client is asked whether it is alive", .min = seconds(1), .max = hours(2)});
  config.Field("grpc.keepalive_timeout", server.keepalive_timeout,
               {.help = "silence after that question that ends the connection", .min = seconds(1), .max = hours(1)});
  config.Field("grpc.buffer_bytes_max", server.buffer_bytes_max,
               {.help = "memory for messages on their way, over all connections", .min = 16 * 1024 * 1024});
  config.Field("grpc.drain_limit", server.drain_limit,
               {.help = "time running calls get at shutdown", .min = seconds(0), .max = seconds(300)});
  resilience::Bind(config, server.overload);
}

// One call. Two parties hold it: gRPC, from the reactor's making until OnDone, and the strand's work. The members are
// confined to the strand, except where gRPC hands over.
class Server::ServerCall {
 public:
  ServerCall(Server& server, const Endpoint& endpoint, grpc::CallbackServerContext& context)
      : server_(server),
        endpoint_(endpoint),
        context_(context),
        strand_(server.runtime_.NewStrand()),
        in_flight_(server.in_flight_) {
    in_flight_->fetch_add(1);
  }
  virtual ~ServerCall() {
    if (in_flight_->fetch_sub(1) == 1) in_flight_->notify_all();
  }
  ServerCall(const ServerCall&) = delete;
  ServerCall& operator=(const ServerCall&) = delete;

 protected:
  // Runs the layers and, if they let it pass, the handler; Reply() is called exactly once.
  void Begin(std::shared_ptr<ServerCall> self);
  // The peer has gone, its deadline has passed, or the server gave up waiting.
  void Abandon(std::shared_ptr<ServerCall> self);

  virtual Task<void> Handle(Call& call) = 0;
  // Hands the outcome to gRPC. The last touch of the reactor: it may be gone when this returns.
  virtual void Reply(grpc::Status status) = 0;

  Server& server_;
  const Endpoint& endpoint_;
  grpc::CallbackServerContext& context_;
  const Strand strand_;

 private:
  // Asks the layers, outermost first.
  Result<void> Admit();
  static Awaitable<void> Run(std::shared_ptr<ServerCall> self);
  void Finish(const Result<void>& outcome);

  const std::shared_ptr<std::atomic<int>> in_flight_;

  std::optional<Incoming> incoming_;
  std::size_t admitted_ = 0;  // layers that have to hear of the end
  Call* call_ = nullptr;      // while the handler runs
  bool abandoned_ = false;
};

// A method as gRPC sees it: a path, and a factory of reactors.
class Server::Endpoint final : public grpc::Service {
 public:
  Endpoint(Server& server, std::size_t index, const RawHandler& handler)
      : server_(server), index_(index), handler_(handler) {
    const MethodPolicy& policy = server.methods_[index];
    // Streams of every kind look alike on the wire, so one reactor serves them all.
    const bool unary = policy.kind == MethodKind::kUnary;
    AddMethod(new grpc::internal::RpcServiceMethod(
        policy.path.c_str(), unary ? grpc::internal::RpcMethod::NORMAL_RPC : grpc::internal::RpcMethod::BIDI_STREAMING,
        nullptr));
    // The generated WithRawCallbackMethod_* templates make these same two calls, at compile time.
    if (unary) {
      MarkMethodRawCallback(0,
                            new grpc::internal::CallbackUnaryHandler<grpc::ByteBuffer, grpc::ByteBuffer>(
                                [this](grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                       grpc::ByteBuffer* response) { return StartUnary(context, request, response); }));
    } else {
      MarkMethodRawCallback(0, new grpc::internal::CallbackBidiHandler<grpc::ByteBuffer, grpc::ByteBuffer>(
                                   [this](grpc::CallbackServerContext* context) { return StartStream(context); }));
    }
  }

  grpc::ServerUnaryReactor* StartUnary(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                       grpc::ByteBuffer* response);
  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* StartStream(grpc::CallbackServerContext* context);

  const MethodPolicy& policy() const { return server_.methods_[index_]; }
  std::size_t index() const { return index_; }
  const RawHandler& handler() const { return handler_; }

 private:
  Server& server_;
  const std::size_t index_;
  const RawHandler& handler_;
};

struct Server::Grpc {
  std::unique_ptr<grpc::Server> server;
};

void Server::ServerCall::Begin(std::shared_ptr<ServerCall> self) {
  incoming_.emplace(Incoming{.method = endpoint_.policy(),
                             .method_index = endpoint_.index(),
                             .context = context_,
                             .arrival = Clock::System().Now(),
                             .options = {},
                             .caller = {}});
  if (const auto admitted = Admit(); !admitted) {
    Finish(admitted);
    return;
  }
  asio::co_spawn(strand_, Run(std::move(self)), [](std::exception_ptr thrown) {
    if (thrown) std::rethrow_exception(thrown);  // Run lets none pass; this is for the day it does
  });
}

Result<void> Server::ServerCall::Admit() {
  // As for the handler: a bug in a layer costs this call and no more.
  try {
    for (const auto& layer : server_.stack_) {
      ++admitted_;
      NOVA_TRY(layer->Admit(*incoming_));
    }
    return Ok();
  } catch (const std::exception& bug) {
    return Internal("internal error", std::string("exception: ") + bug.what());
  } catch (...) {
    return Internal("internal error", "exception of unknown type");
  }
}

Awaitable<void> Server::ServerCall::Run(std::shared_ptr<ServerCall> self) {
  Result<void> outcome;
  {
    Call call(self->strand_, self->incoming_->options);
    if (self->incoming_->caller) call.set_caller(*self->incoming_->caller);
    self->call_ = &call;
    if (self->abandoned_) call.Cancel(self->server_.AbandonReason());
    // The one place where exceptions end: a bug in one call must not take the process with it.
    try {
      outcome = co_await self->Handle(call);
    } catch (const std::exception& bug) {
      outcome = Internal("internal error", std::string("exception: ") + bug.what());
    } catch (...) {
      outcome = Internal("internal error", "exception of unknown type");
    }
    self->call_ = nullptr;
  }
  self->Finish(outcome);
}

void Server::ServerCall::Finish(const Result<void>& outcome) {
  for (; admitted_ > 0; --admitted_) server_.stack_[admitted_ - 1]->Finished(*incoming_, outcome);
  Reply(ToStatus(outcome));
}

void Server::ServerCall::Abandon(std::shared_ptr<ServerCall> self) {
  asio::post(strand_, [self = std::move(self)] {
    self->abandoned_ = true;
    // The handler's own deadline may be the very reason; then its error says so already.
    if (self->call_ != nullptr) self->call_->Cancel(self->server_.AbandonReason());
  });
}

class Server::UnaryServerCall final : public ServerCall, public grpc::ServerUnaryReactor {
 public:
  UnaryServerCall(Server& server, const Endpoint& endpoint, grpc::CallbackServerContext& context,
                  const grpc::ByteBuffer& request, grpc::ByteBuffer& response)
      : ServerCall(server, endpoint, context), request_(request), response_(response) {}

  void Start(std::shared_ptr<UnaryServerCall> self) {
    self_ = std::move(self);
    // On this thread: what never waits never pays for a second one.
    strand_.RunHere([this] { Begin(self_); });
  }

 private:
  Task<void> Handle(Call& call) override {
    return std::get<RawUnaryHandler>(endpoint_.handler())(call, request_, response_);
  }
  void Reply(grpc::Status status) override { ServerUnaryReactor::Finish(std::move(status)); }
  void OnCancel() override { Abandon(self_); }
  void OnDone() override { auto last = std::move(self_); }
  // OnDone only drops a reference; without this gRPC hands it to another thread, for 4 to 5 us.
  bool InternalInlineable() override { return true; }

  const grpc::ByteBuffer& request_;
  grpc::ByteBuffer& response_;
  std::shared_ptr<UnaryServerCall> self_;  // gRPC's hold on the call
};

class Server::StreamServerCall final : public ServerCall,
                                       public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>,
                                       public RawStream {
 public:
  using ServerCall::ServerCall;

  void Start(std::shared_ptr<StreamServerCall> self) {
    self_ = std::move(self);
    strand_.RunHere([this] { Begin(self_); });
  }

  // The buffers are members and not the handler's: a read that the handler no longer awaits, because its call ended,
  // still has somewhere to go.
  Task<std::optional<grpc::ByteBuffer>> Read(Call& call) override {
    NOVA_CO_TRY(Ready(call));
    read_done_.emplace();
    StartRead(&read_buffer_);
    const auto received = co_await read_done_->Wait(call);
    if (!received) {
      broken_ = true;
      co_return received.error();
    }
    if (!*received) {
      // A client that vanished fails the read as one that half-closed does, and the news of its end may still be on the
      // way to this strand.
      if (context_.IsCancelled()) co_return Cancelled("the caller has gone");
      co_return std::optional<grpc::ByteBuffer>();
    }
    std::optional<grpc::ByteBuffer> message(std::in_place);
    message->Swap(&read_buffer_);
    co_return message;
  }

  Task<void> Write(Call& call, grpc::ByteBuffer bytes) override {
    NOVA_CO_TRY(Ready(call));
    write_buffer_.Swap(&bytes);
    write_done_.emplace();
    writing_ = true;
    StartWrite(&write_buffer_);
    const auto sent = co_await write_done_->Wait(call);
    if (!sent) {
      broken_ = true;
      co_return sent.error();
    }
    writing_ = false;
    if (!*sent) co_return Cancelled("the caller has gone");
    co_return Ok();
  }

 private:
  Task<void> Handle(Call& call) override { return std::get<RawStreamHandler>(endpoint_.handler())(call, *this); }
  void Reply(grpc::Status status) override {
    // A status waits for the message before it, and that for a client which may never read again.
    if (writing_) context_.TryCancel();
    ServerBidiReactor::Finish(std::move(status));
  }
  // An operation whose wait ended early is still under way, so no other may follow it.
  Result<void> Ready(const Call& call) const {
    NOVA_TRY(call.Check());
    if (broken_) return Cancelled("an earlier wait on this stream ended early");
    return Ok();
  }
  void OnReadDone(bool ok) override { (void)read_done_->TrySet(ok); }
  void OnWriteDone(bool ok) override { (void)write_done_->TrySet(ok); }
  void OnCancel() override { Abandon(self_); }
  void OnDone() override { auto last = std::move(self_); }

  // Set on the strand before the operation starts, read by gRPC's thread when it ends.
  std::optional<OneShot<bool>> read_done_;
  std::optional<OneShot<bool>> write_done_;
  grpc::ByteBuffer read_buffer_;
  grpc::ByteBuffer write_buffer_;
  bool broken_ = false;
  bool writing_ = false;
  std::shared_ptr<StreamServerCall> self_;  // gRPC's hold on the call
};

grpc::ServerUnaryReactor* Server::Endpoint::StartUnary(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* request, grpc::ByteBuffer* response) {
  auto call = std::make_shared<UnaryServerCall>(server_, *this, *context, *request, *response);
  UnaryServerCall* const reactor = call.get();
  reactor->Start(std::move(call));
  return reactor;  // alive: OnDone cannot come before gRPC has the reactor
}

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Server::Endpoint::StartStream(
    grpc::CallbackServerContext* context) {
  auto call = std::make_shared<StreamServerCall>(server_, *this, *context);
  StreamServerCall* const reactor = call.get();
  reactor->Start(std::move(call));
  return reactor;
}

Server::Server(runtime::Runtime& runtime, telemetry::Metrics& metrics, ServerConfig config, ServerSecurity security)
    : runtime_(runtime), metrics_(metrics), config_(std::move(config)), security_(std::move(security)) {}

Server::~Server() { Stop(); }

void Server::Add(Service service) { services_.push_back(std::move(service)); }

Result<void> Server::Start() {
  NOVA_TRY(resilience::Validate(config_.overload));
  std::vector<const RawHandler*> handlers;
  for (const Service& service : services_) {
    NOVA_TRY(const auto names, MethodNames(service.name()));
    for (const std::string& name : names) {
      NOVA_TRY(auto policy, LoadPolicy(service.name(), name));
      const auto handler = service.handlers().find(name);
      if (handler == service.handlers().end())
        return FailedPrecondition("method " + service.name() + "." + name + " has no handler");
      if (policy.caller != CallerRule::kNone && !security_.stack.verify_token)
        return FailedPrecondition("method " + service.name() + "." + name +
                                  " needs a caller, but this server verifies no tokens");
      methods_.push_back(std::move(policy));
      handlers.push_back(&handler->second);
    }
  }
  stack_ = MakeServerStack(metrics_, methods_, security_.stack, config_.overload);
  for (std::size_t i = 0; i < methods_.size(); ++i)
    endpoints_.push_back(std::make_unique<Endpoint>(*this, i, *handlers[i]));

  grpc::ServerBuilder builder;
  // gRPC's own health service cannot say SERVING again once it has shut down; nova/health has ours.
  builder.SetOption(std::make_unique<grpc::HealthCheckServiceServerBuilderOption>(
      std::unique_ptr<grpc::HealthCheckServiceInterface>()));
  builder.SetMaxReceiveMessageSize(config_.message_bytes_max);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);  // a taken port is an error, not a second listener
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, config_.streams_max_per_connection);
  builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, static_cast<int>(config_.handshake_timeout.count()));
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS, static_cast<int>(config_.connection_age_max.count()));
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_GRACE_MS,
                             static_cast<int>(config_.connection_age_grace.count()));
  int bound = 0;
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, static_cast<int>(config_.keepalive_period.count()));
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, static_cast<int>(config_.keepalive_timeout.count()));
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, kClientPingIntervalMinMs);
  builder.SetResourceQuota(grpc::ResourceQuota("nova").Resize(static_cast<std::size_t>(config_.buffer_bytes_max)));
  const bool bare_ipv6 = config_.address.find(':') != std::string::npos && !config_.address.starts_with('[');
  const std::string host = bare_ipv6 ? "[" + config_.address + "]" : config_.address;
  builder.AddListeningPort(host + ":" + std::to_string(config_.port), security_.credentials, &bound);
  for (const auto& endpoint : endpoints_) builder.RegisterService(endpoint.get());
  grpc_ = std::make_unique<Grpc>();
  grpc_->server = builder.BuildAndStart();
  if (!grpc_->server || bound == 0)
    return InvalidArgument("grpc.port: cannot listen on " + host + ":" + std::to_string(config_.port) +
                           "; is the port taken? Choose another with --grpc-port or NOVA_GRPC_PORT");
  port_ = bound;
  return Ok();
}

Error Server::AbandonReason() const {
  return stopping_ ? Unavailable("the server is stopping", "cut off at the drain limit")
                   : Cancelled("the caller has gone");
}

void Server::Stop() {
  if (!grpc_ || !grpc_->server) return;
  stopping_ = true;
  // Handlers finish their calls also when cancelled, so this returns soon after the limit at the latest.
  grpc_->server->Shutdown(std::chrono::system_clock::now() + config_.drain_limit);
  grpc_->server->Wait();
  // gRPC is done with its side of every call; the last strands may still be letting go of theirs.
  for (int left = in_flight_->load(); left != 0; left = in_flight_->load()) in_flight_->wait(left);
  grpc_->server.reset();
}

}  // namespace nova::rpc
