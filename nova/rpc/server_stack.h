// The layers every incoming call passes before its body is decoded. server_stack.cc lists them in order.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "nova/base/clock.h"
#include "nova/resilience/limiter.h"
#include "nova/rpc/policy.h"
#include "nova/runtime/call.h"
#include "nova/telemetry/metrics.h"

namespace grpc {
class CallbackServerContext;
}

namespace nova::rpc {

// A call on its way in: the layers read what arrived and fill in what the handler's Call will be made of.
struct Incoming {
  const MethodPolicy& method;
  // Index of the method in the server's table; layers keep per-method state by it.
  std::size_t method_index;
  grpc::CallbackServerContext& context;
  SteadyTime arrival;

  runtime::CallOptions options;
  std::optional<runtime::Caller> caller;
  // Calls under way when the limiter let this one in; 0: it holds no place there.
  int in_flight = 0;
  // Of this request; the handler's Call refers to it.
  runtime::RetryAllowance retries = {};
};

class ServerLayer {
 public:
  virtual ~ServerLayer() = default;
  // Decides about a call by its headers alone, at once. An error refuses it; inner layers then never see it.
  virtual Result<void> Admit(Incoming& incoming) = 0;
  // Called once for every call that Admit let pass, or refused itself: with the final outcome. In reverse order.
  virtual void Finished(const Incoming& incoming, const Result<void>& outcome) {
    (void)incoming;
    (void)outcome;
  }
};

// Turns an access token into the end user it was issued to. Errors: UNAUTHENTICATED.
using TokenVerifier = std::function<Result<runtime::Caller>(std::string_view access_token)>;

struct ServerStackConfig {
  // Without mTLS there is no peer to authorise; only development may run so.
  bool authorize_peers = true;
  // Whom "*" among a method's allowed_peers stands for. Empty: everybody whose certificate names a principal.
  std::vector<std::string> principals = {};
  // Null if no method of the server acts for an end user.
  TokenVerifier verify_token;
};

using ServerStack = std::vector<std::unique_ptr<ServerLayer>>;

// `methods` must outlive the stack. Precondition: Validate(overload) is OK.
ServerStack MakeServerStack(telemetry::Metrics& metrics, const std::vector<MethodPolicy>& methods,
                            const ServerStackConfig& config, const resilience::LimiterConfig& overload);

}  // namespace nova::rpc
