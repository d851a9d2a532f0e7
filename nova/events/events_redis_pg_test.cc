// Each promise of outbox, relay and consumer for itself.
#include <algorithm>
#include <atomic>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <mutex>

#include "nova/events/test_environment.h"
#include "nova/proto/timestamp.h"
#include "nova/redis/test_peer.h"

namespace nova::events {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr const char* kStream = "stream:alpha";
constexpr const char* kType = "nova.events.v1.UserCreated";

class EventsFlowTest : public EventsTest {
 protected:
  static tests::RedisFixture& Redis() { return tests::RedisFixture::Instance(); }

  EventsFlowTest() { Redis().Command({"FLUSHALL"}); }

  static std::int64_t StreamLength() { return Redis().Command({"XLEN", kStream}).integer; }
  // Entries that were delivered and not acknowledged.
  static std::int64_t PendingInGroup() {
    return Redis().Command({"XPENDING", kStream, kConsumer}).elements.at(0).integer;
  }

  Process alpha_{runtime_, kProducer};
  Process beta_{runtime_, kConsumer};
};

TEST_F(EventsFlowTest, AnEventTakesEffectOnceInTheOrderOfItsAggregate) {
  alpha_.StartRelay();
  beta_.StartConsumer(Subscribe);
  for (int i = 0; i < 20; ++i) {
    MustMake(alpha_, "user/a");
    MustMake(alpha_, "user/b");
  }
  ExpectExactlyOnce();
  EXPECT_EQ(beta_.Consumed(kType, "applied"), 40);
  EXPECT_EQ(
      alpha_.Counter("nova_events_published_total", "Events that were added to the stream", {{"producer", kProducer}}),
      40);
  EXPECT_TRUE(Eventually([] { return PendingInGroup() == 0; }));
}

TEST_F(EventsFlowTest, WhatWasMadeBeforeAnyoneListensArrives) {
  MustMake(alpha_, "user/a", 5);
  alpha_.StartRelay({.batch_max = 2});
  EXPECT_TRUE(Eventually([] { return StreamLength() == 5; }));
  beta_.StartConsumer(Subscribe, {.group = kConsumer, .batch_max = 2});
  ExpectExactlyOnce();
}

TEST_F(EventsFlowTest, AnEventArrivesSoonAfterItsCommitWithoutWaitingForAnyInterval) {
  RelayConfig relay = Process::RelayDefaults();
  relay.poll_interval = 60s;
  ConsumerConfig consumer = Process::ConsumerDefaults();
  consumer.block = 60s;
  alpha_.StartRelay(relay);
  beta_.StartConsumer(Subscribe, consumer);
  MustMake(alpha_, "user/a");
  ASSERT_TRUE(Eventually([this] { return Effects() == 1; }));
  for (int i = 2; i <= 50; ++i) {
    const SteadyTime begin = Clock::System().Now();
    MustMake(alpha_, "user/a");
    ASSERT_TRUE(Eventually([&] { return Effects() == i; }));
    EXPECT_LT(Clock::System().Now() - begin, 10s);
  }
  ExpectExactlyOnce();
}

TEST_F(EventsFlowTest, TheEnvelopeCarriesTheEventAndTheTraceGoesOn) {
  std::mutex mutex;
  std::optional<v1::Envelope> seen;
  std::string seen_user;
  std::string seen_trace;
  beta_.StartConsumer([&](Consumer& consumer) {
    consumer.On<v1::UserCreated>(
        kProducer,
        [&](Call& call, Transaction&, const v1::Envelope& envelope, const v1::UserCreated& event) -> Task<void> {
          std::lock_guard lock(mutex);
          seen = envelope;
          seen_user = event.user_id();
          seen_trace = call.trace().TraceId();
          co_return Ok();
        });
  });
  alpha_.StartRelay();
  std::string trace;
  const auto made = Run<void>([&](Call& call) -> Task<void> {
    trace = call.trace().TraceId();
    co_return co_await Make(call, *alpha_.outbox, "user/a");
  });
  ASSERT_TRUE(made.ok());
  ASSERT_TRUE(Eventually([&] {
    std::lock_guard lock(mutex);
    return seen.has_value();
  }));
  EXPECT_EQ(seen->version(), kEnvelopeVersion);
  EXPECT_EQ(seen->producer(), kProducer);
  EXPECT_EQ(seen->aggregate(), "user/a");
  EXPECT_EQ(seen->sequence(), 1);
  EXPECT_EQ(seen->type(), kType);
  EXPECT_EQ(seen->id(), Value<Uuid>(kProducer, "SELECT id FROM events.outbox").ToString());
  EXPECT_EQ(seen_user, "user/a");
  EXPECT_THAT(seen->trace(), HasSubstr(trace));
  EXPECT_EQ(seen_trace, trace);
  EXPECT_LT(std::abs(static_cast<double>(seen->occurred_at().seconds() - std::time(nullptr))), 60);
}

TEST_F(EventsFlowTest, WhatIsPublishedTwiceTakesEffectOnce) {
  alpha_.StartRelay();
  beta_.StartConsumer(Subscribe);
  MustMake(alpha_, "user/a", 10);
  MustMake(alpha_, "user/b", 10);
  ExpectExactlyOnce();
  // As after a crash between XADD and COMMIT: the stream has them, the outbox does not know.
  Must(kProducer, "UPDATE events.outbox SET published_at = NULL, stream_ms = NULL, stream_seq = NULL");
  EXPECT_TRUE(Eventually([] { return StreamLength() == 40; }));
  EXPECT_TRUE(Eventually([this] { return beta_.Consumed(kType, "duplicate") == 20; }));
  ExpectExactlyOnce();
}

TEST_F(EventsFlowTest, TwoRelaysAndTwoConsumersShareTheWorkInOrder) {
  Process alpha2(runtime_, kProducer);
  Process beta2(runtime_, kConsumer);
  RelayConfig relay = Process::RelayDefaults();
  relay.batch_max = 3;
  ConsumerConfig consumer = Process::ConsumerDefaults();
  consumer.batch_max = 3;
  alpha_.StartRelay(relay);
  alpha2.StartRelay(relay);
  beta_.StartConsumer(Subscribe, consumer);
  beta2.StartConsumer(Subscribe, consumer);
  runtime::Scope makers(runtime_);
  std::atomic<int> left = 8;
  for (int i = 0; i < 8; ++i) {
    makers.Spawn("maker", [&, i](Call& call) -> Task<void> {
      for (int n = 0; n < 40; ++n)
        NOVA_CO_TRY(co_await Make(call, i % 2 == 0 ? *alpha_.outbox : *alpha2.outbox, "user/" + std::to_string(n % 4)));
      --left;
      co_return Ok();
    });
  }
  EXPECT_TRUE(Eventually([&] { return left == 0; }));
  ASSERT_TRUE(makers.Stop(kSoon).ok());
  ExpectExactlyOnce();
  EXPECT_EQ(Effects(), 320);
  // One relay at a time: while nothing fails, nothing is published twice. Consumers may see an event again: the lock is
  // given back at COMMIT, and what was handled is acknowledged after it.
  EXPECT_EQ(StreamLength(), 320);
}

TEST_F(EventsFlowTest, ARolledBackTransactionTellsNobody) {
  alpha_.StartRelay();
  beta_.StartConsumer(Subscribe);
  for (int i = 0; i < 5; ++i) {
    MustMake(alpha_, "user/a");
    EXPECT_FALSE(Run<void>([&](Call& call) { return Make(call, *alpha_.outbox, "user/a", true); }).ok());
  }
  ExpectExactlyOnce();
  EXPECT_EQ(StreamLength(), 5);
}

TEST_F(EventsFlowTest, AWipedRedisIsFilledAgainThoughNothingNewHappens) {
  alpha_.StartRelay();
  beta_.StartConsumer(Subscribe);
  MustMake(alpha_, "user/a", 10);
  ExpectExactlyOnce();
  Redis().Wipe();
  const SteadyTime back = Clock::System().Now();
  EXPECT_TRUE(Eventually([] { return StreamLength() == 10; }));
  EXPECT_LT(Clock::System().Now() - back, 5s);
  EXPECT_TRUE(Eventually([this] { return beta_.Consumed(kType, "duplicate") == 10; }));
  MustMake(alpha_, "user/a", 3);
  ExpectExactlyOnce();
  EXPECT_EQ(alpha_.Counter("nova_events_stream_lost_total",
                           "Times that the stream lacked events it had, and was made again", {{"producer", kProducer}}),
            1);
}

TEST_F(EventsFlowTest, AStreamThatLostItsEndGetsItBackBeforeAnythingNew) {
  alpha_.StartRelay();
  MustMake(alpha_, "user/a", 6);
  ASSERT_TRUE(Eventually([this] { return StreamLength() == 6 && Unpublished() == 0; }));
  alpha_.Stop();
  // As a Redis that crashed before its log was written: the last two are gone, and their ids unknown.
  const auto entries = Redis().Command({"XRANGE", kStream, "-", "+"});
  ASSERT_EQ(entries.elements.size(), 6u);
  for (std::size_t i = 4; i < 6; ++i) Redis().Command({"XDEL", kStream, entries.elements[i].elements[0].text});
  Redis().Command({"XSETID", kStream, entries.elements[3].elements[0].text});
  MustMake(alpha_, "user/a", 2);
  alpha_.StartRelay();
  beta_.StartConsumer(Subscribe);
  ExpectExactlyOnce();
  EXPECT_EQ(StreamLength(), 8);
  EXPECT_EQ(beta_.Consumed(kType, "duplicate"), 0) << "only what was lost is published again";
}

TEST_F(EventsFlowTest, ALostGroupIsMadeAgain) {
  alpha_.StartRelay();
  beta_.StartConsumer(Subscribe);
  MustMake(alpha_, "user/a", 5);
  ExpectExactlyOnce();
  Redis().Command({"XGROUP", "DESTROY", kStream, kConsumer});
  MustMake(alpha_, "user/a", 5);
  ExpectExactlyOnce();
}

TEST_F(EventsFlowTest, WhatAConsumerLeftUnacknowledgedIsHandledAtTheNextStart) {
  alpha_.StartRelay();
  MustMake(alpha_, "user/a", 5);
  ASSERT_TRUE(Eventually([] { return StreamLength() == 5; }));
  // As a process that died after XREADGROUP.
  Redis().Command({"XGROUP", "CREATE", kStream, kConsumer, "0"});
  Redis().Command({"XREADGROUP", "GROUP", kConsumer, "service", "COUNT", "3", "STREAMS", kStream, ">"});
  ASSERT_EQ(PendingInGroup(), 3);
  beta_.StartConsumer(Subscribe);
  ExpectExactlyOnce();
  EXPECT_TRUE(Eventually([] { return PendingInGroup() == 0; }));
}

TEST_F(EventsFlowTest, TypesWithoutHandlerAndStreamsOfOthersArePassedBy) {
  alpha_.StartRelay();
  const auto made = Run<void>([&](Call& call) -> Task<void> {
    co_return co_await alpha_.outbox->InTransaction(call, [&](Transaction& transaction) -> Task<void> {
      v1::UserBanned event;
      event.set_user_id("a");
      co_return co_await alpha_.outbox->Append(call, transaction, "user/banned", event);
    });
  });
  ASSERT_TRUE(made.ok());
  beta_.StartConsumer(Subscribe);
  MustMake(alpha_, "user/a", 3);
  ASSERT_TRUE(Eventually([this] { return Effects() == 3; }));
  EXPECT_TRUE(Eventually([this] { return beta_.Consumed("other", "ignored") == 1; }));
  EXPECT_EQ(Value(kConsumer, "SELECT count(*) FROM events.inbox"), 3);
  EXPECT_TRUE(Eventually([] { return PendingInGroup() == 0; }));
}

TEST_F(EventsFlowTest, AnEventThatIsRefusedForGoodBecomesADeadLetterAndTheOthersPass) {
  std::atomic<int> attempts = 0;
  ConsumerConfig config = Process::ConsumerDefaults();
  config.attempts_max = 3;
  beta_.StartConsumer(
      [&](Consumer& consumer) {
        consumer.On<v1::UserCreated>(kProducer,
                                     [&](Call& call, Transaction& transaction, const v1::Envelope& envelope,
                                         const v1::UserCreated&) -> Task<void> {
                                       // The effect comes first: it must not stay.
                                       NOVA_CO_TRY(co_await Apply(call, transaction, envelope));
                                       if (envelope.aggregate() == "user/bad") {
                                         ++attempts;
                                         co_return FailedPrecondition("it contradicts", "private detail");
                                       }
                                       co_return Ok();
                                     });
      },
      config);
  // All in the stream before the first is looked at, so that they are one batch.
  MustMake(alpha_, "user/a", 5);
  MustMake(alpha_, "user/bad");
  MustMake(alpha_, "user/a", 5);
  alpha_.StartRelay();
  ASSERT_TRUE(Eventually([this] { return Effects() == 10; }));
  EXPECT_EQ(Value(kConsumer, "SELECT count(*) FROM effects WHERE aggregate = 'user/a'"), 10);
  EXPECT_EQ(Value(kConsumer, kOutOfOrder), 0);
  // Once in the batch, which does not count.
  EXPECT_GE(attempts, 3);
  EXPECT_LE(attempts, 4);
  EXPECT_EQ(Value<std::string>(kConsumer,
                               "SELECT producer || ' ' || error_code || ' ' || error_message || ' ' || attempts FROM "
                               "events.dead_letters"),
            "alpha FAILED_PRECONDITION it contradicts 3");
  EXPECT_EQ(Value(kConsumer, "SELECT count(*) FROM events.dead_letters d JOIN events.inbox i USING (event_id)"), 1);
  EXPECT_EQ(beta_.Consumed(kType, "dead"), 1);
  EXPECT_EQ(beta_.Counter("nova_events_dead_letters_total", "Events that were given up",
                          {{"group", kConsumer}, {"producer", kProducer}}),
            1);
  // What is kept is the envelope as it came.
  const auto bytes = Value<std::vector<std::uint8_t>>(kConsumer, "SELECT envelope FROM events.dead_letters");
  v1::Envelope kept;
  ASSERT_TRUE(kept.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())));
  EXPECT_EQ(kept.aggregate(), "user/bad");
}

