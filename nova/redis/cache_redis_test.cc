// Two caches of two processes over a real Redis.
#include <atomic>
#include <gtest/gtest.h>

#include "nova/redis/cache.h"
#include "nova/redis/test_calls.h"
#include "tests/redis_fixture.h"

namespace nova::redis {
namespace {

using namespace std::chrono_literals;
using runtime::Call;
using runtime::Task;
using tests::RedisFixture;
using Value = Cache::Value;

struct Process {
  Process(runtime::Runtime& runtime, telemetry::Metrics& metrics, const CacheConfig& config,
          std::chrono::milliseconds timeout = kPlentyOfTime)
      : dependency("redis", metrics, Policies(timeout)),
        client(runtime, metrics, dependency, RedisFixture::Instance().Client("cachetest")),
        cache(runtime, metrics, client, config) {}
  ~Process() {
    EXPECT_TRUE(cache.Close(kPlentyOfTime).ok());
    EXPECT_TRUE(client.Close(kPlentyOfTime).ok());
  }
  static resilience::DependencyConfig Policies(std::chrono::milliseconds timeout) {
    auto policies = NoPolicies();
    policies.timeout = timeout;
    return policies;
  }

  resilience::CacheDependency dependency;
  Client client;
  Cache cache;
};

class CacheRedisTest : public ::testing::Test {
 protected:
  CacheRedisTest() { server_.Command({"FLUSHALL"}); }

  Value Get(Process& process, const std::string& key, const Value& truth) {
    return ValueOf(calls_
                       .Start<Value>([&](Call& call) -> Task<Value> {
                         co_return co_await process.cache.Get(call, key, [&](Call&) -> Task<Value> {
                           ++loads_;
                           co_return truth;
                         });
                       })
                       .get());
  }
  Result<void> Forget(Process& process, const std::string& key) {
    return calls_.Start<void>([&](Call& call) -> Task<void> { co_return co_await process.cache.Forget(call, key); })
        .get();
  }

  RedisFixture& server_ = RedisFixture::Instance();
  CacheConfig config_ = {.name = "test", .prefix = "cachetest:x:"};
  runtime::Runtime runtime_{{.threads = 2}};
  telemetry::Metrics metrics_;
  std::atomic<int> loads_ = 0;
  Calls calls_{runtime_};
};

TEST_F(CacheRedisTest, WhatOneProcessLoadsTheOtherHas) {
  Process one(runtime_, metrics_, config_);
  Process other(runtime_, metrics_, config_);
  EXPECT_EQ(Get(one, "1", "ann"), "ann");
  EXPECT_EQ(Get(other, "1", "never asked"), "ann");
  EXPECT_EQ(Get(one, "2", std::nullopt), std::nullopt);
  EXPECT_EQ(Get(other, "2", "never asked"), std::nullopt);
  EXPECT_EQ(loads_, 2);
  const auto ttl_ms = server_.Command({"PTTL", "cachetest:x:1"}).integer;
  EXPECT_GT(ttl_ms, 260'000);
  EXPECT_LE(ttl_ms, 330'000);
}

TEST_F(CacheRedisTest, WhatOneProcessForgetsTheOtherLoadsAnew) {
  config_.load_timeout = 200ms;
  Process one(runtime_, metrics_, config_, 250ms);
  Process other(runtime_, metrics_, config_, 250ms);
  EXPECT_EQ(Get(one, "1", "old"), "old");
  EXPECT_TRUE(Forget(one, "1").ok());
  EXPECT_EQ(Get(other, "1", "new"), "new");
  // Once the mark has expired, values are kept again.
  EXPECT_TRUE(Eventually([&] { return server_.Command({"EXISTS", "cachetest:x:1"}).integer == 0; }));
  EXPECT_EQ(Get(other, "1", "newer"), "newer");
  EXPECT_EQ(Get(one, "1", "never asked"), "newer");
}

TEST_F(CacheRedisTest, ValuesExpire) {
  config_.ttl = 50ms;
  Process process(runtime_, metrics_, config_);
  EXPECT_EQ(Get(process, "1", "old"), "old");
  EXPECT_TRUE(Eventually([&] { return server_.Command({"EXISTS", "cachetest:x:1"}).integer == 0; }));
  EXPECT_EQ(Get(process, "1", "new"), "new");
}

// It keeps what it knows on disk.
TEST_F(CacheRedisTest, ARedisThatComesBackWithWhatIsWrongIsToldToForgetIt) {
  Process one(runtime_, metrics_, config_);
  Process other(runtime_, metrics_, config_);
  EXPECT_EQ(Get(one, "1", "old"), "old");
  server_.Kill();
  EXPECT_FALSE(Forget(one, "1").ok());
  server_.Restart();
  EXPECT_TRUE(Eventually([&] {
    EXPECT_EQ(Get(one, "1", "new"), "new");
    return server_.Command({"GET", "cachetest:x:1"}).text == "!";
  }));
  EXPECT_EQ(Get(other, "1", "new"), "new");
}

TEST_F(CacheRedisTest, WithoutRedisEverythingIsLoadedAndWithItKeptAgain) {
  Process process(runtime_, metrics_, config_);
  EXPECT_EQ(Get(process, "1", "a"), "a");
  server_.Kill();
  EXPECT_EQ(Get(process, "1", "b"), "b");
  EXPECT_EQ(Get(process, "1", "c"), "c");
  server_.Restart();
  server_.Command({"DEL", "cachetest:x:1"});
  EXPECT_TRUE(Eventually([&] {
    EXPECT_EQ(Get(process, "1", "d"), "d");
    return server_.Command({"EXISTS", "cachetest:x:1"}).integer == 1;
  }));
  const int before = loads_;
  EXPECT_EQ(Get(process, "1", "never asked"), "d");
  EXPECT_EQ(loads_, before);
}

}  // namespace
}  // namespace nova::redis
