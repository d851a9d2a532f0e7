// What does it cost to be protected? Each policy alone, and the whole pipeline around a call that succeeds at once,
// against the bare coroutine: nanoseconds and allocations per call. The cases take turns within every round, so that
// the machine's noise hits all of them alike; the pipeline's figure is the difference within a round.
#include <algorithm>
#include <array>
#include <boost/json.hpp>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <latch>
#include <stdexcept>
#include <string>
#include <thread>
#include <time.h>
#include <vector>

#include "bench/allocations.h"
#include "nova/config/config.h"
#include "nova/resilience/protect.h"
#include "nova/runtime/runtime.h"
#include "nova/telemetry/metrics.h"

namespace nova::bench {
namespace {

using resilience::Breaker;
using runtime::Call;
using runtime::Task;

struct Options {
  int rounds = 11;
  int calls = 200'000;
  bool json = false;
};

struct Figures {
  double ns = 0;
  double allocations = 0;
};

// CPU time is what a call costs whoever else wants the machine; how long threads wait for each other shows elapsed time
// alone.
enum class Time : std::uint8_t { kCpu, kElapsed };

// Of calls on this thread, from its construction to End.
class Measurement {
 public:
  explicit Measurement(Time time) : clock_(time == Time::kCpu ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC) {}

  Figures End(int calls) const {
    return {.ns = (Now() - begin_) / calls,
            .allocations = static_cast<double>(AllocationsOfThisThread() - allocations_) / calls};
  }

 private:
  double Now() const {
    timespec now{};
    clock_gettime(clock_, &now);
    return static_cast<double>(now.tv_sec) * 1e9 + static_cast<double>(now.tv_nsec);
  }

