#include "nova/secrets/rotation.h"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <fmt/format.h>
#include <functional>
#include <future>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <map>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "nova/runtime/runtime.h"
#include "nova/runtime/scope.h"
#include "nova/secrets/failure.h"
#include "nova/secrets/jwt_secret.h"
#include "tests/seed.h"

namespace nova::secrets {
namespace {

using runtime::Call;
using runtime::Runtime;
using runtime::Task;
using std::chrono::days;
using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;
using testing::HasSubstr;
using testing::Not;
using Outcome = RotationReport::Outcome;

constexpr char kSecret[] = "prod/nova/jwt";
constexpr char kPublicSecret[] = "prod/nova/jwt-public";
constexpr char kFirst[] = "00000000-0000-4000-8000-000000000001";
// What Secrets Manager calls a version that it wants made.
constexpr char kEventToken[] = "11111111-1111-4111-8111-111111111111";
constexpr seconds kLimit{20};

// Secrets as Secrets Manager keeps them, in memory: versions and how their labels move. Used by one thread.
class Cloud {
 public:
  struct Version {
    std::string value;
    WallTime created_at;
    std::set<std::string> stages;
  };

  explicit Cloud(const Clock& clock) : clock_(clock) {}

  Result<SecretValue> Fetch(const std::string& secret, const std::string& version, bool is_id) {
    for (const auto& [id, found] : secrets[secret]) {
      if (is_id ? id == version : found.stages.contains(version))
        return SecretValue{.value = Secret<>(found.value),
                           .version_id = id,
                           .stages = {found.stages.begin(), found.stages.end()},
                           .created_at = found.created_at};
    }
    return Fail(Failure::kNotFound, "there is no such version");
  }

  Result<void> Put(const NewVersion& version) {
    if (!exists.contains(version.secret_id)) return Fail(Failure::kNotFound, "there is no such secret");
    auto& versions = secrets[version.secret_id];
    if (const auto there = versions.find(version.token); there != versions.end()) {
      if (there->second.value == version.value.Expose()) return Ok();
      return AlreadyExists("the version is there with another value");
    }
    ++writes;
    const bool is_first = versions.empty();
    versions[version.token] = {.value = version.value.Expose(), .created_at = clock_.WallNow(), .stages = {}};
    for (const std::string& stage : version.stages) Move(version.secret_id, stage, version.token);
    if (version.stages.empty() || (is_first && first_is_current))
      Move(version.secret_id, std::string(kCurrent), version.token);
    return Ok();
  }

  Result<void> MoveStage(const std::string& secret, const std::string& stage, const std::string& to,
                         const std::string& from) {
    if (!to.empty() && !secrets[secret].contains(to)) return Fail(Failure::kNotFound, "there is no such version");
    if (from != Holder(secret, stage)) return FailedPrecondition("the label is attached to another version");
    if (to.empty() && stage == kCurrent) return FailedPrecondition("AWSCURRENT can only be moved");
    ++writes;
    if (to.empty()) {
      secrets[secret][from].stages.erase(stage);
    } else {
      Move(secret, stage, to);
    }
    return Ok();
  }

  Result<void> Create(const NewVersion& version) {
    if (!exists.insert(version.secret_id).second) return AlreadyExists("there is such a secret");
    ++writes;
    return Ok();
  }

  // Empty: nobody.
  std::string Holder(const std::string& secret, std::string_view stage) const {
    const auto found = secrets.find(secret);
    if (found == secrets.end()) return {};
    for (const auto& [id, version] : found->second) {
      if (version.stages.contains(std::string(stage))) return id;
    }
    return {};
  }

  void Add(const std::string& secret, const std::string& id, const std::string& value, WallTime created_at,
           std::set<std::string> stages) {
    exists.insert(secret);
    for (const std::string& stage : stages) {
      if (stage == kCurrent) history[secret].push_back(id);
      for (auto& [other, version] : secrets[secret]) version.stages.erase(stage);
    }
    secrets[secret][id] = {.value = value, .created_at = created_at, .stages = std::move(stages)};
  }

  std::set<std::string> exists;
  std::map<std::string, std::map<std::string, Version>> secrets;
  // What has been current, in this order.
  std::map<std::string, std::vector<std::string>> history;
  int writes = 0;
  // AWS labels the first version of a secret as current, whatever was asked for; not every imitation does.
  bool first_is_current = true;
  // A verifier must know a key before it signs.
  bool public_goes_first = false;

 private:
  void Move(const std::string& secret, const std::string& stage, const std::string& to) {
    auto& versions = secrets[secret];
    const std::string from = Holder(secret, stage);
    if (!from.empty()) versions[from].stages.erase(stage);
    versions[to].stages.insert(stage);
    if (stage != kCurrent) return;
    if (from == to) {
      // As moto does; what AWS does is not said anywhere.
      for (auto& [id, version] : versions) version.stages.erase(std::string(kPrevious));
      return;
    }
    history[secret].push_back(to);
    if (!from.empty()) Move(secret, std::string(kPrevious), from);
    if (secret == kSecret && public_goes_first && !from.empty())
      EXPECT_EQ(Holder(kPublicSecret, kCurrent), to) << "it signs before everybody can verify";
  }

  const Clock& clock_;
};

// Decides which of several processes makes the next request, once each of them has one to make or has ended.
class Turns {
 public:
  // The number of the process that goes next; `turn` counts them all.
  using Choose = std::function<int(int turn, const std::vector<int>& waiting)>;

  Turns(int processes, Choose choose) : running_(processes), choose_(std::move(choose)) {}

  Task<void> Wait(int process) {
    co_await runtime::Await<bool>([&](runtime::Resolver<bool> resolver) {
      waiting_.emplace(process, std::move(resolver));
      Next();
    });
    co_return Ok();
  }
  void Ended() {
    --running_;
    Next();
  }
  int turns() const { return turn_; }

