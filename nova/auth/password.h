// PasswordHasher: argon2id at the cost OWASP names (19 MiB, two passes, one lane), on threads of its own. One
// computation holds a core for some 20 ms, so it never runs on the runtime's threads, and what waits for a thread is
// bounded: past that the service says it is busy instead of growing a queue nobody will wait for.
#pragma once

#include <memory>
#include <string>

#include "nova/base/result.h"
#include "nova/base/secret.h"
#include "nova/config/config.h"
#include "nova/runtime/call.h"
#include "nova/runtime/task.h"
#include "nova/runtime/worker_pool.h"
#include "nova/telemetry/metrics.h"

namespace nova::auth {

struct PasswordConfig {
  // Computations at once; 0: half of the cores, one at least.
  int threads = 0;
  // Computations waiting for a thread; one more is refused with RESOURCE_EXHAUSTED.
  int queue_max = 64;
};

void Bind(config::Config& config, PasswordConfig& password);

// Thread-safe. The three computations share these terms. Errors: RESOURCE_EXHAUSTED when the queue is full. Deadline:
// the call's. Cancellation: the wait ends at once; a computation still queued is dropped, a running one ends by itself.
class PasswordHasher {
 public:
  // Computes one hash, to compare with where there is no account. `metrics`, and the runtime on which the computations
  // are awaited, must outlive the hasher: its threads wake tasks until they are joined.
  // Errors: INTERNAL if libsodium or the memory is not there.
  static Result<std::unique_ptr<PasswordHasher>> Create(const PasswordConfig& config, telemetry::Metrics& metrics);

  // The hash with its salt and parameters, in argon2's own text form ("$argon2id$v=19$m=19456,t=2,p=1$...").
  // Errors: INTERNAL if memory runs out, as well.
  runtime::Task<std::string> Hash(runtime::Call& call, Secret<> password);

  // True if `hash` was made of `password`. Errors: INTERNAL if `hash` is no argon2id hash, as well.
  runtime::Task<bool> Verify(runtime::Call& call, std::string hash, Secret<> password);

  // The work of Verify, for a user who does not exist: the time of the answer then says nothing about who exists.
  runtime::Task<void> VerifyAgainstNothing(runtime::Call& call, Secret<> password);

  // True if `hash` was made with other parameters than Hash uses.
  static bool NeedsRehash(const std::string& hash);

 private:
  PasswordHasher(const PasswordConfig& config, telemetry::Metrics& metrics, std::string nobodys_hash);

  runtime::Task<bool> Compare(runtime::Call& call, std::string hash, Secret<> password);

  // Constant after construction.
  const std::string nobodys_hash_;
  prometheus::Histogram& hash_seconds_;
  prometheus::Histogram& verify_seconds_;
  prometheus::Counter& refused_;
  // Last: its threads use the above until they are joined.
  runtime::WorkerPool pool_;
};

}  // namespace nova::auth
