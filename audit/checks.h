// The table of everything the P0 promises say, one entry per figure; checks.cc is it.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "audit/audit.h"
#include "audit/database_probe.h"
#include "audit/fault_probe.h"
#include "audit/finding.h"
#include "audit/grpc_probe.h"
#include "audit/health_probe.h"
#include "audit/leak_probe.h"
#include "audit/peer_probe.h"
#include "audit/report.h"
#include "audit/rotation_probe.h"
#include "audit/secret_cache_probe.h"
#include "audit/token_key_probe.h"
#include "audit/wire_probe.h"

namespace nova::audit {

// What checks measure.
struct Stack {
  GrpcProbe& grpc;
  PeerProbe& peers;
  WireProbe& wire;
  RotationProbe& rotations;
  DatabaseProbe& database;
  FaultProbe& faults;
  HealthProbe& health;
  SecretCacheProbe& secret_cache;
  TokenKeyProbe& token_keys;
  LeakProbe& leaks;
};

struct Check {
  std::string_view promise;
  std::string_view name;
  std::string_view unit;
  std::string_view floor;
  // How it is measured; without `measure`, what measures it once it is built.
  std::string_view how;
  // Injects faults or load; runs only when asked for.
  bool intrusive = false;
  // Null: there is no proof yet, and nothing is claimed.
  Finding (*measure)(Stack&) = nullptr;
};

// Grouped by promise.
std::span<const Check> AllChecks();

// The names of the promises, in the order of `checks`.
std::vector<std::string> Promises(std::span<const Check> checks);

// One row per check of `config.only`, or of every promise if that is empty, in the order of the table.
std::vector<Row> RunChecks(std::span<const Check> checks, Stack& stack, const AuditConfig& config);

}  // namespace nova::audit