 private:
  void Next() {
    if (waiting_.empty() || static_cast<int>(waiting_.size()) < running_) return;
    std::vector<int> processes;
    for (const auto& [process, resolver] : waiting_) processes.push_back(process);
    auto chosen = waiting_.extract(choose_(turn_++, processes));
    chosen.mapped()(true);
  }

  std::map<int, runtime::Resolver<bool>> waiting_;
  int running_;
  int turn_ = 0;
  const Choose choose_;
};

// A process' way to the cloud, which may end, or be slow, at any request.
class Process final : public SecretStore {
 public:
  enum class Fate { kKilledBefore, kKilledAfter, kRepeated };

  explicit Process(Cloud& cloud) : cloud_(cloud) {}
  Process(Cloud& cloud, Turns& turns, int number) : cloud_(cloud), turns_(&turns), number_(number) {}
  // At the `at`-th request, counted from 1.
  Process(Cloud& cloud, int at, Fate fate) : cloud_(cloud), at_(at), fate_(fate) {}

  int requests() const { return requests_; }

  Task<SecretValue> Fetch(Call&, std::string id, std::string version, bool version_is_id) override {
    return Do([this, id, version, version_is_id] { return cloud_.Fetch(id, version, version_is_id); });
  }
  Task<void> Put(Call&, NewVersion version) override {
    return Do([this, version] { return cloud_.Put(version); });
  }
  Task<void> MoveStage(Call&, std::string secret_id, std::string stage, std::string to, std::string from) override {
    return Do([this, secret_id, stage, to, from] { return cloud_.MoveStage(secret_id, stage, to, from); });
  }
  Task<void> CreateSecret(Call&, NewVersion version) override {
    return Do([this, version] { return cloud_.Create(version); });
  }

 private:
  template <class F>
  auto Do(F request) -> Task<typename std::invoke_result_t<F>::value_type> {
    if (turns_ != nullptr) NOVA_CO_TRY(co_await turns_->Wait(number_));
    ++requests_;
    const Error killed = Cancelled("the process was killed");
    if (fate_ != Fate::kRepeated && at_ != 0 && requests_ > at_) co_return killed;
    if (requests_ != at_) co_return request();
    if (fate_ == Fate::kKilledBefore) co_return killed;
    auto result = request();
    if (fate_ == Fate::kKilledAfter) co_return killed;
    // The first answer was lost on its way, and the client asked again by itself.
    co_return request();
  }

  Cloud& cloud_;
  Turns* turns_ = nullptr;
  int number_ = 0;
  int at_ = 0;
  Fate fate_ = Fate::kKilledBefore;
  int requests_ = 0;
};

class RotationTest : public testing::Test {
 protected:
  RotationTest() { config_.announce = milliseconds(0); }

  // A secret whose current version was made so long ago.
  void AddCurrent(Cloud& cloud, Duration age, bool with_public = false) {
    const auto created_at = clock_.WallNow() - std::chrono::duration_cast<WallTime::duration>(age);
    cloud.Add(kSecret, kFirst, FormatJwtSecret(Current()).Expose(), created_at, {std::string(kCurrent)});
    if (!with_public) return;
    cloud.Add(kPublicSecret, kFirst, FormatJwtPublicSecret(Current()).Expose(), created_at, {std::string(kCurrent)});
    cloud.public_goes_first = true;
  }

  static const auth::JwtConfig& Current() {
    static const auth::JwtConfig jwt = Generated(auth::Algorithm::kEdDsa);
    return jwt;
  }

  static auth::JwtConfig Generated(auth::Algorithm algorithm) {
    const auto key = auth::SigningKey::Generate(algorithm);
    return {.signing_key = *key->ToPem(),
            .validation_key = Secret<>(*key->verification_key().ToPem()),
            .algorithm = algorithm,
            .issuer = "https://id.example",
            .audience = {"app", "admin"},
            .expiry = minutes(5)};
  }

  RotationConfig Config(bool with_public = false) const {
    RotationConfig config = config_;
    config.secret_id = kSecret;
    if (with_public) config.public_secret_id = kPublicSecret;
    return config;
  }

  Result<RotationReport> Rotate(SecretStore& store, const RotationConfig& config, bool now = false) {
    Rotator rotator(store, config, clock_);
    auto report = runtime_.RunBlocking<RotationReport>(kLimit, [&](Call& call) { return rotator.Rotate(call, now); });
    if (!report) CheckMessage(report.error());
    return report;
  }

  Result<void> Run(SecretStore& store, const RotationConfig& config, RotationStep step, const std::string& token,
                   Duration limit = kLimit) {
    Rotator rotator(store, config, clock_);
    auto done = runtime_.RunBlocking<void>(limit, [&](Call& call) { return rotator.Run(call, step, token); });
    if (!done) {
      CheckMessage(done.error());
      EXPECT_THAT(done.error().message(), HasSubstr(RotationStepName(step)));
    }
    return done;
  }

  // As Secrets Manager does: one step after the other.
  Result<void> RunAll(SecretStore& store, const RotationConfig& config, const std::string& token) {
    for (const RotationStep step : kAllSteps) NOVA_TRY(Run(store, config, step, token));
    return Ok();
  }

  static void CheckMessage(const Error& error) {
    EXPECT_THAT(error.message(), HasSubstr(kSecret));
    EXPECT_THAT(error.ToString(), Not(HasSubstr("PRIVATE")));
    EXPECT_THAT(error.ToString(), Not(HasSubstr("MC4CAQAw")));  // how every Ed25519 key in PKCS#8 begins
    EXPECT_THAT(error.message(), Not(HasSubstr("\n")));
  }

