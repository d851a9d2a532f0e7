#include "nova/auth/key_follower.h"

#include <condition_variable>
#include <gtest/gtest.h>
#include <memory>
#include <mutex>

#include "nova/runtime/runtime.h"

namespace nova::auth {
namespace {

using namespace std::chrono_literals;
using runtime::Call;
using runtime::Task;

// What identity publishes, or why it does not.
class Publisher {
 public:
  void Publish(Result<std::string> answer) {
    std::lock_guard lock(mutex_);
    answer_ = std::move(answer);
  }
  void Publish(const std::vector<SigningKey>& keys) {
    std::vector<VerificationKey> verification;
    for (const SigningKey& key : keys) verification.push_back(key.verification_key());
    Publish(Jwks(std::move(verification)).ToJson());
  }
  Task<std::string> Fetch(Call&) {
    std::lock_guard lock(mutex_);
    ++fetches_;
    fetched_.notify_all();
    co_return answer_;
  }
  // Returns when `count` more fetches have begun; the first of them may have found what was published before.
  bool AwaitFetches(int count) {
    std::unique_lock lock(mutex_);
    const int until = fetches_ + count;
    return fetched_.wait_for(lock, 20s, [&] { return fetches_ >= until; });
  }
  int fetches() {
    std::lock_guard lock(mutex_);
    return fetches_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable fetched_;
  Result<std::string> answer_ = Unavailable("identity is down");
  int fetches_ = 0;
};

class KeyFollowerTest : public testing::Test {
 protected:
  ~KeyFollowerTest() override { EXPECT_TRUE(scope_.Stop(10s)); }

  KeyFollower& Start(KeyFollowerConfig config, const Clock& clock = Clock::System()) {
    follower_ = std::make_unique<KeyFollower>(
        jwt_, [this](Call& call) { return publisher_.Fetch(call); }, metrics_, config, clock);
    follower_->Start(scope_);
    return *follower_;
  }
  std::string TokenOf(const SigningKey& key) const {
    return *SignToken(key, NewClaims(TermsOf(jwt_), Uuid::New(), Uuid::New(), Clock::System()));
  }

  // Looks all the time, so that tests need not wait for the clock.
  static constexpr KeyFollowerConfig kEager{.refresh_interval = 2ms, .retry_interval = 1ms};

