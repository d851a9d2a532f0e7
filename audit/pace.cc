#include "audit/pace.h"

namespace nova::audit {
namespace {

constexpr Duration kLookAgain = std::chrono::milliseconds(25);

}  // namespace

void Say(const AuditConfig& config, const std::string& what) {
  if (config.progress) config.progress(what);
}

bool IsInterrupted(const AuditConfig& config) { return config.interrupted && config.interrupted(); }

bool AwaitCondition(runtime::Runtime& runtime, const AuditConfig& config, Duration limit,
                    const std::function<bool()>& condition) {
  const SteadyTime end = Clock::System().Now() + limit;
  while (!condition()) {
    if (IsInterrupted(config) || Clock::System().Now() >= end) return false;
    (void)runtime.RunBlocking<void>(Duration::max(),
                                    [](runtime::Call& call) { return runtime::Sleep(call, kLookAgain); });
  }
  return true;
}

}  // namespace nova::audit
