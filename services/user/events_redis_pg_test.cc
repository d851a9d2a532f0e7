#include <gtest/gtest.h>
#include <limits>

#include "api/events/v1/identity.pb.h"
#include "nova/events/consumer.h"
#include "services/user/events.h"
#include "services/user/test_environment.h"
#include "tests/event_producer.h"
#include "tests/eventually.h"
#include "tests/redis_fixture.h"

namespace nova::user {
namespace {

using namespace std::chrono_literals;
using events::v1::AccountRegistered;
using tests::Eventually;

// The user service consumes what somebody publishes in identity's name.
class EventsTest : public UserTest {
 protected:
  void SetUp() override {
    UserTest::SetUp();
    Consume(consumer_, service_);
    consumer_.Start(scope_);
  }
  void TearDown() override {
    EXPECT_TRUE(scope_.Stop(kSoon));
    EXPECT_TRUE(redis_.Close(kSoon));
    UserTest::TearDown();
  }

  AccountRegistered Registered(Uuid id, const std::string& username) {
    AccountRegistered event;
    event.set_account_id(id.ToString());
    event.set_username(username);
    event.mutable_registered_at()->set_seconds(1'700'000'000);
    event.mutable_registered_at()->set_nanos(123'456'789);
    return event;
  }

  void Publish(const AccountRegistered& event) { identity_.Publish("account/" + std::to_string(++published_), event); }
  // Returns when all that was published has been dealt with.
  void AwaitAll() {
    EXPECT_TRUE(Eventually([this] { return CountOf("events.inbox") == std::to_string(published_); }))
        << CountOf("events.inbox") << " of " << published_;
  }

  int published_ = 0;
  tests::EventProducer identity_{runtime_, "identity"};
  runtime::Scope scope_{runtime_};
  resilience::CacheDependency streams_{"redis", metrics_};
  redis::Client redis_{runtime_, metrics_, streams_, tests::RedisFixture::Instance().Client(kName)};
  events::Consumer consumer_{
      outbox_,
      pool_,
      redis_,
      metrics_,
      {.group = kName, .block = 200ms, .retry_delay_min = 1ms, .retry_delay_max = 5ms, .attempts_max = 3}};
};

TEST_F(EventsTest, ARegistrationBecomesAProfileOnceHoweverOftenItIsTold) {
  const Uuid ada = Uuid::New();
  for (int i = 0; i < 3; ++i) Publish(Registered(ada, "ada"));
  const Uuid bob = Uuid::New();
  Publish(Registered(bob, "bob"));
  AwaitAll();
  const auto own = Get(ada, ada);
  ASSERT_TRUE(own) << own.error().ToString();
  EXPECT_EQ(own->username, "ada");
  EXPECT_EQ(own->created_at, WallTime(1'700'000'000'123'456us)) << "PostgreSQL keeps microseconds";
  EXPECT_TRUE(Get(bob));
  EXPECT_EQ(CountOf("users"), "2");
  EXPECT_EQ(CountOf("user_settings"), "2");
  EXPECT_EQ(EventsOf(ada), "UserCreated");
  EXPECT_EQ(CountOf("events.dead_letters"), "0");
}

TEST_F(EventsTest, WhoeverWasDeletedStaysSo) {
  const Uuid ada = Uuid::New();
  Publish(Registered(ada, "ada"));
  AwaitAll();
  ASSERT_TRUE(Delete(ada));
  Publish(Registered(ada, "ada"));
  AwaitAll();
  EXPECT_EQ(Get(ada, ada).error().code(), Code::kNotFound);
  EXPECT_EQ(EventsOf(ada), "UserCreated UserDeleted");
  EXPECT_EQ(CountOf("events.dead_letters"), "0");
}

TEST_F(EventsTest, AnEventThatCannotBeAppliedIsKeptForPeopleAndStopsNobody) {
  const Uuid ada = Uuid::New();
  const Uuid twin = Uuid::New();
  const Uuid bob = Uuid::New();
  Publish(Registered(ada, "ada"));
  Publish(Registered(twin, "ada"));
  AccountRegistered nobodys = Registered(ada, "x");
  nobodys.set_account_id("not an id");
  Publish(nobodys);
  AccountRegistered undated = Registered(Uuid::New(), "undated");
  undated.clear_registered_at();
  Publish(undated);
  AccountRegistered never = Registered(Uuid::New(), "never");
  never.mutable_registered_at()->set_seconds(std::numeric_limits<std::int64_t>::max());
  Publish(never);
  Publish(Registered(Uuid::New(), "Unfolded"));
  Publish(Registered(bob, "bob"));
  EXPECT_TRUE(Eventually([&] { return Get(bob).ok() && CountOf("events.dead_letters") == "5"; }))
      << CountOf("events.dead_letters");
  EXPECT_TRUE(Get(ada));
  EXPECT_EQ(Get(twin).error().code(), Code::kNotFound);
  EXPECT_EQ(CountOf("users"), "2");
  EXPECT_EQ(ValueOf("SELECT string_agg(error_code, ' ' ORDER BY error_code) FROM events.dead_letters"),
            "ALREADY_EXISTS INVALID_ARGUMENT INVALID_ARGUMENT INVALID_ARGUMENT INVALID_ARGUMENT");
}

}  // namespace
}  // namespace nova::user
