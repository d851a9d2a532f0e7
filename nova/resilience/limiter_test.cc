#include "nova/resilience/limiter.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <gtest/gtest.h>
#include <queue>
#include <random>
#include <thread>
#include <vector>

#include "tests/seed.h"

namespace nova::resilience {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr std::array kPriorities = {Priority::kCritical, Priority::kHigh, Priority::kNormal, Priority::kLow};

LimiterConfig Limits(int initial, int min, int max) {
  LimiterConfig config;
  config.initial = initial;
  config.min = min;
  config.max = max;
  config.burst = milliseconds(0);
  return config;
}

// A kind of call: it waits for something that has room for all (a database, a peer), then needs one of the server's
// cores, for which it queues.
struct Kind {
  double per_second = 0;
  Duration wait{};
  Duration work{};
  Priority priority = Priority::kNormal;
};

struct Seen {
  int offered = 0;
  int done = 0;
  int shed = 0;
  std::array<int, kPriorityCount + 1> offered_by{};
  std::array<int, kPriorityCount + 1> shed_by{};
  std::vector<double> milliseconds;
  int limit_min = 1'000'000;
  int limit_max = 0;

  double ShedShare(Priority priority) const {
    const auto by = static_cast<std::size_t>(priority);
    return static_cast<double>(shed_by[by]) / offered_by[by];
  }
  double Percentile(double share) {
    if (milliseconds.empty()) return 0;
    const auto at =
        milliseconds.begin() + static_cast<std::ptrdiff_t>(share * static_cast<double>(milliseconds.size() - 1));
    std::nth_element(milliseconds.begin(), at, milliseconds.end());
    return *at;
  }
};

// A server under open-loop load, as a simulation: calls come at random, whatever became of those before.
class Simulation {
 public:
  Simulation(LimiterConfig config, int cores, unsigned seed) : limiter_(config, 8), random_(seed), cores_(cores) {}

  Seen Run(Duration length, const std::vector<Kind>& kinds) {
    Seen seen;
    const SteadyTime end = now_ + length;
    for (std::size_t i = 0; i < kinds.size(); ++i) {
      if (kinds[i].per_second > 0) Schedule(now_ + Pause(kinds[i]), Event::kArrival, {.method = i});
    }
    while (!events_.empty() && events_.top().at < end) {
      const Event event = events_.top();
      events_.pop();
      now_ = event.at;
      switch (event.what) {
        case Event::kArrival:
          Arrive(event.call.method, kinds[event.call.method], seen);
          break;
        case Event::kReady:
          Work(event.call);
          break;
        case Event::kDone:
          ++seen.done;
          seen.milliseconds.push_back(std::chrono::duration<double, std::milli>(now_ - event.call.arrival).count());
          limiter_.Release({.method = event.call.method,
                            .in_flight = event.call.in_flight,
                            .arrival = event.call.arrival,
                            .success = true},
                           now_);
          break;
      }
      seen.limit_min = std::min(seen.limit_min, limiter_.limit());
      seen.limit_max = std::max(seen.limit_max, limiter_.limit());
    }
    // The next load has arrivals of its own.
    std::vector<Event> kept;
    for (; !events_.empty(); events_.pop()) {
      if (events_.top().what != Event::kArrival) kept.push_back(events_.top());
    }
    for (const Event& event : kept) events_.push(event);
    now_ = end;
    return seen;
  }

  Limiter& limiter() { return limiter_; }

 private:
  struct Call {
    std::size_t method = 0;
    int in_flight = 0;
    SteadyTime arrival = {};
    Duration work = {};
  };
  struct Event {
    enum What : std::uint8_t { kArrival, kReady, kDone } what;
    SteadyTime at;
    std::uint64_t order;
    Call call;
    bool operator<(const Event& other) const { return at != other.at ? at > other.at : order > other.order; }
  };

