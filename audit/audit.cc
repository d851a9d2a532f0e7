#include "audit/audit.h"

#include <algorithm>

#include "audit/checks.h"
#include "audit/database_probe.h"
#include "audit/fault_probe.h"
#include "audit/grpc_probe.h"
#include "audit/health_probe.h"
#include "audit/leak_probe.h"
#include "audit/peer_probe.h"
#include "audit/rotation_probe.h"
#include "audit/secret_cache_probe.h"
#include "audit/tcp.h"
#include "audit/token_key_probe.h"
#include "audit/wire_probe.h"

namespace nova::audit {
namespace {

using runtime::Call;
using std::chrono::seconds;

constexpr Duration kReachLimit = seconds(3);
constexpr int kSamplesMax = 100'000;
constexpr seconds kSoakMin{10};
// A p95 needs one sample beyond it.
constexpr int kSamplesMin = 20;

std::string Join(const std::vector<std::string>& items) {
  std::string list;
  for (const std::string& item : items) list += (list.empty() ? "" : ", ") + item;
  return list;
}

// OK as soon as one port of the stack takes a connection. What is missing beyond that is for the checks to say.
Result<void> Reach(runtime::Runtime& runtime, const AuditConfig& config) {
  std::vector<std::string> tried;
  const auto reaches = [&](const std::string& name, const Result<HostPort>& target, const std::string& text) {
    tried.push_back(name + " " + text);
    if (!target) return false;
    return runtime.RunBlocking<void>(kReachLimit, [&](Call& call) { return Connects(call, *target); }).ok();
  };
  for (const ServiceTarget& service : config.services) {
    if (reaches(service.name, ParseTarget(service.grpc_target), service.grpc_target)) return Ok();
  }
  const auto reaches_database = [&](const std::string& name, const postgres::ConnectionConfig& connection) {
    return reaches(name, HostPort{.host = connection.host, .port = connection.port},
                   connection.host + ":" + std::to_string(connection.port));
  };
  if (reaches_database("PgBouncer", config.pooled) || reaches_database("PostgreSQL", config.direct)) return Ok();
  return Unavailable("no part of the stack answers (tried " + Join(tried) + "): start it with `nova up`");
}

}  // namespace

void Bind(config::Config& config, AuditConfig& audit) {
  config.Field("audit.only", audit.only,
               {.help = "one promise instead of all", .flag = "only", .one_of = Promises(AllChecks())});
  config.Field("audit.faults", audit.faults,
               {.help = "run the checks that inject faults and load, too", .flag = "faults"});
  config.Field("audit.soak", audit.soak,
               {.help = "how long the soak lasts that `--faults` has; less than 10m proves nothing",
                .flag = "soak",
                .min = kSoakMin,
                .max = std::chrono::hours(24)});
  config.Field("audit.json", audit.json, {.help = "print JSON", .flag = "json"});
  config.Field("audit.handshake_samples", audit.handshake_samples,
               {.help = "new connections to each service", .min = kSamplesMin, .max = kSamplesMax});
  config.Field("audit.latency_samples", audit.latency_samples,
               {.help = "statements through PgBouncer, and as many around it", .min = kSamplesMin, .max = kSamplesMax});
}

Result<std::vector<Row>> Run(runtime::Runtime& runtime, const AuditConfig& config) {
  const auto promises = Promises(AllChecks());
  if (!config.only.empty() && std::ranges::find(promises, config.only) == promises.end())
    return InvalidArgument("--only: there is no promise '" + config.only + "'; the promises are " + Join(promises));
  NOVA_TRY(Reach(runtime, config));
  NOVA_TRY(const auto grpc, GrpcProbe::Create(runtime, config));
  PeerProbe peers(runtime, config, *grpc);
  WireProbe wire(config, *grpc);
  RotationProbe rotations(runtime, config);
  DatabaseProbe database(runtime, config);
  FaultProbe faults(runtime, config);
  HealthProbe health(runtime, config);
  SecretCacheProbe secret_cache(runtime, config);
  TokenKeyProbe token_keys(runtime, config);
  LeakProbe leaks(runtime, config);
  Stack stack{.grpc = *grpc,
              .peers = peers,
              .wire = wire,
              .rotations = rotations,
              .database = database,
              .faults = faults,
              .health = health,
              .secret_cache = secret_cache,
              .token_keys = token_keys,
              .leaks = leaks};
  return RunChecks(AllChecks(), stack, config);
}

}  // namespace nova::audit
