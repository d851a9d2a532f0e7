// Which certificate lies on the disk, and which one a running process has in memory: the two differ from a replacement
// until the process has taken it up, or for as long as it refuses to.
//
//   UseProbe probe;
//   const ProcessCertificates seen = probe.Ask(component);
//   if (!seen.Has(ReadFromDisk(layout.certificate(component.name)))) ...
#pragma once

#include <chrono>
#include <filesystem>
#include <string>
#include <vector>

#include "local/readiness.h"
#include "local/state.h"
#include "nova/base/clock.h"
#include "nova/base/result.h"
#include "nova/tls/certificate.h"
#include "nova/tls/report.h"

namespace nova::local {

struct CertificateOnDisk {
  std::filesystem::path folder;
  // As far as they can be read.
  tls::CertificateInfo leaf;
  std::vector<tls::AuthorityInfo> authorities;
  // Why a process would refuse the set, with the remedy; empty for a good one.
  std::string problem;
};

// Reads the set in a folder and judges it as a server and a client do that start with it.
CertificateOnDisk ReadFromDisk(const std::filesystem::path& folder, const Clock& clock = Clock::System());

struct ProcessCertificates {
  ComponentState component;
  // Of a service: each end, as its status page says. Of PostgreSQL, PgBouncer and Redis, who tell nothing: what their
  // port shows, under the side "port", without authorities.
  std::vector<tls::CertificateInUse> certificates;
  // Why there are none; empty if there are.
  std::string problem;

  // Each end of the process has the leaf that is on the disk, and trusts the same authorities.
  bool Has(const CertificateOnDisk& on_disk) const;
};

// How a port begins TLS: at once, or after PostgreSQL's request for it.
enum class TlsStart { kAtOnce, kPostgres };

// The leaf that a port on 127.0.0.1 shows; it is not judged. Errors: UNAVAILABLE when nobody shows one;
// DEADLINE_EXCEEDED after `limit`.
Result<tls::CertificateInfo> LookAtPort(int port, TlsStart start, Duration limit);

// Used by one thread at a time.
class UseProbe {
 public:
  // For the answer of one component.
  static constexpr Duration kAnswerLimit = std::chrono::milliseconds(500);

  // Precondition: the component is one of a stack.
  ProcessCertificates Ask(const ComponentState& component);

 private:
  ReadinessProbe http_;
};

}  // namespace nova::local