  // Exactly one version came to sign after the first.
  static void CheckRotatedOnce(const Cloud& cloud, bool with_public = false, bool orphans_allowed = false) {
    for (const std::string secret : {kSecret, kPublicSecret}) {
      if (secret == kPublicSecret && !with_public) continue;
      const auto& history = cloud.history.at(secret);
      ASSERT_EQ(history.size(), 2u) << secret;
      EXPECT_EQ(history.front(), kFirst);
      EXPECT_EQ(cloud.Holder(secret, kCurrent), history.back());
      EXPECT_EQ(cloud.Holder(secret, kPrevious), kFirst);
      EXPECT_EQ(cloud.Holder(secret, kPending), "") << secret;
      if (!orphans_allowed) EXPECT_EQ(cloud.secrets.at(secret).size(), 2u) << secret;
    }
    const auto signing = Jwt(cloud, kSecret, kCurrent);
    EXPECT_EQ(signing.issuer, Current().issuer);
    EXPECT_EQ(signing.audience, Current().audience);
    EXPECT_EQ(signing.expiry, Current().expiry);
    EXPECT_NE(Kid(signing), Kid(Current()));
    if (!with_public) return;
    EXPECT_TRUE(Jwt(cloud, kPublicSecret, kCurrent).signing_key.empty());
    EXPECT_EQ(Kid(Jwt(cloud, kPublicSecret, kCurrent)), Kid(signing));
  }

  static auth::JwtConfig Jwt(const Cloud& cloud, const std::string& secret, std::string_view stage) {
    const auto parsed = ParseJwtSecret(Secret<>(cloud.secrets.at(secret).at(cloud.Holder(secret, stage)).value));
    EXPECT_TRUE(parsed) << parsed.error().ToString();
    return *parsed;
  }
  static std::string Kid(const auth::JwtConfig& jwt) { return KeysOf(jwt)->verification->keys().front().kid(); }

  // Runs what each of several processes does, and returns how many requests they made together.
  using Work = std::function<Task<void>(Call&, SecretStore&)>;
  int RunTogether(Cloud& cloud, const std::vector<Work>& works, Turns::Choose choose) {
    Turns turns(static_cast<int>(works.size()), std::move(choose));
    std::vector<std::unique_ptr<Process>> processes;
    std::vector<std::promise<void>> ended(works.size());
    {
      runtime::Scope scope(runtime_);
      // Before any of them runs, in another thread.
      for (std::size_t i = 0; i < works.size(); ++i)
        processes.push_back(std::make_unique<Process>(cloud, turns, static_cast<int>(i)));
      for (std::size_t i = 0; i < works.size(); ++i) {
        scope.Spawn(fmt::format("process {}", i), [&, i](Call& call) -> Task<void> {
          auto done = co_await works[i](call, *processes[i]);
          EXPECT_TRUE(done) << done.error().ToString();
          turns.Ended();
          ended[i].set_value();
          co_return Ok();
        });
      }
      for (auto& end : ended) end.get_future().get();
      EXPECT_TRUE(scope.Stop(kLimit));
    }
    return turns.turns();
  }

  Work RotateWork(const RotationConfig& config, bool now = false) {
    return [this, config, now](Call& call, SecretStore& store) -> Task<void> {
      Rotator rotator(store, config, clock_);
      NOVA_CO_TRY([[maybe_unused]] const auto report, co_await rotator.Rotate(call, now));
      co_return Ok();
    };
  }

  // Secrets Manager's own rotation, which begins a failed one anew; done when another one has taken its place.
  Work LambdaWork(const RotationConfig& config) {
    return [this, config](Call& call, SecretStore& store) -> Task<void> {
      Rotator rotator(store, config, clock_);
      Result<void> done;
      for (int attempt = 0; attempt < 3; ++attempt) {
        for (const RotationStep step : kAllSteps) {
          done = co_await rotator.Run(call, step, kEventToken);
          if (!done) break;
        }
        if (done) co_return Ok();
      }
      const bool too_late = done.error().code() == Code::kAborted || done.error().code() == Code::kUnavailable ||
                            done.error().code() == Code::kFailedPrecondition;
      co_return too_late ? Ok() : done;
    };
  }

  // Each process runs as long as it can, except that another one goes on from these turns.
  static Turns::Choose Preempted(int first, std::set<int> at) {
    return [running = first, at = std::move(at)](int turn, const std::vector<int>& waiting) mutable {
      const bool is_waiting = std::ranges::find(waiting, running) != waiting.end();
      if (at.contains(turn) || !is_waiting) {
        for (const int other : waiting) {
          if (other != running || waiting.size() == 1) {
            running = other;
            break;
          }
        }
      }
      return running;
    };
  }

  static constexpr RotationStep kAllSteps[] = {RotationStep::kCreate, RotationStep::kSet, RotationStep::kTest,
                                               RotationStep::kFinish};

  FakeClock clock_;
  RotationConfig config_;
  Runtime runtime_{{.threads = 1}};
};

TEST_F(RotationTest, RotatesWhatIsDue) {
  for (const bool with_public : {false, true}) {
    Cloud cloud(clock_);
    AddCurrent(cloud, days(91), with_public);
    Process process(cloud);
    const auto report = Rotate(process, Config(with_public));
    ASSERT_TRUE(report) << report.error().ToString();
    EXPECT_EQ(report->outcome, Outcome::kRotated);
    EXPECT_EQ(report->version_id, cloud.Holder(kSecret, kCurrent));
    EXPECT_EQ(report->kid, Kid(Jwt(cloud, kSecret, kCurrent)));
    EXPECT_EQ(report->due_at, clock_.WallNow() + days(90));
    EXPECT_FALSE(report->tokens_cut_short_until);
    CheckRotatedOnce(cloud, with_public);
  }
}

TEST_F(RotationTest, LeavesWhatIsNotDueAlone) {
  Cloud cloud(clock_);
  AddCurrent(cloud, days(89), true);
  Process process(cloud);
  const auto report = Rotate(process, Config(true));
  ASSERT_TRUE(report);
  EXPECT_EQ(report->outcome, Outcome::kNotDue);
  EXPECT_EQ(report->version_id, kFirst);
  EXPECT_EQ(report->due_at, clock_.WallNow() + days(1));
  EXPECT_EQ(cloud.writes, 0);
  clock_.Advance(days(1));
  EXPECT_EQ(Rotate(process, Config(true))->outcome, Outcome::kRotated);
}

TEST_F(RotationTest, RotatesWhatIsNotDueWhenTold) {
  Cloud cloud(clock_);
  AddCurrent(cloud, days(1));
  Process process(cloud);
  EXPECT_EQ(Rotate(process, Config(), /*now=*/true)->outcome, Outcome::kRotated);
  CheckRotatedOnce(cloud);
}

// The promise of this part: wherever a process ends, whoever comes next makes exactly one rotation of it.
class KilledTest : public RotationTest {
 protected:
  enum class Door { kRotate, kLambda };

