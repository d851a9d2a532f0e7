// What a client does when the Redis at the other end is late, silent, gone or mad.
#include "nova/redis/client.h"

#include <atomic>
#include <gtest/gtest.h>

#include "nova/redis/test_calls.h"
#include "nova/redis/test_peer.h"

namespace nova::redis {
namespace {

using namespace std::chrono_literals;
using resilience::Breaker;
using runtime::Call;
using runtime::Task;

class RedisClientTest : public ::testing::Test {
 protected:
  ClientConfig To(int port) {
    ClientConfig config;
    config.port = port;
    config.tls = false;
    config.connections = 1;
    // Nothing ends by itself unless a test says so.
    config.connect_timeout = kPlentyOfTime;
    config.reply_limit = kPlentyOfTime;
    return config;
  }
  // The clock is that of the policies.
  void MakeClient(const ClientConfig& config, const resilience::DependencyConfig& policies = NoPolicies(),
                  const Clock& clock = Clock::System()) {
    dependency_.emplace(resilience::DependencyName("redis"), metrics_, policies, clock);
    client_.emplace(runtime_, metrics_, *dependency_, config);
  }
  void TearDown() override {
    if (client_) EXPECT_TRUE(client_->Close(kPlentyOfTime).ok());
  }

  std::future<Result<Reply>> Start(Command command, Duration timeout = kPlentyOfTime) {
    return calls_.Start<Reply>([this, command = std::move(command)](
                                   Call& call) -> Task<Reply> { co_return co_await client_->Run(call, command); },
                               timeout);
  }
  Result<Reply> Run(Command command, Duration timeout = kPlentyOfTime) {
    return Start(std::move(command), timeout).get();
  }
  std::future<Result<Reply>> StartBlocking(Command command, Duration block, Duration timeout = kPlentyOfTime) {
    return calls_.Start<Reply>(
        [this, command = std::move(command), block](Call& call) -> Task<Reply> {
          co_return co_await client_->RunBlocking(call, command, block);
        },
        timeout);
  }
  Result<std::vector<Reply>> RunAll(std::vector<Command> commands) {
    return calls_
        .Start<std::vector<Reply>>([this, commands = std::move(commands)](Call& call) -> Task<std::vector<Reply>> {
          co_return co_await client_->RunAll(call, commands);
        })
        .get();
  }
  Result<void> Ping() {
    return calls_.Start<void>([this](Call& call) -> Task<void> { co_return co_await client_->Ping(call); }).get();
  }
  double Metric(const std::string& name) const { return MetricValue(metrics_, name); }
  // "in_use" or "orphaned".
  double Permits(const std::string& state) const {
    return Metric("nova_bulkhead_permits{dependency=\"redis\",state=\"" + state + "\"}");
  }
  double Outcomes(const std::string& outcome) const {
    return Metric("nova_dependency_calls_total{dependency=\"redis\",outcome=\"" + outcome + "\"}");
  }
  Breaker::State BreakerState() { return dependency_->breaker().state(); }

