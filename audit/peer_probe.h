// The checks of P0-1 that come to every service as a peer that it must refuse: it does, its metrics count that once
// under the right reason, and it serves those it should.
#pragma once

#include <optional>

#include "audit/audit.h"
#include "audit/bad_peer.h"
#include "audit/finding.h"
#include "audit/grpc_probe.h"
#include "audit/scraper.h"

namespace nova::audit {

// Used by one thread that is not the runtime's. Each check takes a bounded time and describes its own failures.
class PeerProbe {
 public:
  // All must outlive the probe.
  PeerProbe(runtime::Runtime& runtime, const AuditConfig& config, GrpcProbe& grpc);

  // Of any kind but kWithdrawnCa.
  Finding Refused(BadPeer peer);
  // kWithdrawnCa, with a certificate of an authority that is no longer trusted; nothing if none has been replaced.
  Finding WithdrawnRefused(const std::optional<Approach>& former);

 private:
  Finding Refused(BadPeer peer, const Approach& approach);
  Result<Reception> KnockAt(const ServiceTarget& service, const Approach& approach);
  Result<Reception> KnockAt(const HostPort& target, const Approach& approach);
  // The client itself is tried first: as somebody whom every port must let in, and on a port that speaks plaintext.
  const Result<void>& Tried();
  Result<void> TryOut();
  Result<void> ExpectServed(const Approach& approach, const std::string& whose);

  runtime::Runtime& runtime_;
  const AuditConfig& config_;
  GrpcProbe& grpc_;
  Scraper scraper_;
  std::optional<AuthorityKeys> authority_;
  std::optional<Result<void>> tried_;
};

}  // namespace nova::audit
