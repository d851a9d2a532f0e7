#include "nova/resilience/breaker.h"

#include <algorithm>
#include <atomic>
#include <deque>
#include <gtest/gtest.h>
#include <random>
#include <thread>
#include <vector>

#include "tests/seed.h"

namespace nova::resilience {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using std::chrono::seconds;
using State = Breaker::State;
using Permit = Breaker::Permit;
using Verdict = Breaker::Verdict;

constexpr Verdict kGood{};
constexpr Verdict kFailed{.failed = true};
constexpr Verdict kSlow{.slow = true};

// Any moment but a special one.
constexpr SteadyTime kStart{seconds(1'000'000) + nanoseconds(123'456'789)};

BreakerConfig CountWindow() { return {.window = BreakerConfig::Window::kCount, .window_calls = 10, .calls_min = 4}; }
BreakerConfig TimeWindow() {
  return {.window = BreakerConfig::Window::kTime, .window_time = seconds(10), .calls_min = 4};
}

// A breaker, what time it is, and what it published.
class BreakerTest : public ::testing::Test {
 protected:
  void Make(const BreakerConfig& config, std::uint64_t seed = 1) {
    config_ = config;
    breaker_.emplace(config, seed, [this](State from, State to) { transitions_.emplace_back(from, to); });
  }
  Breaker& breaker() { return *breaker_; }
  std::optional<Permit> TryAcquire() { return breaker_->TryAcquire(now_); }
  void Pass(Duration time) { now_ += time; }

  // Makes as many calls; each must be admitted.
  void Calls(int count, Verdict verdict) {
    for (int i = 0; i < count; ++i) {
      auto permit = TryAcquire();
      ASSERT_TRUE(permit) << "call " << i;
      permit->Record(verdict, now_);
    }
  }
  void Open() {
    for (int i = 0; i < config_.window_calls && breaker_->state() == State::kClosed; ++i) Calls(1, kFailed);
    ASSERT_EQ(breaker_->state(), State::kOpen);
  }
  // Until it is due to be probed, whatever the jitter.
  void PassOpenTime() { Pass(config_.open_time + config_.open_time / 5); }

