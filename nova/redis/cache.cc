#include "nova/redis/cache.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <random>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "nova/runtime/one_shot.h"
#include "nova/telemetry/log.h"

namespace nova::redis {
namespace {

using runtime::Call;
using runtime::CancelHook;
using runtime::OneShot;
using runtime::Task;
using Value = Cache::Value;

constexpr double kTtlJitter = 0.1;
constexpr std::chrono::milliseconds kPayAgain{250};
// At a time, so that a Redis that is away is asked once.
constexpr int kPayAtOnce = 100;

// The first byte of what is stored says what it is.
constexpr char kValueMark = '+';      // the rest is the value
constexpr char kNoValueMark = '-';    // there is none
constexpr char kForgottenMark = '!';  // nothing is known, and what loads find is not stored

std::string Encode(const Value& value) { return value ? kValueMark + *value : std::string(1, kNoValueMark); }

// The value, if one is known.
std::optional<Value> Decode(Reply& stored) {
  if (stored.kind != Reply::Kind::kText || stored.text.empty()) return std::nullopt;
  switch (stored.text.front()) {
    case kValueMark:
      return Value(std::move(stored.text).substr(1));
    case kNoValueMark:
      return std::optional<Value>(std::in_place);
    default:
      return std::nullopt;
  }
}

}  // namespace

struct Cache::State {
  State(telemetry::Metrics& registry, Client& redis_client, CacheConfig cache_config, std::uint64_t seed)
      : config(std::move(cache_config)),
        redis(redis_client),
        metrics(registry),
        hits(Requests("hit")),
        negatives(Requests("negative")),
        misses(Requests("miss")),
        errors(Requests("error")),
        loading_gauge(metrics.Gauge("nova_cache_loading", "Keys that are being loaded", {{"cache", config.name}})),
        owed_gauge(metrics.Gauge("nova_cache_owed", "Keys that Redis has yet to forget", {{"cache", config.name}})),
        load_seconds(metrics.Histogram("nova_cache_load_seconds", "Time of a load from the truth",
                                       telemetry::kLatencyBuckets, {{"cache", config.name}})),
        random(seed) {}

  prometheus::Counter& Requests(const std::string& result) {
    return metrics.Counter("nova_cache_requests_total", "Keys that were asked for",
                           {{"cache", config.name}, {"result", result}});
  }
  void CountLoad(Code outcome) {
    metrics
        .Counter("nova_cache_loads_total", "Loads from the truth",
                 {{"cache", config.name}, {"outcome", std::string(CodeName(outcome))}})
        .Increment();
  }

  // Calls that wait for one key.
  struct Flight {
    std::vector<OneShot<Value>> waiters;  // guarded by mutex
  };
  // A key that a load was begun for.
  struct Loading {
    std::string key;
    std::shared_ptr<Flight> flight;
  };
  // The waits of one call, which leave their flights when it ends, however it ends.
  class Waits {
   public:
    explicit Waits(State& state) : state_(state) {}
    ~Waits();
    Waits(const Waits&) = delete;
    Waits& operator=(const Waits&) = delete;

    // Precondition: mutex is held, and the wait was admitted.
    void Join(std::size_t index, std::shared_ptr<Flight> flight);
    // Awaits all, and puts what comes where it belongs.
    Task<void> Collect(Call& call, std::vector<Value>& values);

   private:
    struct Wait {
      std::size_t index;
      std::shared_ptr<Flight> flight;
      OneShot<Value> done;
    };
    State& state_;
    std::vector<Wait> waits_;
  };

  // What Redis knows about the keys, in their order. Errors: it did not answer.
  Task<std::vector<std::optional<Value>>> Ask(Call& call, const std::vector<std::string>& keys);
  // The work of a load: finds the values, and gives them to those who wait.
  Task<void> Load(Call& call, const std::vector<Loading>& loading, bool redis_answers, const BatchLoader& loader);
  Task<std::vector<Value>> Find(Call& call, const std::vector<std::string>& keys, bool redis_answers,
                                const BatchLoader& loader);
  Task<std::vector<Value>> LoadFromTruth(Call& call, const std::vector<std::string>& keys, const BatchLoader& loader);
  // Stores what was loaded, where nothing is; that it could not costs only another load.
  Task<void> Store(Call& call, const std::vector<std::string>& keys, const std::vector<Value>& values);
  // Forgets what is owed, until nothing is.
  Task<void> Pay(Call& call);
  void Complete(const Loading& loading, const Result<Value>& result);

