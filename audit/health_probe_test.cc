// The checks of P0-4 that take a fault, against a service whose health follows a process that may be stopped.
#include "audit/health_probe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <map>
#include <set>

#include "tests/eventually.h"
#include "tests/idler.h"
#include "tests/probe_fixture.h"

namespace nova::audit {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::HasSubstr;
using Status = Row::Status;

// The service is healthy while none of the processes that it `follows` stands still.
class HealthProbeTest : public tests::ProbeFixture {
 protected:
  void Start(std::set<std::string> follows) {
    Serve(Mtls().ServerCredentials("identity"));
    config_.topology.services = {{.name = "identity", .database = "identity", .role = "identity"}};
    for (const char* const name : {"postgres", "pgbouncer", "redis", "identity"})
      config_.processes.push_back(parts_[name].target(name));
    following_.Spawn("health follows processes",
                     [this, follows = std::move(follows)](runtime::Call& call) -> runtime::Task<void> {
                       for (;;) {
                         bool healthy = true;
                         for (const std::string& name : follows)
                           healthy &= tests::StateOf(parts_.at(name).pid()) != 'T';
                         healthy_ = healthy && !is_down_;
                         NOVA_CO_TRY(co_await runtime::Sleep(call, milliseconds(10)));
                       }
                     });
  }
  void TearDown() override { EXPECT_TRUE(following_.Stop(seconds(10)).ok()); }

  std::map<std::string, tests::Idler> parts_;
  std::atomic<bool> is_down_ = false;
  runtime::Scope following_{runtime_};
};

TEST_F(HealthProbeTest, AServiceThatTellsTheTruthPasses) {
  Start({"postgres", "pgbouncer"});
  HealthProbe probe(runtime_, config_, {.stall_min = seconds(0)});
  const Finding fell = probe.NotServingAfter();
  // How soon is a matter of this machine; that every stream was seen is not.
  ASSERT_NE(fell.status, Status::kNotMeasured) << fell.note;
  EXPECT_NE(fell.value, "never") << fell.note;
  EXPECT_GT(std::stod(fell.value), 0.0);
  EXPECT_THAT(fell.note, HasSubstr("; 2 streams"));
  const Finding rose = probe.ServingAfter();
  ASSERT_NE(rose.status, Status::kNotMeasured) << rose.note;
  EXPECT_NE(rose.value, "never") << rose.note;
  const Finding needless = probe.ChangesWithoutNeed();
  EXPECT_EQ(needless.status, Status::kPass) << needless.value << ": " << needless.note;
  EXPECT_EQ(needless.value, "0");
  for (const auto& [name, part] : parts_) EXPECT_NE(tests::StateOf(part.pid()), 'T') << name;
}

TEST_F(HealthProbeTest, AServiceThatSaysNothingFails) {
  Start({"pgbouncer"});
  HealthProbe probe(runtime_, config_, {.stall_min = seconds(0), .look = seconds(5)});
  const Finding fell = probe.NotServingAfter();
  EXPECT_EQ(fell.status, Status::kFail);
  EXPECT_EQ(fell.value, "never");
  EXPECT_THAT(fell.note, HasSubstr("identity did not say NOT_SERVING for PostgreSQL"));
  EXPECT_THAT(fell.note, testing::Not(HasSubstr("for PgBouncer")));
}

TEST_F(HealthProbeTest, AServiceThatDoesNotServeWithoutRedisFails) {
  Start({"postgres", "pgbouncer", "redis"});
  HealthProbe probe(runtime_, config_, {.stall_min = seconds(2)});
  const Finding needless = probe.ChangesWithoutNeed();
  EXPECT_EQ(needless.status, Status::kFail);
  EXPECT_THAT(needless.note, HasSubstr("identity said NOT_SERVING while Redis stood still"));
  EXPECT_THAT(needless.note, testing::Not(HasSubstr("while PostgreSQL")));
}

TEST_F(HealthProbeTest, AShortSoakProvesNothingUnlessItFails) {
  Start({});
  config_.soak = seconds(3);
  const Finding calm = HealthProbe(runtime_, config_).ChangesInSoak();
  EXPECT_EQ(calm.status, Status::kNotMeasured);
  EXPECT_THAT(calm.note, HasSubstr("0 changes, but it was too short: 3."));
  config_.soak = seconds(6);
  config_.progress = [&](std::string_view what) {
    if (what.starts_with("soak: ")) is_down_ = true;
  };
  const Finding changed = HealthProbe(runtime_, config_).ChangesInSoak();
  EXPECT_EQ(changed.status, Status::kFail);
  EXPECT_THAT(changed.note, HasSubstr("identity said NOT_SERVING after "));
}

TEST_F(HealthProbeTest, WhoDoesNotServeBeforeIsNotMeasured) {
  Start({});
  is_down_ = true;
  ASSERT_TRUE(tests::Eventually([&] { return !monitor_.serving(); }));
  HealthProbe probe(runtime_, config_, {.ready = seconds(2)});
  const Finding down = probe.ChangesInSoak();
  EXPECT_EQ(down.status, Status::kNotMeasured);
  EXPECT_THAT(down.note, HasSubstr("identity: NOT_SERVING"));
}

TEST_F(HealthProbeTest, WithoutTheProcessesNothingIsMeasured) {
  Start({});
  config_.processes.clear();
  HealthProbe probe(runtime_, config_);
  for (const Finding& finding :
       {probe.NotServingAfter(), probe.ServingAfter(), probe.ChangesWithoutNeed(), probe.ChangesInSoak()}) {
    EXPECT_EQ(finding.status, Status::kNotMeasured);
    EXPECT_THAT(finding.note, HasSubstr("is not known: is it down?"));
  }
}

}  // namespace
}  // namespace nova::audit
