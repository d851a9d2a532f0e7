#include <gtest/gtest.h>

#include "services/identity/test_environment.h"

namespace nova::identity {
namespace {

using runtime::Call;
using runtime::Task;

// What the user service says, as the consumer passes it on: in a transaction of the consumer's.
class EventsTest : public IdentityTest {
 protected:
  using Apply = Task<void> (Service::*)(Call&, postgres::Transaction&, Uuid);
  void Tell(Apply apply, Uuid account) {
    const auto done = Run<void>([&](Call& call) {
      return pool_.InTransaction(
          call, [&](postgres::Transaction& transaction) { return (service_.*apply)(call, transaction, account); });
    });
    ASSERT_TRUE(done) << done.error().ToString();
  }
};

TEST_F(EventsTest, ABanSuspendsUntilItEnds) {
  const Login ada = AdaLoggedIn();
  for (int i = 0; i < 2; ++i) Tell(&Service::Suspend, ada.tokens.account);
  EXPECT_FALSE(Verify(ada.tokens.access_token));
  EXPECT_FALSE(Refresh(ada.tokens.refresh_token));
  const auto suspended = LogIn("ada", kPassword);
  ASSERT_FALSE(suspended);
  EXPECT_EQ(suspended.error().code(), Code::kPermissionDenied);
  EXPECT_EQ(suspended.error().message(), "the account is suspended");
  EXPECT_EQ(LogIn("ada", "incorrect horse battery").error().code(), Code::kUnauthenticated)
      << "a suspension shows without the password";
  for (int i = 0; i < 2; ++i) Tell(&Service::Reinstate, ada.tokens.account);
  EXPECT_TRUE(LogIn("ada", kPassword));
  EXPECT_FALSE(Refresh(ada.tokens.refresh_token)) << "a session came back to life";
}

TEST_F(EventsTest, ALogInThatABanOvertakesOpensNothing) {
  ASSERT_TRUE(Register(Ada()));
  const StoredAccount before = Read("ada");
  Tell(&Service::Suspend, before.account.id);
  EXPECT_FALSE(Open(before));
}

TEST_F(EventsTest, DeletionTakesAllAndFreesTheName) {
  const Login ada = AdaLoggedIn();
  ASSERT_TRUE(Run<void>([&](Call& call) { return service_.passwords().RequestReset(call, "ada@example.com"); }));
  for (int i = 0; i < 2; ++i) Tell(&Service::Delete, ada.tokens.account);
  for (const std::string table : {"accounts", "sessions", "devices", "password_resets"})
    EXPECT_EQ(CountOf(table), "0") << table;
  const auto events = Events<events::v1::AccountDeleted>();
  ASSERT_EQ(events.size(), 1U) << "said twice";
  EXPECT_EQ(events[0].account_id(), ada.tokens.account.ToString());
  EXPECT_FALSE(Verify(ada.tokens.access_token));
  EXPECT_EQ(LogIn("ada", kPassword).error().code(), Code::kUnauthenticated);
  const auto again = Register(Ada());
  ASSERT_TRUE(again) << again.error().ToString();
  EXPECT_NE(again->id, ada.tokens.account);
  // Unknown accounts are no error: what is gone is as wanted.
  Tell(&Service::Suspend, ada.tokens.account);
  Tell(&Service::Reinstate, ada.tokens.account);
  EXPECT_TRUE(LogIn("ada", kPassword));
}

}  // namespace
}  // namespace nova::identity
