// A fleet on a clock of its own: identities that sign, services that follow the keys they publish, and somebody who
// rotates, with all phases, faults and restarts at random. Whatever happens, a service that meets a good token knows
// its key.
#include <algorithm>
#include <array>
#include <cstdlib>
#include <functional>
#include <gtest/gtest.h>
#include <iostream>
#include <map>
#include <memory>
#include <optional>
#include <queue>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "nova/runtime/runtime.h"
#include "nova/secrets/fake_secrets.h"
#include "nova/secrets/jwt_keyring.h"
#include "nova/secrets/jwt_secret.h"
#include "nova/telemetry/log.h"

namespace nova::secrets {
namespace {

using namespace std::chrono_literals;
using runtime::Call;

constexpr Duration kFollowInterval = 300s;  // auth::KeyFollowerConfig::refresh_interval
constexpr int kIdentities = 3;
constexpr int kServices = 5;
constexpr std::size_t kVersionsMax = 16;

struct Circumstances {
  Duration access_lifetime = 15min;
  // How long a read of the secret takes, at most, and how many looks in a row may fail.
  Duration read_max = 1500ms;
  int failures_max = 2;
  std::chrono::milliseconds announce = JwtKeyringConfig().announce;
};

// Keys cost more to make than everything that is done with them here.
struct Keys {
  Keys() {
    for (std::size_t i = 0; i < kVersionsMax; ++i) {
      const auth::SigningKey key = *auth::SigningKey::Generate(auth::Algorithm::kEdDsa);
      kids.push_back(key.kid());
      texts.push_back(*key.ToText());
    }
  }
  std::vector<std::string> kids;
  std::vector<Secret<>> texts;
};

class Fleet {
 public:
  Fleet(runtime::Runtime& runtime, const Keys& keys, std::uint64_t seed, const Circumstances& circumstances)
      : runtime_(runtime), keys_(keys), random_(seed), circumstances_(circumstances) {
    MakeVersion();
    secrets_.MakeCurrent(versions_.back());
    labelled_at_[versions_.back()] = clock_.Now();
    clock_.Advance(24h);
    secrets_.BeforeRead([this](std::string_view) { return Read(); });
    for (Identity& identity : identities_) identity.up_at = clock_.Now() + Random(0s, 300s);
    for (Service& service : services_) service.due = clock_.Now() + Random(0s, 300s);
    Plan(clock_.Now() + Random(10s, 900s), [this] { Rotate(); });
  }

  // What went wrong; empty if nothing did.
  std::string Run(Duration duration) {
    const SteadyTime end = clock_.Now() + duration;
    while (clock_.Now() < end && problem_.empty()) Step();
    return problem_;
  }
  int rotations() const { return rotations_; }
  int tokens() const { return tokens_; }

 private:
  struct Identity {
    std::unique_ptr<telemetry::Metrics> metrics;
    std::unique_ptr<JwtKeyring> keyring;  // null while it is down
    SteadyTime up_at = {};
    int failures = 0;
  };
  struct Service {
    explicit Service(const Clock& clock) : verifier(clock) {}
    auth::JwtVerifier verifier;
    bool ready = false;
    std::string published = {};
    SteadyTime due = {};
    int failures = 0;
  };
  struct Event {
    SteadyTime at;
    int number;
    std::function<void()> action;
    bool operator<(const Event& other) const { return std::pair(other.at, other.number) < std::pair(at, number); }
  };

  Duration Random(Duration from, Duration to) {
    return Duration(std::uniform_int_distribution<Duration::rep>(from.count(), to.count())(random_));
  }
  bool Chance(double probability) { return std::bernoulli_distribution(probability)(random_); }

  void Plan(SteadyTime at, std::function<void()> action) { events_.push({at, ++planned_, std::move(action)}); }

