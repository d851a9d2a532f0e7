#include "nova/rpc/server_stack.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <grpcpp/server_context.h>

#include "nova/rpc/retry_headers.h"
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

// Sheds what the server cannot do in time. Streams are neither limited nor measured: they last as long as their caller
// wants. Nor are the services of gRPC itself: health answers under any load, as it takes no longer than a refusal.
class OverloadLayer final : public ServerLayer {
 public:
  OverloadLayer(telemetry::Metrics& metrics, const std::vector<MethodPolicy>& methods,
                const resilience::LimiterConfig& config)
      : limiter_(config, methods.size()),
        limit_(metrics.Gauge("nova_overload_limit", "Unary calls that are let in at once.")),
        in_flight_(metrics.Gauge("nova_overload_in_flight", "Unary calls under way, of those that are limited.")),
        stretch_(metrics.Gauge("nova_overload_stretch",
                               "What calls take, as a share of what they may; above 1 the limit is cut.")) {
    for (int i = 0; i < resilience::kPriorityCount; ++i) {
      shed_[static_cast<std::size_t>(i)] =
          &metrics.Counter("nova_overload_shed_total", "Calls refused because the server was at its limit.",
                           {{"priority", resilience::PriorityName(static_cast<Priority>(i + 1))}});
    }
    limit_.Set(limiter_.limit());
  }

  Result<void> Admit(Incoming& incoming) override {
    const MethodPolicy& method = incoming.method;
    if (method.kind != MethodKind::kUnary || method.service.starts_with("grpc.")) return Ok();
    incoming.in_flight = limiter_.TryAcquire(method.priority, incoming.arrival);
    if (incoming.in_flight == 0) return Shed(incoming);
    in_flight_.Increment();
    return Ok();
  }

  void Finished(const Incoming& incoming, const Result<void>& outcome) override {
    if (incoming.in_flight == 0) return;
    limiter_.Release({.method = incoming.method_index,
                      .in_flight = incoming.in_flight,
                      .arrival = incoming.arrival,
                      .success = outcome.ok()},
                     Clock::System().Now());
    in_flight_.Decrement();
    limit_.Set(limiter_.limit());
    stretch_.Set(limiter_.stretch());
  }

 private:
  // One line for all that is shed meanwhile.
  static constexpr std::chrono::seconds kLogPeriod{10};

  Error Shed(const Incoming& incoming) {
    shed_[static_cast<std::size_t>(incoming.method.priority) - 1]->Increment();
    // gRPC's own name for it, which its clients heed as ours do.
    incoming.context.AddTrailingMetadata(kRetryPushBackHeader, std::to_string(limiter_.PushBack().count()));
    const std::int64_t shed = shed_since_log_.fetch_add(1, std::memory_order_relaxed) + 1;
    SteadyTime next = next_log_.load(std::memory_order_relaxed);
    if (incoming.arrival >= next && next_log_.compare_exchange_strong(next, incoming.arrival + kLogPeriod)) {
      shed_since_log_.fetch_sub(shed, std::memory_order_relaxed);
      telemetry::LogWarn("overloaded: calls are shed", {{"calls", shed},
                                                        {"limit", limiter_.limit()},
                                                        {"stretch", limiter_.stretch()},
                                                        {"method", incoming.method.path}});
    }
    return ResourceExhausted("the service is overloaded; try again later");
  }

  resilience::Limiter limiter_;
  prometheus::Gauge& limit_;
  prometheus::Gauge& in_flight_;
  prometheus::Gauge& stretch_;
  std::array<prometheus::Counter*, resilience::kPriorityCount> shed_{};
  std::atomic<std::int64_t> shed_since_log_ = 0;
  std::atomic<SteadyTime> next_log_ = SteadyTime::min();
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
  PeerLayer(telemetry::Metrics& metrics, bool authorize, std::vector<std::string> principals)
      : metrics_(metrics), authorize_(authorize), principals_(std::move(principals)) {}

  Result<void> Admit(Incoming& incoming) override {
    if (const auto context = incoming.context.auth_context()) incoming.options.peer = tls::PeerPrincipal(*context);
    if (!authorize_ || Allows(incoming.method, incoming.options.peer)) return Ok();
    // Refusals are rare and their labels unknown before, so the lookup is made here.
    metrics_
        .Counter("nova_rpc_peer_refused_total", "Calls refused because the peer may not call the method.",
                 {{"peer", incoming.options.peer}, {"method", incoming.method.path}})
        .Increment();
    return PermissionDenied("the certificate of this peer does not allow this call",
                            "peer '" + incoming.options.peer + "' is not among allowed_peers of the method");
  }

 private:
  bool Allows(const MethodPolicy& method, const std::string& peer) const {
    if (!method.Allows(peer)) return false;
    // The authority also signs for those who call nobody, such as Redis.
    return !method.any_peer || principals_.empty() || std::ranges::find(principals_, peer) != principals_.end();
  }

  telemetry::Metrics& metrics_;
  const bool authorize_;
  const std::vector<std::string> principals_;
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

class RetryLayer final : public ServerLayer {
 public:
  Result<void> Admit(Incoming& incoming) override {
    incoming.retries.left = kRetriesPerRequest;
    // A header that says nothing leaves nothing: whoever sent it counts retries, and here they would be lost count of.
    if (const auto said = Header(incoming, kRetriesLeftHeader); !said.empty())
      incoming.retries.left = std::clamp(ParseNumber<int>(said).value_or(0), 0, kRetriesPerRequest);
    incoming.options.retries = &incoming.retries;
    return Ok();
  }

  void Finished(const Incoming& incoming, const Result<void>& outcome) override {
    const runtime::RetryAllowance& retries = incoming.retries;
    if (retries.used > 0) incoming.context.AddTrailingMetadata(kRetriesUsedHeader, std::to_string(retries.used));
    // What was given up here is not tried again above, where another try costs a whole chain of calls.
    if (!outcome && retries.spent) incoming.context.AddTrailingMetadata(kRetryPushBackHeader, "-1");
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
                            const ServerStackConfig& config, const resilience::LimiterConfig& overload) {
  ServerStack stack;
  // Outermost: also counts what the layers below refuse.
  stack.push_back(std::make_unique<TelemetryLayer>(metrics, methods));
  // Before anything that costs: what is shed must stay cheap. It reads nothing that the peer sent but the method.
  stack.push_back(std::make_unique<OverloadLayer>(metrics, methods, overload));
  // Before anything that logs, so that a refusal carries its trace.
  stack.push_back(std::make_unique<TraceLayer>());
  // Default deny by the peer's certificate, before any other header of that peer is trusted.
  stack.push_back(std::make_unique<PeerLayer>(metrics, config.authorize_peers, config.principals));
  // A call that is already late costs nothing more.
  stack.push_back(std::make_unique<DeadlineLayer>());
  // The request's allowance of retries; from a peer that may be believed.
  stack.push_back(std::make_unique<RetryLayer>());
  // Innermost, because verifying a signature is the most expensive decision here.
  stack.push_back(std::make_unique<CallerLayer>(config.verify_token));
  return stack;
}

}  // namespace nova::rpc
