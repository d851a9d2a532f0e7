#include "nova/redis/cache.h"

#include <atomic>
#include <gtest/gtest.h>
#include <map>
#include <stdexcept>

#include "nova/redis/test_calls.h"
#include "nova/redis/test_peer.h"
#include "nova/runtime/one_shot.h"

namespace nova::redis {
namespace {

using namespace std::chrono_literals;
using runtime::Call;
using runtime::OneShot;
using runtime::Task;
using Value = Cache::Value;

constexpr std::uint64_t kSeed = 7;

// MGET and SET of a Redis whose keys never expire, with the TTLs they were given.
class FakeStore {
 public:
  struct Entry {
    std::string stored;
    std::int64_t ttl_ms;
  };

  std::optional<std::string> Handle(const ScriptedRedis::Command& command) {
    std::lock_guard lock(mutex_);
    if (command[0] == "MGET") {
      std::string reply = "*" + std::to_string(command.size() - 1) + "\r\n";
      for (std::size_t i = 1; i < command.size(); ++i) {
        const auto known = entries_.find(command[i]);
        reply += known == entries_.end() ? "$-1\r\n" : Bulk(known->second.stored);
      }
      return reply;
    }
    EXPECT_EQ(command[0], "SET");
    if (is_full_) return "-OOM command not allowed when used memory > 'maxmemory'.\r\n";
    const bool only_new = command[3] == "NX";
    EXPECT_EQ(command[only_new ? 4 : 3], "PX");
    if (only_new && entries_.contains(command[1])) return "$-1\r\n";
    entries_[command[1]] = {.stored = command[2], .ttl_ms = std::stoll(command.back())};
    return "+OK\r\n";
  }

  std::optional<Entry> Find(const std::string& key) const {
    std::lock_guard lock(mutex_);
    const auto known = entries_.find(key);
    return known == entries_.end() ? std::nullopt : std::optional(known->second);
  }
  // Whether it takes nothing more.
  void set_full(bool is_full) {
    std::lock_guard lock(mutex_);
    is_full_ = is_full;
  }
  void Erase(const std::string& key) {
    std::lock_guard lock(mutex_);
    entries_.erase(key);
  }

 private:
  mutable std::mutex mutex_;
  std::map<std::string, Entry> entries_;  // guarded by mutex_
  bool is_full_ = false;                  // guarded by mutex_
};

class RedisCacheTest : public ::testing::Test {
 protected:
  RedisCacheTest() {
    config_.name = "profile";
    config_.prefix = "user:profile:";
    config_.load_timeout = kPlentyOfTime;
    Connect(peer_.port());
  }
  void TearDown() override {
    if (cache_) EXPECT_TRUE(cache_->Close(kPlentyOfTime).ok());
    EXPECT_TRUE(client_->Close(kPlentyOfTime).ok());
  }

  void Connect(int port, const resilience::DependencyConfig& policies = NoPolicies()) {
    if (client_) EXPECT_TRUE(client_->Close(kPlentyOfTime).ok());
    client_.reset();
    dependency_.emplace(resilience::DependencyName("cache"), metrics_, policies, clock_);
    ClientConfig client;
    client.port = port;
    client.tls = false;
    client.reconnect_delay_min = client.reconnect_delay_max = 1ms;
    client_.emplace(runtime_, metrics_, *dependency_, client);
  }
  void Disconnect() {
    int port = 0;
    {
      port = ScriptedRedis([](const auto&) { return std::nullopt; }).port();
    }
    Connect(port);
  }
  Cache& MakeCache() { return cache_.emplace(runtime_, metrics_, *client_, config_, kSeed); }

