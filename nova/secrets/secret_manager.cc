#include "nova/secrets/secret_manager.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <functional>
#include <list>
#include <mutex>
#include <optional>
#include <random>
#include <unordered_map>
#include <utility>
#include <vector>

#include "nova/runtime/one_shot.h"
#include "nova/runtime/scope.h"
#include "nova/secrets/jwt_secret.h"
#include "nova/telemetry/log.h"

namespace nova::secrets {
namespace {

using runtime::Call;
using runtime::OneShot;
using runtime::Task;
using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;

// Readers of different secrets seldom meet.
constexpr std::size_t kShards = 16;
// The first soft TTL of a version is up to this part shorter.
constexpr double kJitter = 0.1;
// Between the soft and the hard TTL.
constexpr milliseconds kRefreshRoomMin = seconds(1);
// Requests under way, for each version that may be kept: its own, and one whose value was forgotten before it came.
constexpr int kFlightsPerVersion = 2;
// A doubling more would overflow, or mean nothing.
constexpr int kDoublingsMax = 20;

struct Key {
  std::string id;
  std::string version;
  bool version_is_id = false;
};

// What is not there may be meant to be so: most of the time no version is AWSPENDING.
bool IsTrouble(const Error& error) { return FailureOf(error) != Failure::kNotFound; }

struct KeyView {
  explicit KeyView(const Key& key) : id(key.id), version(key.version), version_is_id(key.version_is_id) {}
  KeyView(std::string_view of, Version v) : id(of), version(v.text()), version_is_id(v.is_id()) {}

  Key ToKey() const { return {std::string(id), std::string(version), version_is_id}; }
  friend bool operator==(const KeyView&, const KeyView&) = default;

  std::string_view id;
  std::string_view version;
  bool version_is_id;
};

struct KeyHash {
  std::size_t operator()(const KeyView& key) const {
    const std::hash<std::string_view> hash;
    return hash(key.id) * 31 + hash(key.version) + (key.version_is_id ? 1 : 0);
  }
};

struct Waiter {
  OneShot<SecretHandle> done;
  // An old value will not do.
  bool fresh_only = false;
};

// One request under way. Guarded by the mutex of its shard, but for its end: who is left over when the last one lets go
// of it, because the request was never started, is told.
struct Flight {
  explicit Flight(SteadyTime at) : begun(at) {}
  ~Flight() {
    for (const Waiter& waiter : waiters) (void)waiter.done.TrySet(Closing());
  }
  Flight(const Flight&) = delete;
  Flight& operator=(const Flight&) = delete;

  static Error Closing() { return Cancelled("the secrets are being closed"); }

