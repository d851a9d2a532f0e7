// How long from the commit of an event to its effect in another service, how many per second, and at what cost? One
// producer and one consumer of nova/events, each with a database of its own, over the real PostgreSQL, PgBouncer and
// Redis. Everything of ours runs in this process, so its CPU is that of appending, relaying and consuming together; the
// drains tell the parts apart. Loads and drains take turns within every round; quote the medians.
//
// Latency is taken on one clock, from the return of the producer's COMMIT to the return of the consumer's.
#include <algorithm>
#include <atomic>
#include <boost/json.hpp>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <map>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <unistd.h>
#include <vector>

#include "api/events/v1/identity.pb.h"
#include "bench/measure.h"
#include "nova/config/config.h"
#include "nova/events/consumer.h"
#include "nova/events/outbox.h"
#include "nova/events/relay.h"
#include "nova/postgres/pool.h"
#include "nova/redis/client.h"
#include "nova/runtime/runtime.h"
#include "nova/runtime/scope.h"
#include "nova/telemetry/log.h"
#include "nova/telemetry/metrics.h"
#include "nova/tls/protocol.h"
#include "tests/postgres_fixture.h"
#include "tests/redis_fixture.h"

namespace nova::bench {
namespace {

using events::v1::AccountRegistered;
using events::v1::Envelope;
using postgres::Rows;
using postgres::Statement;
using postgres::Transaction;
using runtime::Call;
using runtime::Task;
using Seconds = std::chrono::duration<double>;

constexpr const char* kProducer = "bench_producer";
constexpr const char* kConsumer = "bench_consumer";

// The saturated load stops appending while so many events wait for their effect: enough for full batches of the relay
// and the consumer, and a bound on a queue that would otherwise grow for as long as the load lasts.
constexpr std::int64_t kOutstandingMax = 1'000;
// The first part of a saturated load, which is not counted.
constexpr double kWarmUp = 0.25;
// Of what the saturated load sustained, for the latency of a busy system that keeps up.
constexpr double kBusy = 0.7;
// Events of one aggregate follow each other at this distance, so that appends at once do not wait for each other.
constexpr std::int64_t kAggregates = 1'000;
// How a backlog is made: events in one transaction, and transactions at once.
constexpr std::int64_t kBacklogBatch = 100;
constexpr int kBacklogLanes = 4;
// What takes longer is broken.
constexpr std::chrono::seconds kCallLimit{10};
constexpr std::chrono::seconds kStallLimit{15};
constexpr std::chrono::seconds kPhaseLimit{120};
constexpr std::chrono::seconds kStopLimit{10};
// Between two looks whether the outbox is empty; the resolution of the relay's drain.
constexpr std::chrono::milliseconds kLookInterval{5};
// Between two looks whether a saturated load may go on.
constexpr std::chrono::milliseconds kRoomInterval{1};

constexpr Statement kCreateEffects{"bench_create_effects",
                                   "CREATE TABLE effects (position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "
                                   "aggregate text NOT NULL, sequence bigint NOT NULL, username text NOT NULL)"};
// Applied twice it is there twice: only the inbox stands between a repeated event and a second row.
constexpr Statement kInsertEffect{"bench_insert_effect",
                                  "INSERT INTO effects (aggregate, sequence, username) VALUES ($1, $2, $3)"};
constexpr Statement kIsPending{"bench_is_pending",
                               "SELECT EXISTS (SELECT FROM events.outbox WHERE published_at IS NULL)"};
constexpr Statement kCountAppended{"bench_count_appended", "SELECT count(*) FROM events.outbox"};
// How many there are, and how many are not in the place that their number in the aggregate gives them.
constexpr Statement kCheckEffects{
    "bench_check_effects",
    "SELECT count(*), count(*) FILTER (WHERE sequence <> place) FROM (SELECT sequence, row_number() OVER (PARTITION BY "
    "aggregate ORDER BY position) AS place FROM effects) AS applied"};

struct Options {
  int rounds = 3;
  std::chrono::milliseconds duration = std::chrono::seconds(2);
  int rate = 200;
  int producers = 8;
  int backlog = 10'000;
  bool durable = true;
  bool json = false;
};

// One service: its database and its way to Redis.
struct Side {
  Side(runtime::Runtime& runtime, const char* name)
      : pool(runtime, metrics, database, {.connection = tests::PostgresFixture::Instance().Pooled(name)}),
        redis(runtime, metrics, streams, tests::RedisFixture::Instance().Client(name)),
        outbox(pool, name) {}
  ~Side() {
    (void)redis.Close(kStopLimit);
    (void)pool.Close(kStopLimit);
  }