TEST_F(EventsFlowTest, AnEventWhoseHandlerBreaksTheTransactionOrThrowsIsADeadLetterToo) {
  ConsumerConfig config = Process::ConsumerDefaults();
  config.attempts_max = 2;
  Must(kConsumer, "CREATE TABLE parents (id int PRIMARY KEY)");
  Must(kConsumer, "CREATE TABLE children (id int REFERENCES parents (id) DEFERRABLE INITIALLY DEFERRED)");
  beta_.StartConsumer(
      [&](Consumer& consumer) {
        consumer.On<v1::UserCreated>(kProducer,
                                     [&](Call& call, Transaction& transaction, const v1::Envelope& envelope,
                                         const v1::UserCreated&) -> Task<void> {
                                       static constexpr Statement kOrphan{"test_orphan",
                                                                          "INSERT INTO children (id) VALUES (1)"};
                                       static constexpr Statement kWrong{"test_wrong", "SELECT 1 / 0"};
                                       if (envelope.aggregate() == "user/throws") throw std::runtime_error("a bug");
                                       // Fails at COMMIT.
                                       if (envelope.aggregate() == "user/orphan")
                                         NOVA_CO_TRY(co_await transaction.Query(call, kOrphan));
                                       // Goes on as if nothing had happened.
                                       if (envelope.aggregate() == "user/wrong")
                                         (void)co_await transaction.Query(call, kWrong);
                                       if (envelope.aggregate() == "user/good")
                                         NOVA_CO_TRY(co_await Apply(call, transaction, envelope));
                                       co_return Ok();
                                     });
      },
      config);
  for (const char* aggregate : {"user/good", "user/throws", "user/orphan", "user/wrong", "user/good"})
    MustMake(alpha_, aggregate);
  alpha_.StartRelay();
  ASSERT_TRUE(Eventually([this] { return Effects() == 2; }));
  EXPECT_EQ(
      Value<std::string>(kConsumer, "SELECT string_agg(error_code, ',' ORDER BY given_up_at) FROM events.dead_letters"),
      "INTERNAL,FAILED_PRECONDITION,INTERNAL");
}

