// Exactly once, whatever ends at whatever moment: processes of the producer and of the consumer, Redis, PgBouncer.
#include <atomic>
#include <cstdio>
#include <gtest/gtest.h>
#include <random>

#include "nova/events/test_environment.h"
#include "tests/seed.h"

namespace nova::events {
namespace {

// Between two transactions of a maker: the storm is about moments, not about load.
constexpr Duration kMakerPause = 5ms;

class EventsStormTest : public EventsTest {
 protected:
  static tests::RedisFixture& Redis() { return tests::RedisFixture::Instance(); }

  EventsStormTest() {
    Redis().Command({"FLUSHALL"});
    seed_ = tests::TestSeed();
    random_.seed(seed_);
  }

  int Random(int from, int to) { return std::uniform_int_distribution<int>(from, to)(random_); }

  // Transactions on a few aggregates until `count` are committed. What fails is not repeated: whether it was committed
  // is the database's to say.
  void StartMakers(runtime::Scope& scope, Process& process, int makers, int count) {
    left_ = makers;
    for (int i = 0; i < makers; ++i) {
      scope.Spawn("maker", [this, &process, i, makers, count](Call& call) -> Task<void> {
        std::minstd_rand random(seed_ + static_cast<unsigned>(i));
        for (int committed = 0; committed < count / makers;) {
          NOVA_CO_TRY(call.Check());
          const bool fails = random() % 8 == 0;
          Call limited(call, 5s);
          const auto made = co_await Make(limited, *process.outbox, "user/" + std::to_string(random() % 6), fails);
          if (made) ++committed;
          NOVA_CO_TRY(co_await runtime::Sleep(call, made || fails ? kMakerPause : 20ms));
        }
        --left_;
        co_return Ok();
      });
    }
  }

  unsigned seed_ = 0;
  std::minstd_rand random_;
  std::atomic<int> left_ = 0;
};

TEST_F(EventsStormTest, RelaysAndConsumersThatStopAtAnyMomentLoseAndRepeatNothing) {
  Process alpha(runtime_, kProducer);
  Process alpha2(runtime_, kProducer);
  Process beta(runtime_, kConsumer);
  Process beta2(runtime_, kConsumer);
  RelayConfig relay = Process::RelayDefaults();
  relay.batch_max = 7;
  ConsumerConfig consumer = Process::ConsumerDefaults();
  consumer.batch_max = 5;
  runtime::Scope makers(runtime_);
  Process maker(runtime_, kProducer);
  StartMakers(makers, maker, 4, 600);
  const std::vector<std::function<void()>> restarts = {
      [&] { alpha.Stop(), alpha.StartRelay(relay); },
      [&] { alpha2.Stop(), alpha2.StartRelay(relay); },
      [&] { beta.Stop(), beta.StartConsumer(Subscribe, consumer); },
      [&] { beta2.Stop(), beta2.StartConsumer(Subscribe, consumer); },
  };
  for (const auto& start : restarts) start();
  int stops = 0;
  const SteadyTime until = Clock::System().Now() + kSoon;
  while (left_ > 0 && Clock::System().Now() < until) {
    restarts[static_cast<std::size_t>(Random(0, 3))]();
    ++stops;
    const Duration pause = std::chrono::microseconds(Random(0, 15'000));
    (void)Run<void>([&](Call& call) { return runtime::Sleep(call, pause); });
  }
  EXPECT_EQ(left_, 0);
  ASSERT_TRUE(makers.Stop(kSoon).ok());
  ExpectExactlyOnce();
  std::printf("%d stops, %.0f + %.0f duplicates met a mark\n", stops,
              beta.Consumed("nova.events.v1.UserCreated", "duplicate"),
              beta2.Consumed("nova.events.v1.UserCreated", "duplicate"));
}

TEST_F(EventsStormTest, ServersThatDieAtAnyMomentLoseAndRepeatNothing) {
  Process alpha(runtime_, kProducer);
  Process alpha2(runtime_, kProducer);
  Process beta(runtime_, kConsumer);
  Process beta2(runtime_, kConsumer);
  alpha.StartRelay();
  alpha2.StartRelay();
  beta.StartConsumer(Subscribe);
  beta2.StartConsumer(Subscribe);
  runtime::Scope makers(runtime_);
  StartMakers(makers, alpha, 4, 1'000'000);
  // How long after the return of what was gone an event that is made then takes to its effect.
  const auto recovered = [&](const char* what) {
    const SteadyTime back = Clock::System().Now();
    const std::string aggregate = "probe/" + std::to_string(Random(0, 1 << 30));
    ASSERT_TRUE(
        Eventually([&] { return Run<void>([&](Call& call) { return Make(call, *alpha.outbox, aggregate); }).ok(); }));
    ASSERT_TRUE(Eventually([&] {
      return Value(kConsumer, "SELECT count(*) FROM effects WHERE aggregate = '" + aggregate + "'") == 1;
    })) << what;
    const Duration took = Clock::System().Now() - back;
    std::printf("%-28s %.2f s to the first effect\n", what, std::chrono::duration<double>(took).count());
    std::fflush(stdout);
    EXPECT_LT(took, 5s) << what;
  };
  const auto pause = [&] {
    const Duration length = std::chrono::milliseconds(Random(0, 200));
    (void)Run<void>([&](Call& call) { return runtime::Sleep(call, length); });
  };
  for (int round = 0; round < 3; ++round) {
    pause();
    Redis().Kill();
    pause();
    Redis().Restart();
    recovered("Redis killed");
    pause();
    Redis().Wipe();
    recovered("Redis wiped");
    pause();
    Postgres().KillPooler();
    pause();
    Postgres().RestartPooler();
    recovered("PgBouncer killed");
    pause();
    Postgres().KillPostgres();
    pause();
    Postgres().RestartPostgres();
    recovered("PostgreSQL killed");
    pause();
    Redis().Pause();
    pause();
    Redis().Resume();
    recovered("Redis stalled");
  }
  ASSERT_TRUE(makers.Stop(kSoon).ok());
  ExpectExactlyOnce();
  std::printf("%lld events; %.0f + %.0f duplicates met a mark\n", static_cast<long long>(Effects()),
              beta.Consumed("nova.events.v1.UserCreated", "duplicate"),
              beta2.Consumed("nova.events.v1.UserCreated", "duplicate"));
}

}  // namespace
}  // namespace nova::events