  const clockid_t clock_;
  const std::uint64_t allocations_ = AllocationsOfThisThread();
  const double begin_ = Now();
};

// On as many threads at once; the mean of what each saw.
Figures MeasureContended(int threads, const std::function<Figures(int thread)>& measure) {
  std::vector<Figures> figures(static_cast<std::size_t>(threads));
  std::latch ready(threads);
  {
    std::vector<std::jthread> running;
    for (int thread = 0; thread < threads; ++thread) {
      running.emplace_back([&, thread] {
        ready.arrive_and_wait();
        figures[static_cast<std::size_t>(thread)] = measure(thread);
      });
    }
  }
  Figures mean;
  for (const Figures& of : figures) {
    mean.ns += of.ns / threads;
    mean.allocations += of.allocations / threads;
  }
  return mean;
}

void Expect(bool as_it_should_be, const char* what) {
  if (!as_it_should_be) throw std::runtime_error(std::string("not what is measured: ") + what);
}

resilience::BreakerConfig AnyBreaker() {
  return resilience::DependencyConfig::Default(resilience::Kind::kDatabase).breaker;
}

// What the breaker is told the time is: a call every microsecond, so that its window moves.
constexpr std::chrono::microseconds kBetweenCalls{1};

Figures ClosedBreaker(Breaker& breaker, int calls, Time time) {
  SteadyTime now = Clock::System().Now();
  const Measurement measurement(time);
  for (int i = 0; i < calls; ++i, now += kBetweenCalls) {
    auto permit = breaker.TryAcquire(now);
    Expect(permit.has_value(), "the breaker refused a call");
    permit->Record({}, now);
  }
  return measurement.End(calls);
}

Figures OpenBreaker(int calls) {
  Breaker breaker(AnyBreaker(), 1);
  const SteadyTime now = Clock::System().Now();
  while (breaker.state() == Breaker::State::kClosed) breaker.TryAcquire(now)->Record({.failed = true}, now);
  const Measurement measurement(Time::kCpu);
  for (int i = 0; i < calls; ++i) Expect(!breaker.TryAcquire(now), "the breaker admitted a call");
  return measurement.End(calls);
}

Figures BulkheadPlace(resilience::Bulkhead& bulkhead, int calls) {
  const Measurement measurement(Time::kCpu);
  for (int i = 0; i < calls; ++i) Expect(bulkhead.TryAcquire().has_value(), "the bulkhead was full");
  return measurement.End(calls);
}

// Five calls pay for one retry.
Figures Budget(int calls) {
  resilience::RetryBudget budget(0.2);
  const Measurement measurement(Time::kCpu);
  for (int i = 0; i < calls; ++i) {
    budget.Deposit();
    (void)budget.TryWithdraw();
  }
  return measurement.End(calls);
}

// The work: a coroutine that succeeds at once.
Task<int> Answer(Call& call) {
  if (auto live = call.Check(); !live) co_return std::move(live).error();
  co_return 42;
}

using Caller = std::function<Task<int>(Call&)>;

// `one` is called by a coroutine on one of the runtime's threads, as every handler of Nova is.
Figures Calls(runtime::Runtime& runtime, int calls, const Caller& one, Time time) {
  const auto figures = runtime.RunBlocking<Figures>(std::chrono::hours(1), [&](Call& call) -> Task<Figures> {
    for (int i = 0; i < 10; ++i) (void)co_await one(call);  // what is allocated once has been
    const Measurement measurement(time);
    for (int i = 0; i < calls; ++i) {
      const auto answer = co_await one(call);
      Expect(answer.ok() && *answer == 42, "the call failed");
    }
    co_return measurement.End(calls);
  });
  if (!figures) throw std::runtime_error(figures.error().ToString());
  return *figures;
}

struct Case {
  const char* name;
  const char* title;
  // Nothing: no promise, for information.
  double ns_max = 0;
  bool allocates = true;
  std::function<Figures()> run;
  std::vector<Figures> rounds = {};
};

double Least(const std::vector<Figures>& rounds) { return std::ranges::min(rounds, {}, &Figures::ns).ns; }

double Median(std::vector<Figures> rounds, double Figures::* field) {
  std::ranges::sort(rounds, {}, field);
  return rounds[rounds.size() / 2].*field;
}

void Print(const std::vector<Case>& cases, const Options& options) {
  std::printf("%d interleaved rounds of %d calls; ns of CPU (two threads: ns elapsed) and allocations per call\n\n",
              options.rounds, options.calls);
  std::printf("%-52s %8s %8s %12s   %s\n", "", "min", "median", "allocations", "promised");
  boost::json::array json;
  for (const Case& each : cases) {
    const double least = Least(each.rounds);
    const double median = Median(each.rounds, &Figures::ns);
    const double allocations = Median(each.rounds, &Figures::allocations);
    std::string promised;
    if (each.ns_max > 0) promised = "at most " + std::to_string(static_cast<int>(each.ns_max)) + " ns";
    if (!each.allocates) promised += ", no allocation";
    std::printf("%-52s %8.1f %8.1f %12.2f   %s\n", each.title, least, median, allocations, promised.c_str());
    boost::json::object figures{
        {"case", each.name}, {"ns_min", least}, {"ns_median", median}, {"allocations", allocations}};
    if (each.ns_max > 0) figures["ns_promised"] = each.ns_max;
    json.push_back(std::move(figures));
  }
  if (options.json) std::printf("%s\n", boost::json::serialize(json).c_str());
}

void Run(const Options& options) {
  const int calls = options.calls;
  runtime::Runtime runtime({.threads = 1});
  telemetry::Metrics metrics;
  resilience::DatabaseDependency database("database", metrics);
  Breaker breaker(AnyBreaker(), 1);
  resilience::Bulkhead bulkhead(64, metrics.Gauge("in_use", "of the benchmark"),
                                metrics.Gauge("orphaned", "of the benchmark"));

  const Caller bare = [](Call& call) { return Answer(call); };
  const Caller guarded = [&](Call& call) { return resilience::WithDbTimeout(call, database, Answer); };

  std::vector<Case> cases;
  cases.push_back({.name = "breaker_closed",
                   .title = "closed breaker: a call admitted, its verdict counted",
                   .ns_max = 60,
                   .allocates = false,
                   .run = [&] { return ClosedBreaker(breaker, calls, Time::kCpu); }});
  cases.push_back(
      {.name = "breaker_open", .title = "open breaker: a call refused", .ns_max = 100, .allocates = false, .run = [&] {
         return OpenBreaker(calls);
       }});
  cases.push_back({.name = "bulkhead", .title = "bulkhead: a place taken and given back", .run = [&] {
                     return BulkheadPlace(bulkhead, calls);
                   }});
  cases.push_back({.name = "retry_budget", .title = "retry budget: one deposit, one attempt to withdraw", .run = [&] {
                     return Budget(calls);
                   }});
  const std::size_t bare_at = cases.size();
  cases.push_back({.name = "coroutine", .title = "a bare coroutine", .run = [&] {
                     return Calls(runtime, calls, bare, Time::kCpu);
                   }});
  const std::size_t guarded_at = cases.size();
  cases.push_back({.name = "protected", .title = "the same, protected", .run = [&] {
                     return Calls(runtime, calls, guarded, Time::kCpu);
                   }});
  cases.push_back(
      {.name = "pipeline", .title = "the pipeline: what that adds", .ns_max = 300, .allocates = false, .run = [&] {
         const Figures with = cases[guarded_at].rounds.back();
         const Figures without = cases[bare_at].rounds.back();
         return Figures{.ns = with.ns - without.ns, .allocations = with.allocations - without.allocations};
       }});
  cases.push_back({.name = "breaker_closed_two_threads", .title = "closed breaker, two threads on one", .run = [&] {
                     return MeasureContended(2, [&](int) { return ClosedBreaker(breaker, calls, Time::kElapsed); });
                   }});
  std::array<runtime::Runtime, 2> runtimes{runtime::Runtime({.threads = 1}), runtime::Runtime({.threads = 1})};
  cases.push_back(
      {.name = "protected_two_threads", .title = "a protected coroutine, two threads on one dependency", .run = [&] {
         return MeasureContended(2, [&](int thread) {
           return Calls(runtimes[static_cast<std::size_t>(thread)], calls, guarded, Time::kElapsed);
         });
       }});

  for (int round = -1; round < options.rounds; ++round) {
    for (Case& each : cases) {
      each.rounds.push_back(each.run());
    }
    if (round < 0) {
      for (Case& each : cases) each.rounds.clear();  // the first round warms up
    }
  }
  Print(cases, options);
}

}  // namespace
}  // namespace nova::bench

int main(int argc, char** argv) {
  nova::bench::Options options;
  // Settings of the product are no business of a benchmark.
  nova::config::Config config({.args = {argv + 1, argv + argc}, .environment = {}});
  config.Field("bench.rounds", options.rounds, {.help = "rounds counted", .flag = "rounds", .min = 1, .max = 1'000});
  config.Field("bench.calls", options.calls, {.help = "calls per case and round", .flag = "calls", .min = 100});
  config.Field("bench.json", options.json, {.help = "print the figures as JSON, last", .flag = "json"});
  if (config.help_requested()) {
    std::fputs(config.Help("./dev bench resilience", "What protecting a call to a dependency costs.").c_str(), stdout);
    return 0;
  }
  if (const auto finished = config.Finish(); !finished) {
    std::fprintf(stderr, "bench_resilience: %s\n", finished.error().message().c_str());
    return 2;
  }
  try {
    nova::bench::Run(options);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_resilience: %s\n", error.what());
    return 1;
  }
}
