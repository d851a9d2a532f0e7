// What the benchmarks share that need real servers: the fixtures' PostgreSQL, PgBouncer and Redis with what they cost,
// load from many tasks at once, and the figures of a round.
#pragma once

#include <functional>
#include <stdexcept>
#include <string>
#include <sys/types.h>
#include <utility>
#include <vector>

#include "bench/statistics.h"
#include "nova/base/result.h"
#include "nova/runtime/runtime.h"

namespace nova::bench {

// A benchmark has nothing to fall back to: an error ends it.
[[noreturn]] void Throw(const Error& error);
inline void OrThrow(Result<void> result) {
  if (!result) Throw(result.error());
}
template <class T>
T OrThrow(Result<T> result) {
  if (!result) Throw(result.error());
  return *std::move(result);
}

// User and system CPU in seconds: of the product's process under test, and of the servers it stands on.
struct Cpu {
  double nova = 0;
  double postgres = 0;
  double pgbouncer = 0;
  double redis = 0;

  friend Cpu operator-(const Cpu& a, const Cpu& b) {
    return {a.nova - b.nova, a.postgres - b.postgres, a.pgbouncer - b.pgbouncer, a.redis - b.redis};
  }
  friend Cpu operator/(const Cpu& a, double by) {
    return {a.nova / by, a.postgres / by, a.pgbouncer / by, a.redis / by};
  }
};

// The servers of tests/postgres_fixture.h and tests/redis_fixture.h, with one difference: unless told otherwise, what
// they acknowledge is as durable as in `nova up`. Used by the main thread only.
class Servers {
 public:
  explicit Servers(bool durable);

  // Of `nova`, which may be this process, and of the servers, all of PostgreSQL's processes together.
  Cpu CpuOf(pid_t nova) const;

 private:
  pid_t postmaster_ = 0;
};

// Runs `work` in as many tasks at once, each on a strand of its own, and returns when all have ended. Throws what the
// first that failed says.
void RunLanes(runtime::Runtime& runtime, int lanes,
              const std::function<runtime::Task<void>(runtime::Call&, int lane)>& work);

}  // namespace nova::bench