TEST_F(EventsFlowTest, AnEventThatFailsForReasonsOfOthersIsTriedUntilItWorks) {
  std::atomic<int> attempts = 0;
  ConsumerConfig config = Process::ConsumerDefaults();
  config.attempts_max = 2;
  config.retry_delay_max = 10ms;
  beta_.StartConsumer(
      [&](Consumer& consumer) {
        consumer.On<v1::UserCreated>(
            kProducer,
            [&](Call& call, Transaction& transaction, const v1::Envelope& envelope,
                const v1::UserCreated&) -> Task<void> {
              static constexpr std::array kCodes = {Code::kUnavailable, Code::kAborted, Code::kResourceExhausted,
                                                    Code::kDeadlineExceeded, Code::kCancelled};
              const int attempt = attempts++;
              if (attempt < 25) co_return Error(kCodes[static_cast<std::size_t>(attempt) % kCodes.size()], "not now");
              co_return co_await Apply(call, transaction, envelope);
            });
      },
      config);
  alpha_.StartRelay();
  MustMake(alpha_, "user/a", 3);
  ExpectExactlyOnce();
  EXPECT_GE(attempts, 25 + 3);
}

TEST_F(EventsFlowTest, AnEntryThatIsNoEnvelopeIsADeadLetter) {
  v1::Envelope later;
  later.set_version(kEnvelopeVersion + 1);
  later.set_id(Uuid::New().ToString());
  Redis().Command({"XADD", kStream, "*", "envelope", "\xff\xff rubbish"});
  Redis().Command({"XADD", kStream, "*", "something", "else"});
  Redis().Command({"XADD", kStream, "*", "envelope", later.SerializeAsString()});
  beta_.StartConsumer(Subscribe);
  alpha_.StartRelay();
  MustMake(alpha_, "user/a", 2);
  ASSERT_TRUE(Eventually([this] { return Effects() == 2; }));
  EXPECT_EQ(Value(kConsumer, "SELECT count(*) FROM events.dead_letters WHERE error_code = 'INVALID_ARGUMENT'"), 3);
  EXPECT_EQ(
      Value<std::string>(kConsumer, "SELECT error_message FROM events.dead_letters ORDER BY stream_id DESC LIMIT 1"),
      "the envelope has the unknown version 2");
  EXPECT_TRUE(Eventually([] { return PendingInGroup() == 0; }));
  // Read again, they are the same dead letters.
  Redis().Command({"XGROUP", "SETID", kStream, kConsumer, "0"});
  EXPECT_TRUE(Eventually([this] { return beta_.Consumed("other", "dead") == 6; }));
  EXPECT_EQ(Value(kConsumer, "SELECT count(*) FROM events.dead_letters"), 3);
}