  BreakerConfig config_;
  std::vector<std::pair<State, State>> transitions_;
  std::optional<Breaker> breaker_;
  SteadyTime now_ = kStart;
};

TEST_F(BreakerTest, IsClosedAtFirstAndStaysSoWhileCallsSucceed) {
  Make(CountWindow());
  Calls(100, kGood);
  EXPECT_EQ(breaker().state(), State::kClosed);
  EXPECT_EQ(breaker().RetryAfter(now_), Duration::zero());
  EXPECT_TRUE(transitions_.empty());
}

TEST_F(BreakerTest, OpensAtTheShareOfFailuresAndNotBefore) {
  Make(CountWindow());
  Calls(6, kGood);
  Calls(4, kFailed);  // 4 of 10
  EXPECT_EQ(breaker().state(), State::kClosed);
  Calls(1, kFailed);  // 5 of the last 10: a success fell out
  EXPECT_EQ(breaker().state(), State::kOpen);
  EXPECT_FALSE(TryAcquire());
}

TEST_F(BreakerTest, OpensAtTheShareOfSlowCalls) {
  Make(CountWindow());
  Calls(2, kGood);
  Calls(7, kSlow);  // 7 of 9
  EXPECT_EQ(breaker().state(), State::kClosed);
  Calls(1, kSlow);  // 8 of 10
  EXPECT_EQ(breaker().state(), State::kOpen);
}

TEST_F(BreakerTest, ARatioOfOneNeedsAllCallsToBeSlow) {
  auto config = CountWindow();
  config.slow_ratio = 1;
  Make(config);
  Calls(1, kGood);
  Calls(9, kSlow);
  EXPECT_EQ(breaker().state(), State::kClosed);
  Calls(1, kSlow);
  EXPECT_EQ(breaker().state(), State::kOpen);
}

TEST_F(BreakerTest, AShareThatIsReachedExactlyCountsAsReached) {
  // As a product, 0.55 * 100 is more than 55.
  Make({.window = BreakerConfig::Window::kCount, .window_calls = 100, .calls_min = 100, .failure_ratio = 0.55});
  Calls(45, kGood);
  Calls(55, kFailed);
  EXPECT_EQ(breaker().state(), State::kOpen);
}

TEST_F(BreakerTest, DecidesNothingWithFewerCallsThanTheMinimum) {
  Make(TimeWindow());
  Calls(3, kFailed);
  EXPECT_EQ(breaker().state(), State::kClosed);
  // The minimum counts calls, not failures: whatever call completes it, the share decides.
  Calls(1, kGood);
  EXPECT_EQ(breaker().state(), State::kOpen);
}

TEST_F(BreakerTest, ACountWindowForgetsNothingByTime) {
  Make(CountWindow());
  Calls(3, kFailed);
  Pass(hours(1'000));
  Calls(1, kFailed);
  EXPECT_EQ(breaker().state(), State::kOpen);
}

TEST_F(BreakerTest, ATimeWindowForgetsWhatIsOlderThanItself) {
  Make(TimeWindow());
  Calls(3, kFailed);
  Pass(seconds(10));
  Calls(3, kFailed);
  EXPECT_EQ(breaker().state(), State::kClosed);
  Pass(seconds(8));
  Calls(1, kFailed);
  EXPECT_EQ(breaker().state(), State::kOpen);
}

TEST_F(BreakerTest, ATimeWindowForgetsStretchByStretch) {
  Make(TimeWindow());
  Calls(2, kFailed);
  Pass(seconds(5));
  Calls(1, kFailed);
  Pass(seconds(6));  // the first two are gone, the third is not
  Calls(2, kGood);
  EXPECT_EQ(breaker().state(), State::kClosed);  // 1 of 3
  Calls(1, kFailed);                             // 2 of 4
  EXPECT_EQ(breaker().state(), State::kOpen);
}

TEST_F(BreakerTest, AVerdictFromALateClockStillCounts) {
  Make(TimeWindow());
  Calls(3, kFailed);
  auto late = TryAcquire();
  // Another thread came first to the lock, with a later time.
  late->Record(kFailed, now_ - seconds(3));
  EXPECT_EQ(breaker().state(), State::kOpen);
}

TEST_F(BreakerTest, VerdictsOfAnEarlierEpochCountForNothing) {
  Make(CountWindow());
  std::vector<Permit> old;
  for (int i = 0; i < 20; ++i) old.push_back(*TryAcquire());
  Open();
  // While it is open,
  for (int i = 0; i < 5; ++i) old[static_cast<std::size_t>(i)].Record(kGood, now_);
  EXPECT_EQ(breaker().state(), State::kOpen);
  PassOpenTime();
  auto probe = TryAcquire();
  ASSERT_TRUE(probe && probe->is_probe());
  // half-open,
  for (int i = 5; i < 10; ++i) old[static_cast<std::size_t>(i)].Record(i % 2 == 0 ? kGood : kFailed, now_);
  EXPECT_EQ(breaker().state(), State::kHalfOpen);
  probe->Record(kGood, now_);
  Calls(config_.probes - 1, kGood);
  ASSERT_EQ(breaker().state(), State::kClosed);
  // and closed again.
  for (int i = 10; i < 20; ++i) old[static_cast<std::size_t>(i)].Record(kFailed, now_);
  EXPECT_EQ(breaker().state(), State::kClosed);
  // Nor did they take up room in the window.
  Calls(3, kFailed);
  EXPECT_EQ(breaker().state(), State::kClosed);
}

TEST_F(BreakerTest, ClosesWithAnEmptyWindow) {
  for (const auto& config : {CountWindow(), TimeWindow()}) {
    Make(config);
    Open();
    PassOpenTime();
    Calls(config.probes, kGood);
    ASSERT_EQ(breaker().state(), State::kClosed);
    Calls(config.calls_min - 1, kFailed);
    EXPECT_EQ(breaker().state(), State::kClosed);
    Calls(1, kFailed);
    EXPECT_EQ(breaker().state(), State::kOpen);
  }
}

TEST_F(BreakerTest, StaysOpenForOpenTimeAndAFifthMoreAtMost) {
  std::vector<Duration> open;
  for (std::uint64_t seed = 0; seed < 500; ++seed) {
    Make(CountWindow(), seed);
    Open();
    open.push_back(breaker().RetryAfter(now_));
    EXPECT_FALSE(breaker().TryAcquire(now_ + open.back() - nanoseconds(1)));
    EXPECT_EQ(breaker().RetryAfter(now_ + hours(1)), Duration::zero());
    auto probe = breaker().TryAcquire(now_ + open.back());
    EXPECT_TRUE(probe && probe->is_probe());
    EXPECT_EQ(breaker().RetryAfter(now_), Duration::zero());  // half-open
  }
  const auto [least, most] = std::ranges::minmax(open);
  EXPECT_GE(least, config_.open_time);
  EXPECT_LT(least, config_.open_time + config_.open_time / 50);
  EXPECT_GT(most, config_.open_time + config_.open_time * 9 / 50);
  EXPECT_LE(most, config_.open_time + config_.open_time / 5);
}

TEST_F(BreakerTest, HalfOpenAdmitsAsManyProbesAsConfiguredAtOnceAndInAll) {
  Make(CountWindow());
  Open();
  PassOpenTime();
  std::vector<Permit> probes;
  while (auto probe = TryAcquire()) probes.push_back(*std::move(probe));
  EXPECT_EQ(static_cast<int>(probes.size()), config_.probes);
  EXPECT_EQ(breaker().probes_in_flight(), config_.probes);
  probes.front().Record(kGood, now_);
  // One has answered: its place is not for another, for there are enough to decide.
  EXPECT_FALSE(TryAcquire());
  for (Permit& probe : probes) probe.Record(kGood, now_);
  EXPECT_EQ(breaker().state(), State::kClosed);
  EXPECT_EQ(breaker().probes_in_flight(), 0);
}

TEST_F(BreakerTest, OneProbeThatFailsOrIsSlowOpensItAgain) {
  for (const Verdict verdict : {kFailed, kSlow}) {
    Make(CountWindow());
    Open();
    PassOpenTime();
    auto first = TryAcquire();
    auto second = TryAcquire();
    first->Record(kGood, now_);
    second->Record(verdict, now_);
    EXPECT_EQ(breaker().state(), State::kOpen);
    EXPECT_GE(breaker().RetryAfter(now_), config_.open_time);
    EXPECT_FALSE(TryAcquire());
  }
}

TEST_F(BreakerTest, AProbeThatIsDroppedGivesItsPlaceBack) {
  Make(CountWindow());
  Open();
  PassOpenTime();
  for (int i = 0; i < 100; ++i) {
    auto dropped = TryAcquire();
    ASSERT_TRUE(dropped) << i;
  }
  EXPECT_EQ(breaker().state(), State::kHalfOpen);
  Calls(config_.probes, kGood);
  EXPECT_EQ(breaker().state(), State::kClosed);
}

TEST_F(BreakerTest, AProbeThatNeverAnswersHasFailedAtItsLimit) {
  Make(CountWindow());
  Open();
  PassOpenTime();
  auto stuck = TryAcquire();
  Calls(config_.probes - 1, kGood);
  Pass(config_.probe_limit - nanoseconds(1));
  EXPECT_FALSE(TryAcquire());
  EXPECT_EQ(breaker().state(), State::kHalfOpen);
  Pass(nanoseconds(1));
  EXPECT_FALSE(TryAcquire());
  EXPECT_EQ(breaker().state(), State::kOpen);
  EXPECT_EQ(breaker().probes_in_flight(), 0);
  // What it says after all is of an earlier epoch.
  PassOpenTime();
  Calls(1, kGood);
  stuck->Record(kFailed, now_);
  EXPECT_EQ(breaker().state(), State::kHalfOpen);
  Calls(config_.probes - 1, kGood);
  EXPECT_EQ(breaker().state(), State::kClosed);
}

TEST_F(BreakerTest, AProbeThatWaitsByDesignHasMoreTime) {
  Make(CountWindow());
  Open();
  PassOpenTime();
  auto patient = breaker().TryAcquire(now_, seconds(5));
  Pass(config_.probe_limit + seconds(5) - nanoseconds(1));
  patient->Record(kGood, now_);
  EXPECT_EQ(breaker().state(), State::kHalfOpen);
  patient = breaker().AcquireAlways(now_, seconds(5));
  Pass(config_.probe_limit + seconds(5));
  EXPECT_FALSE(TryAcquire());
  EXPECT_EQ(breaker().state(), State::kOpen);
}

TEST_F(BreakerTest, ProbesThatComeAndGoDoNotProlongTheLimitOfOneThatIsStuck) {
  Make(CountWindow());
  Open();
  PassOpenTime();
  const auto stuck = TryAcquire();
  const SteadyTime limit = now_ + config_.probe_limit;
  while (now_ < limit) {
    ASSERT_TRUE(TryAcquire());  // and dropped
    Pass(seconds(1));
  }
  EXPECT_FALSE(TryAcquire());
  EXPECT_EQ(breaker().state(), State::kOpen);
}

TEST_F(BreakerTest, AnAnswerAfterTheLimitIsNoSuccess) {
  auto config = CountWindow();
  config.probes = 1;
  Make(config);
  Open();
  PassOpenTime();
  auto probe = TryAcquire();
  Pass(config.probe_limit);
  probe->Record(kGood, now_);
  EXPECT_EQ(breaker().state(), State::kOpen);
}

TEST_F(BreakerTest, WhoComesLongAfterAStuckProbeMayProbeAtOnce) {
  Make(CountWindow());
  Open();
  PassOpenTime();
  const auto stuck = TryAcquire();
  Pass(hours(1));
  auto probe = TryAcquire();
  EXPECT_TRUE(probe && probe->is_probe());
  EXPECT_EQ(transitions_, (std::vector<std::pair<State, State>>{{State::kClosed, State::kOpen},
                                                                {State::kOpen, State::kHalfOpen},
                                                                {State::kHalfOpen, State::kOpen},
                                                                {State::kOpen, State::kHalfOpen}}));
}

TEST_F(BreakerTest, AProbeStillUnderWayTakesAPlaceOfTheNextHalfOpening) {
  Make(CountWindow());
  Open();
  PassOpenTime();
  std::vector<Permit> probes;
  while (auto probe = TryAcquire()) probes.push_back(*std::move(probe));
  probes.back().Record(kFailed, now_);
  probes.pop_back();
  PassOpenTime();
  // Two calls of the last time still burden the dependency.
  std::vector<Permit> next;
  while (auto probe = TryAcquire()) next.push_back(*std::move(probe));
  EXPECT_EQ(next.size(), 1U);
  EXPECT_EQ(breaker().probes_in_flight(), config_.probes);
  next.back().Record(kGood, now_);
  // Whatever they say; but their places are free.
  probes[0].Record(kFailed, now_);
  probes[1].Record(kGood, now_);
  EXPECT_EQ(breaker().state(), State::kHalfOpen);
  Calls(config_.probes - 1, kGood);
  EXPECT_EQ(breaker().state(), State::kClosed);
}

TEST_F(BreakerTest, APermitRecordsOnceAndMoves) {
  Make(CountWindow());
  auto permit = TryAcquire();
  for (int i = 0; i < 10; ++i) permit->Record(kFailed, now_);
  EXPECT_EQ(breaker().state(), State::kClosed);
  Open();
  PassOpenTime();
  Permit a = *TryAcquire();
  Permit b = std::move(a);
  EXPECT_FALSE(a.is_probe());  // NOLINT(bugprone-use-after-move)
  EXPECT_TRUE(b.is_probe());
  EXPECT_EQ(breaker().probes_in_flight(), 1);
  b = *TryAcquire();  // the first goes back
  EXPECT_EQ(breaker().probes_in_flight(), 1);
  Permit& same = b;
  b = std::move(same);
  EXPECT_TRUE(b.is_probe());
  b = Permit();
  EXPECT_EQ(breaker().probes_in_flight(), 0);
}

TEST_F(BreakerTest, AcquireAlwaysIsAProbeIfOneIsDueAndCountsForNothingElse) {
  Make(CountWindow());
  for (int i = 0; i < 3; ++i) breaker().AcquireAlways(now_).Record(kFailed, now_);
  Calls(1, kFailed);  // closed, it is a call like others
  ASSERT_EQ(breaker().state(), State::kOpen);
  auto early = breaker().AcquireAlways(now_);
  EXPECT_FALSE(early.is_probe());
  early.Record(kGood, now_);
  EXPECT_EQ(breaker().state(), State::kOpen);
  PassOpenTime();
  for (int i = 0; i < config_.probes; ++i) {
    auto probe = breaker().AcquireAlways(now_);
    EXPECT_TRUE(probe.is_probe());
    probe.Record(kGood, now_);
  }
  EXPECT_EQ(breaker().state(), State::kClosed);
}

TEST_F(BreakerTest, AcquireAlwaysBeyondTheProbesCountsForNothing) {
  Make(CountWindow());
  Open();
  PassOpenTime();
  std::vector<Permit> probes;
  while (auto probe = TryAcquire()) probes.push_back(*std::move(probe));
  auto further = breaker().AcquireAlways(now_);
  EXPECT_FALSE(further.is_probe());
  EXPECT_EQ(breaker().probes_in_flight(), config_.probes);
  further.Record(kFailed, now_);
  EXPECT_EQ(breaker().state(), State::kHalfOpen);
}

TEST_F(BreakerTest, StatesHaveNames) {
  EXPECT_STREQ(BreakerStateName(State::kClosed), "closed");
  EXPECT_STREQ(BreakerStateName(State::kHalfOpen), "half_open");
  EXPECT_STREQ(BreakerStateName(State::kOpen), "open");
}

// The window as its words say it: every verdict is kept, and the shares are counted anew each time.
class NaiveWindow {
 public:
  explicit NaiveWindow(const BreakerConfig& config) : config_(config) {}

  // True: it opens.
  bool Add(Verdict verdict, SteadyTime now) {
    const Duration stretch = Duration(config_.window_time) / 10;
    const std::int64_t at = std::max(now.time_since_epoch() / stretch, verdicts_.empty() ? 0 : verdicts_.back().first);
    verdicts_.emplace_back(at, verdict);
    if (config_.window == BreakerConfig::Window::kCount) {
      if (static_cast<int>(verdicts_.size()) > config_.window_calls) verdicts_.pop_front();
    } else {
      while (verdicts_.front().first <= at - 10) verdicts_.pop_front();
    }
    const auto calls = static_cast<double>(verdicts_.size());
    const auto failed = static_cast<double>(std::ranges::count_if(verdicts_, [](auto& v) { return v.second.failed; }));
    const auto slow = static_cast<double>(std::ranges::count_if(verdicts_, [](auto& v) { return v.second.slow; }));
    return calls >= config_.calls_min && ((failed > 0 && failed / calls >= config_.failure_ratio) ||
                                          (slow > 0 && slow / calls >= config_.slow_ratio));
  }
  void Clear() { verdicts_.clear(); }

 private:
  const BreakerConfig config_;
  std::deque<std::pair<std::int64_t, Verdict>> verdicts_;
};

// A schedule drawn at random: calls that begin, end well or badly, are dropped, or never end, in any order and while
// time passes; held against what the header promises.
class RandomSchedule {
 public:
  RandomSchedule(const BreakerConfig& config, unsigned seed)
      : random_(seed), config_(config), naive_(config), breaker_(config, seed, [this](State from, State to) {
          ASSERT_EQ(from, seen_) << "a transition was lost, or came out of order";
          ASSERT_NE(from, to);
          ASSERT_TRUE(to != State::kHalfOpen || from == State::kOpen);
          ASSERT_TRUE(to != State::kClosed || from == State::kHalfOpen);
          seen_ = to;
          ++transitions_;
          naive_.Clear();
          succeeded_ = 0;
        }) {}

  void Run(int steps) {
    for (int step = 0; step < steps && !::testing::Test::HasFailure(); ++step) {
      switch (Below(10)) {
        case 0:
        case 1:
        case 2:
        case 3:
          Begin();
          break;
        case 4:
        case 5:
        case 6:
          End();
          break;
        case 7:
          Drop();
          break;
        case 8:
          now_ += milliseconds(Below(200));
          break;
        default:
          if (Below(10) == 0) now_ += milliseconds(Below(static_cast<int>(2 * config_.probe_limit.count())));
          // The mood of the dependency: all good, all bad, or anything.
          if (Below(5) == 0) bad_of_ten_ = Below(3) * 5;
      }
      Check();
    }
    ClosesInTheEnd();
  }

 private:
  struct Going {
    Permit permit;
    std::uint64_t epoch;  // transitions before it began
    bool probe;
    SteadyTime limit;
  };

  int Below(int end) { return std::uniform_int_distribution<int>(0, end - 1)(random_); }

  void Begin() {
    const State before = breaker_.state();
    const int probes_before = LiveProbes();
    const bool always = Below(8) == 0;
    std::optional<Permit> permit;
    if (always) {
      permit = breaker_.AcquireAlways(now_);
    } else {
      permit = breaker_.TryAcquire(now_);
    }
    const State after = breaker_.state();
    if (before == State::kClosed) {
      ASSERT_TRUE(permit);
      ASSERT_FALSE(permit->is_probe());
    }
    if (after == State::kOpen && !always) {
      ASSERT_FALSE(permit);
    }
    if (permit && permit->is_probe()) {
      ASSERT_EQ(after, State::kHalfOpen);
      ASSERT_LT(probes_before, config_.probes);
    } else if (after == State::kHalfOpen && !always) {
      ASSERT_FALSE(permit);
      // It refuses only for a reason.
      ASSERT_TRUE(LiveProbes() >= config_.probes || ProbesOfThisEpoch() + succeeded_ >= config_.probes);
    }
    if (permit) {
      const bool probe = permit->is_probe();
      going_.push_back({*std::move(permit), transitions_, probe, now_ + config_.probe_limit});
      counts_for_nothing_.push_back(always && after != State::kClosed && !probe);
    }
  }

  void End() {
    if (going_.empty()) return;
    const auto at = static_cast<std::size_t>(Below(static_cast<int>(going_.size())));
    const Verdict verdict{.failed = Below(10) < bad_of_ten_, .slow = Below(20) < bad_of_ten_};
    Going ending = std::move(going_[at]);
    const bool nothing = counts_for_nothing_[at];
    Remove(at);
    const State before = breaker_.state();
    const std::uint64_t epoch = transitions_;
    const bool stale = ending.epoch != epoch || nothing;
    const bool closed_opens = before == State::kClosed && !stale && naive_.Add(verdict, now_);
    const bool late = ending.probe && AnyProbeOfThisEpochIsLate(ending);
    const int succeeded = succeeded_;
    ending.permit.Record(verdict, now_);
    if (before == State::kClosed) {
      ASSERT_EQ(breaker_.state(), closed_opens ? State::kOpen : State::kClosed);
    } else if (late) {
      ASSERT_EQ(breaker_.state(), State::kOpen);
    } else if (stale) {
      ASSERT_EQ(transitions_, epoch) << "a verdict of an earlier epoch counted";
    } else if (verdict.failed || verdict.slow) {
      ASSERT_EQ(breaker_.state(), State::kOpen);
    } else if (succeeded + 1 == config_.probes) {
      ASSERT_EQ(breaker_.state(), State::kClosed);
    } else {
      ASSERT_EQ(breaker_.state(), State::kHalfOpen);
      succeeded_ = succeeded + 1;
    }
  }

  // Cancelled, or its owner died.
  void Drop() {
    if (going_.empty()) return;
    const std::uint64_t before = transitions_;
    Remove(static_cast<std::size_t>(Below(static_cast<int>(going_.size()))));
    ASSERT_EQ(transitions_, before);
  }

  void Remove(std::size_t at) {
    going_.erase(going_.begin() + static_cast<std::ptrdiff_t>(at));
    counts_for_nothing_.erase(counts_for_nothing_.begin() + static_cast<std::ptrdiff_t>(at));
  }

  int LiveProbes() const {
    return static_cast<int>(
        std::ranges::count_if(going_, [this](const Going& g) { return g.probe && now_ < g.limit; }));
  }
  int ProbesOfThisEpoch() const {
    return static_cast<int>(std::ranges::count_if(
        going_, [this](const Going& g) { return g.probe && g.epoch == transitions_ && now_ < g.limit; }));
  }
  bool AnyProbeOfThisEpochIsLate(const Going& ending) const {
    const auto late = [this](const Going& g) { return g.probe && g.epoch == transitions_ && now_ >= g.limit; };
    return breaker_.state() == State::kHalfOpen && (late(ending) || std::ranges::any_of(going_, late));
  }

  void Check() {
    ASSERT_EQ(breaker_.state(), seen_);
    ASSERT_LE(breaker_.probes_in_flight(), config_.probes);
    ASSERT_LE(LiveProbes(), breaker_.probes_in_flight()) << "a probe that is under way is not counted";
    ASSERT_LE(breaker_.RetryAfter(now_), Duration(config_.open_time) * 6 / 5);
  }

  // Whatever has happened, and with all that never answers still out: time and successes close it.
  void ClosesInTheEnd() {
    for (int i = 0; i < 2 && breaker_.state() != State::kClosed; ++i) {
      now_ += config_.probe_limit + config_.open_time * 6 / 5;
      for (int probe = 0; probe < config_.probes; ++probe) {
        if (auto permit = breaker_.TryAcquire(now_)) permit->Record(kGood, now_);
      }
    }
    ASSERT_EQ(breaker_.state(), State::kClosed) << "it sticks";
    going_.clear();
    ASSERT_EQ(breaker_.probes_in_flight(), 0) << "a permit was lost";
  }

  std::mt19937 random_;
  const BreakerConfig config_;
  NaiveWindow naive_;
  std::vector<bool> counts_for_nothing_;
  int bad_of_ten_ = 5;
  State seen_ = State::kClosed;
  std::uint64_t transitions_ = 0;
  int succeeded_ = 0;
  SteadyTime now_ = kStart;
  Breaker breaker_;
  std::vector<Going> going_;  // ends before the breaker
};

TEST(BreakerPropertyTest, KeepsItsPromisesUnderAnySchedule) {
  std::mt19937 random(tests::TestSeed());
  const auto between = [&](int from, int to) { return std::uniform_int_distribution<int>(from, to)(random); };
  for (int schedule = 0; schedule < 3'000 && !HasFailure(); ++schedule) {
    const int window_calls = between(1, 30);
    const BreakerConfig config{
        .window = between(0, 1) == 0 ? BreakerConfig::Window::kCount : BreakerConfig::Window::kTime,
        .window_calls = window_calls,
        .window_time = milliseconds(between(1, 30) * 100),
        .calls_min = between(1, window_calls),
        .failure_ratio = between(1, 20) / 20.0,
        .slow_ratio = between(1, 20) / 20.0,
        .open_time = milliseconds(between(0, 1'000)),
        .probes = between(1, 5),
        .probe_limit = milliseconds(between(1, 3'000))};
    const auto seed = static_cast<unsigned>(random());
    SCOPED_TRACE("schedule " + std::to_string(schedule) + ", its seed " + std::to_string(seed));
    RandomSchedule(config, seed).Run(400);
  }
}

TEST(BreakerStormTest, ThreadsSeeNoMoreProbesThanPermitsAndNoTransitionOutOfOrder) {
  constexpr int kThreads = 4;
  const BreakerConfig config{.window = BreakerConfig::Window::kTime,
                             .window_time = milliseconds(100),
                             .calls_min = 5,
                             .open_time = milliseconds(1),
                             .probes = 2,
                             .probe_limit = seconds(1'000)};
  const unsigned seed = tests::TestSeed();
  State seen = State::kClosed;  // guarded by the breaker's lock
  int transitions = 0;          // guarded by the breaker's lock
  Breaker breaker(config, seed, [&](State from, State to) {
    EXPECT_EQ(from, seen);
    seen = to;
    ++transitions;
  });
  std::atomic<int> probes = 0;
  std::atomic<std::int64_t> microseconds = 0;
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < kThreads; ++i) {
      threads.emplace_back([&, i] {
        std::mt19937 random(seed + static_cast<unsigned>(i));
        for (int call = 0; call < 20'000; ++call) {
          const SteadyTime now = kStart + std::chrono::microseconds(microseconds.fetch_add(50));
          auto permit = breaker.TryAcquire(now);
          if (!permit) continue;
          const bool probe = permit->is_probe();
          if (probe) {
            EXPECT_LE(probes.fetch_add(1) + 1, config.probes);
          }
          const auto fate = random() % 100;
          // Before the breaker hears of it, which may admit the next at once.
          if (probe) probes.fetch_sub(1);
          if (fate < 5) continue;  // dropped
          permit->Record({.failed = fate < 65, .slow = false}, now);
        }
      });
    }
  }
  EXPECT_EQ(breaker.probes_in_flight(), 0);
  EXPECT_EQ(breaker.state(), seen);
  EXPECT_GT(transitions, 100);
}

}  // namespace
}  // namespace nova::resilience
