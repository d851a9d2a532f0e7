// The cache on a clock that moves when told, over a source that answers when told. One thread runs everything, so after
// Rest whatever could happen has happened: nothing here waits for time to pass, but the tests of real threads and of a
// reader's own deadline.
#include "nova/secrets/secret_manager.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <boost/asio/post.hpp>
#include <chrono>
#include <deque>
#include <future>
#include <gtest/gtest.h>
#include <latch>
#include <map>
#include <mutex>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "nova/config/config.h"
#include "nova/runtime/one_shot.h"
#include "nova/runtime/runtime.h"
#include "nova/runtime/scope.h"
#include "nova/telemetry/log.h"
#include "tests/seed.h"

namespace nova::secrets {
namespace {

using runtime::Call;
using runtime::OneShot;
using runtime::Task;
using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using std::chrono::seconds;

// For what ends at once when the code is right.
constexpr Duration kLimit = seconds(30);
// More turns than any chain of events here has links.
constexpr int kTurns = 24;

constexpr std::array kAllFailures = {Failure::kNotFound,  Failure::kAccessDenied,  Failure::kDecryptionFailed,
                                     Failure::kThrottled, Failure::kInvalidFormat, Failure::kExpiredCredentials,
                                     Failure::kNetwork};

Error Failed(Failure failure) { return Fail(failure, std::string("as told: ") + FailureName(failure)); }

SecretValue ValueOf(const std::string& text) {
  return {.value = Secret<>(text), .version_id = text, .stages = {std::string(kCurrent)}};
}

// Tens of thousands of failures are to be expected.
class QuietLog final : public testing::Environment {
 public:
  void SetUp() override {
    telemetry::InitLogging({}, [](std::string_view) {});
  }
};
const testing::Environment* const kQuietLog = testing::AddGlobalTestEnvironment(new QuietLog);

// Lets whatever else is queued go first.
Task<void> Turn(Call&) {
  (void)co_await runtime::Await<bool>([](const runtime::Resolver<bool>& resolver) { resolver(true); });
  co_return Ok();
}

// Keeps every request until the test answers it. Thread-safe.
class ScriptedSource final : public SecretSource {
 public:
  struct Request {
    std::string id;
    std::string version;
    bool is_id = false;
    Duration remaining = {};
    OneShot<SecretValue> answer = {};
  };

  // Requests do not end with their calls.
  void IgnoreCancellation() { stubborn_ = true; }

  Task<SecretValue> Fetch(Call& call, std::string id, std::string version, bool is_id) override {
    const Request request{std::move(id), std::move(version), is_id, call.Remaining()};
    {
      std::lock_guard lock(mutex_);
      ++begun_;
      open_.push_back(request);
    }
    if (!stubborn_) co_return co_await request.answer.Wait(call);
    Call endless(call.strand());
    co_return co_await request.answer.Wait(endless);
  }

  int begun() const {
    std::lock_guard lock(mutex_);
    return begun_;
  }
  // Oldest first.
  std::deque<Request> open() const {
    std::lock_guard lock(mutex_);
    return open_;
  }
  Request Take(std::size_t index) {
    std::lock_guard lock(mutex_);
    const Request taken = open_.at(index);
    open_.erase(open_.begin() + static_cast<std::ptrdiff_t>(index));
    return taken;
  }

 private:
  std::atomic<bool> stubborn_ = false;
  mutable std::mutex mutex_;
  int begun_ = 0;             // guarded by mutex_
  std::deque<Request> open_;  // guarded by mutex_
};

// Somebody who reads, and may give up.
class Reader {
 public:
  using Read = std::function<Task<SecretHandle>(Call&)>;

  Reader(runtime::Scope& scope, Read read, Duration limit = hours(1)) : state_(std::make_shared<State>()) {
    answer_ = state_->answer.get_future();
    scope.Spawn("a reader", [state = state_, read = std::move(read), limit](Call& all) -> Task<void> {
      Result<SecretHandle> answer = Internal("not read");
      {
        Call call(all, limit);
        state->strand = call.strand();
        state->call = &call;
        answer = co_await read(call);
        state->call = nullptr;
      }
      state->answer.set_value(std::move(answer));
      co_return Ok();
    });
  }

  bool done() const { return answer_.wait_for(seconds(0)) == std::future_status::ready; }
  Result<SecretHandle> Answer() { return answer_.get(); }
  // Precondition: it has begun.
  void GiveUp() {
    boost::asio::post(*state_->strand, [state = state_] {
      if (state->call != nullptr) state->call->Cancel(Cancelled("the reader has gone"));
    });
  }

 private:
  struct State {
    std::optional<runtime::Strand> strand;
    Call* call = nullptr;  // confined to the strand
    std::promise<Result<SecretHandle>> answer;
  };

  std::shared_ptr<State> state_;
  std::future<Result<SecretHandle>> answer_;
};

// A manager of its own over a scripted source.
class Stage {
 public:
  explicit Stage(const CacheConfig& cache = {}, std::uint64_t seed = 1) {
    auto built = SecretManager::Builder(runtime_, metrics_, source_).Cache(cache).UseClock(clock_).Seed(seed).Build();
    EXPECT_TRUE(built.ok());
    manager_ = *std::move(built);
  }
  ~Stage() {
    EXPECT_TRUE(manager_->Close(kLimit).ok());
    EXPECT_TRUE(readers_.Stop(kLimit).ok());
  }
  Stage(const Stage&) = delete;
  Stage& operator=(const Stage&) = delete;

  SecretManager& manager() { return *manager_; }
  ScriptedSource& source() { return source_; }
  FakeClock& clock() { return clock_; }
  telemetry::Metrics& metrics() { return metrics_; }
  CacheStats stats() const { return manager_->Stats(); }

  void Rest() {
    (void)runtime_.RunBlocking<void>(kLimit, [](Call& call) -> Task<void> {
      for (int turn = 0; turn < kTurns; ++turn) NOVA_CO_TRY(co_await Turn(call));
      co_return Ok();
    });
  }
  void Advance(Duration by) { clock_.Advance(by); }

  // Begun, not ended.
  Reader Begin(const std::string& id = "a", const std::string& stage = std::string(kCurrent),
               Duration limit = hours(1)) {
    return {readers_, [this, id, stage](Call& call) { return manager_->GetSecret(call, id, Version::Stage(stage)); },
            limit};
  }
  Reader BeginRefresh(const std::string& id = "a") {
    return {readers_, [this, id](Call& call) { return manager_->Refresh(call, id); }};
  }
  // What is answered without the source; nothing if the reader has to wait, which it then goes on doing.
  std::optional<Result<SecretHandle>> TryRead(const std::string& id = "a") {
    Reader reader = Begin(id);
    Rest();
    if (!reader.done()) return std::nullopt;
    return reader.Answer();
  }
  // What a reader sees at once, as text.
  std::string Seen(const std::string& id = "a") {
    const auto answer = TryRead(id);
    if (!answer) return "waits";
    return *answer ? (**answer)->value.Expose() : std::string(CodeName(answer->error().code()));
  }