  // Whether so many more waits and loads are within the limits. Precondition: mutex is held. Errors:
  // RESOURCE_EXHAUSTED; UNAVAILABLE when closed.
  Result<void> Admit(std::size_t waits, std::size_t loads) const;
  std::chrono::milliseconds Ttl(const Value& value);
  // How long a load that began before may store what is wrong.
  std::chrono::milliseconds MarkTtl() const { return config.load_timeout + redis.timeout(); }
  Command SetCommand(const std::string& key, const std::string& stored, std::chrono::milliseconds ttl) const {
    return Command("SET", RedisKey(key), stored, "PX", ttl.count());
  }
  // Precondition of the next two: mutex is held. Whether somebody has to begin to pay.
  bool Owe(const std::string& key);
  bool IsBelieved(const std::string& key) const {
    return Clock::System().Now() >= believed_from && !owed.contains(key);
  }
  // Says in the log when Redis stops answering, and when it is back.
  void NoteRedis(const Error* error);
  std::string RedisKey(const std::string& key) const { return config.prefix + key; }

  const CacheConfig config;
  Client& redis;
  telemetry::Metrics& metrics;
  prometheus::Counter& hits;
  prometheus::Counter& negatives;
  prometheus::Counter& misses;
  prometheus::Counter& errors;
  prometheus::Gauge& loading_gauge;
  prometheus::Gauge& owed_gauge;
  prometheus::Histogram& load_seconds;
  std::atomic<bool> redis_fails = false;

  std::mutex mutex;
  // Guarded by mutex.
  std::unordered_map<std::string, std::shared_ptr<Flight>> flights;
  int loading_count = 0;  // keys, those included that were taken out of `flights`
  int waiting = 0;
  bool closing = false;
  // Each with a number of its own, to tell whether it was owed once more while it was paid.
  std::unordered_map<std::string, std::uint64_t> owed;
  std::uint64_t owed_count = 0;
  bool is_paying = false;
  SteadyTime believed_from{};
  std::mt19937_64 random;
};

Result<void> Cache::State::Admit(std::size_t waits, std::size_t loads) const {
  if (closing) return Unavailable("the service is stopping", "cache=" + config.name + " is closed");
  if (waiting + static_cast<int>(waits) <= config.waiting_max &&
      loading_count + static_cast<int>(loads) <= config.loading_max)
    return Ok();
  return ResourceExhausted("the service is busy, try again later",
                           "cache=" + config.name + ": over waiting_max calls or loading_max keys");
}

void Cache::State::Waits::Join(std::size_t index, std::shared_ptr<Flight> flight) {
  ++state_.waiting;
  Wait& wait = waits_.emplace_back(index, std::move(flight));
  wait.flight->waiters.push_back(wait.done);
}

Task<void> Cache::State::Waits::Collect(Call& call, std::vector<Value>& values) {
  for (const Wait& wait : waits_) {
    NOVA_CO_TRY(values[wait.index], co_await wait.done.Wait(call));
  }
  co_return Ok();
}

Cache::State::Waits::~Waits() {
  if (waits_.empty()) return;
  std::lock_guard lock(state_.mutex);
  state_.waiting -= static_cast<int>(waits_.size());
  for (const Wait& wait : waits_) std::erase(wait.flight->waiters, wait.done);
}

Task<std::vector<std::optional<Value>>> Cache::State::Ask(Call& call, const std::vector<std::string>& keys) {
  // Before Redis is asked: what is paid meanwhile may have been answered before.
  std::vector<bool> is_believed;
  is_believed.reserve(keys.size());
  {
    std::lock_guard lock(mutex);
    for (const std::string& key : keys) is_believed.push_back(IsBelieved(key));
  }
  Command command("MGET");
  for (const std::string& key : keys) command.Add(RedisKey(key));
  NOVA_CO_TRY(Reply reply, co_await redis.Run(call, std::move(command)));
  NOVA_CO_TRY(std::vector<Reply> stored, std::move(reply).Array());
  if (stored.size() != keys.size()) co_return Internal("internal error", "MGET replied with another number of values");
  std::vector<std::optional<Value>> known;
  known.reserve(keys.size());
  for (std::size_t i = 0; i < keys.size(); ++i)
    known.push_back(is_believed[i] ? Decode(stored[i]) : std::optional<Value>());
  co_return known;
}

Task<void> Cache::State::Load(Call& call, const std::vector<Loading>& loading, bool redis_answers,
                              const BatchLoader& loader) {
  std::vector<std::string> keys;
  keys.reserve(loading.size());
  for (const Loading& one : loading) keys.push_back(one.key);
  const Result<std::vector<Value>> found = co_await Find(call, keys, redis_answers, loader);
  for (std::size_t i = 0; i < loading.size(); ++i)
    Complete(loading[i], found ? Result<Value>((*found)[i]) : Result<Value>(found.error()));
  co_return Ok();
}

Task<std::vector<Value>> Cache::State::Find(Call& call, const std::vector<std::string>& keys, bool redis_answers,
                                            const BatchLoader& loader) {
  std::vector<Value> values(keys.size());
  std::vector<std::size_t> missing;
  // Another load may have ended after the call that began this one had asked.
  std::vector<std::optional<Value>> known(keys.size());
  if (redis_answers) {
    auto answer = co_await Ask(call, keys);
    redis_answers = answer.ok();
    if (answer) known = *std::move(answer);
  }
  std::vector<std::string> missing_keys;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    if (known[i]) {
      values[i] = *std::move(known[i]);
    } else {
      missing.push_back(i);
      missing_keys.push_back(keys[i]);
    }
  }
  if (missing.empty()) co_return values;