  const SteadyTime begun;
  // Whoever gives up takes itself out.
  std::list<Waiter> waiters = {};
  // The waiters have been taken out, to be answered.
  bool over = false;
};

struct Entry {
  Key key;
  // Null before the first fetch, and after an error that no old value may hide.
  SecretHandle value = {};
  SteadyTime fetched_at = {};
  Duration soft_ttl = {};
  // Of the last fetch, if it failed; until `retry_at` nobody asks again, except Refresh.
  std::optional<Error> failure = {};
  // In a row, of the transient kind.
  int failures = 0;
  SteadyTime retry_at = {};
  SteadyTime read_at = {};
  std::shared_ptr<Flight> flight = {};
};

}  // namespace

void Bind(config::Config& config, CacheConfig& cache) {
  config.Field(
      "secrets.soft_ttl", cache.soft_ttl,
      {.help = "a secret is fetched anew, in the background, when it is so old", .min = seconds(1), .max = hours(24)});
  config.Field("secrets.hard_ttl", cache.hard_ttl,
               {.help = "a secret that is so old is waited for", .min = seconds(1), .max = hours(24)});
  config.Field("secrets.stale_max", cache.stale_max,
               {.help = "how long after that it may stand in for one that cannot be fetched",
                .min = milliseconds(0),
                .max = hours(24 * 7)});
  config.Field("secrets.negative_ttl", cache.negative_ttl,
               {.help = "how long a secret that is not there, or not allowed, is not asked for again",
                .min = milliseconds(100),
                .max = minutes(10)});
  config.Field("secrets.backoff", cache.backoff,
               {.help = "the pause after a failed fetch; it doubles", .min = milliseconds(100), .max = minutes(1)});
  config.Field("secrets.backoff_max", cache.backoff_max,
               {.help = "the longest such pause", .min = milliseconds(100), .max = minutes(10)});
  config.Field("secrets.size_max", cache.size_max, {.help = "versions of secrets kept", .min = 1, .max = 1'000'000});
}

Result<void> Validate(const CacheConfig& cache) {
  if (cache.soft_ttl <= milliseconds(0))
    return InvalidArgument("NOVA_SECRETS_SOFT_TTL: it must be longer than nothing; the usual is 300s");
  if (cache.stale_max < milliseconds(0))
    return InvalidArgument("NOVA_SECRETS_STALE_MAX: it cannot be negative; 0s allows no old value");
  if (cache.negative_ttl <= milliseconds(0))
    return InvalidArgument("NOVA_SECRETS_NEGATIVE_TTL: it must be longer than nothing; the usual is 5s");
  if (cache.backoff <= milliseconds(0))
    return InvalidArgument("NOVA_SECRETS_BACKOFF: it must be longer than nothing; the usual is 1s");
  if (cache.size_max < 1)
    return InvalidArgument("NOVA_SECRETS_SIZE_MAX: there must be room for one version; the usual is 1000");
  if (cache.hard_ttl - cache.soft_ttl < kRefreshRoomMin)
    return InvalidArgument(
        "NOVA_SECRETS_HARD_TTL: it must be longer than NOVA_SECRETS_SOFT_TTL by 1s at least, the time of a refresh; "
        "lengthen the former or shorten the latter");
  if (cache.backoff > cache.backoff_max)
    return InvalidArgument(
        "NOVA_SECRETS_BACKOFF: it is longer than NOVA_SECRETS_BACKOFF_MAX; shorten the former or lengthen the latter");
  return Ok();
}

namespace {

class CachedSecrets final : public SecretManager {
 public:
  CachedSecrets(runtime::Runtime& runtime, telemetry::Metrics& metrics, SecretSource& source, const CacheConfig& config,
                const Clock& clock, std::uint64_t seed);

  Task<SecretHandle> GetSecret(Call& call, std::string_view id, Version version) override;
  Task<auth::JwtConfig> GetJwtConfig(Call& call, std::string_view id, Version version) override;
  Task<SecretHandle> Refresh(Call& call, std::string_view id, Version version) override;
  void Invalidate(std::string_view id) override;
  void InvalidateAll() override;
  CacheStats Stats() const override;
  Result<void> Close(Duration limit) override;

 private:
  using Entries = std::list<Entry>;

  struct Shard {
    mutable std::mutex mutex;
    // All guarded by mutex. The most recently read is the first.
    Entries entries;
    // Keys are views of those in `entries`.
    std::unordered_map<KeyView, Entries::iterator, KeyHash> index;
    CacheStats stats;
    std::mt19937_64 random;
    bool closed = false;
  };

  // A place among the waiters of a flight.
  struct Seat {
    // Not what keeps the flight: one that cannot be started must end, and tell us.
    std::weak_ptr<Flight> flight;
    std::list<Waiter>::iterator waiter;
    OneShot<SecretHandle> done;
    // To be started, once the lock is released.
    std::shared_ptr<Flight> to_start = {};
  };

  // An answer at once, or a seat. Small and cheap to make: every read makes one.
  struct Found {
    SecretHandle value = {};
    std::optional<Error> error = {};
    std::optional<Seat> seat = {};
  };

