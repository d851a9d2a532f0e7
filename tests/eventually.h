// For what can only be looked at, not awaited.
#pragma once

#include <chrono>
#include <functional>
#include <future>
#include <gtest/gtest.h>

#include "nova/base/clock.h"

namespace nova::tests {

// Looks again until it is so, `limit` at most: a bound on what must happen soon, which fails the test.
inline testing::AssertionResult Eventually(const std::function<bool()>& is_so,
                                           Duration limit = std::chrono::seconds(30)) {
  const SteadyTime until = Clock::System().Now() + limit;
  std::promise<void> never;
  const std::future<void> pause = never.get_future();
  while (!is_so()) {
    if (Clock::System().Now() > until) return testing::AssertionFailure() << "it did not come true in time";
    (void)pause.wait_for(std::chrono::milliseconds(2));
  }
  return testing::AssertionSuccess();
}

}  // namespace nova::tests
