#include "nova/resilience/protect.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <boost/asio/co_spawn.hpp>
#include <future>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <memory>
#include <random>
#include <set>
#include <sstream>
#include <stdexcept>
#include <vector>

#include "nova/runtime/scope.h"
#include "tests/seed.h"

namespace nova::resilience {
namespace {

namespace asio = runtime::asio;

using runtime::Call;
using runtime::RetryAllowance;
using runtime::Task;
using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;
using State = Breaker::State;
using testing::HasSubstr;

// Long enough for whatever is to end by itself, short enough for a test that hangs.
constexpr minutes kTestLimit{1};

// Lets others of the strand go on.
Task<void> Yield(Call& call) {
  co_await asio::post(call.strand(), runtime::use_task);
  co_return Ok();
}

class ProtectTest : public ::testing::Test {
 protected:
  ProtectTest() : config_(DependencyConfig::Default(Kind::kPeer)) {
    // One verdict decides.
    config_.breaker = {.window = BreakerConfig::Window::kCount,
                       .window_calls = 1,
                       .calls_min = 1,
                       .failure_ratio = 1,
                       .slow_ratio = 1,
                       .open_time = seconds(1),
                       .probes = 1,
                       .probe_limit = seconds(10)};
    config_.retry.backoff = milliseconds(1);
  }

  // The one and only dependency of the test, made of `config_` when it is first asked for.
  PeerDependency& dependency() {
    if (!dependency_)
      dependency_ = std::make_unique<PeerDependency>(DependencyName("peer"), metrics_, config_, clock_, 1);
    return *dependency_;
  }

  template <class F>
  Result<void> Run(F body) {
    return runtime_.RunBlocking<void>(kTestLimit, std::move(body));
  }

  // Through Protect, with what `work` returns.
  Result<int> ProtectOnce(std::function<Task<int>(Attempt&)> work, ProtectOptions options = {}) {
    return runtime_.RunBlocking<int>(
        kTestLimit, [&](Call& call) -> Task<int> { co_return co_await Protect(call, dependency(), work, options); });
  }
  Result<int> ProtectOnce(const Result<int>& outcome, ProtectOptions options = {}) {
    return ProtectOnce([outcome](Attempt&) -> Task<int> { co_return outcome; }, options);
  }
  void OpenBreaker() {
    ASSERT_FALSE(ProtectOnce(Unavailable("down")));
    ASSERT_EQ(dependency().breaker().state(), State::kOpen);
  }
  void PassOpenTime() { clock_.Advance(config_.breaker.open_time * 6 / 5); }
  // Calls that succeed, which pay for retries.
  void FillBudget(int tokens = RetryBudget::kTokensMax) {
    for (int i = 0; i < 5 * tokens; ++i) dependency().retry_budget().Deposit();
  }

  // A series as Prometheus sees it, such as `nova_dependency_calls_total{dependency="peer",outcome="ok"}`.
  double Series(const std::string& series) const {
    std::istringstream text(metrics_.Scrape());
    for (std::string line; std::getline(text, line);) {
      if (line.starts_with(series + " ")) return std::stod(line.substr(series.size() + 1));
    }
    ADD_FAILURE() << "no series " << series;
    return -1;
  }
  double Calls(const std::string& outcome) const {
    return Series(R"(nova_dependency_calls_total{dependency="peer",outcome=")" + outcome + "\"}");
  }
  double Refused(const std::string& reason) const {
    return Series(R"(nova_dependency_retries_refused_total{dependency="peer",reason=")" + reason + "\"}");
  }
  double Retries() const { return Series(R"(nova_dependency_retries_total{dependency="peer"})"); }
  double Made() const { return Series(R"(nova_dependency_call_seconds_count{dependency="peer"})"); }

  void ExpectAllPermitsBack() {
    EXPECT_EQ(dependency().bulkhead().in_use(), 0);
    EXPECT_EQ(dependency().bulkhead().orphaned(), 0);
    EXPECT_EQ(dependency().breaker().probes_in_flight(), 0);
  }

  runtime::Runtime runtime_{{.threads = 1}};
  telemetry::Metrics metrics_;
  FakeClock clock_;
  DependencyConfig config_;
  std::unique_ptr<PeerDependency> dependency_;
};

TEST_F(ProtectTest, ReturnsWhatTheWorkReturns) {
  EXPECT_EQ(*ProtectOnce(42), 42);
  const auto failed = ProtectOnce(NotFound("no such thing", "detail"));
  EXPECT_EQ(failed.error().ToString(), NotFound("no such thing", "detail").ToString());
  EXPECT_EQ(Calls("ok"), 1);
  EXPECT_EQ(Calls("answered"), 1);
  EXPECT_EQ(Made(), 2);
  ExpectAllPermitsBack();
}

TEST_F(ProtectTest, ThePlainEntryPointsGoTheSameWay) {
  telemetry::Metrics metrics;
  DatabaseDependency database("postgres", metrics);
  CacheDependency cache("redis", metrics);
  const auto ran = Run([&](Call& call) -> Task<void> {
    const auto seconds_left = [](Call& limited) -> Task<std::int64_t> {
      co_return std::chrono::round<seconds>(limited.Remaining()).count();
    };
    EXPECT_EQ(*co_await WithDbTimeout(call, database, seconds_left), 10);
    EXPECT_EQ(*co_await WithGrpcTimeout(call, dependency(), seconds_left), 10);
    EXPECT_EQ(*co_await WithCacheTimeout(call, cache, seconds_left), 5);
    EXPECT_EQ(*co_await WithTimeout(call, seconds(3), seconds_left), 3);
    EXPECT_EQ(*co_await WithTimeout(call, hours(3), seconds_left), 60);
    const auto late = co_await WithTimeout(call, milliseconds(1), [](Call& limited) -> Task<void> {
      co_return co_await runtime::Sleep(limited, hours(1));
    });
    EXPECT_EQ(late.error().code(), Code::kDeadlineExceeded);
    co_return Ok();
  });
  ASSERT_TRUE(ran);
  EXPECT_EQ(Calls("ok"), 1);
}

// --- Timeouts, and who is to blame. ---

TEST_F(ProtectTest, TheLimitIsTheSmallerOfThePolicysAndTheCallers) {
  config_.timeout = seconds(7);
  ASSERT_TRUE(Run([&](Call& call) -> Task<void> {
    const SteadyTime before = Clock::System().Now();
    const auto deadline = [](Attempt& attempt) -> Task<SteadyTime> { co_return attempt.call().deadline(); };
    Call hurried(call, seconds(2));
    EXPECT_EQ(*co_await Protect(hurried, dependency(), deadline), hurried.deadline());
    const auto unhurried = *co_await Protect(call, dependency(), deadline);
    EXPECT_GE(unhurried, before + seconds(7));
    EXPECT_LT(unhurried, before + seconds(8));
    const auto patient = *co_await Protect(call, dependency(), deadline, {.patience = seconds(5)});
    EXPECT_GE(patient, before + seconds(12));
    EXPECT_LT(patient, before + seconds(13));
    const auto limited = *co_await Protect(call, dependency(), deadline, {.limit = seconds(1)});
    EXPECT_LT(limited, before + seconds(2));
    const auto unlimited = *co_await Protect(call, dependency(), deadline, {.limit = hours(1)});
    EXPECT_LT(unlimited, before + seconds(8));
    EXPECT_EQ(*co_await Protect(call, dependency(), deadline, {.lasting = true}), call.deadline());
    co_return Ok();
  }));
}

