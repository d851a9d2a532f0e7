// The checks of the promise "Secrets" that are about the cache: this program's own secrets::SecretManager, as services
// use it, with the Secrets Manager of the stack behind it.
#pragma once

#include <vector>

#include "audit/audit.h"
#include "audit/finding.h"
#include "nova/base/clock.h"
#include "nova/base/result.h"
#include "nova/runtime/runtime.h"
#include "nova/secrets/secret_manager.h"

namespace nova::audit {

// What a cache with the default settings did on a clock that only the audit moves, while one reader came every second.
struct CacheLife {
  Duration length{};
  int fetches = 0;
  // The greatest that a value was served with.
  Duration age_max{};
};

// Lives for `length` of its clock, which takes a fraction of that. Errors: those of the reads.
Result<CacheLife> LiveThrough(Duration length);

// Every read of a cached value, by as many threads as were asked for, each with a reader of its own.
struct CachedReads {
  int threads = 0;
  std::vector<Duration> samples;
};

// "p50 180 ns, p99 410 ns with 1 thread"
std::string Describe(const CachedReads& reads);

// Used by one thread that is not the runtime's. Each check takes a bounded time and describes its own failures.
class SecretCacheProbe {
 public:
  static constexpr int kReadsTimed = 200'000;
  // On the fake clock: this and some more, so that no hour is cut into two.
  static constexpr std::chrono::minutes kLifeLength{121};

  // Both must outlive the probe.
  SecretCacheProbe(runtime::Runtime& runtime, const AuditConfig& config);

  Finding CallsOfFirstReads(int readers);
  Finding CachedRead();
  Finding AgeOfCached();

 private:
  Result<CachedReads> TimeReads(int threads);
  // How often the process that uses the keys looked at the secret, by its own account, and the longest time from one
  // look to the next.
  struct Looks {
    int count = 0;
    Duration longest_pause{};
  };
  Result<Looks> WatchLooks(Duration watched);

  runtime::Runtime& runtime_;
  const AuditConfig& config_;
};

}  // namespace nova::audit
