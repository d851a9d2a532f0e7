#include "nova/events/relay.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <iterator>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "api/events/v1/envelope.pb.h"
#include "nova/events/outage.h"
#include "nova/events/purge.h"
#include "nova/proto/timestamp.h"
#include "nova/resilience/crash_point.h"
#include "nova/runtime/one_shot.h"
#include "nova/telemetry/log.h"

namespace nova::events {
namespace {

using postgres::Row;
using postgres::Rows;
using postgres::Statement;
using postgres::Transaction;
using runtime::Call;
using runtime::OneShot;
using runtime::Task;

// The stream has the events, the outbox does not know.
const resilience::CrashPoint kPublished("relay.published");
// The outbox was told, in a transaction that is not committed.
const resilience::CrashPoint kMarked("relay.marked");
// It is committed.
const resilience::CrashPoint kCommitted("relay.committed");
// Events that the stream lacks are marked for publishing again, in a transaction that is not committed.
const resilience::CrashPoint kMarkedLost("relay.marked_lost");

// One transaction. Whoever stalls in the middle holds the lock for this long and a moment; then the server ends it.
constexpr Duration kTransactionLimit = std::chrono::seconds(5);
// What Redis may take of it.
constexpr Duration kPublishLimit = std::chrono::seconds(2);
// Payloads published in one transaction, at most (one event more, so that there is progress).
constexpr std::int64_t kBatchBytesMax = 4 << 20;
// Another replica is at it, and may have looked before our events were there: the wait before looking again, at first.
constexpr Duration kElsewhereDelayMin = std::chrono::milliseconds(5);
// How often a stream is trimmed, and compared with what was published when there is nothing to publish.
constexpr Duration kLossCheckInterval = std::chrono::seconds(1);
// Events of a lost stream that one transaction marks for publishing again.
constexpr int kResetMax = 2'000;
// Unpublished events that are counted for the gauge, at most: the count must stay cheap when Redis is gone for days.
constexpr int kPendingCountMax = 100'000;

constexpr Statement kLock{"events_relay_lock",
                          "SELECT pg_try_advisory_xact_lock(hashtextextended('nova_events_relay', 0))"};
// Apart from the lock: a statement sees what was committed before it began, and the lock may have been given back
// since.
constexpr Statement kSelectState{"events_relay_state", "SELECT stream_ms, stream_seq FROM events.relay_state"};
constexpr Statement kSelectUnpublished{
    "events_select_unpublished",
    "SELECT position, id, aggregate, sequence, type, payload, trace, occurred_at FROM ("
    "SELECT *, sum(octet_length(payload)) OVER (ORDER BY position) - octet_length(payload) AS bytes_ahead FROM ("
    "SELECT * FROM events.outbox WHERE published_at IS NULL ORDER BY position LIMIT $1) AS oldest) AS measured "
    "WHERE bytes_ahead < $2 ORDER BY position"};
constexpr Statement kMarkPublished{
    "events_mark_published",
    "WITH state AS (UPDATE events.relay_state SET stream_ms = $5, stream_seq = $6) "
    "UPDATE events.outbox SET published_at = $1, stream_ms = ids.ms, stream_seq = ids.seq "
    "FROM unnest($2, $3, $4) AS ids (position, ms, seq) "
    "WHERE outbox.position = ids.position"};
constexpr Statement kReset{
    "events_reset_lost",
    "UPDATE events.outbox SET published_at = NULL, stream_ms = NULL, stream_seq = NULL WHERE position IN ("
    "SELECT position FROM events.outbox "
    "WHERE published_at IS NOT NULL AND (stream_ms, stream_seq) > ($1, $2) LIMIT $3)"};
constexpr Statement kUpdateState{"events_update_relay_state",
                                 "UPDATE events.relay_state SET stream_ms = $1, stream_seq = $2"};
constexpr Statement kMeasure{"events_measure_outbox",
                             "SELECT count(*), min(occurred_at) FROM ("
                             "SELECT occurred_at FROM events.outbox WHERE published_at IS NULL "
                             "ORDER BY position LIMIT $1) AS pending"};
// Looks at the oldest rows only, by the key, so it needs no index of its own. The second look at published_at is for a
// row that is marked for publishing again meanwhile.
constexpr Statement kPurge{"events_purge_outbox",
                           "DELETE FROM events.outbox WHERE published_at < $1 AND position IN ("
                           "SELECT position FROM ("
                           "SELECT position, published_at FROM events.outbox ORDER BY position LIMIT $2) AS oldest "
                           "WHERE published_at < $1)"};

// Compare and append, atomically. KEYS: the stream. ARGV: the last id that the stream must have (ms, seq), envelopes.
// Returns {"lost", last id}, having done nothing, or {"ok", ids of the envelopes...}.
constexpr std::string_view kScript = R"lua(
local last = '0-0'
if redis.call('EXISTS', KEYS[1]) == 1 then
  local info = redis.call('XINFO', 'STREAM', KEYS[1])
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then last = info[i + 1] end
  end
end
local ms, seq = string.match(last, '^(%d+)-(%d+)$')
ms, seq = tonumber(ms), tonumber(seq)
local must_ms, must_seq = tonumber(ARGV[1]), tonumber(ARGV[2])
if ms < must_ms or (ms == must_ms and seq < must_seq) then return {'lost', last} end
local reply = {'ok'}
for i = 3, #ARGV do
  reply[#reply + 1] = redis.call('XADD', KEYS[1], '*', 'envelope', ARGV[i])
end
return reply
)lua";

// Set from any thread, awaited by one task. What was set before the wait ends it at once, so nothing is missed; several
// count as one.
class Signal {
 public:
  void Set() {
    std::optional<OneShot<bool>> waiter;
    {
      std::lock_guard lock(mutex_);
      set_ = true;
      waiter = std::exchange(waiter_, std::nullopt);
    }
    if (waiter) (void)waiter->TrySet(true);
  }

