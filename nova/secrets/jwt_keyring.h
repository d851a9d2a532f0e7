// JwtKeyring: the keys of one JWT secret, followed while the process runs. AWSCURRENT, AWSPREVIOUS and AWSPENDING
// verify; what signs is AWSCURRENT. So a rotation is picked up without a restart, and nobody's token is refused for it:
//
//   - A new key is published (as PENDING) before it signs. A version is let sign only when it is older than `announce`,
//     by when every verifier has seen it; until then its predecessor signs, if it is still AWSPREVIOUS. That depends on
//     the version's own date alone, so all replicas agree, restarted ones included.
//   - PENDING is read first, then CURRENT, then PREVIOUS: in the direction in which labels move, so that no key can
//   slip
//     through between two reads.
//   - What carries none of the three labels any more is withdrawn: it signs nothing from the next look on, and verifies
//     nothing here from then on.
//   - Whatever fails later, the last good keys stay, and nova_jwt_keys_failing is 1. A look of which a part failed adds
//     the keys that it found, and takes none away: where a label has gone is known only when all three were read.
//   - A value that is no JWT secret signs nothing and verifies nothing. As PENDING or PREVIOUS it harms nobody; it is
//     reported as a failure, and the keys beside it are used. As CURRENT it changes nothing.
//
// Two limits: a version that was withdrawn is old enough to sign at once if somebody labels it AWSCURRENT again, though
// nobody knows its key any more, so rotate instead; and issuer and audience are those of the start, for as long as the
// process runs.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "nova/auth/jwt.h"
#include "nova/base/clock.h"
#include "nova/base/result.h"
#include "nova/runtime/call.h"
#include "nova/runtime/scope.h"
#include "nova/runtime/task.h"
#include "nova/secrets/secret_manager.h"
#include "nova/telemetry/metrics.h"

namespace nova::secrets {

struct JwtKeyringConfig {
  // AWS_SECRETS_JWT_NAME.
  std::string secret_id;
  // Whether this process signs (identity), or verifies only: then a secret that holds a signing key is refused, because
  // this process should not be able to read it.
  bool signs = false;
  // Others verify what is signed here, with public keys: HS256 is refused.
  bool others_verify = true;
  // From one look to the next: the cache's soft TTL. The first pause is up to a tenth shorter, at random, so that
  // processes started together do not ask together for ever.
  std::chrono::milliseconds refresh_interval = std::chrono::seconds(300);
  // Until every verifier has seen a key that was published: their refresh and ours, with a little room.
  std::chrono::milliseconds announce = std::chrono::minutes(11);
};

// For the status page; nothing in it is secret.
struct JwtKeyringStatus {
  struct Key {
    std::string stage = {};  // "AWSCURRENT", ...; empty: it had one when all were last read
    std::string version_id = {};
    std::string kid = {};
    WallTime created_at = {};
    bool signs = false;
  };
  std::string secret_id = {};
  std::vector<Key> keys = {};
  std::optional<WallTime> refreshed_at = {};
  // Of the last look, if it failed.
  std::optional<Error> problem = {};
};

// Thread-safe. Metrics: nova_jwt_keys_failing (1 while the last look failed), nova_jwt_keys_refreshed_timestamp_seconds
// (of the last look that succeeded; 0 before), nova_jwt_key_refreshes_total{result="changed"|"unchanged"|"failed"},
// nova_jwt_rotation_latency_seconds (from the date of a version until it signs here).
class JwtKeyring {
 public:
  // One look: the three reads.
  static constexpr std::chrono::seconds kLookLimit = 3 * SecretManager::kFetchLimit;

  // All references must outlive it. `seed`: of the jitter.
  JwtKeyring(SecretManager& secrets, JwtKeyringConfig config, telemetry::Metrics& metrics,
             const Clock& clock = Clock::System(), std::uint64_t seed = std::random_device{}());
  ~JwtKeyring();

  // The first look; must succeed before anything is signed or verified. Errors: those of SecretManager::Refresh, each
  // with the secret's name and AWS_SECRETS_JWT_NAME; kInvalidFormat naming the field; INVALID_ARGUMENT for a signing
  // key where only verifying is meant, and for HS256 where others verify. Deadline: the call's.
  runtime::Task<void> Load(runtime::Call& call);

  // Looks again and again until `scope` stops; after a failure earlier, with a pause from one second up to the
  // interval. Precondition: Load succeeded.
  void Start(runtime::Scope& scope);

  // One look, at the time it is due or whenever it is asked for. As Load, but no error takes a key away; and another
  // issuer or audience than at the start is one (kInvalidFormat naming the field).
  runtime::Task<void> Refresh(runtime::Call& call);

  // When the next look is due: after the interval, or when a version becomes old enough to sign.
  SteadyTime due() const;

  // Live as long as this; they follow the keys by themselves.
  const auth::JwtSigner& signer() const;
  const auth::JwtVerifier& verifier() const;

  JwtKeyringStatus status() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace nova::secrets
