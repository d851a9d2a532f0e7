// Relay: publishes the outbox of this service to its stream in Redis, in order, at least once. Any number of replicas
// may run one: a lock in the database lets one of them work at a time, so the order of an aggregate's events is kept.
#pragma once

#include <chrono>
#include <memory>

#include "nova/config/config.h"
#include "nova/events/outbox.h"
#include "nova/postgres/pool.h"
#include "nova/redis/client.h"
#include "nova/runtime/scope.h"
#include "nova/telemetry/metrics.h"

namespace nova::events {

struct RelayConfig {
  // Events published in one transaction, at most.
  int batch_max = 500;
  // How often it looks unasked: for what another replica, or a process that died, left behind.
  std::chrono::milliseconds poll_interval = std::chrono::milliseconds(500);
  // After a failure: doubles from the first to the last, with jitter.
  std::chrono::milliseconds retry_delay_min = std::chrono::milliseconds(50);
  std::chrono::milliseconds retry_delay_max = std::chrono::seconds(1);
  // How long published events stay in the outbox (from which a lost stream is made again) and in the stream. Whoever
  // does not read for longer loses events; the log and nova_events_groups_losing tell.
  std::chrono::seconds retention = std::chrono::days(7);
};

void Bind(config::Config& config, RelayConfig& relay);

// What no single field shows. Errors: INVALID_ARGUMENT naming the setting and the remedy.
Result<void> Validate(const RelayConfig& relay, const redis::ClientConfig& redis);

// Publishing is idempotent up to what consumers must expect anyway, an event more than once. A stream that was lost, or
// lost its end, is noticed before anything is added to it, and within a second or two when nothing is; what it lacks is
// published again from the outbox. Metrics, by producer: nova_events_published_total, nova_events_outbox_pending,
// nova_events_outbox_oldest_seconds, nova_events_stream_lost_total, nova_events_relay_failures_total,
// nova_events_groups_losing.
class Relay {
 public:
  // All references must outlive the relay, which takes the outbox's OnCommit.
  Relay(Outbox& outbox, postgres::Pool& pool, redis::Client& redis, telemetry::Metrics& metrics, RelayConfig config,
        const Clock& clock = Clock::System());
  ~Relay();
  Relay(const Relay&) = delete;
  Relay& operator=(const Relay&) = delete;

  // Works until `scope` stops; then it finishes or rolls back the batch under way.
  void Start(runtime::Scope& scope);

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace nova::events
