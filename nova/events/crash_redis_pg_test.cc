// Exactly once, whichever step a process was killed at: every crash point of this folder, in a process of its own.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fmt/format.h>
#include <fstream>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <set>
#include <sstream>
#include <tuple>
#include <unistd.h>

#include "local/process.h"
#include "nova/config/config.h"
#include "nova/events/test_environment.h"
#include "nova/resilience/config.h"
#include "nova/resilience/crash_point.h"
#include "tests/fixture.h"

namespace nova::events {
namespace {

using ::testing::HasSubstr;

constexpr const char* kType = "nova.events.v1.UserCreated";
// So many are made in a crash, and so few at a time are published and consumed, that each point is passed twice.
constexpr int kEvents = 6;
constexpr int kBatchMax = 2;

RelayConfig SmallRelay() {
  RelayConfig relay = Process::RelayDefaults();
  relay.batch_max = kBatchMax;
  return relay;
}

ConsumerConfig SmallConsumer() {
  ConsumerConfig consumer = Process::ConsumerDefaults();
  consumer.batch_max = kBatchMax;
  return consumer;
}

class EventsCrashTest : public EventsTest, public ::testing::WithParamInterface<std::tuple<std::string, int>> {
 public:
  // The process that is to crash: the service `service`, configured by the environment as in the field. Never returns
  // unless something is wrong.
  static int RunService(const std::string& service);

 protected:
  static tests::RedisFixture& Redis() { return tests::RedisFixture::Instance(); }

  EventsCrashTest() { Redis().Command({"FLUSHALL"}); }

  // Runs `service` in a process of its own until that crashes.
  void Crash(const std::string& service, const std::string& point, int passing);

  double Duplicates() { return beta_.Consumed(kType, "duplicate"); }

  // A row of what came of every crash, for people; the expectations are elsewhere.
  void AddRow() {
    const auto& [point, passing] = GetParam();
    const auto committed = Value(kProducer, "SELECT count(*) FROM made");
    const auto lost = Value(kProducer, "SELECT coalesce(sum(sequence), 0)::bigint FROM events.aggregates") - Effects();
    const auto repeated = Value(kConsumer, "SELECT coalesce(sum(count), 0)::bigint FROM counters") - Effects();
    rows_ += fmt::format("{:<22} {:>7} {:>10} {:>8} {:>6} {:>9} {:>13} {:>13}\n", point, passing, committed, Effects(),
                         lost, repeated, Value(kConsumer, kOutOfOrder), Duplicates());
  }
  static void TearDownTestSuite() {
    std::printf("%-22s %7s %10s %8s %6s %9s %13s %13s\n%s", "killed at", "passing", "committed", "applied", "lost",
                "repeated", "out of order", "came again", rows_.c_str());
    EventsTest::TearDownTestSuite();
  }
  static inline std::string rows_;

