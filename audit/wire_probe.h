// The check of P0-1 that looks at the wire: what a packet capture sees on the ports of the stack while it works.
#pragma once

#include "audit/audit.h"
#include "audit/finding.h"
#include "audit/grpc_probe.h"

namespace nova::audit {

// Used by one thread that is not the runtime's.
class WireProbe {
 public:
  // Both must outlive the probe.
  WireProbe(const AuditConfig& config, GrpcProbe& grpc) : config_(config), grpc_(grpc) {}

  // Takes as long as the demo.
  Finding EveryByteIsTls();

 private:
  // What makes the bytes.
  Result<void> Talk();

  const AuditConfig& config_;
  GrpcProbe& grpc_;
};

}  // namespace nova::audit
