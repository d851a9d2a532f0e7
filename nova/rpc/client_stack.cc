#include "nova/rpc/client_stack.h"

#include <chrono>
#include <grpcpp/client_context.h>
#include <string>

namespace nova::rpc {
namespace {

class TelemetryLayer final : public ClientLayer {
 public:
  TelemetryLayer(telemetry::Metrics& metrics, std::string peer) : metrics_(metrics), peer_(std::move(peer)) {}

  Result<void> Prepare(Outgoing& outgoing) override {
    outgoing.start = Clock::System().Now();
    return Ok();
  }

  void Finished(const Outgoing& outgoing, const Result<void>& outcome) override {
    const Code code = outcome ? Code::kOk : outcome.error().code();
    const telemetry::Labels labels = {
        {"peer", peer_}, {"grpc_service", outgoing.method.service}, {"grpc_method", outgoing.method.name}};
    auto with_code = labels;
    with_code.emplace("grpc_code", CodeName(code));
    metrics_.Counter("grpc_client_handled_total", "Outgoing calls that ended, by status.", with_code).Increment();
    const std::chrono::duration<double> seconds = Clock::System().Now() - outgoing.start;
    metrics_
        .Histogram("grpc_client_handling_seconds", "From the start of an outgoing call to its status.",
                   telemetry::kLatencyBuckets, labels)
        .Observe(seconds.count());
  }

 private:
  telemetry::Metrics& metrics_;
  const std::string peer_;
};

class DeadlineLayer final : public ClientLayer {
 public:
  Result<void> Prepare(Outgoing& outgoing) override {
    NOVA_TRY(outgoing.call.Check());
    // The call was narrowed to the method's timeout before (client.cc); the wire carries what is left now.
    outgoing.context.set_deadline(Clock::System().WallNow() + outgoing.call.Remaining());
    return Ok();
  }
};

class TraceLayer final : public ClientLayer {
 public:
  Result<void> Prepare(Outgoing& outgoing) override {
    outgoing.context.AddMetadata("traceparent", outgoing.call.trace().ToTraceparent());
    return Ok();
  }
};

class TokenLayer final : public ClientLayer {
 public:
  Result<void> Prepare(Outgoing& outgoing) override {
    if (outgoing.access_token != nullptr)
      outgoing.context.AddMetadata("authorization", "Bearer " + outgoing.access_token->Expose());
    return Ok();
  }
};

}  // namespace

ClientStack MakeClientStack(telemetry::Metrics& metrics, const std::string& peer) {
  ClientStack stack;
  // Outermost: also counts what the layers below refuse.
  stack.push_back(std::make_unique<TelemetryLayer>(metrics, peer));
  // No call leaves without a deadline, and none leaves whose deadline has passed.
  stack.push_back(std::make_unique<DeadlineLayer>());
  // The next hop continues our trace.
  stack.push_back(std::make_unique<TraceLayer>());
  // The end user, for methods that act for one.
  stack.push_back(std::make_unique<TokenLayer>());
  return stack;
}

}  // namespace nova::rpc