  const tests::FixtureFolder folder_{"nova-test-crash-"};
  Process alpha_{runtime_, kProducer};
  Process beta_{runtime_, kConsumer};
};

int EventsCrashTest::RunService(const std::string& service) {
  postgres::ConnectionConfig connection;
  redis::ClientConfig client;
  resilience::CrashConfig crash;
  config::Config config(config::Sources::FromProcess(0, nullptr));
  Bind(config, connection);
  Bind(config, client);
  Bind(config, crash);
  Result<void> ready = config.Finish();
  if (ready) ready = resilience::Arm(crash, config::AppEnv::kDevelopment);
  if (!ready) {
    std::fprintf(stderr, "%s\n", ready.error().ToString().c_str());
    return 2;
  }

  runtime::Runtime runtime({.threads = 2});
  Process process(runtime, service, connection, client);
  if (service == kConsumer) {
    process.StartConsumer(Subscribe, SmallConsumer());
  } else {
    process.StartRelay(SmallRelay());
    for (int i = 0; i < kEvents; ++i) {
      const auto made = runtime.RunBlocking<void>(
          kSoon, [&](Call& call) { return Make(call, *process.outbox, i % 2 == 0 ? "user/a" : "user/b"); });
      if (!made) std::fprintf(stderr, "%s\n", made.error().ToString().c_str());
    }
  }
  for (;;) ::pause();
}

void EventsCrashTest::Crash(const std::string& service, const std::string& point, int passing) {
  const postgres::ConnectionConfig connection = Postgres().Pooled(service);
  const redis::ClientConfig client = Redis().Client(service);
  local::ProcessSpec spec{.name = service,
                          .program = "/proc/self/exe",
                          .arguments = {"--service", service},
                          .environment = {{"NOVA_POSTGRES_HOST", connection.host},
                                          {"NOVA_POSTGRES_PORT", std::to_string(connection.port)},
                                          {"NOVA_POSTGRES_DATABASE", connection.database},
                                          {"NOVA_POSTGRES_USER", connection.user},
                                          {"NOVA_POSTGRES_PASSWORD", connection.password.Expose()},
                                          {"NOVA_POSTGRES_SSL_ROOT_CERT", connection.ssl_root_cert},
                                          {"NOVA_REDIS_HOST", client.host},
                                          {"NOVA_REDIS_PORT", std::to_string(client.port)},
                                          {"NOVA_REDIS_USER", client.user},
                                          {"NOVA_REDIS_PASSWORD", client.password.Expose()},
                                          {"NOVA_REDIS_CA_PATH", client.ca_path},
                                          {"NOVA_REDIS_SERVER_NAME", client.server_name},
                                          {"NOVA_CRASH_AT", point},
                                          {"NOVA_CRASH_PASSING", std::to_string(passing)}},
                          .log_file = folder_.path() / "log"};
  for (const char* name : {"ASAN_OPTIONS", "TSAN_OPTIONS", "UBSAN_OPTIONS"}) {
    if (const char* const value = std::getenv(name)) spec.environment.emplace(name, value);
  }
  auto process = local::Process::Spawn(spec);
  ASSERT_TRUE(process.ok()) << process.error().ToString();
  const auto ended = process->Wait(kSoon);
  std::stringstream log;
  log << std::ifstream(spec.log_file).rdbuf();
  ASSERT_TRUE(ended.ok()) << ended.error().ToString() << "\n" << log.str();
  EXPECT_TRUE(ended->by_signal && ended->value == SIGKILL) << ended->ToString() << "\n" << log.str();
  EXPECT_THAT(log.str(), HasSubstr("crash point " + point + ":"));
}

TEST_P(EventsCrashTest, LosesAndRepeatsNothing) {
  const auto& [point, passing] = GetParam();
  if (point == "relay.marked_lost") {
    // Only a stream that was lost is made again.
    alpha_.StartRelay();
    beta_.StartConsumer(Subscribe);
    MustMake(alpha_, "user/a", kEvents);
    ASSERT_TRUE(Eventually([this] { return Effects() == kEvents; }));
    beta_.Stop();
    ASSERT_TRUE(Eventually([this] { return Unpublished() == 0; }));
    alpha_.Stop();
    Redis().Command({"DEL", StreamOf(kProducer)});
  }
  if (point.starts_with("consumer.")) {
    alpha_.StartRelay();
    MustMake(alpha_, "user/a", kEvents / 2);
    MustMake(alpha_, "user/b", kEvents / 2);
    ASSERT_TRUE(Eventually([this] { return Unpublished() == 0; }));
    ASSERT_NO_FATAL_FAILURE(Crash(kConsumer, point, passing));
  } else {
    ASSERT_NO_FATAL_FAILURE(Crash(kProducer, point, passing));
    if (point == "outbox.appended") EXPECT_EQ(Value(kProducer, "SELECT count(*) FROM made"), passing - 1);
    if (point == "outbox.committed") EXPECT_EQ(Value(kProducer, "SELECT count(*) FROM made"), passing);
    alpha_.StartRelay();
  }
  beta_.StartConsumer(Subscribe);
  MustMake(alpha_, "user/a", 2);
  ExpectExactlyOnce();
  AddRow();

  // That it was the step it is called: what was done and not written down is done again, and nothing else. A maker that
  // is killed takes its relay along, wherever that is.
  static const std::set<std::string> kDoneAgain = {"relay.published", "relay.marked", "relay.marked_lost",
                                                   "consumer.committed"};
  if (kDoneAgain.contains(point)) {
    EXPECT_GT(Duplicates(), 0);
  } else if (!point.starts_with("outbox.")) {
    EXPECT_EQ(Duplicates(), 0);
  }
}

// Every point of this folder, at its first passing and, where there is one, at its second.
std::vector<std::tuple<std::string, int>> PointsAndPassings() {
  std::vector<std::tuple<std::string, int>> all;
  for (const std::string& point : resilience::CrashPoint::Names()) {
    all.emplace_back(point, 1);
    if (point != "relay.marked_lost") all.emplace_back(point, 2);
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(EveryPoint, EventsCrashTest, ::testing::ValuesIn(PointsAndPassings()), [](const auto& test) {
  std::string name = std::get<0>(test.param);
  std::ranges::replace(name, '.', '_');
  return name + "_" + std::to_string(std::get<1>(test.param));
});

}  // namespace

int RunAs(int argc, char** argv) {
  if (argc == 3 && std::string_view(argv[1]) == "--service") return EventsCrashTest::RunService(argv[2]);
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}

}  // namespace nova::events

int main(int argc, char** argv) { return nova::events::RunAs(argc, argv); }