  // Does whatever is due next.
  void Step() {
    SteadyTime next = events_.top().at;
    Identity* identity = nullptr;
    Service* service = nullptr;
    for (Identity& candidate : identities_) {
      const SteadyTime due = candidate.keyring ? candidate.keyring->due() : candidate.up_at;
      if (due >= next) continue;
      next = due;
      identity = &candidate;
    }
    for (Service& candidate : services_) {
      if (candidate.due >= next) continue;
      next = candidate.due;
      service = &candidate;
    }
    if (next > clock_.Now()) clock_.Advance(next - clock_.Now());
    // All signed with what they had until now.
    Observe();
    if (service != nullptr) {
      Follow(*service);
    } else if (identity != nullptr) {
      Look(*identity);
    } else {
      DoPlanned();
    }
    Observe();
  }

  void DoPlanned() {
    const auto action = events_.top().action;
    events_.pop();
    action();
  }

  // What happens before each read of the secret: time passes, labels move, and sometimes it fails.
  Result<void> Read() {
    clock_.Advance(Random(0s, circumstances_.read_max));
    while (events_.top().at <= clock_.Now()) DoPlanned();
    if (looking_->failures < circumstances_.failures_max && Chance(0.03)) return Fail(Failure::kNetwork, "broken off");
    return Ok();
  }

  void Look(Identity& identity) {
    looking_ = &identity;
    const bool starts = identity.keyring == nullptr;
    if (starts) {
      identity.metrics = std::make_unique<telemetry::Metrics>();
      identity.keyring = std::make_unique<JwtKeyring>(
          secrets_, JwtKeyringConfig{.secret_id = "jwt", .signs = true, .announce = circumstances_.announce},
          *identity.metrics, clock_, random_());
    }
    const auto done = runtime_.RunBlocking<void>(
        30s, [&](Call& call) { return starts ? identity.keyring->Load(call) : identity.keyring->Refresh(call); });
    identity.failures = done ? 0 : identity.failures + 1;
    if (starts && !done) {
      identity.keyring.reset();
      identity.up_at = clock_.Now() + 1s;
    } else if (!starts && Chance(0.01)) {
      identity.keyring.reset();
      identity.up_at = clock_.Now() + Random(1s, 60s);
    }
  }

  // As KeyFollower does, but for the one thing that mends mistakes: looking early for an unknown key.
  void Follow(Service& service) {
    if (Chance(0.01)) {
      service.ready = false;
      service.verifier.SetKeys(std::make_shared<const auth::Jwks>());
      service.published.clear();
    }
    std::vector<const Identity*> up;
    for (const Identity& identity : identities_)
      if (identity.keyring) up.push_back(&identity);
    if (up.empty() || (service.failures < circumstances_.failures_max && Chance(0.03))) {
      ++service.failures;
      service.due = clock_.Now() + 1s;
      return;
    }
    const Identity& asked = *up[static_cast<std::size_t>(random_() % up.size())];
    const std::string text = asked.keyring->verifier().keys()->ToJson();
    if (text != service.published) {
      service.verifier.Set(terms_, std::make_shared<const auth::Jwks>(*auth::Jwks::Parse(text)));
      service.published = text;
    }
    service.ready = true;
    service.failures = 0;
    service.due = clock_.Now() + kFollowInterval;
  }

  void MakeVersion() {
    auth::JwtConfig jwt;
    jwt.signing_key = keys_.texts[versions_.size()];
    jwt.expiry = std::chrono::floor<std::chrono::seconds>(circumstances_.access_lifetime);
    versions_.push_back("version-" + std::to_string(versions_.size()));
    kid_of_[versions_.back()] = keys_.kids[versions_.size() - 1];
    secrets_.Add(versions_.back(), FormatJwtSecret(jwt), clock_.WallNow());
  }

