// Another service, as far as its events go: a database of its own with an outbox, relayed to its stream in a real
// Redis.
#pragma once

#include <google/protobuf/message.h>
#include <string>

#include "nova/events/outbox.h"
#include "nova/events/relay.h"
#include "nova/postgres/pool.h"
#include "nova/redis/client.h"
#include "nova/resilience/dependency.h"
#include "nova/runtime/runtime.h"
#include "nova/runtime/scope.h"
#include "nova/telemetry/metrics.h"

namespace nova::tests {

// Used by the main thread only.
class EventProducer {
 public:
  // `name`: the service's and its database's; both database and stream begin empty. Relays until its end.
  EventProducer(runtime::Runtime& runtime, const std::string& name);
  ~EventProducer();
  EventProducer(const EventProducer&) = delete;
  EventProducer& operator=(const EventProducer&) = delete;

  // In a transaction of its own. What cannot be published fails the test.
  void Publish(const std::string& aggregate, const google::protobuf::Message& event);

 private:
  runtime::Runtime& runtime_;
  telemetry::Metrics metrics_;
  resilience::DatabaseDependency database_{"postgres", metrics_};
  resilience::CacheDependency streams_{"redis", metrics_};
  postgres::Pool pool_;
  redis::Client redis_;
  events::Outbox outbox_;
  events::Relay relay_;
  runtime::Scope scope_;
};

}  // namespace nova::tests
