#include <array>
#include <functional>
#include <gtest/gtest.h>
#include <mutex>
#include <set>
#include <sodium.h>

#include "nova/telemetry/log.h"
#include "services/identity/service.h"
#include "services/identity/test_environment.h"

namespace nova::identity {
namespace {

using namespace std::chrono_literals;
using runtime::Call;
using runtime::Task;

constexpr char kKeyUsed[] = "idempotency_key: it was used for another request; choose a new UUID";

class ServiceTest : public IdentityTest {
 protected:
  std::vector<Result<Account>> RegisterAtOnce(const std::vector<Registration>& registrations) {
    return RunAtOnce<Account>(registrations.size(),
                              [&](Call& call, std::size_t i) { return service_.Register(call, registrations[i]); });
  }
};

TEST_F(ServiceTest, WhoRegistersCanLogIn) {
  clock_.Advance(123'456'789ns);  // finer than what PostgreSQL and a token keep
  const auto account = Register(Ada());
  ASSERT_TRUE(account) << account.error().ToString();
  EXPECT_EQ(account->email, "ada@example.com");
  EXPECT_EQ(account->username, "ada");
  EXPECT_EQ(account->id.bytes()[6] >> 4, 7) << "not a UUID of version 7";

  for (const std::string identifier : {"ada", "ada@example.com", "ADA", " Ada@Example.com ", "ada\uff20example.com"}) {
    const auto login = LogIn(identifier, kPassword);
    ASSERT_TRUE(login) << identifier << ": " << login.error().ToString();
    const Tokens& tokens = login->tokens;
    EXPECT_EQ(tokens.account, account->id);
    EXPECT_EQ(tokens.access_expires_at, std::chrono::floor<std::chrono::seconds>(clock_.WallNow()) + 15min);
    const auto claims = Verify(tokens.access_token);
    ASSERT_TRUE(claims) << claims.error().ToString();
    EXPECT_EQ(claims->subject, account->id);
    EXPECT_EQ(claims->session_id, tokens.session);
    EXPECT_EQ(claims->expires_at, tokens.access_expires_at);
    EXPECT_EQ(ValueOf("SELECT account_id FROM sessions WHERE id = '" + tokens.session.ToString() + "'"),
              account->id.ToString());

    const auto own = GetAccount(tokens);
    ASSERT_TRUE(own) << own.error().ToString();
    EXPECT_EQ(own->id, account->id);
    EXPECT_EQ(own->email, account->email);
    EXPECT_EQ(own->username, account->username);
    EXPECT_EQ(own->created_at, account->created_at);
  }
}

TEST_F(ServiceTest, ThePublishedKeysVerifyItsTokens) {
  ASSERT_TRUE(Register(Ada()));
  const auto login = LogIn("ada", kPassword);
  ASSERT_TRUE(login);
  auto keys = auth::Jwks::Parse(service_.sessions().GetJwks());
  ASSERT_TRUE(keys) << keys.error().ToString();
  const auth::JwtVerifier elsewhere(terms_, std::make_shared<const auth::Jwks>(*std::move(keys)), clock_);
  EXPECT_TRUE(elsewhere.Verify(login->tokens.access_token.Expose()));
}

TEST_F(ServiceTest, TokensExpireAndCannotBeForged) {
  ASSERT_TRUE(Register(Ada()));
  const Secret<> token = LogIn("ada", kPassword)->tokens.access_token;
  const auth::JwtSigner stranger(terms_, *auth::SigningKey::Generate(auth::Algorithm::kEdDsa));
  const auto forged = stranger.Issue(Uuid::New(clock_), Uuid::New(clock_), clock_);
  const auto refused = Verify(Secret<>(forged->token));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Code::kUnauthenticated);
  clock_.Advance(terms_.expiry + auth::kClockSkewMax);
  const auto expired = Verify(token);
  ASSERT_FALSE(expired);
  EXPECT_EQ(expired.error().message(), refused.error().message());
}

TEST_F(ServiceTest, EveryBadFieldIsNamed) {
  const std::pair<std::string, std::function<void(Registration&)>> cases[] = {
      {"email: an address of the form name@domain is needed", [](Registration& r) { r.email = "ada"; }},
      {"email: at most 254 bytes are allowed", [](Registration& r) { r.email.insert(0, 254, 'a'); }},
      {"username: 3 to 30 characters of a-z, 0-9, '_' and '.' are needed", [](Registration& r) { r.username = "a"; }},
      {"username: it must not begin or end with '.'", [](Registration& r) { r.username = "ada."; }},
      {"password: at least 10 characters are needed", [](Registration& r) { r.password = Secret<>("123456789"); }},
      {"password: at most 256 bytes are allowed",
       [](Registration& r) { r.password = Secret<>(std::string(257, 'x')); }},
      {"password: it must not be the username or the email address",
       [](Registration& r) { r.password = Secret<>("Ada@Example.com"); }},
      {"idempotency_key: a UUID is needed", [](Registration& r) { r.idempotency_key.clear(); }},
      {"idempotency_key: a UUID is needed", [](Registration& r) { r.idempotency_key = "1"; }},
      {"idempotency_key: a UUID is needed", [](Registration& r) { r.idempotency_key = Uuid().ToString(); }},
  };
  for (const auto& [message, spoil] : cases) {
    Registration registration = Ada();
    spoil(registration);
    const auto account = Register(registration);
    ASSERT_FALSE(account) << message;
    EXPECT_EQ(account.error().code(), Code::kInvalidArgument);
    EXPECT_EQ(account.error().message(), message);
  }
  EXPECT_EQ(Computations("hash"), 0U) << "a request that cannot succeed costs an argon2id computation";
  EXPECT_EQ(CountOf("accounts"), "0");
}

TEST_F(ServiceTest, ANameIsTakenInEverySpelling) {
  ASSERT_TRUE(Register(Ada()));
  const std::pair<std::string, std::string> taken[] = {{"ada@example.com", "grace"},
                                                       {" ADA@EXAMPLE.COM", "grace"},
                                                       {"grace@example.com", "ada"},
                                                       {"grace@example.com",
                                                        "\xef\xbc\xa1"
                                                        "DA"}};
  for (const auto& [email, username] : taken) {
    Registration registration = Ada();
    registration.email = email;
    registration.username = username;
    const auto account = Register(registration);
    ASSERT_FALSE(account) << email << ", " << username;
    EXPECT_EQ(account.error().code(), Code::kAlreadyExists);
    EXPECT_EQ(account.error().message(), "the email address or the username is taken");
  }
}

TEST_F(ServiceTest, OfManyWhoWantOneUsernameExactlyOneGetsIt) {
  constexpr int kMany = 32;
  std::vector<Registration> registrations;
  for (int i = 0; i < kMany; ++i) {
    registrations.push_back(Ada());
    registrations.back().email = "ada" + std::to_string(i) + "@example.com";
  }
  int created = 0;
  int taken = 0;
  for (const auto& result : RegisterAtOnce(std::move(registrations))) {
    if (result) {
      ++created;
    } else {
      EXPECT_EQ(result.error().code(), Code::kAlreadyExists) << result.error().ToString();
      ++taken;
    }
  }
  EXPECT_EQ(created, 1);
  EXPECT_EQ(taken, kMany - 1);
  EXPECT_EQ(CountOf("accounts"), "1");
}

TEST_F(ServiceTest, ARepeatedRequestReturnsTheSameAccount) {
  const Registration registration = Ada();
  const auto first = Register(registration);
  ASSERT_TRUE(first);
  clock_.Advance(1h);
  Registration respelt = registration;
  respelt.email = " ADA@example.com";
  for (const Registration& repeated : {registration, respelt}) {
    const auto again = Register(repeated);
    ASSERT_TRUE(again) << again.error().ToString();
    EXPECT_EQ(again->id, first->id);
    EXPECT_EQ(again->created_at, first->created_at);
  }
  EXPECT_EQ(CountOf("accounts"), "1");
}

TEST_F(ServiceTest, RepetitionsAtOnceMakeOneAccount) {
  const std::vector<Registration> registrations(16, Ada());
  std::set<Uuid> ids;
  for (const auto& result : RegisterAtOnce(registrations)) {
    ASSERT_TRUE(result) << result.error().ToString();
    ids.insert(result->id);
  }
  EXPECT_EQ(ids.size(), 1U);
  EXPECT_EQ(CountOf("accounts"), "1");
}

TEST_F(ServiceTest, AKeyIsForOneRequest) {
  const Registration registration = Ada();
  ASSERT_TRUE(Register(registration));
  Registration other_email = registration;
  other_email.email = "grace@example.com";
  Registration other_username = registration;
  other_username.username = "grace";
  Registration other_password = registration;
  other_password.password = Secret<>("incorrect horse battery");
  for (const Registration& other : {other_email, other_username, other_password}) {
    const auto account = Register(other);
    ASSERT_FALSE(account);
    EXPECT_EQ(account.error().code(), Code::kInvalidArgument);
    EXPECT_EQ(account.error().message(), kKeyUsed);
  }
  EXPECT_EQ(CountOf("accounts"), "1");
}

TEST_F(ServiceTest, NothingQuickerThanArgon2idIsStoredOfThePassword) {
  // What differs between two requests in the password alone must leave the same fingerprint.
  Registration registration = Ada();
  ASSERT_TRUE(Register(registration));
  const std::string fingerprint = ValueOf("SELECT registration_fingerprint FROM accounts");
  const std::string hash = ValueOf("SELECT password_hash FROM accounts");
  Execute("TRUNCATE accounts CASCADE");
  registration.password = Secret<>("incorrect horse battery");
  ASSERT_TRUE(Register(registration));
  EXPECT_EQ(ValueOf("SELECT registration_fingerprint FROM accounts"), fingerprint);
  EXPECT_NE(ValueOf("SELECT password_hash FROM accounts"), hash);
}

TEST_F(ServiceTest, AnUnknownUserAndAWrongPasswordLookAndCostTheSame) {
  ASSERT_TRUE(Register(Ada()));
  const std::pair<std::string, std::string> attempts[] = {
      {"ada", "incorrect horse battery"},  // a wrong password
      {"ada@example.com", "incorrect horse battery"},
      {"ada", "x"},          // one that can be nobody's
      {"grace", kPassword},  // an unknown user
      {"grace@example.com", kPassword},
      {"no such name!", kPassword},  // a name that can be nobody's
      {"@", kPassword},
      {std::string("ada\0", 4), kPassword},
      {"ada\xff", kPassword},
  };
  const std::uint64_t hashes = Computations("hash");
  for (const auto& [identifier, password] : attempts) {
    const std::uint64_t verifications = Computations("verify");
    const auto login = LogIn(identifier, password);
    ASSERT_FALSE(login) << identifier;
    EXPECT_EQ(login.error().code(), Code::kUnauthenticated) << identifier << ": " << login.error().ToString();
    EXPECT_EQ(login.error().message(), "the identifier or the password is wrong");
    EXPECT_EQ(Computations("verify") - verifications, 1U) << identifier;
  }
  EXPECT_EQ(Computations("hash"), hashes);
  EXPECT_EQ(CountOf("sessions"), "0");
}

TEST_F(ServiceTest, LogInNamesWhatIsMissingOrTooLong) {
  const std::tuple<std::string, std::string, std::string> cases[] = {
      {"", kPassword, "identifier: an email address or a username is needed"},
      {std::string(255, 'a'), kPassword, "identifier: at most 254 bytes are allowed"},
      {"ada", "", "password: it is needed"},
      {"ada", std::string(257, 'x'), "password: at most 256 bytes are allowed"},
  };
  for (const auto& [identifier, password, message] : cases) {
    const auto login = LogIn(identifier, password);
    ASSERT_FALSE(login);
    EXPECT_EQ(login.error().code(), Code::kInvalidArgument);
    EXPECT_EQ(login.error().message(), message);
  }
  EXPECT_EQ(Computations("verify"), 0U);
}

TEST_F(ServiceTest, AWeakHashIsMadeAnewAtTheNextLogIn) {
  ASSERT_TRUE(Register(Ada()));
  std::array<char, crypto_pwhash_STRBYTES> weak{};
  ASSERT_EQ(crypto_pwhash_str(weak.data(), kPassword, sizeof kPassword - 1, 1, crypto_pwhash_MEMLIMIT_MIN), 0);
  const auto hash = [] { return ValueOf("SELECT password_hash FROM accounts"); };
  Execute("UPDATE accounts SET password_hash = '" + std::string(weak.data()) + "'");
  EXPECT_FALSE(LogIn("ada", "incorrect horse battery"));
  EXPECT_EQ(hash(), weak.data()) << "only the right password may replace the hash";
  ASSERT_TRUE(LogIn("ada", kPassword));
  EXPECT_TRUE(hash().starts_with("$argon2id$v=19$m=19456,t=2,p=1$")) << hash();
  EXPECT_TRUE(LogIn("ada", kPassword));
}

TEST_F(ServiceTest, TheAccountIsTheCallersAndNeedsALiveSession) {
  const auto nobody = Run<Account>([&](Call& call) { return service_.GetAccount(call); });
  ASSERT_FALSE(nobody);
  EXPECT_EQ(nobody.error().code(), Code::kUnauthenticated);
  const Login login = AdaLoggedIn();
  ASSERT_TRUE(GetAccount(login.tokens));
  // Neither half of another's pair is worth anything.
  Tokens mixed = login.tokens;
  mixed.account = Uuid::New(clock_);
  EXPECT_EQ(GetAccount(mixed).error().code(), Code::kUnauthenticated);
  Execute("DELETE FROM accounts");
  const auto gone = GetAccount(login.tokens);
  ASSERT_FALSE(gone);
  EXPECT_EQ(gone.error().code(), Code::kUnauthenticated);
  EXPECT_EQ(CountOf("sessions"), "0") << "sessions outlive their account";
}

TEST_F(ServiceTest, ARegistrationIsAnnouncedWithIt) {
  const auto account = Register(Ada());
  ASSERT_TRUE(account);
  const auto events = Events<events::v1::AccountRegistered>();
  ASSERT_EQ(events.size(), 1U);
  EXPECT_EQ(events[0].account_id(), account->id.ToString());
  EXPECT_EQ(events[0].username(), "ada");
  EXPECT_EQ(events[0].registered_at().seconds(),
            std::chrono::duration_cast<std::chrono::seconds>(account->created_at.time_since_epoch()).count());
  EXPECT_EQ(ValueOf("SELECT aggregate FROM events.outbox"), "account/" + account->id.ToString());
  // A name that is taken announces nobody.
  ASSERT_FALSE(Register(Ada()));
  EXPECT_EQ(CountOf("events.outbox"), "1");
}

TEST_F(ServiceTest, AccountsOfAnEarlierBinaryAreAnnouncedOnce) {
  for (int i = 0; i < 3; ++i) {
    const std::string n = std::to_string(i);
    Execute(
        "INSERT INTO accounts (id, email, username, password_hash, created_at, registration_key, "
        "registration_fingerprint) VALUES (gen_random_uuid(), 'old" +
        n + "@example.com', 'old" + n +
        "', '', '2026-01-02T03:04:05Z', gen_random_uuid(), decode(repeat('00', 32), 'hex'))");
  }
  for (int round = 0; round < 2; ++round) {
    ASSERT_TRUE(Run<bool>([&](Call& call) { return service_.KeepHouse(call); }));
    std::set<std::string> names;
    for (const auto& event : Events<events::v1::AccountRegistered>()) {
      EXPECT_TRUE(names.insert(event.username()).second) << "announced twice";
      EXPECT_EQ(event.registered_at().seconds(), 1767323045);
    }
    EXPECT_EQ(names, (std::set<std::string>{"old0", "old1", "old2"}));
  }
}

TEST_F(ServiceTest, ACallThatHasEndedDoesNothing) {
  const auto account = Run<Account>([&](Call& call) { return service_.Register(call, Ada()); }, 0s);
  ASSERT_FALSE(account);
  EXPECT_EQ(account.error().code(), Code::kDeadlineExceeded);
  EXPECT_EQ(Computations("hash"), 0U);
  EXPECT_EQ(CountOf("accounts"), "0");
}

TEST_F(ServiceTest, NoLogLineHoldsAPasswordOrAToken) {
  std::mutex mutex;
  std::string log;
  telemetry::LogConfig config;
  config.level = telemetry::Level::kDebug;
  telemetry::InitLogging(config, [&](std::string_view line) {
    std::lock_guard lock(mutex);
    log.append(line).append("\n");
  });
  ASSERT_TRUE(Register(Ada()));
  const auto login = LogIn("ada", kPassword);
  ASSERT_TRUE(login);
  const Tokens& tokens = login->tokens;
  ASSERT_FALSE(LogIn("ada", "incorrect horse battery"));
  ASSERT_FALSE(Verify(Secret<>(tokens.access_token.Expose() + "x")));
  const auto refreshed = Refresh(tokens.refresh_token);
  ASSERT_TRUE(refreshed);
  clock_.Advance(1min);
  ASSERT_FALSE(Refresh(tokens.refresh_token)) << "spent";
  telemetry::ShutdownLogging();
  telemetry::InitLogging({});
  EXPECT_EQ(log.find("horse battery"), std::string::npos) << log;
  EXPECT_NE(log.find("a spent refresh token came again"), std::string::npos) << log;
  for (const Secret<>& token :
       {tokens.access_token, tokens.refresh_token, refreshed->refresh_token, login->device_token})
    EXPECT_EQ(log.find(token.Expose().substr(0, 20)), std::string::npos) << log;
  EXPECT_EQ(log.find("ada@example.com"), std::string::npos) << log;
}

}  // namespace
}  // namespace nova::identity
