#include "nova/config/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "nova/events/consumer.h"
#include "nova/events/relay.h"

namespace nova::events {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;

TEST(EventsConfigTest, SettingsReachTheirFields) {
  config::Config config({.args = {"--events-relay-batch-max", "7", "--events-retention", "48h"},
                         .environment = {{"NOVA_EVENTS_ATTEMPTS_MAX", "3"}, {"NOVA_EVENTS_CONSUMER_BLOCK", "250ms"}}});
  RelayConfig relay;
  ConsumerConfig consumer{.group = "user"};
  Bind(config, relay);
  Bind(config, consumer);
  ASSERT_TRUE(config.Finish().ok());
  EXPECT_EQ(relay.batch_max, 7);
  EXPECT_EQ(relay.retention, 48h);
  EXPECT_EQ(consumer.attempts_max, 3);
  EXPECT_EQ(consumer.block, 250ms);
  EXPECT_EQ(consumer.group, "user");
}

TEST(EventsConfigTest, ABatchThatRedisCouldNotAnswerIsRefused) {
  config::Config config({.args = {"--events-consumer-batch-max", "100000"}});
  ConsumerConfig consumer;
  Bind(config, consumer);
  const auto finished = config.Finish();
  ASSERT_FALSE(finished.ok());
  EXPECT_THAT(finished.error().message(), HasSubstr("--events-consumer-batch-max"));
}

TEST(EventsConfigTest, MarksOutliveEventsByDefault) {
  EXPECT_GT(ConsumerConfig().inbox_retention, RelayConfig().retention * 2);
}

TEST(EventsConfigTest, SettingsThatWouldStopEventsForGoodAreRefused) {
  const redis::ClientConfig redis;
  const RelayConfig relay;
  const ConsumerConfig consumer;
  EXPECT_TRUE(Validate(relay, redis).ok());
  EXPECT_TRUE(Validate(consumer, relay.retention, redis).ok());

  redis::ClientConfig small = redis;
  small.queued_bytes_max = 4 << 20;
  small.reply_bytes_max = 4 << 20;
  const auto append = Validate(relay, small);
  ASSERT_FALSE(append.ok());
  EXPECT_THAT(append.error().message(), HasSubstr("NOVA_REDIS_QUEUED_BYTES_MAX"));
  const auto read = Validate(consumer, relay.retention, small);
  ASSERT_FALSE(read.ok());
  EXPECT_THAT(read.error().message(), HasSubstr("NOVA_REDIS_REPLY_BYTES_MAX"));
}

TEST(EventsConfigTest, MarksThatWouldNotOutliveAReplayAreRefused) {
  const ConsumerConfig consumer{.inbox_retention = 24h * 14};
  EXPECT_TRUE(Validate(consumer, 24h * 6, redis::ClientConfig()).ok());
  const auto refused = Validate(consumer, 24h * 7, redis::ClientConfig());
  ASSERT_FALSE(refused.ok());
  EXPECT_THAT(refused.error().message(), HasSubstr("NOVA_EVENTS_INBOX_RETENTION"));
}

}  // namespace
}  // namespace nova::events
