#include "nova/health/monitor.h"

#include <atomic>
#include <gtest/gtest.h>

namespace nova::health {
namespace {

using runtime::Call;
using runtime::Task;
using std::chrono::milliseconds;
using std::chrono::seconds;

// Awaits changes until the monitor says `serving`.
Task<void> AwaitServing(Call& call, Monitor& monitor, bool serving) {
  for (Snapshot snapshot = monitor.Get(); snapshot.serving != serving;) {
    NOVA_CO_TRY(snapshot, co_await monitor.Changed(call, snapshot.version));
  }
  co_return Ok();
}

class MonitorTest : public ::testing::Test {
 protected:
  ~MonitorTest() override { EXPECT_TRUE(scope_.Stop(seconds(10)).ok()); }

  Result<void> Await(bool serving) {
    return runtime_.RunBlocking<void>(seconds(20), [&](Call& call) { return AwaitServing(call, monitor_, serving); });
  }

  Probe Switch(std::atomic<bool>& up) {
    return [&up](Call&) -> Task<void> {
      if (!up) co_return Unavailable("down for the test");
      co_return Ok();
    };
  }

  runtime::Runtime runtime_;
  runtime::Scope scope_{runtime_};
  telemetry::Metrics metrics_;
  Monitor monitor_{metrics_, {.period = milliseconds(100), .timeout = milliseconds(50)}};
};

TEST_F(MonitorTest, FollowsItsHardDependencyAndNamesTheCause) {
  std::atomic<bool> up = true;
  monitor_.AddHard("postgres", Switch(up));
  EXPECT_FALSE(monitor_.serving());  // nothing is claimed before the first probe
  monitor_.Start(scope_);
  ASSERT_TRUE(Await(true).ok());
  up = false;
  ASSERT_TRUE(Await(false).ok());
  EXPECT_NE(monitor_.Get().cause.find("postgres: UNAVAILABLE: down for the test"), std::string::npos);
  EXPECT_NE(monitor_.Get().ToJson().find("\"serving\":false"), std::string::npos);
  up = true;
  ASSERT_TRUE(Await(true).ok());
}

TEST_F(MonitorTest, ASoftDependencyDecidesNothing) {
  std::atomic<bool> hard = true;
  std::atomic<bool> soft = false;
  monitor_.AddHard("postgres", Switch(hard));
  monitor_.AddSoft("redis", Switch(soft));
  monitor_.Start(scope_);
  ASSERT_TRUE(Await(true).ok());
  EXPECT_FALSE(monitor_.Get().dependencies[1].healthy);
}

TEST_F(MonitorTest, AProbeThatHangsCountsAsFailed) {
  std::atomic<bool> hang = false;
  monitor_.AddHard("stalled", [&](Call& call) -> Task<void> {
    if (hang) co_return co_await runtime::Sleep(call, std::chrono::hours(1));
    co_return Ok();
  });
  monitor_.Start(scope_);
  ASSERT_TRUE(Await(true).ok());
  hang = true;
  ASSERT_TRUE(Await(false).ok());
  EXPECT_NE(monitor_.Get().cause.find("DEADLINE_EXCEEDED"), std::string::npos);
}

TEST_F(MonitorTest, DrainingIsNotServing) {
  std::atomic<bool> up = true;
  monitor_.AddHard("postgres", Switch(up));
  monitor_.Start(scope_);
  ASSERT_TRUE(Await(true).ok());
  monitor_.Drain();
  EXPECT_FALSE(monitor_.serving());
  EXPECT_EQ(monitor_.Get().cause, "the process is draining");
}

TEST_F(MonitorTest, AWaiterWhoseCallEndsIsForgotten) {
  std::atomic<bool> up = true;
  monitor_.AddHard("postgres", Switch(up));
  monitor_.Start(scope_);
  ASSERT_TRUE(Await(true).ok());
  const auto waited = runtime_.RunBlocking<Snapshot>(
      milliseconds(1), [&](Call& call) { return monitor_.Changed(call, monitor_.Get().version); });
  EXPECT_EQ(waited.error().code(), Code::kDeadlineExceeded);
}

}  // namespace
}  // namespace nova::health
