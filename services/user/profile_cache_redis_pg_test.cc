#include <algorithm>
#include <gtest/gtest.h>
#include <random>

#include "services/user/profile_cache.h"
#include "services/user/test_environment.h"
#include "tests/redis_fixture.h"
#include "tests/seed.h"

namespace nova::user {
namespace {

using namespace std::chrono_literals;
using runtime::Call;
using runtime::Task;

// The service with a cache, and beside it the one without, which knows the truth.
class ProfileCacheTest : public UserTest {
 protected:
  static tests::RedisFixture& Redis() { return tests::RedisFixture::Instance(); }

  void SetUp() override {
    UserTest::SetUp();
    Redis().Command({"FLUSHALL"});
  }
  void TearDown() override {
    EXPECT_TRUE(cache_.Close(10s));
    EXPECT_TRUE(redis_.Close(10s));
    UserTest::TearDown();
  }

  template <class T>
  Result<T> RunCached(tests::As caller, std::function<Task<T>(Call&, Service&)> work) {
    return Run<T>(caller, [&](Call& call) { return work(call, cached_); });
  }
  Result<User> GetCached(Uuid id, tests::As caller = {}) {
    return RunCached<User>(caller, [&](Call& call, Service& user) { return user.GetUser(call, id.ToString()); });
  }
  Result<User> GetCachedByName(std::string username, tests::As caller = {}) {
    return RunCached<User>(caller, [&](Call& call, Service& user) { return user.GetUserByUsername(call, username); });
  }
  Result<std::vector<UserEntry>> GetCachedMany(std::vector<std::string> ids, tests::As caller = {}) {
    return RunCached<std::vector<UserEntry>>(caller,
                                             [&](Call& call, Service& user) { return user.GetUsersByIds(call, ids); });
  }
  Result<User> UpdateCached(Uuid caller, ProfileUpdate update) {
    return RunCached<User>(caller, [&](Call& call, Service& user) { return user.UpdateProfile(call, update); });
  }

  // As in production: a look at the cache is worth less than one at Redis in general.
  static resilience::DependencyConfig CachePolicies() {
    auto policies = resilience::DependencyConfig::Default(resilience::Kind::kCache);
    policies.timeout = 100ms;
    policies.slow = 50ms;
    return policies;
  }

