#include "nova/events/consumer.h"

#include <algorithm>
#include <cassert>
#include <cstdint>
#include <exception>
#include <iterator>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "nova/events/outage.h"
#include "nova/events/purge.h"
#include "nova/postgres/sql_error.h"
#include "nova/proto/timestamp.h"
#include "nova/resilience/crash_point.h"
#include "nova/telemetry/log.h"

namespace nova::events {
namespace {

using postgres::Row;
using postgres::Rows;
using postgres::Statement;
using postgres::Transaction;
using redis::Command;
using redis::Reply;
using runtime::Call;
using runtime::Task;

// Entries were delivered to the group, and nothing was done.
const resilience::CrashPoint kRead("consumer.read");
// They took effect, in a transaction that is not committed.
const resilience::CrashPoint kApplied("consumer.applied");
// It is committed, and the stream does not know.
const resilience::CrashPoint kCommitted("consumer.committed");
// The stream was told.
const resilience::CrashPoint kAcknowledged("consumer.acknowledged");

// One transaction. Whoever stalls in the middle holds the lock for this long and a moment; then the server ends it.
constexpr Duration kTransactionLimit = std::chrono::seconds(5);
// What Redis may take of it.
constexpr Duration kReadLimit = std::chrono::seconds(2);
constexpr Duration kAcknowledgeLimit = std::chrono::seconds(2);
// Another replica is at it: how soon to look whether it has left something behind.
constexpr Duration kElsewhereDelay = std::chrono::milliseconds(100);
// batch_max, at most: as many events of kEventBytesMax are less than redis.reply_bytes_max.
constexpr int kBatchMax = 200;
// All replicas of a service are one consumer of its group: whoever holds the lock is it, and finds what the one before
// left unacknowledged as its own.
constexpr std::string_view kName = "service";

constexpr Statement kLock{"events_consumer_lock", "SELECT pg_try_advisory_xact_lock(hashtextextended($1, 0))"};
constexpr Statement kMark{"events_mark_received",
                          "INSERT INTO events.inbox (event_id, producer, received_at) "
                          "SELECT event_id, $2, $3 FROM unnest($1) AS batch (event_id) "
                          "ON CONFLICT DO NOTHING RETURNING event_id"};
// An event that came again may come yet again, so its mark is as good as new: however often streams are lost and made
// again, the mark outlives the outbox's row.
constexpr Statement kMarkAgain{
    "events_mark_received_again",
    "UPDATE events.inbox SET received_at = $2 WHERE event_id = ANY ($1) AND received_at < $2"};
constexpr Statement kBury{"events_insert_dead_letter",
                          "INSERT INTO events.dead_letters (event_id, producer, stream_id, envelope, error_code, "
                          "error_message, attempts, given_up_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) "
                          "ON CONFLICT DO NOTHING"};
// An event that cannot be read has no id: one is made from its place, the same each time.
constexpr Statement kBuryUnreadable{
    "events_insert_unreadable",
    "INSERT INTO events.dead_letters (event_id, producer, stream_id, envelope, error_code, error_message, attempts, "
    "given_up_at) VALUES (encode(substring(sha256(convert_to($1 || '/' || $2, 'UTF8')) FROM 1 FOR 16), 'hex')::uuid, "
    "$1, $2, $3, $4, $5, 0, $6) ON CONFLICT DO NOTHING"};
// Looks at the oldest rows only, by the key, so it needs no index of its own.
constexpr Statement kPurge{"events_purge_inbox",
                           "DELETE FROM events.inbox WHERE event_id IN (SELECT event_id FROM ("
                           "SELECT event_id, received_at FROM events.inbox ORDER BY event_id LIMIT $2) AS oldest "
                           "WHERE received_at < $1)"};

double Seconds(WallTime time) { return std::chrono::duration<double>(time.time_since_epoch()).count(); }

bool IsTransient(Code code) {
  switch (code) {
    case Code::kUnavailable:
    case Code::kDeadlineExceeded:
    case Code::kAborted:
    case Code::kResourceExhausted:
    case Code::kCancelled:
      return true;
    default:
      return false;
  }
}

// What is kept of an error in the database: what may be shown, and what the server called it.
std::string Describe(const Error& error) {
  const std::optional<postgres::SqlError> sql = postgres::SqlErrorOf(error);
  if (!sql) return error.message();
  std::string text = error.message() + " (SQLSTATE " + sql->state;
  if (!sql->constraint.empty()) text += ", constraint " + sql->constraint;
  return text + ")";
}

// One entry of a stream.
struct Entry {
  std::string id;
  // Nothing if the stream has dropped the entry, because of its age, before it was acknowledged.
  std::optional<std::string> envelope;
};

// The entries in the reply of XREADGROUP on one stream.
Result<std::vector<Entry>> EntriesOf(const Reply& reply) {
  std::vector<Entry> entries;
  if (reply.is_error()) return redis::ToError(reply);
  if (reply.is_nil()) return entries;
  const auto malformed = [] { return Internal("internal error", "Redis answered XREADGROUP in an unknown form"); };
  if (reply.elements.size() != 1 || reply.elements[0].elements.size() != 2) return malformed();
  for (const Reply& element : reply.elements[0].elements[1].elements) {
    if (element.elements.size() != 2) return malformed();
    Entry& entry = entries.emplace_back();
    NOVA_TRY(entry.id, element.elements[0].Text());
    const Reply& fields = element.elements[1];
    if (fields.is_nil()) continue;
    // An entry of another shape is an envelope that cannot be read.
    entry.envelope.emplace();
    if (fields.elements.size() == 2 && fields.elements[0].text == "envelope") entry.envelope = fields.elements[1].text;
  }
  return entries;
}

// Of one group in the reply of XINFO GROUPS.
Result<std::string> LastDelivered(const Reply& reply, const std::string& group) {
  NOVA_TRY(const std::vector<Reply> groups, reply.Array());
  for (const Reply& each : groups) {
    std::map<std::string_view, std::string_view> fields;
    for (std::size_t i = 0; i + 1 < each.elements.size(); i += 2)
      fields[each.elements[i].text] = each.elements[i + 1].text;
    if (fields["name"] == group) return std::string(fields["last-delivered-id"]);
  }
  return Unavailable("the event stream changes", "XINFO GROUPS does not know the group " + group);
}

}  // namespace

void Bind(config::Config& config, ConsumerConfig& consumer) {
  using std::chrono::hours;
  using std::chrono::milliseconds;
  using std::chrono::minutes;
  using std::chrono::seconds;
  config.Field("events.consumer_batch_max", consumer.batch_max,
               {.help = "events handled in one transaction, at most", .min = 1, .max = kBatchMax});
  config.Field("events.consumer_block", consumer.block,
               {.help = "how long one look at a stream waits for news", .min = milliseconds(10), .max = minutes(1)});
  config.Field("events.consumer_retry_delay_min", consumer.retry_delay_min,
               {.help = "wait after a first failure to handle an event", .min = milliseconds(1), .max = minutes(1)});
  config.Field("events.consumer_retry_delay_max", consumer.retry_delay_max,
               {.help = "longest wait after failures to handle an event", .min = milliseconds(1), .max = minutes(1)});
  config.Field("events.attempts_max", consumer.attempts_max,
               {.help = "failures after which an event becomes a dead letter", .min = 1, .max = 1'000});
  config.Field("events.inbox_retention", consumer.inbox_retention,
               {.help = "how long handled events are remembered; longer than any stream or outbox keeps them",
                .min = hours(1),
                .max = hours(24 * 730)});
}

Result<void> Validate(const ConsumerConfig& consumer, std::chrono::seconds retention,
                      const redis::ClientConfig& redis) {
  // Published again at its end, an event stays in the stream once more.
  if (consumer.inbox_retention <= 2 * retention)
    return InvalidArgument(
        "events.inbox_retention is too short: an event may come again for twice events.retention, and must be known "
        "then; raise NOVA_EVENTS_INBOX_RETENTION, or lower NOVA_EVENTS_RETENTION");
  if (consumer.batch_max * kEntryBytesMax > redis.reply_bytes_max)
    return InvalidArgument(
        "redis.reply_bytes_max is too small for events.consumer_batch_max events: set "
        "NOVA_REDIS_REPLY_BYTES_MAX to " +
        std::to_string(consumer.batch_max * kEntryBytesMax) + " at least, or lower NOVA_EVENTS_CONSUMER_BATCH_MAX");
  return Ok();
}

struct Consumer::State {
  class Subscription;

  State(Outbox& own_outbox, postgres::Pool& own_pool, redis::Client& own_redis, telemetry::Metrics& own_metrics,
        ConsumerConfig own_config, const Clock& own_clock)
      : outbox(own_outbox),
        pool(own_pool),
        redis(own_redis),
        metrics(own_metrics),
        config(std::move(own_config)),
        clock(own_clock) {}

  // Constant after Start.
  Outbox& outbox;
  postgres::Pool& pool;
  redis::Client& redis;
  telemetry::Metrics& metrics;
  const ConsumerConfig config;
  const Clock& clock;
  // By producer.
  std::map<std::string, std::unique_ptr<Subscription>, std::less<>> subscriptions;
};

// One stream. Used by one task, once it runs.
class Consumer::State::Subscription {
 public:
  Subscription(State& state, std::string producer)
      : state_(state),
        producer_(std::move(producer)),
        stream_(StreamOf(producer_)),
        lock_("nova_events_consumer " + state.config.group + " " + stream_),
        labels_{{"group", state.config.group}, {"producer", producer_}},
        lag_(state.metrics.Histogram("nova_events_lag_seconds", "From an event's transaction to its effect",
                                     telemetry::kLatencyBuckets, labels_)),
        retries_(state.metrics.Counter("nova_events_consumer_retries_total",
                                       "Transactions of a consumer that failed and were tried again", labels_)),
        dead_letters_(state.metrics.Counter("nova_events_dead_letters_total", "Events that were given up", labels_)),
        outage_("consuming " + stream_, state.config.retry_delay_min, state.config.retry_delay_max) {}

  void On(const std::string& type, RawHandler handler) {
    [[maybe_unused]] const bool is_new = handlers_.emplace(type, std::move(handler)).second;
    assert(is_new && "a type has one handler");
  }

  const std::string& stream() const { return stream_; }

  Task<void> Run(Call& call);

 private:
  // An event with a handler.
  struct Event {
    std::string stream_id;
    std::string bytes;
    v1::Envelope envelope;
    Uuid id;
    WallTime occurred_at;
    const RawHandler* handler = nullptr;
  };

  // One look at the stream: what came, and what became of it.
  struct Look {
    bool locked = false;
    std::vector<Entry> entries;
    // There may be more entries behind these.
    bool more = false;
    // The last event whose handler was begun.
    std::optional<Uuid> handling;
    // All handlers have ended well; what can still fail is COMMIT.
    bool handled = false;
    // What counts once it is committed: how many of which type had which outcome, when those occurred that took
    // effect, and those that were given up.
    std::map<std::pair<std::string, std::string_view>, int> outcomes;
    std::vector<WallTime> applied;
    int dead = 0;
  };

  // The event at which the stream stands still, because its handler fails.
  struct Failing {
    Uuid event;
    int attempts = 0;
    Error error;
  };

  // Looks at the stream and, if there is nothing more, waits for news.
  Task<void> Step(Call& call);
  Task<void> Apply(Call& call, Transaction& transaction, Look& look);
  Task<void> Read(Call& call, Look& look);
  Task<void> CreateGroup(Call& call);
  // Errors: INVALID_ARGUMENT if the envelope cannot be read.
  Result<Event> Decode(const Entry& entry) const;
  // The ids of those events that were not marked before.
  Task<std::set<Uuid>> Mark(Call& call, Transaction& transaction, const std::vector<Event>& events);
  Task<void> Handle(Call& call, Transaction& transaction, const Event& event);
  Task<void> Bury(Call& call, Transaction& transaction, const Event& event);
  Task<void> BuryUnreadable(Call& call, Transaction& transaction, const Entry& entry, const Error& error);
  Task<void> Acknowledge(Call& call, const Look& look);
  void Failed(const Look& look, const Error& error);
  void Committed(const Look& look);

  // Constant after construction.
  State& state_;
  const std::string producer_;
  const std::string stream_;
  const std::string lock_;
  const telemetry::Labels labels_;
  prometheus::Histogram& lag_;
  prometheus::Counter& retries_;
  prometheus::Counter& dead_letters_;
  std::map<std::string, RawHandler, std::less<>> handlers_;
  // Of the task.
  Outage outage_;
  // Where the group stands in the stream: news are what comes after it.
  std::string last_delivered_ = "0-0";
  // Ask only for what was delivered and not acknowledged: at first, and after a failure, so that one that lasts does
  // not pile up deliveries.
  bool pending_only_ = true;
  // After a batch failed, as many events are handled one by one, so that it is known which of them fails.
  std::size_t one_by_one_ = 0;
  std::optional<Failing> failing_;
};

Task<void> Consumer::State::Subscription::Run(Call& call) {
  for (;;) {
    NOVA_CO_TRY(call.Check());
    const Result<void> step = co_await Step(call);
    if (step) {
      outage_.Worked();
      continue;
    }
    NOVA_CO_TRY(call.Check());
    retries_.Increment();
    NOVA_CO_TRY(co_await runtime::Sleep(call, outage_.Failed(step.error())));
  }
}

Task<void> Consumer::State::Subscription::Step(Call& call) {
  Look look;
  {
    Call limited(call, kTransactionLimit);
    const Result<void> applied = co_await state_.outbox.InTransaction(
        limited, [this, &limited, &look](Transaction& transaction) { return Apply(limited, transaction, look); },
        // What it has looked at, and how often, is counted below.
        postgres::OnConflict::kFail);
    if (!applied) {
      Failed(look, applied.error());
      co_return applied;
    }
  }
  if (!look.locked) co_return co_await runtime::Sleep(call, kElsewhereDelay);
  if (!look.entries.empty()) kCommitted.Pass();
  Committed(look);
  NOVA_CO_TRY(co_await Acknowledge(call, look));
  if (!look.entries.empty()) kAcknowledged.Pass();
  if (look.more) co_return Ok();
  // It waits outside the transaction, and outside the group: entries are delivered to whoever has the lock.
  NOVA_CO_TRY(co_await state_.redis.RunBlocking(
      call, Command("XREAD", "COUNT", 1, "BLOCK", state_.config.block.count(), "STREAMS", stream_, last_delivered_),
      state_.config.block));
  co_return Ok();
}

Task<void> Consumer::State::Subscription::Apply(Call& call, Transaction& transaction, Look& look) {
  {
    NOVA_CO_TRY(const Rows rows, co_await transaction.Query(call, kLock, lock_));
    NOVA_CO_TRY(look.locked, rows[0].Get<bool>(0));
    if (!look.locked) co_return Ok();
  }
  NOVA_CO_TRY(co_await Read(call, look));
  if (!look.entries.empty()) kRead.Pass();
  std::vector<Event> events;
  for (const Entry& entry : look.entries) {
    if (!entry.envelope) {
      telemetry::LogError(
          "an event was lost: the stream dropped it before it was handled; events.retention is too short",
          {{"stream", stream_}, {"stream_id", entry.id}});
      ++look.outcomes[{"other", "trimmed"}];
      continue;
    }
    Result<Event> event = Decode(entry);
    if (!event) {
      NOVA_CO_TRY(co_await BuryUnreadable(call, transaction, entry, event.error()));
      ++look.outcomes[{"other", "dead"}];
      ++look.dead;
    } else if (event->handler == nullptr) {
      ++look.outcomes[{"other", "ignored"}];
    } else {
      events.push_back(*std::move(event));
    }
  }
  if (events.empty()) co_return Ok();

  NOVA_CO_TRY(std::set<Uuid> fresh, co_await Mark(call, transaction, events));
  for (const Event& event : events) {
    const std::string& type = event.envelope.type();
    if (fresh.erase(event.id) == 0) {
      ++look.outcomes[{type, "duplicate"}];
      continue;
    }
    if (failing_ && failing_->event == event.id && failing_->attempts >= state_.config.attempts_max) {
      NOVA_CO_TRY(co_await Bury(call, transaction, event));
      ++look.outcomes[{type, "dead"}];
      ++look.dead;
      continue;
    }
    look.handling = event.id;
    NOVA_CO_TRY(co_await Handle(call, transaction, event));
    ++look.outcomes[{type, "applied"}];
    look.applied.push_back(event.occurred_at);
  }
  look.handled = true;
  kApplied.Pass();
  co_return Ok();
}

Task<void> Consumer::State::Subscription::Read(Call& call, Look& look) {
  const std::size_t count = one_by_one_ > 0 ? 1 : static_cast<std::size_t>(state_.config.batch_max);
  const auto read = [&](std::string_view from) {
    return Command("XREADGROUP", "GROUP", state_.config.group, kName, "COUNT", count, "STREAMS", stream_, from);
  };
  // What is new is delivered first, and then all that was delivered is read, in the order of the stream: whoever it was
  // delivered to, be it a command whose caller had given up on it, nothing overtakes. The group's place is asked for
  // last: it is past all that was delivered before.
  std::vector<Command> commands;
  if (!pending_only_) commands.push_back(read(">"));
  commands.push_back(read("0"));
  commands.push_back(Command("XINFO", "GROUPS", stream_));

  Call reading(call, kReadLimit);
  NOVA_CO_TRY(std::vector<Reply> replies, co_await state_.redis.RunAll(reading, commands));
  if (!replies.empty() && replies[0].error_name() == "NOGROUP") {
    NOVA_CO_TRY(co_await CreateGroup(reading));
    NOVA_CO_TRY(replies, co_await state_.redis.RunAll(reading, commands));
  }
  if (replies.size() != commands.size())
    co_return Internal("internal error", "Redis answered " + std::to_string(replies.size()) + " of " +
                                             std::to_string(commands.size()) + " commands");
  if (replies[0].is_error()) co_return redis::ToError(replies[0]);
  NOVA_CO_TRY(look.entries, EntriesOf(replies[commands.size() - 2]));
  look.more = pending_only_ || look.entries.size() >= count;
  NOVA_CO_TRY(last_delivered_, LastDelivered(replies.back(), state_.config.group));
  co_return Ok();
}

Task<void> Consumer::State::Subscription::CreateGroup(Call& call) {
  NOVA_CO_TRY(
      const std::vector<Reply> replies,
      co_await state_.redis.RunAll(call, {Command("XGROUP", "CREATE", stream_, state_.config.group, "0", "MKSTREAM")}));
  // Another replica may have been faster.
  if (!replies.empty() && replies[0].is_error() && replies[0].error_name() != "BUSYGROUP")
    co_return redis::ToError(replies[0]);
  telemetry::LogInfo("a consumer group was made", {{"stream", stream_}, {"group", state_.config.group}});
  co_return Ok();
}

Result<Consumer::State::Subscription::Event> Consumer::State::Subscription::Decode(const Entry& entry) const {
  Event event{
      .stream_id = entry.id, .bytes = *entry.envelope, .envelope = {}, .id = {}, .occurred_at = {}, .handler = nullptr};
  if (event.bytes.empty() || !event.envelope.ParseFromString(event.bytes))
    return InvalidArgument("the entry is not an envelope");
  if (event.envelope.version() != kEnvelopeVersion)
    return InvalidArgument("the envelope has the unknown version " + std::to_string(event.envelope.version()));
  Result<Uuid> id = Uuid::Parse(event.envelope.id());
  if (!id) return InvalidArgument("the envelope's id is not a UUID");
  event.id = *id;
  NOVA_TRY(event.occurred_at, proto::FromTimestamp(event.envelope.occurred_at()));
  if (const auto found = handlers_.find(event.envelope.type()); found != handlers_.end())
    event.handler = &found->second;
  return event;
}

Task<std::set<Uuid>> Consumer::State::Subscription::Mark(Call& call, Transaction& transaction,
                                                         const std::vector<Event>& events) {
  std::vector<Uuid> ids;
  ids.reserve(events.size());
  for (const Event& event : events) ids.push_back(event.id);
  const WallTime now = state_.clock.WallNow();
  NOVA_CO_TRY(const Rows rows, co_await transaction.Query(call, kMark, ids, producer_, now));
  std::set<Uuid> fresh;
  for (const Row row : rows) {
    NOVA_CO_TRY(const Uuid id, row.Get<Uuid>(0));
    fresh.insert(id);
  }
  if (fresh.size() < ids.size()) NOVA_CO_TRY(co_await transaction.Query(call, kMarkAgain, ids, now));
  co_return fresh;
}

Task<void> Consumer::State::Subscription::Handle(Call& call, Transaction& transaction, const Event& event) {
  const auto trace = runtime::TraceContext::Parse(event.envelope.trace());
  Call handling(
      call.strand(),
      {.deadline = call.deadline(), .trace = trace ? trace->Child() : runtime::TraceContext::New(), .peer = {}});
  const runtime::CancelHook end(call, [&handling](const Error& reason) { handling.Cancel(reason); });
  std::string thrown;
  try {
    co_return co_await (*event.handler)(handling, transaction, event.envelope);
  } catch (const std::exception& exception) {
    thrown = exception.what();
  } catch (...) {
    thrown = "no std::exception";
  }
  co_return Internal("internal error", "the handler of " + event.envelope.type() + " threw: " + thrown);
}

Task<void> Consumer::State::Subscription::Bury(Call& call, Transaction& transaction, const Event& event) {
  NOVA_CO_TRY(co_await transaction.Query(
      call, kBury, event.id, producer_, event.stream_id,
      std::span(reinterpret_cast<const std::uint8_t*>(event.bytes.data()), event.bytes.size()),
      CodeName(failing_->error.code()), Describe(failing_->error), failing_->attempts, state_.clock.WallNow()));
  telemetry::LogError("an event was given up; it is kept in events.dead_letters", {{"stream", stream_},
                                                                                   {"stream_id", event.stream_id},
                                                                                   {"event", event.id.ToString()},
                                                                                   {"type", event.envelope.type()},
                                                                                   {"attempts", failing_->attempts},
                                                                                   {"error", failing_->error}});
  co_return Ok();
}

Task<void> Consumer::State::Subscription::BuryUnreadable(Call& call, Transaction& transaction, const Entry& entry,
                                                         const Error& error) {
  NOVA_CO_TRY(co_await transaction.Query(
      call, kBuryUnreadable, producer_, entry.id,
      std::span(reinterpret_cast<const std::uint8_t*>(entry.envelope->data()), entry.envelope->size()),
      CodeName(error.code()), error.message(), state_.clock.WallNow()));
  telemetry::LogError("an event could not be read; it is kept in events.dead_letters",
                      {{"stream", stream_}, {"stream_id", entry.id}, {"error", error}});
  co_return Ok();
}

Task<void> Consumer::State::Subscription::Acknowledge(Call& call, const Look& look) {
  if (look.entries.empty()) co_return Ok();
  Command acknowledge("XACK", stream_, state_.config.group);
  for (const Entry& entry : look.entries) acknowledge.Add(entry.id);
  Call limited(call, kAcknowledgeLimit);
  const Result<Reply> reply = co_await state_.redis.Run(limited, std::move(acknowledge));
  if (reply) co_return Ok();
  // They come again, and find their marks.
  pending_only_ = true;
  co_return reply.error();
}

void Consumer::State::Subscription::Failed(const Look& look, const Error& error) {
  pending_only_ = true;
  // Nobody knows yet whether it was committed: the marks will tell.
  const bool commit_unknown = look.handled && error.code() == Code::kUnknown;
  if (!look.handling || commit_unknown) return;
  if (look.entries.size() > 1) {
    if (error.code() != Code::kUnavailable && error.code() != Code::kCancelled) one_by_one_ = look.entries.size();
    return;
  }
  if (IsTransient(error.code())) return;
  if (!failing_ || failing_->event != *look.handling)
    failing_ = Failing{.event = *look.handling, .attempts = 0, .error = {}};
  ++failing_->attempts;
  failing_->error = error;
}

void Consumer::State::Subscription::Committed(const Look& look) {
  one_by_one_ = look.entries.empty() ? 0 : one_by_one_ - std::min(one_by_one_, look.entries.size());
  pending_only_ = one_by_one_ > 0;
  if (!look.entries.empty()) failing_.reset();
  for (const auto& [what, count] : look.outcomes) {
    telemetry::Labels labels = labels_;
    labels["type"] = what.first;
    labels["outcome"] = what.second;
    state_.metrics.Counter("nova_events_consumed_total", "Events taken from a stream, by what became of them", labels)
        .Increment(count);
  }
  for (const WallTime occurred_at : look.applied)
    lag_.Observe(std::max(0.0, Seconds(state_.clock.WallNow()) - Seconds(occurred_at)));
  dead_letters_.Increment(look.dead);
}

Consumer::Consumer(Outbox& outbox, postgres::Pool& pool, redis::Client& redis, telemetry::Metrics& metrics,
                   ConsumerConfig config, const Clock& clock)
    : state_(std::make_shared<State>(outbox, pool, redis, metrics, std::move(config), clock)) {
  assert(!state_->config.group.empty());
}

Consumer::~Consumer() = default;

void Consumer::OnRaw(std::string_view producer, const std::string& type, RawHandler handler) {
  auto& subscription = state_->subscriptions[std::string(producer)];
  if (!subscription) subscription = std::make_unique<State::Subscription>(*state_, std::string(producer));
  subscription->On(type, std::move(handler));
}

void Consumer::Start(runtime::Scope& scope) {
  for (const auto& [producer, subscription] : state_->subscriptions) {
    scope.Spawn("events: consumer of " + subscription->stream(),
                [state = state_, reader = subscription.get()](Call& call) { return reader->Run(call); });
  }
  scope.Spawn("events: purge of the inbox", [state = state_](Call& call) {
    return PurgeNowAndThen(call, state->pool, state->clock,
                           {.work = "purging the inbox",
                            .statement = kPurge,
                            .retention = state->config.inbox_retention,
                            .retry_delay_min = state->config.retry_delay_min});
  });
}

}  // namespace nova::events
