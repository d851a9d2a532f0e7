#include "nova/rpc/client_stack.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <grpcpp/client_context.h>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>

#include "nova/rpc/retry_headers.h"

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
    const std::chrono::duration<double> seconds = Clock::System().Now() - outgoing.start;
    const PerMethod& method = Of(outgoing.method);
    method.handled[static_cast<std::size_t>(code)]->Increment();
    method.handling->Observe(seconds.count());
  }

 private:
  // Looked up at a method's first call: what a lookup costs, each later one saves.
  struct PerMethod {
    PerMethod(telemetry::Metrics& metrics, const std::string& peer, const MethodPolicy& method) {
      const telemetry::Labels labels = {{"peer", peer}, {"grpc_service", method.service}, {"grpc_method", method.name}};
      handling = &metrics.Histogram("grpc_client_handling_seconds", "From the start of an outgoing call to its status.",
                                    telemetry::kLatencyBuckets, labels);
      for (int code = 0; code < kCodeCount; ++code) {
        auto with_code = labels;
        with_code.emplace("grpc_code", CodeName(static_cast<Code>(code)));
        handled[static_cast<std::size_t>(code)] =
            &metrics.Counter("grpc_client_handled_total", "Outgoing calls that ended, by status.", with_code);
      }
    }
    prometheus::Histogram* handling;
    std::array<prometheus::Counter*, kCodeCount> handled{};
  };

  const PerMethod& Of(const MethodPolicy& method) {
    std::lock_guard lock(mutex_);
    return methods_.try_emplace(&method, metrics_, peer_, method).first->second;
  }

  telemetry::Metrics& metrics_;
  const std::string peer_;
  std::mutex mutex_;
  std::unordered_map<const MethodPolicy*, PerMethod> methods_;  // guarded by mutex_; entries never move nor change
};

class DeadlineLayer final : public ClientLayer {
 public:
  Result<void> Prepare(Outgoing& outgoing) override {
    runtime::Call& call = outgoing.attempt.call();
    NOVA_TRY(call.Check());
    // The call was narrowed to the policy's timeout and the method's before (client.cc); the wire carries what is left.
    outgoing.context.set_deadline(Clock::System().WallNow() + call.Remaining());
    return Ok();
  }
};

class TraceLayer final : public ClientLayer {
 public:
  Result<void> Prepare(Outgoing& outgoing) override {
    outgoing.context.AddMetadata("traceparent", outgoing.attempt.call().trace().ToTraceparent());
    return Ok();
  }
};

class RetryLayer final : public ClientLayer {
 public:
  Result<void> Prepare(Outgoing& outgoing) override {
    outgoing.context.AddMetadata(kRetriesLeftHeader, std::to_string(outgoing.attempt.allowance().left));
    return Ok();
  }

  void Finished(const Outgoing& outgoing, const Result<void>&) override {
    if (!outgoing.reported) return;
    const auto& trailers = outgoing.context.GetServerTrailingMetadata();
    if (trailers.empty()) return;
    const auto header = [&trailers](const char* key) -> std::optional<std::string_view> {
      const auto found = trailers.find(key);
      if (found == trailers.end()) return std::nullopt;
      return std::string_view(found->second.data(), found->second.size());
    };
    if (const auto said = header(kRetriesUsedHeader)) {
      // Hops that were asked side by side were told of the same retries, and may have made them twice.
      const int made = std::clamp(ParseNumber<int>(*said).value_or(0), 0, kRetriesUsedMax);
      runtime::RetryAllowance& allowance = outgoing.attempt.allowance();
      allowance.left = std::max(0, allowance.left - made);
      allowance.used = std::min(allowance.used + made, kRetriesUsedMax);
    }
    if (const auto said = header(kRetryPushBackHeader)) {
      resilience::PushBack push_back;
      const auto wait = ParseNumber<std::int64_t>(*said);
      if (wait && *wait >= 0) push_back.wait = std::chrono::milliseconds(std::min(*wait, kWaitMsMax));
      outgoing.attempt.SetPushBack(push_back);
    }
  }

 private:
  // A sum of what others say needs an end.
  static constexpr int kRetriesUsedMax = 1'000'000;
  // An hour is longer than any call that could wait so long, and can be reckoned with.
  static constexpr std::int64_t kWaitMsMax = 3'600'000;
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
  // Outermost: counts every try, also what the layers below refuse.
  stack.push_back(std::make_unique<TelemetryLayer>(metrics, peer));
  // No call leaves without a deadline, and none leaves whose deadline has passed.
  stack.push_back(std::make_unique<DeadlineLayer>());
  // The next hop continues our trace.
  stack.push_back(std::make_unique<TraceLayer>());
  // The next hop shares our allowance of retries, and says what it made of it.
  stack.push_back(std::make_unique<RetryLayer>());
  // The end user, for methods that act for one.
  stack.push_back(std::make_unique<TokenLayer>());
  return stack;
}

}  // namespace nova::rpc