  void Answer(Result<SecretValue> answer, std::size_t index = 0) {
    EXPECT_TRUE(source_.Take(index).answer.TrySet(std::move(answer)));
    Rest();
  }
  void Answer(const std::string& text) { Answer(Result<SecretValue>(ValueOf(text))); }
  void AnswerWith(Failure failure) { Answer(Result<SecretValue>(Failed(failure))); }
  // Into the cache.
  void Put(const std::string& id, const std::string& text) {
    Reader reader = Begin(id);
    Rest();
    Answer(text);
    ASSERT_TRUE(reader.done());
    ASSERT_TRUE(reader.Answer().ok());
  }

 private:
  FakeClock clock_;
  telemetry::Metrics metrics_;
  ScriptedSource source_;
  runtime::Runtime runtime_{{.threads = 1}};
  runtime::Scope readers_{runtime_};
  std::unique_ptr<SecretManager> manager_;
};

TEST(SecretManagerTest, ForgettingAgainAndAgainDoesNotMakeRequestsWithoutEnd) {
  Stage stage({.size_max = 2});
  std::vector<Reader> readers;
  for (int i = 0; i < 10; ++i) {
    readers.push_back(stage.Begin());
    stage.Rest();
    stage.manager().Invalidate("a");
  }
  EXPECT_EQ(stage.source().begun(), 4);
  EXPECT_EQ(std::ranges::count_if(readers, &Reader::done), 6);
  EXPECT_EQ(readers.back().Answer().error().code(), Code::kResourceExhausted);
  Reader refresh = stage.BeginRefresh();
  stage.Rest();
  ASSERT_TRUE(refresh.done());
  EXPECT_EQ(refresh.Answer().error().code(), Code::kResourceExhausted);
  // Each that ends makes room for another.
  stage.Answer("old");
  EXPECT_EQ(stage.Seen(), "waits");
  EXPECT_EQ(stage.source().begun(), 5);
  for (int i = 0; i < 3; ++i) stage.Answer("older");
  stage.Answer("new");
  EXPECT_EQ(stage.Seen(), "new");
}

bool Exports(Stage& stage, const std::string& line) {
  return ("\n" + stage.metrics().Scrape()).contains("\n" + line + "\n");
}

class SingleFlightTest : public testing::TestWithParam<int> {};

TEST_P(SingleFlightTest, ManyFirstReadersMakeOneRequest) {
  Stage stage;
  std::vector<Reader> readers;
  for (int i = 0; i < GetParam(); ++i) readers.push_back(stage.Begin());
  stage.Rest();
  EXPECT_EQ(stage.stats().misses, static_cast<std::uint64_t>(GetParam()));
  ASSERT_EQ(stage.source().begun(), 1);
  EXPECT_TRUE(std::ranges::none_of(readers, &Reader::done));
  stage.Answer("v");
  std::set<const SecretValue*> seen;
  for (Reader& reader : readers) {
    ASSERT_TRUE(reader.done());
    const auto answer = reader.Answer();
    ASSERT_TRUE(answer.ok());
    seen.insert(answer->get());
  }
  EXPECT_EQ(seen.size(), 1u);
  EXPECT_EQ(stage.source().begun(), 1);
  EXPECT_EQ(stage.stats().fetches, 1u);
}

TEST_P(SingleFlightTest, ManyFirstReadersLearnOfOneFailure) {
  Stage stage;
  std::vector<Reader> readers;
  for (int i = 0; i < GetParam(); ++i) readers.push_back(stage.Begin());
  stage.Rest();
  stage.AnswerWith(Failure::kAccessDenied);
  for (Reader& reader : readers) {
    ASSERT_TRUE(reader.done());
    EXPECT_EQ(reader.Answer().error().code(), Code::kPermissionDenied);
  }
  EXPECT_EQ(stage.source().begun(), 1);
}

INSTANTIATE_TEST_SUITE_P(Readers, SingleFlightTest, testing::Values(10, 100, 10'000));

TEST(SecretManagerTest, TheFirstReaderGivesUpAndTheOthersAreServed) {
  Stage stage;
  Reader first = stage.Begin();
  stage.Rest();
  Reader second = stage.Begin();
  stage.Rest();
  first.GiveUp();
  stage.Rest();
  ASSERT_TRUE(first.done());
  EXPECT_EQ(first.Answer().error().code(), Code::kCancelled);
  EXPECT_FALSE(second.done());
  stage.Answer("v");
  ASSERT_TRUE(second.done());
  EXPECT_EQ((*second.Answer())->value.Expose(), "v");
  EXPECT_EQ(stage.source().begun(), 1);
}

TEST(SecretManagerTest, ARequestThatNobodyWaitsForAnyMoreStillFillsTheCache) {
  Stage stage;
  std::vector<Reader> readers;
  for (int i = 0; i < 100; ++i) readers.push_back(stage.Begin());
  stage.Rest();
  for (Reader& reader : readers) reader.GiveUp();
  stage.Rest();
  EXPECT_TRUE(std::ranges::all_of(readers, &Reader::done));
  ASSERT_EQ(stage.source().open().size(), 1u);
  stage.Answer("v");
  EXPECT_EQ(stage.Seen(), "v");
  EXPECT_EQ(stage.source().begun(), 1);
}

TEST(SecretManagerTest, AReadersDeadlineEndsItsOwnWaitOnly) {
  Stage stage;
  Reader patient = stage.Begin();
  Reader hasty = stage.Begin("a", std::string(kCurrent), milliseconds(5));
  EXPECT_EQ(hasty.Answer().error().code(), Code::kDeadlineExceeded);
  stage.Rest();
  EXPECT_FALSE(patient.done());
  ASSERT_EQ(stage.source().open().size(), 1u);
  stage.Answer("v");
  EXPECT_TRUE(patient.done());
  EXPECT_EQ(stage.source().begun(), 1);
}

TEST(SecretManagerTest, ARequestHasALimitOfItsOwn) {
  Stage stage;
  Reader reader = stage.Begin("a", std::string(kCurrent), milliseconds(5));
  EXPECT_FALSE(reader.Answer().ok());
  stage.Rest();
  const Duration remaining = stage.source().open().at(0).remaining;
  EXPECT_LE(remaining, SecretManager::kFetchLimit);
  EXPECT_GT(remaining, SecretManager::kFetchLimit - kLimit / 3);
}

TEST(SecretManagerTest, BetweenTheTtlsNobodyWaitsAndOneRequestIsMade) {
  Stage stage;
  stage.Put("a", "old");
  stage.Advance(seconds(300));
  for (int i = 0; i < 100; ++i) EXPECT_EQ(stage.Seen(), "old");
  EXPECT_EQ(stage.source().begun(), 2);
  stage.Advance(seconds(29));
  EXPECT_EQ(stage.Seen(), "old");
  EXPECT_EQ(stage.source().begun(), 2);
  stage.Answer("new");
  EXPECT_EQ(stage.Seen(), "new");
  EXPECT_EQ(stage.stats().hits, 102u);
  EXPECT_EQ(stage.stats().misses, 1u);
}

TEST(SecretManagerTest, FromTheHardTtlOnReadersWaitForARequest) {
  Stage stage;
  stage.Put("a", "old");
  stage.Advance(seconds(330) - nanoseconds(1));
  EXPECT_EQ(stage.Seen(), "old");
  stage.Advance(nanoseconds(1));
  Reader reader = stage.Begin();
  stage.Rest();
  EXPECT_FALSE(reader.done());
  EXPECT_EQ(stage.source().begun(), 2);
  stage.Answer("new");
  ASSERT_TRUE(reader.done());
  EXPECT_EQ((*reader.Answer())->value.Expose(), "new");
}

TEST(SecretManagerTest, AgeCountsFromWhenTheRequestWasMade) {
  Stage stage;
  Reader reader = stage.Begin();
  stage.Rest();
  stage.Advance(seconds(10));
  stage.Answer("v");
  stage.Advance(seconds(320) - nanoseconds(1));
  EXPECT_EQ(stage.Seen(), "v");
  stage.Advance(nanoseconds(1));
  EXPECT_EQ(stage.Seen(), "waits");
  stage.Answer(Failed(Failure::kNotFound));
  EXPECT_EQ(stage.Seen(), "NOT_FOUND");
}

// How long after the last fetch the next one begins, read every so often.
Duration AgeOfRefresh(Stage& stage, Duration step) {
  const int before = stage.source().begun();
  Duration age{};
  while (stage.source().begun() == before) {
    stage.Advance(step);
    age += step;
    EXPECT_NE(stage.Seen(), "waits");
  }
  return age;
}

TEST(SecretManagerTest, TheFirstSoftTtlIsUpToATenthShorterAndLaterOnesAreExact) {
  std::set<Duration> firsts;
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    Stage stage({}, seed);
    stage.Put("a", "v");
    stage.Advance(seconds(269));
    const Duration first = seconds(269) + AgeOfRefresh(stage, milliseconds(500));
    EXPECT_GE(first, seconds(270));
    EXPECT_LE(first, seconds(300));
    firsts.insert(first);
    for (int later = 0; later < 2; ++later) {
      stage.Answer("v");
      stage.Advance(seconds(299));
      EXPECT_EQ(AgeOfRefresh(stage, milliseconds(500)), seconds(1));
    }
  }
  EXPECT_GT(firsts.size(), 5u) << "processes that start together would ask together";
}

class FailureTest : public testing::TestWithParam<Failure> {};

TEST_P(FailureTest, AnOldValueHidesOnlyWhatTimeAloneMayMend) {
  const std::string kind(CodeName(Failed(GetParam()).code()));
  Stage stage;
  stage.Put("a", "old");
  // In the background, before the hard TTL.
  stage.Advance(seconds(300));
  EXPECT_EQ(stage.Seen(), "old");
  stage.AnswerWith(GetParam());
  EXPECT_EQ(stage.Seen(), IsTransient(GetParam()) ? "old" : kind);

  // Waited for, after it.
  stage.manager().InvalidateAll();
  stage.Put("a", "old");
  stage.Advance(seconds(331));
  Reader reader = stage.Begin();
  stage.Rest();
  ASSERT_FALSE(reader.done());
  stage.AnswerWith(GetParam());
  ASSERT_TRUE(reader.done());
  const auto answer = reader.Answer();
  EXPECT_EQ(answer.ok(), IsTransient(GetParam()));
  if (!answer) EXPECT_EQ(FailureOf(answer.error()), GetParam());

  // At the end of the stale limit.
  stage.manager().InvalidateAll();
  stage.Put("a", "old");
  stage.Advance(seconds(330) + hours(1) - nanoseconds(1));
  Reader last = stage.Begin();
  stage.Rest();
  stage.AnswerWith(GetParam());
  ASSERT_TRUE(last.done());
  EXPECT_EQ(last.Answer().ok(), IsTransient(GetParam()));
  stage.Advance(nanoseconds(1));
  EXPECT_EQ(stage.Seen(), kind);
}

TEST_P(FailureTest, ForgottenFailuresAreAskedAboutAgain) {
  Stage stage;
  Reader reader = stage.Begin();
  stage.Rest();
  stage.AnswerWith(GetParam());
  ASSERT_TRUE(reader.done());
  EXPECT_EQ(FailureOf(reader.Answer().error()), GetParam());
  EXPECT_EQ(stage.Seen(), std::string(CodeName(Failed(GetParam()).code())));
  EXPECT_EQ(stage.source().begun(), 1);
  stage.Advance(IsTransient(GetParam()) ? seconds(1) : seconds(5) - nanoseconds(1));
  if (!IsTransient(GetParam())) {
    EXPECT_NE(stage.Seen(), "waits");
    stage.Advance(nanoseconds(1));
  }
  EXPECT_EQ(stage.Seen(), "waits");
  EXPECT_EQ(stage.source().begun(), 2);
  stage.Answer("v");
  EXPECT_EQ(stage.Seen(), "v");
}

INSTANTIATE_TEST_SUITE_P(Kinds, FailureTest, testing::ValuesIn(kAllFailures),
                         [](const auto& of) { return std::string(FailureName(of.param)); });

TEST(SecretManagerTest, WhatIsNoFailureOfAwsTakesTheValueAwayToo) {
  Stage stage;
  stage.Put("a", "old");
  stage.Advance(seconds(300));
  EXPECT_EQ(stage.Seen(), "old");
  stage.Answer(Result<SecretValue>(Internal("a bug")));
  EXPECT_EQ(stage.Seen(), "INTERNAL");
}

TEST(SecretManagerTest, WhileItKeepsFailingNobodyWaitsForTheNextTry) {
  Stage stage;
  stage.Put("a", "old");
  stage.Advance(seconds(300));
  EXPECT_EQ(stage.Seen(), "old");
  stage.AnswerWith(Failure::kNetwork);
  const SteadyTime gone = stage.clock().Now() + seconds(30) + hours(1);
  while (stage.clock().Now() + seconds(20) < gone) {
    // A request that hangs as long as it may.
    stage.Advance(SecretManager::kFetchLimit - seconds(1));
    EXPECT_EQ(stage.Seen(), "old");
    if (stage.source().open().empty()) continue;
    stage.Answer(Result<SecretValue>(DeadlineExceeded("no answer")));
  }
  EXPECT_GT(stage.stats().stale, 200u);
  EXPECT_EQ(stage.stats().misses, 1u);
  stage.Advance(seconds(60));
  if (!stage.source().open().empty()) stage.AnswerWith(Failure::kNetwork);
  EXPECT_NE(stage.Seen(), "old");
}

TEST(SecretManagerTest, AFailureLongAgoIsNoReasonToServeAnOldValue) {
  Stage stage;
  stage.Put("a", "old");
  stage.Advance(seconds(331));
  EXPECT_EQ(stage.Seen(), "waits");
  stage.AnswerWith(Failure::kNetwork);
  EXPECT_EQ(stage.Seen(), "old");
  stage.Advance(std::chrono::minutes(30));
  Reader reader = stage.Begin();
  stage.Rest();
  ASSERT_FALSE(reader.done());
  stage.Answer("new");
  ASSERT_TRUE(reader.done());
  EXPECT_EQ((*reader.Answer())->value.Expose(), "new");
}

std::vector<Duration> Pauses(std::uint64_t seed, int count) {
  Stage stage({}, seed);
  EXPECT_EQ(stage.Seen(), "waits");
  std::vector<Duration> pauses;
  for (int i = 0; i < count; ++i) {
    stage.AnswerWith(Failure::kThrottled);
    const Duration step = std::min<Duration>(milliseconds(10) * (1 << std::min(i, 10)), milliseconds(600));
    Duration pause{};
    while (stage.source().open().empty()) {
      stage.Advance(step);
      pause += step;
      EXPECT_NE(stage.Seen(), "");
    }
    pauses.push_back(pause);
    EXPECT_GE(pause, std::min<Duration>(seconds(1) * (1 << i), seconds(60)) / 2) << i;
    EXPECT_LE(pause, std::min<Duration>(seconds(1) * (1 << i), seconds(60)) + step) << i;
  }
  return pauses;
}

TEST(SecretManagerTest, PausesDoubleUpToACapAndASeedRepeatsThem) {
  const auto pauses = Pauses(7, 10);
  EXPECT_EQ(Pauses(7, 10), pauses);
  EXPECT_NE(Pauses(8, 10), pauses);
}

TEST(SecretManagerTest, ASuccessEndsTheDoubling) {
  Stage stage;
  EXPECT_EQ(stage.Seen(), "waits");
  for (int i = 0; i < 8; ++i) {
    stage.AnswerWith(Failure::kNetwork);
    stage.Advance(seconds(60));
    EXPECT_EQ(stage.Seen(), "waits");
  }
  stage.Answer("v");
  stage.Advance(seconds(300));
  EXPECT_EQ(stage.Seen(), "v");
  stage.AnswerWith(Failure::kNetwork);
  const int before = stage.source().begun();
  stage.Advance(milliseconds(499));
  EXPECT_EQ(stage.Seen(), "v");
  EXPECT_EQ(stage.source().begun(), before);
  stage.Advance(milliseconds(501));
  EXPECT_EQ(stage.Seen(), "v");
  EXPECT_EQ(stage.source().begun(), before + 1);
}

TEST(SecretManagerTest, ASuccessEndsThePause) {
  Stage stage({.soft_ttl = seconds(10), .hard_ttl = seconds(20)});
  EXPECT_EQ(stage.Seen(), "waits");
  for (int i = 0; i < 8; ++i) {
    stage.AnswerWith(Failure::kNetwork);
    stage.Advance(seconds(60));
    EXPECT_EQ(stage.Seen(), "waits");
  }
  stage.AnswerWith(Failure::kNetwork);
  Reader refresh = stage.BeginRefresh();
  stage.Rest();
  stage.Answer("v");
  EXPECT_TRUE(refresh.done());
  const int before = stage.source().begun();
  stage.Advance(seconds(10));
  EXPECT_EQ(stage.Seen(), "v");
  EXPECT_EQ(stage.source().begun(), before + 1);
}

TEST(SecretManagerTest, RefusalsDoNotLengthenThePauseAfterABadMinute) {
  Stage stage;
  EXPECT_EQ(stage.Seen(), "waits");
  for (int i = 0; i < 8; ++i) {
    stage.AnswerWith(Failure::kNotFound);
    stage.Advance(seconds(5));
    EXPECT_EQ(stage.Seen(), "waits");
  }
  stage.AnswerWith(Failure::kNetwork);
  stage.Advance(seconds(1));
  EXPECT_EQ(stage.Seen(), "waits");
}

TEST(SecretManagerTest, WhatIsForgottenDuringARequestDoesNotComeBack) {
  for (const bool all : {false, true}) {
    Stage stage;
    Reader before = stage.Begin();
    stage.Rest();
    if (all) {
      stage.manager().InvalidateAll();
    } else {
      stage.manager().Invalidate("a");
    }
    Reader after = stage.Begin();
    stage.Rest();
    EXPECT_EQ(stage.source().begun(), 2);
    stage.Answer("old");
    ASSERT_TRUE(before.done());
    EXPECT_EQ((*before.Answer())->value.Expose(), "old");
    EXPECT_FALSE(after.done());
    stage.Answer("new");
    ASSERT_TRUE(after.done());
    EXPECT_EQ((*after.Answer())->value.Expose(), "new");
    EXPECT_EQ(stage.Seen(), "new");

    // The other way round, the slower answer is the older one.
    stage.manager().Invalidate("a");
    EXPECT_EQ(stage.Seen(), "waits");
    stage.manager().Invalidate("a");
    EXPECT_EQ(stage.Seen(), "waits");
    stage.Answer(Result<SecretValue>(ValueOf("newest")), 1);
    stage.Answer("old");
    EXPECT_EQ(stage.Seen(), "newest");
  }
}

TEST(SecretManagerTest, AFailureOfARequestForgottenIsForgottenToo) {
  Stage stage;
  EXPECT_EQ(stage.Seen(), "waits");
  stage.manager().Invalidate("a");
  stage.AnswerWith(Failure::kAccessDenied);
  EXPECT_EQ(stage.Seen(), "waits");
  EXPECT_EQ(stage.source().begun(), 2);
}

TEST(SecretManagerTest, InvalidateForgetsAllVersionsOfOneSecret) {
  Stage stage;
  stage.Put("a", "a");
  stage.Put("b", "b");
  Reader previous = stage.Begin("a", std::string(kPrevious));
  stage.Rest();
  stage.Answer("previous");
  EXPECT_EQ(stage.stats().size, 3u);
  stage.manager().Invalidate("a");
  EXPECT_EQ(stage.stats().size, 1u);
  EXPECT_EQ(stage.Seen("b"), "b");
  EXPECT_EQ(stage.Seen("a"), "waits");
  stage.manager().Invalidate("nobody has read this");
}

TEST(SecretManagerTest, RefreshAsksWhateverIsCached) {
  Stage stage;
  stage.Put("a", "old");
  Reader refresh = stage.BeginRefresh();
  stage.Rest();
  EXPECT_FALSE(refresh.done());
  EXPECT_EQ(stage.Seen(), "old");
  Reader joined = stage.BeginRefresh();
  stage.Rest();
  EXPECT_EQ(stage.source().begun(), 2);
  stage.Answer("new");
  EXPECT_EQ((*refresh.Answer())->value.Expose(), "new");
  EXPECT_EQ((*joined.Answer())->value.Expose(), "new");
  EXPECT_EQ(stage.Seen(), "new");
}

TEST(SecretManagerTest, RefreshGetsTheFailureWhereGetSecretGetsAnOldValue) {
  Stage stage;
  stage.Put("a", "old");
  stage.Advance(seconds(331));
  Reader reader = stage.Begin();
  stage.Rest();
  Reader refresh = stage.BeginRefresh();
  stage.Rest();
  EXPECT_EQ(stage.source().begun(), 2);
  stage.AnswerWith(Failure::kNetwork);
  EXPECT_EQ((*reader.Answer())->value.Expose(), "old");
  EXPECT_EQ(refresh.Answer().error().code(), Code::kUnavailable);
}

TEST(SecretManagerTest, RefreshDoesNotHeedPauses) {
  Stage stage;
  EXPECT_EQ(stage.Seen(), "waits");
  stage.AnswerWith(Failure::kNotFound);
  EXPECT_EQ(stage.Seen(), "NOT_FOUND");
  Reader refresh = stage.BeginRefresh();
  stage.Rest();
  EXPECT_EQ(stage.source().begun(), 2);
  stage.Answer("v");
  EXPECT_EQ(stage.Seen(), "v");
}

TEST(SecretManagerTest, StagesAndIdsOfTheSameTextAreDifferentVersions) {
  Stage stage;
  runtime::Runtime runtime({.threads = 1});
  runtime::Scope scope(runtime);
  Reader by_id(scope, [&](Call& call) { return stage.manager().GetSecret(call, "a", Version::Id("x")); });
  while (stage.source().begun() < 1) stage.Rest();
  Reader by_stage = stage.Begin("a", "x");
  stage.Rest();
  const auto open = stage.source().open();
  ASSERT_EQ(open.size(), 2u);
  EXPECT_TRUE(open[0].is_id);
  EXPECT_FALSE(open[1].is_id);
  EXPECT_EQ(open[0].id, "a");
  EXPECT_EQ(open[0].version, "x");
  stage.Answer("by id");
  stage.Answer("by stage");
  EXPECT_EQ((*by_id.Answer())->value.Expose(), "by id");
  EXPECT_EQ((*by_stage.Answer())->value.Expose(), "by stage");
  EXPECT_EQ(stage.stats().size, 2u);
  EXPECT_TRUE(scope.Stop(kLimit).ok());
}

TEST(SecretManagerTest, TheLeastRecentlyReadGoesFirst) {
  Stage stage({.size_max = 3});
  for (const char* id : {"a", "b", "c"}) {
    stage.Put(id, id);
    stage.Advance(seconds(1));
  }
  EXPECT_EQ(stage.Seen("a"), "a");
  stage.Put("d", "d");
  EXPECT_EQ(stage.stats().size, 3u);
  EXPECT_EQ(stage.stats().evictions, 1u);
  for (const char* id : {"a", "c", "d"}) EXPECT_EQ(stage.Seen(id), id);
  EXPECT_EQ(stage.Seen("b"), "waits");
}

TEST(SecretManagerTest, TheLeastRecentlyReadVersionOfOneSecretGoesFirst) {
  Stage stage({.size_max = 3});
  const auto read = [&](const std::string& label) {
    Reader reader = stage.Begin("a", label);
    stage.Rest();
    const bool cached = reader.done();
    if (!cached) stage.Answer(label);
    stage.Advance(seconds(1));
    return cached;
  };
  for (const char* label : {"one", "two", "three"}) EXPECT_FALSE(read(label));
  EXPECT_TRUE(read("one"));
  EXPECT_FALSE(read("four"));
  for (const char* label : {"one", "three", "four"}) EXPECT_TRUE(read(label)) << label;
  EXPECT_FALSE(read("two"));
}

TEST(SecretManagerTest, TheBoundIsExactHoweverNamesAreSpread) {
  Stage stage;
  for (int i = 0; i < 1000; ++i) {
    stage.Put(std::to_string(i), "v");
    stage.Advance(nanoseconds(1));
  }
  EXPECT_EQ(stage.stats().size, 1000u);
  EXPECT_EQ(stage.stats().evictions, 0u);
  for (int i = 1000; i < 1100; ++i) {
    stage.Put(std::to_string(i), "v");
    stage.Advance(nanoseconds(1));
  }
  EXPECT_EQ(stage.stats().size, 1000u);
  EXPECT_EQ(stage.stats().evictions, 100u);
  EXPECT_EQ(stage.Seen("100"), "v");
  EXPECT_EQ(stage.Seen("99"), "waits");
}

TEST(SecretManagerTest, WhatIsBeingFetchedIsKept) {
  Stage stage({.size_max = 2});
  Reader a = stage.Begin("a");
  Reader b = stage.Begin("b");
  stage.Rest();
  EXPECT_EQ(stage.Seen("c"), "RESOURCE_EXHAUSTED");
  Reader refresh = stage.BeginRefresh("c");
  stage.Rest();
  ASSERT_TRUE(refresh.done());
  EXPECT_EQ(refresh.Answer().error().code(), Code::kResourceExhausted);
  stage.Answer("a");
  EXPECT_TRUE(a.done());
  EXPECT_EQ(stage.Seen("c"), "waits");
  EXPECT_EQ(stage.stats().size, 2u);
  stage.Answer("b");
  ASSERT_TRUE(b.done());
  EXPECT_EQ((*b.Answer())->value.Expose(), "b");
  EXPECT_EQ(stage.Seen("b"), "b");
}

TEST(SecretManagerTest, FiguresAddUp) {
  Stage stage({.size_max = 2});
  stage.Put("a", "a");           // miss
  EXPECT_EQ(stage.Seen(), "a");  // hit
  stage.Advance(seconds(331));
  EXPECT_EQ(stage.Seen(), "waits");  // miss
  stage.AnswerWith(Failure::kNetwork);
  EXPECT_EQ(stage.Seen(), "a");         // stale
  EXPECT_EQ(stage.Seen("b"), "waits");  // miss
  stage.AnswerWith(Failure::kNotFound);
  EXPECT_EQ(stage.Seen("b"), "NOT_FOUND");  // negative
  EXPECT_EQ(stage.Seen(""), "INVALID_ARGUMENT");
  // What is not there is an answer.
  EXPECT_TRUE(Exports(stage, "nova_secrets_refresh_failing 1"));
  stage.Advance(nanoseconds(1));
  stage.Put("c", "c");  // miss, and b or a goes
  const CacheStats stats = stage.stats();
  EXPECT_EQ(stats.hits, 1u);
  EXPECT_EQ(stats.stale, 1u);
  EXPECT_EQ(stats.misses, 4u);
  EXPECT_EQ(stats.negative, 1u);
  EXPECT_EQ(stats.fetches, 4u);
  EXPECT_EQ(stats.failures, 2u);
  EXPECT_EQ(stats.evictions, 1u);
  EXPECT_EQ(stats.size, 2u);
  EXPECT_TRUE(Exports(stage, "nova_secrets_reads_total{result=\"hit\"} 1"));
  EXPECT_TRUE(Exports(stage, "nova_secrets_reads_total{result=\"stale\"} 1"));
  EXPECT_TRUE(Exports(stage, "nova_secrets_reads_total{result=\"miss\"} 4"));
  EXPECT_TRUE(Exports(stage, "nova_secrets_reads_total{result=\"negative\"} 1"));
  EXPECT_TRUE(Exports(stage, "nova_secrets_cached 2"));
  EXPECT_TRUE(Exports(stage, "nova_secrets_evictions_total 1"));
  EXPECT_TRUE(Exports(stage, "nova_secrets_refresh_failing 0"));
  stage.manager().InvalidateAll();
  EXPECT_TRUE(Exports(stage, "nova_secrets_cached 0"));
  EXPECT_TRUE(Exports(stage, "nova_secrets_refresh_failing 0"));
}

TEST(SecretManagerTest, ARowOfFailuresIsLoggedOnce) {
  std::mutex mutex;
  std::vector<std::string> lines;
  telemetry::InitLogging({}, [&](std::string_view line) {
    std::lock_guard lock(mutex);
    lines.emplace_back(line);
  });
  {
    Stage stage;
    EXPECT_EQ(stage.Seen("prod/db"), "waits");
    for (int i = 0; i < 5; ++i) {
      stage.AnswerWith(Failure::kNetwork);
      stage.Advance(seconds(60));
      EXPECT_EQ(stage.Seen("prod/db"), "waits");
    }
    stage.Answer("hunter2");
  }
  QuietLog().SetUp();
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_TRUE(lines[0].contains("secret could not be fetched") && lines[0].contains("prod/db")) << lines[0];
  EXPECT_TRUE(lines[1].contains("secret is fetched again")) << lines[1];
  for (const std::string& line : lines) EXPECT_FALSE(line.contains("hunter2"));
}

TEST(SecretManagerTest, JwtConfigsComeFromTheSameCacheAndFailByField) {
  Stage stage;
  stage.Put("a", "{}");
  runtime::Runtime runtime({.threads = 1});
  const auto parsed =
      runtime.RunBlocking<auth::JwtConfig>(kLimit, [&](Call& call) { return stage.manager().GetJwtConfig(call, "a"); });
  ASSERT_FALSE(parsed.ok());
  EXPECT_EQ(FailureOf(parsed.error()), Failure::kInvalidFormat);
  EXPECT_EQ(stage.source().begun(), 1);
}

TEST(SecretManagerTest, ClosingEndsRequestsAndTheirReaders) {
  Stage stage;
  Reader reader = stage.Begin();
  Reader forgotten = stage.Begin("b");
  stage.Rest();
  stage.manager().Invalidate("b");
  EXPECT_TRUE(stage.manager().Close(kLimit).ok());
  EXPECT_EQ(reader.Answer().error().code(), Code::kCancelled);
  EXPECT_EQ(forgotten.Answer().error().code(), Code::kCancelled);
  EXPECT_TRUE(Exports(stage, "nova_secrets_refresh_failing 0"));
  EXPECT_EQ(stage.Seen(), "CANCELLED");
  Reader refresh = stage.BeginRefresh();
  EXPECT_EQ(refresh.Answer().error().code(), Code::kCancelled);
}

TEST(SecretManagerTest, ARequestThatWillNotEndDoesNotHoldItsReaders) {
  Stage stage;
  stage.source().IgnoreCancellation();
  Reader reader = stage.Begin();
  stage.Rest();
  EXPECT_EQ(stage.manager().Close(milliseconds(1)).error().code(), Code::kDeadlineExceeded);
  EXPECT_EQ(reader.Answer().error().code(), Code::kCancelled);
  stage.Answer("too late");
  EXPECT_EQ(stage.Seen(), "CANCELLED");
}

TEST(SecretManagerTest, AFullDayOfReadingKeepsToItsRequests) {
  class Ready final : public SecretSource {
   public:
    explicit Ready(const Clock& clock) : clock_(clock) {}
    Task<SecretValue> Fetch(Call&, std::string id, std::string version, bool) override {
      ++fetches[id + " " + version];
      co_return SecretValue{.value = Secret<>(id), .created_at = clock_.WallNow()};
    }
    std::map<std::string, int> fetches;

   private:
    const Clock& clock_;
  };
  const unsigned seed = tests::TestSeed();
  FakeClock clock;
  Ready source(clock);
  telemetry::Metrics metrics;
  runtime::Runtime runtime({.threads = 1});
  const auto manager = SecretManager::Builder(runtime, metrics, source).UseClock(clock).Seed(seed).Build();
  ASSERT_TRUE(manager.ok());
  Duration oldest{};
  const auto lived = runtime.RunBlocking<void>(std::chrono::minutes(5), [&](Call& call) -> Task<void> {
    for (int second = 0; second <= 24 * 60 * 60; ++second) {
      for (const char* id : {"jwt", "database"}) {
        for (const std::string_view label : {kCurrent, kPrevious}) {
          NOVA_CO_TRY(const auto secret, co_await (*manager)->GetSecret(call, id, Version::Stage(label)));
          oldest = std::max<Duration>(oldest, clock.WallNow() - secret->created_at);
        }
      }
      if (second > 260)
        for (int turn = 0; turn < 4; ++turn) NOVA_CO_TRY(co_await Turn(call));
      clock.Advance(seconds(1));
    }
    co_return Ok();
  });
  ASSERT_TRUE(lived.ok());
  EXPECT_EQ(source.fetches.size(), 4u);
  for (const auto& [secret, fetches] : source.fetches) {
    EXPECT_GT(fetches, 280) << secret;
    EXPECT_LE(fetches, 289) << secret;
  }
  EXPECT_LE(oldest, seconds(300));
  EXPECT_TRUE((*manager)->Close(kLimit).ok());
}

// What the cache may do, kept beside it: a second opinion that knows requests and answers only.
class Schedule {
 public:
  explicit Schedule(std::uint64_t seed)
      : random_(seed), cache_{.stale_max = seconds(200), .size_max = 3}, stage_(cache_, seed) {}

  void Run(int steps) {
    for (int step = 0; step < steps && !testing::Test::HasFailure(); ++step) {
      Step();
      stage_.Rest();
      Look();
    }
    while (!stage_.source().open().empty()) {
      AnswerOne();
      Look();
    }
    EXPECT_TRUE(waiting_.empty()) << "a reader without an answer";
    const CacheStats stats = stage_.stats();
    EXPECT_EQ(stats.hits + stats.stale + stats.misses + stats.negative + refused_, reads_);
    EXPECT_EQ(stats.fetches, answered_);
    EXPECT_EQ(stats.failures, failed_);
    EXPECT_EQ(answered_, static_cast<std::uint64_t>(stage_.source().begun()));
  }

 private:
  // A request, and what the value it brings is called.
  struct Fetched {
    std::string id;
    SteadyTime begun;
    std::uint64_t epoch = 0;
  };
  struct Waiting {
    Reader reader;
    std::string id;
    bool refresh = false;
    // Of the secret, when the read began: what was asked for before may not be answered.
    std::uint64_t epoch = 0;
    bool gave_up = false;
  };

  int Draw(int count) { return std::uniform_int_distribution<int>(0, count - 1)(random_); }

  void Step() {
    const std::string id(1, static_cast<char>('a' + Draw(5)));
    const int kind = Draw(100);
    if (kind < 40) {
      ++reads_;
      waiting_.push_back({stage_.Begin(id), id, false, epochs_[id]});
    } else if (kind < 45) {
      waiting_.push_back({stage_.BeginRefresh(id), id, true, epochs_[id]});
    } else if (kind < 70) {
      if (!stage_.source().open().empty()) AnswerOne();
    } else if (kind < 90) {
      constexpr std::array<Duration, 6> kSteps = {milliseconds(1), milliseconds(700), seconds(6),
                                                  seconds(40),     seconds(270),      seconds(331)};
      stage_.Advance(kSteps[static_cast<std::size_t>(Draw(kSteps.size()))]);
    } else if (kind < 94) {
      stage_.manager().Invalidate(id);
      ++epochs_[id];
    } else if (kind < 95) {
      stage_.manager().InvalidateAll();
      for (char each = 'a'; each < 'f'; ++each) ++epochs_[std::string(1, each)];
    } else if (!waiting_.empty()) {
      Waiting& one = waiting_[static_cast<std::size_t>(Draw(static_cast<int>(waiting_.size())))];
      one.gave_up = true;
      one.reader.GiveUp();
    }
  }

  void AnswerOne() {
    const auto index = static_cast<std::size_t>(Draw(static_cast<int>(stage_.source().open().size())));
    const Fetched request = *std::next(begun_.begin(), static_cast<std::ptrdiff_t>(index));
    begun_.erase(begun_.begin() + static_cast<std::ptrdiff_t>(index));
    ++answered_;
    const bool counts = request.epoch == epochs_[request.id];
    if (Draw(100) < 60) {
      const std::string name = std::to_string(values_.size());
      values_.push_back(request);
      // Not before its readers have been looked at.
      if (counts) last_failure_.erase(request.id);
      stage_.Answer(Result<SecretValue>(ValueOf(name)), index);
    } else {
      ++failed_;
      const Failure failure = kAllFailures[static_cast<std::size_t>(Draw(kAllFailures.size()))];
      if (counts) {
        last_failure_.insert_or_assign(request.id, failure);
        if (!IsTransient(failure)) gone_[request.id] = values_.size();
      }
      stage_.Answer(Result<SecretValue>(Failed(failure)), index);
    }
  }

  void Look() {
    const auto open = stage_.source().open();
    while (begun_.size() < open.size()) {
      const std::string& id = open[begun_.size()].id;
      begun_.push_back({id, stage_.clock().Now(), epochs_[id]});
    }
    std::set<std::pair<std::string, std::uint64_t>> flights;
    for (const Fetched& each : begun_)
      EXPECT_TRUE(flights.emplace(each.id, each.epoch).second) << "two requests at once for " << each.id;
    EXPECT_LE(stage_.stats().size, 3u);
    std::erase_if(waiting_, [this](Waiting& one) {
      if (!one.reader.done()) return false;
      Judge(one, one.reader.Answer());
      return true;
    });
  }

  void Judge(const Waiting& one, const Result<SecretHandle>& answer) {
    const SteadyTime now = stage_.clock().Now();
    if (!answer) {
      if (answer.error().message().contains("too many secrets")) refused_ += one.refresh ? 0 : 1;
      if (answer.error().code() == Code::kCancelled) EXPECT_TRUE(one.gave_up);
      return;
    }
    const std::size_t name = std::stoul((*answer)->value.Expose());
    const Fetched& value = values_.at(name);
    EXPECT_EQ(value.id, one.id);
    EXPECT_GE(value.epoch, one.epoch) << "a value that was to be forgotten";
    const Duration age = now - value.begun;
    // Just answered, however long that took.
    if (name + 1 == values_.size()) return;
    EXPECT_FALSE(one.refresh) << "an old value where a fresh one was asked for";
    // A failure before this value came took nothing away; one after it did.
    if (const auto gone = gone_.find(one.id); gone != gone_.end())
      EXPECT_GE(name, gone->second) << "an old value after a refusal";
    EXPECT_LT(age, cache_.hard_ttl + cache_.stale_max);
    if (age < cache_.hard_ttl) return;
    const auto failure = last_failure_.find(one.id);
    ASSERT_NE(failure, last_failure_.end()) << "an old value without a failure";
    EXPECT_TRUE(IsTransient(failure->second));
  }

  std::mt19937_64 random_;
  const CacheConfig cache_;
  Stage stage_;
  std::deque<Fetched> begun_;  // as source().open()
  std::vector<Fetched> values_;
  std::vector<Waiting> waiting_;
  std::map<std::string, std::uint64_t> epochs_;
  std::map<std::string, Failure> last_failure_;
  // The first value that came after the last refusal.
  std::map<std::string, std::size_t> gone_;
  std::uint64_t reads_ = 0;
  std::uint64_t refused_ = 0;
  std::uint64_t answered_ = 0;
  std::uint64_t failed_ = 0;
};

TEST(SecretManagerTest, NoScheduleBreaksTheRules) {
  constexpr int kSchedules = 3'000;
  constexpr int kSteps = 60;
  const unsigned seed = tests::TestSeed();
  for (int i = 0; i < kSchedules; ++i) {
    SCOPED_TRACE("schedule " + std::to_string(i));
    Schedule(std::uint64_t{seed} + static_cast<std::uint64_t>(i)).Run(kSteps);
    if (HasFailure()) return;
  }
}

// Answers on its own, a few turns later: each secret with its name, or with a failure.
class BusySource final : public SecretSource {
 public:
  explicit BusySource(std::uint64_t seed) : random_(seed) {}

  Task<SecretValue> Fetch(Call& call, std::string id, std::string, bool) override {
    std::uint64_t drawn = 0;
    {
      std::lock_guard lock(mutex_);
      drawn = random_();
    }
    for (std::uint64_t turn = 0; turn < drawn % 8; ++turn) NOVA_CO_TRY(co_await Turn(call));
    NOVA_CO_TRY(call.Check());
    if (drawn / 8 % 4 == 0) co_return Failed(kAllFailures[drawn / 32 % kAllFailures.size()]);
    co_return ValueOf(id);
  }

 private:
  std::mutex mutex_;
  std::mt19937_64 random_;  // guarded by mutex_
};

TEST(SecretManagerTest, AStormOfThreadsGetsTheRightValuesAndEnds) {
  constexpr int kThreads = 6;
  constexpr int kReads = 300;
  constexpr int kStorms = 20;
  const unsigned seed = tests::TestSeed();
  for (int storm = 0; storm < kStorms; ++storm) {
    FakeClock clock;
    BusySource source(seed + static_cast<unsigned>(storm));
    telemetry::Metrics metrics;
    runtime::Runtime runtime({.threads = 4});
    const auto built = SecretManager::Builder(runtime, metrics, source).UseClock(clock).Seed(seed).SizeMax(8).Build();
    ASSERT_TRUE(built.ok());
    SecretManager& manager = **built;
    std::atomic<int> wrong = 0;
    std::atomic<int> unanswered = 0;
    std::latch half_done(kThreads);
    {
      std::vector<std::jthread> threads;
      for (int thread = 0; thread < kThreads; ++thread) {
        threads.emplace_back([&, thread] {
          std::mt19937_64 random(seed + static_cast<unsigned>(storm * kThreads + thread));
          for (int read = 0; read < kReads; ++read) {
            if (read == kReads / 2) half_done.count_down();
            const std::uint64_t drawn = random();
            const std::string id = std::to_string(drawn % 12);
            if (drawn / 16 % 50 == 0) manager.Invalidate(id);
            if (drawn / 16 % 200 == 1) manager.InvalidateAll();
            if (drawn / 16 % 20 == 2) clock.Advance(seconds(drawn / 1024 % 340));
            EXPECT_LE(manager.Stats().size, 8u);
            const auto answer = runtime.RunBlocking<SecretHandle>(kLimit, [&](Call& call) -> Task<SecretHandle> {
              Call limited(call, drawn / 16 % 10 == 3 ? Duration(std::chrono::microseconds(20)) : kLimit);
              if (drawn / 16 % 10 == 4) co_return co_await manager.Refresh(limited, id);
              co_return co_await manager.GetSecret(limited, id);
            });
            if (answer && (*answer)->value.Expose() != id) ++wrong;
            if (!answer && answer.error().code() == Code::kDeadlineExceeded && drawn / 16 % 10 != 3) ++unanswered;
          }
        });
      }
      half_done.wait();
      // In the midst of reads, half of the time.
      if (storm % 2 == 0) EXPECT_TRUE(manager.Close(kLimit).ok());
    }
    EXPECT_TRUE(manager.Close(kLimit).ok());
    EXPECT_EQ(wrong, 0);
    EXPECT_EQ(unanswered, 0);
  }
}

TEST(SecretManagerTest, SettingsAreTakenFromTheEnvironment) {
  config::Config config({.args = {},
                         .environment = {{"NOVA_SECRETS_SOFT_TTL", "60s"},
                                         {"NOVA_SECRETS_HARD_TTL", "90s"},
                                         {"NOVA_SECRETS_STALE_MAX", "10m"},
                                         {"NOVA_SECRETS_NEGATIVE_TTL", "2s"},
                                         {"NOVA_SECRETS_BACKOFF", "500ms"},
                                         {"NOVA_SECRETS_BACKOFF_MAX", "30s"},
                                         {"NOVA_SECRETS_SIZE_MAX", "5"}}});
  CacheConfig cache;
  Bind(config, cache);
  ASSERT_TRUE(config.Finish().ok());
  EXPECT_EQ(cache.soft_ttl, seconds(60));
  EXPECT_EQ(cache.hard_ttl, seconds(90));
  EXPECT_EQ(cache.stale_max, seconds(600));
  EXPECT_EQ(cache.negative_ttl, seconds(2));
  EXPECT_EQ(cache.backoff, milliseconds(500));
  EXPECT_EQ(cache.backoff_max, seconds(30));
  EXPECT_EQ(cache.size_max, 5);
}

TEST(SecretManagerTest, EverySettingThatCannotBeIsNamed) {
  for (const char* name :
       {"NOVA_SECRETS_SOFT_TTL", "NOVA_SECRETS_HARD_TTL", "NOVA_SECRETS_STALE_MAX", "NOVA_SECRETS_NEGATIVE_TTL",
        "NOVA_SECRETS_BACKOFF", "NOVA_SECRETS_BACKOFF_MAX", "NOVA_SECRETS_SIZE_MAX"}) {
    for (const char* text : {"", "soon", "-1", "99999999999999999999"}) {
      config::Config config({.args = {}, .environment = {{name, text}}});
      CacheConfig cache;
      Bind(config, cache);
      const auto finished = config.Finish();
      if (finished.ok() && std::string(text).empty()) continue;  // as if it were not set
      ASSERT_FALSE(finished.ok()) << name << "=" << text;
      EXPECT_TRUE(finished.error().message().contains(name)) << finished.error().message();
    }
  }
}

TEST(SecretManagerTest, WhatNoSingleFieldShowsIsNamedWithTheRemedy) {
  const std::vector<std::pair<CacheConfig, std::string>> cases = {
      {{.soft_ttl = seconds(330)}, "NOVA_SECRETS_HARD_TTL: it must be longer than NOVA_SECRETS_SOFT_TTL"},
      {{.soft_ttl = milliseconds(329'001)}, "NOVA_SECRETS_HARD_TTL: it must be longer than NOVA_SECRETS_SOFT_TTL"},
      {{.soft_ttl = seconds(0)}, "NOVA_SECRETS_SOFT_TTL: "},
      {{.stale_max = seconds(-1)}, "NOVA_SECRETS_STALE_MAX: "},
      {{.negative_ttl = seconds(0)}, "NOVA_SECRETS_NEGATIVE_TTL: "},
      {{.backoff = seconds(0)}, "NOVA_SECRETS_BACKOFF: "},
      {{.backoff = seconds(61)}, "NOVA_SECRETS_BACKOFF: it is longer than NOVA_SECRETS_BACKOFF_MAX"},
      {{.size_max = 0}, "NOVA_SECRETS_SIZE_MAX: "},
  };
  ScriptedSource source;
  telemetry::Metrics metrics;
  runtime::Runtime runtime({.threads = 1});
  for (const auto& [cache, text] : cases) {
    const auto built = SecretManager::Builder(runtime, metrics, source).Cache(cache).Build();
    ASSERT_FALSE(built.ok()) << text;
    EXPECT_EQ(built.error().code(), Code::kInvalidArgument);
    EXPECT_TRUE(built.error().message().starts_with(text)) << built.error().message();
    EXPECT_FALSE(built.error().message().contains('\n'));
  }
  EXPECT_TRUE(Validate(CacheConfig()).ok());
  EXPECT_TRUE(Validate({.soft_ttl = seconds(329)}).ok());
}

}  // namespace
}  // namespace nova::secrets