  std::future<Result<Value>> Start(std::string key, Cache::Loader loader, Duration timeout = kPlentyOfTime) {
    return calls_.Start<Value>([this, key = std::move(key), loader = std::move(loader)](
                                   Call& call) -> Task<Value> { co_return co_await cache_->Get(call, key, loader); },
                               timeout);
  }
  // What Cache::Get returns; loads `truth` if it must.
  Result<Value> TryGet(const std::string& key, Value truth) { return Start(key, Loads(std::move(truth))).get(); }
  Value Get(const std::string& key, Value truth) { return ValueOf(TryGet(key, std::move(truth))); }
  Cache::Loader Loads(Value truth) {
    return [this, truth = std::move(truth)](Call&) -> Task<Value> {
      ++loads_;
      co_return truth;
    };
  }
  // A loader that waits until the test lets it go.
  Cache::Loader LoadsWhen(const OneShot<Value>& released) {
    return [this, released](Call& call) -> Task<Value> {
      ++loads_;
      co_return co_await released.Wait(call);
    };
  }
  Result<std::vector<Value>> GetMany(const std::vector<std::string>& keys, const Cache::BatchLoader& loader) {
    return calls_
        .Start<std::vector<Value>>([this, keys, loader](Call& call) -> Task<std::vector<Value>> {
          co_return co_await cache_->GetMany(call, keys, loader);
        })
        .get();
  }
  Result<void> Put(const std::string& key, const Value& value) {
    return calls_
        .Start<void>([this, key, value](Call& call) -> Task<void> { co_return co_await cache_->Put(call, key, value); })
        .get();
  }
  Result<void> Forget(const std::string& key) {
    return calls_.Start<void>([this, key](Call& call) -> Task<void> { co_return co_await cache_->Forget(call, key); })
        .get();
  }
  double Requests(const std::string& result) const {
    return MetricValue(metrics_, "nova_cache_requests_total{cache=\"profile\",result=\"" + result + "\"}");
  }

  double Owed() const { return MetricValue(metrics_, "nova_cache_owed{cache=\"profile\"}"); }