  resilience::CacheDependency cache_dependency_{"cache", metrics_, CachePolicies()};
  redis::Client redis_{runtime_, metrics_, cache_dependency_, Redis().Client(kName)};
  ProfileCache cache_{runtime_, metrics_, redis_, store_, UserConfig()};
  Service cached_{store_, &cache_, metrics_, clock_};
};

TEST_F(ProfileCacheTest, OthersReadTheCacheAndTheOwnerTheDatabase) {
  const Uuid ada = Made("ada");
  ASSERT_TRUE(GetCached(ada));
  ASSERT_TRUE(GetCachedByName("ada"));
  Execute("UPDATE users SET bio = 'written past the service'");
  EXPECT_EQ(GetCached(ada)->bio, "");
  EXPECT_EQ(GetCachedByName("ADA")->bio, "");
  EXPECT_EQ(GetCachedMany({ada.ToString()})->front().user->bio, "");
  EXPECT_EQ(GetCached(ada, ada)->bio, "written past the service");
  EXPECT_EQ(GetCachedByName("ada", ada)->bio, "written past the service");
  EXPECT_EQ(GetCachedMany({ada.ToString()}, ada)->front().user->bio, "written past the service");
  EXPECT_GT(Redis().Command({"PTTL", "user:profile:1:" + ada.ToString()}).integer, 50'000);
}

TEST_F(ProfileCacheTest, WhoIsNotThereIsForgottenSoon) {
  const Uuid nobody = Uuid::New(clock_);
  EXPECT_EQ(GetCached(nobody).error().code(), Code::kNotFound);
  EXPECT_EQ(GetCachedByName("nobody").error().code(), Code::kNotFound);
  for (const std::string& key : {"user:profile:1:" + nobody.ToString(), std::string("user:name:1:nobody")}) {
    const auto ttl = Redis().Command({"PTTL", key}).integer;
    EXPECT_NE(ttl, -1) << key;
    EXPECT_LE(ttl, 1'100) << key << ": a profile that is being made must appear soon";
  }
}

TEST_F(ProfileCacheTest, EveryWriteIsSeenAtOnceHoweverItIsRead) {
  std::mt19937 random(tests::TestSeed());
  std::vector<Uuid> ids;
  std::vector<std::string> names;
  for (int i = 0; i < 6; ++i) {
    names.push_back("user" + std::to_string(i));
    ids.push_back(Made(names.back()));
  }
  for (int step = 0; step < 400; ++step) {
    const std::size_t which = random() % ids.size();
    const Uuid id = ids[which];
    const auto kind = random() % 12;
    const auto wrote = RunCached<void>(id, [&](Call& call, Service& user) -> Task<void> {
      const std::string text = id.ToString();
      if (kind == 0) {
        NOVA_CO_TRY(const User seen, co_await user.GetUser(call, text));
        NOVA_CO_TRY(co_await user.UpdateProfile(
            call, {.expected_version = seen.version, .bio = "step " + std::to_string(step)}));
      } else if (kind == 1) {
        NOVA_CO_TRY(const Settings seen, co_await user.GetSettings(call));
        NOVA_CO_TRY(co_await user.UpdateSettings(
            call, {.expected_version = seen.version,
                   .profile_visibility = step % 2 == 0 ? Visibility::kPublic : Visibility::kPrivate}));
      } else if (kind == 2) {
        NOVA_CO_TRY(co_await user.BanUser(call, text, "spam"));
      } else if (kind == 3) {
        NOVA_CO_TRY(co_await user.UnbanUser(call, text));
      } else if (kind == 4) {
        NOVA_CO_TRY(co_await user.VerifyUser(call, text, step % 2 == 0));
      } else if (kind == 5 && step > 200) {
        co_return co_await user.DeleteUser(call);
      }
      co_return Ok();
    });
    if (!wrote) {
      EXPECT_TRUE(wrote.error().code() == Code::kPermissionDenied || wrote.error().code() == Code::kNotFound)
          << wrote.error().ToString();
    }

    const std::optional<Uuid> viewer = random() % 3 == 0 ? std::nullopt : std::optional(ids[random() % ids.size()]);
    const auto expect_same = [&](const Result<User>& cached, const Result<User>& truth) {
      ASSERT_EQ(cached.ok(), truth.ok()) << "step " << step;
      if (truth) {
        EXPECT_EQ(*cached, *truth) << "step " << step;
      } else {
        EXPECT_EQ(cached.error().code(), truth.error().code());
      }
    };
    expect_same(GetCached(id, viewer), Get(id, viewer));
    expect_same(GetCachedByName(names[which], viewer), GetByName(names[which], viewer));
    std::vector<std::string> batch;
    for (auto left = random() % 10; left > 0; --left) batch.push_back(ids[random() % ids.size()].ToString());
    const auto cached = GetCachedMany(batch, viewer);
    const auto truth = GetMany(batch, viewer);
    ASSERT_TRUE(cached && truth);
    ASSERT_EQ(cached->size(), truth->size());
    for (std::size_t i = 0; i < truth->size(); ++i) {
      EXPECT_EQ((*cached)[i].id, (*truth)[i].id);
      EXPECT_EQ((*cached)[i].user, (*truth)[i].user) << "step " << step;
    }
    if (HasFailure()) return;
  }
}

TEST_F(ProfileCacheTest, ReadersThatRaceWithWritersLeaveNothingOldBehind) {
  const Uuid ada = Made("ada");
  for (int round = 0; round < 10; ++round) {
    const auto results = RunAtOnce<void>(30, [this, ada](Call& call, std::size_t i) -> Task<void> {
      if (i % 6 != 0) {
        NOVA_CO_TRY(co_await cached_.GetUser(call, ada.ToString()));
        co_return Ok();
      }
      tests::As(ada).Enter(call);
      NOVA_CO_TRY(const User seen, co_await cached_.GetUser(call, ada.ToString()));
      const auto saved =
          co_await cached_.UpdateProfile(call, {.expected_version = seen.version, .bio = seen.bio + "x"});
      if (!saved && saved.error().code() != Code::kAborted) co_return saved.error();
      co_return Ok();
    });
    for (const auto& result : results) EXPECT_TRUE(result) << result.error().ToString();
    ASSERT_EQ(*GetCached(ada), *Get(ada)) << "round " << round;
    // The mark that a write leaves in Redis is what the next round must not depend on.
    Redis().Command({"DEL", "user:profile:1:" + ada.ToString()});
  }
}

TEST_F(ProfileCacheTest, WhatCannotBeReadComesFromTheDatabase) {
  const Uuid ada = Made("ada");
  const Uuid bob = Made("bob");
  const std::string key = "user:profile:1:" + ada.ToString();
  ASSERT_TRUE(GetCached(bob));
  const auto kept = Redis().Command({"GET", "user:profile:1:" + bob.ToString()});
  // Rubbish, and somebody else's profile.
  for (const std::string& wrong : {std::string("+rubbish"), std::string("+{}"), kept.text}) {
    Redis().Command({"SET", key, wrong});
    const auto found = GetCached(ada);
    ASSERT_TRUE(found) << found.error().ToString();
    EXPECT_EQ(*found, *Get(ada));
  }
  // A name that leads to one who has it no longer.
  Redis().Command({"DEL", key});
  ASSERT_TRUE(GetCachedByName("ada"));
  ASSERT_TRUE(Delete(ada));  // by a process that could not reach Redis
  EXPECT_TRUE(GetCachedByName("ada")) << "until its TTL";
  Redis().Command({"DEL", key});
  EXPECT_EQ(GetCachedByName("ada").error().code(), Code::kNotFound);
  const Uuid heir = Made("ada");
  EXPECT_EQ(GetCachedByName("ada")->id, heir);
}

TEST_F(ProfileCacheTest, WithoutRedisEverythingComesFromTheDatabase) {
  const Uuid ada = Made("ada");
  ASSERT_TRUE(GetCached(ada));
  const auto expect_service = [&](std::int64_t version, const std::string& bio) {
    const SteadyTime begin = Clock::System().Now();
    const auto updated = UpdateCached(ada, {.expected_version = version, .bio = bio});
    ASSERT_TRUE(updated) << updated.error().ToString();
    EXPECT_EQ(GetCached(ada)->bio, bio);
    EXPECT_EQ(GetCachedByName("ada")->bio, bio);
    EXPECT_EQ(GetCachedMany({ada.ToString()})->front().user->bio, bio);
    // Of several looks at Redis each may wait for the cache's 100 ms; none for Redis's own five seconds.
    EXPECT_LT(Clock::System().Now() - begin, 4s);
  };
  Redis().Pause();
  expect_service(1, "hanging");
  Redis().Resume();
  Redis().Kill();
  expect_service(2, "killed");
  Redis().Restart();
  expect_service(3, "back");
}

}  // namespace
}  // namespace nova::user