TEST_F(EventsFlowTest, AHandlersOwnEventsArePublishedWithItsEffect) {
  std::atomic<int> attempts = 0;
  beta_.StartRelay();
  beta_.StartConsumer([&](Consumer& consumer) {
    consumer.On<v1::UserCreated>(kProducer,
                                 [&](Call& call, Transaction& transaction, const v1::Envelope& envelope,
                                     const v1::UserCreated& event) -> Task<void> {
                                   NOVA_CO_TRY(co_await Apply(call, transaction, envelope));
                                   v1::UserDeleted answer;
                                   answer.set_user_id(event.user_id());
                                   NOVA_CO_TRY(co_await beta_.outbox->Append(call, transaction, "answer", answer));
                                   if (++attempts == 1) co_return Aborted("once more");
                                   co_return Ok();
                                 });
  });
  alpha_.StartRelay();
  MustMake(alpha_, "user/a", 3);
  ExpectExactlyOnce();
  EXPECT_TRUE(Eventually([] { return Redis().Command({"XLEN", "stream:beta"}).integer == 3; }));
}

TEST_F(EventsFlowTest, RetentionDropsWhatIsPublishedAndOldAndNothingElse) {
  // Entries of a stream are dropped in whole nodes of 100, so it takes some.
  alpha_.StartRelay();
  MustMake(alpha_, "user/a", 250);
  ASSERT_TRUE(Eventually([this] { return Unpublished() == 0; }));
  alpha_.Stop();
  Must(kProducer, "UPDATE events.outbox SET published_at = now() - interval '8 days' WHERE sequence <= 240");
  Must(kProducer,
       "UPDATE events.outbox SET published_at = NULL, stream_ms = NULL, stream_seq = NULL, "
       "occurred_at = now() - interval '30 days' WHERE sequence <= 5");
  alpha_.StartRelay();
  EXPECT_TRUE(Eventually([this] {
    return Value(kProducer, "SELECT count(*) FROM events.outbox WHERE published_at < now() - interval '7 days'") == 0;
  }));
  EXPECT_EQ(Value(kProducer, "SELECT count(*) FROM events.outbox"), 15) << "10 new ones, 5 that were not published";
  ASSERT_TRUE(Eventually([this] { return Unpublished() == 0; }));
  alpha_.Stop();
  EXPECT_EQ(StreamLength(), 255);
  // A week later.
  FakeClock later(Clock::System().WallNow() + std::chrono::days(8));
  alpha_.StartRelay(Process::RelayDefaults(), later);
  EXPECT_TRUE(Eventually(
      [this] { return StreamLength() < 255 && Value(kProducer, "SELECT count(*) FROM events.outbox") == 0; }));
  // And the place in the stream is not forgotten with the rows.
  alpha_.Stop();
  Redis().Command({"DEL", kStream});
  alpha_.StartRelay();
  EXPECT_TRUE(Eventually([this] {
    return alpha_.Counter("nova_events_stream_lost_total",
                          "Times that the stream lacked events it had, and was made again",
                          {{"producer", kProducer}}) == 1;
  }));
  MustMake(alpha_, "user/a");
  EXPECT_TRUE(Eventually([] { return StreamLength() == 1; }));
}

