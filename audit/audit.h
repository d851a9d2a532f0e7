// The audit measures every P0 promise against a live stack. One row per figure that the promises name: what was
// measured, what it must be, and how. What has no proof yet says so and counts as not proven.
//
//   AuditConfig audit;                       // filled with how the stack is reached
//   Bind(config, audit);                     // --only, --faults, --json
//   NOVA_TRY(const auto rows, Run(runtime, audit));
//   std::cout << (audit.json ? ToJson(rows) : ToTable(rows, isatty(STDOUT_FILENO)));
//   return ExitCode(rows);
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "audit/report.h"
#include "audit/stall.h"
#include "nova/base/result.h"
#include "nova/base/secret.h"
#include "nova/config/config.h"
#include "nova/config/topology.h"
#include "nova/postgres/config.h"
#include "nova/redis/config.h"
#include "nova/runtime/runtime.h"
#include "nova/tls/config.h"

namespace nova::audit {

// A service that runs.
struct ServiceTarget {
  // Its principal, such as "identity".
  std::string name;
  // host:port of its gRPC and its admin port.
  std::string grpc_target;
  std::string admin_target;
  // What it is known to call, by the names it must have in its metrics.
  std::vector<std::string> dependencies = {};
};

// The Secrets Manager on this machine that the keys of the stack's access tokens come from, and a way into it.
struct SecretsTarget {
  // "http://127.0.0.1:5000"
  std::string endpoint = {};
  std::string region = {};
  // The secret with the keys, and the service that signs with them.
  std::string secret_id = {};
  std::string issuer = "identity";
  // Of somebody who may rotate them.
  std::string access_key_id = {};
  Secret<> secret_access_key = {};
  // How often the issuer looks at the secret, how often the others look at its keys, and how long a new key is known
  // before it signs.
  std::chrono::milliseconds soft_ttl{};
  std::chrono::milliseconds keys_refresh_interval{};
  std::chrono::milliseconds announce{};
};

struct AuditConfig {
  std::vector<ServiceTarget> services = {};
  // The certificate of the principal `audit`.
  tls::ChannelTlsConfig identity = {};
  // The role `audit` on the database of one service, through PgBouncer and straight to PostgreSQL. Straight, it reads
  // who is connected, for which it needs pg_monitor.
  postgres::ConnectionConfig pooled = {};
  postgres::ConnectionConfig direct = {};
  // PgBouncer's console: database `pgbouncer`, a user of its stats_users.
  postgres::ConnectionConfig pgbouncer_admin = {};
  // Redis, as its user `audit`, who may do little more than PING.
  redis::ClientConfig redis = {};
  // For the faults: the certificate of somebody who may register a user, and act as one.
  tls::ChannelTlsConfig user_identity = {};
  // The processes that a fault may stop: "postgres", "pgbouncer", "redis" and the services.
  std::vector<ProcessTarget> processes = {};
  // What was decided: the connection budget of each service, the replicas.
  config::Topology topology = {};

  // The directory of the authority that signed the stack's certificates, to make bad ones with. Empty: not at hand.
  std::filesystem::path authority = {};
  // Calls of every kind to every service, as a person would make them, until they are over.
  std::function<Result<void>()> demo = {};
  // Replace every leaf, or the authority and then every leaf; both return when every process of the stack uses what is
  // new, and the authority's when nobody trusts the former one.
  std::function<Result<void>()> rotate_leaves = {};
  std::function<Result<void>()> rotate_authority = {};
  // Gives the service a leaf that is about to end, in place of its own.
  std::function<Result<void>(const std::string& service, std::chrono::seconds left)> shorten_leaf = {};

  // Nothing if the keys come from elsewhere.
  std::optional<SecretsTarget> secrets = {};
  // The folder with the logs of all processes; and folders whose files hold what must not be in them: private keys in
  // PEM, or else secrets, one a line.
  std::filesystem::path logs = {};
  std::vector<std::filesystem::path> secret_folders = {};

  // One promise, or empty for all.
  std::string only = {};
  // Run the checks that inject faults and load, too. That takes minutes, and the soak.
  bool faults = false;
  bool json = false;
  // Told what is being done, for people who wait.
  std::function<void(std::string_view)> progress = {};
  // Asked often: true ends the audit soon, with everything as it was and the rest not measured.
  std::function<bool()> interrupted = {};
  // New connections to each service.
  int handshake_samples = 200;
  // Statements through PgBouncer, and as many around it.
  int latency_samples = 500;
  // How long nobody's health may change without need; less than ten minutes proves nothing.
  std::chrono::seconds soak = std::chrono::minutes(10);
};

// The settings of the command line; the rest of the struct says how the stack is reached and is the caller's.
void Bind(config::Config& config, AuditConfig& audit);

// Measures. Takes some seconds, with faults some minutes and the soak more; to be called from a thread that is not the
// runtime's. A part that does not answer is a finding. Errors: INVALID_ARGUMENT for an unknown promise, listing the
// promises; UNAVAILABLE if nothing of the stack answers, naming what was tried and the remedy; those of
// IdentityPublisher::Create if the audit's certificate is not usable.
Result<std::vector<Row>> Run(runtime::Runtime& runtime, const AuditConfig& config);

}  // namespace nova::audit