  telemetry::Metrics metrics;
  resilience::DatabaseDependency database{"postgres", metrics};
  resilience::CacheDependency streams{"redis", metrics};
  postgres::Pool pool;
  redis::Client redis;
  events::Outbox outbox;
};

// When each event of a phase was committed, and when its effect was. Thread-safe while the phase runs; the times are
// for afterwards.
class Ledger {
 public:
  Ledger(std::int64_t first, std::int64_t capacity)
      : first_(first),
        committed_at_(static_cast<std::size_t>(capacity)),
        effect_at_(static_cast<std::size_t>(capacity)),
        handled_(static_cast<std::size_t>(capacity)) {}

  void Committed(std::int64_t event, std::int64_t count = 1) {
    const SteadyTime now = Clock::System().Now();
    std::lock_guard lock(mutex_);
    for (std::int64_t i = 0; i < count; ++i) committed_at_[Index(event + i)] = now;
    committed_ += count;
  }

  // In the consumer's transaction, which is not committed yet. False for an event that does not belong here.
  bool Handled(std::int64_t event) {
    std::lock_guard lock(mutex_);
    if (event < first_ || Index(event) >= handled_.size()) return false;
    // Its transaction was rolled back: no figure of this phase would mean anything.
    repeated_ = repeated_ || handled_[Index(event)];
    handled_[Index(event)] = true;
    pending_.push_back(Index(event));
    return true;
  }

  // The consumer's transaction is committed.
  void EffectsCommitted() {
    const SteadyTime now = Clock::System().Now();
    std::lock_guard lock(mutex_);
    for (const std::size_t index : pending_) effect_at_[index] = now;
    effects_ += static_cast<std::int64_t>(pending_.size());
    pending_.clear();
    last_effect_ = now;
    changed_.notify_all();
  }

  void Failed(const Error& error) {
    std::lock_guard lock(mutex_);
    if (!error_) error_ = error;
    changed_.notify_all();
  }

  std::int64_t Outstanding() const {
    std::lock_guard lock(mutex_);
    return committed_ - effects_;
  }

  // Throws if nothing takes effect any more, if an append failed, or if a handler ran twice.
  void AwaitEffects(std::int64_t count) {
    std::unique_lock lock(mutex_);
    while (!error_ && effects_ < count) {
      const bool goes_on =
          changed_.wait_for(lock, kStallLimit, [&, seen = effects_] { return error_ || effects_ > seen; });
      if (!goes_on)
        throw std::runtime_error("only " + std::to_string(effects_) + " of " + std::to_string(count) +
                                 " events took effect, and none within the last " +
                                 std::to_string(kStallLimit.count()) + " s");
    }
    if (error_) Throw(*error_);
    if (repeated_) throw std::runtime_error("the consumer had to try again; run it on a machine that keeps up");
  }

  // After AwaitEffects.
  SteadyTime last_effect() const { return last_effect_; }
  // In milliseconds, ascending; of events committed from `begin` on and before `end`.
  std::vector<double> Latencies(SteadyTime begin, SteadyTime end) const {
    std::vector<double> latencies;
    for (std::size_t i = 0; i < committed_at_.size(); ++i) {
      if (!handled_[i] || committed_at_[i] < begin || committed_at_[i] >= end) continue;
      latencies.push_back(std::chrono::duration<double, std::milli>(effect_at_[i] - committed_at_[i]).count());
    }
    std::ranges::sort(latencies);
    return latencies;
  }
  std::int64_t EffectsIn(SteadyTime begin, SteadyTime end) const {
    std::int64_t count = 0;
    for (std::size_t i = 0; i < effect_at_.size(); ++i)
      count += handled_[i] && effect_at_[i] >= begin && effect_at_[i] < end;
    return count;
  }

