#include "nova/rpc/client.h"

#include <boost/asio/post.hpp>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/support/client_callback.h>

#include "nova/resilience/protect.h"
#include "nova/rpc/status.h"
#include "nova/runtime/one_shot.h"
#include "nova/telemetry/log.h"

namespace nova::rpc {

using runtime::Call;
using runtime::CancelHook;
using runtime::OneShot;
using runtime::Task;

namespace {

// The first wait after a lost connection, and the longest: a peer that is back must not be found later than the next
// probes of its breaker, whose open time is about as long.
constexpr int kReconnectBackoffInitialMs = 100;
constexpr int kReconnectBackoffMaxMs = 1'000;

// With a call under way, silence of the first length asks the peer whether it is alive, and of the second gives it up.
constexpr int kKeepaliveTimeMs = 20'000;
constexpr int kKeepaliveTimeoutMs = 5'000;

// gRPC has a timer of its own for our deadline, and reckons in whole milliseconds.
constexpr std::chrono::milliseconds kTimerLead{10};

// What the peer said, unless our own call ended first: then that is the reason that counts.
Result<void> Outcome(const Call& call, const grpc::Status& status, const std::string& peer) {
  if (status.ok()) return Ok();
  if (status.error_code() == grpc::StatusCode::CANCELLED ||
      status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED) {
    NOVA_TRY(call.Check());
  }
  return FromStatus(status).WithContext("from " + peer);
}

// A deadline that gRPC saw a moment before us is not the peer's doing; so the moment is waited for.
bool IsAhead(const grpc::Status& status, const Call& call) {
  return status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED && call.Remaining() < kTimerLead;
}

}  // namespace

// A channel, and whom its connections were verified by.
struct Client::Channel {
  grpc::GenericStub stub;
  std::uint64_t trust_version;
};

Client::Client(telemetry::Metrics& metrics, resilience::PeerDependency& peer, ClientConfig config,
               tls::ChannelIdentity identity)
    : peer_(peer),
      config_(std::move(config)),
      identity_(std::move(identity)),
      stack_(MakeClientStack(metrics, config_.principal)),
      channel_(MakeChannel()) {}

std::shared_ptr<Client::Channel> Client::MakeChannel() const {
  const tls::ChannelCredentials credentials = identity_.For(config_.principal);
  grpc::ChannelArguments arguments;
  credentials.ApplyTo(arguments);
  arguments.SetMaxReceiveMessageSize(config_.message_bytes_max);
  // Services and loopback are no matter for the proxy of somebody's shell.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, kReconnectBackoffInitialMs);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kReconnectBackoffMaxMs);
  // The name is history: it bounds the attempt, not the pause after it.
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, static_cast<int>(kConnectTimeout.count()));
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveTimeMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, config_.own_connection ? 1 : 0);
  // Retries of gRPC's own stay on: without a policy these are only those of calls that provably never left or reached
  // nobody, as when a connection reaches its age, and they cost the peer nothing.
  return std::make_shared<Channel>(
      grpc::GenericStub(grpc::CreateCustomChannel(config_.target, credentials.credentials, arguments)),
      credentials.trust_version);
}

std::shared_ptr<Client::Channel> Client::CurrentChannel(const Call& call) {
  const std::uint64_t trust_version = identity_.trust_version();
  std::shared_ptr<Channel> withdrawn;
  std::shared_ptr<Channel> current;
  {
    // Whoever comes while the new one is made waits for it: the old one is for nobody any more.
    const std::lock_guard lock(channel_mutex_);
    if (channel_->trust_version >= trust_version) return channel_;
    current = MakeChannel();
    withdrawn = std::exchange(channel_, current);
  }
  telemetry::LogInfo("the trusted authorities have changed; calls go over a new connection",
                     {{"peer", config_.principal}});
  // The contexts of its calls hold what is left of it. If it has none it dies at once, and not on this thread, which
  // may be one of gRPC's own (OnDone below says why).
  boost::asio::post(call.strand().io(), [last = std::move(withdrawn)] {});
  return current;
}

