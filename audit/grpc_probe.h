// The checks of P0-1 and P0-4 that any caller with the audit's certificate can make: what the gRPC and admin ports of
// the stack answer, to whom, and how fast.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "api/health/v1/health.nova.h"
#include "audit/audit.h"
#include "audit/finding.h"
#include "audit/scraper.h"
#include "audit/verdict.h"
#include "nova/health/monitor.h"
#include "nova/resilience/dependency.h"
#include "nova/rpc/server.h"
#include "nova/runtime/scope.h"
#include "nova/telemetry/metrics.h"
#include "nova/tls/credentials.h"
#include "nova/tls/publisher.h"

namespace nova::audit {

// "identity" runs "nova.identity.v2.IdentityService": one rule for all services.
std::string RpcServiceName(const std::string& service);

// Used by one thread that is not the runtime's. Each check takes a bounded time and describes its own failures.
class GrpcProbe {
 public:
  // `runtime` and `config` must outlive the probe. Starts the plaintext control: a health server of this process on a
  // free loopback port. Errors: those of IdentityPublisher::Create; those of rpc::Server::Start.
  static Result<std::unique_ptr<GrpcProbe>> Create(runtime::Runtime& runtime, const AuditConfig& config);
  ~GrpcProbe();
  GrpcProbe(const GrpcProbe&) = delete;
  GrpcProbe& operator=(const GrpcProbe&) = delete;

  // A client that means another service is not deceived by this one.
  Finding WrongNameRefused();

  // All from one run, which the first of them makes.
  Finding HandshakeP95();
  Finding HandshakeOverPlaintext();
  Finding HandshakeAsServersSaw();

  Finding ProcessServing();
  Finding ServicesServing();
  Finding WatchAnswers();
  Finding AdminAnswers();

  // --- For other probes. ---

  // OK if the service answers a call with the audit's certificate, over a connection of its own.
  Result<void> AnswersAudit(const ServiceTarget& service);
  // The same of the plaintext control, without TLS.
  Result<void> ControlAnswers();
  const std::string& control_target() const { return control_target_; }

 private:
  struct Handshakes {
    struct OfService {
      std::string name;
      std::vector<Duration> samples;
    };
    // By p95. Precondition: there is a service.
    const OfService& Slowest() const;

    std::vector<OfService> services;
    std::vector<Duration> plaintext;
    // Before and after.
    Result<Scraper::Scrapes> scraped_first;
    Result<Scraper::Scrapes> scraped_last;
  };

  GrpcProbe(runtime::Runtime& runtime, const AuditConfig& config);
  Result<void> Start();

  // The health of `service` as `principal` at `target` says, over a connection of its own.
  runtime::Task<grpc::health::v1::HealthCheckResponse> Check(runtime::Call& call, const tls::ChannelIdentity& identity,
                                                             std::string principal, std::string target,
                                                             std::string service);
  // Check, from the thread that uses the probe.
  Result<grpc::health::v1::HealthCheckResponse> CheckNow(const tls::ChannelIdentity& identity,
                                                         const std::string& principal, const std::string& target,
                                                         const std::string& service = {});
  // Time from nothing to the answer of Check.
  runtime::Task<Duration> TimeFirstCall(runtime::Call& call, const tls::ChannelIdentity& identity,
                                        std::string principal, std::string target);
  runtime::Task<Handshakes> MeasureHandshakes(runtime::Call& call);
  const Result<Handshakes>& MeasuredHandshakes();
  Finding ServingAs(bool by_service_name);

  runtime::Runtime& runtime_;
  const AuditConfig& config_;
  Scraper scraper_;
  telemetry::Metrics metrics_;  // of the client stacks; nobody scrapes them
  resilience::PeerDependency services_{"services", metrics_, resilience::ForProbes(resilience::Kind::kPeer)};
  resilience::HttpDependency admin_ports_{"admin_ports", metrics_, resilience::ForProbes(resilience::Kind::kHttp)};
  // Follows the rotations that happen meanwhile.
  std::unique_ptr<tls::IdentityPublisher> publisher_;
  std::optional<tls::ChannelIdentity> identity_;
  runtime::Scope scope_;
  // The plaintext control.
  health::Monitor monitor_;
  rpc::Server control_;
  std::string control_target_;
  std::optional<Result<Handshakes>> handshakes_;
};

}  // namespace nova::audit