  void Schedule(SteadyTime at, Event::What what, Call call) {
    events_.push({.what = what, .at = at, .order = order_++, .call = call});
  }
  Duration Pause(const Kind& kind) {
    return std::chrono::duration_cast<Duration>(
        std::chrono::duration<double>(std::exponential_distribution<double>(kind.per_second)(random_)));
  }
  void Arrive(std::size_t method, const Kind& kind, Seen& seen) {
    Schedule(now_ + Pause(kind), Event::kArrival, {.method = method});
    const auto by = static_cast<std::size_t>(kind.priority);
    ++seen.offered;
    ++seen.offered_by[by];
    const int in_flight = limiter_.TryAcquire(kind.priority, now_);
    if (in_flight == 0) {
      ++seen.shed;
      ++seen.shed_by[by];
      return;
    }
    Schedule(now_ + kind.wait, Event::kReady,
             {.method = method, .in_flight = in_flight, .arrival = now_, .work = kind.work});
  }
  void Work(const Call& call) {
    // First come, first served: the core that is free first takes it.
    auto& core = *std::ranges::min_element(cores_);
    core = std::max(core, now_) + call.work;
    Schedule(core, Event::kDone, call);
  }

  Limiter limiter_;
  std::mt19937 random_;
  std::vector<SteadyTime> cores_;
  SteadyTime now_ = SteadyTime(seconds(1'000));
  std::uint64_t order_ = 0;
  std::priority_queue<Event> events_;
};

class LimiterTest : public ::testing::Test {
 protected:
  const unsigned seed_ = tests::TestSeed();
};

// 1 ms of waiting and 1 ms of work on one core: 1000 a second, 2 ms each.
Kind OneCore(double per_second) { return {.per_second = per_second, .wait = milliseconds(1), .work = milliseconds(1)}; }

TEST_F(LimiterTest, UnderTwiceTheCapacityGoodputAndLatencyHold) {
  Simulation server({}, 1, seed_);
  Seen unloaded = server.Run(seconds(10), {OneCore(250)});
  EXPECT_EQ(unloaded.shed, 0);
  (void)server.Run(seconds(2), {OneCore(2'000)});
  Seen overloaded = server.Run(seconds(20), {OneCore(2'000)});
  EXPECT_GE(overloaded.done, 20 * 900);
  EXPECT_LE(overloaded.Percentile(0.99), 3 * unloaded.Percentile(0.99));
  EXPECT_NEAR(overloaded.shed, overloaded.offered - overloaded.done, 1'100);
}

TEST_F(LimiterTest, TheLimitFallsWithinASecondOfOverload) {
  Simulation server({}, 1, seed_);
  (void)server.Run(seconds(5), {OneCore(500)});
  EXPECT_EQ(server.limiter().limit(), LimiterConfig().initial);
  (void)server.Run(seconds(2), {OneCore(2'000)});
  EXPECT_LE(server.limiter().limit(), 12);
}

TEST_F(LimiterTest, HoursOfOverloadDoNotWearTheBaselineOut) {
  Simulation server({}, 1, seed_);
  (void)server.Run(seconds(5), {OneCore(500)});
  (void)server.Run(seconds(3'600), {OneCore(2'000)});
  Seen overloaded = server.Run(seconds(20), {OneCore(2'000)});
  EXPECT_GE(overloaded.done, 20 * 900);
  EXPECT_LE(overloaded.Percentile(0.99), 15);
}

TEST_F(LimiterTest, AServerBornIntoOverloadFindsItsLimit) {
  Simulation server({}, 1, seed_);
  (void)server.Run(seconds(10), {OneCore(2'000)});
  Seen overloaded = server.Run(seconds(10), {OneCore(2'000)});
  EXPECT_GE(overloaded.done, 10 * 900);
  EXPECT_LE(overloaded.Percentile(0.99), 15);
}

TEST_F(LimiterTest, ManyCoresAreAllUsed) {
  Simulation server({}, 16, seed_);
  const auto load = [](double share) {
    return Kind{.per_second = share * 16 * 200, .wait = milliseconds(5), .work = milliseconds(5)};
  };
  Seen unloaded = server.Run(seconds(5), {load(0.25)});
  (void)server.Run(seconds(5), {load(2)});
  Seen overloaded = server.Run(seconds(10), {load(2)});
  EXPECT_GE(overloaded.done, 10 * 16 * 200 * 0.9);
  EXPECT_LE(overloaded.Percentile(0.99), 3 * unloaded.Percentile(0.99));
}

TEST_F(LimiterTest, ItRecoversWithoutStarvingAndGrowsOnlyAsFarAsItIsUsed) {
  Simulation server({}, 1, seed_);
  (void)server.Run(seconds(5), {OneCore(500)});
  (void)server.Run(seconds(10), {OneCore(3'000)});
  const int cut = server.limiter().limit();
  // Back to normal: hardly anything is refused.
  const Seen after = server.Run(seconds(10), {OneCore(500)});
  EXPECT_LE(after.shed, after.offered / 100);
  // Now another method, which only waits, needs a hundred places.
  const Kind waits{.per_second = 2'000, .wait = milliseconds(50)};
  (void)server.Run(seconds(5), {OneCore(0), waits});
  EXPECT_GT(server.limiter().limit(), 100);
  EXPECT_GT(server.limiter().limit(), 5 * cut);
  const Seen grown = server.Run(seconds(5), {OneCore(0), waits});
  EXPECT_EQ(grown.shed, 0);
  EXPECT_LE(grown.limit_max, 250);
}

TEST_F(LimiterTest, ALimitThatIsNotUsedDoesNotGrow) {
  Simulation server({}, 1, seed_);
  const Seen seen = server.Run(seconds(60), {OneCore(600)});
  EXPECT_EQ(seen.shed, 0);
  EXPECT_EQ(seen.limit_max, LimiterConfig().initial);
}

TEST_F(LimiterTest, FloorAndCeilingHold) {
  // Twenty times what one core can do.
  Simulation slow(Limits(100, 10, 200), 1, seed_);
  (void)slow.Run(seconds(2), {OneCore(100)});
  const Seen overloaded = slow.Run(seconds(10), {OneCore(20'000)});
  EXPECT_EQ(overloaded.limit_min, 10);
  EXPECT_GE(overloaded.done, 10 * 900);

  Simulation fast(Limits(100, 10, 200), 1, seed_);
  const Seen used = fast.Run(seconds(10), {{.per_second = 10'000, .wait = milliseconds(50)}});
  EXPECT_EQ(used.limit_max, 200);
  EXPECT_EQ(fast.limiter().limit(), 200);
}

TEST_F(LimiterTest, AChangeOfMixIsNoOverload) {
  Simulation server({}, 4, seed_);
  const auto mix = [](double fast, double slow) {
    return std::vector<Kind>{{.per_second = fast, .wait = microseconds(500), .work = microseconds(100)},
                             {.per_second = slow, .wait = milliseconds(200), .work = microseconds(100)}};
  };
  Seen seen = server.Run(seconds(20), mix(5'000, 20));
  EXPECT_EQ(seen.shed, 0);
  EXPECT_GE(seen.limit_min, LimiterConfig().initial);
  seen = server.Run(seconds(20), mix(100, 250));
  EXPECT_EQ(seen.shed, 0);
  EXPECT_GE(seen.limit_min, LimiterConfig().initial);
  seen = server.Run(seconds(20), mix(5'000, 20));
  EXPECT_EQ(seen.shed, 0);
  EXPECT_GE(seen.limit_min, LimiterConfig().initial);
}

TEST_F(LimiterTest, OneMethodThatHangsOnSomethingDoesNotShedTheOthers) {
  Simulation server({}, 4, seed_);
  const auto load = [](milliseconds hanging) {
    return std::vector<Kind>{{.per_second = 900, .wait = milliseconds(5)}, {.per_second = 100, .wait = hanging}};
  };
  (void)server.Run(seconds(20), load(milliseconds(5)));
  // Half a second is longer than a window of measurement, 60 ms are not.
  for (const milliseconds hanging : {milliseconds(60), milliseconds(500)}) {
    const Seen seen = server.Run(seconds(20), load(hanging));
    EXPECT_EQ(seen.shed, 0);
    EXPECT_GE(seen.limit_min, 100);
  }
}

TEST_F(LimiterTest, WhenADependencyBecomesSlowerTheLimitComesBackByItself) {
  Simulation server({}, 4, seed_);
  const auto load = [](milliseconds wait) {
    return std::vector<Kind>{{.per_second = 1'000, .wait = wait, .work = microseconds(100)}};
  };
  (void)server.Run(seconds(20), load(milliseconds(10)));
  // From 10 calls in flight to 60, none of which waits for another.
  const Seen change = server.Run(seconds(5), load(milliseconds(60)));
  EXPECT_LE(change.shed, change.offered / 5);
  const Seen after = server.Run(seconds(10), load(milliseconds(60)));
  EXPECT_EQ(after.shed, 0);
  EXPECT_GE(server.limiter().limit(), LimiterConfig().initial);
  // And when it is fast again, the baseline is too.
  (void)server.Run(seconds(20), load(milliseconds(10)));
  EXPECT_NEAR(server.limiter().baseline(0), 0.010, 0.002);
}

TEST_F(LimiterTest, OnlySuccessesAreMeasured) {
  Limiter limiter({}, 1);
  SteadyTime now(seconds(1'000));
  const auto run = [&](Duration took, bool success, int calls) {
    for (int i = 0; i < calls; ++i) {
      const SteadyTime arrival = now;
      std::vector<int> in_flight;
      for (int j = 0; j < 50; ++j) in_flight.push_back(limiter.TryAcquire(Priority::kNormal, SteadyTime()));
      now += took;
      for (const int n : in_flight)
        limiter.Release({.method = 0, .in_flight = n, .arrival = arrival, .success = success}, now);
    }
  };
  run(milliseconds(1), true, 200);
  const double baseline = limiter.baseline(0);
  run(seconds(10), false, 10);
  EXPECT_EQ(limiter.limit(), LimiterConfig().initial);
  run(microseconds(1), false, 200);
  EXPECT_EQ(limiter.baseline(0), baseline);
  run(seconds(1), true, 2);
  EXPECT_LT(limiter.limit(), LimiterConfig().initial);
}

TEST_F(LimiterTest, TheLeastImportantIsShedFirst) {
  for (const int limit : {4, 5, 6, 7, 8, 10, 64, 1'024}) {
    Limiter limiter(Limits(limit, limit, limit), 1);
    int low = 0, normal = 0, high = 0, critical = 0;
    while (limiter.TryAcquire(Priority::kLow, SteadyTime()) != 0) ++low;
    while (limiter.TryAcquire(Priority::kNormal, SteadyTime()) != 0) ++normal;
    while (limiter.TryAcquire(Priority::kHigh, SteadyTime()) != 0) ++high;
    while (limiter.TryAcquire(Priority::kCritical, SteadyTime()) != 0) ++critical;
    EXPECT_GE(low, limit / 2);
    EXPECT_GE(normal, 1);
    EXPECT_GE(high, 1);
    EXPECT_GE(critical, 2);
    EXPECT_EQ(low + normal + high, limit);
    EXPECT_LE(critical, std::max(2, limit / 4));
    EXPECT_EQ(limiter.in_flight(), limiter.Allowed(Priority::kCritical));
  }
}

TEST_F(LimiterTest, UnderOverloadThePriorityDecidesWhoIsServed) {
  Simulation server({}, 1, seed_);
  const auto kind = [](double per_second, Priority priority) {
    return Kind{.per_second = per_second, .wait = milliseconds(1), .work = milliseconds(1), .priority = priority};
  };
  (void)server.Run(seconds(5), {kind(500, Priority::kNormal)});
  // Three times what there is room for; what matters would fit.
  const std::vector<Kind> load = {kind(1'500, Priority::kLow), kind(1'000, Priority::kNormal),
                                  kind(250, Priority::kHigh), kind(250, Priority::kCritical)};
  (void)server.Run(seconds(3), load);
  const Seen seen = server.Run(seconds(20), load);
  const auto shed = [&](Priority priority) { return seen.ShedShare(priority); };
  EXPECT_LT(shed(Priority::kCritical), 0.01);
  EXPECT_LT(shed(Priority::kHigh), 0.15);
  EXPECT_GT(shed(Priority::kNormal), 2 * shed(Priority::kHigh));
  EXPECT_GT(shed(Priority::kLow), shed(Priority::kNormal) + 0.2);
}

TEST_F(LimiterTest, PlacesTakenAreGivenBackUnderRandomSchedules) {
  std::mt19937 random(seed_);
  for (int schedule = 0; schedule < 300; ++schedule) {
    const int min = std::uniform_int_distribution(4, 20)(random);
    const int max = std::uniform_int_distribution(min, 200)(random);
    Limiter limiter(Limits(std::uniform_int_distribution(min, max)(random), min, max), 3);
    SteadyTime now(seconds(1'000));
    std::vector<Limiter::Ended> open;
    for (int step = 0; step < 2'000; ++step) {
      now += microseconds(std::uniform_int_distribution(0, 5'000)(random));
      if (random() % 2 == 0) {
        const Priority priority = kPriorities[random() % 4];
        const int allowed = limiter.Allowed(priority);
        const int in_flight = limiter.TryAcquire(priority, SteadyTime());
        ASSERT_EQ(in_flight > 0, static_cast<int>(open.size()) < allowed);
        if (in_flight == 0) continue;
        open.push_back({.method = random() % 3, .in_flight = in_flight, .arrival = now, .success = random() % 4 != 0});
        ASSERT_EQ(in_flight, static_cast<int>(open.size()));
      } else if (!open.empty()) {
        std::swap(open[random() % open.size()], open.back());
        limiter.Release(open.back(), now);
        open.pop_back();
      }
      ASSERT_EQ(limiter.in_flight(), static_cast<int>(open.size()));
      ASSERT_GE(limiter.limit(), min);
      ASSERT_LE(limiter.limit(), max);
    }
    for (const auto& ended : open) limiter.Release(ended, now);
    ASSERT_EQ(limiter.in_flight(), 0);
  }
}

// More than the limit for a moment is a burst, for longer it is overload; and while calls are refused there is no
// burst.
TEST_F(LimiterTest, ABurstIsLetInAndOverloadIsNot) {
  LimiterConfig config = Limits(10, 10, 10);
  config.burst = milliseconds(50);
  Limiter limiter(config, 1);
  SteadyTime now(seconds(1'000));
  std::vector<Limiter::Ended> open;
  const auto acquire = [&] {
    const int in_flight = limiter.TryAcquire(Priority::kHigh, now);
    if (in_flight > 0) open.push_back({.method = 0, .in_flight = in_flight, .arrival = now, .success = true});
    return in_flight > 0;
  };
  const auto release_all = [&] {
    for (const auto& ended : open) limiter.Release(ended, now);
    open.clear();
  };
  for (int i = 0; i < 20; ++i) EXPECT_TRUE(acquire()) << i;
  EXPECT_FALSE(acquire()) << "twice the initial limit is the most";
  release_all();
  EXPECT_TRUE(acquire());

  // That refusal ends the indulgence for a while.
  for (int i = 1; i < 10; ++i) EXPECT_TRUE(acquire());
  EXPECT_FALSE(acquire());
  now += milliseconds(999);
  EXPECT_FALSE(acquire());
  now += milliseconds(1'000);
  EXPECT_TRUE(acquire());

  // Over the limit for longer than a burst lasts.
  now += milliseconds(49);
  EXPECT_TRUE(acquire());
  now += milliseconds(1);
  EXPECT_FALSE(acquire());
  release_all();

  // The next burst has its own time, when the server was half idle in between.
  now += seconds(10);
  for (int i = 0; i < 15; ++i) EXPECT_TRUE(acquire()) << i;
  release_all();
  now += milliseconds(60);
  for (int i = 0; i < 15; ++i) EXPECT_TRUE(acquire()) << i;

  // Or, if it stays busier than that, a second later.
  const auto release_to = [&](std::size_t left) {
    for (; open.size() > left; open.pop_back()) limiter.Release(open.back(), now);
  };
  release_to(8);
  now += milliseconds(1'049);
  EXPECT_TRUE(acquire());
  EXPECT_TRUE(acquire());
  EXPECT_FALSE(acquire());
  now += milliseconds(1'049);
  for (int i = 10; i < 15; ++i) EXPECT_TRUE(acquire()) << i;
  release_all();
}

TEST_F(LimiterTest, ThreadsNeverTakeMoreThanIsAllowed) {
  Limiter limiter(Limits(8, 8, 8), 2);
  std::atomic<int> inside = 0;
  std::atomic<int> most = 0;
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(seed_ + t);
      for (int i = 0; i < 20'000; ++i) {
        const Priority priority = kPriorities[random() % 4];
        const SteadyTime arrival = Clock::System().Now();
        const int in_flight = limiter.TryAcquire(priority, SteadyTime());
        if (in_flight == 0) continue;
        const int now = inside.fetch_add(1) + 1;
        for (int seen = most.load(); now > seen && !most.compare_exchange_weak(seen, now);) {
        }
        if (random() % 8 == 0) std::this_thread::yield();
        inside.fetch_sub(1);
        limiter.Release({.method = random() % 2, .in_flight = in_flight, .arrival = arrival, .success = true},
                        Clock::System().Now());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(limiter.in_flight(), 0);
  EXPECT_LE(most.load(), limiter.Allowed(Priority::kCritical));
}

TEST_F(LimiterTest, PushBackIsSpreadByAQuarter) {
  Limiter limiter({}, 1);
  std::vector<std::int64_t> waits;
  for (int i = 0; i < 1'000; ++i) waits.push_back(limiter.PushBack().count());
  std::ranges::sort(waits);
  EXPECT_GE(waits.front(), 75);
  EXPECT_LE(waits.front(), 77);
  EXPECT_NEAR(static_cast<double>(waits[500]), 100, 4);
  EXPECT_GE(waits.back(), 124);
  EXPECT_LE(waits.back(), 126);
}

TEST(LimiterConfigTest, BoundsThatContradictEachOtherAreRefused) {
  EXPECT_TRUE(Validate(LimiterConfig()).ok());
  EXPECT_TRUE(Validate(Limits(4, 4, 4)).ok());
  for (const auto& [config, setting] :
       {std::pair(Limits(64, 65, 64), "NOVA_OVERLOAD_MIN"), std::pair(Limits(3, 4, 64), "NOVA_OVERLOAD_INITIAL"),
        std::pair(Limits(65, 4, 64), "NOVA_OVERLOAD_INITIAL")}) {
    const auto valid = Validate(config);
    ASSERT_FALSE(valid.ok());
    EXPECT_EQ(valid.error().code(), Code::kInvalidArgument);
    EXPECT_NE(valid.error().message().find(setting), std::string::npos) << valid.error().message();
  }
}

TEST(LimiterConfigTest, SettingsBearTheNameOverload) {
  config::Config config({.args = {"--overload-initial", "10", "--overload-slack", "7ms"},
                         .environment = {{"NOVA_OVERLOAD_MAX", "20"}, {"NOVA_OVERLOAD_TOLERANCE", "2.5"}}});
  LimiterConfig limiter;
  Bind(config, limiter);
  const auto finished = config.Finish();
  ASSERT_TRUE(finished.ok()) << finished.error().ToString();
  EXPECT_EQ(limiter.initial, 10);
  EXPECT_EQ(limiter.max, 20);
  EXPECT_EQ(limiter.slack, milliseconds(7));
  EXPECT_EQ(limiter.tolerance, 2.5);
}

}  // namespace
}  // namespace nova::resilience