Client::~Client() {
  // Dropped streams end soon, for they were cancelled; what they report must not meet a runtime that is gone.
  for (int left = streams_->load(); left != 0; left = streams_->load()) streams_->wait(left);
}

Result<const MethodPolicy*> Client::Policy(MethodName method) {
  std::lock_guard lock(mutex_);
  auto found = policies_.find(std::string_view(method.path));
  if (found == policies_.end()) {
    NOVA_TRY(auto policy, LoadPolicy(method.service, method.name));
    found = policies_.emplace(method.path, std::move(policy)).first;
  }
  return &found->second;
}

Result<void> Client::Prepare(Outgoing& outgoing) {
  for (std::size_t i = 0; i < stack_.size(); ++i) {
    const auto prepared = stack_[i]->Prepare(outgoing);
    if (prepared) continue;
    for (std::size_t j = i + 1; j > 0; --j) stack_[j - 1]->Finished(outgoing, prepared);
    return prepared;
  }
  return Ok();
}

void Client::Finished(const Outgoing& outgoing, const Result<void>& outcome) {
  for (std::size_t i = stack_.size(); i > 0; --i) stack_[i - 1]->Finished(outgoing, outcome);
}

Task<grpc::ByteBuffer> Client::InvokeRaw(Call& call, MethodName name, grpc::ByteBuffer request, InvokeOptions options) {
  NOVA_CO_TRY(const MethodPolicy* const method, Policy(name));
  const auto work = [&](resilience::Attempt& attempt) { return Try(attempt, *method, request, options); };
  co_return co_await resilience::Protect(call, peer_, work,
                                         {.idempotency = method->idempotency, .limit = method->timeout});
}

Task<grpc::ByteBuffer> Client::Try(resilience::Attempt& attempt, const MethodPolicy& method,
                                   const grpc::ByteBuffer& request, InvokeOptions options) {
  Call& call = attempt.call();
  // gRPC writes into these until it reports the end, which the await below outlasts whatever happens to the call; so
  // does the bulkhead's permit. Of the request it takes a copy for each try, of references to the bytes.
  grpc::ClientContext context;
  grpc::ByteBuffer response;
  Outgoing outgoing{.method = method, .context = context, .attempt = attempt, .access_token = options.access_token};
  NOVA_CO_TRY(Prepare(outgoing));

  const CancelHook hook(call, [&context](const Error&) { context.TryCancel(); });
  const auto status = co_await runtime::Await<grpc::Status>([&](runtime::Resolver<grpc::Status> resolve) {
    CurrentChannel(call)->stub.UnaryCall(&context, method.path, {}, &request, &response,
                                         [resolve](grpc::Status ended) { resolve(std::move(ended)); });
  });
  if (IsAhead(status, call)) (void)co_await runtime::Sleep(call, call.Remaining());
  outgoing.reported = true;
  const Result<void> outcome = Outcome(call, status, config_.principal);
  Finished(outgoing, outcome);
  if (!outcome) co_return outcome.error();
  co_return response;
}

namespace {

// gRPC's side of a stream. gRPC holds it from StartCall until OnDone; the owner's side holds it as long as it wants.
class StreamReactor final : public grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  StreamReactor(runtime::Strand strand, std::shared_ptr<std::atomic<int>> streams)
      : strand_(std::move(strand)), streams_(std::move(streams)) {}

  // Holds `permit` until OnDone.
  void Start(std::shared_ptr<StreamReactor> self, resilience::Bulkhead::Permit permit) {
    self_ = std::move(self);
    permit_ = std::move(permit);
    streams_->fetch_add(1);
    // Operations are started from outside of reactions; without a hold OnDone could overtake them.
    AddHold();
    StartCall();
  }

  // The owner has gone; the stream is on its way out.
  void Orphan() {
    std::lock_guard lock(mutex_);
    permit_.Orphan();
  }

