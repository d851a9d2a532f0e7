// KeyFollower: verifies access tokens with the keys that another service publishes. It fetches them in the background,
// keeps the last good ones whatever happens to the publisher, and looks again early when a token names a key it does
// not know: a key that was rotated in is then known within moments.
//
// No valid token is refused for a rotation, as long as the publisher announces a key for refresh_interval before it
// signs with it. A token that names an unknown key while the publisher has not been reached for that long may be one
// of those: it is answered with UNAVAILABLE, which clients try again, and not with UNAUTHENTICATED, which logs them
// out.
//
//   KeyFollower keys(jwt_config, [&](Call& call) -> Task<std::string> { ... GetJwks ... }, metrics, config);
//   keys.Start(scope);
//   NOVA_TRY(Claims claims, keys.Verify(token));
#pragma once

#include <chrono>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include "nova/auth/jwt.h"
#include "nova/config/config.h"
#include "nova/runtime/one_shot.h"
#include "nova/runtime/scope.h"
#include "nova/runtime/task.h"
#include "nova/telemetry/metrics.h"

namespace nova::auth {

struct KeyFollowerConfig {
  // From the beginning of one look to that of the next. A publisher announces a key at least this long before it signs
  // with it.
  std::chrono::milliseconds refresh_interval = std::chrono::minutes(5);
  // From one look to the next while the keys are not known or the last look failed, and for unknown keys.
  std::chrono::milliseconds retry_interval = std::chrono::seconds(1);
  // One fetch.
  std::chrono::milliseconds fetch_timeout = std::chrono::seconds(2);
};

// NOVA_AUTH_KEYS_REFRESH_INTERVAL and so on.
void Bind(config::Config& config, KeyFollowerConfig& keys);

// Thread-safe. Exports nova_auth_key_refreshes_total{result="changed"|"unchanged"|"failed"}, nova_auth_keys_failing (1
// while the last look failed) and nova_auth_keys_refreshed_timestamp_seconds (of the last look that succeeded; 0
// before).
class KeyFollower {
 public:
  // Returns a JSON Web Key Set. Errors: any; then the keys stay what they are.
  using Fetch = std::function<runtime::Task<std::string>(runtime::Call&)>;

  // `metrics` and `clock` must outlive it.
  KeyFollower(const JwtConfig& jwt, Fetch fetch, telemetry::Metrics& metrics, KeyFollowerConfig config = {},
              const Clock& clock = Clock::System());

  // Fetches until `scope` stops.
  void Start(runtime::Scope& scope);

  // As JwtVerifier::Verify; and UNAVAILABLE until keys were fetched for the first time, and for an unknown key while
  // they cannot be fetched and are older than refresh_interval.
  Result<Claims> Verify(std::string_view token);

  // Whether there are keys to verify with. Errors: UNAVAILABLE with the reason of the last failure.
  Result<void> Ready() const;

 private:
  runtime::Task<void> Follow(runtime::Call& call);
  runtime::Task<void> Refresh(runtime::Call& call);
  Result<void> Accept(const Result<std::string>& fetched);
  // Returns when `delay` has passed or somebody asked for keys, whichever is first.
  runtime::Task<void> WaitForNeed(runtime::Call& call, Duration delay);

  // Constant after construction.
  const KeyFollowerConfig config_;
  const Fetch fetch_;
  const Clock& clock_;
  prometheus::Gauge& failing_;
  prometheus::Gauge& refreshed_gauge_;
  prometheus::Counter& changed_;
  prometheus::Counter& unchanged_;
  prometheus::Counter& failed_;
  JwtVerifier verifier_;
  mutable std::mutex mutex_;
  bool needed_ = false;                         // guarded by mutex_: a token named an unknown key
  std::optional<runtime::OneShot<bool>> wake_;  // guarded by mutex_: set while Follow waits
  std::string published_;                       // guarded by mutex_: the last good set
  std::optional<SteadyTime> refreshed_;         // guarded by mutex_: when the last good look began
  std::optional<Error> problem_;                // guarded by mutex_: of the last look
};

}  // namespace nova::auth