 private:
  std::size_t Index(std::int64_t event) const { return static_cast<std::size_t>(event - first_); }

  // Constant after construction.
  const std::int64_t first_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_ while the phase runs.
  std::vector<SteadyTime> committed_at_;
  std::vector<SteadyTime> effect_at_;
  std::vector<bool> handled_;
  std::vector<std::size_t> pending_;  // handled in the transaction under way
  std::int64_t committed_ = 0;
  std::int64_t effects_ = 0;
  SteadyTime last_effect_;
  bool repeated_ = false;
  std::optional<Error> error_;
};

struct Figures {
  double per_second = 0;
  // Of a drain, nothing.
  double p50_ms = 0;
  double p99_ms = 0;
  double max_ms = 0;
  Cpu cpu_us;  // per event
};

enum class Parts : std::uint8_t { kRelay, kConsumer, kBoth };

class Bench {
 public:
  explicit Bench(const Options& options)
      : options_(options), servers_(options.durable), producer_(Make(kProducer)), consumer_(Make(kConsumer)) {
    Must<Rows>([&](Call& call) { return consumer_->pool.Query(call, kCreateEffects); });
  }

  // Events at their times, however long each takes.
  Figures OpenLoad(double rate) {
    const auto count = static_cast<std::int64_t>(rate * Seconds(options_.duration).count());
    Ledger ledger(next_, count);
    Running running(*this, ledger, Parts::kBoth);
    const Cpu before = servers_.CpuOf(getpid());
    const SteadyTime begin = Clock::System().Now();
    Must<void>([&](Call& call) -> Task<void> {
      for (std::int64_t i = 0; i < count; ++i) {
        const SteadyTime due = begin + std::chrono::duration_cast<Duration>(Seconds(static_cast<double>(i) / rate));
        if (const Duration early = due - Clock::System().Now(); early > Duration::zero())
          NOVA_CO_TRY(co_await runtime::Sleep(call, early));
        running.scope().Spawn(
            "append", [this, &ledger, event = next_++](Call& own) { return Append(own, ledger, event); },
            [&ledger](const std::string&, const Error& error) { ledger.Failed(error); });
      }
      co_return Ok();
    });
    const SteadyTime end = begin + options_.duration;
    ledger.AwaitEffects(count);
    const Cpu cpu = servers_.CpuOf(getpid()) - before;
    const SteadyTime last = std::max(end, ledger.last_effect());
    return WithLatencies(ledger.Latencies(begin, last), static_cast<double>(count) / Seconds(last - begin).count(), cpu,
                         count);
  }