  void OnReadDone(bool ok) override { (void)read_done->TrySet(ok); }
  void OnWriteDone(bool ok) override { (void)write_done->TrySet(ok); }
  void OnWritesDoneDone(bool ok) override { (void)write_done->TrySet(ok); }
  void OnDone(const grpc::Status& status) override {
    {
      // Before anybody hears of the end, who may then look whether the place is free.
      std::lock_guard lock(mutex_);
      permit_ = {};
    }
    (void)done.TrySet(status);
    const auto streams = streams_;  // `this` may be gone once the strand has it
    // The context may hold the last reference to the channel, and a channel that dies on one of gRPC's own threads
    // makes that thread join itself and go on with freed memory.
    boost::asio::post(strand_, [last = std::move(self_)] {});
    if (streams->fetch_sub(1) == 1) streams->notify_all();
  }

  grpc::ClientContext context;
  grpc::ByteBuffer read_buffer;
  grpc::ByteBuffer write_buffer;
  // Made by the owner before an operation starts, set by gRPC when it ends.
  std::optional<OneShot<bool>> read_done;
  std::optional<OneShot<bool>> write_done;
  OneShot<grpc::Status> done;

 private:
  const runtime::Strand strand_;
  const std::shared_ptr<std::atomic<int>> streams_;
  std::shared_ptr<StreamReactor> self_;
  std::mutex mutex_;
  resilience::Bulkhead::Permit permit_;  // guarded by mutex_: the owner and gRPC meet here
};

}  // namespace

// The owner's side of a stream; confined to its strand. A wait that ends early ends the stream, because the operation
// it waited for is still under way.
class Client::StreamClientCall final : public RawClientStream {
 public:
  StreamClientCall(Client& client, Call& parent, const MethodPolicy& method, InvokeOptions options)
      : client_(client),
        reactor_(std::make_shared<StreamReactor>(parent.strand(), client.streams_)),
        limited_(parent, method.timeout),
        guard_(limited_, client.peer_, {.lasting = true}),
        outgoing_{.method = method,
                  .context = reactor_->context,
                  .attempt = guard_.attempt(),
                  .access_token = options.access_token},
        hook_(guard_.call(), [this](const Error&) { reactor_->context.TryCancel(); }) {}

  ~StreamClientCall() override {
    if (started_) {
      reactor_->Orphan();
      reactor_->context.TryCancel();
      LetGo();
    }
    if (!counts_) return;
    const Result<void> ended = guard_.call().Check();
    client_.Finished(outgoing_, ended ? Result<void>(Cancelled("the stream was dropped")) : ended);
  }

  // Asks the breaker and the bulkhead, and begins.
  Result<void> Open() {
    NOVA_TRY(guard_.Begin());
    if (auto prepared = client_.Prepare(outgoing_); !prepared) return guard_.Failed(std::move(prepared).error());
    counts_ = true;
    outgoing_.access_token = nullptr;  // the caller's; only Prepare may use it
    // A fault that is to be injected comes first; it waits, which the first wait of the owner does for it.
    if (!guard_.has_fault()) Start();
    return Ok();
  }

  Task<std::optional<grpc::ByteBuffer>> Read(Call& call) override {
    NOVA_CO_TRY(Ready(call));
    if (!started_) NOVA_CO_TRY(co_await StartWithFault(call));
    reactor_->read_done.emplace();
    reactor_->StartRead(&reactor_->read_buffer);
    NOVA_CO_TRY(const bool received, Ended(co_await reactor_->read_done->Wait(call)));
    if (!received) co_return std::optional<grpc::ByteBuffer>();
    guard_.Answered();
    std::optional<grpc::ByteBuffer> message(std::in_place);
    message->Swap(&reactor_->read_buffer);
    co_return message;
  }

  Task<void> Write(Call& call, grpc::ByteBuffer bytes) override {
    NOVA_CO_TRY(Ready(call));
    if (!started_) NOVA_CO_TRY(co_await StartWithFault(call));
    reactor_->write_buffer.Swap(&bytes);
    reactor_->write_done.emplace();
    reactor_->StartWrite(&reactor_->write_buffer);
    NOVA_CO_TRY(const bool sent, Ended(co_await reactor_->write_done->Wait(call)));
    // The peer has answered already; the status is not ours to guess, and no reason to try again.
    if (!sent) co_return FailedPrecondition("the stream has ended; Finish tells why");
    co_return Ok();
  }

