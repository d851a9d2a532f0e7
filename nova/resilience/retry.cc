#include "nova/resilience/retry.h"

#include <algorithm>
#include <cmath>

namespace nova::resilience {

bool IsRetryable(const Error& error, const std::optional<PushBack>& said) {
  switch (error.code()) {
    case Code::kUnavailable:
      return true;
    case Code::kResourceExhausted:
      // Without a word from the peer this may be a quota of the user, which waiting does not refill.
      return said && said->wait;
    default:
      return false;
  }
}

Duration Backoff(const RetryConfig& config, int tries, std::uint64_t random) {
  Duration most = config.backoff;
  for (int i = 1; i < tries && most < config.backoff_max; ++i) most *= 2;
  most = std::min<Duration>(most, config.backoff_max);
  return Duration(static_cast<Duration::rep>(random % (static_cast<std::uint64_t>(most.count()) + 1)));
}

RetryBudget::RetryBudget(double ratio) : deposit_(std::llround(ratio * static_cast<double>(kToken))) {}

void RetryBudget::Deposit() {
  constexpr std::int64_t kMost = kTokensMax * kToken;
  std::int64_t balance = balance_.load(std::memory_order_relaxed);
  std::int64_t next = 0;
  do {
    next = std::min(balance + deposit_, kMost);
    if (next == balance) return;
  } while (!balance_.compare_exchange_weak(balance, next, std::memory_order_relaxed));
}

bool RetryBudget::TryWithdraw() {
  std::int64_t balance = balance_.load(std::memory_order_relaxed);
  do {
    if (balance < kToken) return false;
  } while (!balance_.compare_exchange_weak(balance, balance - kToken, std::memory_order_relaxed));
  return true;
}

double RetryBudget::tokens() const {
  return static_cast<double>(balance_.load(std::memory_order_relaxed)) / static_cast<double>(kToken);
}

}  // namespace nova::resilience
