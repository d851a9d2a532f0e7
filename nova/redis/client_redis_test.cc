// The client and a real Redis: TLS, ACL users, and everything that can happen to the server.
#include <atomic>
#include <boost/asio/steady_timer.hpp>
#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>
#include <iostream>
#include <random>

#include "nova/redis/client.h"
#include "nova/redis/test_calls.h"
#include "nova/redis/test_peer.h"
#include "nova/tls/authority.h"
#include "tests/redis_fixture.h"
#include "tests/seed.h"

namespace nova::redis {
namespace {

using namespace std::chrono_literals;
using runtime::Call;
using runtime::Task;
using tests::RedisFixture;

class ClientRedisTest : public ::testing::Test {
 protected:
  ClientRedisTest() : server_(RedisFixture::Instance()), config_(server_.Client("redistest")) {
    config_.pipeline_max = 20'000;
    config_.reconnect_delay_max = 200ms;
  }
  void TearDown() override {
    if (client_) EXPECT_TRUE(client_->Close(kPlentyOfTime).ok());
  }

  void MakeClient(const resilience::DependencyConfig& policies = NoPolicies()) {
    dependency_.emplace(resilience::DependencyName("redis"), metrics_, policies);
    client_.emplace(runtime_, metrics_, *dependency_, config_);
  }
  std::future<Result<Reply>> Start(Command command, Duration timeout = kPlentyOfTime) {
    return calls_.Start<Reply>([this, command = std::move(command)](
                                   Call& call) -> Task<Reply> { co_return co_await client_->Run(call, command); },
                               timeout);
  }
  Result<Reply> Run(Command command, Duration timeout = kPlentyOfTime) {
    return Start(std::move(command), timeout).get();
  }
  bool EchoWorks() {
    const auto reply = Run(Command("ECHO", "x"));
    return reply.ok() && reply->text == "x";
  }
  double Reconnects() const { return MetricValue(metrics_, "nova_redis_reconnects_total{client=\"main\"}"); }
  double Connected() const {
    return MetricValue(metrics_, "nova_redis_connections{client=\"main\",state=\"connected\"}");
  }
  // The first error of a client with these settings.
  Error Failure(const ClientConfig& config) {
    resilience::CacheDependency dependency("redis", metrics_, NoPolicies());
    Client client(runtime_, metrics_, dependency, config);
    const auto reply =
        calls_
            .Start<Reply>([&](Call& call) -> Task<Reply> { co_return co_await client.Run(call, Command("ECHO", "x")); })
            .get();
    EXPECT_TRUE(client.Close(kPlentyOfTime).ok());
    EXPECT_FALSE(reply.ok());
    if (reply) return {};
    EXPECT_EQ(reply.error().ToString().find(config.password.Expose()), std::string::npos);
    return reply.error();
  }