TEST_F(EventsFlowTest, OldMarksLeaveTheInbox) {
  alpha_.StartRelay();
  beta_.StartConsumer(Subscribe);
  MustMake(alpha_, "user/a", 5);
  ExpectExactlyOnce();
  beta_.Stop();
  Must(kConsumer,
       "UPDATE events.inbox SET received_at = now() - interval '31 days' WHERE event_id IN (SELECT event_id "
       "FROM events.inbox ORDER BY event_id LIMIT 2)");
  beta_.StartConsumer(Subscribe);
  EXPECT_TRUE(Eventually([this] { return Value(kConsumer, "SELECT count(*) FROM events.inbox") == 3; }));
}

TEST_F(EventsFlowTest, AMarkLastsFromTheLastTimeItsEventCame) {
  alpha_.StartRelay();
  beta_.StartConsumer(Subscribe);
  MustMake(alpha_, "user/a", 5);
  ExpectExactlyOnce();
  // A month of streams that are lost and made again, each before the outbox could forget.
  Must(kConsumer, "UPDATE events.inbox SET received_at = now() - interval '29 days'");
  Redis().Wipe();
  EXPECT_TRUE(Eventually([this] { return beta_.Consumed(kType, "duplicate") >= 5; }));
  beta_.Stop();
  const double known = beta_.Consumed(kType, "duplicate");
  FakeClock later(Clock::System().WallNow() + std::chrono::days(2));
  Redis().Wipe();
  beta_.StartConsumer(Subscribe, Process::ConsumerDefaults(), later);
  EXPECT_TRUE(Eventually([&] { return beta_.Consumed(kType, "duplicate") >= known + 5; }));
  EXPECT_EQ(Value(kConsumer, "SELECT count(*) FROM events.inbox"), 5);
  ExpectExactlyOnce();
}

