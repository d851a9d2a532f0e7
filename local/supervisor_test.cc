#include "local/supervisor.h"

#include <fstream>
#include <gtest/gtest.h>
#include <sstream>
#include <stdlib.h>
#include <unistd.h>

namespace nova::local {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

// A shell script that is ready when its log says so.
class Script final : public Component {
 public:
  Script(std::string name, fs::path folder, std::string script, Duration ready_limit = 10s)
      : name_(std::move(name)), folder_(std::move(folder)), script_(std::move(script)), ready_limit_(ready_limit) {}

  std::string name() const override { return name_; }
  int port() const override { return 1; }
  fs::path log_file() const override { return folder_ / (name_ + ".log"); }
  Duration ready_limit() const override { return ready_limit_; }
  Result<void> Launch() override {
    process_.reset();
    fs::remove(log_file());
    NOVA_TRY(process_, Process::Spawn({.name = name_,
                                       .program = "/bin/sh",
                                       .arguments = {"-c", script_},
                                       .environment = {{"PATH", "/usr/bin:/bin"}},
                                       .working_directory = folder_,
                                       .log_file = log_file()}));
    return Ok();
  }
  Process* process() override { return process_ ? &*process_ : nullptr; }
  Result<void> CheckReady(Duration) override {
    if (LastLineOfFile(log_file()) == "ready") return Ok();
    return Unavailable("not yet");
  }
  Result<void> Stop() override {
    auto ended = process_->Terminate({{SIGTERM, 5s}});
    std::ofstream(folder_ / "stopped", std::ios::app) << name_ << "\n";
    if (!ended) return std::move(ended).error();
    return Ok();
  }

 private:
  const std::string name_;
  const fs::path folder_;
  const std::string script_;
  const Duration ready_limit_;
  std::optional<Process> process_;
};

class SupervisorTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "nova-supervisor-test-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::unique_ptr<Component> Make(std::string name, std::string script, Duration limit = 10s) {
    return std::make_unique<Script>(std::move(name), folder_, std::move(script), limit);
  }
  std::string Read(const std::string& file) {
    std::ostringstream text;
    text << std::ifstream(folder_ / file).rdbuf();
    return text.str();
  }

  fs::path folder_;
};

constexpr const char* kServes = "echo ready; exec sleep 1000";

TEST_F(SupervisorTest, StopsInReverseOrderOfTheStart) {
  runtime::StopSignals signals;
  int changes = 0;
  Supervisor supervisor(signals, {.changed = [&] { ++changes; }});
  ASSERT_TRUE(supervisor.Start(Make("first", kServes)));
  ASSERT_TRUE(supervisor.Start(Make("second", kServes)));
  auto states = supervisor.States();
  ASSERT_EQ(states.size(), 2U);
  EXPECT_EQ(states[0].name, "first");
  EXPECT_EQ(states[1].phase, Phase::kReady);
  EXPECT_TRUE(StartTicks(states[1].pid).has_value());
  EXPECT_EQ(changes, 4);
  EXPECT_TRUE(supervisor.Stop());
  EXPECT_EQ(Read("stopped"), "second\nfirst\n");
  EXPECT_FALSE(StartTicks(states[0].pid).has_value());
}

TEST_F(SupervisorTest, StartsAgainWhatEndsWithGrowingDelays) {
  runtime::StopSignals signals;
  std::vector<SteadyTime> starts;
  Supervisor* self = nullptr;
  SupervisorConfig config{.restart_delay_min = 40ms, .restart_delay_max = 80ms};
  int seen = -1;
  config.changed = [&] {
    auto states = self->States();
    if (!states.empty() && states[0].phase == Phase::kStarting && states[0].restarts != seen) {
      seen = states[0].restarts;
      starts.push_back(Clock::System().Now());
    }
  };
  // The signal comes from the supervisor's own loop, so the test waits for what it wants to see and for nothing else.
  config.chores = [&]() -> Duration {
    if (self->States()[0].restarts >= 4) ::raise(SIGTERM);
    return 10ms;
  };
  Supervisor supervisor(signals, std::move(config));
  self = &supervisor;
  ASSERT_TRUE(supervisor.Start(Make("brief", "echo ready; exec sleep 0.1")));
  supervisor.Run();
  ASSERT_GE(starts.size(), 5U);
  // Each lives 100 ms; the delays are 40, then 80 and never more. On a busy machine the earlier of two starts may be
  // seen late, which makes the time between them look shorter.
  constexpr auto kSeenLate = 35ms;
  EXPECT_GE(starts[1] - starts[0], 140ms - kSeenLate);
  EXPECT_GE(starts[2] - starts[1], 180ms - kSeenLate);
  EXPECT_GE(starts[4] - starts[3], 180ms - kSeenLate);
  EXPECT_TRUE(supervisor.Stop());
}

