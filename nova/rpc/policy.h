// MethodPolicy: what a method declares about itself in its proto options (api/rpc/v1/options.proto), read once.
#pragma once

#include <chrono>
#include <string>
#include <string_view>
#include <vector>

#include "api/rpc/v1/method.h"
#include "nova/base/result.h"
#include "nova/resilience/limiter.h"
#include "nova/resilience/retry.h"

namespace nova::rpc {

using resilience::Idempotency;
using resilience::Priority;
enum class CallerRule { kNone, kRequired, kOptional };

struct MethodPolicy {
  std::string service;  // "nova.identity.v2.IdentityService"
  std::string name;     // "Login"
  std::string path;     // "/nova.identity.v2.IdentityService/Login"
  MethodKind kind = MethodKind::kUnary;
  std::chrono::milliseconds timeout{0};
  Idempotency idempotency = Idempotency::kNone;
  Priority priority = Priority::kNormal;
  CallerRule caller = CallerRule::kNone;
  bool any_peer = false;
  std::vector<std::string> allowed_peers;

  bool Allows(std::string_view peer) const;
};

// Errors: NOT_FOUND for a method that is not linked in; FAILED_PRECONDITION for one that lacks a declaration. Both name
// the method and what to do.
Result<MethodPolicy> LoadPolicy(std::string_view service, std::string_view method);

// Names of all methods of a service, as declared. Errors: NOT_FOUND.
Result<std::vector<std::string>> MethodNames(std::string_view service);

}  // namespace nova::rpc