TEST_F(EventsFlowTest, AFullRedisMakesRoomByDroppingWhatIsOld) {
  alpha_.StartRelay();
  MustMake(alpha_, "user/a", 250);
  ASSERT_TRUE(Eventually([this] { return Unpublished() == 0; }));
  alpha_.Stop();
  Redis().Command({"CONFIG", "SET", "maxmemory", "1"});
  MustMake(alpha_, "user/a");
  FakeClock later(Clock::System().WallNow() + std::chrono::days(8));
  alpha_.StartRelay(Process::RelayDefaults(), later);
  EXPECT_TRUE(Eventually([] { return StreamLength() < 250; }));
  EXPECT_EQ(Unpublished(), 1);
  Redis().Command({"CONFIG", "SET", "maxmemory", "0"});
  EXPECT_TRUE(Eventually([this] { return Unpublished() == 0; }));
}

TEST_F(EventsFlowTest, AGroupThatLosesUnreadEventsIsNoticed) {
  const auto losing = [this] {
    return alpha_.metrics
        .Gauge("nova_events_groups_losing", "Groups of consumers for which the stream drops events they have not read",
               {{"producer", kProducer}})
        .Value();
  };
  alpha_.StartRelay();
  beta_.StartConsumer(Subscribe);
  MustMake(alpha_, "user/a", 5);
  ExpectExactlyOnce();
  FakeClock later(Clock::System().WallNow() + std::chrono::days(8));
  alpha_.Stop();
  alpha_.StartRelay(Process::RelayDefaults(), later);
  EXPECT_TRUE(Eventually([this] { return Value(kProducer, "SELECT count(*) FROM events.outbox") == 0; }));
  EXPECT_EQ(losing(), 0) << "it is all old, and all read";
  beta_.Stop();
  MustMake(alpha_, "user/a", 5);
  EXPECT_TRUE(Eventually([&] { return losing() == 1; }));
  beta_.StartConsumer(Subscribe);
  EXPECT_TRUE(Eventually([&] { return losing() == 0; }));
}

