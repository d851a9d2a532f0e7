// IdentityPublisher stands between the files an operator (or cert-manager, or `nova up`) replaces and gRPC, which reads
// whatever it finds and stops serving when it finds a mismatched pair. It watches the files, judges what it reads
// (certificate.h), and publishes only good sets, each at once, to a private directory that gRPC watches. A bad set is
// refused and the last good one stays in use.
//
//   NOVA_TRY(auto publisher, IdentityPublisher::Create({.files = config.files(), .usage = Usage::kServer}, clock,
//   metrics)); publisher->Watch(scope); auto credentials = MakeServerCredentials(*publisher,
//   ClientCertificate::kRequired);
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <vector>

#include "nova/base/clock.h"
#include "nova/base/result.h"
#include "nova/runtime/scope.h"
#include "nova/telemetry/metrics.h"
#include "nova/tls/certificate.h"

namespace nova::tls {

struct PublisherConfig {
  CertificateFiles files;
  Usage usage = Usage::kServer;
  // Who this process is: the certificate of anybody else is refused. Empty: whoever the first one names.
  std::string principal = {};
  // Where the private directory is made; empty: $TMPDIR, else /tmp. Best in memory: it holds a key.
  std::filesystem::path directory = {};
  // How often the files are read. They are compared by content, which also sees the link swaps of Kubernetes.
  Duration poll_interval = std::chrono::seconds(1);
};

// Exports nova_tls_reloads_total{side,result="published"|"refused"} and, of the published leaf,
// nova_tls_certificate_expiry_timestamp_seconds{side}; side is "server" or "client". Thread-safe.
class IdentityPublisher {
 public:
  enum class Outcome { kUnchanged, kPublished, kRefused };

  // Publishes what the files hold now. `clock` and `metrics` must outlive the publisher. Also removes what publishers
  // of killed processes of this user left behind. Errors: those of LoadCertificateSet; FAILED_PRECONDITION if the
  // private directory cannot be made.
  static Result<std::unique_ptr<IdentityPublisher>> Create(PublisherConfig config, const Clock& clock,
                                                           telemetry::Metrics& metrics);
  // Removes the private directory. Stop the scope given to Watch, the servers and the channels first.
  ~IdentityPublisher();
  IdentityPublisher(const IdentityPublisher&) = delete;
  IdentityPublisher& operator=(const IdentityPublisher&) = delete;

  // Checks the files every poll_interval until `scope` stops. A refused set is logged once per distinct problem.
  void Watch(runtime::Scope& scope);

  // Looks once, now. A good set that begins in the near future (kClockSkewMax at most) is published when it begins.
  // Reads three small files and, if they changed, writes three; does not wait for anything else.
  Outcome Check();

  // What is published: constant paths, whose contents change together.
  std::filesystem::path certificate_path() const;
  std::filesystem::path key_path() const;
  std::filesystem::path ca_path() const;
  // Of the published leaf.
  CertificateInfo info() const;
  // Who is trusted.
  std::vector<AuthorityInfo> authorities() const;
  // Grows whenever those change: what was connected under the former ones should be connected anew.
  std::uint64_t trust_version() const;

 private:
  struct State;
  explicit IdentityPublisher(std::unique_ptr<State> state);

  std::unique_ptr<State> state_;
};

}  // namespace nova::tls
