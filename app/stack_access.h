// How the tools (demo, probe, audit, migrate) find a stack and prove who they are. On this machine everything comes
// from the data folder of `nova up`. Certificates may come from the variables that services use, which win. The audit
// runs on this machine's stack alone, because its database rows need a password of the folder.
#pragma once

#include <memory>
#include <string>

#include "local/data_dir.h"
#include "nova/config/config.h"
#include "nova/config/topology.h"
#include "nova/postgres/config.h"
#include "nova/telemetry/metrics.h"
#include "nova/tls/config.h"
#include "nova/tls/credentials.h"
#include "nova/tls/publisher.h"

namespace nova::app {

class StackAccess {
 public:
  // `principal`: as whom the tool speaks.
  explicit StackAccess(std::string principal) : principal_(std::move(principal)) {}

  // up.data_dir, up.port_base and the GRPC_* names of a caller.
  void Bind(config::Config& config);

  // Completes from the data folder what was not set. Errors: NOT_FOUND if there is no folder and nothing was set.
  Result<void> Resolve();

  // After Resolve().
  const local::Layout& layout() const { return layout_; }
  const config::Topology& topology() const { return topology_; }
  const tls::ChannelTlsConfig& tls() const { return tls_; }
  // "127.0.0.1:<gRPC port>". Precondition: the topology has the service.
  std::string Target(std::string_view service) const;

  // A role's way into a database of this machine's stack, past PgBouncer or through it. Errors: NOT_FOUND if the stack
  // has no password for the role.
  Result<postgres::ConnectionConfig> DirectDatabase(const std::string& database, const std::string& role) const;
  Result<postgres::ConnectionConfig> PooledDatabase(const std::string& database, const std::string& role) const;

  // The identity for channels; lives as long as this object.
  Result<tls::ChannelIdentity> Identity(telemetry::Metrics& metrics);

 private:
  Result<postgres::ConnectionConfig> Database(const std::string& database, const std::string& role, int port) const;

  const std::string principal_;
  std::string data_dir_;
  int port_base_ = 0;  // 0: as the running stack says, else the default
  tls::ChannelTlsConfig tls_;
  local::Layout layout_;
  config::Topology topology_;
  std::unique_ptr<tls::IdentityPublisher> publisher_;
};

}  // namespace nova::app