  NOVA_CO_TRY(const std::vector<Value> loaded, co_await LoadFromTruth(call, missing_keys, loader));
  for (std::size_t i = 0; i < missing.size(); ++i) values[missing[i]] = loaded[i];
  if (redis_answers) {
    const Result<void> stored = co_await Store(call, missing_keys, loaded);
    NoteRedis(stored ? nullptr : &stored.error());
  }
  co_return values;
}

Task<std::vector<Value>> Cache::State::LoadFromTruth(Call& call, const std::vector<std::string>& keys,
                                                     const BatchLoader& loader) {
  const SteadyTime begin = Clock::System().Now();
  Result<std::vector<Value>> loaded = Error();
  {
    Call limited(call, config.load_timeout);
    try {
      loaded = co_await loader(limited, keys);
    } catch (const std::exception& thrown) {
      // A bug; outside of a cache it would end the one call, so here it must not end the process.
      loaded = Internal("internal error", "cache=" + config.name + ": the loader threw: " + thrown.what());
    }
    // What came too late may be older than what Forget waits for.
    if (Result<void> in_time = limited.Check(); loaded && !in_time) loaded = std::move(in_time).error();
  }
  if (loaded && loaded->size() != keys.size())
    loaded = Internal("internal error", "cache=" + config.name + ": the loader returned another number of values");
  load_seconds.Observe(std::chrono::duration<double>(Clock::System().Now() - begin).count());
  CountLoad(loaded ? Code::kOk : loaded.error().code());
  co_return loaded;
}

Task<void> Cache::State::Store(Call& call, const std::vector<std::string>& keys, const std::vector<Value>& values) {
  std::vector<Command> commands;
  commands.reserve(keys.size());
  for (std::size_t i = 0; i < keys.size(); ++i)
    commands.emplace_back("SET", RedisKey(keys[i]), Encode(values[i]), "NX", "PX", Ttl(values[i]).count());
  NOVA_CO_TRY(const std::vector<Reply> replies, co_await redis.RunAll(call, std::move(commands)));
  for (const Reply& reply : replies) {
    if (reply.is_error()) co_return ToError(reply);
  }
  co_return Ok();
}