  RedisFixture& server_;
  ClientConfig config_;
  runtime::Runtime runtime_{{.threads = 3}};
  telemetry::Metrics metrics_;
  std::optional<resilience::CacheDependency> dependency_;
  std::optional<Client> client_;
  Calls calls_{runtime_};
};

TEST_F(ClientRedisTest, CommandsOfEveryKindWork) {
  MakeClient();
  EXPECT_TRUE(calls_.Start<void>([&](Call& call) -> Task<void> { co_return co_await client_->Ping(call); }).get().ok());
  const std::string bytes("\0\r\n\xff", 4);
  EXPECT_EQ(TextOf(Run(Command("SET", "redistest:bytes", bytes, "PX", 60'000))), "OK");
  EXPECT_EQ(TextOf(Run(Command("GET", "redistest:bytes"))), bytes);
  EXPECT_TRUE(ValueOf(Run(Command("GET", "redistest:nothing"))).is_nil());
  const std::string large(3'000'000, 'x');
  EXPECT_TRUE(Run(Command("SET", "redistest:large", large, "PX", 60'000)).ok());
  EXPECT_TRUE(TextOf(Run(Command("GET", "redistest:large"))) == large);
  EXPECT_TRUE(Run(Command("DEL", "redistest:stream")).ok());
  EXPECT_TRUE(Run(Command("XADD", "redistest:stream", "*", "key", "value")).ok());
  const auto range = Run(Command("XRANGE", "redistest:stream", "-", "+"));
  ASSERT_TRUE(range.ok()) << range.error().ToString();
  EXPECT_EQ(range->elements.at(0).elements.at(1).elements.at(1).text, "value");
}

TEST_F(ClientRedisTest, WhatTheUserMayNotDoNamesTheSetting) {
  MakeClient();
  const auto reply = Run(Command("GET", "someone-elses:key"));
  ASSERT_FALSE(reply.ok());
  EXPECT_EQ(CodeOf(reply), Code::kFailedPrecondition);
  EXPECT_NE(DetailOf(reply).find("NOVA_REDIS_USER"), std::string::npos) << DetailOf(reply);
}

TEST_F(ClientRedisTest, TenThousandCommandsOfManyTasksKeepTheirOrder) {
  constexpr int kTasks = 50;
  constexpr int kCommands = 100;
  MakeClient();
  std::vector<std::future<Result<void>>> tasks;
  for (int task = 0; task < kTasks; ++task) {
    tasks.push_back(calls_.Start<void>([&, task](Call& call) -> Task<void> {
      const std::string key = "redistest:counter:" + std::to_string(task);
      std::vector<Command> together = {Command("DEL", key)};
      for (int i = 1; i <= kCommands; ++i) together.emplace_back("INCR", key);
      NOVA_CO_TRY(const std::vector<Reply> replies, co_await client_->RunAll(call, together));
      EXPECT_EQ(replies.size(), together.size());
      for (std::size_t i = 1; i < replies.size(); ++i) EXPECT_EQ(replies[i].integer, static_cast<int>(i));
      for (int i = 0; i < kCommands; ++i) {
        const std::string id = std::to_string(task) + "/" + std::to_string(i);
        NOVA_CO_TRY(const Reply reply, co_await client_->Run(call, Command("ECHO", id)));
        EXPECT_EQ(reply.text, id);
      }
      co_return Ok();
    }));
  }
  for (auto& task : tasks) {
    const Result<void> done = task.get();
    EXPECT_TRUE(done.ok()) << done.error().ToString();
  }
  EXPECT_EQ(MetricValue(metrics_, "nova_redis_commands_total{client=\"main\",command=\"INCR\",outcome=\"OK\"}"),
            kTasks * kCommands);
}

// Calls that end at random moments, many at once on few connections: whatever the moment, every reply that arrives is
// that of its own command, and no connection is lost.
TEST_F(ClientRedisTest, NoReplyIsShiftedInAStormOfCancellations) {
  constexpr int kTasks = 32;
  constexpr Duration kLength = 3s;
  const unsigned seed = tests::TestSeed();
  config_.blocking_connections_max = kTasks;
  MakeClient();

  std::atomic<int> answered = 0;
  std::atomic<int> ended = 0;
  const auto rage = [&](Call& call, int task) -> Task<void> {
    std::mt19937 random(seed + static_cast<unsigned>(task));
    const auto below = [&](int limit) { return std::uniform_int_distribution<int>(0, limit - 1)(random); };
    const SteadyTime end = Clock::System().Now() + kLength;
    for (int i = 0; Clock::System().Now() < end; ++i) {
      const std::string id = std::to_string(task) + "/" + std::to_string(i);
      // The call ends by its deadline or by cancellation; some live to finish.
      Call limited(call, below(3) == 0 ? kPlentyOfTime : Duration(std::chrono::microseconds(below(2'000))));
      boost::asio::steady_timer timer(call.strand());
      const auto is_gone = std::make_shared<bool>(false);
      if (below(3) == 0) {
        timer.expires_after(std::chrono::microseconds(below(2'000)));
        timer.async_wait([&limited, is_gone](const boost::system::error_code& error) {
          if (!error && !*is_gone) limited.Cancel(Cancelled("the client went away"));
        });
      }
      Code code = Code::kOk;
      std::string text;
      const int kind = below(20);
      if (kind == 0) {
        const auto reply =
            co_await client_->RunBlocking(limited, Command("BLPOP", "redistest:empty:" + id, "0.002"), 2ms);
        if (reply) EXPECT_TRUE(reply->is_nil());
        if (!reply) code = reply.error().code(), text = reply.error().ToString();
      } else if (kind < 5) {
        std::vector<Command> together;
        for (int j = 0; j < 5; ++j) together.emplace_back("ECHO", id + "/" + std::to_string(j));
        const auto replies = co_await client_->RunAll(limited, together);
        for (std::size_t j = 0; replies && j < 5; ++j) EXPECT_EQ((*replies)[j].text, id + "/" + std::to_string(j));
        if (!replies) code = replies.error().code(), text = replies.error().ToString();
      } else {
        const auto reply = co_await client_->Run(limited, Command("ECHO", id));
        if (reply) EXPECT_EQ(reply->text, id);
        if (!reply) code = reply.error().code(), text = reply.error().ToString();
      }
      *is_gone = true;
      timer.cancel();
      ++(code == Code::kOk ? answered : ended);
      EXPECT_TRUE(code == Code::kOk || code == Code::kCancelled || code == Code::kDeadlineExceeded) << text;
    }
    co_return Ok();
  };
  std::vector<std::future<Result<void>>> tasks;
  for (int task = 0; task < kTasks; ++task)
    tasks.push_back(calls_.Start<void>([&, task](Call& call) -> Task<void> { co_return co_await rage(call, task); }));
  for (auto& task : tasks) EXPECT_TRUE(task.get().ok());

  const double abandoned = MetricValue(metrics_, "nova_redis_abandoned_replies_total{client=\"main\"}");
  std::cout << answered << " answered, " << ended << " ended early, " << abandoned << " replies abandoned\n";
  EXPECT_GT(answered, 100);
  EXPECT_GT(abandoned, 100) << "the storm was none";
  EXPECT_EQ(Reconnects(), 0);
  EXPECT_TRUE(EchoWorks());
  EXPECT_TRUE(Eventually([&] { return dependency_->bulkhead().in_use() == 0; })) << "every place came back";
  EXPECT_EQ(dependency_->bulkhead().orphaned(), 0);
}

TEST_F(ClientRedisTest, AServerThatStopsForAWhileShiftsNothing) {
  MakeClient();
  ASSERT_TRUE(EchoWorks());
  server_.Pause();
  std::vector<std::future<Result<Reply>>> calls;
  const SteadyTime begin = Clock::System().Now();
  for (int i = 0; i < 200; ++i) calls.push_back(Start(Command("ECHO", i), 300ms));
  for (auto& call : calls) EXPECT_EQ(CodeOf(call.get()), Code::kDeadlineExceeded);
  EXPECT_LT(Clock::System().Now() - begin, 5s);
  std::vector<std::future<Result<Reply>>> later;
  for (int i = 1000; i < 1200; ++i) later.push_back(Start(Command("ECHO", i)));
  server_.Resume();
  for (int i = 0; i < 200; ++i) EXPECT_EQ(TextOf(later[static_cast<std::size_t>(i)].get()), std::to_string(1000 + i));
  EXPECT_EQ(MetricValue(metrics_, "nova_redis_abandoned_replies_total{client=\"main\"}"), 200);
  EXPECT_EQ(Reconnects(), 0);
}

TEST_F(ClientRedisTest, AServerThatStopsForLongIsLeftAndFoundAgain) {
  config_.reply_limit = 300ms;
  config_.connect_timeout = 200ms;
  MakeClient();
  ASSERT_TRUE(EchoWorks());
  ASSERT_TRUE(Eventually([&] { return Connected() == config_.connections; }));
  server_.Pause();
  EXPECT_FALSE(Run(Command("ECHO", "x")).ok());
  EXPECT_TRUE(Eventually([&] { return CodeOf(Run(Command("ECHO", "x"))) == Code::kUnavailable; }));
  server_.Resume();
  EXPECT_TRUE(Eventually([&] { return EchoWorks(); }));
}

// Against a server that is stopped, and so keeps its connections and even takes new ones, as long as it likes.
TEST_F(ClientRedisTest, AStoppedServerOpensTheBreakerAndIsFoundAgainByTheSameClient) {
  constexpr auto kDeadline = 1s;
  config_.reply_limit = 1s;
  config_.reconnect_delay_max = ClientConfig().reconnect_delay_max;
  auto policies = resilience::DependencyConfig::Default(resilience::Kind::kCache);
  policies.timeout = 200ms;
  policies.slow = 100ms;
  MakeClient(policies);
  resilience::Breaker& breaker = dependency_->breaker();
  using State = resilience::Breaker::State;

  ScriptedRedis healthy([](const ScriptedRedis::Command& command) { return std::optional(Bulk(command[1])); });
  resilience::CacheDependency other_dependency("other", metrics_, policies);
  ClientConfig other_config;
  other_config.port = healthy.port();
  other_config.tls = false;
  Client other(runtime_, metrics_, other_dependency, other_config);
  const auto other_works = [&] {
    return calls_
        .Start<Reply>([&](Call& call) -> Task<Reply> { co_return co_await other.Run(call, Command("ECHO", "x")); })
        .get()
        .ok();
  };

  ASSERT_TRUE(EchoWorks());
  ASSERT_TRUE(Eventually([&] { return Connected() == config_.connections; }));
  server_.Pause();
  while (breaker.state() != State::kOpen) {
    std::vector<std::future<Result<Reply>>> calls;
    const SteadyTime begin = Clock::System().Now();
    for (int i = 0; i < 10; ++i) calls.push_back(Start(Command("ECHO", i), kDeadline));
    for (auto& call : calls) EXPECT_FALSE(call.get().ok());
    ASSERT_LT(Clock::System().Now() - begin, kDeadline) << "the policy's limit is the smaller one";
  }
  EXPECT_GT(dependency_->bulkhead().orphaned(), 0);

  const auto refused = [&] {
    return MetricValue(metrics_, "nova_dependency_calls_total{dependency=\"redis\",outcome=\"open\"}");
  };
  const double before = refused();
  const SteadyTime opened = Clock::System().Now();
  for (int i = 0; i < 100; ++i) EXPECT_EQ(CodeOf(Run(Command("ECHO", i))), Code::kUnavailable);
  EXPECT_LT(Clock::System().Now() - opened, 5s) << "100 calls that waited would take 20 s";
  EXPECT_EQ(refused() - before, 100);
  EXPECT_TRUE(other_works());

  // Long enough for the connections to be given up, and for attempts to open others.
  EXPECT_TRUE(Eventually([&] { return Connected() == 0; }));
  EXPECT_TRUE(Eventually([&] { return dependency_->bulkhead().orphaned() == 0; }))
      << "they ended with their connection";
  // It may be back at any moment between two attempts and two probes.
  std::mt19937 random(tests::TestSeed());
  const SteadyTime until = Clock::System().Now() + std::chrono::milliseconds(random() % 1500);
  while (Clock::System().Now() < until) EXPECT_FALSE(Run(Command("ECHO", "x")).ok());

  server_.Resume();
  const SteadyTime resumed = Clock::System().Now();
  EXPECT_TRUE(Eventually([&] { return EchoWorks() && breaker.state() == State::kClosed; }));
  const Duration recovery = Clock::System().Now() - resumed;
  std::cout << "recovered after " << std::chrono::duration_cast<std::chrono::milliseconds>(recovery).count() << " ms\n";
  EXPECT_LT(recovery, policies.breaker.open_time + 2s);
  EXPECT_TRUE(Eventually([&] { return dependency_->bulkhead().in_use() == 0; }));

  EXPECT_EQ(other_dependency.breaker().state(), State::kClosed);
  EXPECT_TRUE(other_works());
  EXPECT_TRUE(other.Close(kPlentyOfTime).ok());
  EXPECT_EQ(other_dependency.bulkhead().in_use(), 0);
}

TEST_F(ClientRedisTest, AServerThatIsKilledFailsAllThatIsOnTheWayAndIsFoundAgain) {
  MakeClient();
  ASSERT_TRUE(EchoWorks());
  ASSERT_TRUE(Eventually([&] { return Connected() == config_.connections; }));
  // Paused, so that the commands are on the way for certain.
  server_.Pause();
  std::vector<std::future<Result<Reply>>> calls;
  for (int i = 0; i < 1000; ++i) calls.push_back(Start(Command("ECHO", i)));
  auto blocking = calls_.Start<Reply>([&](Call& call) -> Task<Reply> {
    co_return co_await client_->RunBlocking(call, Command("BLPOP", "redistest:empty", 0), 20s);
  });
  const SteadyTime begin = Clock::System().Now();
  server_.Kill();
  for (auto& call : calls) EXPECT_EQ(CodeOf(call.get()), Code::kUnavailable);
  EXPECT_EQ(CodeOf(blocking.get()), Code::kUnavailable);
  EXPECT_EQ(CodeOf(Run(Command("ECHO", "x"))), Code::kUnavailable);
  EXPECT_LT(Clock::System().Now() - begin, 4s) << "nobody waited for a timeout";
  server_.Restart();
  const SteadyTime back = Clock::System().Now();
  EXPECT_TRUE(Eventually([&] { return EchoWorks(); }));
  EXPECT_LT(Clock::System().Now() - back, 5s);
}

TEST_F(ClientRedisTest, KilledAndRestartedAgainAndAgainItAnswersOrSaysUnavailable) {
  MakeClient();
  std::atomic<bool> stop = false;
  std::atomic<int> answered = 0;
  std::vector<std::future<Result<void>>> tasks;
  for (int task = 0; task < 8; ++task) {
    tasks.push_back(calls_.Start<void>(
        [&, task](Call& call) -> Task<void> {
          for (int i = 0; !stop; ++i) {
            const std::string id = std::to_string(task) + "/" + std::to_string(i);
            const auto reply = co_await client_->Run(call, Command("ECHO", id));
            if (reply) {
              ++answered;
              EXPECT_EQ(reply->text, id);
              continue;
            }
            EXPECT_EQ(CodeOf(reply), Code::kUnavailable) << DetailOf(reply);
            NOVA_CO_TRY(co_await runtime::Sleep(call, 1ms));
          }
          co_return Ok();
        },
        2 * kPlentyOfTime));
  }
  for (int round = 0; round < 5; ++round) {
    const int before = answered;
    EXPECT_TRUE(Eventually([&] { return answered > before + 100; }));
    server_.Kill();
    server_.Restart();
  }
  const int before = answered;
  EXPECT_TRUE(Eventually([&] { return answered > before + 100; }));
  stop = true;
  for (auto& task : tasks) EXPECT_TRUE(task.get().ok());
}

TEST_F(ClientRedisTest, AConnectionThatTheServerEndsIsReplaced) {
  MakeClient();
  ASSERT_TRUE(EchoWorks());
  ASSERT_TRUE(Eventually([&] { return Connected() == config_.connections; }));
  server_.Command({"CLIENT", "KILL", "USER", "redistest"});
  EXPECT_TRUE(Eventually([&] { return Reconnects() == config_.connections; }));
  EXPECT_TRUE(EchoWorks());
}

TEST_F(ClientRedisTest, AWrongPasswordNamesTheSettings) {
  config_.password = Secret<>("not-the-password");
  const Error error = Failure(config_);
  EXPECT_EQ(error.code(), Code::kUnavailable);
  EXPECT_NE(error.detail().find("WRONGPASS"), std::string::npos) << error.detail();
  EXPECT_NE(error.detail().find("NOVA_REDIS_PASSWORD"), std::string::npos) << error.detail();
}

TEST_F(ClientRedisTest, NoPasswordNamesTheSettings) {
  ClientConfig config = config_;
  config.user = "";
  config.password = {};
  resilience::CacheDependency dependency("redis", metrics_, NoPolicies());
  Client client(runtime_, metrics_, dependency, config);
  const auto reply =
      calls_.Start<Reply>([&](Call& call) -> Task<Reply> { co_return co_await client.Run(call, Command("ECHO", "x")); })
          .get();
  EXPECT_TRUE(client.Close(kPlentyOfTime).ok());
  EXPECT_EQ(CodeOf(reply), Code::kUnavailable);
  EXPECT_NE(DetailOf(reply).find("NOVA_REDIS_PASSWORD"), std::string::npos) << DetailOf(reply);
}

TEST_F(ClientRedisTest, AWrongNameNamesTheSetting) {
  config_.server_name = "other.nova.svc.cluster.local";
  const Error error = Failure(config_);
  EXPECT_EQ(error.code(), Code::kUnavailable);
  EXPECT_NE(error.detail().find("NOVA_REDIS_SERVER_NAME"), std::string::npos) << error.detail();
  config_.server_name = "127.0.0.2";
  EXPECT_NE(Failure(config_).detail().find("NOVA_REDIS_SERVER_NAME"), std::string::npos);
}

TEST_F(ClientRedisTest, AnAddressInTheCertificateIsAName) {
  config_.server_name = "";  // then it is the host: 127.0.0.1
  MakeClient();
  EXPECT_TRUE(EchoWorks());
}

class Folder {
 public:
  Folder() {
    std::string name = std::filesystem::temp_directory_path() / "nova-redis-test-XXXXXX";
    path_ = ::mkdtemp(name.data());
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  std::filesystem::path operator/(std::string_view name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

TEST_F(ClientRedisTest, AnAuthorityThatSignedNothingNamesTheSetting) {
  const Folder folder;
  ASSERT_TRUE(tls::Authority::Create(folder / "ca", Clock::System()).ok());
  config_.ca_path = folder / "ca/ca.crt";
  const Error error = Failure(config_);
  EXPECT_EQ(error.code(), Code::kUnavailable);
  EXPECT_NE(error.detail().find("NOVA_REDIS_CA_PATH"), std::string::npos) << error.detail();
  config_.ca_path = folder / "nothing";
  EXPECT_NE(Failure(config_).detail().find("NOVA_REDIS_CA_PATH"), std::string::npos);
}

TEST_F(ClientRedisTest, TheAuthoritiesAreReadAnewForEveryConnection) {
  const Folder folder;
  std::ofstream(folder / "ca.crt") << "not yet\n";
  config_.ca_path = folder / "ca.crt";
  MakeClient();
  EXPECT_FALSE(Run(Command("ECHO", "x")).ok());
  std::filesystem::copy_file(server_.ca_file(), folder / "ca.crt", std::filesystem::copy_options::overwrite_existing);
  EXPECT_TRUE(Eventually([&] { return EchoWorks(); }));
}

// Over TLS, with every connection replaced again and again.
TEST_F(ClientRedisTest, NobodyNoticesThatConnectionsReachTheirAge) {
  constexpr int kTasks = 8;
  config_.connections = 8;
  // The last tenth of it is enough for a handshake on any machine.
  config_.connection_lifetime = 2s;
  config_.blocking_connections_max = kTasks;
  int asked = 0;
  // Connections that Redis has taken, without those of this very question.
  const auto received = [&] {
    ++asked;
    const std::string info = server_.Command({"INFO", "stats"}).text;
    const std::string name = "total_connections_received:";
    return std::stoi(info.substr(info.find(name) + name.size())) - asked;
  };
  MakeClient();
  ASSERT_TRUE(EchoWorks());
  ASSERT_TRUE(Eventually([&] { return Connected() == config_.connections; }));
  const int before = received();
  std::atomic<bool> stop = false;
  std::atomic<int> answered = 0;
  std::vector<std::future<Result<void>>> tasks;
  for (int task = 0; task < kTasks; ++task) {
    tasks.push_back(calls_.Start<void>([&, task](Call& call) -> Task<void> {
      for (int i = 0; !stop; ++i) {
        const std::string id = std::to_string(task) + "/" + std::to_string(i);
        if (task == 0) {
          const auto reply =
              co_await client_->RunBlocking(call, Command("BLPOP", "redistest:empty:" + id, "0.01"), 10ms);
          if (!reply) co_return reply.error();
          continue;
        }
        NOVA_CO_TRY(const Reply reply, co_await client_->Run(call, Command("ECHO", id)));
        EXPECT_EQ(reply.text, id);
        ++answered;
      }
      co_return Ok();
    }));
  }
  EXPECT_TRUE(Eventually([&] {
    EXPECT_EQ(Connected(), config_.connections) << "the next comes before the last goes";
    return received() >= before + 3 * config_.connections;
  }));
  stop = true;
  for (auto& task : tasks) {
    const Result<void> done = task.get();
    EXPECT_TRUE(done.ok()) << done.error().ToString();
  }
  std::cout << answered << " answered over " << received() - before << " connections\n";
  EXPECT_GT(answered, 100);
  EXPECT_EQ(Reconnects(), 0);
}

TEST_F(ClientRedisTest, AWithdrawnAuthorityIsNotTrustedLongerThanAConnectionLives) {
  const Folder folder;
  ASSERT_TRUE(tls::Authority::Create(folder / "ca", Clock::System()).ok());
  const auto trust = [&](const std::filesystem::path& file) {
    std::filesystem::copy_file(file, folder / "next.crt", std::filesystem::copy_options::overwrite_existing);
    std::filesystem::rename(folder / "next.crt", folder / "ca.crt");
  };
  trust(server_.ca_file());
  config_.ca_path = folder / "ca.crt";
  config_.connection_lifetime = 1s;
  MakeClient();
  ASSERT_TRUE(EchoWorks());
  trust(folder / "ca/ca.crt");
  const SteadyTime withdrawn = Clock::System().Now();
  Result<Reply> reply;
  EXPECT_TRUE(Eventually([&] {
    reply = Run(Command("ECHO", "x"));
    return !reply.ok();
  }));
  EXPECT_LT(Clock::System().Now() - withdrawn, config_.connection_lifetime + 5s);
  EXPECT_TRUE(Eventually([&] { return DetailOf(Run(Command("ECHO", "x"))).contains("NOVA_REDIS_CA_PATH"); }));
  trust(server_.ca_file());
  EXPECT_TRUE(Eventually([&] { return EchoWorks(); }));
}

TEST_F(ClientRedisTest, CloseWithWorkInFlightFinishesItOrRefusesIt) {
  MakeClient();
  ASSERT_TRUE(EchoWorks());
  std::vector<std::future<Result<Reply>>> calls;
  for (int i = 0; i < 2000; ++i) calls.push_back(Start(Command("ECHO", i)));
  EXPECT_TRUE(client_->Close(kPlentyOfTime).ok());
  int answered = 0;
  for (std::size_t i = 0; i < calls.size(); ++i) {
    const auto reply = calls[i].get();
    if (reply) {
      EXPECT_EQ(reply->text, std::to_string(i));
      ++answered;
    } else {
      EXPECT_EQ(reply.error().message(), "the service is stopping") << DetailOf(reply);
    }
  }
  std::cout << answered << " of 2000 were answered\n";
  EXPECT_EQ(Connected(), 0);
}

}  // namespace
}  // namespace nova::redis
