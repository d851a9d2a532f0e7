// TrustPublisher is IdentityPublisher for a client that shows no certificate of its own and only verifies its server:
// the connections to PgBouncer and Redis. It watches one file of authorities, judges it, and keeps the last good one at
// a path of its own, so that a file that is being replaced, or is broken, never stops a new connection.
//
//   NOVA_TRY(auto trust, TrustPublisher::Create({.file = {.path = config.ssl_root_cert,
//       .variable = "NOVA_POSTGRES_SSL_ROOT_CERT"}, .name = "postgres"}, clock, metrics));
//   connection.ssl_root_cert = trust->path();
//   trust->Watch(scope);
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "nova/base/clock.h"
#include "nova/base/result.h"
#include "nova/runtime/scope.h"
#include "nova/telemetry/metrics.h"
#include "nova/tls/certificate.h"
#include "nova/tls/publisher.h"

namespace nova::tls {

struct TrustConfig {
  CertificateFile file;
  // Of the server it is for, such as "postgres": the label `side` of nova_tls_reloads_total.
  std::string name;
  // As PublisherConfig's.
  std::filesystem::path directory = {};
  Duration poll_interval = std::chrono::seconds(1);
};

// Exports nova_tls_reloads_total{side=name,result}. Thread-safe.
class TrustPublisher {
 public:
  using Outcome = IdentityPublisher::Outcome;

  // Publishes what the file holds now. Errors: INVALID_ARGUMENT, one line that names setting and file, if it holds no
  // authority, something that is none, or only expired ones; FAILED_PRECONDITION if it cannot be read, or the private
  // directory cannot be made.
  static Result<std::unique_ptr<TrustPublisher>> Create(TrustConfig config, const Clock& clock,
                                                        telemetry::Metrics& metrics);
  // Removes the private directory. Stop the scope given to Watch, and the connections, first.
  ~TrustPublisher();
  TrustPublisher(const TrustPublisher&) = delete;
  TrustPublisher& operator=(const TrustPublisher&) = delete;

  // As IdentityPublisher's.
  void Watch(runtime::Scope& scope);
  Outcome Check();

  // Constant; its content changes at once. Read it anew for each connection.
  std::filesystem::path path() const;
  std::vector<AuthorityInfo> authorities() const;

 private:
  struct State;
  explicit TrustPublisher(std::unique_ptr<State> state);

  std::unique_ptr<State> state_;
};

}  // namespace nova::tls