  runtime::Runtime runtime_{{.threads = 2}};
  telemetry::Metrics metrics_;
  std::optional<resilience::CacheDependency> dependency_;
  std::optional<Client> client_;
  Calls calls_{runtime_};
};

std::optional<std::string> Echo(const ScriptedRedis::Command& command) {
  if (command[0] == "ECHO") return Bulk(command[1]);
  if (command[0] == "FAIL") return "-ERR as you wish\r\n";
  if (command[0] == "LIST") return "*2\r\n*1\r\n:1\r\n$-1\r\n";
  return "+OK\r\n";
}

TEST_F(RedisClientTest, RepliesThatComeByteByByteAreWhole) {
  ScriptedRedis peer(&Echo, 1);
  MakeClient(To(peer.port()));
  const auto replies = RunAll({Command("ECHO", "a\r\nb"), Command("FAIL"), Command("LIST"), Command("SET", "k", "v")});
  ASSERT_TRUE(replies.ok()) << replies.error().ToString();
  ASSERT_EQ(replies->size(), 4U);
  EXPECT_EQ((*replies)[0].text, "a\r\nb");
  EXPECT_TRUE((*replies)[1].is_error());
  EXPECT_EQ((*replies)[2].elements[0].elements[0].integer, 1);
  EXPECT_EQ((*replies)[3].text, "OK");
}

TEST_F(RedisClientTest, AnErrorOfTheServerIsTheErrorOfRun) {
  ScriptedRedis peer(&Echo);
  MakeClient(To(peer.port()));
  const auto reply = Run(Command("FAIL"));
  ASSERT_FALSE(reply.ok());
  EXPECT_EQ(CodeOf(reply), Code::kInternal);
  EXPECT_EQ(reply.error().detail(), "command=FAIL: Redis: ERR as you wish");
  EXPECT_EQ(Metric("nova_redis_commands_total{client=\"main\",command=\"FAIL\",outcome=\"INTERNAL\"}"), 1);
  EXPECT_TRUE(Run(Command("ECHO", "x")).ok()) << "the connection is as good as before";
  EXPECT_EQ(peer.accepted(), 1);
}

TEST_F(RedisClientTest, NothingIsOpenedBeforeTheFirstCommand) {
  ScriptedRedis peer(&Echo);
  ClientConfig config = To(peer.port());
  config.connections = 3;
  MakeClient(config);
  EXPECT_EQ(peer.accepted(), 0);
  EXPECT_TRUE(Run(Command("ECHO", "x")).ok());
  EXPECT_TRUE(Eventually([&] { return Metric("nova_redis_connections{client=\"main\",state=\"connected\"}") == 3; }));
  EXPECT_EQ(peer.accepted(), 3);
}

TEST_F(RedisClientTest, ALateReplyIsSkippedAndTheNextCommandGetsItsOwn) {
  Gate gate;
  ScriptedRedis peer([&](const ScriptedRedis::Command& command) {
    if (command[1] == "late") gate.Pass();
    return std::optional(Bulk(command[1]));
  });
  MakeClient(To(peer.port()));
  const auto late = Run(Command("ECHO", "late"), 50ms);
  ASSERT_FALSE(late.ok());
  EXPECT_EQ(CodeOf(late), Code::kDeadlineExceeded);
  auto next = Start(Command("ECHO", "next"));
  gate.Open();
  const auto reply = next.get();
  ASSERT_TRUE(reply.ok()) << DetailOf(reply);
  EXPECT_EQ(reply->text, "next");
  EXPECT_EQ(Metric("nova_redis_abandoned_replies_total{client=\"main\"}"), 1);
  EXPECT_EQ(peer.accepted(), 1);
}

TEST_F(RedisClientTest, ManyLateRepliesAreSkipped) {
  Gate gate;
  ScriptedRedis peer([&](const ScriptedRedis::Command& command) {
    gate.Pass();
    return std::optional(Bulk(command[1]));
  });
  MakeClient(To(peer.port()));
  std::vector<std::future<Result<Reply>>> calls;
  for (int i = 0; i < 100; ++i) calls.push_back(Start(Command("ECHO", i), i % 3 == 0 ? kPlentyOfTime : Duration(20ms)));
  for (std::size_t i = 0; i < calls.size(); ++i) {
    if (i % 3 != 0) EXPECT_EQ(CodeOf(calls[i].get()), Code::kDeadlineExceeded);
  }
  gate.Open();
  for (std::size_t i = 0; i < calls.size(); i += 3) {
    const auto reply = calls[i].get();
    ASSERT_TRUE(reply.ok()) << DetailOf(reply);
    EXPECT_EQ(reply->text, std::to_string(i));
  }
}

TEST_F(RedisClientTest, ACommandCancelledBeforeItWasSentIsNeverSent) {
  Gate connecting;
  ScriptedRedis peer(&Echo);
  peer.HoldPing(&connecting);
  MakeClient(To(peer.port()));
  EXPECT_EQ(CodeOf(Run(Command("SET", "k", "v"), 50ms)), Code::kDeadlineExceeded);
  auto next = Start(Command("ECHO", "x"));
  connecting.Open();
  EXPECT_TRUE(next.get().ok());
  ASSERT_EQ(peer.commands().size(), 1U);
  EXPECT_EQ(peer.commands()[0][0], "ECHO");
}

TEST_F(RedisClientTest, ASilentPeerIsLeftAtReplyLimit) {
  Gate gate;
  std::atomic<int> received = 0;
  ScriptedRedis peer([&](const ScriptedRedis::Command& command) {
    if (++received == 1) gate.Pass();
    return Echo(command);
  });
  ClientConfig config = To(peer.port());
  config.reply_limit = 2s;
  config.reconnect_delay_min = config.reconnect_delay_max = 1ms;
  MakeClient(config);
  EXPECT_EQ(CodeOf(Run(Command("ECHO", "gone"), 1s)), Code::kDeadlineExceeded);
  const SteadyTime begin = Clock::System().Now();
  const auto behind = Run(Command("ECHO", "behind"));
  EXPECT_LT(Clock::System().Now() - begin, 1950ms) << "it is the first command's time that counts";
  ASSERT_FALSE(behind.ok());
  EXPECT_EQ(CodeOf(behind), Code::kUnavailable);
  EXPECT_NE(DetailOf(behind).find("redis.reply_limit"), std::string::npos) << DetailOf(behind);
  // The thread of the old connection still waits, the new connection has its own.
  EXPECT_TRUE(Eventually([&] { return Run(Command("ECHO", "x")).ok(); }));
  EXPECT_EQ(peer.accepted(), 2);
  EXPECT_EQ(Metric("nova_redis_reconnects_total{client=\"main\"}"), 1);
  gate.Open();
}

TEST_F(RedisClientTest, ACommandThatRunsIntoItsPolicysLimitSaysSo) {
  Gate gate;
  ScriptedRedis peer([&](const ScriptedRedis::Command& command) {
    gate.Pass();
    return Echo(command);
  });
  peer.HoldPing(&gate);
  auto policies = NoPolicies();
  policies.timeout = 50ms;
  MakeClient(To(peer.port()), policies);
  const auto reply = Run(Command("ECHO", "x"));
  ASSERT_FALSE(reply.ok());
  EXPECT_EQ(CodeOf(reply), Code::kDeadlineExceeded);
  EXPECT_NE(DetailOf(reply).find("RESILIENCE_REDIS_TIMEOUT_MS"), std::string::npos) << DetailOf(reply);
  gate.Open();
}

TEST_F(RedisClientTest, APeerThatHangsUpInTheMiddleFailsWhatIsOnTheWay) {
  ScriptedRedis peer([](const ScriptedRedis::Command& command) -> std::optional<std::string> {
    if (command[0] == "QUIT") return std::nullopt;
    return command[0] == "HALF" ? "$5\r\nab" : *Echo(command);
  });
  ClientConfig config = To(peer.port());
  config.reconnect_delay_min = config.reconnect_delay_max = 1ms;
  MakeClient(config);
  const auto replies = RunAll({Command("ECHO", "x"), Command("HALF"), Command("QUIT"), Command("ECHO", "y")});
  ASSERT_FALSE(replies.ok());
  EXPECT_EQ(CodeOf(replies), Code::kUnavailable);
  EXPECT_NE(DetailOf(replies).find("may have been executed"), std::string::npos);
  EXPECT_TRUE(Eventually([&] { return Run(Command("ECHO", "x")).ok(); }));
  EXPECT_EQ(peer.commands().size(), 4U) << "nothing was sent twice";
}

TEST_F(RedisClientTest, AGiantReplyEndsItsConnectionOnly) {
  ScriptedRedis peer([](const ScriptedRedis::Command& command) -> std::optional<std::string> {
    return command[0] == "GIANT" ? "$1000000000\r\nxxx" : *Echo(command);
  });
  ClientConfig config = To(peer.port());
  config.reconnect_delay_min = config.reconnect_delay_max = 1ms;
  MakeClient(config);
  const auto giant = Run(Command("GIANT"));
  ASSERT_FALSE(giant.ok());
  EXPECT_EQ(CodeOf(giant), Code::kUnavailable);
  EXPECT_NE(DetailOf(giant).find("NOVA_REDIS_REPLY_BYTES_MAX"), std::string::npos) << DetailOf(giant);
  EXPECT_TRUE(Eventually([&] { return Run(Command("ECHO", "x")).ok(); }));
}

TEST_F(RedisClientTest, WhatNobodyAskedForEndsTheConnection) {
  ScriptedRedis peer(&Echo);
  ClientConfig config = To(peer.port());
  config.reconnect_delay_min = config.reconnect_delay_max = 1ms;
  MakeClient(config);
  EXPECT_TRUE(Run(Command("ECHO", "x")).ok());
  peer.Say("+surprise\r\n");
  EXPECT_TRUE(Eventually([&] { return peer.accepted() == 2; }));
  EXPECT_TRUE(Eventually([&] {
    const auto reply = Run(Command("ECHO", "mine"));
    return reply.ok() && reply->text == "mine";
  }));
}

TEST_F(RedisClientTest, ARefusedPortIsUnavailableAndNamed) {
  int port = 0;
  {
    port = ScriptedRedis(&Echo).port();
  }
  MakeClient(To(port));
  const auto reply = Run(Command("ECHO", "x"));
  ASSERT_FALSE(reply.ok());
  EXPECT_EQ(CodeOf(reply), Code::kUnavailable);
  EXPECT_EQ(reply.error().message(), "Redis is unavailable");
  EXPECT_NE(DetailOf(reply).find("127.0.0.1:" + std::to_string(port)), std::string::npos);
  EXPECT_NE(DetailOf(reply).find("redis.port"), std::string::npos) << DetailOf(reply);
}

TEST_F(RedisClientTest, ANameThatDoesNotExistIsUnavailable) {
  ClientConfig config = To(1);
  config.host = "does-not-exist.invalid";
  MakeClient(config);
  const auto reply = Run(Command("ECHO", "x"));
  ASSERT_FALSE(reply.ok());
  EXPECT_EQ(CodeOf(reply), Code::kUnavailable);
  EXPECT_NE(DetailOf(reply).find("does-not-exist.invalid"), std::string::npos);
}

TEST_F(RedisClientTest, CommandsFailAtOnceWhileNoAttemptIsDue) {
  Gate never;
  ScriptedRedis peer(&Echo);
  peer.HoldPing(&never);
  ClientConfig config = To(peer.port());
  config.connect_timeout = 100ms;
  config.reconnect_delay_min = config.reconnect_delay_max = 60s;
  MakeClient(config);
  const auto first = Run(Command("ECHO", "x"));
  ASSERT_FALSE(first.ok());
  EXPECT_EQ(CodeOf(first), Code::kUnavailable);
  EXPECT_NE(DetailOf(first).find("redis.connect_timeout"), std::string::npos) << DetailOf(first);
  // If each made an attempt this would take ten seconds. (The delay is random, so there may be one more.)
  const SteadyTime begin = Clock::System().Now();
  for (int i = 0; i < 100; ++i) EXPECT_EQ(CodeOf(Run(Command("ECHO", "x"))), Code::kUnavailable);
  EXPECT_LT(Clock::System().Now() - begin, 3s);
  EXPECT_LE(peer.accepted(), 2);
  never.Open();
}

TEST_F(RedisClientTest, ManyCallersShareOneAttempt) {
  Gate connecting;
  ScriptedRedis peer(&Echo);
  peer.HoldPing(&connecting);
  MakeClient(To(peer.port()));
  std::vector<std::future<Result<Reply>>> calls;
  for (int i = 0; i < 50; ++i) calls.push_back(Start(Command("ECHO", i)));
  EXPECT_TRUE(Eventually([&] { return peer.accepted() == 1; }));
  connecting.Open();
  for (int i = 0; i < 50; ++i) EXPECT_EQ(TextOf(calls[static_cast<std::size_t>(i)].get()), std::to_string(i));
  EXPECT_EQ(peer.accepted(), 1);
}

TEST_F(RedisClientTest, OneCommandTooManyIsRefusedAtOnce) {
  Gate gate;
  ScriptedRedis peer([&](const ScriptedRedis::Command& command) {
    gate.Pass();
    return Echo(command);
  });
  ClientConfig config = To(peer.port());
  config.pipeline_max = 3;
  MakeClient(config);
  std::vector<std::future<Result<Reply>>> calls;
  for (int i = 0; i < 3; ++i) calls.push_back(Start(Command("ECHO", i)));
  EXPECT_TRUE(Eventually([&] { return peer.commands().size() == 1; }));
  // A caller that has gone counts until its reply has come.
  Result<Reply> refused;
  EXPECT_TRUE(Eventually([&] {
    refused = Run(Command("ECHO", "x"), 50ms);
    return CodeOf(refused) == Code::kResourceExhausted;
  }));
  EXPECT_NE(DetailOf(refused).find("redis.pipeline_max"), std::string::npos);
  gate.Open();
  for (int i = 0; i < 3; ++i) EXPECT_EQ(TextOf(calls[static_cast<std::size_t>(i)].get()), std::to_string(i));
  EXPECT_TRUE(Run(Command("ECHO", "x")).ok());
}

TEST_F(RedisClientTest, ACommandOverTheQueuesBytesIsRefused) {
  ScriptedRedis peer(&Echo);
  ClientConfig config = To(peer.port());
  config.queued_bytes_max = 10'000;
  MakeClient(config);
  const auto refused = Run(Command("ECHO", std::string(10'000, 'x')));
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(CodeOf(refused), Code::kResourceExhausted);
  EXPECT_NE(DetailOf(refused).find("redis.queued_bytes_max"), std::string::npos);
  for (int i = 0; i < 10; ++i)
    EXPECT_TRUE(Run(Command("ECHO", std::string(4'000, 'x'))).ok()) << "bytes are given back";
}

TEST_F(RedisClientTest, ARefusedPasswordNamesTheSettingsAndIsNotShown) {
  ScriptedRedis peer([](const ScriptedRedis::Command& command) -> std::optional<std::string> {
    EXPECT_EQ(command, (ScriptedRedis::Command{"AUTH", "identity", "correct-horse"}));
    return "-WRONGPASS invalid username-password pair or user is disabled.\r\n";
  });
  ClientConfig config = To(peer.port());
  config.user = "identity";
  config.password = Secret<>("correct-horse");
  MakeClient(config);
  const auto reply = Run(Command("ECHO", "x"));
  ASSERT_FALSE(reply.ok());
  EXPECT_EQ(CodeOf(reply), Code::kUnavailable);
  EXPECT_NE(DetailOf(reply).find("NOVA_REDIS_PASSWORD"), std::string::npos) << DetailOf(reply);
  EXPECT_EQ(reply.error().ToString().find("correct-horse"), std::string::npos);
}

TEST_F(RedisClientTest, ABlockingCommandHasAConnectionOfItsOwnThatIsKept) {
  Gate gate;
  ScriptedRedis peer([&](const ScriptedRedis::Command& command) {
    if (command[0] == "BLPOP") gate.Pass();
    return Echo(command);
  });
  MakeClient(To(peer.port()));
  auto blocking = StartBlocking(Command("BLPOP", "q", 0), 10s);
  EXPECT_TRUE(Eventually([&] { return peer.commands().size() == 1; }));
  EXPECT_EQ(TextOf(Run(Command("ECHO", "x"))), "x") << "others are not blocked";
  gate.Open();
  EXPECT_TRUE(blocking.get().ok());
  EXPECT_EQ(peer.accepted(), 2);
  EXPECT_TRUE(StartBlocking(Command("BLPOP", "q", 0), 10s).get().ok());
  EXPECT_EQ(peer.accepted(), 2) << "the second has the first's connection";
}

TEST_F(RedisClientTest, ABlockingConnectionIsClosedWhenItsCallEnds) {
  Gate gate;
  ScriptedRedis peer([&](const ScriptedRedis::Command& command) {
    if (command[1] == "late") gate.Pass();
    return std::optional(Bulk(command[1]));
  });
  MakeClient(To(peer.port()));
  EXPECT_EQ(CodeOf(StartBlocking(Command("BLPOP", "late"), 10s, 50ms).get()), Code::kDeadlineExceeded);
  EXPECT_EQ(TextOf(StartBlocking(Command("BLPOP", "mine"), 10s).get()), "mine");
  EXPECT_EQ(peer.accepted(), 2);
  gate.Open();
  EXPECT_TRUE(Eventually([&] { return peer.ended() == 1; }));
}

TEST_F(RedisClientTest, ABlockingCommandEndsSomeTimeAfterItsBlock) {
  Gate gate;
  ScriptedRedis peer([&](const ScriptedRedis::Command& command) {
    gate.Pass();
    return Echo(command);
  });
  auto policies = NoPolicies();
  policies.timeout = 50ms;
  MakeClient(To(peer.port()), policies);
  const SteadyTime begin = Clock::System().Now();
  const auto reply = StartBlocking(Command("BLPOP", "q"), 100ms).get();
  EXPECT_GE(Clock::System().Now() - begin, 150ms);
  EXPECT_EQ(CodeOf(reply), Code::kDeadlineExceeded);
  gate.Open();
}

TEST_F(RedisClientTest, OneBlockingCommandTooManyIsRefusedAtOnce) {
  Gate gate;
  ScriptedRedis peer([&](const ScriptedRedis::Command& command) {
    gate.Pass();
    return Echo(command);
  });
  ClientConfig config = To(peer.port());
  config.blocking_connections_max = 1;
  MakeClient(config);
  auto first = StartBlocking(Command("BLPOP", "q"), 10s);
  EXPECT_TRUE(Eventually([&] { return peer.commands().size() == 1; }));
  const auto second = StartBlocking(Command("BLPOP", "q"), 10s).get();
  EXPECT_EQ(CodeOf(second), Code::kResourceExhausted);
  EXPECT_NE(DetailOf(second).find("redis.blocking_connections_max"), std::string::npos);
  gate.Open();
  EXPECT_TRUE(first.get().ok());
}

TEST_F(RedisClientTest, CloseWaitsForWhatIsOnTheWay) {
  Gate gate;
  ScriptedRedis peer([&](const ScriptedRedis::Command& command) {
    gate.Pass();
    return Echo(command);
  });
  MakeClient(To(peer.port()));
  auto shared = Start(Command("ECHO", "x"));
  auto blocking = StartBlocking(Command("BLPOP", "q"), 10s);
  EXPECT_TRUE(Eventually([&] { return peer.commands().size() == 2; }));
  auto closed = std::async(std::launch::async, [&] { return client_->Close(kPlentyOfTime); });
  Result<Reply> refused;
  EXPECT_TRUE(Eventually([&] {
    refused = Run(Command("ECHO", "late"), 20ms);
    return CodeOf(refused) == Code::kUnavailable;
  }));
  EXPECT_EQ(refused.error().message(), "the service is stopping");
  gate.Open();
  EXPECT_TRUE(shared.get().ok());
  EXPECT_TRUE(blocking.get().ok());
  EXPECT_TRUE(closed.get().ok());
  EXPECT_TRUE(Eventually([&] { return peer.ended() == peer.accepted(); })) << "every connection is closed";
}

TEST_F(RedisClientTest, CloseGivesUpAtItsLimitAndWhatIsOnTheWayFails) {
  Gate gate;
  ScriptedRedis peer([&](const ScriptedRedis::Command& command) {
    gate.Pass();
    return Echo(command);
  });
  MakeClient(To(peer.port()));
  auto call = Start(Command("ECHO", "x"));
  EXPECT_TRUE(Eventually([&] { return peer.commands().size() == 1; }));
  EXPECT_EQ(CodeOf(client_->Close(50ms)), Code::kDeadlineExceeded);
  const auto reply = call.get();
  ASSERT_FALSE(reply.ok());
  EXPECT_EQ(CodeOf(reply), Code::kUnavailable);
  gate.Open();
}

TEST_F(RedisClientTest, CloseEndsAnAttemptToConnect) {
  Gate gate;
  ScriptedRedis peer(&Echo);
  peer.HoldPing(&gate);
  MakeClient(To(peer.port()));
  auto call = Start(Command("ECHO", "x"));
  EXPECT_TRUE(Eventually([&] { return peer.accepted() == 1; }));
  const SteadyTime begin = Clock::System().Now();
  EXPECT_TRUE(client_->Close(kPlentyOfTime).ok());
  EXPECT_LT(Clock::System().Now() - begin, 5s);
  EXPECT_EQ(CodeOf(call.get()), Code::kUnavailable);
  gate.Open();
}

// A command whose caller has gone keeps its place in the bulkhead until it has really ended, in whichever way.

TEST_F(RedisClientTest, ACommandThatWasSentIsAnOrphanUntilItsReplyComes) {
  Gate gate;
  ScriptedRedis peer([&](const ScriptedRedis::Command& command) {
    if (command[1] == "late") gate.Pass();
    return Echo(command);
  });
  MakeClient(To(peer.port()));
  ASSERT_TRUE(Run(Command("ECHO", "x")).ok());
  EXPECT_EQ(CodeOf(Run(Command("ECHO", "late"), 100ms)), Code::kDeadlineExceeded);
  EXPECT_EQ(Permits("orphaned"), 1);
  EXPECT_EQ(Permits("in_use"), 1);
  auto next = Start(Command("ECHO", "next"));
  gate.Open();
  EXPECT_EQ(TextOf(next.get()), "next");
  EXPECT_EQ(Permits("orphaned"), 0);
  EXPECT_EQ(Permits("in_use"), 0);
  EXPECT_EQ(Outcomes("cancelled"), 1) << "it was the caller who had no more time";
}

TEST_F(RedisClientTest, ACommandWithoutReplyIsAnOrphanUntilItsConnectionIsClosed) {
  Gate gate;
  ScriptedRedis peer([&](const ScriptedRedis::Command& command) {
    if (command[1] == "never") gate.Pass();
    return Echo(command);
  });
  ClientConfig config = To(peer.port());
  config.reply_limit = 1s;
  config.reconnect_delay_min = config.reconnect_delay_max = 1ms;
  MakeClient(config);
  ASSERT_TRUE(Run(Command("ECHO", "x")).ok());
  const SteadyTime begin = Clock::System().Now();
  EXPECT_EQ(CodeOf(Run(Command("ECHO", "never"), 100ms)), Code::kDeadlineExceeded);
  EXPECT_EQ(Permits("orphaned"), 1);
  EXPECT_TRUE(Eventually([&] { return Permits("orphaned") == 0; }));
  EXPECT_GE(Clock::System().Now() - begin, 1s);
  EXPECT_EQ(Permits("in_use"), 0);
  EXPECT_TRUE(Eventually([&] { return Run(Command("ECHO", "x")).ok(); }));
  EXPECT_EQ(peer.accepted(), 2);
  gate.Open();
}

TEST_F(RedisClientTest, ACommandInTheQueueIsAnOrphanUntilItIsDroppedUnsent) {
  Gate gate;
  ScriptedRedis peer([&](const ScriptedRedis::Command& command) {
    if (command[0] == "STOP") gate.Pass();
    return Echo(command);
  });
  MakeClient(To(peer.port()));
  // More than the sockets hold: while the peer does not read, what comes behind it stays here.
  auto large = calls_.Start<std::vector<Reply>>([&](Call& call) -> Task<std::vector<Reply>> {
    std::vector<Command> commands = {Command("STOP"), Command("ECHO", std::string(16 << 20, 'x'))};
    co_return co_await client_->RunAll(call, std::move(commands));
  });
  EXPECT_TRUE(Eventually([&] { return peer.commands().size() == 1; }));
  EXPECT_EQ(CodeOf(Run(Command("SET", "k", "v"), 100ms)), Code::kDeadlineExceeded);
  EXPECT_EQ(Permits("orphaned"), 1);
  gate.Open();
  EXPECT_TRUE(large.get().ok());
  EXPECT_EQ(TextOf(Run(Command("ECHO", "next"))), "next");
  EXPECT_EQ(Permits("orphaned"), 0);
  for (const auto& command : peer.commands()) EXPECT_NE(command[0], "SET");
}

TEST_F(RedisClientTest, CloseEndsOrphans) {
  Gate gate;
  ScriptedRedis peer([&](const ScriptedRedis::Command& command) {
    if (command[1] == "never") gate.Pass();
    return Echo(command);
  });
  MakeClient(To(peer.port()));
  ASSERT_TRUE(Run(Command("ECHO", "x")).ok());
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(Run(Command("ECHO", "never"), 50ms).ok());
  EXPECT_EQ(Permits("orphaned"), 3);
  EXPECT_TRUE(client_->Close(kPlentyOfTime).ok());
  EXPECT_EQ(Permits("in_use"), 0);
  gate.Open();
}

TEST_F(RedisClientTest, AFullBulkheadRefusesAtOnceAndOrphansFillIt) {
  Gate gate;
  ScriptedRedis peer([&](const ScriptedRedis::Command& command) {
    if (command[1] == "late") gate.Pass();
    return Echo(command);
  });
  auto policies = NoPolicies();
  policies.calls_max = 2;
  MakeClient(To(peer.port()), policies);
  ASSERT_TRUE(Run(Command("ECHO", "x")).ok());
  EXPECT_EQ(CodeOf(Run(Command("ECHO", "late"), 100ms)), Code::kDeadlineExceeded);
  auto waiting = Start(Command("ECHO", "waiting"));
  EXPECT_TRUE(Eventually([&] { return Permits("in_use") == 2; }));
  const auto refused = Run(Command("ECHO", "y"));
  EXPECT_EQ(CodeOf(refused), Code::kResourceExhausted);
  EXPECT_NE(DetailOf(refused).find("RESILIENCE_REDIS_CALLS_MAX"), std::string::npos) << DetailOf(refused);
  EXPECT_EQ(Outcomes("full"), 1);
  gate.Open();
  EXPECT_EQ(TextOf(waiting.get()), "waiting");
  EXPECT_TRUE(Run(Command("ECHO", "z")).ok()) << "there is room again";
}

// A breaker that opens at the fifth failure among ten calls, and stays so until the test lets time pass.
resilience::DependencyConfig QuickBreaker() {
  auto policies = NoPolicies();
  policies.breaker = {.window = resilience::BreakerConfig::Window::kCount,
                      .window_calls = 10,
                      .calls_min = 10,
                      .failure_ratio = 0.5,
                      .open_time = 10s,
                      .probes = 3};
  return policies;
}

std::optional<std::string> Complain(const ScriptedRedis::Command& command) {
  if (command[0] == "ECHO") return Bulk(command[1]);
  return "-" + command[0] + " for some reason\r\n";
}

TEST_F(RedisClientTest, OnlyThatItIsNotAvailableSpeaksAgainstRedis) {
  ScriptedRedis peer(&Complain);
  MakeClient(To(peer.port()), QuickBreaker());
  for (const char* answer : {"WRONGTYPE", "ERR", "NOPERM", "WRONGPASS", "OOM", "NOGROUP"}) {
    for (int i = 0; i < 10; ++i) EXPECT_FALSE(Run(Command(answer)).ok());
    EXPECT_EQ(BreakerState(), Breaker::State::kClosed) << answer;
  }
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(RunAll({Command("LOADING"), Command("READONLY")}).ok());
  EXPECT_EQ(BreakerState(), Breaker::State::kClosed) << "errors among several replies are the caller's affair";
  EXPECT_EQ(Outcomes("failed"), 0);
  for (const char* failure : {"LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "BUSY"}) {
    EXPECT_EQ(BreakerState(), Breaker::State::kClosed);
    EXPECT_EQ(CodeOf(Run(Command(failure))), Code::kUnavailable);
  }
  EXPECT_EQ(BreakerState(), Breaker::State::kOpen);
  EXPECT_EQ(Outcomes("failed"), 5);
}

TEST_F(RedisClientTest, APingPassesAnOpenBreakerAndClosesItOnceItIsHalfOpen) {
  ScriptedRedis peer(&Complain);
  FakeClock clock;
  MakeClient(To(peer.port()), QuickBreaker(), clock);
  for (int i = 0; i < 10; ++i) EXPECT_FALSE(Run(Command("LOADING")).ok());
  ASSERT_EQ(BreakerState(), Breaker::State::kOpen);
  const auto refused = Run(Command("ECHO", "x"));
  EXPECT_EQ(CodeOf(refused), Code::kUnavailable);
  EXPECT_NE(DetailOf(refused).find("breaker"), std::string::npos) << DetailOf(refused);
  EXPECT_EQ(peer.commands().size(), 10U) << "it was not sent";
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(Ping().ok());
  EXPECT_EQ(BreakerState(), Breaker::State::kOpen) << "it is not time for probes";
  EXPECT_FALSE(Run(Command("ECHO", "x")).ok());

  clock.Advance(12s);
  for (int i = 0; i < 3; ++i) {
    EXPECT_NE(BreakerState(), Breaker::State::kClosed);
    EXPECT_TRUE(Ping().ok());
  }
  EXPECT_EQ(BreakerState(), Breaker::State::kClosed);
  EXPECT_EQ(TextOf(Run(Command("ECHO", "x"))), "x");
}

TEST_F(RedisClientTest, ACommandThatBlocksByDesignIsNotSlow) {
  Gate blocking;
  Gate slow;
  ScriptedRedis peer([&](const ScriptedRedis::Command& command) {
    (command[0] == "BLPOP" ? blocking : slow).Pass();
    return Echo(command);
  });
  auto policies = NoPolicies();
  policies.slow = 100ms;
  FakeClock clock;
  MakeClient(To(peer.port()), policies, clock);
  const auto slow_calls = [&] { return Metric("nova_dependency_slow_calls_total{dependency=\"redis\"}"); };

  auto blocked = StartBlocking(Command("BLPOP", "q"), 10s);
  EXPECT_TRUE(Eventually([&] { return peer.commands().size() == 1; }));
  clock.Advance(10s + 99ms);
  blocking.Open();
  EXPECT_TRUE(blocked.get().ok());
  EXPECT_EQ(slow_calls(), 0);

  auto echo = Start(Command("ECHO", "x"));
  EXPECT_TRUE(Eventually([&] { return peer.commands().size() == 2; }));
  clock.Advance(101ms);
  slow.Open();
  EXPECT_TRUE(echo.get().ok());
  EXPECT_EQ(slow_calls(), 1);
}

TEST_F(RedisClientTest, WithCacheTimeoutGivesTheSmallerLimit) {
  auto policies = NoPolicies();
  policies.timeout = 5s;
  resilience::CacheDependency dependency("cache", metrics_, policies);
  const auto remaining = [&](Duration granted) {
    return ValueOf(calls_
                       .Start<Duration>(
                           [&](Call& call) {
                             return WithCacheTimeout(call, dependency, [](Call& limited) -> Task<Duration> {
                               co_return limited.Remaining();
                             });
                           },
                           granted)
                       .get());
  };
  EXPECT_LE(remaining(kPlentyOfTime), 5s);
  EXPECT_GT(remaining(kPlentyOfTime), 2s);
  EXPECT_LE(remaining(2s), 2s);
}

TEST_F(RedisClientTest, AConnectionThatReachesItsAgeIsReplacedAndFirstGetsItsReplies) {
  Gate gate;
  ScriptedRedis peer([&](const ScriptedRedis::Command& command) {
    if (command[1] == "late") gate.Pass();
    return std::optional(Bulk(command[1]));
  });
  ClientConfig config = To(peer.port());
  config.connection_lifetime = 1s;
  MakeClient(config);
  auto late = Start(Command("ECHO", "late"));
  ASSERT_TRUE(Eventually([&] { return !peer.commands().empty(); }));
  EXPECT_TRUE(Eventually([&] { return peer.accepted() >= 2; }));
  // The old one answers nothing, so this went over the new one.
  EXPECT_TRUE(Eventually([&] { return TextOf(Run(Command("ECHO", "x"), 200ms)) == "x"; }));
  EXPECT_EQ(peer.ended(), 0);
  gate.Open();
  EXPECT_EQ(TextOf(late.get()), "late");
  EXPECT_TRUE(Eventually([&] { return peer.ended() >= 1; }));
  EXPECT_EQ(Metric("nova_redis_reconnects_total{client=\"main\"}"), 0) << "nothing was lost";
  EXPECT_EQ(Metric("nova_redis_connections{client=\"main\",state=\"connected\"}"), 1);
}

TEST_F(RedisClientTest, WithoutASuccessorAConnectionServesUntilItsAgeAndNoLonger) {
  Gate gate;
  ScriptedRedis peer(&Echo);
  ClientConfig config = To(peer.port());
  config.connection_lifetime = 1s;
  config.connect_timeout = 50ms;
  config.reconnect_delay_max = 50ms;
  const SteadyTime begin = Clock::System().Now();
  MakeClient(config);
  ASSERT_TRUE(Run(Command("ECHO", "x")).ok());
  const SteadyTime connected = Clock::System().Now();
  peer.HoldPing(&gate);  // nobody new gets in
  Result<Reply> reply;
  EXPECT_TRUE(Eventually([&] {
    reply = Run(Command("ECHO", "x"));
    return !reply.ok();
  }));
  EXPECT_GE(Clock::System().Now() - begin, config.connection_lifetime);
  EXPECT_LT(Clock::System().Now() - connected, config.connection_lifetime + 5s);
  EXPECT_EQ(CodeOf(reply), Code::kUnavailable);
  EXPECT_NE(DetailOf(reply).find("redis.connect_timeout"), std::string::npos) << DetailOf(reply);
  peer.HoldPing(nullptr);
  gate.Open();
  EXPECT_TRUE(Eventually([&] { return Run(Command("ECHO", "x")).ok(); }));
}

TEST_F(RedisClientTest, AConnectionThatIsLostWhileItsSuccessorIsOpenedIsReplacedOnce) {
  Gate gate;
  ScriptedRedis peer([](const ScriptedRedis::Command& command) {
    return command[0] == "DIE" ? std::nullopt : std::optional(Bulk(command[1]));
  });
  ClientConfig config = To(peer.port());
  config.connection_lifetime = 5s;
  config.reconnect_delay_max = 1ms;
  MakeClient(config);
  ASSERT_TRUE(Run(Command("ECHO", "x")).ok());
  peer.HoldPing(&gate);
  ASSERT_TRUE(Eventually([&] { return peer.accepted() == 2; })) << "the successor, which waits to log in";
  EXPECT_EQ(CodeOf(Run(Command("DIE"))), Code::kUnavailable);
  ASSERT_TRUE(Eventually([&] { return peer.accepted() == 3; })) << "the one that takes the place of what was lost";
  peer.HoldPing(nullptr);
  gate.Open();
  EXPECT_TRUE(Eventually([&] { return Run(Command("ECHO", "x")).ok(); }));
  EXPECT_TRUE(Eventually([&] { return peer.ended() == 2; })) << "one of the two is not needed";
  EXPECT_EQ(peer.accepted(), 3);
  EXPECT_EQ(Metric("nova_redis_connections{client=\"main\",state=\"connected\"}"), 1);
}

TEST_F(RedisClientTest, ABlockingConnectionThatIsTooOldIsNotUsedAgain) {
  ScriptedRedis peer(&Echo);
  ClientConfig config = To(peer.port());
  config.connection_lifetime = 500ms;
  MakeClient(config);
  ASSERT_TRUE(StartBlocking(Command("ECHO", "x"), 1s).get().ok());
  ASSERT_TRUE(StartBlocking(Command("ECHO", "x"), 1s).get().ok());
  EXPECT_EQ(peer.accepted(), 1);
  EXPECT_TRUE(Eventually([&] { return StartBlocking(Command("ECHO", "x"), 1s).get().ok() && peer.accepted() == 2; }));
  EXPECT_TRUE(Eventually([&] { return peer.ended() == 1; }));
}

}  // namespace
}  // namespace nova::redis