bool Cache::State::Owe(const std::string& key) {
  if (!owed.contains(key) && static_cast<int>(owed.size()) >= config.owed_max) {
    const auto longest = std::max(config.ttl, config.negative_ttl);
    believed_from =
        Clock::System().Now() + longest + std::chrono::ceil<std::chrono::milliseconds>(longest * kTtlJitter);
    telemetry::LogWarn("Redis has more to forget than can be remembered; everything is loaded for a while",
                       {{"cache", config.name}, {"keys", config.owed_max}});
  } else {
    owed[key] = ++owed_count;
    owed_gauge.Set(static_cast<double>(owed.size()));
  }
  return !closing && !std::exchange(is_paying, true);
}

Task<void> Cache::State::Pay(Call& call) {
  for (;;) {
    NOVA_CO_TRY(co_await runtime::Sleep(call, kPayAgain));
    std::vector<std::pair<std::string, std::uint64_t>> part;
    {
      std::lock_guard lock(mutex);
      if (owed.empty()) {
        is_paying = false;
        co_return Ok();
      }
      for (const auto& one : owed) {
        part.push_back(one);
        if (static_cast<int>(part.size()) == kPayAtOnce) break;
      }
    }
    for (const auto& [key, number] : part) {
      const std::string mark(1, kForgottenMark);
      if (!co_await redis.RunAlways(call, SetCommand(key, mark, MarkTtl()))) break;
      std::lock_guard lock(mutex);
      if (const auto paid = owed.find(key); paid != owed.end() && paid->second == number) owed.erase(paid);
      owed_gauge.Set(static_cast<double>(owed.size()));
    }
  }
}

void Cache::State::Complete(const Loading& loading, const Result<Value>& result) {
  std::vector<OneShot<Value>> waiters;
  {
    std::lock_guard lock(mutex);
    if (const auto known = flights.find(loading.key); known != flights.end() && known->second == loading.flight)
      flights.erase(known);
    waiters.swap(loading.flight->waiters);
    loading_gauge.Set(--loading_count);
  }
  for (const OneShot<Value>& waiter : waiters) (void)waiter.TrySet(result);
}

std::chrono::milliseconds Cache::State::Ttl(const Value& value) {
  const auto ttl = static_cast<double>((value ? config.ttl : config.negative_ttl).count());
  std::lock_guard lock(mutex);
  const double factor = std::uniform_real_distribution<double>(1 - kTtlJitter, 1 + kTtlJitter)(random);
  return std::chrono::milliseconds(std::max<std::int64_t>(1, static_cast<std::int64_t>(ttl * factor)));
}

void Cache::State::NoteRedis(const Error* error) {
  const bool fails = error != nullptr;
  if (redis_fails.exchange(fails) == fails) return;
  if (fails) {
    telemetry::LogWarn("Redis does not answer; everything is loaded", {{"cache", config.name}, {"error", *error}});
  } else {
    telemetry::LogInfo("Redis answers again", {{"cache", config.name}});
  }
}

Cache::Cache(runtime::Runtime& runtime, telemetry::Metrics& metrics, Client& redis, CacheConfig config,
             std::uint64_t seed)
    : state_(std::make_shared<State>(metrics, redis, std::move(config), seed)), loads_(runtime) {}

Cache::~Cache() = default;

std::uint64_t Cache::RandomSeed() { return std::random_device{}(); }

Task<Value> Cache::Get(Call& call, std::string key, Loader loader) {
  std::vector<std::string> keys;
  keys.push_back(std::move(key));
  BatchLoader one = [loader = std::move(loader)](Call& loading,
                                                 const std::vector<std::string>&) -> Task<std::vector<Value>> {
    NOVA_CO_TRY(Value value, co_await loader(loading));
    std::vector<Value> values;
    values.push_back(std::move(value));
    co_return values;
  };
  NOVA_CO_TRY(std::vector<Value> values, co_await GetMany(call, std::move(keys), std::move(one)));
  co_return std::move(values.front());
}

