// What does a hot path pay for asking for a secret every time? A cached read from one thread and from eight,
// nanoseconds and allocations, against a bare copy of the handle, a coroutine that makes one, and the cache that
// everybody writes first: a mutex around a map. The cases take turns within every round, so that the machine's noise
// hits all of them alike; ratios are of one round. Then what AWS is asked: by so many first readers at once, and in a
// day.
#include <algorithm>
#include <atomic>
#include <boost/json.hpp>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <latch>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <time.h>
#include <unordered_map>
#include <vector>

#include "bench/allocations.h"
#include "bench/statistics.h"
#include "nova/config/config.h"
#include "nova/runtime/one_shot.h"
#include "nova/runtime/runtime.h"
#include "nova/runtime/scope.h"
#include "nova/secrets/secret_manager.h"
#include "nova/telemetry/metrics.h"

namespace nova::bench {
namespace {

using runtime::Call;
using runtime::Task;
using secrets::SecretHandle;
using secrets::SecretManager;
using secrets::SecretValue;
using std::chrono::seconds;

constexpr const char* kId = "prod/nova/jwt";
// Besides one.
constexpr int kThreads = 8;
constexpr std::chrono::minutes kLimit{10};
constexpr seconds kCloseLimit{10};
// More turns of the runtime than a refresh takes.
constexpr int kTurns = 4;

struct Options {
  int rounds = 11;
  int reads = 100'000;
  bool json = false;
};

template <class T>
T OrThrow(Result<T> result) {
  if (!result) throw std::runtime_error(result.error().ToString());
  return *std::move(result);
}
void OrThrow(Result<void> result) {
  if (!result) throw std::runtime_error(result.error().ToString());
}

SecretValue AnyValue() { return {.value = Secret<>(std::string(1024, 'x')), .version_id = "1"}; }

// Closed before what it stands on goes.
class Manager {
 public:
  explicit Manager(const SecretManager::Builder& builder) : manager_(OrThrow(builder.Build())) {}
  ~Manager() { (void)manager_->Close(kCloseLimit); }
  Manager(const Manager&) = delete;
  Manager& operator=(const Manager&) = delete;
  SecretManager& operator*() const { return *manager_; }
  SecretManager* operator->() const { return manager_.get(); }

 private:
  const std::unique_ptr<SecretManager> manager_;
};

// Answers at once.
class ReadySource final : public secrets::SecretSource {
 public:
  Task<SecretValue> Fetch(Call&, std::string, std::string, bool) override {
    ++fetches_;
    co_return AnyValue();
  }
  int fetches() const { return fetches_; }

 private:
  std::atomic<int> fetches_ = 0;
};

// Answers when it is told.
class GatedSource final : public secrets::SecretSource {
 public:
  Task<SecretValue> Fetch(Call& call, std::string, std::string, bool) override {
    ++fetches_;
    return gate_.Wait(call);
  }
  void Open() { (void)gate_.TrySet(AnyValue()); }
  int fetches() const { return fetches_; }

 private:
  std::atomic<int> fetches_ = 0;
  runtime::OneShot<SecretValue> gate_;
};

// What everybody writes first.
class PlainCache {
 public:
  explicit PlainCache(SecretHandle value) { values_.emplace(kId, std::move(value)); }
  SecretHandle Get(const std::string& id) {
    std::lock_guard lock(mutex_);
    const auto found = values_.find(id);
    return found == values_.end() ? nullptr : found->second;
  }

