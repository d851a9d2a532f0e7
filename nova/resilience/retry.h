// When a failed call may be tried again, and when not: only work that may be repeated, only failures that another try
// can mend, after a random pause, and only within a budget: a dependency in trouble must not get more load than a
// healthy one.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <optional>

#include "nova/base/clock.h"
#include "nova/base/error.h"

namespace nova::resilience {

// May a call be repeated when its outcome is unknown? (api/rpc/v1/options.proto)
enum class Idempotency : std::uint8_t {
  kSafe,   // repeating it has no further effect
  kKeyed,  // the same, because the request carries an idempotency key
  kNone,   // nobody but the user may repeat it
};

// What a peer said about trying again: gRPC's `grpc-retry-pushback-ms`.
struct PushBack {
  // Nothing: not at all. Else not before this has passed.
  std::optional<std::chrono::milliseconds> wait;
};

struct RetryConfig {
  // The first one included; 1 means no retries.
  int tries_max = 3;
  // The pause before try n+1 is random between zero and the smaller of backoff * 2^(n-1) and backoff_max.
  std::chrono::milliseconds backoff = std::chrono::milliseconds(50);
  std::chrono::milliseconds backoff_max = std::chrono::seconds(1);
  // Retries, at most, as a share of calls.
  double budget_ratio = 0.2;
};

// UNAVAILABLE; and RESOURCE_EXHAUSTED if the peer said when it may be tried again, because then it did not begin.
bool IsRetryable(const Error& error, const std::optional<PushBack>& said);

// `random` is uniform over all values. Precondition: tries >= 1, the number made.
Duration Backoff(const RetryConfig& config, int tries, std::uint64_t random);

// Every call pays in budget_ratio, every retry takes out 1. It begins empty and keeps kTokensMax at most: of any N
// calls in a row at most budget_ratio * N + kTokensMax are retried, and of all since the start at most budget_ratio *
// N. Thread-safe; no locks.
class RetryBudget {
 public:
  static constexpr int kTokensMax = 10;

  explicit RetryBudget(double ratio);
  void Deposit();
  bool TryWithdraw();
  // Never negative.
  double tokens() const;

 private:
  static constexpr std::int64_t kToken = 1'000'000;

  const std::int64_t deposit_;
  std::atomic<std::int64_t> balance_ = 0;
};

}  // namespace nova::resilience
