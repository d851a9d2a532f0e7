// Rotation of the JWT secret: the four steps of a Secrets Manager rotation, each of which may be repeated, and may be
// cut off anywhere. Two front doors use them: `nova secrets rotate` for a CronJob, and `nova lambda`, which Secrets
// Manager calls step by step. Needs GetSecretValue, PutSecretValue and UpdateSecretVersionStage on the secret (and
// CreateSecret only to make it), nothing else: DescribeSecret is never called.
//
//   create   a new key pair, as AWSPENDING of the version `token`
//   set      its public half, as AWSPENDING of the public secret, if there is one
//   test     the pair signs and verifies; returns when everybody has had time to see it (`announce`)
//   finish   AWSCURRENT moves to it, what was current becomes AWSPREVIOUS, AWSPENDING is taken off; the public secret
//            the same, first
//
// Nothing is remembered outside of the two secrets. The label AWSPENDING of the private one is what says that a
// rotation is under way, so whoever comes next goes on with that version instead of making another.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "nova/auth/jwt.h"
#include "nova/base/clock.h"
#include "nova/base/result.h"
#include "nova/runtime/call.h"
#include "nova/runtime/task.h"
#include "nova/secrets/api.h"

namespace nova::secrets {

struct RotationConfig {
  // AWS_SECRETS_JWT_NAME.
  std::string secret_id;
  // A second secret that holds the public half alone, for verifiers that read secrets; empty: there is none. Its
  // versions have the ids of those of the first.
  std::string public_secret_id;
  // A current version older than this is due.
  std::chrono::seconds interval = std::chrono::days(90);
  // As JwtKeyringConfig::announce.
  std::chrono::milliseconds announce = std::chrono::minutes(11);
  // What the first version says; afterwards every version takes over what its predecessor says.
  auth::JwtConfig first = {};
  // Of new keys, if another than the predecessor's. HS256 has no public half, and is refused.
  std::optional<auth::Algorithm> algorithm = {};
  // Make the secrets if they are not there.
  bool create = false;
};

enum class RotationStep : std::uint8_t { kCreate, kSet, kTest, kFinish };
// "createSecret", "setSecret", "testSecret", "finishSecret", as Secrets Manager calls them.
const char* RotationStepName(RotationStep step);
// Errors: INVALID_ARGUMENT.
Result<RotationStep> ParseRotationStep(std::string_view name);

// Secrets Manager's own limits of a version's id.
inline constexpr std::size_t kTokenLengthMin = 32;
inline constexpr std::size_t kTokenLengthMax = 64;

struct RotationReport {
  enum class Outcome : std::uint8_t { kRotated, kFirstVersion, kNotDue };
  Outcome outcome = Outcome::kNotDue;
  // Of the version that is current now.
  std::string version_id = {};
  std::string kid = {};
  auth::Algorithm algorithm = auth::Algorithm::kEdDsa;
  WallTime created_at = {};
  // When it will be due.
  WallTime due_at = {};
  // Set if a key was withdrawn whose tokens may be valid until then: `now` was asked for so soon after the rotation
  // before. Their holders have to refresh or to log in.
  std::optional<WallTime> tokens_cut_short_until = {};
};

// "rotated", "first_version", "not_due".
const char* RotationOutcomeName(RotationReport::Outcome outcome);

// Thread-safe. Errors of both functions name the step and the secret, never a value; the codes are those of SecretStore
// and:
//   INVALID_ARGUMENT     a token that is none, an algorithm that is not rotated
//   NOT_FOUND            no such secret, and `create` is not set
//   ABORTED              the token's version is neither pending nor current, or another rotation is under way
//   FAILED_PRECONDITION  a step before has not been done
//   UNAVAILABLE          it is too early, and the call ends before it is not: the message says when
//   kInvalidFormat       a version is no JWT secret, or not this rotation's: names the field
class Rotator {
 public:
  // Told what is being done, in a few words. May be empty.
  using Progress = std::function<void(std::string_view)>;

  // `store` must outlive it.
  Rotator(SecretStore& store, RotationConfig config, const Clock& clock = Clock::System(), Progress progress = {});

  // One step for the version `token`. Repeated, or late, it finds what is done and does the rest. create refuses to
  // begin while tokens may be valid whose key it would withdraw.
  runtime::Task<void> Run(runtime::Call& call, RotationStep step, std::string token);

  // All that is due: finishes a rotation that was cut off, whoever began it; makes the first version of a secret that
  // has none; rotates if the current version is older than the interval, or `now`; brings the public secret in line
  // with the private one. The version's id follows from that of the current one, so that two who rotate at once do
  // the same rotation. Takes a little more than `announce`, if it rotates.
  runtime::Task<RotationReport> Rotate(runtime::Call& call, bool now);

 private:
  SecretStore& store_;
  const RotationConfig config_;
  const Clock& clock_;
  const Progress progress_;
};

}  // namespace nova::secrets
