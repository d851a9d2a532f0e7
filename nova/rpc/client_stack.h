// The layers every outgoing call passes. client_stack.cc lists them in order.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "nova/base/secret.h"
#include "nova/resilience/protect.h"
#include "nova/rpc/policy.h"
#include "nova/telemetry/metrics.h"

namespace grpc {
class ClientContext;
}

namespace nova::rpc {

// One try of a call, on its way out; or a stream.
struct Outgoing {
  const MethodPolicy& method;
  grpc::ClientContext& context;
  resilience::Attempt& attempt;
  // The end user's access token, if the method acts for one; null otherwise.
  const Secret<>* access_token = nullptr;
  SteadyTime start = {};
  // gRPC has reported the end, so that what the peer sent along may be read.
  bool reported = false;
};

class ClientLayer {
 public:
  virtual ~ClientLayer() = default;
  // Adds headers, or refuses the call before anything is sent.
  virtual Result<void> Prepare(Outgoing& outgoing) = 0;
  // Called once for every try that Prepare let pass, or refused itself. In reverse order.
  virtual void Finished(const Outgoing& outgoing, const Result<void>& outcome) {
    (void)outgoing;
    (void)outcome;
  }
};

using ClientStack = std::vector<std::unique_ptr<ClientLayer>>;

// `peer`: the principal called, as metrics name it. The stack keeps state by the address of a method's policy, which
// must outlive it.
ClientStack MakeClientStack(telemetry::Metrics& metrics, const std::string& peer);

}  // namespace nova::rpc