  // Producers that append without a pause, as long as what they appended takes effect soon enough.
  Figures SaturatedLoad() {
    const std::int64_t first = next_;
    // More than any machine does.
    const auto capacity = static_cast<std::int64_t>(Seconds(options_.duration).count() * 50'000);
    Ledger ledger(first, capacity);
    Running running(*this, ledger, Parts::kBoth);
    const Cpu before = servers_.CpuOf(getpid());
    const SteadyTime begin = Clock::System().Now();
    const SteadyTime end = begin + options_.duration;
    std::atomic<std::int64_t> next = first;
    RunLanes(runtime_, options_.producers, [&](Call& call, int) -> Task<void> {
      while (Clock::System().Now() < end) {
        if (ledger.Outstanding() >= kOutstandingMax) {
          NOVA_CO_TRY(co_await runtime::Sleep(call, kRoomInterval));
          continue;
        }
        const std::int64_t event = next++;
        if (event >= first + capacity) co_return ResourceExhausted("too many events; try a shorter --duration");
        NOVA_CO_TRY(co_await Append(call, ledger, event));
      }
      co_return Ok();
    });
    next_ = next;
    ledger.AwaitEffects(next_ - first);
    const Cpu cpu = servers_.CpuOf(getpid()) - before;
    const SteadyTime counted = begin + std::chrono::duration_cast<Duration>(options_.duration * kWarmUp);
    return WithLatencies(ledger.Latencies(counted, end),
                         static_cast<double>(ledger.EffectsIn(counted, end)) / Seconds(end - counted).count(), cpu,
                         next_ - first);
  }

  // The relay empties an outbox, and then the consumer the stream.
  std::pair<Figures, Figures> DrainApart() {
    Ledger ledger(next_, options_.backlog);
    MakeBacklog(ledger);
    std::pair<Figures, Figures> figures;
    {
      Running running(*this, ledger, Parts::kRelay);
      figures.first = Drain([&] {
        AwaitPublished();
        return Clock::System().Now();
      });
    }
    Running running(*this, ledger, Parts::kConsumer);
    figures.second = Drain([&] {
      ledger.AwaitEffects(options_.backlog);
      return ledger.last_effect();
    });
    return figures;
  }

  // Both at once, from a full outbox to the last effect.
  Figures DrainTogether() {
    Ledger ledger(next_, options_.backlog);
    MakeBacklog(ledger);
    Running running(*this, ledger, Parts::kBoth);
    return Drain([&] {
      ledger.AwaitEffects(options_.backlog);
      return ledger.last_effect();
    });
  }

  // Throws unless every event of all phases took effect once, in the order of its aggregate. Returns how many.
  std::int64_t CheckExactlyOnce() {
    const Rows appended = Must<Rows>([&](Call& call) { return producer_->pool.Query(call, kCountAppended); });
    const Rows effects = Must<Rows>([&](Call& call) { return consumer_->pool.Query(call, kCheckEffects); });
    const auto events = OrThrow(appended[0].Get<std::int64_t>(0));
    const auto applied = OrThrow(effects[0].Get<std::int64_t>(0));
    const auto misplaced = OrThrow(effects[0].Get<std::int64_t>(1));
    if (events != next_ || applied != next_ || misplaced != 0)
      throw std::runtime_error("appended " + std::to_string(next_) + " events; the outbox has " +
                               std::to_string(events) + ", " + std::to_string(applied) + " effects were made, " +
                               std::to_string(misplaced) + " of them out of order");
    return applied;
  }

 private:
  // Relay and consumer at work on the events of a ledger.
  class Running {
   public:
    Running(Bench& bench, Ledger& ledger, Parts parts) : bench_(bench), scope_(bench.runtime_) {
      if (parts != Parts::kConsumer) {
        relay_.emplace(bench.producer_->outbox, bench.producer_->pool, bench.producer_->redis, bench.producer_->metrics,
                       events::RelayConfig{});
        relay_->Start(scope_);
      }
      if (parts == Parts::kRelay) return;
      // Told after each transaction of the consumer; nothing else uses this outbox.
      bench.consumer_->outbox.OnCommit([&ledger] { ledger.EffectsCommitted(); });
      consumer_.emplace(bench.consumer_->outbox, bench.consumer_->pool, bench.consumer_->redis,
                        bench.consumer_->metrics, events::ConsumerConfig{.group = kConsumer});
      consumer_->On<AccountRegistered>(
          kProducer,
          [&ledger](Call& call, Transaction& transaction, const Envelope& envelope,
                    const AccountRegistered& event) -> Task<void> {
            NOVA_CO_TRY(co_await transaction.Query(call, kInsertEffect, envelope.aggregate(), envelope.sequence(),
                                                   event.username()));
            if (!ledger.Handled(std::stoll(event.username())))
              co_return Internal("an event of an earlier phase came again", event.username());
            co_return Ok();
          });
      consumer_->Start(scope_);
    }
    ~Running() {
      if (const auto stopped = scope_.Stop(kStopLimit); !stopped) {
        std::fprintf(stderr, "bench_events: %s\n", stopped.error().ToString().c_str());
        std::_Exit(1);  // what ignores its end cannot be taken apart under its feet
      }
      bench_.consumer_->outbox.OnCommit({});
    }
    Running(const Running&) = delete;
    Running& operator=(const Running&) = delete;

    // For what goes on meanwhile; stopped, with relay and consumer, when this ends.
    runtime::Scope& scope() { return scope_; }

   private:
    Bench& bench_;
    runtime::Scope scope_;
    std::optional<events::Relay> relay_;
    std::optional<events::Consumer> consumer_;
  };

  template <class T>
  T Must(std::function<Task<T>(Call&)> work) {
    return OrThrow(runtime_.RunBlocking<T>(kPhaseLimit, std::move(work)));
  }

  std::unique_ptr<Side> Make(const char* name) {
    auto& postgres = tests::PostgresFixture::Instance();
    postgres.CreateDatabase(name);
    Must<postgres::MigrationReport>([&](Call& call) { return events::Migrate(call, postgres.Direct(name)); });
    return std::make_unique<Side>(runtime_, name);
  }

  Task<void> AppendTo(Call& call, Transaction& transaction, std::int64_t event) {
    AccountRegistered registered;
    registered.set_account_id(Uuid::New().ToString());
    registered.set_username(std::to_string(event));
    registered.mutable_registered_at()->set_seconds(
        std::chrono::duration_cast<std::chrono::seconds>(Clock::System().WallNow().time_since_epoch()).count());
    co_return co_await producer_->outbox.Append(call, transaction, "account/" + std::to_string(event % kAggregates),
                                                registered);
  }

  // One event in a transaction of its own.
  Task<void> Append(Call& call, Ledger& ledger, std::int64_t event) {
    Call limited(call, kCallLimit);
    NOVA_CO_TRY(co_await producer_->outbox.InTransaction(
        limited, [&](Transaction& transaction) { return AppendTo(limited, transaction, event); }));
    ledger.Committed(event);
    co_return Ok();
  }

  void MakeBacklog(Ledger& ledger) {
    const std::int64_t first = next_;
    const std::int64_t end = first + options_.backlog;
    std::atomic<std::int64_t> next = first;
    RunLanes(runtime_, kBacklogLanes, [&](Call& call, int) -> Task<void> {
      for (;;) {
        const std::int64_t begin = next.fetch_add(kBacklogBatch);
        if (begin >= end) co_return Ok();
        const std::int64_t count = std::min(kBacklogBatch, end - begin);
        Call limited(call, kCallLimit);
        NOVA_CO_TRY(co_await producer_->outbox.InTransaction(limited, [&](Transaction& transaction) -> Task<void> {
          for (std::int64_t i = 0; i < count; ++i) NOVA_CO_TRY(co_await AppendTo(limited, transaction, begin + i));
          co_return Ok();
        }));
        ledger.Committed(begin, count);
      }
    });
    next_ = end;
  }

  void AwaitPublished() {
    Must<void>([&](Call& call) -> Task<void> {
      for (;;) {
        NOVA_CO_TRY(const Rows rows, co_await producer_->pool.Query(call, kIsPending));
        NOVA_CO_TRY(const bool pending, rows[0].Get<bool>(0));
        if (!pending) co_return Ok();
        NOVA_CO_TRY(co_await runtime::Sleep(call, kLookInterval));
      }
    });
  }

  // `await` returns when the last event was through.
  Figures Drain(const std::function<SteadyTime()>& await) {
    const Cpu before = servers_.CpuOf(getpid());
    const SteadyTime begin = Clock::System().Now();
    const SteadyTime end = await();
    const Cpu cpu = servers_.CpuOf(getpid()) - before;
    return {.per_second = options_.backlog / Seconds(end - begin).count(), .cpu_us = cpu / (options_.backlog * 1e-6)};
  }

  static Figures WithLatencies(const std::vector<double>& latencies, double per_second, const Cpu& cpu,
                               std::int64_t count) {
    if (latencies.empty()) throw std::runtime_error("no event took effect in time to be counted");
    return {.per_second = per_second,
            .p50_ms = Percentile(latencies, 0.5),
            .p99_ms = Percentile(latencies, 0.99),
            .max_ms = latencies.back(),
            .cpu_us = cpu / (static_cast<double>(count) * 1e-6)};
  }

  const Options options_;
  const Servers servers_;
  runtime::Runtime runtime_;
  const std::unique_ptr<Side> producer_;
  const std::unique_ptr<Side> consumer_;
  // The number of the next event; its username. Of the main thread, and of one task while OpenLoad waits for it.
  std::int64_t next_ = 0;
};

// A row of a table: the medians of its rounds.
class Row {
 public:
  Row(std::string name, bool has_latency) : name_(std::move(name)), has_latency_(has_latency) {}