  // Moves labels, and notes which keys are withdrawn thereby.
  void Relabel(const std::function<void()>& move) {
    move();
    for (const std::string& version : versions_) {
      const bool labelled = std::ranges::any_of(std::array{kPending, kCurrent, kPrevious}, [&](std::string_view stage) {
        return secrets_.Labelled(stage) == version;
      });
      if (labelled) {
        labelled_at_.try_emplace(version, clock_.Now());
      } else if (labelled_at_.contains(version)) {
        withdrawn_at_.try_emplace(kid_of_[version], clock_.Now());
      }
    }
  }

  void Rotate() {
    if (versions_.size() == kVersionsMax) return Plan(clock_.Now() + 24h, [this] { Rotate(); });
    ++rotations_;
    MakeVersion();
    const std::string made = versions_.back();
    // The rotation waits as long as production does, also where the keyring was told a lie about it.
    const Duration announce = JwtKeyringConfig().announce;
    SteadyTime known_at = clock_.Now() + announce;
    if (Chance(0.5)) {
      Relabel([&] { secrets_.Label(kPending, made); });
      known_at += Random(0s, 600s);
      Plan(known_at, [this, made] { Relabel([&] { secrets_.MakeCurrent(made); }); });
      Plan(known_at + Random(0s, 5s), [this] { Relabel([&] { secrets_.Label(kPending, ""); }); });
      // The one before may be withdrawn as soon as it does not sign by its label.
      if (Chance(0.3)) Plan(known_at + Random(6s, 900s), [this] { Relabel([&] { secrets_.Label(kPrevious, ""); }); });
    } else {
      Relabel([&] { secrets_.MakeCurrent(made); });
      if (Chance(0.3)) Plan(known_at + Random(6s, 900s), [this] { Relabel([&] { secrets_.Label(kPrevious, ""); }); });
    }
    const SteadyTime settled = known_at + 901s;
    if (Chance(0.2)) {
      Plan(settled, [this] {
        const std::string previous = secrets_.Labelled(kPrevious);
        if (!previous.empty()) Relabel([&] { secrets_.MakeCurrent(previous); });
      });
    }
    Plan(settled + Random(1s, 2400s), [this] { Rotate(); });
  }

  // Notes what signs at this moment, and holds everybody to both promises.
  void Observe() {
    const SteadyTime now = clock_.Now();
    for (const Identity& identity : identities_)
      if (identity.keyring) signed_until_[identity.keyring->signer().kid()] = now;
    for (const auto& [kid, until] : signed_until_) {
      const auto withdrawn = withdrawn_at_.find(kid);
      const bool is_good = now < until + circumstances_.access_lifetime && withdrawn == withdrawn_at_.end();
      const bool is_accepted = now < until + circumstances_.access_lifetime + auth::kClockSkewMax;
      const bool must_be_gone = withdrawn != withdrawn_at_.end() &&
                                now > withdrawn->second + 300s + circumstances_.access_lifetime + auth::kClockSkewMax;
      if (!is_good && !(is_accepted && must_be_gone)) continue;
      const auto check = [&](const auth::JwtVerifier& verifier, std::string_view who) {
        const bool knows = verifier.keys()->Find(kid) != nullptr;
        if (is_good && !knows) problem_ = std::string(who) + " refuses a valid token";
        if (must_be_gone && knows) problem_ = std::string(who) + " accepts a token of a key withdrawn long ago";
      };
      for (const Identity& identity : identities_)
        if (identity.keyring) check(identity.keyring->verifier(), "an identity");
      for (const Service& service : services_)
        if (service.ready) check(service.verifier, "a service");
    }
    // That keys are all there is to it: a real token, at times.
    if (!Chance(0.01)) return;
    for (const Identity& identity : identities_) {
      if (!identity.keyring) continue;
      const auto issued = identity.keyring->signer().Issue(Uuid::New(clock_), Uuid::New(clock_), clock_);
      if (!issued) {
        problem_ = "no token is issued: " + issued.error().ToString();
        return;
      }
      ++tokens_;
      if (withdrawn_at_.contains(identity.keyring->signer().kid())) continue;
      for (const Service& service : services_)
        if (service.ready && !service.verifier.Verify(issued->token)) problem_ = "a service refuses a new token";
    }
  }