  FakeStore store_;
  ScriptedRedis peer_{[this](const ScriptedRedis::Command& command) { return store_.Handle(command); }};
  runtime::Runtime runtime_{{.threads = 2}};
  telemetry::Metrics metrics_;
  FakeClock clock_;  // of the policies
  CacheConfig config_;
  std::optional<resilience::CacheDependency> dependency_;
  std::optional<Client> client_;
  std::optional<Cache> cache_;
  std::atomic<int> loads_ = 0;
  Calls calls_{runtime_};
};

TEST_F(RedisCacheTest, AMissIsLoadedAndStoredAndThenAHit) {
  MakeCache();
  EXPECT_EQ(Get("1", "ann"), "ann");
  EXPECT_EQ(Get("1", "never asked"), "ann");
  EXPECT_EQ(loads_, 1);
  EXPECT_EQ(Requests("miss"), 1);
  EXPECT_EQ(Requests("hit"), 1);
  ASSERT_TRUE(store_.Find("user:profile:1"));
  EXPECT_EQ(store_.Find("user:profile:1")->stored, "+ann");
}

TEST_F(RedisCacheTest, ThatThereIsNothingIsKeptForAShorterTime) {
  MakeCache();
  EXPECT_EQ(Get("1", std::nullopt), std::nullopt);
  EXPECT_EQ(Get("1", "never asked"), std::nullopt);
  EXPECT_EQ(loads_, 1);
  EXPECT_EQ(Requests("negative"), 1);
  ASSERT_TRUE(store_.Find("user:profile:1"));
  EXPECT_GE(store_.Find("user:profile:1")->ttl_ms, 9'000);
  EXPECT_LE(store_.Find("user:profile:1")->ttl_ms, 11'000);
}

TEST_F(RedisCacheTest, ValuesAreBytes) {
  MakeCache();
  const std::string bytes("\0\r\n-\xff", 5);
  EXPECT_EQ(Get("bytes", bytes), bytes);
  EXPECT_EQ(Get("bytes", std::nullopt), bytes);
  EXPECT_EQ(Get("empty", ""), "");
  EXPECT_EQ(Get("empty", std::nullopt), "");
}

TEST_F(RedisCacheTest, TtlsAreSpreadAndFollowTheSeed) {
  MakeCache();
  std::vector<std::int64_t> ttls;
  for (int i = 0; i < 50; ++i) {
    const std::string key = std::to_string(i);
    ASSERT_TRUE(TryGet(key, "x").ok());
    ttls.push_back(store_.Find("user:profile:" + key)->ttl_ms);
  }
  const auto [least, most] = std::ranges::minmax(ttls);
  EXPECT_GE(least, 270'000);
  EXPECT_LE(most, 330'000);
  EXPECT_GT(most - least, 30'000) << "50 of them spread over the 60 s";
  EXPECT_TRUE(cache_->Close(kPlentyOfTime).ok());
  MakeCache();
  for (int i = 0; i < 50; ++i) {
    const std::string key = std::to_string(i);
    store_.Erase("user:profile:" + key);
    ASSERT_TRUE(TryGet(key, "x").ok());
    EXPECT_EQ(store_.Find("user:profile:" + key)->ttl_ms, ttls[static_cast<std::size_t>(i)]);
  }
}

TEST_F(RedisCacheTest, AThousandConcurrentMissesAreOneLoad) {
  MakeCache();
  const OneShot<Value> released;
  std::vector<std::future<Result<Value>>> calls;
  for (int i = 0; i < 1000; ++i) calls.push_back(Start("hot", LoadsWhen(released)));
  EXPECT_TRUE(Eventually([&] { return Requests("miss") == 1000; }));
  EXPECT_TRUE(released.TrySet(Value("ann")));
  for (auto& call : calls) EXPECT_EQ(ValueOf(call.get()), "ann");
  EXPECT_EQ(loads_, 1);
  EXPECT_EQ(MetricValue(metrics_, "nova_cache_loading{cache=\"profile\"}"), 0);
}

TEST_F(RedisCacheTest, AThousandConcurrentCallsWithoutRedisAreOneLoad) {
  Disconnect();
  MakeCache();
  const OneShot<Value> released;
  std::vector<std::future<Result<Value>>> calls;
  for (int i = 0; i < 1000; ++i) calls.push_back(Start("hot", LoadsWhen(released)));
  EXPECT_TRUE(Eventually([&] { return Requests("miss") + Requests("error") == 1000; }));
  EXPECT_TRUE(released.TrySet(Value("ann")));
  for (auto& call : calls) EXPECT_EQ(ValueOf(call.get()), "ann");
  EXPECT_EQ(loads_, 1);
  EXPECT_EQ(Get("hot", "loaded again"), "loaded again") << "without Redis nothing is kept";
}

TEST_F(RedisCacheTest, ARedisThatHangsCostsItsTimeoutOnly) {
  Gate gate;
  ScriptedRedis hanging([&](const ScriptedRedis::Command&) {
    gate.Pass();
    return std::nullopt;
  });
  auto policies = NoPolicies();
  policies.timeout = 50ms;
  Connect(hanging.port(), policies);
  MakeCache();
  const SteadyTime begin = Clock::System().Now();
  EXPECT_EQ(Get("1", "ann"), "ann");
  EXPECT_LT(Clock::System().Now() - begin, 4s) << "redis.reply_limit is 5 s";
  EXPECT_EQ(Requests("error"), 1);
  gate.Open();
}

TEST_F(RedisCacheTest, ARedisThatKeepsHangingCostsNothing) {
  Gate gate;
  ScriptedRedis hanging([&](const ScriptedRedis::Command&) {
    gate.Pass();
    return std::nullopt;
  });
  auto policies = NoPolicies();
  policies.timeout = 50ms;
  policies.breaker.calls_min = 3;
  Connect(hanging.port(), policies);
  MakeCache();
  for (int i = 0; i < 3; ++i) EXPECT_EQ(Get("1", "ann"), "ann");
  ASSERT_EQ(dependency_->breaker().state(), resilience::Breaker::State::kOpen);
  const auto outcomes = [&](const std::string& outcome) {
    return MetricValue(metrics_, "nova_dependency_calls_total{dependency=\"cache\",outcome=\"" + outcome + "\"}");
  };
  const double waited = outcomes("timeout");
  const double refused = outcomes("open");
  for (int i = 0; i < 100; ++i) EXPECT_EQ(Get("1", "ann"), "ann");
  EXPECT_EQ(outcomes("timeout"), waited) << "nobody waited for Redis";
  EXPECT_EQ(outcomes("open") - refused, 100);
  EXPECT_EQ(Requests("error"), 103);
  gate.Open();
}

TEST_F(RedisCacheTest, WhatHasBecomeWrongIsForgottenWhileTheBreakerIsOpen) {
  ScriptedRedis loading([](const ScriptedRedis::Command& command) {
    return command.front() == "SET" ? "+OK\r\n" : "-LOADING not yet\r\n";
  });
  auto policies = NoPolicies();
  policies.breaker.calls_min = 3;
  policies.breaker.open_time = 1h;
  Connect(loading.port(), policies);
  MakeCache();
  for (int i = 0; i < 3; ++i) EXPECT_EQ(Get("1", "ann"), "ann");
  ASSERT_EQ(dependency_->breaker().state(), resilience::Breaker::State::kOpen);
  const auto forgotten = Forget("1");
  EXPECT_TRUE(forgotten.ok()) << forgotten.error().ToString();
  EXPECT_EQ(dependency_->breaker().state(), resilience::Breaker::State::kOpen);
}

TEST_F(RedisCacheTest, WhatRedisDidNotForgetIsNotBelievedUntilItHas) {
  MakeCache();
  ASSERT_TRUE(Put("1", "old").ok());
  ASSERT_TRUE(Put("2", "bob").ok());
  store_.set_full(true);
  EXPECT_FALSE(Forget("1").ok());
  EXPECT_EQ(Owed(), 1);
  EXPECT_EQ(Get("1", "new"), "new");
  EXPECT_EQ(Get("1", "newer"), "newer") << "nothing could be kept";
  EXPECT_EQ(Get("2", "never asked"), "bob");
  EXPECT_EQ(store_.Find("user:profile:1")->stored, "+old");
  store_.set_full(false);
  EXPECT_TRUE(Eventually([&] { return Owed() == 0; }));
  EXPECT_EQ(store_.Find("user:profile:1")->stored, "!");
  EXPECT_EQ(store_.Find("user:profile:2")->stored, "+bob");
  store_.Erase("user:profile:1");
  EXPECT_EQ(Get("1", "kept"), "kept");
  EXPECT_EQ(Get("1", "never asked"), "kept");
}

TEST_F(RedisCacheTest, WhenMoreIsOwedThanIsRememberedNothingIsBelieved) {
  config_.owed_max = 1;
  MakeCache();
  for (const char* const key : {"1", "2", "3"}) ASSERT_TRUE(Put(key, "old").ok());
  store_.set_full(true);
  EXPECT_FALSE(Put("1", "new").ok());
  EXPECT_FALSE(Put("1", "new").ok());
  EXPECT_EQ(Get("3", "never asked"), "old");
  EXPECT_FALSE(Forget("2").ok());
  EXPECT_EQ(Owed(), 1);
  for (const char* const key : {"1", "2", "3"}) EXPECT_EQ(Get(key, "new"), "new");
  store_.set_full(false);
  EXPECT_TRUE(Eventually([&] { return Owed() == 0; }));
  // Which they were is not known any more: their TTL must pass.
  EXPECT_EQ(Get("2", "new"), "new");
}

TEST_F(RedisCacheTest, ACallThatEndsDoesNotEndTheLoadForOthers) {
  MakeCache();
  const OneShot<Value> released;
  auto first = Start("1", LoadsWhen(released), 50ms);
  EXPECT_TRUE(Eventually([&] { return loads_ == 1; }));
  auto second = Start("1", Loads("another"));
  EXPECT_EQ(CodeOf(first.get()), Code::kDeadlineExceeded);
  EXPECT_TRUE(Eventually([&] { return Requests("miss") == 2; }));
  EXPECT_TRUE(released.TrySet(Value("ann")));
  EXPECT_EQ(ValueOf(second.get()), "ann");
  EXPECT_EQ(loads_, 1);
}

TEST_F(RedisCacheTest, ALoadThatAllHaveLeftStillFillsTheCache) {
  MakeCache();
  const OneShot<Value> released;
  EXPECT_EQ(CodeOf(Start("1", LoadsWhen(released), 50ms).get()), Code::kDeadlineExceeded);
  EXPECT_TRUE(released.TrySet(Value("ann")));
  EXPECT_TRUE(Eventually([&] { return store_.Find("user:profile:1").has_value(); }));
}

TEST_F(RedisCacheTest, ALoadHasTheTraceOfItsCallAndNoCaller) {
  MakeCache();
  std::string of_call;
  std::string of_load;
  const Result<Value> got = calls_
                                .Start<Value>([&](Call& call) -> Task<Value> {
                                  call.set_caller({.account = Uuid::New(), .session = Uuid::New()});
                                  of_call = call.trace().TraceId();
                                  co_return co_await cache_->Get(call, "1", [&](Call& load) -> Task<Value> {
                                    of_load = load.trace().TraceId();
                                    EXPECT_FALSE(load.caller());
                                    co_return "ann";
                                  });
                                })
                                .get();
  EXPECT_TRUE(got.ok());
  EXPECT_EQ(of_load, of_call);
}

TEST_F(RedisCacheTest, ALoadIsBoundedInTime) {
  config_.load_timeout = 50ms;
  MakeCache();
  const OneShot<Value> never;
  EXPECT_EQ(CodeOf(Start("1", LoadsWhen(never)).get()), Code::kDeadlineExceeded);
  EXPECT_FALSE(store_.Find("user:profile:1"));
}

TEST_F(RedisCacheTest, AnErrorReachesAllAndIsNotKept) {
  MakeCache();
  const OneShot<Value> released;
  std::vector<std::future<Result<Value>>> calls;
  for (int i = 0; i < 10; ++i) calls.push_back(Start("1", LoadsWhen(released)));
  EXPECT_TRUE(Eventually([&] { return Requests("miss") == 10; }));
  EXPECT_TRUE(released.TrySet(Unavailable("the database is unavailable")));
  for (auto& call : calls) EXPECT_EQ(CodeOf(call.get()), Code::kUnavailable);
  EXPECT_EQ(Get("1", "ann"), "ann");
  EXPECT_EQ(MetricValue(metrics_, "nova_cache_loads_total{cache=\"profile\",outcome=\"UNAVAILABLE\"}"), 1);
}

TEST_F(RedisCacheTest, ALoaderThatThrowsIsAnInternalError) {
  MakeCache();
  const auto got = Start("1", [](Call&) -> Task<Value> {
                     throw std::runtime_error("a bug");
                     co_return std::nullopt;
                   }).get();
  EXPECT_EQ(CodeOf(got), Code::kInternal);
  EXPECT_EQ(got.error().message(), "internal error");
}

TEST_F(RedisCacheTest, ASlowLoadDoesNotOverwriteANewerPut) {
  MakeCache();
  const OneShot<Value> released;
  auto slow = Start("1", LoadsWhen(released));
  EXPECT_TRUE(Eventually([&] { return loads_ == 1; }));
  EXPECT_TRUE(Put("1", "new").ok());
  EXPECT_EQ(Get("1", "never asked"), "new") << "it does not join the load that began before";
  EXPECT_TRUE(released.TrySet(Value("old")));
  EXPECT_EQ(ValueOf(slow.get()), "old") << "it began before the change";
  EXPECT_EQ(Get("1", "never asked"), "new");
}

TEST_F(RedisCacheTest, ASlowLoadDoesNotBringBackWhatWasForgotten) {
  MakeCache();
  const OneShot<Value> released;
  auto slow = Start("1", LoadsWhen(released));
  EXPECT_TRUE(Eventually([&] { return loads_ == 1; }));
  EXPECT_TRUE(Forget("1").ok());
  EXPECT_EQ(Get("1", "new"), "new") << "it does not join the load that began before";
  EXPECT_TRUE(released.TrySet(Value("old")));
  EXPECT_EQ(ValueOf(slow.get()), "old");
  EXPECT_EQ(Get("1", "newer"), "newer") << "for a while nothing is stored";
  const auto mark = store_.Find("user:profile:1");
  ASSERT_TRUE(mark);
  EXPECT_EQ(mark->ttl_ms, 60'000) << "load_timeout and the timeout of the dependency";
  store_.Erase("user:profile:1");  // the mark expires
  EXPECT_EQ(Get("1", "newest"), "newest");
  EXPECT_EQ(Get("1", "never asked"), "newest");
}

TEST_F(RedisCacheTest, PutAndForgetSayWhenRedisDidNotHear) {
  Disconnect();
  MakeCache();
  EXPECT_EQ(CodeOf(Put("1", "x")), Code::kUnavailable);
  EXPECT_EQ(CodeOf(Forget("1")), Code::kUnavailable);
}

TEST_F(RedisCacheTest, ManyKeysAreOneLookAndOneLoadInOrder) {
  MakeCache();
  EXPECT_TRUE(Put("b", "B").ok());
  EXPECT_TRUE(Put("n", std::nullopt).ok());
  const std::size_t before = peer_.commands().size();
  std::vector<std::vector<std::string>> batches;
  const auto values = GetMany({"c", "b", "a", "n", "a", "x"},
                              [&](Call&, const std::vector<std::string>& keys) -> Task<std::vector<Value>> {
                                batches.push_back(keys);
                                std::vector<Value> loaded;
                                for (const std::string& key : keys)
                                  loaded.push_back(key == "x" ? Value() : Value("loaded " + key));
                                co_return loaded;
                              });
  ASSERT_TRUE(values.ok()) << values.error().ToString();
  EXPECT_EQ(*values, (std::vector<Value>{"loaded c", "B", "loaded a", std::nullopt, "loaded a", std::nullopt}));
  ASSERT_EQ(batches.size(), 1U);
  EXPECT_EQ(batches[0], (std::vector<std::string>{"c", "a", "x"}));
  EXPECT_EQ(store_.Find("user:profile:a")->stored, "+loaded a");
  EXPECT_EQ(store_.Find("user:profile:x")->stored, "-");
  // The look, the look of the load, and three values stored.
  EXPECT_EQ(peer_.commands().size() - before, 5U);
}

TEST_F(RedisCacheTest, AKeyThatIsBeingLoadedIsNotLoadedAgain) {
  MakeCache();
  const OneShot<Value> released;
  auto first = Start("a", LoadsWhen(released));
  EXPECT_TRUE(Eventually([&] { return loads_ == 1; }));
  std::vector<std::string> loaded;
  auto both = calls_.Start<std::vector<Value>>([&](Call& call) -> Task<std::vector<Value>> {
    co_return co_await cache_->GetMany(call, {"a", "b"},
                                       [&](Call&, const std::vector<std::string>& keys) -> Task<std::vector<Value>> {
                                         loaded = keys;
                                         co_return std::vector<Value>{"B"};
                                       });
  });
  EXPECT_TRUE(Eventually([&] { return store_.Find("user:profile:b").has_value(); }));
  EXPECT_TRUE(released.TrySet(Value("A")));
  EXPECT_EQ(ValueOf(both.get()), (std::vector<Value>{"A", "B"}));
  EXPECT_EQ(loaded, std::vector<std::string>{"b"});
  EXPECT_EQ(ValueOf(first.get()), "A");
}

TEST_F(RedisCacheTest, ABatchLoaderMustReturnAsManyAsKeys) {
  MakeCache();
  const auto values = GetMany({"a", "b"}, [](Call&, const std::vector<std::string>&) -> Task<std::vector<Value>> {
    co_return std::vector<Value>{"A"};
  });
  EXPECT_EQ(CodeOf(values), Code::kInternal);
}

TEST_F(RedisCacheTest, TooManyKeysAreRefused) {
  config_.batch_max = 2;
  MakeCache();
  const Cache::BatchLoader loader = [](Call&, const std::vector<std::string>& keys) -> Task<std::vector<Value>> {
    co_return std::vector<Value>(keys.size());
  };
  EXPECT_EQ(CodeOf(GetMany({"a", "b", "c"}, loader)), Code::kInvalidArgument);
  EXPECT_TRUE(GetMany({"a", "b"}, loader).ok());
  EXPECT_TRUE(ValueOf(GetMany({}, loader)).empty());
}

TEST_F(RedisCacheTest, LoadsAndWaitsAreBounded) {
  config_.loading_max = 1;
  config_.waiting_max = 2;
  MakeCache();
  const OneShot<Value> released;
  auto first = Start("a", LoadsWhen(released));
  EXPECT_TRUE(Eventually([&] { return loads_ == 1; }));
  EXPECT_EQ(CodeOf(TryGet("b", "B")), Code::kResourceExhausted) << "a second key";
  auto second = Start("a", Loads("another"));
  EXPECT_TRUE(Eventually([&] { return Requests("miss") == 2; }));
  EXPECT_EQ(CodeOf(TryGet("a", "A")), Code::kResourceExhausted) << "a third waiter";
  EXPECT_TRUE(released.TrySet(Value("A")));
  EXPECT_EQ(ValueOf(first.get()), "A");
  EXPECT_EQ(ValueOf(second.get()), "A");
  EXPECT_EQ(Get("b", "B"), "B") << "there is room again";
}

TEST_F(RedisCacheTest, CloseEndsLoadsAndRefusesMore) {
  MakeCache();
  const OneShot<Value> never;
  auto waiting = Start("a", LoadsWhen(never));
  EXPECT_TRUE(Eventually([&] { return loads_ == 1; }));
  EXPECT_TRUE(cache_->Close(kPlentyOfTime).ok());
  EXPECT_EQ(CodeOf(waiting.get()), Code::kCancelled);
  EXPECT_EQ(CodeOf(TryGet("b", "B")), Code::kUnavailable);
}

}  // namespace
}  // namespace nova::redis