  Shard& ShardOf(std::string_view id) { return shards_[std::hash<std::string_view>()(id) % kShards]; }
  Found Find(const KeyView& key);
  Found FindFresh(const KeyView& key);
  Task<SecretHandle> Await(Call& call, Key key, Seat seat);
  // The entry of a key, made if there is none; nothing if each one kept is being fetched. `lock` is on the shard, and
  // is released meanwhile.
  Entry* FindOrMake(Shard& shard, std::unique_lock<std::mutex>& lock, const KeyView& key, SteadyTime now);
  // With room_mutex_ held, and no shard's. False as above.
  bool MakeRoom();
  // These with the shard's mutex held.
  static Entry& Touch(Shard& shard, Entries::iterator entry, SteadyTime now);
  static std::optional<Entries::iterator> LeastRecentlyRead(Shard& shard);
  void Erase(Shard& shard, Entries::iterator entry);
  // Nothing if there is no request under way, and none may be made.
  std::optional<Seat> Join(Entry& entry, SteadyTime now, bool fresh_only);
  // Null if there are too many.
  std::shared_ptr<Flight> NewFlight(SteadyTime now);
  bool IsStaleAllowed(const Entry& entry, SteadyTime now) const;
  void Fail(Shard& shard, Entry& entry, const Error& error, SteadyTime now);
  void Succeed(Shard& shard, Entry& entry, SecretHandle value, SteadyTime begun);
  void ForgetFailure(Entry& entry);

  void Start(const Key& key, std::shared_ptr<Flight> flight);
  Task<void> Fetch(Call& call, Key key, std::shared_ptr<Flight> flight);
  void Complete(const Key& key, Flight& flight, Result<SecretValue> fetched);