  runtime::Runtime& runtime_;
  const Keys& keys_;
  std::mt19937_64 random_;
  const Circumstances circumstances_;
  const auth::JwtTerms terms_;
  FakeClock clock_;
  FakeSecrets secrets_;
  std::array<Identity, kIdentities> identities_;
  std::array<Service, kServices> services_{Service(clock_), Service(clock_), Service(clock_), Service(clock_),
                                           Service(clock_)};
  Identity* looking_ = nullptr;
  std::priority_queue<Event> events_;
  int planned_ = 0;
  std::vector<std::string> versions_;
  std::map<std::string, std::string> kid_of_;       // by version
  std::map<std::string, SteadyTime> labelled_at_;   // by version
  std::map<std::string, SteadyTime> withdrawn_at_;  // by kid
  std::map<std::string, SteadyTime> signed_until_;  // by kid
  std::string problem_;
  int rotations_ = 0;
  int tokens_ = 0;
};

class JwtFleetTest : public testing::Test {
 protected:
  JwtFleetTest() {
    telemetry::InitLogging({}, [](std::string_view) {});
  }
  ~JwtFleetTest() override { telemetry::ShutdownLogging(); }

  struct Outcome {
    int rotations = 0;
    int tokens = 0;
    int failed = 0;
    std::string first = {};
  };
  Outcome Run(int schedules, const Circumstances& circumstances, bool stops_at_first = true) {
    const std::uint64_t base = std::random_device{}();
    std::cout << "seeds from " << base << '\n';
    Outcome outcome;
    for (int i = 0; i < schedules; ++i) {
      const std::uint64_t seed = base + static_cast<std::uint64_t>(i);
      Fleet fleet(runtime_, keys_, seed, circumstances);
      const std::string problem = fleet.Run(3h);
      outcome.rotations += fleet.rotations();
      outcome.tokens += fleet.tokens();
      if (problem.empty()) continue;
      ++outcome.failed;
      if (outcome.first.empty()) outcome.first = "seed " + std::to_string(seed) + ": " + problem;
      if (stops_at_first) break;
    }
    return outcome;
  }
  // NOVA_TEST_SCHEDULES asks for another number of them.
  static int Schedules(int usual) {
    const char* const asked = std::getenv("NOVA_TEST_SCHEDULES");
    return asked == nullptr ? usual : std::atoi(asked);
  }

  runtime::Runtime runtime_{{.threads = 1}};
  const Keys keys_;
};

TEST_F(JwtFleetTest, NoValidTokenIsRefusedAndNoWithdrawnKeyOutlivesItsTime) {
  const Outcome outcome = Run(Schedules(150), {});
  EXPECT_EQ(outcome.failed, 0) << outcome.first;
  EXPECT_GT(outcome.rotations, 0);
  EXPECT_GT(outcome.tokens, 0);
  std::cout << outcome.rotations << " rotations, " << outcome.tokens << " real tokens\n";
}

// The bound on withdrawn keys, to the second: with so short a life the age of a token hides nothing.
TEST_F(JwtFleetTest, TheBoundsHoldForShortLivedTokens) {
  const Outcome outcome = Run(Schedules(150), {.access_lifetime = 60s, .read_max = 0ms, .failures_max = 0});
  EXPECT_EQ(outcome.failed, 0) << outcome.first;
}

// What the simulation is worth: it finds out whoever signs with a key before it was announced.
TEST_F(JwtFleetTest, SigningUnannouncedIsFoundOut) {
  EXPECT_GT(Run(20, {.announce = 0ms}, false).failed, 10);
  EXPECT_GT(Run(20, {.announce = std::chrono::minutes(4)}, false).failed, 0);
}

}  // namespace
}  // namespace nova::secrets
