// Cache: values that are dear to compute, kept in Redis for a while, and loaded from the truth when they are not there.
// Redis is an optimisation here: while it is away, everything is loaded. A Redis that hangs costs a call no more than
// the timeout of the client's dependency, and one whose circuit breaker is open costs nothing: so a cache is best given
// a client with a dependency of its own, whose timeout is what a look at Redis is worth.
//
//   Cache profiles(runtime, metrics, redis, {.name = "profile", .prefix = "user:profile:"});
//   NOVA_CO_TRY(const std::optional<std::string> bytes,
//               co_await profiles.Get(call, id.ToString(), [this, id](Call& loading) ->
//               Task<std::optional<std::string>> {
//                 co_return co_await LoadProfile(loading, id);  // nullopt: there is none
//               }));
//   ...
//   NOVA_CO_TRY(co_await UpdateProfile(call, id));              // committed
//   (void)co_await profiles.Forget(call, id.ToString());        // then forgotten
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "nova/base/result.h"
#include "nova/redis/client.h"
#include "nova/runtime/call.h"
#include "nova/runtime/runtime.h"
#include "nova/runtime/scope.h"
#include "nova/runtime/task.h"
#include "nova/telemetry/metrics.h"

namespace nova::redis {

struct CacheConfig {
  // Tells the caches of a process apart in metrics.
  std::string name = "main";
  // Begins every key in Redis: "<service>:<what>:", which the ACL of the service's user allows.
  std::string prefix;
  // How long a value is kept, give or take 10 %, so that what was stored together does not expire together.
  std::chrono::milliseconds ttl = std::chrono::minutes(5);
  // The same for the knowledge that there is no value.
  std::chrono::milliseconds negative_ttl = std::chrono::seconds(10);
  // One load from the truth.
  std::chrono::milliseconds load_timeout = std::chrono::seconds(5);
  // Keys that are being loaded at once, and calls that wait for them; one more is refused.
  int loading_max = 4096;
  int waiting_max = 16'384;
  // Keys of one GetMany.
  int batch_max = 1000;
  // Keys whose Put or Forget Redis did not take, which are remembered until it does.
  int owed_max = 10'000;
};

// Thread-safe. Keys and values are bytes; what they mean is the caller's affair.
//
// Of many calls that miss a key at once, in this process, one load serves all. It runs on its own, under load_timeout
// and the trace of the call that began it: a call that ends does not end it for the others. So a loader must own what
// it captures, or refer to what outlives the cache, and must not depend on who asked: the Call it gets has no caller.
//
// What a load finds is stored only if nothing is there: it never overwrites a Put or undoes a Forget that came while
// it ran. A Get that begins when Put or Forget has returned OK sees no older value; in another process it may still
// join a load that began before, for load_timeout at most.
//
// What Redis did not take is owed: this process forgets the key again, four times a second, until Redis takes it, and
// believes nothing that Redis says about it before. So a Redis that comes back with what it knew before serves old
// values to other processes for a moment only. Over owed_max, nothing that Redis holds is believed for a TTL. What is
// owed ends with the process.
//
// Metrics: nova_cache_requests_total{cache,result} (hit, negative, miss, error: Redis did not answer),
// nova_cache_loads_total{cache,outcome}, nova_cache_load_seconds{cache}, nova_cache_loading{cache} (keys),
// nova_cache_owed{cache} (keys).
class Cache {
 public:
  using Value = std::optional<std::string>;
  // Loads one value from the truth; nullopt: there is none.
  using Loader = std::function<runtime::Task<Value>(runtime::Call&)>;
  // Loads several, in the order of the keys, as many as keys.
  using BatchLoader =
      std::function<runtime::Task<std::vector<Value>>(runtime::Call&, const std::vector<std::string>& keys)>;

  // The references must outlive the cache. `seed` is for the jitter of TTLs.
  Cache(runtime::Runtime& runtime, telemetry::Metrics& metrics, Client& redis, CacheConfig config,
        std::uint64_t seed = RandomSeed());
  // Precondition: closed.
  ~Cache();
  Cache(const Cache&) = delete;
  Cache& operator=(const Cache&) = delete;

  // Returns the value of `key`, from Redis or else from `loader`; nullopt: there is none. Errors: those of the loader,
  // which are not kept; RESOURCE_EXHAUSTED over loading_max or waiting_max; why the call ended. Never an error of
  // Redis. Cancellation: at once; a load goes on for the others and for the cache.
  runtime::Task<Value> Get(runtime::Call& call, std::string key, Loader loader);

  // The same for several keys with one look at Redis and, for what is not there and not being loaded already, one
  // load. Returns as many values as keys, in their order; a key may occur twice. An error of the loader fails all.
  // Errors: as Get; INVALID_ARGUMENT over batch_max.
  runtime::Task<std::vector<Value>> GetMany(runtime::Call& call, std::vector<std::string> keys, BatchLoader loader);

  // Stores what the caller has just made true (nullopt: that there is no value). Of two that race the later one stays,
  // so a value with several writers is better forgotten. It is tried whatever the breaker says. Errors: of
  // Client::RunAlways, after which the key is owed.
  runtime::Task<void> Put(runtime::Call& call, std::string key, Value value);

  // Drops what is known about `key`; call it after the commit that made it wrong. For load_timeout nothing is stored
  // but by Put, so that a load that began before cannot bring the old value back. Errors: as Put.
  runtime::Task<void> Forget(runtime::Call& call, std::string key);

  // Ends the loads that run. Blocks for `limit` at most; not to be called from a task. Errors: DEADLINE_EXCEEDED.
  Result<void> Close(Duration limit);

 private:
  struct State;
  static std::uint64_t RandomSeed();
  runtime::Task<void> Set(runtime::Call& call, std::string key, std::string stored, std::chrono::milliseconds ttl);

  std::shared_ptr<State> state_;
  runtime::Scope loads_;
};

}  // namespace nova::redis