Task<std::vector<Value>> Cache::GetMany(Call& call, std::vector<std::string> keys, BatchLoader loader) {
  const auto state = state_;
  NOVA_CO_TRY(call.Check());
  if (static_cast<int>(keys.size()) > state->config.batch_max)
    co_return InvalidArgument("too many keys at once", "cache=" + state->config.name + ": over batch_max");
  std::vector<Value> values(keys.size());
  if (keys.empty()) co_return values;
  State::Waits waits(*state);

  // What is being loaded already need not be asked for.
  std::vector<std::size_t> asked;
  std::vector<std::string> asked_keys;
  {
    std::lock_guard lock(state->mutex);
    for (std::size_t i = 0; i < keys.size(); ++i) {
      if (const auto flight = state->flights.find(keys[i]); flight != state->flights.end()) {
        NOVA_CO_TRY(state->Admit(1, 0));
        waits.Join(i, flight->second);
      } else {
        asked.push_back(i);
        asked_keys.push_back(keys[i]);
      }
    }
  }
  state->misses.Increment(static_cast<double>(keys.size() - asked.size()));

  bool redis_answers = true;
  std::vector<std::size_t> missing;
  if (!asked.empty()) {
    auto known = co_await state->Ask(call, asked_keys);
    NOVA_CO_TRY(call.Check());
    redis_answers = known.ok();
    state->NoteRedis(known ? nullptr : &known.error());
    for (std::size_t i = 0; i < asked.size(); ++i) {
      if (!known || !(*known)[i]) {
        missing.push_back(asked[i]);
        continue;
      }
      values[asked[i]] = *std::move((*known)[i]);
      (values[asked[i]] ? state->hits : state->negatives).Increment();
    }
  }

  if (!missing.empty()) {
    std::lock_guard lock(state->mutex);
    const auto loads = std::ranges::count_if(missing, [&](std::size_t i) { return !state->flights.contains(keys[i]); });
    NOVA_CO_TRY(state->Admit(missing.size(), static_cast<std::size_t>(loads)));
    std::vector<State::Loading> own;
    for (const std::size_t i : missing) {
      std::shared_ptr<State::Flight>& flight = state->flights[keys[i]];
      if (!flight) {
        flight = std::make_shared<State::Flight>();
        own.push_back({.key = keys[i], .flight = flight});
      }
      waits.Join(i, flight);
    }
    state->loading_count += static_cast<int>(own.size());
    state->loading_gauge.Set(state->loading_count);
    // Under the lock: once Close has set `closing`, nothing is spawned that the scope would not run.
    if (!own.empty())
      loads_.Spawn("cache " + state->config.name + ": load",
                   [state, trace = call.trace(), own = std::move(own), redis_answers,
                    loader = std::move(loader)](Call& spawned) -> Task<void> {
                     Call load(spawned.strand(), {.trace = trace.Child(), .peer = {}});
                     const CancelHook hook(spawned, [&load](const Error& reason) { load.Cancel(reason); });
                     co_return co_await state->Load(load, own, redis_answers, loader);
                   });
  }
  (redis_answers ? state->misses : state->errors).Increment(static_cast<double>(missing.size()));
  NOVA_CO_TRY(co_await waits.Collect(call, values));
  co_return values;
}

Task<void> Cache::Put(Call& call, std::string key, Value value) {
  const auto ttl = state_->Ttl(value);
  return Set(call, std::move(key), Encode(value), ttl);
}

Task<void> Cache::Forget(Call& call, std::string key) {
  return Set(call, std::move(key), std::string(1, kForgottenMark), state_->MarkTtl());
}

Task<void> Cache::Set(Call& call, std::string key, std::string stored, std::chrono::milliseconds ttl) {
  const auto state = state_;
  Result<void> set;
  // A breaker that is still open must not keep a value that has become wrong: Redis may be back, and would serve it.
  const auto reply = co_await state->redis.RunAlways(call, state->SetCommand(key, stored, ttl));
  if (!reply) set = reply.error();
  std::lock_guard lock(state->mutex);
  // A load that is under way may know less; who comes from now on does not wait for it.
  state->flights.erase(key);
  // Under the lock, as a load.
  if (!set && state->Owe(key))
    loads_.Spawn("cache " + state->config.name + ": forget what is owed",
                 [state](Call& spawned) { return state->Pay(spawned); });
  co_return set;
}

Result<void> Cache::Close(Duration limit) {
  {
    std::lock_guard lock(state_->mutex);
    state_->closing = true;
  }
  return loads_.Stop(limit);
}

}  // namespace nova::redis