  Task<void> WritesDone(Call& call) override {
    NOVA_CO_TRY(Ready(call));
    if (!started_) NOVA_CO_TRY(co_await StartWithFault(call));
    reactor_->write_done.emplace();
    reactor_->StartWritesDone();
    NOVA_CO_TRY(Ended(co_await reactor_->write_done->Wait(call)));
    co_return Ok();
  }

  Task<void> Finish(Call& call) override {
    if (let_go_) co_return FailedPrecondition("the stream was finished");
    if (!started_) {
      NOVA_CO_TRY(Ready(call));
      NOVA_CO_TRY(co_await StartWithFault(call));
    }
    LetGo();
    NOVA_CO_TRY(const grpc::Status status, Ended(co_await reactor_->done.Wait(call)));
    if (IsAhead(status, guard_.call())) (void)co_await runtime::Sleep(guard_.call(), guard_.call().Remaining());
    Result<void> outcome = Outcome(guard_.call(), status, client_.config_.principal);
    outgoing_.reported = true;
    counts_ = false;
    client_.Finished(outgoing_, outcome);
    if (auto lost = guard_.InjectAfter()) outcome = *std::move(lost);
    if (outcome) {
      guard_.Succeeded();
      co_return Ok();
    }
    Error error = guard_.Failed(std::move(outcome).error());
    // Nobody opens it again here; but a peer that says "not again" says it to those above, too.
    (void)guard_.RetryAfter(error);
    co_return error;
  }

 private:
  void Start() {
    client_.CurrentChannel(limited_)->stub.PrepareBidiStreamingCall(&reactor_->context, outgoing_.method.path, {},
                                                                    reactor_.get());
    started_ = true;
    reactor_->Start(reactor_, guard_.attempt().TakePermit());
  }

  Task<void> StartWithFault(Call& call) {
    // As everywhere here, a wait that ends early ends the stream.
    const CancelHook hook(call, [this](const Error& reason) { guard_.call().Cancel(reason); });
    auto injected = co_await guard_.InjectBefore();
    // A read and a write may wait for the same fault; whoever is the first to come back acts for both.
    if (started_) co_return Ok();
    if (broken_) co_return Cancelled("an earlier wait on this stream ended early");
    if (!injected) {
      broken_ = true;
      counts_ = false;
      client_.Finished(outgoing_, injected);
      co_return guard_.Failed(std::move(injected).error());
    }
    Start();
    co_return Ok();
  }

  Result<void> Ready(const Call& call) {
    NOVA_TRY(call.Check());
    if (broken_) return Cancelled("an earlier wait on this stream ended early");
    if (let_go_) return FailedPrecondition("the stream was finished");
    return guard_.call().Check();
  }

  template <class T>
  Result<T> Ended(Result<T> waited) {
    if (!waited) {
      broken_ = true;
      reactor_->context.TryCancel();
    }
    return waited;
  }

  void LetGo() {
    if (!std::exchange(let_go_, true)) reactor_->RemoveHold();
  }

  Client& client_;
  const std::shared_ptr<StreamReactor> reactor_;
  // Until the method's limit, however long its caller would wait.
  Call limited_;
  resilience::Guard guard_;
  Outgoing outgoing_;
  CancelHook hook_;
  bool started_ = false;
  bool broken_ = false;
  bool let_go_ = false;
  // The layers have to hear of the end.
  bool counts_ = false;
};

Result<std::shared_ptr<RawClientStream>> Client::OpenRaw(Call& call, MethodName name, InvokeOptions options) {
  NOVA_TRY(const MethodPolicy* const method, Policy(name));
  auto stream = std::make_shared<StreamClientCall>(*this, call, *method, options);
  NOVA_TRY(stream->Open());
  return std::shared_ptr<RawClientStream>(std::move(stream));
}

}  // namespace nova::rpc