  Result<void> Through(Door door, Cloud& cloud, SecretStore& store, const RotationConfig& config) {
    if (door == Door::kRotate) {
      NOVA_TRY([[maybe_unused]] const auto report, Rotate(store, config));
      return Ok();
    }
    // Secrets Manager goes on with the version that is pending. Of a rotation that is complete it may have missed the
    // answer.
    std::string token = cloud.Holder(kSecret, kPending);
    if (token.empty() && cloud.Holder(kSecret, kCurrent) != kFirst) token = cloud.Holder(kSecret, kCurrent);
    return RunAll(store, config, token.empty() ? kEventToken : token);
  }

  // Returns how many requests a rotation makes.
  int Sweep(Door door, Door next, bool with_public, Process::Fate fate) {
    for (int at = 1;; ++at) {
      SCOPED_TRACE(fmt::format("request {}", at));
      Cloud cloud(clock_);
      AddCurrent(cloud, days(100), with_public);
      Process first(cloud, at, fate);
      const auto cut_off = Through(door, cloud, first, Config(with_public));
      const bool was_reached = first.requests() >= at;
      if (fate != Process::Fate::kRepeated && was_reached) EXPECT_EQ(cut_off.error().code(), Code::kCancelled);
      if (fate == Process::Fate::kRepeated || !was_reached) EXPECT_TRUE(cut_off) << cut_off.error().ToString();
      Process second(cloud);
      const auto done = Through(next, cloud, second, Config(with_public));
      EXPECT_TRUE(done) << done.error().ToString();
      CheckRotatedOnce(cloud, with_public);
      if (HasFailure() || !was_reached) return at - 1;
    }
  }
};

TEST_F(KilledTest, AtEveryRequestEndsWithOneNewVersion) {
  for (const bool with_public : {false, true}) {
    for (const Door door : {Door::kRotate, Door::kLambda}) {
      for (const Door next : {Door::kRotate, Door::kLambda}) {
        for (const auto fate : {Process::Fate::kKilledBefore, Process::Fate::kKilledAfter, Process::Fate::kRepeated}) {
          SCOPED_TRACE(fmt::format("door {}, then {}, public {}, fate {}", static_cast<int>(door),
                                   static_cast<int>(next), with_public, static_cast<int>(fate)));
          const int requests = Sweep(door, next, with_public, fate);
          EXPECT_GE(requests, with_public ? 30 : 15);
          if (HasFailure()) return;
        }
      }
    }
  }
}

TEST_F(KilledTest, TwiceEndsWithOneNewVersion) {
  for (int at = 1, reached = 1; reached > 0; ++at) {
    reached = 0;
    for (int again = 1;; ++again) {
      SCOPED_TRACE(fmt::format("request {}, then {}", at, again));
      Cloud cloud(clock_);
      AddCurrent(cloud, days(100));
      Process first(cloud, at, Process::Fate::kKilledAfter);
      EXPECT_EQ(Rotate(first, Config()).ok(), first.requests() < at);
      Process second(cloud, again, Process::Fate::kKilledAfter);
      EXPECT_EQ(Rotate(second, Config()).ok(), second.requests() < again);
      Process third(cloud);
      EXPECT_TRUE(Rotate(third, Config()));
      CheckRotatedOnce(cloud);
      if (HasFailure()) return;
      if (first.requests() >= at) ++reached;
      if (second.requests() < again) break;
    }
  }
}

TEST_F(KilledTest, TheFirstVersionIsMadeOnce) {
  for (const bool first_is_current : {true, false}) {
    for (const auto fate : {Process::Fate::kKilledBefore, Process::Fate::kKilledAfter, Process::Fate::kRepeated}) {
      for (int at = 1;; ++at) {
        SCOPED_TRACE(fmt::format("request {}", at));
        Cloud cloud(clock_);
        cloud.first_is_current = first_is_current;
        RotationConfig config = Config(true);
        config.create = true;
        Process first(cloud, at, fate);
        (void)Rotate(first, config);
        Process second(cloud);
        const auto report = Rotate(second, config);
        ASSERT_TRUE(report) << report.error().ToString();
        for (const char* const secret : {kSecret, kPublicSecret}) {
          EXPECT_EQ(cloud.secrets[secret].size(), 1u);
          EXPECT_EQ(cloud.Holder(secret, kCurrent), report->version_id);
          EXPECT_EQ(cloud.Holder(secret, kPending), "");
        }
        EXPECT_EQ(Kid(Jwt(cloud, kSecret, kCurrent)), Kid(Jwt(cloud, kPublicSecret, kCurrent)));
        if (HasFailure()) return;
        if (first.requests() < at) break;
      }
    }
  }
}

// Every way in which two can take turns, with at most two changes that nobody would have needed.
TEST_F(RotationTest, TwoAtOnceMakeOneRotation) {
  int schedules = 0;
  const auto run = [&](bool with_public, const Turns::Choose& choose) {
    Cloud cloud(clock_);
    AddCurrent(cloud, days(100), with_public);
    const int turns = RunTogether(cloud, {RotateWork(Config(with_public)), RotateWork(Config(with_public))}, choose);
    CheckRotatedOnce(cloud, with_public);
    ++schedules;
    return turns;
  };
  for (const bool with_public : {false, true}) {
    const int turns = run(with_public, Preempted(0, {}));
    for (int a = 0; a < turns; ++a) {
      for (int b = a + 1; b < turns; b += with_public ? 7 : 1) {
        SCOPED_TRACE(fmt::format("public {}, other process at turns {} and {}", with_public, a, b));
        run(with_public, Preempted(0, {a, b}));
        if (HasFailure()) return;
      }
    }
  }
  std::cout << schedules << " schedules\n";
}

// Whoever has looked at what is current before the other one was done has asked for that same rotation.
TEST_F(RotationTest, TwoAtOnceWhoDoNotWaitForItToBeDueMakeOneRotation) {
  for (int looked = 1; looked <= 6; ++looked) {
    SCOPED_TRACE(looked);
    Cloud cloud(clock_);
    AddCurrent(cloud, days(1));
    RunTogether(cloud, {RotateWork(Config(), true), RotateWork(Config(), true)}, Preempted(0, {looked}));
    CheckRotatedOnce(cloud);
  }
}

TEST_F(RotationTest, AnyNumberAtOnceInAnyOrderMakeOneRotation) {
  std::mt19937 random(tests::TestSeed());
  for (int round = 0; round < 60; ++round) {
    SCOPED_TRACE(fmt::format("round {}", round));
    const bool with_public = round % 2 == 0;
    Cloud cloud(clock_);
    AddCurrent(cloud, days(100), with_public);
    RunTogether(cloud, std::vector<Work>(2 + random() % 3, RotateWork(Config(with_public))),
                [&](int, const std::vector<int>& waiting) { return waiting[random() % waiting.size()]; });
    CheckRotatedOnce(cloud, with_public);
    if (HasFailure()) return;
  }
}

// Two doors make versions of different ids, so that both may come to be made; whichever loses is never current. The
// bound: with no time to wait for, whoever stands still between two requests for a whole rotation of the other may
// add one of its own.
TEST_F(RotationTest, BothDoorsAtOnceLeaveOneKeyThatSigns) {
  std::mt19937 random(tests::TestSeed());
  int once = 0;
  constexpr int kRounds = 100;
  for (int round = 0; round < kRounds; ++round) {
    SCOPED_TRACE(fmt::format("round {}", round));
    const bool with_public = round % 2 == 0;
    Cloud cloud(clock_);
    AddCurrent(cloud, days(100), with_public);
    RunTogether(cloud, {RotateWork(Config(with_public)), LambdaWork(Config(with_public))},
                [&](int, const std::vector<int>& waiting) { return waiting[random() % waiting.size()]; });
    const auto& history = cloud.history[kSecret];
    EXPECT_LE(history.size(), 3u);
    if (history.size() == 2) {
      ++once;
      CheckRotatedOnce(cloud, with_public, /*orphans_allowed=*/true);
    }
    EXPECT_EQ(cloud.Holder(kSecret, kPending), "");
    EXPECT_EQ(cloud.Holder(kSecret, kCurrent), history.back());
    if (with_public) {
      EXPECT_EQ(Kid(Jwt(cloud, kPublicSecret, kCurrent)), Kid(Jwt(cloud, kSecret, kCurrent)));
      EXPECT_EQ(cloud.Holder(kPublicSecret, kPending), "");
    }
    if (HasFailure()) return;
  }
  EXPECT_GE(once, kRounds * 9 / 10);
}

TEST_F(RotationTest, TheIdFollowsFromTheCurrentVersion) {
  std::set<std::string> ids;
  for (const char* const name :
       {kSecret, "arn:aws:secretsmanager:eu-central-1:123456789012:secret:prod/nova/jwt-a1B2c3"}) {
    Cloud cloud(clock_);
    cloud.Add(name, kFirst, FormatJwtSecret(Current()).Expose(), clock_.WallNow() - days(100), {std::string(kCurrent)});
    RotationConfig config = Config();
    config.secret_id = name;
    Process process(cloud);
    Rotator rotator(process, config, clock_);
    const auto report =
        runtime_.RunBlocking<RotationReport>(kLimit, [&](Call& call) { return rotator.Rotate(call, false); });
    ASSERT_TRUE(report) << report.error().ToString();
    ids.insert(report->version_id);
    EXPECT_TRUE(Uuid::Parse(report->version_id));
  }
  EXPECT_EQ(ids.size(), 1u);
}

TEST_F(RotationTest, AfterAStepBackTheNextVersionIsANewOne) {
  Cloud cloud(clock_);
  AddCurrent(cloud, days(100));
  Process process(cloud);
  const auto first = Rotate(process, Config());
  ASSERT_TRUE(cloud.MoveStage(kSecret, std::string(kCurrent), kFirst, first->version_id));
  const auto second = Rotate(process, Config(), /*now=*/true);
  ASSERT_TRUE(second) << second.error().ToString();
  EXPECT_NE(second->version_id, first->version_id);
  EXPECT_EQ(cloud.Holder(kSecret, kCurrent), second->version_id);
}

TEST_F(RotationTest, EveryAlgorithmAndFromOneToAnother) {
  using auth::Algorithm;
  Cloud cloud(clock_);
  AddCurrent(cloud, days(100), true);
  Process process(cloud);
  for (const Algorithm algorithm : {Algorithm::kEs256, Algorithm::kRs256, Algorithm::kEdDsa}) {
    RotationConfig config = Config(true);
    config.algorithm = algorithm;
    const auto report = Rotate(process, config, /*now=*/true);
    ASSERT_TRUE(report) << report.error().ToString();
    EXPECT_EQ(report->algorithm, algorithm);
    EXPECT_EQ(Jwt(cloud, kSecret, kCurrent).algorithm, algorithm);
    EXPECT_EQ(Jwt(cloud, kPublicSecret, kCurrent).algorithm, algorithm);
    // Afterwards it stays, without being told.
    EXPECT_EQ(Rotate(process, Config(true), /*now=*/true)->algorithm, algorithm);
  }
}

TEST_F(RotationTest, ASharedSecretIsNotRotated) {
  Cloud cloud(clock_);
  const auth::JwtConfig jwt{.signing_key = *auth::SigningKey::Generate(auth::Algorithm::kHs256)->ToText(),
                            .validation_key = {},
                            .algorithm = auth::Algorithm::kHs256};
  cloud.Add(kSecret, kFirst, FormatJwtSecret(jwt).Expose(), clock_.WallNow() - days(100), {std::string(kCurrent)});
  Process process(cloud);
  const auto refused = Rotate(process, Config());
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Code::kInvalidArgument);
  EXPECT_THAT(refused.error().message(), HasSubstr("--algorithm"));
  EXPECT_EQ(cloud.writes, 0);
  RotationConfig config = Config();
  config.algorithm = auth::Algorithm::kEdDsa;
  EXPECT_TRUE(Rotate(process, config));
}

TEST_F(RotationTest, WithoutTheSecretItSaysHowToMakeIt) {
  Cloud cloud(clock_);
  Process process(cloud);
  const auto missing = Rotate(process, Config());
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code(), Code::kNotFound);
  EXPECT_THAT(missing.error().message(), HasSubstr("--create"));
  // One without a version is not missing.
  cloud.exists.insert(kSecret);
  RotationConfig config = Config();
  config.first = {.signing_key = {}, .validation_key = {}, .issuer = "me", .audience = {"you"}, .expiry = minutes(7)};
  config.algorithm = auth::Algorithm::kEs256;
  const auto report = Rotate(process, config);
  ASSERT_TRUE(report) << report.error().ToString();
  EXPECT_EQ(report->outcome, Outcome::kFirstVersion);
  const auto jwt = Jwt(cloud, kSecret, kCurrent);
  EXPECT_EQ(jwt.issuer, "me");
  EXPECT_EQ(jwt.audience, std::vector<std::string>{"you"});
  EXPECT_EQ(jwt.expiry, minutes(7));
  EXPECT_EQ(jwt.algorithm, auth::Algorithm::kEs256);
}