  const JwtConfig jwt_;
  FakeClock fake_clock_;
  const SigningKey first_ = *SigningKey::Generate(jwt_.algorithm);
  const SigningKey second_ = *SigningKey::Generate(jwt_.algorithm);
  Publisher publisher_;
  telemetry::Metrics metrics_;
  runtime::Runtime runtime_{{.threads = 2}};
  runtime::Scope scope_{runtime_};
  std::unique_ptr<KeyFollower> follower_;
};

TEST_F(KeyFollowerTest, WithoutKeysNobodyCanTellAndNobodyIsRefusedForGood) {
  KeyFollower& follower = Start(kEager);
  ASSERT_TRUE(publisher_.AwaitFetches(2));
  const auto claims = follower.Verify(TokenOf(first_));
  ASSERT_FALSE(claims);
  EXPECT_EQ(claims.error().code(), Code::kUnavailable);
  ASSERT_FALSE(follower.Ready());
  EXPECT_EQ(follower.Ready().error().message(), "identity is down");
}

TEST_F(KeyFollowerTest, TheLastGoodKeysOutliveWhateverIsPublishedNext) {
  publisher_.Publish({first_});
  KeyFollower& follower = Start(kEager);
  ASSERT_TRUE(publisher_.AwaitFetches(2));
  ASSERT_TRUE(follower.Verify(TokenOf(first_)));
  const std::vector<Result<std::string>> calamities = {Unavailable("down"), std::string("not json"),
                                                       std::string(R"({"keys":[]})"), std::string()};
  for (const auto& calamity : calamities) {
    publisher_.Publish(calamity);
    ASSERT_TRUE(publisher_.AwaitFetches(3));
    EXPECT_TRUE(follower.Verify(TokenOf(first_)));
    EXPECT_TRUE(follower.Ready());
  }
}

TEST_F(KeyFollowerTest, FollowsARotation) {
  publisher_.Publish({first_});
  KeyFollower& follower = Start(kEager);
  ASSERT_TRUE(publisher_.AwaitFetches(2));
  EXPECT_FALSE(follower.Verify(TokenOf(second_)));
  publisher_.Publish({second_});
  ASSERT_TRUE(publisher_.AwaitFetches(3));
  EXPECT_TRUE(follower.Verify(TokenOf(second_)));
  const auto old = follower.Verify(TokenOf(first_));
  ASSERT_FALSE(old);
  EXPECT_EQ(old.error().code(), Code::kUnauthenticated);
}

TEST_F(KeyFollowerTest, AnUnknownKeyHastensTheNextLook) {
  publisher_.Publish({first_});
  // Unasked it would not look again within the life of this test.
  KeyFollower& follower = Start({.refresh_interval = std::chrono::hours(24), .retry_interval = 1ms});
  while (!follower.Ready()) ASSERT_TRUE(runtime_.RunBlocking<void>(1s, [](Call& call) { return Sleep(call, 1ms); }));
  publisher_.Publish({first_, second_});
  EXPECT_FALSE(follower.Verify(TokenOf(second_)));
  // The look it asked for.
  const SteadyTime patience = Clock::System().Now() + 20s;
  while (!follower.Verify(TokenOf(second_))) {
    ASSERT_LT(Clock::System().Now(), patience);
    ASSERT_TRUE(runtime_.RunBlocking<void>(1s, [](Call& call) { return Sleep(call, 1ms); }));
  }
  EXPECT_TRUE(follower.Verify(TokenOf(first_)));
}

TEST_F(KeyFollowerTest, OldKeysRefuseNobodyForGood) {
  const auto token_of = [&](const SigningKey& key) {
    return *SignToken(key, NewClaims(TermsOf(jwt_), Uuid::New(fake_clock_), Uuid::New(fake_clock_), fake_clock_));
  };
  publisher_.Publish({first_});
  KeyFollower& follower = Start({.refresh_interval = 5min, .retry_interval = 1ms}, fake_clock_);
  while (!follower.Ready()) ASSERT_TRUE(runtime_.RunBlocking<void>(1s, [](Call& call) { return Sleep(call, 1ms); }));
  const auto metric = [&](const std::string& name) { return metrics_.Scrape().find("\n" + name + "\n"); };
  EXPECT_NE(metric("nova_auth_keys_failing 0"), std::string::npos);
  publisher_.Publish(Unavailable("identity is down"));
  EXPECT_EQ(follower.Verify(token_of(second_)).error().code(), Code::kUnauthenticated);
  ASSERT_TRUE(publisher_.AwaitFetches(3));
  // The keys are fresh: a key that they lack was not announced in time, or is none of ours.
  EXPECT_EQ(follower.Verify(token_of(second_)).error().code(), Code::kUnauthenticated);
  fake_clock_.Advance(5min);
  EXPECT_EQ(follower.Verify(token_of(second_)).error().code(), Code::kUnavailable);
  EXPECT_TRUE(follower.Verify(token_of(first_)));
  EXPECT_EQ(follower.Verify("no token").error().code(), Code::kUnauthenticated);
  ASSERT_TRUE(publisher_.AwaitFetches(3));
  EXPECT_NE(metric("nova_auth_keys_failing 1"), std::string::npos);
  EXPECT_EQ(metric("nova_auth_keys_refreshed_timestamp_seconds 0"), std::string::npos);
  // Once the publisher is back, what it does not publish is refused.
  publisher_.Publish({first_});
  const SteadyTime patience = Clock::System().Now() + 20s;
  while (follower.Verify(token_of(second_)).error().code() != Code::kUnauthenticated) {
    ASSERT_LT(Clock::System().Now(), patience);
    ASSERT_TRUE(runtime_.RunBlocking<void>(1s, [](Call& call) { return Sleep(call, 1ms); }));
  }
}

TEST_F(KeyFollowerTest, RefusedTokensOfKnownKeysHastenNothing) {
  publisher_.Publish({first_});
  KeyFollower& follower = Start({.refresh_interval = std::chrono::hours(24), .retry_interval = 1ms});
  while (!follower.Ready()) ASSERT_TRUE(runtime_.RunBlocking<void>(1s, [](Call& call) { return Sleep(call, 1ms); }));
  const int before = publisher_.fetches();
  std::string tampered = TokenOf(first_);
  tampered[tampered.size() - 10] = tampered[tampered.size() - 10] == 'A' ? 'B' : 'A';
  for (int i = 0; i < 100; ++i) EXPECT_FALSE(follower.Verify(tampered));
  ASSERT_TRUE(runtime_.RunBlocking<void>(1s, [](Call& call) { return Sleep(call, 30ms); }));
  EXPECT_EQ(publisher_.fetches(), before);
}

}  // namespace
}  // namespace nova::auth
