// Consumer: applies other services' events to this service's database, each exactly once. The mark that an event was
// handled (the inbox) and its effect are one transaction; an event that comes again finds its mark and does nothing.
//
//   Consumer consumer(outbox, pool, redis, metrics, {.group = "user"});
//   consumer.On<v1::AccountRegistered>("identity",
//       [&](Call& call, postgres::Transaction& transaction, const v1::Envelope& envelope,
//           const v1::AccountRegistered& event) -> Task<void> { ... });
//   consumer.Start(scope);
//
// Replicas of a service share one consumer group and one position: a lock in the database lets one of them work on a
// stream at a time, so an aggregate's events take effect in their order.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "api/events/v1/envelope.pb.h"
#include "nova/config/config.h"
#include "nova/events/outbox.h"
#include "nova/postgres/pool.h"
#include "nova/redis/client.h"
#include "nova/runtime/scope.h"
#include "nova/telemetry/metrics.h"

namespace nova::events {

struct ConsumerConfig {
  // The service's name; set by the module, not by the user.
  std::string group = {};
  // Events handled in one transaction, at most.
  int batch_max = 100;
  // How long one look at the stream waits in Redis for news.
  std::chrono::milliseconds block = std::chrono::seconds(2);
  // After a failure: doubles from the first to the last, with jitter.
  std::chrono::milliseconds retry_delay_min = std::chrono::milliseconds(50);
  std::chrono::milliseconds retry_delay_max = std::chrono::seconds(1);
  // An event whose handler fails for reasons of its own this often in a row becomes a dead letter: kept in a table with
  // its error, counted, and passed by, so that one bad event cannot stop all that follow.
  int attempts_max = 8;
  // How long marks stay in the inbox after their event has come for the last time; longer than events stay anywhere, so
  // that a replay is harmless.
  std::chrono::seconds inbox_retention = std::chrono::days(30);
};

void Bind(config::Config& config, ConsumerConfig& consumer);

// What no single field shows; `retention` is RelayConfig's, which is taken to be that of other services, too. Errors:
// INVALID_ARGUMENT naming the setting and the remedy.
Result<void> Validate(const ConsumerConfig& consumer, std::chrono::seconds retention, const redis::ClientConfig& redis);

// Metrics: nova_events_consumed_total{group,producer,type,outcome} (applied, duplicate, ignored, dead, trimmed),
// nova_events_lag_seconds (from the event's transaction to its effect), nova_events_consumer_retries_total,
// nova_events_dead_letters_total.
class Consumer {
 public:
  // Applies the event with statements of `transaction`, and may append events of its own to the outbox in it. An error
  // rolls everything back and is tried again: UNAVAILABLE, DEADLINE_EXCEEDED, ABORTED, RESOURCE_EXHAUSTED and CANCELLED
  // for ever, others attempts_max times; then the event is a dead letter. It may run again after an attempt that was
  // rolled back, so it must have no effect outside of the transaction. An exception is an INTERNAL error.
  // The call carries the trace of the call that made the event, and no caller. Deadline: 5 s, which the events of a
  // batch share; a batch that fails is taken one event at a time.
  template <class Event>
  using Handler =
      std::function<runtime::Task<void>(runtime::Call&, postgres::Transaction&, const v1::Envelope&, const Event&)>;

  // All references must outlive the consumer. Events that handlers append are published by the relay of `outbox`. Each
  // producer takes one of the blocking connections of `redis`.
  Consumer(Outbox& outbox, postgres::Pool& pool, redis::Client& redis, telemetry::Metrics& metrics,
           ConsumerConfig config, const Clock& clock = Clock::System());
  ~Consumer();
  Consumer(const Consumer&) = delete;
  Consumer& operator=(const Consumer&) = delete;

  // Before Start, once for each type. Events of other types are passed by.
  template <class Event>
  void On(std::string_view producer, Handler<Event> handler) {
    OnRaw(producer, Event::descriptor()->full_name(),
          [handler = std::move(handler)](runtime::Call& call, postgres::Transaction& transaction,
                                         const v1::Envelope& envelope) -> runtime::Task<void> {
            Event event;
            if (!event.ParseFromString(envelope.payload()))
              co_return InvalidArgument("the event's payload could not be read", envelope.type());
            co_return co_await handler(call, transaction, envelope, event);
          });
  }

  // Works until `scope` stops.
  void Start(runtime::Scope& scope);

 private:
  using RawHandler = std::function<runtime::Task<void>(runtime::Call&, postgres::Transaction&, const v1::Envelope&)>;
  void OnRaw(std::string_view producer, const std::string& type, RawHandler handler);

  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace nova::events