 private:
  std::mutex mutex_;
  std::unordered_map<std::string, SecretHandle> values_;  // guarded by mutex_
};

Task<SecretHandle> Copy(const SecretHandle& value) { co_return value; }

double Now(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return static_cast<double>(now.tv_sec) * 1e9 + static_cast<double>(now.tv_nsec);
}

// Of one thread, or the mean of several.
struct Figures {
  double cpu_ns = 0;
  double elapsed_ns = 0;
  double allocations = 0;
  // Of every eighth read by itself, in ns, ascending; what it takes to look at the clock is among it.
  std::vector<double> samples = {};
};

constexpr int kSampleEvery = 8;

// `read` yields a Task<SecretHandle>, or the handle. All of it in a coroutine on one of the runtime's threads, as every
// handler of Nova is.
template <class Read>
Figures Measure(runtime::Runtime& runtime, int reads, const Read& read) {
  constexpr bool kIsTask = requires(Call& call) { read(call).await_ready(); };
  const auto one = [&read](Call& call) { return read(call); };
  return OrThrow(runtime.RunBlocking<Figures>(kLimit, [&](Call& call) -> Task<Figures> {
    Figures figures;
    figures.samples.reserve(static_cast<std::size_t>(reads / kSampleEvery) + 1);
    int wrong = 0;
    const std::uint64_t allocations = AllocationsOfThisThread();
    const double cpu = Now(CLOCK_THREAD_CPUTIME_ID);
    const double begin = Now(CLOCK_MONOTONIC);
    for (int i = 0; i < reads; ++i) {
      if constexpr (kIsTask) {
        const Result<SecretHandle> value = co_await one(call);
        wrong += value.ok() && *value != nullptr ? 0 : 1;
      } else {
        const SecretHandle value = one(call);
        wrong += value != nullptr ? 0 : 1;
      }
    }
    figures.elapsed_ns = (Now(CLOCK_MONOTONIC) - begin) / reads;
    figures.cpu_ns = (Now(CLOCK_THREAD_CPUTIME_ID) - cpu) / reads;
    figures.allocations = static_cast<double>(AllocationsOfThisThread() - allocations) / reads;
    for (int i = 0; i < reads; i += kSampleEvery) {
      const double before = Now(CLOCK_MONOTONIC);
      if constexpr (kIsTask) {
        const Result<SecretHandle> value = co_await one(call);
        wrong += value.ok() ? 0 : 1;
      } else {
        const SecretHandle value = one(call);
        wrong += value != nullptr ? 0 : 1;
      }
      figures.samples.push_back(Now(CLOCK_MONOTONIC) - before);
    }
    if (wrong != 0) co_return Internal("a read failed");
    co_return figures;
  }));
}

// On as many threads at once, each with a runtime of its own.
Figures MeasureOn(const std::vector<std::unique_ptr<runtime::Runtime>>& runtimes, int threads,
                  const std::function<Figures(runtime::Runtime&)>& measure) {
  std::vector<Figures> all(static_cast<std::size_t>(threads));
  std::latch ready(threads);
  {
    std::vector<std::jthread> running;
    for (std::size_t thread = 0; thread < all.size(); ++thread) {
      running.emplace_back([&, thread] {
        ready.arrive_and_wait();
        all[thread] = measure(*runtimes[thread]);
      });
    }
  }
  Figures mean;
  for (Figures& of : all) {
    mean.cpu_ns += of.cpu_ns / threads;
    mean.elapsed_ns += of.elapsed_ns / threads;
    mean.allocations += of.allocations / threads;
    mean.samples.insert(mean.samples.end(), of.samples.begin(), of.samples.end());
  }
  return mean;
}

struct Case {
  const char* name;
  int threads = 1;
  std::function<Figures(runtime::Runtime&)> measure;
  std::vector<Figures> rounds = {};
};

double MedianOf(const Case& of, double Figures::* field) {
  std::vector<double> values;
  for (const Figures& round : of.rounds) values.push_back(round.*field);
  return Median(values);
}

// Of CPU, round by round.
double Ratio(const Case& of, const Case& to) {
  std::vector<double> ratios;
  for (std::size_t i = 0; i < of.rounds.size(); ++i) ratios.push_back(of.rounds[i].cpu_ns / to.rounds[i].cpu_ns);
  return Median(ratios);
}

boost::json::array ReadCosts(const Options& options) {
  ReadySource source;
  telemetry::Metrics metrics;
  runtime::Runtime background({.threads = 1});
  const Manager manager(SecretManager::Builder(background, metrics, source));
  const SecretHandle value =
      OrThrow(background.RunBlocking<SecretHandle>(kLimit, [&](Call& call) { return manager->GetSecret(call, kId); }));
  PlainCache plain(value);
  const std::string id = kId;
  std::vector<std::unique_ptr<runtime::Runtime>> runtimes;
  for (int i = 0; i < kThreads; ++i)
    runtimes.push_back(std::make_unique<runtime::Runtime>(runtime::RuntimeConfig{.threads = 1}));

  const int reads = options.reads;
  std::vector<Case> cases;
  for (const int threads : {1, kThreads}) {
    cases.push_back({"shared_ptr copy", threads,
                     [&](runtime::Runtime& runtime) { return Measure(runtime, reads, [&](Call&) { return value; }); }});
    cases.push_back({"coroutine that copies", threads, [&](runtime::Runtime& runtime) {
                       return Measure(runtime, reads, [&](Call&) { return Copy(value); });
                     }});
    cases.push_back({"mutex + unordered_map", threads, [&](runtime::Runtime& runtime) {
                       return Measure(runtime, reads, [&](Call&) { return plain.Get(id); });
                     }});
    cases.push_back({"GetSecret", threads, [&](runtime::Runtime& runtime) {
                       return Measure(runtime, reads, [&](Call& call) { return manager->GetSecret(call, id); });
                     }});
  }
  // The first round warms up.
  for (int round = -1; round < options.rounds; ++round) {
    for (Case& each : cases) {
      Figures figures = MeasureOn(runtimes, each.threads, each.measure);
      if (round >= 0) each.rounds.push_back(std::move(figures));
    }
  }
  std::printf("A cached read; %d interleaved rounds of %d reads a thread, on %u cores\n\n", options.rounds, reads,
              std::thread::hardware_concurrency());
  std::printf("%-24s %8s %8s %11s %8s %8s %12s %9s %9s\n", "", "threads", "CPU ns", "elapsed ns", "p50 ns", "p99 ns",
              "allocations", "/ copy", "/ plain");
  boost::json::array json;
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const Case& each = cases[i];
    std::vector<double> samples;
    for (const Figures& round : each.rounds) samples.insert(samples.end(), round.samples.begin(), round.samples.end());
    std::ranges::sort(samples);
    const double cpu = MedianOf(each, &Figures::cpu_ns);
    const double elapsed = MedianOf(each, &Figures::elapsed_ns);
    const double allocations = MedianOf(each, &Figures::allocations);
    const double p50 = Percentile(samples, 0.5);
    const double p99 = Percentile(samples, 0.99);
    const std::size_t first = i / 4 * 4;
    const double to_copy = Ratio(each, cases[first]);
    const double to_plain = Ratio(each, cases[first + 2]);
    std::printf("%-24s %8d %8.0f %11.0f %8.0f %8.0f %12.3f %9.1f %9.2f\n", each.name, each.threads, cpu, elapsed, p50,
                p99, allocations, to_copy, to_plain);
    json.push_back({{"case", each.name},
                    {"threads", each.threads},
                    {"cpu_ns", cpu},
                    {"elapsed_ns", elapsed},
                    {"p50_ns", p50},
                    {"p99_ns", p99},
                    {"allocations", allocations},
                    {"ratio_to_copy", to_copy},
                    {"ratio_to_plain", to_plain}});
  }
  std::printf(
      "\nCPU and elapsed are means, medians of rounds. p50 and p99 are of single reads, with a look at the clock that "
      "is "
      "some\ntens of ns; with more threads than cores, p99 is how long the machine kept a reader off its core.\n"
      "Promised: at most 1000 ns, no allocation.\n\n");
  return json;
}

Task<void> Turn(Call&) {
  (void)co_await runtime::Await<bool>([](const runtime::Resolver<bool>& resolver) { resolver(true); });
  co_return Ok();
}

boost::json::array FirstReads() {
  boost::json::array json;
  for (const int readers : {10, 100, 10'000}) {
    GatedSource source;
    telemetry::Metrics metrics;
    runtime::Runtime runtime;
    runtime::Scope scope(runtime);
    const Manager manager(SecretManager::Builder(runtime, metrics, source));
    std::atomic<int> answered = 0;
    std::latch ended(readers);
    for (int i = 0; i < readers; ++i) {
      scope.Spawn("a reader", [&](Call& call) -> Task<void> {
        if (co_await manager->GetSecret(call, kId)) ++answered;
        ended.count_down();
        co_return Ok();
      });
    }
    while (manager->Stats().misses < static_cast<std::uint64_t>(readers)) std::this_thread::yield();
    source.Open();
    ended.wait();
    OrThrow(scope.Stop(kCloseLimit));
    std::printf("%6d first readers at once: %d request%s, %d answered\n", readers, source.fetches(),
                source.fetches() == 1 ? "" : "s", answered.load());
    json.push_back({{"readers", readers}, {"requests", source.fetches()}, {"answered", answered.load()}});
  }
  return json;
}

// A read each second.
int RequestsOfADay() {
  FakeClock clock;
  ReadySource source;
  telemetry::Metrics metrics;
  runtime::Runtime runtime({.threads = 1});
  const Manager manager(SecretManager::Builder(runtime, metrics, source).UseClock(clock));
  OrThrow(runtime.RunBlocking<void>(kLimit, [&](Call& call) -> Task<void> {
    for (int second = 0; second <= 24 * 60 * 60; ++second) {
      NOVA_CO_TRY(co_await manager->GetSecret(call, kId));
      for (int turn = 0; turn < kTurns; ++turn) NOVA_CO_TRY(co_await Turn(call));
      clock.Advance(seconds(1));
    }
    co_return Ok();
  }));
  return source.fetches();
}

void Run(const Options& options) {
  boost::json::object json;
  json["reads"] = ReadCosts(options);
  json["first_reads"] = FirstReads();
  const int day = RequestsOfADay();
  json["requests_of_a_day"] = day;
  std::printf("%6d requests in 24 simulated hours of a read each second (promised: at most 289)\n", day);
  if (options.json) std::printf("%s\n", boost::json::serialize(json).c_str());
}

}  // namespace
}  // namespace nova::bench

int main(int argc, char** argv) {
  nova::bench::Options options;
  // Settings of the product are no business of a benchmark.
  nova::config::Config config({.args = {argv + 1, argv + argc}, .environment = {}});
  config.Field("bench.rounds", options.rounds, {.help = "rounds counted", .flag = "rounds", .min = 1, .max = 1'000});
  config.Field("bench.reads", options.reads, {.help = "reads per case, round and thread", .flag = "reads", .min = 100});
  config.Field("bench.json", options.json, {.help = "print the figures as JSON, last", .flag = "json"});
  if (config.help_requested()) {
    std::fputs(config.Help("./dev bench secrets", "What a cached secret costs, and how often AWS is asked.").c_str(),
               stdout);
    return 0;
  }
  if (const auto finished = config.Finish(); !finished) {
    std::fprintf(stderr, "bench_secrets: %s\n", finished.error().message().c_str());
    return 2;
  }
  try {
    nova::bench::Run(options);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_secrets: %s\n", error.what());
    return 1;
  }
}