  void Add(const Figures& figures) { rounds_.push_back(figures); }

  static void PrintHead(const char* title) {
    std::printf("\n%-34s %9s %8s %8s %8s   %-34s\n", "", "", "", "", "", "CPU us/event");
    std::printf("%-34s %9s %8s %8s %8s   %7s %9s %9s %7s\n", title, "events/s", "p50 ms", "p99 ms", "max ms", "nova",
                "postgres", "pgbouncer", "redis");
  }

  void Print(boost::json::array& json) const {
    const auto median = [this](auto field) {
      std::vector<double> values;
      for (const Figures& round : rounds_) values.push_back(field(round));
      return Median(values);
    };
    const Figures all{.per_second = median([](const Figures& round) { return round.per_second; }),
                      .p50_ms = median([](const Figures& round) { return round.p50_ms; }),
                      .p99_ms = median([](const Figures& round) { return round.p99_ms; }),
                      .max_ms = std::ranges::max(rounds_, {}, &Figures::max_ms).max_ms,
                      .cpu_us = {.nova = median([](const Figures& round) { return round.cpu_us.nova; }),
                                 .postgres = median([](const Figures& round) { return round.cpu_us.postgres; }),
                                 .pgbouncer = median([](const Figures& round) { return round.cpu_us.pgbouncer; }),
                                 .redis = median([](const Figures& round) { return round.cpu_us.redis; })}};
    boost::json::object object{{"case", name_}, {"events_per_second", all.per_second}};
    std::printf("%-34s %9.0f ", name_.c_str(), all.per_second);
    if (has_latency_) {
      std::printf("%8.1f %8.1f %8.1f", all.p50_ms, all.p99_ms, all.max_ms);
      object["p50_ms"] = all.p50_ms;
      object["p99_ms"] = all.p99_ms;
      object["max_ms"] = all.max_ms;
    } else {
      std::printf("%8s %8s %8s", "-", "-", "-");
    }
    std::printf("   %7.0f %9.0f %9.0f %7.0f\n", all.cpu_us.nova, all.cpu_us.postgres, all.cpu_us.pgbouncer,
                all.cpu_us.redis);
    object["cpu_us_per_event"] = {{"nova", all.cpu_us.nova},
                                  {"postgres", all.cpu_us.postgres},
                                  {"pgbouncer", all.cpu_us.pgbouncer},
                                  {"redis", all.cpu_us.redis}};
    json.push_back(std::move(object));
  }

