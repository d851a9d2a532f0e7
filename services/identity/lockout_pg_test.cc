#include <gtest/gtest.h>

#include "services/identity/lockout.h"
#include "services/identity/test_environment.h"

namespace nova::identity {
namespace {

using namespace std::chrono_literals;
using runtime::Call;
using runtime::Task;

constexpr char kWrong[] = "incorrect horse battery";

class LockoutTest : public IdentityTest {
 protected:
  Code Attempt(const std::string& identifier, const std::string& password, const Secret<>& device_token = {}) {
    const auto login = LogIn({.identifier = identifier, .password = Secret<>(password), .device_token = device_token});
    if (login) return Code::kOk;
    messages_.insert(login.error().message());
    return login.error().code();
  }
  void Fail(const std::string& identifier, int times, const Secret<>& device_token = {}) {
    for (int i = 0; i < times; ++i)
      ASSERT_EQ(Attempt(identifier, kWrong, device_token), Code::kUnauthenticated) << "failure " << i;
  }

  std::set<std::string> messages_;
};

TEST_F(LockoutTest, AnIdentifierIsLockedWhetherOrNotItIsAnAccounts) {
  ASSERT_TRUE(Register(Ada()));
  for (const std::string identifier : {"ada", "nobody", "nobody@example.com", "no such name!"}) {
    messages_.clear();
    Fail(identifier, 10);
    const std::uint64_t computed = Computations("verify");
    EXPECT_EQ(Attempt(identifier, kPassword), Code::kResourceExhausted) << identifier;
    EXPECT_EQ(Computations("verify"), computed) << "a locked identifier costs an argon2id computation";
    EXPECT_EQ(messages_,
              (std::set<std::string>{"the identifier or the password is wrong", "too many attempts; try again later"}))
        << identifier;
  }
  // In every spelling; the other identifier of the account is another.
  EXPECT_EQ(Attempt("ADA", kPassword), Code::kResourceExhausted);
  EXPECT_EQ(Attempt("ada@example.com", kPassword), Code::kOk);
}

TEST_F(LockoutTest, EachFurtherFailureDoublesTheWaitUpToALimit) {
  Fail("ada", 10);
  std::chrono::seconds wait = 30s;
  for (int i = 0; i < 8; ++i) {
    EXPECT_EQ(Attempt("ada", kWrong), Code::kResourceExhausted);
    clock_.Advance(wait - 1ms);
    EXPECT_EQ(Attempt("ada", kWrong), Code::kResourceExhausted) << "after " << wait.count() << " s";
    clock_.Advance(1ms);
    EXPECT_EQ(Attempt("ada", kWrong), Code::kUnauthenticated) << "after " << wait.count() << " s";
    wait = std::min<std::chrono::seconds>(wait * 2, 15min);
  }
}

TEST_F(LockoutTest, SuccessAndTimeClearTheCount) {
  ASSERT_TRUE(Register(Ada()));
  Fail("ada", 9);
  EXPECT_EQ(Attempt("ada", kPassword), Code::kOk);
  EXPECT_EQ(CountOf("login_attempts"), "0");
  Fail("ada", 10);
  clock_.Advance(30s);
  EXPECT_EQ(Attempt("ada", kPassword), Code::kOk);
  Fail("ada", 9);
  clock_.Advance(config_.lockout.lockout_forget + 1s);
  Fail("ada", 9);
  EXPECT_EQ(Attempt("ada", kPassword), Code::kOk);
}

TEST_F(LockoutTest, AttemptsAtOnceAreNoMoreThanTheThreshold) {
  ASSERT_TRUE(Register(Ada()));
  const std::uint64_t computed = Computations("verify");
  int refused = 0;
  int locked = 0;
  for (const auto& result : RunAtOnce<Login>(60, [&](Call& call, std::size_t) {
         return service_.LogIn(call, {.identifier = "ada", .password = Secret<>(kWrong)});
       })) {
    ASSERT_FALSE(result);
    if (result.error().code() == Code::kUnauthenticated) ++refused;
    if (result.error().code() == Code::kResourceExhausted) ++locked;
  }
  EXPECT_EQ(refused, 10);
  EXPECT_EQ(locked, 50);
  EXPECT_EQ(Computations("verify") - computed, 10U);
}

TEST_F(LockoutTest, WhoKeepsAnIdentifierLockedDoesNotKeepTheUsersDevicesOut) {
  const Login known = AdaLoggedIn();
  Fail("ada", 10);
  Fail("ada@example.com", 10);
  EXPECT_EQ(Attempt("ada", kPassword), Code::kResourceExhausted);
  const auto login = LogIn({.identifier = "ada", .password = Secret<>(kPassword), .device_token = known.device_token});
  ASSERT_TRUE(login) << login.error().ToString();
  EXPECT_EQ(login->device_token.Expose(), known.device_token.Expose()) << "a known device stays the same one";
  EXPECT_EQ(CountOf("devices"), "1");
  EXPECT_EQ(Attempt("ada@example.com", kPassword, known.device_token), Code::kOk);
  EXPECT_EQ(Attempt("ada", kPassword), Code::kResourceExhausted) << "a device's success opens the door to strangers";
  EXPECT_TRUE(Refresh(known.tokens.refresh_token)) << "a lock reaches sessions";
}

TEST_F(LockoutTest, ADeviceHasACountOfItsOwn) {
  const Login known = AdaLoggedIn();
  Fail("ada", 10, known.device_token);
  EXPECT_EQ(Attempt("ada", kPassword, known.device_token), Code::kResourceExhausted);
  EXPECT_EQ(Attempt("ada", kPassword), Code::kOk) << "a device's failures count for everybody";
  clock_.Advance(30s);
  EXPECT_EQ(Attempt("ada", kPassword, known.device_token), Code::kOk);
}

TEST_F(LockoutTest, ADeviceTokenCountsForItsOwnAccountAndForATimeOnly) {
  const Login ada = AdaLoggedIn();
  Registration other = Ada();
  other.email = "grace@example.com";
  other.username = "grace";
  ASSERT_TRUE(Register(other));
  const auto grace = LogIn("grace", kPassword);
  ASSERT_TRUE(grace);
  std::string forged = ada.device_token.Expose();
  forged[40] = forged[40] == 'A' ? 'B' : 'A';
  Fail("ada", 10);
  for (const Secret<>& token : {grace->device_token, Secret<>(forged), Secret<>("x"), RowToken(Uuid::New()).Encode()})
    EXPECT_EQ(Attempt("ada", kPassword, token), Code::kResourceExhausted);
  EXPECT_EQ(Attempt("ada", kPassword, Secret<>(std::string(257, 'x'))), Code::kInvalidArgument);
  clock_.Advance(config_.lockout.device_lifetime);
  Fail("ada", 10);
  EXPECT_EQ(Attempt("ada", kPassword, ada.device_token), Code::kResourceExhausted) << "it is too old";
}

TEST_F(LockoutTest, AnAttemptWithoutAnOutcomeIsNotCounted) {
  ASSERT_TRUE(Register(Ada()));
  // The one thread is busy and the queue is full, so no password can be computed.
  auto hasher = *auth::PasswordHasher::Create({.threads = 1, .queue_max = 1}, metrics_);
  Service service(store_, *hasher, signer_, verifier_, metrics_, config_, clock_);
  int busy = 0;
  int refused = 0;
  for (const auto& result : RunAtOnce<Login>(30, [&](Call& call, std::size_t i) {
         // Each under an identifier of its own, so that none locks another out.
         return service.LogIn(call, {.identifier = "ada" + std::to_string(i), .password = Secret<>(kPassword)});
       })) {
    if (!result && result.error().code() == Code::kResourceExhausted) ++busy;
    if (!result && result.error().code() == Code::kUnauthenticated) ++refused;
  }
  ASSERT_GT(busy, 0);
  EXPECT_EQ(busy + refused, 30);
  EXPECT_EQ(ValueOf("SELECT sum(failures) FROM login_attempts"), std::to_string(refused));
  EXPECT_EQ(CountOf("login_attempts"), std::to_string(refused)) << "names that were never tried fill the table";
}

TEST_F(LockoutTest, TakingBackUndoesTheLockToo) {
  Lockout lockout(store_, config_.lockout, clock_);
  const Bytes subject = Lockout::OfIdentifier("ada");
  const auto begin = [&] {
    clock_.Advance(1ms);
    const auto attempt = Run<std::optional<Lockout::Attempt>>([&](Call& call) { return lockout.Begin(call, subject); });
    EXPECT_TRUE(attempt);
    return attempt ? *attempt : std::nullopt;
  };
  for (int i = 0; i < 30; ++i) {
    const auto attempt = begin();
    ASSERT_TRUE(attempt) << "round " << i;
    if (i < 9) continue;  // failures that stay
    ASSERT_TRUE(Run<void>([&](Call& call) -> Task<void> {
      // Also after the end of the call that made the attempt.
      call.Cancel(Cancelled("the client went away"));
      co_await lockout.TakeBack(call, *attempt);
      co_return Ok();
    }));
  }
  EXPECT_EQ(ValueOf("SELECT failures FROM login_attempts"), "9");
  ASSERT_TRUE(begin());
  EXPECT_FALSE(begin());
}

TEST_F(LockoutTest, NothingThatIsStoredNamesAnIdentifier) {
  Fail("secret@example.com", 1);
  const std::string rows = ValueOf("SELECT string_agg(row_to_json(a)::text, '') FROM login_attempts a");
  EXPECT_NE(rows.find("subject"), std::string::npos);
  EXPECT_EQ(rows.find("secret"), std::string::npos);
  EXPECT_EQ(rows.find("736563726574"), std::string::npos) << "in hexadecimal";
}

}  // namespace
}  // namespace nova::identity
