#include <gtest/gtest.h>

#include "services/identity/passwords.h"
#include "services/identity/test_environment.h"

namespace nova::identity {
namespace {

using namespace std::chrono_literals;
using runtime::Call;
using runtime::Caller;
using runtime::Task;

constexpr char kWrong[] = "incorrect horse battery";
constexpr char kNew[] = "a new horse battery";

class PasswordsTest : public IdentityTest {
 protected:
  Result<void> Change(const Tokens& caller, const std::string& current, const std::string& wanted) {
    return Run<void>(CallerOf(caller), [&](Call& call) {
      return service_.passwords().Change(call, Secret<>(current), Secret<>(wanted));
    });
  }
  Result<void> RequestReset(const std::string& email) {
    return Run<void>([&](Call& call) { return service_.passwords().RequestReset(call, email); });
  }
  Result<IssuedReset> IssueReset(const std::string& reset_id) {
    return Run<IssuedReset>([&](Call& call) { return service_.passwords().IssueReset(call, reset_id); });
  }
  Result<Secret<>> Reset(const Secret<>& token, const std::string& wanted = kNew) {
    return Run<Secret<>>([&](Call& call) { return service_.passwords().Reset(call, token, Secret<>(wanted)); });
  }
  // The mail that goes out for the newest request.
  IssuedReset NewestMail() {
    const auto events = Events<events::v1::PasswordResetRequested>();
    EXPECT_FALSE(events.empty());
    const auto issued = IssueReset(events.empty() ? "" : events.back().reset_id());
    EXPECT_TRUE(issued) << issued.error().ToString();
    return issued ? *issued : IssuedReset();
  }
  void ExpectRefused(const Secret<>& token, const std::string& what) {
    const auto refused = Reset(token);
    ASSERT_FALSE(refused) << what;
    EXPECT_EQ(refused.error().code(), Code::kUnauthenticated) << what;
    EXPECT_EQ(refused.error().message(), "the reset token is wrong, used or expired; ask for a new one") << what;
  }
};

TEST_F(PasswordsTest, AChangeEndsTheOtherSessions) {
  const Tokens ada = AdaLoggedIn().tokens;
  const auto other = LogIn("ada", kPassword);
  ASSERT_TRUE(other);
  const auto changed = Change(ada, kPassword, kNew);
  ASSERT_TRUE(changed) << changed.error().ToString();
  EXPECT_FALSE(LogIn("ada", kPassword));
  EXPECT_TRUE(LogIn("ada", kNew));
  EXPECT_TRUE(Verify(ada.access_token));
  EXPECT_TRUE(Refresh(ada.refresh_token));
  EXPECT_FALSE(Verify(other->tokens.access_token));
  EXPECT_FALSE(Refresh(other->tokens.refresh_token));
  const auto events = Events<events::v1::PasswordChanged>();
  ASSERT_EQ(events.size(), 1U);
  EXPECT_EQ(events[0].account_id(), ada.account.ToString());
  EXPECT_FALSE(events[0].by_reset());
}

TEST_F(PasswordsTest, AChangeNamesWhatIsWrong) {
  const Tokens ada = AdaLoggedIn().tokens;
  const std::tuple<std::string, std::string, std::string> cases[] = {
      {"", kNew, "current_password: it is needed"},
      {std::string(257, 'x'), kNew, "current_password: at most 256 bytes are allowed"},
      {kPassword, "short", "new_password: at least 10 characters are needed"},
      {kPassword, "ada@example.com", "new_password: it must not be the username or the email address"},
      {kPassword, kPassword, "new_password: it must not be the current password"},
      {kWrong, kNew, "current_password: it is wrong"},
  };
  for (const auto& [current, wanted, message] : cases) {
    const auto changed = Change(ada, current, wanted);
    ASSERT_FALSE(changed) << message;
    EXPECT_EQ(changed.error().code(), Code::kInvalidArgument);
    EXPECT_EQ(changed.error().message(), message);
  }
  EXPECT_TRUE(LogIn("ada", kPassword));
  ASSERT_TRUE(LogOut(ada));
  EXPECT_EQ(Change(ada, kPassword, kNew).error().code(), Code::kUnauthenticated);
  EXPECT_TRUE(Events<events::v1::PasswordChanged>().empty());
}

TEST_F(PasswordsTest, GuessingTheCurrentPasswordIsLockedWithoutLockingLogIns) {
  const Tokens stolen = AdaLoggedIn().tokens;
  for (int i = 0; i < 10; ++i) ASSERT_EQ(Change(stolen, kWrong, kNew).error().code(), Code::kInvalidArgument);
  EXPECT_EQ(Change(stolen, kPassword, kNew).error().code(), Code::kResourceExhausted);
  const auto own = LogIn("ada", kPassword);
  ASSERT_TRUE(own);
  EXPECT_TRUE(Change(own->tokens, kPassword, kNew)) << "one session's failures count for another";
}

TEST_F(PasswordsTest, OfChangesAtOnceOneSucceeds) {
  const Tokens ada = AdaLoggedIn().tokens;
  int changed = 0;
  for (const auto& result : RunAtOnce<void>(6, [&](Call& call, std::size_t i) -> Task<void> {
         call.set_caller(CallerOf(ada));
         co_return co_await service_.passwords().Change(call, Secret<>(kPassword), Secret<>(kNew + std::to_string(i)));
       })) {
    if (result) ++changed;
  }
  EXPECT_EQ(changed, 1);
  EXPECT_EQ(Events<events::v1::PasswordChanged>().size(), 1U);
  EXPECT_EQ(ValueOf("SELECT password_version FROM accounts"), "1");
}

TEST_F(PasswordsTest, ALogInWithThePasswordOfBeforeOpensNothing) {
  ASSERT_TRUE(Register(Ada()));
  const StoredAccount before = Read("ada");
  Execute("UPDATE accounts SET password_version = password_version + 1");
  EXPECT_FALSE(Open(before));
  EXPECT_EQ(CountOf("sessions"), "0");
  EXPECT_EQ(CountOf("devices"), "0");
}

TEST_F(PasswordsTest, AResetSetsThePasswordEndsAllSessionsAndClearsTheLock) {
  const Login ada = AdaLoggedIn();
  for (const std::string identifier : {"ada", "ada@example.com"}) {
    for (int i = 0; i < 10; ++i) ASSERT_FALSE(LogIn(identifier, kWrong));
  }
  ASSERT_TRUE(RequestReset(" ADA@example.com"));
  const auto requested = Events<events::v1::PasswordResetRequested>();
  ASSERT_EQ(requested.size(), 1U);
  EXPECT_EQ(requested[0].account_id(), ada.tokens.account.ToString());
  const IssuedReset mail = NewestMail();
  EXPECT_EQ(mail.email, "ada@example.com");
  EXPECT_EQ(mail.username, "ada");
  EXPECT_EQ(mail.expires_at, clock_.WallNow() + config_.reset.reset_lifetime);

  const auto bad = Reset(mail.token, "short");
  EXPECT_EQ(bad.error().message(), "new_password: at least 10 characters are needed");
  const auto done = Reset(mail.token);
  ASSERT_TRUE(done) << done.error().ToString();
  EXPECT_FALSE(Refresh(ada.tokens.refresh_token));
  EXPECT_FALSE(Verify(ada.tokens.access_token));
  EXPECT_EQ(ValueOf("SELECT count(*) FROM devices"), "1") << "devices of who had the old password are still trusted";
  EXPECT_FALSE(LogIn("ada", kPassword));
  for (const std::string identifier : {"ada", "ada@example.com"}) EXPECT_TRUE(LogIn(identifier, kNew)) << identifier;
  const auto known = LogIn({.identifier = "ada", .password = Secret<>(kNew), .device_token = *done});
  ASSERT_TRUE(known);
  EXPECT_EQ(known->device_token.Expose(), done->Expose());
  const auto changed = Events<events::v1::PasswordChanged>();
  ASSERT_EQ(changed.size(), 1U);
  EXPECT_TRUE(changed[0].by_reset());
}

TEST_F(PasswordsTest, AResetTokenServesOnceAndForATime) {
  ASSERT_TRUE(Register(Ada()));
  ASSERT_TRUE(RequestReset("ada@example.com"));
  const IssuedReset used = NewestMail();
  ASSERT_TRUE(Reset(used.token));
  ExpectRefused(used.token, "used");
  clock_.Advance(1min);
  ASSERT_TRUE(RequestReset("ada@example.com"));
  const IssuedReset late = NewestMail();
  clock_.Advance(config_.reset.reset_lifetime);
  ExpectRefused(late.token, "expired");
  ExpectRefused(Secret<>(""), "empty");
  ExpectRefused(Secret<>("x"), "malformed");
  ExpectRefused(RowToken(Uuid::New()).Encode(), "unknown");
  ASSERT_TRUE(RequestReset("ada@example.com"));
  const IssuedReset good = NewestMail();
  ExpectRefused(RowToken(RowToken::Parse(good.token.Expose())->id()).Encode(), "of a reset, with another secret");
  EXPECT_TRUE(Reset(good.token));
}

TEST_F(PasswordsTest, OfResetsAtOnceOneSucceeds) {
  ASSERT_TRUE(Register(Ada()));
  ASSERT_TRUE(RequestReset("ada@example.com"));
  const IssuedReset mail = NewestMail();
  int done = 0;
  for (const auto& result : RunAtOnce<Secret<>>(8, [&](Call& call, std::size_t i) {
         return service_.passwords().Reset(call, mail.token, Secret<>(kNew + std::to_string(i)));
       })) {
    if (result) {
      ++done;
    } else {
      EXPECT_EQ(result.error().code(), Code::kUnauthenticated) << result.error().ToString();
    }
  }
  EXPECT_EQ(done, 1);
  EXPECT_EQ(Events<events::v1::PasswordChanged>().size(), 1U);
}

TEST_F(PasswordsTest, AChangeVoidsResetsThatAreUnderWay) {
  const Tokens ada = AdaLoggedIn().tokens;
  ASSERT_TRUE(RequestReset("ada@example.com"));
  const IssuedReset mail = NewestMail();
  ASSERT_TRUE(Change(ada, kPassword, kNew));
  ExpectRefused(mail.token, "after a change");
}

TEST_F(PasswordsTest, WhoHasTheAddressDoesNotShow) {
  ASSERT_TRUE(Register(Ada()));
  const auto statements = [&] {
    // What went through the pool, by statement; the outcome of a savepoint aside.
    std::string counts = metrics_.Scrape();
    std::map<std::string, int> by_name;
    std::istringstream lines(counts);
    for (std::string line; std::getline(lines, line);) {
      if (!line.starts_with("nova_postgres_query_seconds_count")) continue;
      const auto begin = line.find("statement=\"") + 11;
      std::string name = line.substr(begin, line.find('"', begin) - begin);
      if (name == "release_savepoint" || name == "rollback_to_savepoint") name = "end_of_savepoint";
      by_name[name] += std::stoi(line.substr(line.rfind(' ') + 1));
    }
    return by_name;
  };
  const auto work_of = [&](const std::string& email) {
    auto before = statements();
    EXPECT_TRUE(RequestReset(email));
    std::map<std::string, int> work;
    for (const auto& [name, count] : statements())
      if (count != before[name]) work[name] = count - before[name];
    return work;
  };
  const auto known = work_of("ada@example.com");
  EXPECT_GT(known.size(), 3U);
  EXPECT_EQ(Events<events::v1::PasswordResetRequested>().size(), 1U);
  EXPECT_EQ(work_of("nobody@example.com"), known);
  EXPECT_EQ(work_of("ada@example.com"), known) << "the second request within the interval shows";
  EXPECT_EQ(work_of("nobody@example.com"), known);
  EXPECT_EQ(Events<events::v1::PasswordResetRequested>().size(), 1U);
  EXPECT_EQ(CountOf("password_resets"), "1");
  EXPECT_EQ(CountOf("events.aggregates"), "1") << "a decoy leaves a trace";
  EXPECT_EQ(RequestReset("no address").error().code(), Code::kInvalidArgument);
}

TEST_F(PasswordsTest, RequestsAreLimitedAndDoNotVoidEachOther) {
  ASSERT_TRUE(Register(Ada()));
  ASSERT_TRUE(RequestReset("ada@example.com"));
  const IssuedReset first = NewestMail();
  clock_.Advance(config_.reset.reset_interval - 1ms);
  ASSERT_TRUE(RequestReset("ada@example.com"));
  EXPECT_EQ(Events<events::v1::PasswordResetRequested>().size(), 1U);
  clock_.Advance(1ms);
  ASSERT_TRUE(RequestReset("ada@example.com"));
  EXPECT_EQ(Events<events::v1::PasswordResetRequested>().size(), 2U);
  const IssuedReset second = NewestMail();
  EXPECT_TRUE(Reset(first.token)) << "somebody else's request made the user's mail worthless";
  ExpectRefused(second.token, "after a reset");
}

TEST_F(PasswordsTest, ANewMailForOneResetVoidsTheOneBefore) {
  ASSERT_TRUE(Register(Ada()));
  ASSERT_TRUE(RequestReset("ada@example.com"));
  const IssuedReset first = NewestMail();
  const IssuedReset second = NewestMail();
  ExpectRefused(first.token, "replaced");
  EXPECT_TRUE(Reset(second.token));
  const std::string id = Events<events::v1::PasswordResetRequested>().front().reset_id();
  EXPECT_EQ(IssueReset(id).error().code(), Code::kNotFound) << "used";
  EXPECT_EQ(IssueReset(Uuid::New().ToString()).error().code(), Code::kNotFound);
  EXPECT_EQ(IssueReset("x").error().code(), Code::kInvalidArgument);
}

TEST_F(PasswordsTest, NoEventAndNoRowHoldsAToken) {
  ASSERT_TRUE(Register(Ada()));
  ASSERT_TRUE(RequestReset("ada@example.com"));
  EXPECT_EQ(ValueOf("SELECT count(*) FROM password_resets WHERE token_hash IS NULL"), "1");
  const IssuedReset mail = NewestMail();
  const Bytes hash = RowToken::Parse(mail.token.Expose())->Hash();
  std::string hex;
  for (const std::uint8_t byte : hash) {
    char digits[3];
    std::snprintf(digits, sizeof digits, "%02x", byte);
    hex += digits;
  }
  EXPECT_EQ(ValueOf("SELECT encode(token_hash, 'hex') FROM password_resets"), hex);
  EXPECT_EQ(
      ValueOf(
          "SELECT count(*) FROM events.outbox WHERE position(convert_to('ada@example.com', 'UTF8') in payload) > 0"),
      "0");
}

}  // namespace
}  // namespace nova::identity
