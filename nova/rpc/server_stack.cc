#include "nova/rpc/server_stack.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <grpcpp/server_context.h>

#include "nova/telemetry/log.h"
#include "nova/tls/peer.h"

namespace nova::rpc {
namespace {

std::string_view Header(const Incoming& incoming, const char* key) {
  const auto& metadata = incoming.context.client_metadata();
  const auto found = metadata.find(key);
  if (found == metadata.end()) return {};
  return {found->second.data(), found->second.size()};
}

const char* KindLabel(MethodKind kind) {
  switch (kind) {
    case MethodKind::kUnary:
      return "unary";
    case MethodKind::kClientStream:
      return "client_stream";
    case MethodKind::kServerStream:
      return "server_stream";
    case MethodKind::kBidiStream:
      return "bidi_stream";
  }
  return "unknown";
}

// Is this outcome the server's own fault? These are what an operator wants to read about.
bool IsServerFault(Code code) {
  return code == Code::kUnknown || code == Code::kInternal || code == Code::kDataLoss || code == Code::kUnavailable ||
         code == Code::kDeadlineExceeded || code == Code::kUnimplemented;
}

class TelemetryLayer final : public ServerLayer {
 public:
  TelemetryLayer(telemetry::Metrics& metrics, const std::vector<MethodPolicy>& methods) {
    methods_.reserve(methods.size());
    for (const MethodPolicy& method : methods) methods_.emplace_back(metrics, method);
  }

  Result<void> Admit(Incoming& incoming) override {
    methods_[incoming.method_index].started->Increment();
    return Ok();
  }

  void Finished(const Incoming& incoming, const Result<void>& outcome) override {
    const Code code = outcome ? Code::kOk : outcome.error().code();
    PerMethod& method = methods_[incoming.method_index];
    method.handled[static_cast<std::size_t>(code)]->Increment();
    const std::chrono::duration<double> seconds = Clock::System().Now() - incoming.arrival;
    method.handling->Observe(seconds.count());
    if (outcome) return;
    const auto level = IsServerFault(code) ? telemetry::Level::kWarn : telemetry::Level::kDebug;
    if (!telemetry::LogEnabled(level)) return;
    telemetry::Log(level, "call failed",
                   {{"method", incoming.method.path},
                    {"peer", incoming.options.peer},
                    {"trace_id", incoming.options.trace.TraceId()},
                    {"error", outcome.error()},
                    {"seconds", seconds.count()}});
  }

 private:
  // Looked up once: a warm call takes no lock here.
  struct PerMethod {
    PerMethod(telemetry::Metrics& metrics, const MethodPolicy& method) {
      const telemetry::Labels labels = {
          {"grpc_type", KindLabel(method.kind)}, {"grpc_service", method.service}, {"grpc_method", method.name}};
      started = &metrics.Counter("grpc_server_started_total", "Calls that arrived.", labels);
      handling = &metrics.Histogram("grpc_server_handling_seconds", "From the arrival of a call to its status.",
                                    telemetry::kLatencyBuckets, labels);
      for (int code = 0; code < kCodeCount; ++code) {
        auto with_code = labels;
        with_code.emplace("grpc_code", CodeName(static_cast<Code>(code)));
        handled[static_cast<std::size_t>(code)] =
            &metrics.Counter("grpc_server_handled_total", "Calls that ended, by status.", with_code);
      }
    }
    prometheus::Counter* started;
    prometheus::Histogram* handling;
    std::array<prometheus::Counter*, kCodeCount> handled{};
  };
  std::vector<PerMethod> methods_;
};

class TraceLayer final : public ServerLayer {
 public:
  Result<void> Admit(Incoming& incoming) override {
    // A malformed header begins a new trace, as the specification asks.
    if (const auto parsed = runtime::TraceContext::Parse(Header(incoming, "traceparent")))
      incoming.options.trace = parsed->Child();
    return Ok();
  }
};

class PeerLayer final : public ServerLayer {
 public:
  PeerLayer(telemetry::Metrics& metrics, bool authorize) : metrics_(metrics), authorize_(authorize) {}

  Result<void> Admit(Incoming& incoming) override {
    if (const auto context = incoming.context.auth_context()) incoming.options.peer = tls::PeerPrincipal(*context);
    if (!authorize_ || incoming.method.Allows(incoming.options.peer)) return Ok();
    // Refusals are rare and their labels unknown before, so the lookup is made here.
    metrics_
        .Counter("nova_rpc_peer_refused_total", "Calls refused because the peer may not call the method.",
                 {{"peer", incoming.options.peer}, {"method", incoming.method.path}})
        .Increment();
    return PermissionDenied("the certificate of this peer does not allow this call",
                            "peer '" + incoming.options.peer + "' is not among allowed_peers of the method");
  }

 private:
  telemetry::Metrics& metrics_;
  const bool authorize_;
};

class DeadlineLayer final : public ServerLayer {
 public:
  Result<void> Admit(Incoming& incoming) override {
    SteadyTime deadline = incoming.arrival + incoming.method.timeout;
    const auto wall = incoming.context.deadline();
    if (wall != std::chrono::system_clock::time_point::max()) {
      const auto left = wall - Clock::System().WallNow();
      if (left <= std::chrono::system_clock::duration::zero())
        return DeadlineExceeded("the deadline had passed when the call arrived");
      // Compared as durations: a far deadline added to the steady clock could overflow.
      if (left < incoming.method.timeout) deadline = incoming.arrival + left;
    }
    incoming.options.deadline = deadline;
    return Ok();
  }
};

class CallerLayer final : public ServerLayer {
 public:
  explicit CallerLayer(TokenVerifier verify) : verify_(std::move(verify)) {}

  Result<void> Admit(Incoming& incoming) override {
    if (incoming.method.caller == CallerRule::kNone) return Ok();
    constexpr std::string_view kScheme = "bearer ";  // compared without regard to case (RFC 9110)
    const std::string_view header = Header(incoming, "authorization");
    // A token that is there and wrong is refused all the same: its owner would wonder why he is nobody.
    if (header.empty() && incoming.method.caller == CallerRule::kOptional) return Ok();
    const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; };
    if (!std::ranges::equal(header.substr(0, kScheme.size()), kScheme, {}, lower))
      return Unauthenticated("authorization: a header 'Bearer <access token>' is needed");
    NOVA_TRY(incoming.caller, verify_(header.substr(kScheme.size())));
    return Ok();
  }

 private:
  const TokenVerifier verify_;
};

}  // namespace

ServerStack MakeServerStack(telemetry::Metrics& metrics, const std::vector<MethodPolicy>& methods,
                            const ServerStackConfig& config) {
  ServerStack stack;
  // Outermost: also counts what the layers below refuse.
  stack.push_back(std::make_unique<TelemetryLayer>(metrics, methods));
  // Before anything that logs, so that a refusal carries its trace.
  stack.push_back(std::make_unique<TraceLayer>());
  // Default deny by the peer's certificate, before any other header of that peer is trusted.
  stack.push_back(std::make_unique<PeerLayer>(metrics, config.authorize_peers));
  // A call that is already late costs nothing more.
  stack.push_back(std::make_unique<DeadlineLayer>());
  // Innermost, because verifying a signature is the most expensive decision here.
  stack.push_back(std::make_unique<CallerLayer>(config.verify_token));
  return stack;
}

}  // namespace nova::rpc