TEST_F(RotationTest, APublicSecretIsBroughtInLine) {
  Cloud cloud(clock_);
  AddCurrent(cloud, days(1));
  RotationConfig config = Config(true);
  config.create = true;
  Process process(cloud);
  // It was named later than the first rotation.
  EXPECT_EQ(Rotate(process, config)->outcome, Outcome::kNotDue);
  EXPECT_EQ(Kid(Jwt(cloud, kPublicSecret, kCurrent)), Kid(Current()));
  EXPECT_EQ(cloud.Holder(kPublicSecret, kPending), "");
  // Somebody wrote to it, and began something there.
  cloud.Add(kPublicSecret, "other", "nonsense", clock_.WallNow(), {std::string(kCurrent), std::string(kPending)});
  EXPECT_TRUE(Rotate(process, config));
  EXPECT_EQ(Kid(Jwt(cloud, kPublicSecret, kCurrent)), Kid(Current()));
  EXPECT_EQ(cloud.Holder(kPublicSecret, kPending), "");
  const int writes = cloud.writes;
  EXPECT_TRUE(Rotate(process, config));
  EXPECT_EQ(cloud.writes, writes);
}

TEST_F(RotationTest, APublicSecretWithASigningKeyIsRefused) {
  Cloud cloud(clock_);
  AddCurrent(cloud, days(100), true);
  Process process(cloud);
  ASSERT_TRUE(Run(process, Config(true), RotationStep::kCreate, kEventToken));
  cloud.Add(kPublicSecret, kEventToken, cloud.secrets[kSecret][kEventToken].value, clock_.WallNow(),
            {std::string(kPending)});
  const auto refused = Run(process, Config(true), RotationStep::kSet, kEventToken);
  ASSERT_FALSE(refused);
  EXPECT_EQ(FailureOf(refused.error()), Failure::kInvalidFormat);
  EXPECT_THAT(refused.error().message(), HasSubstr("signing_key"));
  EXPECT_THAT(refused.error().message(), HasSubstr(kPublicSecret));
}