 private:
  const std::string name_;
  const bool has_latency_;
  std::vector<Figures> rounds_;
};

int Run(const Options& options) {
  Bench bench(options);
  std::printf(
      "events over PostgreSQL (fsync %s), PgBouncer and Redis, all with TLS; medians of %d interleaved rounds\n",
      options.durable ? "on" : "off", options.rounds);
  std::fflush(stdout);
  Row modest(std::to_string(options.rate) + "/s, open loop", true);
  Row busy(std::to_string(static_cast<int>(kBusy * 100)) + " % of saturated, open loop", true);
  Row saturated("saturated: " + std::to_string(options.producers) + " producers", true);
  Row relay("relay: outbox to stream", false);
  Row consumer("consumer: stream to effect", false);
  Row both("both: outbox to effect", false);
  // The first round warms up.
  for (int round = -1; round < options.rounds; ++round) {
    const Figures at_rate = bench.OpenLoad(options.rate);
    const Figures at_most = bench.SaturatedLoad();
    const Figures at_busy = bench.OpenLoad(at_most.per_second * kBusy);
    if (round < 0) continue;
    const auto [relayed, consumed] = bench.DrainApart();
    modest.Add(at_rate);
    saturated.Add(at_most);
    busy.Add(at_busy);
    relay.Add(relayed);
    consumer.Add(consumed);
    both.Add(bench.DrainTogether());
  }
  const std::int64_t checked = bench.CheckExactlyOnce();
  boost::json::array json;
  Row::PrintHead("commit to effect");
  for (const Row* row : {&modest, &busy, &saturated}) row->Print(json);
  Row::PrintHead(("drain of " + std::to_string(options.backlog) + " events").c_str());
  for (const Row* row : {&relay, &consumer, &both}) row->Print(json);
  std::printf(
      "\nLatency: from the return of the producer's COMMIT to the return of the consumer's; its maximum is of all "
      "rounds.\nSaturated: one event per transaction, as fast as they can while fewer than %lld events wait for their "
      "effect; its\nlatency is that of a queue on a machine without CPU to spare.\nCPU: nova is this process, which "
      "appends, relays and consumes; what it does at rest is in it.\n",
      static_cast<long long>(kOutstandingMax));
  std::printf("Checked: %lld events, as many effects, each once and in the order of its aggregate.\n",
              static_cast<long long>(checked));
  if (options.json) std::printf("%s\n", boost::json::serialize(json).c_str());
  return 0;
}

}  // namespace
}  // namespace nova::bench

int main(int argc, char** argv) {
  nova::bench::Options options;
  // Settings of the product are no business of a benchmark.
  nova::config::Config config({.args = {argv + 1, argv + argc}, .environment = {}});
  config.Field("bench.rounds", options.rounds, {.help = "rounds counted", .flag = "rounds", .min = 1, .max = 100});
  config.Field("bench.duration", options.duration,
               {.help = "of each load in a round",
                .flag = "duration",
                .min = std::chrono::milliseconds(500),
                .max = std::chrono::seconds(60)});
  config.Field("bench.rate", options.rate,
               {.help = "events per second of the modest load", .flag = "rate", .min = 10, .max = 100'000});
  config.Field("bench.producers", options.producers,
               {.help = "tasks that append, in the saturated load", .flag = "producers", .min = 1, .max = 100});
  config.Field("bench.backlog", options.backlog,
               {.help = "events of each drain", .flag = "backlog", .min = 100, .max = 200'000});
  config.Field("bench.durable", options.durable,
               {.help = "make PostgreSQL and Redis wait for the disk, as in production", .flag = "durable"});
  config.Field("bench.json", options.json, {.help = "print the figures as JSON, last", .flag = "json"});
  if (config.help_requested()) {
    std::fputs(
        config.Help("./dev bench events", "From the commit of an event to its effect in another service.").c_str(),
        stdout);
    return 0;
  }
  if (const auto finished = config.Finish(); !finished) {
    std::fprintf(stderr, "bench_events: %s\n", finished.error().message().c_str());
    return 2;
  }
  std::signal(SIGPIPE, SIG_IGN);
  nova::telemetry::InitLogging(
      {.level = nova::telemetry::Level::kWarn, .service = "bench_events", .format = nova::telemetry::LogFormat::kText});
  try {
    nova::bench::OrThrow(nova::tls::RequireTls13());
    return nova::bench::Run(options);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_events: %s\n", error.what());
    return 1;
  }
}
