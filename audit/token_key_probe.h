// The checks of the promise "Secrets" that are about the keys of access tokens: where they come from, who asks for
// them, and that replacing them is noticed by nobody.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "audit/account.h"
#include "audit/audit.h"
#include "audit/finding.h"
#include "audit/leak_scan.h"
#include "audit/scraper.h"
#include "audit/secrets_access.h"
#include "audit/token_load.h"
#include "nova/runtime/scope.h"
#include "nova/secrets/api.h"
#include "nova/telemetry/metrics.h"
#include "nova/tls/publisher.h"

namespace nova::audit {

// Where keys come from, by three accounts of it.
struct KeySource {
  // Names of keys: in the secret, in the set that the issuer publishes, and of the one that signed a token just now.
  std::set<std::string> stored;
  std::set<std::string> published;
  std::string signed_by;
  // The status page of the issuer.
  std::string status;
};
Finding JudgeKeySource(const KeySource& seen, const std::string& secret_id);

// Of nova_secrets_requests_total: the issuer reads, and nobody does anything else.
Finding JudgeOperations(const Scraper::Scrapes& processes, const std::string& issuer);

// When the rotator would begin.
struct Schedule {
  std::chrono::hours due{};
  WallTime created_at{};
};
// On a clock that the audit sets, and a store that nothing can be written to: the age of the current version, to the
// hour, from which on it makes a new one. Errors: those of the reads; FAILED_PRECONDITION if it would begin at once, as
// it does with a rotation that was cut off, or not within `limit`.
Result<Schedule> FindSchedule(runtime::Runtime& runtime, secrets::SecretStore& store, const std::string& secret_id,
                              WallTime created_at, std::chrono::hours limit);

// What happened while keys were replaced.
struct KeyRotations {
  struct One {
    Duration took{};
    // From its end to the first token of the new key; nothing if there was none in time.
    std::optional<Duration> first_token;
  };
  std::vector<One> rotations;
  int planned = 0;
  TokenLoad::Seen load;
  // From the end of the last one until a token of the withdrawn key was refused, by each of those who verify; nothing
  // if it was accepted to the end.
  std::optional<Duration> refused_by_identity;
  std::optional<Duration> refused_by_user;
  // What was granted for either.
  Duration limit{};
  // Processes that are not the same as before.
  std::vector<std::string> restarted;
  std::size_t processes = 0;
  std::string problem;
};
Finding JudgeRotations(const KeyRotations& seen);

// Used by one thread that is not the runtime's. Each check takes a bounded time and describes its own failures.
class TokenKeyProbe {
 public:
  // The first replaces the key that is current, the second withdraws it.
  static constexpr int kRotations = 2;
  // Longer than any schedule.
  static constexpr std::chrono::hours kScheduleMax = std::chrono::days(400);

  // Both must outlive the probe.
  TokenKeyProbe(runtime::Runtime& runtime, const AuditConfig& config);
  ~TokenKeyProbe();
  TokenKeyProbe(const TokenKeyProbe&) = delete;
  TokenKeyProbe& operator=(const TokenKeyProbe&) = delete;

  Finding KeysComeFromSecret();
  Finding FailedWhileKeysRotate();
  Finding OperationsCalled();
  Finding RotationSchedule();

  // What was used and must be nowhere: of the user whose tokens those were, and the keys.
  std::vector<Mark> marks() const;

 private:
  // What is needed for a user, made the first time.
  Result<void> Prepare();
  Result<KeySource> ReadKeySource(SecretsAccess& access);
  std::unique_ptr<TokenLoad> StartLoad();
  // One rotation as `nova secrets rotate --now` does it. Returns the name of the new key.
  Result<std::string> Rotate(SecretsAccess& access);
  // Signed here, for the user's own session. Whether it is accepted.
  Result<bool> IdentityAccepts(const StoredKey& key);
  Result<bool> UserAccepts(const StoredKey& key);
  Result<Secret<>> SignedBy(const StoredKey& key) const;
  void Remember(const StoredKey& key);

  runtime::Runtime& runtime_;
  const AuditConfig& config_;
  Scraper scraper_;
  telemetry::Metrics metrics_;  // nobody scrapes them
  runtime::Scope scope_;
  // Follows the rotations of certificates that happen meanwhile.
  std::unique_ptr<tls::IdentityPublisher> publisher_;
  std::optional<tls::ChannelIdentity> operator_;
  std::unique_ptr<Account> account_;
  std::vector<Mark> keys_;
};

}  // namespace nova::audit