// As when Redis stalled, and a read whose caller has given up is executed late, in the middle of the next look.
TEST_F(EventsFlowTest, NothingOvertakesWhatALateReadWasDelivered) {
  std::mutex mutex;
  std::vector<std::pair<std::string, std::string>> stream;  // id, envelope; guarded by mutex
  std::size_t delivered = 0;                                // guarded by mutex
  std::size_t acknowledged = 0;                             // guarded by mutex
  for (const std::int64_t sequence : {1, 2, 3}) {
    v1::UserCreated event;
    event.set_user_id("a");
    v1::Envelope envelope;
    envelope.set_version(kEnvelopeVersion);
    envelope.set_id(Uuid::New(Clock::System()).ToString());
    envelope.set_aggregate("user/a");
    envelope.set_sequence(sequence);
    envelope.set_type(kType);
    envelope.set_payload(event.SerializeAsString());
    *envelope.mutable_occurred_at() = proto::ToTimestamp(Clock::System().WallNow());
    stream.emplace_back(std::to_string(sequence) + "-0", envelope.SerializeAsString());
  }
  redis::Gate end;
  redis::ScriptedRedis peer([&](const redis::ScriptedRedis::Command& command) -> std::optional<std::string> {
    if (command.front() == "XREAD") {
      end.Pass();
      return std::nullopt;
    }
    std::lock_guard lock(mutex);
    if (command.front() == "XINFO")
      return "*1\r\n*4\r\n" + redis::Bulk("name") + redis::Bulk(kConsumer) + redis::Bulk("last-delivered-id") +
             redis::Bulk("3-0");
    if (command.front() == "XACK") {
      acknowledged += command.size() - 3;
      return ":1\r\n";
    }
    std::size_t from = acknowledged;
    if (command.back() == ">") {
      if (delivered == 0) delivered = 1;  // the late read
      from = std::exchange(delivered, stream.size());
      if (from == delivered) return "*-1\r\n";
    }
    std::string reply = "*1\r\n*2\r\n" + redis::Bulk(kStream) + "*" + std::to_string(delivered - from) + "\r\n";
    for (; from < delivered; ++from)
      reply += "*2\r\n" + redis::Bulk(stream[from].first) + "*2\r\n" + redis::Bulk("envelope") +
               redis::Bulk(stream[from].second);
    return reply;
  });
  redis::ClientConfig config;
  config.port = peer.port();
  config.tls = false;
  redis::Client client(runtime_, beta_.metrics, beta_.cache, config);
  Consumer consumer(*beta_.outbox, *beta_.pool, client, beta_.metrics, Process::ConsumerDefaults());
  Subscribe(consumer);
  runtime::Scope scope(runtime_);
  consumer.Start(scope);
  EXPECT_TRUE(Eventually([this] { return Effects() == 3; }));
  EXPECT_EQ(Value(kConsumer, kOutOfOrder), 0);
  ASSERT_TRUE(scope.Stop(kSoon).ok());
  end.Open();
  ASSERT_TRUE(client.Close(kSoon).ok());
}