Task<int> NeverAnswers(Attempt& attempt) {
  auto slept = co_await runtime::Sleep(attempt.call(), hours(1));
  co_return std::move(slept).error();
}

TEST_F(ProtectTest, ThePolicysTimeoutIsTheDependencysFaultAndNamesItsSetting) {
  config_.timeout = milliseconds(5);
  const auto result = ProtectOnce(NeverAnswers);
  EXPECT_EQ(result.error().code(), Code::kDeadlineExceeded);
  EXPECT_THAT(result.error().detail(), HasSubstr("RESILIENCE_PEER_TIMEOUT_MS (5)"));
  EXPECT_THAT(result.error().message(), testing::Not(HasSubstr("peer")));
  EXPECT_EQ(Calls("timeout"), 1);
  EXPECT_EQ(dependency().breaker().state(), State::kOpen);
  ExpectAllPermitsBack();
}

// Drivers differ in what they say of work that its call has ended.
TEST_F(ProtectTest, ThePolicysTimeoutIsThatWhateverTheWorkMakesOfIt) {
  config_.timeout = milliseconds(5);
  for (const Code code : {Code::kCancelled, Code::kUnavailable, Code::kInternal, Code::kUnknown, Code::kDataLoss}) {
    dependency_.reset();
    const auto result = ProtectOnce([code](Attempt& attempt) -> Task<int> {
      (void)co_await runtime::Sleep(attempt.call(), hours(1));
      co_return Error(code, "the connection was closed", "its detail");
    });
    EXPECT_EQ(result.error().code(), Code::kDeadlineExceeded);
    EXPECT_THAT(result.error().detail(), HasSubstr("RESILIENCE_PEER_TIMEOUT_MS (5): its detail"));
    EXPECT_EQ(dependency().breaker().state(), State::kOpen);
  }
  EXPECT_EQ(Calls("timeout"), 5);
}

TEST_F(ProtectTest, AnOperationsOwnLimitIsTheDependencysFaultToo) {
  const auto result = ProtectOnce(NeverAnswers, {.limit = milliseconds(5)});
  EXPECT_EQ(result.error().code(), Code::kDeadlineExceeded);
  EXPECT_THAT(result.error().detail(), HasSubstr("the operation's own limit (5 ms)"));
  EXPECT_EQ(Calls("timeout"), 1);
  EXPECT_EQ(dependency().breaker().state(), State::kOpen);
}

TEST_F(ProtectTest, ADeadlineOfThePeersOwnIsItsFaultAndStaysAsItIs) {
  const auto result = ProtectOnce(DeadlineExceeded("the peer's own", "its detail"));
  EXPECT_EQ(result.error().detail(), "its detail");
  EXPECT_EQ(Calls("timeout"), 1);
  EXPECT_EQ(dependency().breaker().state(), State::kOpen);
}

TEST_F(ProtectTest, TheCallersOwnShorterDeadlineIsNobodysFault) {
  const auto ran = Run([&](Call& call) -> Task<void> {
    Call hurried(call, milliseconds(5));
    const auto result = co_await Protect(hurried, dependency(), NeverAnswers);
    EXPECT_EQ(result.error().code(), Code::kDeadlineExceeded);
    EXPECT_EQ(result.error().detail().find("RESILIENCE_"), std::string::npos) << result.error().detail();
    co_return Ok();
  });
  ASSERT_TRUE(ran);
  EXPECT_EQ(Calls("cancelled"), 1);
  EXPECT_EQ(dependency().breaker().state(), State::kClosed);
  ExpectAllPermitsBack();
}