// What a rotation by other means may have left behind.
TEST_F(RotationTest, APendingVersionThatIsNotOursIsNamed) {
  auto other_issuer = Generated(auth::Algorithm::kEdDsa);
  other_issuer.issuer = "somebody else";
  auto other_audience = Generated(auth::Algorithm::kEdDsa);
  other_audience.audience = {"app"};
  const std::pair<std::string, std::string> cases[] = {
      {"do-not-show-this", "the value is"},
      {R"({"username":"admin","password":"do-not-show-this"})", "algorithm"},
      {FormatJwtPublicSecret(Generated(auth::Algorithm::kEdDsa)).Expose(), "signing_key"},
      {FormatJwtSecret(Generated(auth::Algorithm::kEs256)).Expose(), "algorithm: is ES256, EdDSA is expected"},
      {FormatJwtSecret(other_issuer).Expose(), "issuer"},
      {FormatJwtSecret(other_audience).Expose(), "audience"}};
  for (const auto& [value, names] : cases) {
    SCOPED_TRACE(names);
    Cloud cloud(clock_);
    AddCurrent(cloud, days(100));
    cloud.Add(kSecret, kEventToken, value, clock_.WallNow(), {std::string(kPending)});
    Process process(cloud);
    std::vector<Error> errors;
    const auto rotated = Rotate(process, Config());
    ASSERT_FALSE(rotated);
    errors.push_back(rotated.error());
    for (const RotationStep step : kAllSteps) {
      const auto done = Run(process, Config(), step, kEventToken);
      ASSERT_FALSE(done);
      errors.push_back(done.error());
    }
    for (const Error& error : errors) {
      EXPECT_EQ(FailureOf(error), Failure::kInvalidFormat) << error.ToString();
      EXPECT_THAT(error.message(), HasSubstr(names));
      EXPECT_THAT(error.message(), HasSubstr(kEventToken));
      EXPECT_THAT(error.message(), HasSubstr("docs/runbooks/secret-rotation.md"));
      EXPECT_THAT(error.ToString(), Not(HasSubstr("do-not-show-this")));
    }
    EXPECT_EQ(cloud.writes, 0);
    // The remedy of the runbook.
    ASSERT_TRUE(cloud.MoveStage(kSecret, std::string(kPending), {}, kEventToken));
    EXPECT_TRUE(Rotate(process, Config()));
    EXPECT_EQ(cloud.history[kSecret].size(), 2u);
  }
}