TEST_F(EventsFlowTest, ABatchIsBoundedInBytes) {
  constexpr int kCount = 40;  // 10 MB
  const auto made = Run<void>([&](Call& call) -> Task<void> {
    co_return co_await alpha_.outbox->InTransaction(call, [&](Transaction& transaction) -> Task<void> {
      v1::UserCreated event;
      event.set_user_id(std::string(kEventBytesMax - 100, 'x'));
      for (int i = 0; i < kCount; ++i)
        NOVA_CO_TRY(co_await alpha_.outbox->Append(call, transaction, "user/large", event));
      co_return Ok();
    });
  });
  ASSERT_TRUE(made.ok()) << made.error().ToString();
  Must(kProducer, "INSERT INTO made SELECT 'user/large' FROM generate_series(1, 40)");
  alpha_.StartRelay();
  beta_.StartConsumer(Subscribe);
  ExpectExactlyOnce();
}

TEST_F(EventsFlowTest, TheBacklogIsMeasuredWhileRedisIsGone) {
  alpha_.StartRelay();
  MustMake(alpha_, "user/a");
  ASSERT_TRUE(Eventually([this] { return Unpublished() == 0; }));
  const auto pending = [this] {
    return alpha_.metrics
        .Gauge("nova_events_outbox_pending", "Events that wait to be published", {{"producer", kProducer}})
        .Value();
  };
  const auto oldest = [this] {
    return alpha_.metrics
        .Gauge("nova_events_outbox_oldest_seconds", "Age of the oldest event that waits", {{"producer", kProducer}})
        .Value();
  };
  Redis().Kill();
  MustMake(alpha_, "user/a", 7);
  EXPECT_TRUE(Eventually([&] { return pending() == 7 && oldest() > 0; }));
  Redis().Restart();
  EXPECT_TRUE(Eventually([&] { return pending() == 0 && oldest() == 0; }));
  beta_.StartConsumer(Subscribe);
  ExpectExactlyOnce();
}

TEST_F(EventsFlowTest, StoppingIsPromptWhateverIsGone) {
  alpha_.StartRelay();
  beta_.StartConsumer(Subscribe);
  MustMake(alpha_, "user/a", 3);
  ExpectExactlyOnce();
  const auto stop = [&](const char* what) {
    const SteadyTime begin = Clock::System().Now();
    alpha_.Stop();
    beta_.Stop();
    EXPECT_LT(Clock::System().Now() - begin, 5s) << what;
    alpha_.StartRelay();
    beta_.StartConsumer(Subscribe);
  };
  stop("idle");
  Redis().Pause();
  MustMake(alpha_, "user/a");
  stop("Redis stalls");
  Redis().Resume();
  Redis().Kill();
  stop("Redis is gone");
  Redis().Restart();
  Postgres().KillPooler();
  stop("PgBouncer is gone");
  Postgres().RestartPooler();
  ExpectExactlyOnce();
}

}  // namespace
}  // namespace nova::events
