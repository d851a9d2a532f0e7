#include "audit/token_load.h"

#include <atomic>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <set>

#include "nova/auth/jwt.h"
#include "tests/eventually.h"

namespace nova::audit {
namespace {

using runtime::Call;
using runtime::Task;
using std::chrono::milliseconds;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using tests::Eventually;

// An issuer whose key is replaced, and a verifier that knows the keys it is told.
class TokenLoadTest : public ::testing::Test {
 protected:
  static auth::SigningKey NewKey() { return *auth::SigningKey::Generate(auth::Algorithm::kEdDsa); }

  std::unique_ptr<TokenLoad> Start() {
    return std::make_unique<TokenLoad>(
        runtime_,
        std::vector<TokenLoad::Source>{
            {.name = "Issue", .pause = milliseconds(1), .get = [this](Call&) { return Issue(); }}},
        std::vector<TokenLoad::Use>{
            {.name = "Verify", .callers = 2, .pause = milliseconds(1), .use = [this](Call&, const Secret<>& token) {
               return Verify(token);
             }}});
  }

  Task<Secret<>> Issue() {
    if (is_broken_) co_return Unavailable("no key");
    NOVA_CO_TRY(auto issued, signer_.Issue(Uuid::New(), Uuid::New(), Clock::System()));
    co_return Secret<>(std::move(issued.token));
  }
  Task<void> Verify(const Secret<>& token) {
    NOVA_CO_TRY(const std::string kid, KidOf(token));
    const std::lock_guard lock(mutex_);
    used_.insert(kid);
    if (withdrawn_.contains(kid)) co_return Unauthenticated("withdrawn");
    co_return Ok();
  }
  bool IsUsed(const std::string& kid) {
    const std::lock_guard lock(mutex_);
    return used_.contains(kid);
  }
  void Forget() {
    const std::lock_guard lock(mutex_);
    used_.clear();
  }
  void Withdraw(const std::string& kid) {
    const std::lock_guard lock(mutex_);
    withdrawn_.insert(kid);
  }
  // As many calls as it takes to use any of a few tokens for certain, by all odds.
  static bool GoesOn(const TokenLoad& load, int calls) {
    const int before = load.seen().calls;
    return static_cast<bool>(Eventually([&] { return load.seen().calls >= before + calls; }));
  }

  const auth::SigningKey first_ = NewKey();
  const auth::SigningKey second_ = NewKey();
  auth::JwtSigner signer_{{}, first_};
  std::atomic<bool> is_broken_ = false;
  std::mutex mutex_;
  std::set<std::string> used_;
  std::set<std::string> withdrawn_;
  runtime::Runtime runtime_;
};

TEST_F(TokenLoadTest, TellsTheKeyOfAToken) {
  const auto issued = signer_.Issue(Uuid::New(), Uuid::New(), Clock::System());
  EXPECT_EQ(*KidOf(Secret<>(issued->token)), first_.kid());
  for (const char* none : {"", "x", "e30.e30.x", "bm90IGpzb24.e30.x", "eyJraWQiOjF9.e30.x"})
    EXPECT_FALSE(KidOf(Secret<>(none))) << none;
}

TEST_F(TokenLoadTest, UsesTokensOfAllAgesAndSeesANewKey) {
  const auto load = Start();
  ASSERT_TRUE(Eventually([&] { return load->IsReady(); }));
  EXPECT_TRUE(load->FirstOf(first_.kid()));
  EXPECT_FALSE(load->FirstOf(second_.kid()));
  const SteadyTime replaced = Clock::System().Now();
  signer_.Set({}, second_);
  ASSERT_TRUE(Eventually([&] { return load->FirstOf(second_.kid()).has_value(); }));
  EXPECT_GE(*load->FirstOf(second_.kid()), replaced);
  Forget();
  EXPECT_TRUE(Eventually([&] { return IsUsed(first_.kid()) && IsUsed(second_.kid()); }));
  const TokenLoad::Seen seen = load->Stop();
  EXPECT_EQ(seen.failed, 0) << seen.first_failure;
  EXPECT_EQ(seen.by_key.size(), 2U);
  EXPECT_EQ(seen.by_key.at(first_.kid()) + seen.by_key.at(second_.kid()), seen.tokens);
}

TEST_F(TokenLoadTest, ATokenThatIsRefusedCounts) {
  const auto load = Start();
  ASSERT_TRUE(Eventually([&] { return load->IsReady(); }));
  Withdraw(first_.kid());
  ASSERT_TRUE(Eventually([&] { return load->seen().failed > 0; }));
  EXPECT_THAT(load->Stop().first_failure, StartsWith("Verify: UNAUTHENTICATED"));
}

TEST_F(TokenLoadTest, TokensOfARetiredKeyAreUsedNoMore) {
  const auto load = Start();
  ASSERT_TRUE(Eventually([&] { return load->IsReady(); }));
  signer_.Set({}, second_);
  ASSERT_TRUE(Eventually([&] { return load->FirstOf(second_.kid()).has_value(); }));
  load->Retire(first_.kid());
  // Those under way have ended.
  ASSERT_TRUE(GoesOn(*load, 20));
  Withdraw(first_.kid());
  Forget();
  ASSERT_TRUE(GoesOn(*load, 100));
  EXPECT_FALSE(IsUsed(first_.kid()));
  EXPECT_EQ(load->Stop().failed, 0);
}

TEST_F(TokenLoadTest, ASourceThatFailsCounts) {
  is_broken_ = true;
  const auto load = Start();
  ASSERT_TRUE(Eventually([&] { return load->seen().failed > 0; }));
  EXPECT_FALSE(load->IsReady());
  EXPECT_THAT(load->Stop().first_failure, HasSubstr("Issue: UNAVAILABLE"));
}

}  // namespace
}  // namespace nova::audit