TEST_F(RotationTest, AnotherAlgorithmThatWasAskedForIsOurs) {
  Cloud cloud(clock_);
  AddCurrent(cloud, days(100));
  cloud.Add(kSecret, kEventToken, FormatJwtSecret(Generated(auth::Algorithm::kEs256)).Expose(), clock_.WallNow(),
            {std::string(kPending)});
  RotationConfig config = Config();
  config.algorithm = auth::Algorithm::kEs256;
  Process process(cloud);
  EXPECT_EQ(Rotate(process, config)->version_id, kEventToken);
}

TEST_F(RotationTest, ACurrentVersionThatIsNoneIsNamed) {
  Cloud cloud(clock_);
  cloud.Add(kSecret, kFirst, R"({"issuer":"do-not-show-this"})", clock_.WallNow() - days(100), {std::string(kCurrent)});
  Process process(cloud);
  const auto rotated = Rotate(process, Config());
  const auto created = Run(process, Config(), RotationStep::kCreate, kEventToken);
  for (const Error& error : {rotated.error(), created.error()}) {
    EXPECT_EQ(FailureOf(error), Failure::kInvalidFormat);
    EXPECT_THAT(error.message(), HasSubstr("algorithm"));
    EXPECT_THAT(error.message(), HasSubstr("AWSCURRENT"));
    EXPECT_THAT(error.ToString(), Not(HasSubstr("do-not-show-this")));
  }
  EXPECT_EQ(cloud.writes, 0);
}

// --- The Lambda door ---

TEST_F(RotationTest, StepsMayBeRepeatedAndComeLate) {
  Cloud cloud(clock_);
  AddCurrent(cloud, days(100), true);
  Process process(cloud);
  for (const RotationStep step : kAllSteps) {
    ASSERT_TRUE(Run(process, Config(true), step, kEventToken));
    const int writes = cloud.writes;
    ASSERT_TRUE(Run(process, Config(true), step, kEventToken));
    EXPECT_EQ(cloud.writes, writes) << RotationStepName(step);
  }
  CheckRotatedOnce(cloud, true);
  EXPECT_EQ(cloud.Holder(kSecret, kCurrent), kEventToken);
  const int writes = cloud.writes;
  EXPECT_TRUE(RunAll(process, Config(true), kEventToken));
  EXPECT_EQ(cloud.writes, writes);
}

TEST_F(RotationTest, AVersionThatWasWithdrawnIsRefused) {
  Cloud cloud(clock_);
  AddCurrent(cloud, days(100));
  cloud.Add(kSecret, kEventToken, FormatJwtSecret(Generated(auth::Algorithm::kEdDsa)).Expose(), clock_.WallNow(), {});
  Process process(cloud);
  for (const RotationStep step : kAllSteps) {
    EXPECT_EQ(Run(process, Config(), step, kEventToken).error().code(), Code::kAborted);
    if (step != RotationStep::kCreate)
      EXPECT_EQ(Run(process, Config(), step, "22222222-2222-4222-8222-222222222222").error().code(),
                Code::kFailedPrecondition);
  }
  // Previous is withdrawn as well: nothing goes back to it.
  cloud.Add(kSecret, "33333333-3333-4333-8333-333333333333", FormatJwtSecret(Current()).Expose(), clock_.WallNow(),
            {std::string(kPrevious)});
  EXPECT_EQ(Run(process, Config(), RotationStep::kFinish, "33333333-3333-4333-8333-333333333333").error().code(),
            Code::kAborted);
  for (const std::string token :
       {"", "short", "4444444444444444444444444444444444444444444444444444444444444444444444"})
    EXPECT_EQ(Run(process, Config(), RotationStep::kCreate, token).error().code(), Code::kInvalidArgument);
  EXPECT_EQ(cloud.writes, 0);
}

// When a schedule is set up, Secrets Manager makes a copy of the current version, runs this one step, and takes the
// copy away.
TEST_F(RotationTest, ACopyOfTheCurrentVersionTestsWell) {
  config_.announce = minutes(11);
  Cloud cloud(clock_);
  AddCurrent(cloud, days(1), true);
  cloud.Add(kSecret, kEventToken, cloud.secrets[kSecret][kFirst].value, clock_.WallNow(), {std::string(kPending)});
  Process process(cloud);
  EXPECT_TRUE(Run(process, Config(true), RotationStep::kTest, kEventToken));
  EXPECT_EQ(cloud.writes, 0);
}

TEST_F(RotationTest, AnotherRotationIsNotDisturbed) {
  Cloud cloud(clock_);
  AddCurrent(cloud, days(100));
  Process process(cloud, 10, Process::Fate::kKilledAfter);
  ASSERT_FALSE(Rotate(process, Config()));
  const std::string pending = cloud.Holder(kSecret, kPending);
  ASSERT_NE(pending, "");
  Process lambda(cloud);
  const auto refused = Run(lambda, Config(), RotationStep::kCreate, kEventToken);
  EXPECT_EQ(refused.error().code(), Code::kAborted);
  EXPECT_THAT(refused.error().message(), HasSubstr(pending));
  EXPECT_THAT(refused.error().message(), HasSubstr("nova secrets rotate"));
  EXPECT_EQ(cloud.Holder(kSecret, kPending), pending);
}

