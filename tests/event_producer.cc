#include "tests/event_producer.h"

#include <chrono>
#include <gtest/gtest.h>

#include "tests/postgres_fixture.h"
#include "tests/redis_fixture.h"
#include "tests/service_fixture.h"

namespace nova::tests {
namespace {

using namespace std::chrono_literals;
using runtime::Call;

// A bound on what must happen soon; reaching it fails the test.
constexpr Duration kSoon = 30s;

postgres::PoolConfig EmptyDatabase(const std::string& name) {
  PostgresFixture::Instance().RecreateDatabase(name);
  MakeServiceDatabase(name, {});
  return {.connection = PostgresFixture::Instance().Pooled(name), .size_max = 4};
}

redis::ClientConfig EmptyStream(const std::string& name) {
  RedisFixture::Instance().Command({"DEL", events::StreamOf(name)});
  return RedisFixture::Instance().Client(name);
}

}  // namespace

EventProducer::EventProducer(runtime::Runtime& runtime, const std::string& name)
    : runtime_(runtime),
      pool_(runtime, metrics_, database_, EmptyDatabase(name)),
      redis_(runtime, metrics_, streams_, EmptyStream(name)),
      outbox_(pool_, name),
      relay_(outbox_, pool_, redis_, metrics_, {.poll_interval = 100ms}),
      scope_(runtime) {
  relay_.Start(scope_);
}

EventProducer::~EventProducer() {
  EXPECT_TRUE(scope_.Stop(kSoon));
  EXPECT_TRUE(redis_.Close(kSoon));
  EXPECT_TRUE(pool_.Close(kSoon));
}

void EventProducer::Publish(const std::string& aggregate, const google::protobuf::Message& event) {
  const auto published = runtime_.RunBlocking<void>(kSoon, [&](Call& call) {
    return outbox_.InTransaction(
        call, [&](postgres::Transaction& transaction) { return outbox_.Append(call, transaction, aggregate, event); });
  });
  EXPECT_TRUE(published) << published.error().ToString();
}

}  // namespace nova::tests
