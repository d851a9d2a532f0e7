#include <gtest/gtest.h>

#include "api/events/v1/identity.pb.h"
#include "api/events/v1/user.pb.h"
#include "nova/events/consumer.h"
#include "nova/redis/client.h"
#include "services/identity/events.h"
#include "services/identity/test_environment.h"
#include "tests/event_producer.h"
#include "tests/eventually.h"
#include "tests/redis_fixture.h"

namespace nova::identity {
namespace {

using namespace std::chrono_literals;
using tests::Eventually;

// What the user service says reaches identity through a real Redis.
class UserEventsTest : public IdentityTest {
 protected:
  void SetUp() override {
    IdentityTest::SetUp();
    Consume(consumer_, service_);
    consumer_.Start(scope_);
  }
  void TearDown() override {
    EXPECT_TRUE(scope_.Stop(kSoon));
    EXPECT_TRUE(redis_.Close(kSoon));
    IdentityTest::TearDown();
  }

  template <class Event>
  void Say(Uuid user) {
    Event event;
    event.set_user_id(user.ToString());
    user_.Publish("user/" + user.ToString(), event);
  }

  tests::EventProducer user_{runtime_, "user"};
  resilience::CacheDependency streams_{"redis", metrics_};
  redis::Client redis_{runtime_, metrics_, streams_, tests::RedisFixture::Instance().Client(kName)};
  events::Consumer consumer_{outbox_, pool_, redis_, metrics_, {.group = kName, .block = 500ms}};
  runtime::Scope scope_{runtime_};
};

TEST_F(UserEventsTest, ABanItsEndAndADeletionReachTheAccount) {
  const Login ada = AdaLoggedIn();
  const Uuid account = ada.tokens.account;
  Say<events::v1::UserBanned>(account);
  ASSERT_TRUE(Eventually([&] { return !Verify(ada.tokens.access_token); }));
  EXPECT_EQ(LogIn("ada", kPassword).error().code(), Code::kPermissionDenied);
  // In their order, although nobody waits in between.
  Say<events::v1::UserUnbanned>(account);
  Say<events::v1::UserBanned>(account);
  Say<events::v1::UserUnbanned>(account);
  ASSERT_TRUE(Eventually([&] { return CountOf("events.inbox") == "4"; }));
  EXPECT_TRUE(LogIn("ada", kPassword));
  Say<events::v1::UserDeleted>(account);
  ASSERT_TRUE(Eventually([&] { return CountOf("accounts") == "0"; }));
  EXPECT_EQ(Events<events::v1::AccountDeleted>().size(), 1U);
  EXPECT_EQ(CountOf("events.dead_letters"), "0");
}

}  // namespace
}  // namespace nova::identity