  // Returns at once if it was set since the last wait, else when it is set or `timeout` has passed: whether it was set.
  // Errors: why the call ended.
  Task<bool> Wait(Call& call, Duration timeout) {
    const OneShot<bool> news;
    if (Begin(news)) co_return true;
    {
      Call waiting(call, timeout);
      (void)co_await news.Wait(waiting);
    }
    NOVA_CO_TRY(call.Check());
    co_return End();
  }

 private:
  bool Begin(const OneShot<bool>& news) {
    std::lock_guard lock(mutex_);
    if (std::exchange(set_, false)) return true;
    waiter_ = news;
    return false;
  }
  bool End() {
    std::lock_guard lock(mutex_);
    waiter_.reset();
    return std::exchange(set_, false);
  }

  std::mutex mutex_;
  bool set_ = false;                     // guarded by mutex_
  std::optional<OneShot<bool>> waiter_;  // guarded by mutex_
};

// The id of an entry: "<ms>-<seq>". Those of one stream rise.
struct StreamId {
  std::int64_t ms = 0;
  std::int64_t seq = 0;

  static Result<StreamId> Parse(std::string_view text) {
    StreamId id;
    const char* const end = text.data() + text.size();
    const auto ms = std::from_chars(text.data(), end, id.ms);
    if (ms.ec == std::errc() && ms.ptr != end && *ms.ptr == '-') {
      const auto seq = std::from_chars(ms.ptr + 1, end, id.seq);
      if (seq.ec == std::errc() && seq.ptr == end) return id;
    }
    return Internal("internal error", "Redis answered with '" + std::string(text) + "' for the id of an entry");
  }
  std::string ToString() const { return std::to_string(ms) + "-" + std::to_string(seq); }
};

// A row of the outbox as what travels.
Result<std::string> Encode(const Row& row, const std::string& producer, std::int64_t& position) {
  Uuid id;
  std::string_view aggregate;
  std::int64_t sequence = 0;
  std::string_view type;
  std::vector<std::uint8_t> payload;
  std::string_view trace;
  WallTime occurred_at;
  NOVA_TRY(row.Read(position, id, aggregate, sequence, type, payload, trace, occurred_at));
  v1::Envelope envelope;
  envelope.set_version(kEnvelopeVersion);
  envelope.set_id(id.ToString());
  envelope.set_producer(producer);
  envelope.set_aggregate(std::string(aggregate));
  envelope.set_sequence(sequence);
  envelope.set_type(std::string(type));
  envelope.set_payload(payload.data(), payload.size());
  envelope.set_trace(std::string(trace));
  *envelope.mutable_occurred_at() = proto::ToTimestamp(occurred_at);
  std::string bytes;
  if (!envelope.SerializeToString(&bytes)) return Internal("internal error", "an envelope could not be encoded");
  return bytes;
}

}  // namespace

void Bind(config::Config& config, RelayConfig& relay) {
  using std::chrono::hours;
  using std::chrono::milliseconds;
  using std::chrono::minutes;
  using std::chrono::seconds;
  config.Field("events.relay_batch_max", relay.batch_max,
               {.help = "events published in one transaction, at most", .min = 1, .max = 10'000});
  config.Field("events.relay_poll_interval", relay.poll_interval,
               {.help = "how often the outbox is looked at unasked", .min = milliseconds(10), .max = minutes(1)});
  config.Field("events.relay_retry_delay_min", relay.retry_delay_min,
               {.help = "wait after a first failure to publish", .min = milliseconds(1), .max = minutes(1)});
  config.Field("events.relay_retry_delay_max", relay.retry_delay_max,
               {.help = "longest wait after failures to publish", .min = milliseconds(1), .max = minutes(1)});
  config.Field("events.retention", relay.retention,
               {.help = "how long published events are kept, in the outbox and in the stream",
                .min = minutes(1),
                .max = hours(24 * 365)});
}

Result<void> Validate(const RelayConfig& relay, const redis::ClientConfig& redis) {
  const std::int64_t bytes = kBatchBytesMax + kEntryBytesMax + relay.batch_max * kEnvelopeBytesMax;
  if (bytes <= redis.queued_bytes_max) return Ok();
  return InvalidArgument(
      "redis.queued_bytes_max is too small for events.relay_batch_max events: set NOVA_REDIS_QUEUED_BYTES_MAX to " +
      std::to_string(bytes) + " at least, or lower NOVA_EVENTS_RELAY_BATCH_MAX");
}

struct Relay::State {
  enum class Round : std::uint8_t {
    kDone,       // nothing is left to publish
    kMore,       // there may be more
    kElsewhere,  // another replica is at it
  };

  State(Outbox& own_outbox, postgres::Pool& own_pool, redis::Client& own_redis, telemetry::Metrics& metrics,
        RelayConfig own_config, const Clock& own_clock)
      : outbox(own_outbox),
        pool(own_pool),
        redis(own_redis),
        config(own_config),
        clock(own_clock),
        stream(StreamOf(own_outbox.producer())),
        published(metrics.Counter("nova_events_published_total", "Events that were added to the stream",
                                  {{"producer", own_outbox.producer()}})),
        failures(metrics.Counter("nova_events_relay_failures_total", "Looks at the outbox that failed",
                                 {{"producer", own_outbox.producer()}})),
        streams_lost(metrics.Counter("nova_events_stream_lost_total",
                                     "Times that the stream lacked events it had, and was made again",
                                     {{"producer", own_outbox.producer()}})),
        pending(metrics.Gauge("nova_events_outbox_pending", "Events that wait to be published",
                              {{"producer", own_outbox.producer()}})),
        losing_gauge(metrics.Gauge("nova_events_groups_losing",
                                   "Groups of consumers for which the stream drops events they have not read",
                                   {{"producer", own_outbox.producer()}})),
        oldest(metrics.Gauge("nova_events_outbox_oldest_seconds", "Age of the oldest event that waits",
                             {{"producer", own_outbox.producer()}})) {}

  static Task<void> Run(std::shared_ptr<State> self, Call& call);

  // What a transaction did; true once it has been committed.
  struct Progress {
    Round round = Round::kDone;
    int published = 0;
    // Set if the stream turned out to lack its end, and all that it lacks is marked.
    bool reset = false;
  };

  Task<Round> Look(Call& call);
  // Drops from the stream what is older than `retention`. Apart from appending, and before it: a Redis that is full
  // refuses to append until what is old has made room.
  Task<void> Trim(Call& call);
  // Says so if a group of consumers loses by that what it has not read.
  Task<void> NoteUnread(Call& call, StreamId first_kept);
  Task<Round> Publish(Call& call, bool compare);
  // `compare`: ask the stream also if there is nothing to add.
  Task<Progress> PublishIn(Call& call, Transaction& transaction, bool compare);
  Task<void> MarkPublished(Call& call, Transaction& transaction, const std::vector<std::int64_t>& positions,
                           const std::vector<redis::Reply>& ids);
  Task<Progress> Reset(Call& call, Transaction& transaction, StreamId must, StreamId last);
  // Whether anything waits to be published.
  Task<bool> Measure(Call& call);

  // Constant after construction.
  Outbox& outbox;
  postgres::Pool& pool;
  redis::Client& redis;
  const RelayConfig config;
  const Clock& clock;
  const std::string stream;
  prometheus::Counter& published;
  prometheus::Counter& failures;
  prometheus::Counter& streams_lost;
  prometheus::Gauge& pending;
  prometheus::Gauge& losing_gauge;
  prometheus::Gauge& oldest;
  // Thread-safe.
  Signal committed;
  // Of the task of Run. Intervals go by the machine's clock, as Sleep does; `clock` is for what is written down.
  bool due = true;
  SteadyTime measure_at;
  SteadyTime check_at;
  std::set<std::string> groups_losing;
};

Task<void> Relay::State::Run(std::shared_ptr<State> self, Call& call) {
  Outage outage("publishing events", self->config.retry_delay_min, self->config.retry_delay_max);
  Duration elsewhere_delay = kElsewhereDelayMin;
  for (;;) {
    NOVA_CO_TRY(call.Check());
    const Result<Round> round = co_await self->Look(call);
    if (!round) {
      NOVA_CO_TRY(call.Check());
      self->failures.Increment();
      self->due = true;
      NOVA_CO_TRY(co_await runtime::Sleep(call, outage.Failed(round.error())));
      continue;
    }
    outage.Worked();
    switch (*round) {
      case Round::kMore:
        self->due = true;
        break;
      case Round::kElsewhere:
        self->due = true;
        NOVA_CO_TRY(co_await runtime::Sleep(call, elsewhere_delay));
        elsewhere_delay = std::min<Duration>(elsewhere_delay * 2, self->config.poll_interval);
        break;
      case Round::kDone:
        elsewhere_delay = kElsewhereDelayMin;
        NOVA_CO_TRY(self->due, co_await self->committed.Wait(call, self->config.poll_interval));
        break;
    }
  }
}

Task<Relay::State::Round> Relay::State::Look(Call& call) {
  const SteadyTime now = Clock::System().Now();
  if (now >= measure_at) {
    NOVA_CO_TRY(const bool waits, co_await Measure(call));
    measure_at = now + config.poll_interval;
    due = due || waits;
  }
  const bool compare = now >= check_at;
  if (!due && !compare) co_return Round::kDone;
  if (compare) NOVA_CO_TRY(co_await Trim(call));
  NOVA_CO_TRY(const Round round, co_await Publish(call, compare));
  if (compare) check_at = now + kLossCheckInterval;
  co_return round;
}

Task<void> Relay::State::Trim(Call& call) {
  const auto kept = std::chrono::floor<std::chrono::milliseconds>(clock.WallNow() - config.retention);
  const StreamId first_kept{.ms = kept.time_since_epoch().count()};
  Call trimming(call, kPublishLimit);
  NOVA_CO_TRY(co_await NoteUnread(trimming, first_kept));
  NOVA_CO_TRY(co_await redis.Run(trimming, redis::Command("XTRIM", stream, "MINID", "~", first_kept.ms)));
  co_return Ok();
}

Task<void> Relay::State::NoteUnread(Call& call, StreamId first_kept) {
  std::set<std::string> losing;
  std::vector<redis::Reply> groups;
  NOVA_CO_TRY(const redis::Reply length, co_await redis.Run(call, redis::Command("XLEN", stream)));
  // Without a stream XINFO would be an error.
  if (length.integer > 0) {
    NOVA_CO_TRY(const redis::Reply reply, co_await redis.Run(call, redis::Command("XINFO", "GROUPS", stream)));
    groups = reply.elements;
  }
  for (const redis::Reply& group : groups) {
    std::string name;
    std::string last_read;
    for (std::size_t i = 0; i + 1 < group.elements.size(); i += 2) {
      if (group.elements[i].text == "name") name = group.elements[i + 1].text;
      if (group.elements[i].text == "last-delivered-id") last_read = group.elements[i + 1].text;
    }
    NOVA_CO_TRY(const StreamId last, StreamId::Parse(last_read));
    if (last.ms >= first_kept.ms) continue;
    NOVA_CO_TRY(const redis::Reply unread,
                co_await redis.Run(
                    call, redis::Command("XRANGE", stream, "(" + last_read, "(" + first_kept.ToString(), "COUNT", 1)));
    if (unread.elements.empty()) continue;
    losing.insert(name);
    if (!groups_losing.contains(name))
      telemetry::LogError(
          "events are dropped that a group has not read: it stands still for longer than events.retention",
          {{"stream", stream}, {"group", name}, {"last_read", last_read}});
  }
  groups_losing = std::move(losing);
  losing_gauge.Set(static_cast<double>(groups_losing.size()));
  co_return Ok();
}

Task<Relay::State::Round> Relay::State::Publish(Call& call, bool compare) {
  Call limited(call, kTransactionLimit);
  NOVA_CO_TRY(const Progress progress,
              co_await pool.InTransaction(limited, [this, &limited, compare](Transaction& transaction) {
                return PublishIn(limited, transaction, compare);
              }));
  if (progress.published > 0) kCommitted.Pass();
  published.Increment(progress.published);
  if (progress.reset) streams_lost.Increment();
  co_return progress.round;
}

Task<Relay::State::Progress> Relay::State::PublishIn(Call& call, Transaction& transaction, bool compare) {
  {
    NOVA_CO_TRY(const Rows rows, co_await transaction.Query(call, kLock));
    NOVA_CO_TRY(const bool locked, rows[0].Get<bool>(0));
    if (!locked) co_return Progress{.round = Round::kElsewhere};
  }
  StreamId must;
  {
    NOVA_CO_TRY(const Rows rows, co_await transaction.Query(call, kSelectState));
    NOVA_CO_TRY(rows[0].Read(must.ms, must.seq));
  }
  NOVA_CO_TRY(const Rows rows, co_await transaction.Query(call, kSelectUnpublished, config.batch_max, kBatchBytesMax));

  if (rows.empty() && !compare) co_return Progress{};

  redis::Command append("EVAL", kScript, 1, stream, must.ms, must.seq);
  std::vector<std::int64_t> positions;
  std::int64_t bytes = 0;
  for (const Row row : rows) {
    NOVA_CO_TRY(const std::string envelope, Encode(row, outbox.producer(), positions.emplace_back()));
    bytes += std::ssize(envelope);
    append.Add(envelope);
  }
  Call publishing(call, kPublishLimit);
  NOVA_CO_TRY(const redis::Reply reply, co_await redis.Run(publishing, std::move(append)));
  NOVA_CO_TRY(std::vector<redis::Reply> answer, reply.Array());
  if (answer.empty()) co_return Internal("internal error", "Redis answered nothing to the events published");
  NOVA_CO_TRY(const std::string outcome, answer[0].Text());
  answer.erase(answer.begin());
  if (outcome == "lost" && answer.size() == 1) {
    NOVA_CO_TRY(const std::string text, answer[0].Text());
    NOVA_CO_TRY(const StreamId last, StreamId::Parse(text));
    co_return co_await Reset(call, transaction, must, last);
  }
  if (outcome != "ok" || answer.size() != positions.size())
    co_return Internal("internal error", "Redis answered '" + outcome + "' and " + std::to_string(answer.size()) +
                                             " ids to " + std::to_string(positions.size()) + " events published");
  if (positions.empty()) co_return Progress{};
  kPublished.Pass();
  NOVA_CO_TRY(co_await MarkPublished(call, transaction, positions, answer));
  kMarked.Pass();
  // What is committed from here on wakes us, or its own replica's relay.
  const bool more = std::ssize(positions) >= config.batch_max || bytes >= kBatchBytesMax;
  co_return Progress{.round = more ? Round::kMore : Round::kDone, .published = static_cast<int>(positions.size())};
}

Task<void> Relay::State::MarkPublished(Call& call, Transaction& transaction, const std::vector<std::int64_t>& positions,
                                       const std::vector<redis::Reply>& ids) {
  std::vector<std::int64_t> ms;
  std::vector<std::int64_t> seq;
  StreamId last;
  for (const redis::Reply& id : ids) {
    NOVA_CO_TRY(const std::string text, id.Text());
    NOVA_CO_TRY(last, StreamId::Parse(text));
    ms.push_back(last.ms);
    seq.push_back(last.seq);
  }
  NOVA_CO_TRY(const Rows rows,
              co_await transaction.Query(call, kMarkPublished, clock.WallNow(), positions, ms, seq, last.ms, last.seq));
  if (rows.affected() != static_cast<std::int64_t>(positions.size()))
    co_return Internal("internal error", "only " + std::to_string(rows.affected()) + " of " +
                                             std::to_string(positions.size()) + " published events could be marked");
  co_return Ok();
}

// Nothing is published until all that the stream lacks is marked: events would overtake those before them. Until then
// relay_state stays as it is, so the loss is found again, by whoever comes next.
Task<Relay::State::Progress> Relay::State::Reset(Call& call, Transaction& transaction, StreamId must, StreamId last) {
  NOVA_CO_TRY(const Rows rows, co_await transaction.Query(call, kReset, last.ms, last.seq, kResetMax));
  kMarkedLost.Pass();
  if (rows.affected() >= kResetMax) co_return Progress{.round = Round::kMore};
  NOVA_CO_TRY(co_await transaction.Query(call, kUpdateState, last.ms, last.seq));
  telemetry::LogError("the stream lacks events it had; they are published again from the outbox",
                      {{"stream", stream}, {"had", must.ToString()}, {"has", last.ToString()}});
  co_return Progress{.round = Round::kMore, .reset = true};
}

Task<bool> Relay::State::Measure(Call& call) {
  NOVA_CO_TRY(const Rows rows, co_await pool.Query(call, kMeasure, kPendingCountMax));
  std::int64_t count = 0;
  std::optional<WallTime> since;
  NOVA_CO_TRY(rows[0].Read(count, since));
  pending.Set(static_cast<double>(count));
  oldest.Set(since ? std::max(0.0, std::chrono::duration<double>(clock.WallNow() - *since).count()) : 0.0);
  co_return count > 0;
}

Relay::Relay(Outbox& outbox, postgres::Pool& pool, redis::Client& redis, telemetry::Metrics& metrics,
             RelayConfig config, const Clock& clock)
    : state_(std::make_shared<State>(outbox, pool, redis, metrics, config, clock)) {
  outbox.OnCommit([state = state_] { state->committed.Set(); });
}

Relay::~Relay() { state_->outbox.OnCommit({}); }

void Relay::Start(runtime::Scope& scope) {
  scope.Spawn("events: relay", [state = state_](Call& call) { return State::Run(state, call); });
  scope.Spawn("events: purge of the outbox", [state = state_](Call& call) {
    return PurgeNowAndThen(call, state->pool, state->clock,
                           {.work = "purging the outbox",
                            .statement = kPurge,
                            .retention = state->config.retention,
                            .retry_delay_min = state->config.retry_delay_min});
  });
}

}  // namespace nova::events