  // Constant after construction.
  SecretSource& source_;
  const CacheConfig config_;
  const Clock& clock_;
  prometheus::Counter& hits_;
  prometheus::Counter& stale_;
  prometheus::Counter& misses_;
  prometheus::Counter& negative_;
  prometheus::Counter& evictions_;
  prometheus::Gauge& cached_;
  prometheus::Gauge& failing_;
  std::array<Shard, kShards> shards_;
  // Held by whoever makes an entry, before a shard's: that the bound is exact, and the oldest of all shards goes.
  std::mutex room_mutex_;
  // Entries of all shards. Grows only with room_mutex_ held.
  std::atomic<int> size_ = 0;
  // Under way, the forgotten ones included.
  std::atomic<std::int64_t> flights_ = 0;
  // Last: its tasks use the above.
  runtime::Scope scope_;
};

Error Nameless() { return InvalidArgument("a secret without a name was asked for"); }
Error NoRoom() { return secrets::Fail(Failure::kThrottled, "too many secrets are being fetched at once"); }

constexpr char kReads[] = "nova_secrets_reads_total";
constexpr char kReadsHelp[] = "Reads of secrets, by how they were answered.";

CachedSecrets::CachedSecrets(runtime::Runtime& runtime, telemetry::Metrics& metrics, SecretSource& source,
                             const CacheConfig& config, const Clock& clock, std::uint64_t seed)
    : source_(source),
      config_(config),
      clock_(clock),
      hits_(metrics.Counter(kReads, kReadsHelp, {{"result", "hit"}})),
      stale_(metrics.Counter(kReads, kReadsHelp, {{"result", "stale"}})),
      misses_(metrics.Counter(kReads, kReadsHelp, {{"result", "miss"}})),
      negative_(metrics.Counter(kReads, kReadsHelp, {{"result", "negative"}})),
      evictions_(metrics.Counter("nova_secrets_evictions_total", "Versions of secrets let go for want of room.")),
      cached_(metrics.Gauge("nova_secrets_cached", "Versions of secrets in the cache.")),
      failing_(metrics.Gauge("nova_secrets_refresh_failing", "Versions of secrets whose last fetch failed.")),
      scope_(runtime) {
  for (Shard& shard : shards_) shard.random.seed(seed++);
}

Task<SecretHandle> CachedSecrets::GetSecret(Call& call, std::string_view id, Version version) {
  const KeyView key(id, version);
  Found found = Find(key);
  if (found.value) [[likely]]
    co_return std::move(found.value);
  if (found.error) co_return *std::move(found.error);
  co_return co_await Await(call, key.ToKey(), *std::move(found.seat));
}

Task<auth::JwtConfig> CachedSecrets::GetJwtConfig(Call& call, std::string_view id, Version version) {
  NOVA_CO_TRY(const SecretHandle secret, co_await GetSecret(call, id, version));
  co_return ParseJwtSecret(secret->value);
}

Task<SecretHandle> CachedSecrets::Refresh(Call& call, std::string_view id, Version version) {
  const KeyView key(id, version);
  Found found = FindFresh(key);
  if (found.error) co_return *std::move(found.error);
  co_return co_await Await(call, key.ToKey(), *std::move(found.seat));
}

Task<SecretHandle> CachedSecrets::Await(Call& call, Key key, Seat seat) {
  if (seat.to_start) Start(key, std::move(seat.to_start));
  Result<SecretHandle> answer = co_await seat.done.Wait(call);
  if (const auto flight = seat.flight.lock()) {
    std::lock_guard lock(ShardOf(key.id).mutex);
    if (!flight->over) flight->waiters.erase(seat.waiter);
  }
  co_return answer;
}

CachedSecrets::Found CachedSecrets::Find(const KeyView& key) {
  if (key.id.empty()) return {.error = Nameless()};
  const SteadyTime now = clock_.Now();
  Found found;
  Shard& shard = ShardOf(key.id);
  std::unique_lock lock(shard.mutex);
  Entry* const made = FindOrMake(shard, lock, key, now);
  if (shard.closed) return {.error = Flight::Closing()};
  if (made == nullptr) return {.error = NoRoom()};
  Entry& entry = *made;
  const Duration age = now - entry.fetched_at;
  const bool hit = entry.value && age < config_.hard_ttl;
  const bool stale =
      !hit && entry.failure && now < entry.retry_at + config_.backoff_max + kFetchLimit && IsStaleAllowed(entry, now);
  if (hit || stale) [[likely]] {
    found.value = entry.value;
    std::shared_ptr<Flight> flight;
    if (age >= entry.soft_ttl && !entry.flight && now >= entry.retry_at) [[unlikely]]
      flight = entry.flight = NewFlight(now);
    ++(hit ? shard.stats.hits : shard.stats.stale);
    lock.unlock();
    (hit ? hits_ : stale_).Increment();
    if (flight) Start(key.ToKey(), std::move(flight));
    return found;
  }
  if (!entry.flight && entry.failure && now < entry.retry_at) {
    found.error = entry.failure;
    ++shard.stats.negative;
    lock.unlock();
    negative_.Increment();
    return found;
  }
  found.seat = Join(entry, now, false);
  if (!found.seat) return {.error = NoRoom()};
  ++shard.stats.misses;
  lock.unlock();
  misses_.Increment();
  return found;
}

CachedSecrets::Found CachedSecrets::FindFresh(const KeyView& key) {
  if (key.id.empty()) return {.error = Nameless()};
  const SteadyTime now = clock_.Now();
  Shard& shard = ShardOf(key.id);
  std::unique_lock lock(shard.mutex);
  Entry* const entry = FindOrMake(shard, lock, key, now);
  if (shard.closed) return {.error = Flight::Closing()};
  if (entry == nullptr) return {.error = NoRoom()};
  auto seat = Join(*entry, now, true);
  if (!seat) return {.error = NoRoom()};
  return {.seat = std::move(seat)};
}

Entry* CachedSecrets::FindOrMake(Shard& shard, std::unique_lock<std::mutex>& lock, const KeyView& key, SteadyTime now) {
  const auto indexed = shard.index.find(key);
  if (indexed != shard.index.end()) [[likely]]
    return &Touch(shard, indexed->second, now);
  lock.unlock();
  std::lock_guard room(room_mutex_);
  lock.lock();
  // Somebody else may have been faster.
  if (const auto again = shard.index.find(key); again != shard.index.end()) return &Touch(shard, again->second, now);
  if (size_ >= config_.size_max) {
    lock.unlock();
    const bool made = MakeRoom();
    lock.lock();
    if (!made) return nullptr;
  }
  shard.entries.push_front(Entry{.key = key.ToKey(), .read_at = now});
  shard.index.emplace(KeyView(shard.entries.front().key), shard.entries.begin());
  ++size_;
  cached_.Increment();
  return &shard.entries.front();
}

bool CachedSecrets::MakeRoom() {
  while (size_ >= config_.size_max) {
    Shard* shard_of_oldest = nullptr;
    SteadyTime oldest;
    for (Shard& shard : shards_) {
      std::lock_guard lock(shard.mutex);
      const auto last = LeastRecentlyRead(shard);
      if (!last || (shard_of_oldest != nullptr && (*last)->read_at >= oldest)) continue;
      shard_of_oldest = &shard;
      oldest = (*last)->read_at;
    }
    if (shard_of_oldest == nullptr) return false;
    std::lock_guard lock(shard_of_oldest->mutex);
    // Another than before, if that has been read, fetched or forgotten since.
    const auto last = LeastRecentlyRead(*shard_of_oldest);
    if (!last) continue;
    Erase(*shard_of_oldest, *last);
    ++shard_of_oldest->stats.evictions;
    evictions_.Increment();
  }
  return true;
}

std::optional<CachedSecrets::Entries::iterator> CachedSecrets::LeastRecentlyRead(Shard& shard) {
  // One that is being fetched has readers who wait for it.
  const auto last = std::find_if(shard.entries.rbegin(), shard.entries.rend(),
                                 [](const Entry& entry) { return entry.flight == nullptr; });
  if (last == shard.entries.rend()) return std::nullopt;
  return std::prev(last.base());
}

Entry& CachedSecrets::Touch(Shard& shard, Entries::iterator entry, SteadyTime now) {
  entry->read_at = now;
  if (entry != shard.entries.begin()) shard.entries.splice(shard.entries.begin(), shard.entries, entry);
  return *entry;
}

void CachedSecrets::Erase(Shard& shard, Entries::iterator entry) {
  ForgetFailure(*entry);
  shard.index.erase(KeyView(entry->key));
  shard.entries.erase(entry);
  --size_;
  cached_.Decrement();
}

std::shared_ptr<Flight> CachedSecrets::NewFlight(SteadyTime now) {
  if (flights_.fetch_add(1) < std::int64_t{config_.size_max} * kFlightsPerVersion) return std::make_shared<Flight>(now);
  --flights_;
  return nullptr;
}

std::optional<CachedSecrets::Seat> CachedSecrets::Join(Entry& entry, SteadyTime now, bool fresh_only) {
  const bool starts = !entry.flight;
  if (starts) entry.flight = NewFlight(now);
  if (!entry.flight) return std::nullopt;
  auto& waiters = entry.flight->waiters;
  const auto waiter = waiters.insert(waiters.end(), {.done = {}, .fresh_only = fresh_only});
  return Seat{
      .flight = entry.flight, .waiter = waiter, .done = waiter->done, .to_start = starts ? entry.flight : nullptr};
}

bool CachedSecrets::IsStaleAllowed(const Entry& entry, SteadyTime now) const {
  // A failure that no old value may hide has taken the value away.
  return entry.value && now - entry.fetched_at < config_.hard_ttl + config_.stale_max;
}

void CachedSecrets::Start(const Key& key, std::shared_ptr<Flight> flight) {
  scope_.Spawn("fetching a secret", [this, key, flight](Call& call) { return Fetch(call, key, flight); });
}

Task<void> CachedSecrets::Fetch(Call& call, Key key, std::shared_ptr<Flight> flight) {
  Call limited(call, kFetchLimit);
  Result<SecretValue> fetched = co_await source_.Fetch(limited, key.id, key.version, key.version_is_id);
  --flights_;
  Complete(key, *flight, std::move(fetched));
  co_return Ok();
}

void CachedSecrets::Complete(const Key& key, Flight& flight, Result<SecretValue> fetched) {
  const SteadyTime now = clock_.Now();
  const Result<SecretHandle> fresh =
      fetched ? Result<SecretHandle>(std::make_shared<const SecretValue>(*std::move(fetched)))
              : Result<SecretHandle>(fetched.error());
  Result<SecretHandle> stale = fresh;
  std::list<Waiter> waiters;
  bool failed_before = false;
  bool counts = false;
  Shard& shard = ShardOf(key.id);
  {
    std::lock_guard lock(shard.mutex);
    flight.over = true;
    waiters = std::exchange(flight.waiters, {});
    ++shard.stats.fetches;
    if (!fresh) ++shard.stats.failures;
    const auto indexed = shard.index.find(KeyView(key));
    // Forgotten meanwhile, or closed: then this may be what was to be forgotten.
    counts = !shard.closed && indexed != shard.index.end() && indexed->second->flight.get() == &flight;
    if (counts) {
      Entry& entry = *indexed->second;
      entry.flight = nullptr;
      failed_before = entry.failure && IsTrouble(*entry.failure);
      if (fresh) {
        Succeed(shard, entry, *fresh, flight.begun);
      } else {
        Fail(shard, entry, fresh.error(), now);
        if (IsStaleAllowed(entry, now)) stale = entry.value;
      }
    }
  }
  for (const Waiter& waiter : waiters) (void)waiter.done.TrySet(waiter.fresh_only ? fresh : stale);
  // Once for a row of failures, however long.
  if (counts && !fresh && !failed_before && IsTrouble(fresh.error()))
    telemetry::LogWarn("secret could not be fetched",
                       {{"name", key.id}, {"version", key.version}, {"error", fresh.error()}});
  if (counts && fresh && failed_before)
    telemetry::LogInfo("secret is fetched again", {{"name", key.id}, {"version", key.version}});
}

void CachedSecrets::Succeed(Shard& shard, Entry& entry, SecretHandle value, SteadyTime begun) {
  const bool is_first = entry.soft_ttl == Duration::zero();
  std::uniform_real_distribution<double> part(0, kJitter);
  entry.soft_ttl = config_.soft_ttl;
  if (is_first)
    entry.soft_ttl -=
        std::chrono::duration_cast<Duration>(std::chrono::duration<double>(config_.soft_ttl) * part(shard.random));
  entry.value = std::move(value);
  entry.fetched_at = begun;
  ForgetFailure(entry);
}

void CachedSecrets::Fail(Shard& shard, Entry& entry, const Error& error, SteadyTime now) {
  const auto failure = FailureOf(error);
  const bool transient = failure && IsTransient(*failure);
  failing_.Increment((IsTrouble(error) ? 1 : 0) - (entry.failure && IsTrouble(*entry.failure) ? 1 : 0));
  if (!transient) entry.value = nullptr;
  const Duration doubled = Duration(config_.backoff) * (1 << std::min(entry.failures, kDoublingsMax));
  const Duration pause = std::min<Duration>(doubled, config_.backoff_max);
  std::uniform_real_distribution<double> part(0.5, 1);
  entry.failures = transient ? entry.failures + 1 : 0;
  entry.failure = error;
  entry.retry_at =
      now + (transient ? std::chrono::duration_cast<Duration>(std::chrono::duration<double>(pause) * part(shard.random))
                       : Duration(config_.negative_ttl));
}

void CachedSecrets::ForgetFailure(Entry& entry) {
  if (entry.failure && IsTrouble(*entry.failure)) failing_.Decrement();
  entry.failure.reset();
  entry.failures = 0;
  entry.retry_at = {};
}

void CachedSecrets::Invalidate(std::string_view id) {
  Shard& shard = ShardOf(id);
  std::lock_guard lock(shard.mutex);
  for (auto entry = shard.entries.begin(); entry != shard.entries.end();) {
    const auto next = std::next(entry);
    if (entry->key.id == id) Erase(shard, entry);
    entry = next;
  }
}

void CachedSecrets::InvalidateAll() {
  for (Shard& shard : shards_) {
    std::lock_guard lock(shard.mutex);
    while (!shard.entries.empty()) Erase(shard, shard.entries.begin());
  }
}

CacheStats CachedSecrets::Stats() const {
  CacheStats total;
  for (const Shard& shard : shards_) {
    std::lock_guard lock(shard.mutex);
    const CacheStats& part = shard.stats;
    total.hits += part.hits;
    total.stale += part.stale;
    total.misses += part.misses;
    total.negative += part.negative;
    total.fetches += part.fetches;
    total.failures += part.failures;
    total.evictions += part.evictions;
  }
  // Not a sum: shards that are counted one after the other may seem to hold more than they ever did.
  total.size = static_cast<std::size_t>(size_.load());
  return total;
}

Result<void> CachedSecrets::Close(Duration limit) {
  for (Shard& shard : shards_) {
    std::lock_guard lock(shard.mutex);
    shard.closed = true;
  }
  Result<void> stopped = scope_.Stop(limit);
  // Requests that will not end, or came too late to be started, have readers too.
  std::vector<std::shared_ptr<Flight>> left;
  std::list<Waiter> waiters;
  for (Shard& shard : shards_) {
    std::lock_guard lock(shard.mutex);
    for (Entry& entry : shard.entries) {
      if (!entry.flight) continue;
      entry.flight->over = true;
      waiters.splice(waiters.end(), entry.flight->waiters);
      left.push_back(std::move(entry.flight));
    }
  }
  for (const Waiter& waiter : waiters) (void)waiter.done.TrySet(Flight::Closing());
  return stopped;
}

}  // namespace

SecretManager::Builder::Builder(runtime::Runtime& runtime, telemetry::Metrics& metrics, SecretSource& source)
    : runtime_(runtime), metrics_(metrics), source_(source), seed_(std::random_device{}()) {}

SecretManager::Builder& SecretManager::Builder::Cache(const CacheConfig& cache) {
  cache_ = cache;
  return *this;
}
SecretManager::Builder& SecretManager::Builder::SoftTtl(milliseconds ttl) {
  cache_.soft_ttl = ttl;
  return *this;
}
SecretManager::Builder& SecretManager::Builder::HardTtl(milliseconds ttl) {
  cache_.hard_ttl = ttl;
  return *this;
}
SecretManager::Builder& SecretManager::Builder::StaleMax(milliseconds limit) {
  cache_.stale_max = limit;
  return *this;
}
SecretManager::Builder& SecretManager::Builder::NegativeTtl(milliseconds ttl) {
  cache_.negative_ttl = ttl;
  return *this;
}
SecretManager::Builder& SecretManager::Builder::SizeMax(int versions) {
  cache_.size_max = versions;
  return *this;
}
SecretManager::Builder& SecretManager::Builder::UseClock(const Clock& clock) {
  clock_ = &clock;
  return *this;
}
SecretManager::Builder& SecretManager::Builder::Seed(std::uint64_t seed) {
  seed_ = seed;
  return *this;
}

Result<std::unique_ptr<SecretManager>> SecretManager::Builder::Build() const {
  NOVA_TRY(Validate(cache_));
  return std::unique_ptr<SecretManager>(
      std::make_unique<CachedSecrets>(runtime_, metrics_, source_, cache_, *clock_, seed_));
}

}  // namespace nova::secrets