TEST_F(ProtectTest, ACallersDeadlineThatADriverRoundsDownIsStillTheCallers) {
  const auto ran = Run([&](Call& call) -> Task<void> {
    Call hurried(call, std::chrono::microseconds(1'500));
    (void)co_await Protect(hurried, dependency(), [](Attempt&) -> Task<int> { co_return DeadlineExceeded("early"); });
    co_return Ok();
  });
  ASSERT_TRUE(ran);
  EXPECT_EQ(Calls("cancelled") + (Made() == 0), 1);
  EXPECT_EQ(dependency().breaker().state(), State::kClosed);
}

TEST_F(ProtectTest, ACallersCancellationIsNoTimeoutOfThePolicy) {
  const auto ran = Run([&](Call& call) -> Task<void> {
    Call request(call, hours(1));
    const auto result = co_await Protect(request, dependency(), [&](Attempt&) -> Task<int> {
      request.Cancel(Cancelled("no longer wanted"));
      co_return DeadlineExceeded("so to speak", "its detail");
    });
    EXPECT_EQ(result.error().detail(), "its detail");
    co_return Ok();
  });
  ASSERT_TRUE(ran);
  EXPECT_EQ(Calls("cancelled"), 1);
  EXPECT_EQ(dependency().breaker().state(), State::kClosed);
}

// Whatever the error is that it causes.
TEST_F(ProtectTest, TheCallersCancellationIsNobodysFault) {
  for (const Code code : {Code::kCancelled, Code::kUnavailable, Code::kInternal, Code::kUnknown, Code::kDataLoss}) {
    const auto ran = Run([&](Call& call) -> Task<void> {
      Call request(call, hours(1));
      asio::post(call.strand(), [&] { request.Cancel(Cancelled("no longer wanted")); });
      const auto result = co_await Protect(request, dependency(), [code](Attempt& attempt) -> Task<int> {
        const auto slept = co_await runtime::Sleep(attempt.call(), hours(1));
        EXPECT_EQ(slept.error().message(), "no longer wanted");
        co_return Error(code, "the connection was closed");
      });
      EXPECT_EQ(result.error().code(), code);
      co_return Ok();
    });
    ASSERT_TRUE(ran);
  }
  EXPECT_EQ(Calls("cancelled"), 5);
  EXPECT_EQ(dependency().breaker().state(), State::kClosed);
  ExpectAllPermitsBack();
}

TEST_F(ProtectTest, ACallThatHasEndedBeginsNothing) {
  const auto ran = Run([&](Call& call) -> Task<void> {
    Call request(call, hours(1));
    request.Cancel(Aborted("too late"));
    const auto result = co_await Protect(request, dependency(), [](Attempt&) -> Task<int> {
      ADD_FAILURE() << "the work was begun";
      co_return 0;
    });
    EXPECT_EQ(result.error().message(), "too late");
    Call late(call, milliseconds(-1));
    EXPECT_EQ((co_await Protect(late, dependency(), NeverAnswers)).error().code(), Code::kDeadlineExceeded);
    co_return Ok();
  });
  ASSERT_TRUE(ran);
  EXPECT_EQ(Made(), 0);
}

TEST_F(ProtectTest, OnlyFaultsOfTheDependencyOpenItsBreaker) {
  const std::set<Code> faults = {Code::kUnavailable, Code::kUnknown, Code::kInternal, Code::kDataLoss,
                                 Code::kDeadlineExceeded};
  for (int number = 1; number < kCodeCount; ++number) {
    const auto code = static_cast<Code>(number);
    dependency_.reset();
    const auto failed = ProtectOnce(Error(code, "of a test"));
    EXPECT_EQ(failed.error().code(), code);
    EXPECT_EQ(dependency().breaker().state(), faults.contains(code) ? State::kOpen : State::kClosed) << CodeName(code);
  }
  EXPECT_EQ(Calls("failed"), 4);
  EXPECT_EQ(Calls("timeout"), 1);
  EXPECT_EQ(Calls("cancelled"), 1);
  EXPECT_EQ(Calls("answered"), kCodeCount - 1 - 6);
}

TEST_F(ProtectTest, ACallThatLastedCountsAsSlowWhoeverEndedIt) {
  const auto slow_work = [this](Result<int> outcome) {
    return [this, outcome](Attempt&) -> Task<int> {
      clock_.Advance(config_.slow);
      co_return outcome;
    };
  };
  for (const Result<int>& outcome :
       {Result<int>(1), Result<int>(NotFound("")), Result<int>(Cancelled("by its caller"))}) {
    dependency_.reset();
    (void)ProtectOnce(slow_work(outcome));
    EXPECT_EQ(dependency().breaker().state(), State::kOpen);
  }
  EXPECT_EQ(Series(R"(nova_dependency_slow_calls_total{dependency="peer"})"), 3);
  // Gone without a word.
  dependency_.reset();
  ASSERT_TRUE(Run([&](Call& call) -> Task<void> {
    Guard guard(call, dependency());
    NOVA_CO_TRY(guard.Begin());
    clock_.Advance(config_.slow);
    co_return Ok();
  }));
  EXPECT_EQ(dependency().breaker().state(), State::kOpen);
  // A moment less is not slow.
  dependency_.reset();
  ASSERT_TRUE(ProtectOnce([this](Attempt&) -> Task<int> {
    clock_.Advance(config_.slow - Duration(1));
    co_return 1;
  }));
  EXPECT_EQ(dependency().breaker().state(), State::kClosed);
}

TEST_F(ProtectTest, WhatWaitsByDesignIsNotSlowForIt) {
  const auto takes = [this](Duration time) {
    return [this, time](Attempt&) -> Task<int> {
      clock_.Advance(time);
      co_return 1;
    };
  };
  ASSERT_TRUE(ProtectOnce(takes(config_.slow + seconds(5) - milliseconds(1)), {.patience = seconds(5)}));
  EXPECT_EQ(dependency().breaker().state(), State::kClosed);
  ASSERT_TRUE(ProtectOnce(takes(hours(1)), {.lasting = true}));
  EXPECT_EQ(dependency().breaker().state(), State::kClosed);
  ASSERT_TRUE(ProtectOnce(takes(milliseconds(49)), {.limit = milliseconds(100)}));
  EXPECT_EQ(dependency().breaker().state(), State::kClosed);
  ASSERT_TRUE(ProtectOnce(takes(milliseconds(50)), {.limit = milliseconds(100)}));
  EXPECT_EQ(dependency().breaker().state(), State::kOpen);
}

// --- The breaker. ---

TEST_F(ProtectTest, AProbeThatWaitsByDesignIsWaitedForAsMuchLonger) {
  for (const bool always : {false, true}) {
    OpenBreaker();
    PassOpenTime();
    const auto waits = [&](Attempt&) -> Task<int> {
      clock_.Advance(config_.breaker.probe_limit + seconds(2));
      // Whoever comes now would find it overdue.
      EXPECT_FALSE(dependency().breaker().TryAcquire(clock_.Now()).has_value());
      EXPECT_EQ(dependency().breaker().state(), State::kHalfOpen);
      co_return 1;
    };
    EXPECT_TRUE(ProtectOnce(waits, {.always = always, .patience = seconds(30)}));
    EXPECT_EQ(dependency().breaker().state(), State::kClosed) << always;
  }
}

TEST_F(ProtectTest, AnOpenBreakerRefusesWithoutBeginningTheWork) {
  OpenBreaker();
  const auto refused = ProtectOnce(NeverAnswers);
  EXPECT_EQ(refused.error().code(), Code::kUnavailable);
  EXPECT_THAT(refused.error().detail(), HasSubstr("dependency=peer"));
  EXPECT_EQ(Calls("open"), 1);
  EXPECT_EQ(Made(), 1);
  ExpectAllPermitsBack();
}

TEST_F(ProtectTest, AProbeThatSucceedsClosesTheBreakerAndOneThatFailsDoesNot) {
  OpenBreaker();
  PassOpenTime();
  EXPECT_FALSE(ProtectOnce(Unavailable("still down")));
  EXPECT_EQ(dependency().breaker().state(), State::kOpen);
  PassOpenTime();
  EXPECT_TRUE(ProtectOnce(1));
  EXPECT_EQ(dependency().breaker().state(), State::kClosed);
}

TEST_F(ProtectTest, ADefiniteAnswerToAProbeIsASuccess) {
  OpenBreaker();
  PassOpenTime();
  EXPECT_FALSE(ProtectOnce(NotFound("but it is there")));
  EXPECT_EQ(dependency().breaker().state(), State::kClosed);
}

TEST_F(ProtectTest, AProbeThatIsCancelledOrRefusedByTheBulkheadLeavesItsPlace) {
  config_.calls_max = 1;
  OpenBreaker();
  PassOpenTime();
  const auto ran = Run([&](Call& call) -> Task<void> {
    {
      const auto place = dependency().bulkhead().TryAcquire();
      Guard refused(call, dependency());
      EXPECT_EQ(refused.Begin().error().code(), Code::kResourceExhausted);
      EXPECT_EQ(dependency().breaker().probes_in_flight(), 0);
    }
    Call request(call, hours(1));
    asio::post(call.strand(), [&] {
      EXPECT_EQ(dependency().breaker().probes_in_flight(), 1);
      request.Cancel(Cancelled("no longer wanted"));
    });
    EXPECT_FALSE(co_await Protect(request, dependency(), NeverAnswers));
    EXPECT_EQ(dependency().breaker().state(), State::kHalfOpen);
    EXPECT_EQ(dependency().breaker().probes_in_flight(), 0);
    co_return Ok();
  });
  ASSERT_TRUE(ran);
  EXPECT_TRUE(ProtectOnce(1));
  EXPECT_EQ(dependency().breaker().state(), State::kClosed);
}

TEST_F(ProtectTest, QuestionsOfHealthAreNeverRefusedAndAreProbes) {
  config_.calls_max = 1;
  OpenBreaker();
  const auto place = dependency().bulkhead().TryAcquire();
  // Open: asked, but it says nothing to the breaker.
  EXPECT_EQ(*ProtectOnce(1, {.always = true}), 1);
  EXPECT_EQ(dependency().breaker().state(), State::kOpen);
  PassOpenTime();
  EXPECT_EQ(*ProtectOnce(1, {.always = true}), 1);
  EXPECT_EQ(dependency().breaker().state(), State::kClosed);
  // Closed, it counts like any other.
  EXPECT_FALSE(ProtectOnce(Unavailable("down"), {.always = true}));
  EXPECT_EQ(dependency().breaker().state(), State::kOpen);
  EXPECT_EQ(dependency().bulkhead().in_use(), 1);
}

TEST_F(ProtectTest, ALastingProbeIsJudgedByItsFirstAnswer) {
  OpenBreaker();
  PassOpenTime();
  ASSERT_TRUE(Run([&](Call& call) -> Task<void> {
    Guard guard(call, dependency(), {.lasting = true});
    NOVA_CO_TRY(guard.Begin());
    EXPECT_EQ(dependency().breaker().state(), State::kHalfOpen);
    guard.Answered();
    EXPECT_EQ(dependency().breaker().state(), State::kClosed);
    guard.Answered();
    clock_.Advance(hours(1));
    guard.Succeeded();
    co_return Ok();
  }));
  EXPECT_EQ(dependency().breaker().state(), State::kClosed);
  ExpectAllPermitsBack();
}

// --- The bulkhead. ---

TEST_F(ProtectTest, AFullBulkheadRefusesAndNamesItsSetting) {
  config_.calls_max = 1;
  const auto place = dependency().bulkhead().TryAcquire();
  const auto refused = ProtectOnce(NeverAnswers);
  EXPECT_EQ(refused.error().code(), Code::kResourceExhausted);
  EXPECT_THAT(refused.error().detail(), HasSubstr("RESILIENCE_PEER_CALLS_MAX (1)"));
  EXPECT_EQ(Calls("full"), 1);
  EXPECT_EQ(Made(), 0);
  // That says nothing about the dependency.
  EXPECT_EQ(dependency().breaker().state(), State::kClosed);
}

TEST_F(ProtectTest, APermitThatTheWorkTookOutlivesItsCaller) {
  config_.calls_max = 1;
  Bulkhead::Permit draining;
  const auto result = ProtectOnce([&](Attempt& attempt) -> Task<int> {
    draining = attempt.TakePermit();
    draining.Orphan();
    co_return Cancelled("the caller has gone");
  });
  ASSERT_FALSE(result);
  EXPECT_EQ(dependency().bulkhead().in_use(), 1);
  EXPECT_EQ(Series(R"(nova_bulkhead_permits{dependency="peer",state="orphaned"})"), 1);
  EXPECT_EQ(ProtectOnce(1).error().code(), Code::kResourceExhausted);
  draining = {};
  EXPECT_TRUE(ProtectOnce(1));
  ExpectAllPermitsBack();
}

// --- Retries. ---

class RetryingTest : public ProtectTest {
 protected:
  RetryingTest() {
    // So that the breaker keeps out of it.
    config_.breaker.window_calls = 100;
    config_.breaker.calls_min = 100;
  }

  // Fails as often with `error`, then succeeds; and counts its tries.
  std::function<Task<int>(Attempt&)> FailsFirst(int times, Error error, std::optional<PushBack> said = {}) {
    return [this, times, error, said](Attempt& attempt) -> Task<int> {
      EXPECT_EQ(attempt.number(), ++tries_);
      if (said) attempt.SetPushBack(*said);
      if (attempt.number() <= times) co_return error;
      co_return attempt.number();
    };
  }

  int tries_ = 0;
};

TEST_F(RetryingTest, WorkThatMayBeRepeatedIsTriedAgain) {
  FillBudget();
  for (const auto idempotency : {Idempotency::kSafe, Idempotency::kKeyed}) {
    tries_ = 0;
    EXPECT_EQ(*ProtectOnce(FailsFirst(2, Unavailable("shaky")), {.idempotency = idempotency}), 3);
  }
  EXPECT_EQ(Retries(), 4);
  EXPECT_EQ(Calls("failed"), 4);
  EXPECT_EQ(Calls("ok"), 2);
  // One call pays once, however often it is tried.
  EXPECT_NEAR(dependency().retry_budget().tokens(), RetryBudget::kTokensMax - 2 + 0.2 - 2, 1e-9);
  EXPECT_EQ(Series(R"(nova_dependency_retry_tokens{dependency="peer"})"), dependency().retry_budget().tokens());
  ExpectAllPermitsBack();
}

TEST_F(RetryingTest, WorkThatMayNotBeRepeatedIsTriedOnce) {
  FillBudget();
  EXPECT_EQ(ProtectOnce(FailsFirst(1, Unavailable("shaky"))).error().message(), "shaky");
  EXPECT_EQ(tries_, 1);
  EXPECT_EQ(Retries(), 0);
  EXPECT_EQ(dependency().retry_budget().tokens(), RetryBudget::kTokensMax);
}

TEST_F(RetryingTest, OnlyWhatIsRetryableIsTriedAgain) {
  FillBudget();
  for (int number = 1; number < kCodeCount; ++number) {
    const auto code = static_cast<Code>(number);
    tries_ = 0;
    const auto result = ProtectOnce(FailsFirst(1, Error(code, "of a test")), {.idempotency = Idempotency::kSafe});
    EXPECT_EQ(result.ok(), code == Code::kUnavailable) << CodeName(code);
  }
}

TEST_F(RetryingTest, EndsWithTheLastErrorAtTheMostTries) {
  FillBudget();
  const auto result = ProtectOnce(FailsFirst(100, Unavailable("down")), {.idempotency = Idempotency::kSafe});
  EXPECT_EQ(result.error().message(), "down");
  EXPECT_EQ(tries_, config_.retry.tries_max);
  EXPECT_EQ(Refused("tries"), 1);
}

TEST_F(RetryingTest, AnEmptyBudgetAllowsNoRetry) {
  EXPECT_FALSE(ProtectOnce(FailsFirst(1, Unavailable("down")), {.idempotency = Idempotency::kSafe}));
  EXPECT_EQ(tries_, 1);
  EXPECT_EQ(Refused("budget"), 1);
}

TEST_F(RetryingTest, AStormOfFailuresAddsAFifthAtMost) {
  config_.breaker.window_calls = config_.breaker.calls_min = 1'000;
  for (int i = 0; i < 200; ++i) {
    tries_ = 0;
    (void)ProtectOnce(FailsFirst(100, Unavailable("down")), {.idempotency = Idempotency::kSafe});
  }
  EXPECT_LE(Retries(), 40);
  EXPECT_GE(Retries(), 35);
}

TEST_F(RetryingTest, TheRequestsAllowanceLimitsAllOfItsCallsTogether) {
  FillBudget();
  RetryAllowance allowance{.left = 3};
  const auto ran = Run([&](Call& call) -> Task<void> {
    Call request(call.strand(), {.deadline = call.deadline(), .retries = &allowance});
    EXPECT_EQ(*co_await Protect(request, dependency(), FailsFirst(2, Unavailable("shaky")),
                                {.idempotency = Idempotency::kSafe}),
              3);
    EXPECT_EQ(allowance.left, 1);
    EXPECT_EQ(allowance.used, 2);
    EXPECT_FALSE(allowance.spent);
    tries_ = 0;
    Call nested(request, seconds(10));
    EXPECT_FALSE(co_await Protect(nested, dependency(), FailsFirst(2, Unavailable("shaky")),
                                  {.idempotency = Idempotency::kSafe}));
    EXPECT_EQ(tries_, 2);
    EXPECT_EQ(allowance.left, 0);
    EXPECT_EQ(allowance.used, 3);
    EXPECT_TRUE(allowance.spent);
    co_return Ok();
  });
  ASSERT_TRUE(ran);
  EXPECT_EQ(Refused("allowance"), 1);
}

TEST_F(RetryingTest, WhatIsGivenUpHereIsNotToBeTriedAgainAbove) {
  const auto spent = [&](const std::function<Task<int>(Attempt&)>& work, ProtectOptions options) {
    RetryAllowance allowance{.left = 2};
    EXPECT_TRUE(Run([&](Call& call) -> Task<void> {
      Call request(call.strand(), {.deadline = call.deadline(), .retries = &allowance});
      tries_ = 0;
      (void)co_await Protect(request, dependency(), work, options);
      co_return Ok();
    }));
    return allowance.spent;
  };
  constexpr ProtectOptions kSafe{.idempotency = Idempotency::kSafe};
  EXPECT_TRUE(spent(FailsFirst(9, Unavailable("down")), kSafe)) << "no budget";
  FillBudget();
  EXPECT_TRUE(spent(FailsFirst(9, Unavailable("down")), kSafe)) << "no tries";
  EXPECT_TRUE(spent(FailsFirst(9, Unavailable("down"), PushBack{}), kSafe)) << "told not to";
  // Whoever may repeat the whole may do so.
  EXPECT_FALSE(spent(FailsFirst(9, Unavailable("down")), {}));
  EXPECT_FALSE(spent(FailsFirst(9, NotFound("an answer")), kSafe));
  EXPECT_FALSE(spent(FailsFirst(0, Unavailable("")), kSafe));
  while (dependency().breaker().state() == State::kClosed) (void)ProtectOnce(Unavailable("down"));
  EXPECT_TRUE(spent(FailsFirst(0, Unavailable("")), kSafe)) << "the breaker is open";
}

// A hop that does not retry at all leaves it to those above.
TEST_F(RetryingTest, WhereRetriesAreTurnedOffNothingIsGivenUp) {
  for (const bool by_tries : {true, false}) {
    DependencyConfig config = config_;
    if (by_tries) {
      config.retry.tries_max = 1;
    } else {
      config.retry.budget_ratio = 0;
    }
    telemetry::Metrics metrics;
    PeerDependency dependency("peer", metrics, config);
    RetryAllowance allowance{.left = 2};
    tries_ = 0;
    ASSERT_TRUE(Run([&](Call& call) -> Task<void> {
      Call request(call.strand(), {.deadline = call.deadline(), .retries = &allowance});
      EXPECT_FALSE(co_await Protect(request, dependency, FailsFirst(9, Unavailable("down")),
                                    {.idempotency = Idempotency::kSafe}));
      co_return Ok();
    }));
    EXPECT_FALSE(allowance.spent) << by_tries;
    EXPECT_EQ(tries_, 1);
  }
}

// A request that got over what was given up below it, and then fails for another reason, may be tried again above.
TEST_F(RetryingTest, WhatTheRequestGotOverDoesNotForbidAnotherTryAbove) {
  while (dependency().breaker().state() == State::kClosed) (void)ProtectOnce(Unavailable("down"));
  PeerDependency other("other", metrics_);
  DependencyConfig config = DependencyConfig::Default(Kind::kCache);
  config.breaker = config_.breaker;
  CacheDependency cache("cache", metrics_, config);
  const auto fails = [](Attempt&) -> Task<int> { co_return Unavailable("down"); };
  RetryAllowance allowance{.left = 2};
  const auto ran = Run([&](Call& call) -> Task<void> {
    Call request(call.strand(), {.deadline = call.deadline(), .retries = &allowance});
    EXPECT_FALSE(co_await Protect(request, dependency(), fails));
    EXPECT_TRUE(allowance.spent);
    // Plan B has a failure of its own, which nobody has tried again yet.
    EXPECT_FALSE(co_await Protect(request, other, fails));
    EXPECT_FALSE(allowance.spent);

    // An open cache is done without; and to have asked one changes nothing about what came before.
    while (cache.breaker().state() == State::kClosed) (void)co_await Protect(request, cache, fails);
    EXPECT_FALSE(co_await Protect(request, cache, fails));
    EXPECT_FALSE(allowance.spent);
    EXPECT_FALSE(co_await Protect(request, dependency(), fails));
    EXPECT_FALSE(co_await Protect(request, cache, fails));
    EXPECT_TRUE(allowance.spent);
    co_return Ok();
  });
  ASSERT_TRUE(ran);
}

TEST_F(RetryingTest, APeersWordOnTryingAgainIsKept) {
  FillBudget();
  constexpr ProtectOptions kSafe{.idempotency = Idempotency::kSafe};
  // Not at all.
  EXPECT_FALSE(ProtectOnce(FailsFirst(1, Unavailable("down"), PushBack{}), kSafe));
  EXPECT_EQ(tries_, 1);
  EXPECT_EQ(Refused("push_back"), 1);
  // Not before: so it did not begin, and RESOURCE_EXHAUSTED may be tried again.
  tries_ = 0;
  const SteadyTime before = Clock::System().Now();
  EXPECT_TRUE(ProtectOnce(FailsFirst(1, ResourceExhausted("busy"), PushBack{.wait = milliseconds(30)}), kSafe));
  EXPECT_GE(Clock::System().Now() - before, milliseconds(30));
  // Later than the call may last.
  tries_ = 0;
  EXPECT_FALSE(ProtectOnce(FailsFirst(1, ResourceExhausted("busy"), PushBack{.wait = hours(1)}), kSafe));
  EXPECT_EQ(tries_, 1);
  EXPECT_EQ(Refused("deadline"), 1);
  EXPECT_EQ(Calls("answered"), 2);
}

TEST_F(RetryingTest, AWordOnTryingAgainHoldsForItsOwnTryOnly) {
  FillBudget();
  const auto result = ProtectOnce(
      [&](Attempt& attempt) -> Task<int> {
        ++tries_;
        if (attempt.number() == 1) attempt.SetPushBack({.wait = milliseconds(1)});
        co_return ResourceExhausted("busy");
      },
      {.idempotency = Idempotency::kSafe});
  EXPECT_FALSE(result);
  EXPECT_EQ(tries_, 2);
}

TEST_F(RetryingTest, ThePauseHoldsNoPermitAndEndsWithTheCall) {
  FillBudget();
  const auto ran = Run([&](Call& call) -> Task<void> {
    Call request(call, hours(1));
    asio::post(call.strand(), [&] {
      EXPECT_EQ(tries_, 1);
      ExpectAllPermitsBack();
      request.Cancel(Cancelled("no longer wanted"));
    });
    const auto result =
        co_await Protect(request, dependency(), FailsFirst(9, Unavailable("down"), PushBack{.wait = seconds(5)}),
                         {.idempotency = Idempotency::kSafe});
    EXPECT_EQ(result.error().message(), "down");
    co_return Ok();
  });
  ASSERT_TRUE(ran);
  EXPECT_EQ(tries_, 1);
  EXPECT_EQ(Retries(), 0) << "one that was paused for, and never made";
  ExpectAllPermitsBack();
}

TEST_F(RetryingTest, ABreakerThatOpensEndsTheTries) {
  config_.breaker.window_calls = 2;
  config_.breaker.calls_min = 2;
  FillBudget();
  const auto result = ProtectOnce(FailsFirst(9, Unavailable("down")), {.idempotency = Idempotency::kSafe});
  EXPECT_EQ(result.error().code(), Code::kUnavailable);
  EXPECT_EQ(tries_, 2);
  EXPECT_EQ(Calls("open"), 1);
}

// --- What must not leak. ---

TEST_F(ProtectTest, AnExceptionThrownByTheWorkLeaksNoPermit) {
  OpenBreaker();
  PassOpenTime();
  const auto ran = Run([&](Call& call) -> Task<void> {
    for (const bool at_once : {true, false}) {
      bool thrown = false;
      try {
        (void)co_await Protect(call, dependency(), [at_once](Attempt& attempt) -> Task<int> {
          if (at_once) throw std::runtime_error("a bug");
          return [](Attempt& of) -> Task<int> {
            NOVA_CO_TRY(co_await Yield(of.call()));
            throw std::runtime_error("a bug");
          }(attempt);
        });
      } catch (const std::runtime_error&) {
        thrown = true;
      }
      EXPECT_TRUE(thrown);
      ExpectAllPermitsBack();
    }
    co_return Ok();
  });
  ASSERT_TRUE(ran);
  EXPECT_EQ(Calls("cancelled"), 2);
  EXPECT_EQ(dependency().breaker().state(), State::kHalfOpen);
}

TEST_F(ProtectTest, AGuardThatIsDroppedLeaksNoPermit) {
  OpenBreaker();
  PassOpenTime();
  ASSERT_TRUE(Run([&](Call& call) -> Task<void> {
    {
      Guard guard(call, dependency());
      NOVA_CO_TRY(guard.Begin());
      EXPECT_EQ(dependency().bulkhead().in_use(), 1);
      EXPECT_EQ(dependency().breaker().probes_in_flight(), 1);
    }
    ExpectAllPermitsBack();
    const Guard never_begun(call, dependency());
    co_return Ok();
  }));
  EXPECT_EQ(Calls("cancelled"), 1);
}

TEST_F(ProtectTest, ACoroutineThatIsDestroyedLeaksNoPermit) {
  auto runtime = std::make_unique<runtime::Runtime>(runtime::RuntimeConfig{.threads = 1});
  std::promise<void> waiting;
  const auto strand = runtime->NewStrand();
  asio::co_spawn(
      strand,
      [&]() -> runtime::Awaitable<void> {
        Call call(strand);
        (void)co_await Protect(call, dependency(), [&](Attempt& attempt) -> Task<int> {
          asio::post(attempt.call().strand(), [&] { waiting.set_value(); });
          co_return co_await NeverAnswers(attempt);
        });
        ADD_FAILURE() << "it ended";
      },
      [](const std::exception_ptr&) {});
  waiting.get_future().wait();
  EXPECT_EQ(dependency().bulkhead().in_use(), 1);
  runtime.reset();
  ExpectAllPermitsBack();
}

// --- Faults. ---

TEST_F(ProtectTest, AnInjectedDelayComesBeforeTheWork) {
  config_.faults = {.delay = 1, .delay_time = milliseconds(20)};
  const SteadyTime before = Clock::System().Now();
  EXPECT_EQ(*ProtectOnce([&](Attempt&) -> Task<int> {
    EXPECT_GE(Clock::System().Now() - before, milliseconds(20));
    co_return 1;
  }),
            1);
  EXPECT_EQ(Series(R"(nova_faults_injected_total{dependency="peer",fault="delay"})"), 1);
}

TEST_F(ProtectTest, AnInjectedErrorComesInsteadOfTheWork) {
  config_.faults = {.error = 1};
  const auto result = ProtectOnce(NeverAnswers);
  EXPECT_EQ(result.error().code(), Code::kUnavailable);
  EXPECT_THAT(result.error().detail(), HasSubstr("injected"));
  EXPECT_EQ(dependency().breaker().state(), State::kOpen);
  EXPECT_EQ(Series(R"(nova_faults_injected_total{dependency="peer",fault="error"})"), 1);
}

TEST_F(ProtectTest, AnInjectedAbortLosesWhatWasDone) {
  config_.faults = {.abort = 1};
  bool done = false;
  const auto result = ProtectOnce([&](Attempt&) -> Task<int> {
    done = true;
    co_return 1;
  });
  EXPECT_TRUE(done);
  EXPECT_EQ(result.error().code(), Code::kUnavailable);
  EXPECT_EQ(Calls("failed"), 1);
  EXPECT_EQ(Series(R"(nova_faults_injected_total{dependency="peer",fault="abort"})"), 1);
}

TEST_F(ProtectTest, AnInjectedBlackHoleEndsByItsTimeout) {
  config_.faults = {.black_hole = 1};
  config_.timeout = milliseconds(5);
  const auto result = ProtectOnce([](Attempt&) -> Task<int> {
    ADD_FAILURE() << "the work was begun";
    co_return 1;
  });
  EXPECT_EQ(result.error().code(), Code::kDeadlineExceeded);
  EXPECT_THAT(result.error().detail(), HasSubstr("RESILIENCE_PEER_TIMEOUT_MS"));
  EXPECT_EQ(Calls("timeout"), 1);
  EXPECT_EQ(Series(R"(nova_faults_injected_total{dependency="peer",fault="black_hole"})"), 1);
  ExpectAllPermitsBack();
}

TEST_F(RetryingTest, AnInjectedErrorIsTriedAgainLikeATrueOne) {
  config_.faults = {.error = 1};
  FillBudget();
  EXPECT_FALSE(ProtectOnce(1, {.idempotency = Idempotency::kSafe}));
  EXPECT_EQ(Series(R"(nova_faults_injected_total{dependency="peer",fault="error"})"), config_.retry.tries_max);
  EXPECT_EQ(Refused("tries"), 1);
}

// --- Metrics. ---

TEST_F(ProtectTest, MetricsTellLimitsAndStates) {
  config_.timeout = milliseconds(1'500);
  config_.calls_max = 7;
  std::vector<State> told;
  dependency_ = std::make_unique<PeerDependency>(DependencyName("peer"), metrics_, config_, clock_, 1,
                                                 [&](State, State to) { told.push_back(to); });
  const auto state = [&](const char* name) {
    return Series(std::string(R"(nova_breaker_state{dependency="peer",state=")") + name + "\"}");
  };
  const auto transitions = [&](const char* from, const char* to) {
    return Series(std::string(R"(nova_breaker_transitions_total{dependency="peer",from=")") + from + R"(",to=")" + to +
                  "\"}");
  };
  const auto permits = [&](const char* name) {
    return Series(std::string(R"(nova_bulkhead_permits{dependency="peer",state=")") + name + "\"}");
  };
  EXPECT_EQ(Series(R"(nova_dependency_timeout_seconds{dependency="peer"})"), 1.5);
  EXPECT_EQ(permits("max"), 7);
  EXPECT_EQ(state("closed"), 1);
  EXPECT_EQ(state("open"), 0);
  EXPECT_EQ(state("half_open"), 0);
  OpenBreaker();
  EXPECT_EQ(state("closed"), 0);
  EXPECT_EQ(state("open"), 1);
  EXPECT_EQ(transitions("closed", "open"), 1);
  PassOpenTime();
  EXPECT_FALSE(ProtectOnce([&](Attempt&) -> Task<int> {
    EXPECT_EQ(state("open"), 0);
    EXPECT_EQ(state("half_open"), 1);
    EXPECT_EQ(permits("in_use"), 1);
    co_return Unavailable("still down");
  }));
  EXPECT_EQ(transitions("open", "half_open"), 1);
  EXPECT_EQ(transitions("half_open", "open"), 1);
  PassOpenTime();
  EXPECT_TRUE(ProtectOnce(1));
  EXPECT_EQ(state("closed"), 1);
  EXPECT_EQ(transitions("half_open", "closed"), 1);
  EXPECT_EQ(permits("in_use"), 0);
  EXPECT_EQ(told, (std::vector{State::kOpen, State::kHalfOpen, State::kOpen, State::kHalfOpen, State::kClosed}));
}

TEST_F(ProtectTest, TheTimeOfATryIsMeasuredOnTheDependencysClock) {
  ASSERT_TRUE(ProtectOnce([&](Attempt&) -> Task<int> {
    clock_.Advance(milliseconds(1'250));
    co_return 1;
  }));
  EXPECT_DOUBLE_EQ(Series(R"(nova_dependency_call_seconds_sum{dependency="peer"})"), 1.25);
}

// --- Everything at once. ---

// Tasks of one dependency, whose calls end in every way there is, in any order; and what must hold all the while and in
// the end.
class PipelineScheduleTest : public ProtectTest {
 protected:
  void RunSchedule(unsigned seed) {
    random_.seed(seed);
    config_.calls_max = Between(1, 6);
    config_.timeout = milliseconds(Between(1, 3));
    config_.slow = milliseconds(Between(5, 500));
    config_.breaker.window = Between(0, 1) == 0 ? BreakerConfig::Window::kCount : BreakerConfig::Window::kTime;
    config_.breaker.window_calls = Between(5, 20);
    config_.breaker.calls_min = 5;
    config_.breaker.failure_ratio = Between(3, 10) / 10.0;
    config_.breaker.open_time = milliseconds(Between(1, 200));
    config_.breaker.probes = Between(1, 3);
    config_.breaker.probe_limit = milliseconds(Between(1, 500));
    config_.faults = {};
    if (Between(0, 1) == 0)
      config_.faults = {
          .delay = 0.02, .error = 0.05, .abort = 0.05, .black_hole = 0.005, .delay_time = milliseconds(1)};
    metrics_of_one_ = std::make_unique<telemetry::Metrics>();
    dependency_ = std::make_unique<PeerDependency>(DependencyName("peer"), *metrics_of_one_, config_, clock_, seed);

    constexpr int kLanes = 8;
    std::vector<std::promise<void>> ended(kLanes);
    runtime::Scope scope(runtime_);
    for (auto& lane : ended) {
      scope.Spawn("lane", [&, this](Call& call) -> Task<void> {
        for (int i = 0; i < 25; ++i) {
          NOVA_CO_TRY(co_await OneCall(call));
          CheckAlways();
        }
        lane.set_value();
        co_return Ok();
      });
    }
    for (auto& lane : ended) {
      ASSERT_EQ(lane.get_future().wait_for(kTestLimit), std::future_status::ready) << "a call never ended";
    }
    ASSERT_TRUE(scope.Stop(kTestLimit));
    CheckInTheEnd();
  }

 private:
  int Between(int from, int to) { return std::uniform_int_distribution<int>(from, to)(random_); }

  // Every lane has a strand of its own, but the runtime has one thread: what they share needs no lock.
  Task<void> OneCall(Call& call) {
    RetryAllowance allowance{.left = Between(0, 3)};
    Call request(call.strand(),
                 {.deadline = Between(0, 9) == 0 ? Clock::System().Now() + milliseconds(1) : call.deadline(),
                  .retries = Between(0, 1) == 0 ? &allowance : nullptr});
    const ProtectOptions options{.idempotency = Between(0, 2) == 0 ? Idempotency::kNone : Idempotency::kSafe,
                                 .always = Between(0, 9) == 0,
                                 .lasting = false};
    if (Between(0, 9) == 0) {
      // Dropped in the middle.
      Guard guard(request, *dependency_, options);
      if (guard.Begin()) {
        clock_.Advance(milliseconds(Between(0, 20)));
        NOVA_CO_TRY(co_await Yield(call));
      }
      co_return Ok();
    }
    // For those who come later: whether it is still there.
    const std::shared_ptr<Call> alive(&request, [](Call*) {});
    try {
      (void)co_await Protect(request, *dependency_, [&](Attempt& attempt) { return Work(alive, attempt); }, options);
    } catch (const std::runtime_error&) {
    }
    if (!orphans_.empty() && Between(0, 1) == 0) orphans_.erase(orphans_.begin());
    co_return Ok();
  }

  Task<void> Work(const std::shared_ptr<Call>& request, Attempt& attempt) {
    for (int i = Between(0, 3); i > 0; --i) NOVA_CO_TRY(co_await Yield(attempt.call()));
    clock_.Advance(milliseconds(Between(0, 10)));
    // The mood of the dependency changes from time to time.
    if (Between(0, 30) == 0) good_of_ten_ = Between(0, 10);
    if (Between(0, 9) < good_of_ten_) co_return Ok();
    switch (Between(0, 6)) {
      case 0:
        asio::post(request->strand(), [weak = std::weak_ptr(request)] {
          if (const auto alive = weak.lock()) alive->Cancel(Cancelled("no longer wanted"));
        });
        co_return co_await runtime::Sleep(attempt.call(), hours(1));
      case 1:
        if (auto permit = attempt.TakePermit()) {
          permit.Orphan();
          orphans_.push_back(std::move(permit));
        }
        co_return Cancelled("the caller has gone");
      case 2:
        throw std::runtime_error("a bug");
      case 3:
        attempt.SetPushBack(Between(0, 1) == 0 ? PushBack{} : PushBack{.wait = milliseconds(0)});
        co_return ResourceExhausted("busy");
      default:
        co_return Error(static_cast<Code>(Between(1, kCodeCount - 1)), "of a test");
    }
  }

  double Sum(const std::string& name) {
    double sum = 0;
    std::istringstream text(metrics_of_one_->Scrape());
    for (std::string line; std::getline(text, line);) {
      if (line.starts_with(name)) sum += std::stod(line.substr(line.find_last_of(' ') + 1));
    }
    return sum;
  }

  void CheckAlways() {
    ASSERT_LE(dependency_->bulkhead().in_use(), config_.calls_max);
    ASSERT_EQ(dependency_->bulkhead().orphaned(), static_cast<int>(orphans_.size()));
    ASSERT_LE(dependency_->breaker().probes_in_flight(), config_.breaker.probes);
    ASSERT_GE(dependency_->retry_budget().tokens(), 0);
  }

  void CheckInTheEnd() {
    EXPECT_EQ(dependency_->bulkhead().in_use(), static_cast<int>(orphans_.size()));
    orphans_.clear();
    EXPECT_EQ(Sum(R"(nova_bulkhead_permits{dependency="peer",state="in_use"})"), 0);
    EXPECT_EQ(Sum(R"(nova_bulkhead_permits{dependency="peer",state="orphaned"})"), 0);
    // What was written off is gone as well.
    clock_.Advance(config_.breaker.probe_limit + config_.breaker.open_time * 6 / 5);
    ExpectAllPermitsBack();
    const double refused = Sum(R"(nova_dependency_calls_total{dependency="peer",outcome="open"})") +
                           Sum(R"(nova_dependency_calls_total{dependency="peer",outcome="full"})");
    const double made = Sum("nova_dependency_call_seconds_count");
    EXPECT_EQ(Sum("nova_dependency_calls_total"), refused + made);
    const double retries = Sum("nova_dependency_retries_total");
    EXPECT_LE(retries * 5, made);
    total_made_ += made;
    total_retries_ += retries;
    total_refused_ += refused;
  }

 protected:
  double total_made_ = 0;
  double total_retries_ = 0;
  double total_refused_ = 0;

 private:
  std::mt19937 random_;
  int good_of_ten_ = 7;
  std::unique_ptr<telemetry::Metrics> metrics_of_one_;
  std::vector<Bulkhead::Permit> orphans_;
};

TEST_F(PipelineScheduleTest, PermitsAndTokensAddUpUnderAnySchedule) {
  std::mt19937 random(tests::TestSeed());
  for (int schedule = 0; schedule < 100 && !HasFailure(); ++schedule) {
    const auto seed = static_cast<unsigned>(random());
    SCOPED_TRACE("schedule " + std::to_string(schedule) + ", its seed " + std::to_string(seed));
    RunSchedule(seed);
    dependency_.reset();
  }
  // Or else it has shown nothing.
  EXPECT_GT(total_made_, 1'000);
  EXPECT_GT(total_retries_, 20);
  EXPECT_GT(total_refused_, 100);
}

TEST_F(ProtectTest, ThreadsShareADependency) {
  constexpr int kLanes = 8;
  constexpr int kCalls = 500;
  config_.calls_max = kLanes / 2;
  config_.breaker.window_calls = config_.breaker.calls_min = 10;
  config_.breaker.failure_ratio = 0.5;
  config_.breaker.open_time = milliseconds(1);
  const unsigned seed = tests::TestSeed();
  (void)dependency();
  runtime::Runtime runtime({.threads = 4});
  runtime::Scope scope(runtime);
  std::atomic<int> inside = 0;
  std::vector<std::promise<void>> ended(kLanes);
  for (unsigned i = 0; i < kLanes; ++i) {
    scope.Spawn("lane", [&, i](Call& call) -> Task<void> {
      std::mt19937 random(seed + i);
      for (int made = 0; made < kCalls; ++made) {
        (void)co_await Protect(call, dependency(),
                               [&](Attempt& attempt) -> Task<int> {
                                 EXPECT_LE(inside.fetch_add(1) + 1, config_.calls_max);
                                 const auto yielded = co_await Yield(attempt.call());
                                 inside.fetch_sub(1);
                                 if (!yielded || random() % 3 == 0) co_return Unavailable("shaky");
                                 co_return 1;
                               },
                               {.idempotency = Idempotency::kSafe});
        clock_.Advance(std::chrono::microseconds(100));
      }
      ended[i].set_value();
      co_return Ok();
    });
  }
  for (auto& lane : ended) ASSERT_EQ(lane.get_future().wait_for(kTestLimit), std::future_status::ready);
  ASSERT_TRUE(scope.Stop(kTestLimit));
  ExpectAllPermitsBack();
  EXPECT_GT(Calls("ok"), 0);
  EXPECT_GT(Calls("failed"), 0);
  EXPECT_LE(Retries(), 0.2 * kLanes * kCalls);
  EXPECT_EQ(Made(), Calls("ok") + Calls("failed"));
  EXPECT_EQ(Made() + Calls("open") + Calls("full"), kLanes * kCalls + Retries());
}

}  // namespace
}  // namespace nova::resilience
