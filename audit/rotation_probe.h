// The checks of P0-1 that replace certificates while a load runs: nobody may notice.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "audit/audit.h"
#include "audit/bad_peer.h"
#include "audit/finding.h"
#include "audit/load.h"
#include "audit/scraper.h"
#include "audit/traffic.h"
#include "nova/runtime/scope.h"
#include "nova/telemetry/metrics.h"
#include "nova/tls/credentials.h"
#include "nova/tls/publisher.h"

namespace nova::audit {

// Used by one thread that is not the runtime's. Each check takes a bounded time besides what the rotations take, and
// describes its own failures.
class RotationProbe {
 public:
  static constexpr int kLeafRotations = 3;
  static constexpr int kAuthorityRotations = 1;

  // What is left of a leaf that has to be renewed; the bound of its renewal, for then it ends. As it begins a minute
  // before it is issued, a third is left some ten seconds later: until then it is in use, and nothing but time makes it
  // due.
  static constexpr std::chrono::seconds kShortLife{45};

  // `runtime` and `config` must outlive the probe.
  RotationProbe(runtime::Runtime& runtime, const AuditConfig& config, std::chrono::seconds short_life = kShortLife);
  ~RotationProbe();
  RotationProbe(const RotationProbe&) = delete;
  RotationProbe& operator=(const RotationProbe&) = delete;

  Finding FailedWhileLeavesRotate();
  Finding FailedWhileAuthorityRotates();
  Finding ExpiringAreRenewed();

  // A certificate of an authority that was replaced since, which nobody may trust any more; nothing if none was.
  const std::optional<Approach>& former() const { return former_; }

 private:
  using Leaves = std::map<std::string, std::string>;  // PEM, by service

  // Under load, over and over: replaces, and expects another leaf on every port.
  Finding FailedWhile(const std::string& what, int times, const std::function<Result<void>()>& rotate);
  // What is needed for a load, made the first time.
  Result<void> Prepare();
  Result<std::unique_ptr<Load>> StartLoad();
  Result<std::string> ShownLeaf(const ServiceTarget& service);
  Result<Leaves> ShownLeaves();
  Result<double> FailedHandshakes();

  runtime::Runtime& runtime_;
  const AuditConfig& config_;
  const std::chrono::seconds short_life_;
  Scraper scraper_;
  telemetry::Metrics metrics_;  // nobody scrapes them
  runtime::Scope scope_;
  // The audit follows the rotation as every process of the stack does.
  std::unique_ptr<tls::IdentityPublisher> publisher_;
  std::optional<tls::ChannelIdentity> identity_;
  std::unique_ptr<Traffic> traffic_;
  std::optional<Approach> former_;
};

}  // namespace nova::audit
