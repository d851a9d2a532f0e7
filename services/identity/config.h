// Settings of the identity service.
#pragma once

#include <chrono>

#include "nova/auth/password.h"
#include "nova/base/result.h"
#include "nova/config/config.h"

namespace nova::identity {

struct SessionConfig {
  // How long a session lasts from its last refresh on, and from its log-in on whatever happens.
  std::chrono::seconds refresh_lifetime = std::chrono::days(30);
  std::chrono::seconds session_lifetime_max = std::chrono::days(180);
  // How long the refresh token that was spent last yields its successor once more. Longer than one call may take, so
  // that a call repeated within its deadline is never taken for theft.
  std::chrono::milliseconds refresh_grace = std::chrono::seconds(5);
  // Live sessions of one account; the least recently used goes.
  int sessions_max = 100;
  // How long an ended session stays in the table.
  std::chrono::seconds session_retention = std::chrono::days(7);
};

struct LockoutConfig {
  // Failures in a row until a subject is locked: for lockout_base, then after each further failure twice as long,
  // lockout_max at most.
  int lockout_threshold = 10;
  std::chrono::seconds lockout_base = std::chrono::seconds(30);
  std::chrono::seconds lockout_max = std::chrono::minutes(15);
  // Failures are forgotten after so long without an attempt.
  std::chrono::seconds lockout_forget = std::chrono::hours(6);
  // Devices that one account is recognised by, and how long one unused.
  int devices_max = 20;
  std::chrono::seconds device_lifetime = std::chrono::days(180);
};

struct ResetConfig {
  std::chrono::seconds reset_lifetime = std::chrono::minutes(30);
  // One mail to an address in so long. Those of one lifetime are good side by side, so that somebody else's requests
  // do not make the user's mail worthless.
  std::chrono::seconds reset_interval = std::chrono::minutes(1);
};

// What Service takes.
struct ServiceConfig {
  SessionConfig session;
  LockoutConfig lockout;
  ResetConfig reset;
  // Between two rounds of deleting what has expired.
  std::chrono::seconds housekeeping_interval = std::chrono::minutes(10);
};

struct IdentityConfig {
  auth::PasswordConfig password;
  ServiceConfig service;
};

// Keys `identity.*` for ServiceConfig: identity.refresh_grace is NOVA_IDENTITY_REFRESH_GRACE.
void Bind(config::Config& config, IdentityConfig& identity);

// What no single field shows. Errors: INVALID_ARGUMENT naming the setting and the remedy.
Result<void> Validate(const ServiceConfig& service);

}  // namespace nova::identity
