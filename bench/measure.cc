#include "bench/measure.h"

#include <algorithm>
#include <fstream>
#include <latch>
#include <mutex>
#include <optional>
#include <sstream>
#include <time.h>
#include <unistd.h>

#include "local/process.h"
#include "nova/runtime/scope.h"
#include "tests/postgres_fixture.h"
#include "tests/redis_fixture.h"

namespace nova::bench {
namespace {

// How long a setting may take to reach all processes of a server, and a finished task to be forgotten.
constexpr std::chrono::seconds kSettleLimit{10};

// CPU of the children that a process has waited for, in seconds and with the resolution of the kernel's tick, from
// /proc/<pid>/stat.
double EndedChildrenCpu(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string text;
  std::getline(file, text);
  // The name may hold anything but ends at the last parenthesis; cutime and cstime are the 14th and 15th field behind.
  std::istringstream fields(text.substr(std::min(text.rfind(')') + 1, text.size())));
  std::string skipped;
  for (int i = 0; i < 13; ++i) fields >> skipped;
  double user = 0;
  double system = 0;
  fields >> user >> system;
  return (user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

// In seconds; 0 for a process that has ended.
double CpuOfProcess(pid_t pid) {
  clockid_t clock{};
  timespec now{};
  if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &now) != 0) return 0;
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

void MakePostgresDurable(tests::PostgresFixture& postgres) {
  for (const char* setting : {"fsync", "full_page_writes"})
    postgres.Query(std::string("ALTER SYSTEM SET ") + setting + " = on");
  postgres.Query("SELECT pg_reload_conf()");
  const SteadyTime until = Clock::System().Now() + kSettleLimit;
  for (const char* setting : {"fsync", "full_page_writes"}) {
    while (postgres.Query(std::string("SHOW ") + setting).Get(0, setting) != "on") {
      if (Clock::System().Now() > until) throw std::runtime_error("PostgreSQL did not become durable");
    }
  }
}

}  // namespace

void Throw(const Error& error) { throw std::runtime_error(error.ToString()); }

Servers::Servers(bool durable) {
  auto& postgres = tests::PostgresFixture::Instance();
  auto& redis = tests::RedisFixture::Instance();
  if (durable) {
    MakePostgresDurable(postgres);
    redis.Command({"CONFIG", "SET", "appendfsync", "everysec"});
  }
  postmaster_ = std::stoi(postgres.Query("SELECT pg_read_file('postmaster.pid') AS file").Get(0, "file"));
}

Cpu Servers::CpuOf(pid_t nova) const {
  // In this order a backend that ends between the two readings is missed, and not counted twice.
  double postgres = CpuOfProcess(postmaster_) + EndedChildrenCpu(postmaster_);
  for (const pid_t backend : local::ChildrenOf(postmaster_)) postgres += CpuOfProcess(backend);
  return {.nova = CpuOfProcess(nova),
          .postgres = postgres,
          .pgbouncer = CpuOfProcess(tests::PostgresFixture::Instance().pooler_process()),
          .redis = CpuOfProcess(tests::RedisFixture::Instance().process())};
}

void RunLanes(runtime::Runtime& runtime, int lanes,
              const std::function<runtime::Task<void>(runtime::Call&, int lane)>& work) {
  runtime::Scope scope(runtime);
  std::latch ended(lanes);
  std::mutex mutex;
  std::optional<Error> first;
  for (int lane = 0; lane < lanes; ++lane) {
    scope.Spawn("lane", [&, lane](runtime::Call& call) -> runtime::Task<void> {
      const Result<void> result = co_await work(call, lane);
      {
        std::lock_guard lock(mutex);
        if (!result && !first) first = result.error();
      }
      ended.count_down();
      co_return Ok();
    });
  }
  ended.wait();
  OrThrow(scope.Stop(kSettleLimit));
  if (first) Throw(*first);
}

}  // namespace nova::bench