TEST_F(SupervisorTest, WhatWasReadyLongEnoughIsStartedAgainAfterTheFirstDelay) {
  runtime::StopSignals signals;
  std::vector<SteadyTime> starts;
  Supervisor* self = nullptr;
  SupervisorConfig config{.restart_delay_min = 50ms, .restart_delay_max = 1h, .stable_after = 20ms};
  config.changed = [&] {
    auto states = self->States();
    if (!states.empty() && states[0].phase == Phase::kStarting) starts.push_back(Clock::System().Now());
  };
  config.chores = [&]() -> Duration {
    if (self->States()[0].restarts >= 6) ::raise(SIGTERM);
    return 10ms;
  };
  Supervisor supervisor(signals, std::move(config));
  self = &supervisor;
  ASSERT_TRUE(supervisor.Start(Make("stable", "echo ready; exec sleep 0.2")));
  supervisor.Run();
  ASSERT_GE(starts.size(), 7U);
  // Delays that grow would have come to 1.6 s by now.
  EXPECT_LT(starts[6] - starts[5], 1500ms);
}

TEST_F(SupervisorTest, BecomesReadyAgainAfterARestart) {
  runtime::StopSignals signals;
  Supervisor* self = nullptr;
  pid_t killed = 0;
  SupervisorConfig config{.restart_delay_min = 10ms};
  config.chores = [&]() -> Duration {
    ComponentState state = self->States()[0];
    if (killed == 0) {
      killed = state.pid;
      ::kill(state.pid, SIGKILL);
    } else if (state.phase == Phase::kReady && state.restarts == 1) {
      ::raise(SIGINT);
    }
    return 10ms;
  };
  Supervisor supervisor(signals, std::move(config));
  self = &supervisor;
  ASSERT_TRUE(supervisor.Start(Make("server", kServes)));
  supervisor.Run();
  EXPECT_NE(supervisor.States()[0].pid, killed);
}

TEST_F(SupervisorTest, AnEndWhileStartingSaysWhyAndKeepsTheKindOfError) {
  runtime::StopSignals signals;
  Supervisor supervisor(signals, {});
  auto configuration = supervisor.Start(Make("a", "echo NOVA_X: wrong; exit 2"));
  ASSERT_FALSE(configuration);
  EXPECT_EQ(configuration.error().code(), Code::kFailedPrecondition);
  EXPECT_NE(configuration.error().message().find("NOVA_X: wrong"), std::string::npos);
  EXPECT_EQ(supervisor.Start(Make("b", "exit 3")).error().code(), Code::kUnavailable);
  EXPECT_EQ(supervisor.Start(Make("c", "exit 1")).error().code(), Code::kInternal);
}

TEST_F(SupervisorTest, AComponentThatIsNeverReadyIsAnErrorAndIsStopped) {
  runtime::StopSignals signals;
  pid_t pid = 0;
  {
    Supervisor supervisor(signals, {});
    auto started = supervisor.Start(Make("mute", "exec sleep 1000", 100ms));
    ASSERT_FALSE(started);
    EXPECT_EQ(started.error().code(), Code::kDeadlineExceeded);
    pid = supervisor.States()[0].pid;
    EXPECT_TRUE(StartTicks(pid).has_value());
  }
  EXPECT_FALSE(StartTicks(pid).has_value());
}

TEST_F(SupervisorTest, ASignalEndsAStartThatWaits) {
  runtime::StopSignals signals;
  Supervisor supervisor(signals, {});
  ::raise(SIGTERM);
  auto started = supervisor.Start(Make("late", "exec sleep 1000"));
  ASSERT_FALSE(started);
  EXPECT_EQ(started.error().code(), Code::kCancelled);
}

}  // namespace
}  // namespace nova::local