// --- Time ---

TEST_F(RotationTest, ItSignsOnlyWhenEverybodyHasSeenIt) {
  config_.announce = minutes(11);
  Cloud cloud(clock_);
  AddCurrent(cloud, days(100), true);
  Process process(cloud);
  ASSERT_TRUE(Run(process, Config(true), RotationStep::kCreate, kEventToken));
  // A long night between the two: what counts is when the last verifier could know.
  clock_.Advance(minutes(10));
  ASSERT_TRUE(Run(process, Config(true), RotationStep::kSet, kEventToken));
  clock_.Advance(minutes(10));
  for (const RotationStep step : {RotationStep::kTest, RotationStep::kFinish}) {
    const auto early = Run(process, Config(true), step, kEventToken);
    ASSERT_FALSE(early);
    EXPECT_EQ(early.error().code(), Code::kUnavailable);
    EXPECT_THAT(early.error().message(), HasSubstr("ready at 2023-11-14T22:34:20Z"));
  }
  EXPECT_EQ(cloud.Holder(kSecret, kCurrent), kFirst);
  clock_.Advance(minutes(1));
  EXPECT_TRUE(Run(process, Config(true), RotationStep::kTest, kEventToken));
  EXPECT_TRUE(Run(process, Config(true), RotationStep::kFinish, kEventToken));
  CheckRotatedOnce(cloud, true);
}

TEST_F(RotationTest, TestingWaitsAndEndsWithItsCall) {
  config_.announce = milliseconds(20);
  Cloud cloud(clock_);
  AddCurrent(cloud, days(100));
  Process process(cloud);
  // The clock stands still until it is said that there is something to wait for.
  std::vector<std::string> said;
  Rotator rotator(process, Config(), clock_, [&](std::string_view what) {
    said.emplace_back(what);
    if (what.find("everybody will have seen it") != std::string_view::npos) clock_.Advance(config_.announce);
  });
  const WallTime began = clock_.WallNow();
  const auto report =
      runtime_.RunBlocking<RotationReport>(kLimit, [&](Call& call) { return rotator.Rotate(call, false); });
  ASSERT_TRUE(report) << report.error().ToString();
  EXPECT_EQ(clock_.WallNow(), began + config_.announce);
  ASSERT_EQ(said.size(), 3u);
  EXPECT_THAT(said[1], HasSubstr("everybody will have seen it"));
  // A wait that is under way ends with its call.
  config_.announce = minutes(11);
  std::function<void()> end;
  Rotator slow(process, Config(), clock_, [&](std::string_view what) {
    if (what.find("everybody will have seen it") != std::string_view::npos) end();
  });
  const auto cancelled = runtime_.RunBlocking<RotationReport>(Duration::max(), [&](Call& call) -> Task<RotationReport> {
    end = [&call] { boost::asio::post(call.strand(), [&call] { call.Cancel(Cancelled("enough")); }); };
    co_return co_await slow.Rotate(call, true);
  });
  EXPECT_EQ(cancelled.error().code(), Code::kCancelled);
}

TEST_F(RotationTest, TokensAreNotCutShortByASchedule) {
  config_.announce = minutes(11);
  config_.interval = minutes(1);
  Cloud cloud(clock_);
  const std::string before = "99999999-9999-4999-8999-999999999999";
  cloud.Add(kSecret, before, FormatJwtSecret(Generated(auth::Algorithm::kEdDsa)).Expose(), clock_.WallNow() - days(100),
            {std::string(kPrevious)});
  AddCurrent(cloud, minutes(12));
  Process process(cloud);
  // Signed until 22 minutes after the current version was made, and valid for 5 and the skew: a rotation that begins
  // 16.5 minutes after it withdraws the key when they have ended.
  const auto early = Rotate(process, Config());
  ASSERT_TRUE(early);
  EXPECT_EQ(early->outcome, Outcome::kNotDue);
  EXPECT_EQ(early->due_at, clock_.WallNow() + minutes(4) + seconds(30));
  const auto refused = Run(process, Config(), RotationStep::kCreate, kEventToken);
  EXPECT_EQ(refused.error().code(), Code::kUnavailable);
  EXPECT_THAT(refused.error().message(), HasSubstr("2023-11-14T22:17:50Z"));
  EXPECT_EQ(cloud.writes, 0);

  clock_.Advance(minutes(4) + seconds(30));
  EXPECT_TRUE(Run(process, Config(), RotationStep::kCreate, kEventToken));
}

TEST_F(RotationTest, WhoRotatesTwiceIsToldWhoseTokensEnd) {
  Cloud cloud(clock_);
  AddCurrent(cloud, days(100));
  Process process(cloud);
  EXPECT_FALSE(Rotate(process, Config(), /*now=*/true)->tokens_cut_short_until);
  const auto again = Rotate(process, Config(), /*now=*/true);
  ASSERT_TRUE(again);
  EXPECT_EQ(again->outcome, Outcome::kRotated);
  EXPECT_EQ(again->tokens_cut_short_until, clock_.WallNow() + minutes(5) + auth::kClockSkewMax);
}

TEST_F(RotationTest, StepsHaveTheNamesOfSecretsManager) {
  for (const RotationStep step : kAllSteps) EXPECT_EQ(*ParseRotationStep(RotationStepName(step)), step);
  for (const char* const name : {"", "create", "CreateSecret", "finishSecret "}) EXPECT_FALSE(ParseRotationStep(name));
}

}  // namespace
}  // namespace nova::secrets
