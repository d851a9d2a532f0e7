#include <algorithm>
#include <gtest/gtest.h>
#include <map>
#include <set>

#include "nova/auth/base64url.h"
#include "nova/telemetry/log.h"
#include "services/identity/sessions.h"
#include "services/identity/test_environment.h"
#include "tests/seed.h"

namespace nova::identity {
namespace {

using namespace std::chrono_literals;
using runtime::Call;
using runtime::Caller;
using runtime::Task;

constexpr char kInvalid[] = "the refresh token is not valid";

class SessionsTest : public IdentityTest {
 protected:
  void ExpectRefused(const Secret<>& refresh_token, const std::string& what) {
    const auto refused = Refresh(refresh_token);
    ASSERT_FALSE(refused) << what;
    EXPECT_EQ(refused.error().code(), Code::kUnauthenticated) << what << ": " << refused.error().ToString();
    EXPECT_EQ(refused.error().message(), kInvalid) << what;
  }
  bool Lives(const Tokens& tokens) {
    return ValueOf("SELECT count(*) FROM sessions WHERE id = '" + tokens.session.ToString() +
                   "' AND revoked_at IS NULL") == "1";
  }
  std::string ReasonOf(const Tokens& tokens) {
    return ValueOf("SELECT revoked_reason FROM sessions WHERE id = '" + tokens.session.ToString() + "'");
  }
  double Refreshes(const std::string& outcome) {
    return CounterOf("nova_identity_refreshes_total", "Refresh tokens presented, by outcome", "outcome", outcome);
  }
  Result<SessionPage> List(const Tokens& caller, int page_size = 0, std::string page_token = "") {
    return Run<SessionPage>(CallerOf(caller),
                            [&](Call& call) { return service_.sessions().List(call, page_size, page_token); });
  }
  Result<void> Revoke(const Tokens& caller, const std::string& session) {
    return Run<void>(CallerOf(caller), [&](Call& call) { return service_.sessions().Revoke(call, session); });
  }
  Result<std::int64_t> RevokeAll(const Tokens& caller, bool include_current) {
    return Run<std::int64_t>(CallerOf(caller),
                             [&](Call& call) { return service_.sessions().RevokeAll(call, include_current); });
  }
  Tokens LogInAgain() {
    auto login = LogIn("ada", kPassword);
    EXPECT_TRUE(login) << login.error().ToString();
    return login ? login->tokens : Tokens();
  }
};

TEST_F(SessionsTest, ARefreshTokenIsExchangedForANewPair) {
  Tokens tokens = AdaLoggedIn().tokens;
  EXPECT_EQ(tokens.refresh_expires_at, clock_.WallNow() + config_.session.refresh_lifetime);
  std::set<std::string> seen = {tokens.refresh_token.Expose()};
  for (int i = 0; i < 5; ++i) {
    clock_.Advance(14min);
    const auto next = Refresh(tokens.refresh_token);
    ASSERT_TRUE(next) << next.error().ToString();
    EXPECT_EQ(next->account, tokens.account);
    EXPECT_EQ(next->session, tokens.session);
    EXPECT_EQ(next->refresh_expires_at, clock_.WallNow() + config_.session.refresh_lifetime) << "it does not slide";
    EXPECT_TRUE(seen.insert(next->refresh_token.Expose()).second);
    const auto claims = Verify(next->access_token);
    ASSERT_TRUE(claims) << claims.error().ToString();
    EXPECT_EQ(claims->session_id, tokens.session);
    EXPECT_EQ(claims->expires_at, next->access_expires_at);
    tokens = *next;
  }
  EXPECT_EQ(CountOf("sessions"), "1");
  EXPECT_EQ(Refreshes("rotated"), 5);
}

TEST_F(SessionsTest, TheTokenSpentLastYieldsTheSameSuccessorForAMoment) {
  const Tokens tokens = AdaLoggedIn().tokens;
  const auto next = Refresh(tokens.refresh_token);
  ASSERT_TRUE(next);
  clock_.Advance(config_.session.refresh_grace - 1ms);
  const auto again = Refresh(tokens.refresh_token);
  ASSERT_TRUE(again) << again.error().ToString();
  EXPECT_EQ(again->refresh_token.Expose(), next->refresh_token.Expose());
  EXPECT_EQ(again->refresh_expires_at, next->refresh_expires_at);
  EXPECT_TRUE(Verify(again->access_token));
  EXPECT_EQ(Refreshes("grace"), 1);
  clock_.Advance(1ms);
  ExpectRefused(tokens.refresh_token, "after the grace");
  EXPECT_EQ(Refreshes("reuse"), 1);
  EXPECT_EQ(ReasonOf(tokens), "reuse");
  ExpectRefused(next->refresh_token, "the successor, after reuse");
  EXPECT_FALSE(Verify(again->access_token));
}

TEST_F(SessionsTest, AnOlderTokenKillsTheFamilyEvenWithinTheGrace) {
  const Tokens first = AdaLoggedIn().tokens;
  const auto second = Refresh(first.refresh_token);
  ASSERT_TRUE(second);
  const auto third = Refresh(second->refresh_token);
  ASSERT_TRUE(third);
  ExpectRefused(first.refresh_token, "the predecessor's predecessor");
  ExpectRefused(second->refresh_token, "the predecessor");
  ExpectRefused(third->refresh_token, "the current one");
  EXPECT_EQ(ReasonOf(first), "reuse");
}

TEST_F(SessionsTest, ReuseEndsNoOtherSession) {
  const Tokens stolen = AdaLoggedIn().tokens;
  const Tokens other = LogInAgain();
  ASSERT_TRUE(Refresh(stolen.refresh_token));
  clock_.Advance(1min);
  ExpectRefused(stolen.refresh_token, "reuse");
  EXPECT_TRUE(Refresh(other.refresh_token));
}

TEST_F(SessionsTest, WhoKnowsOnlyTheSessionsIdCannotEndIt) {
  const Tokens tokens = AdaLoggedIn().tokens;
  const auto next = Refresh(tokens.refresh_token);
  ASSERT_TRUE(next);
  clock_.Advance(1min);
  const std::string bytes = *auth::Base64UrlDecode(tokens.refresh_token.Expose());
  for (std::size_t i = 16; i < bytes.size(); ++i) {
    std::string changed = bytes;
    changed[i] = static_cast<char>(changed[i] ^ 0x20);
    ExpectRefused(Secret<>(auth::Base64UrlEncode(changed)), "byte " + std::to_string(i));
  }
  ExpectRefused(RefreshToken::First(tokens.session, NewKey()).Encode(), "made up");
  ExpectRefused(Secret<>(""), "empty");
  ExpectRefused(Secret<>("no token"), "no token");
  ExpectRefused(RefreshToken::First(Uuid::New(clock_), NewKey()).Encode(), "an unknown session");
  EXPECT_TRUE(Lives(tokens));
  EXPECT_EQ(Refreshes("reuse"), 0);
  EXPECT_TRUE(Refresh(next->refresh_token));
}

TEST_F(SessionsTest, TheDatabaseHoldsNoToken) {
  Tokens tokens = AdaLoggedIn().tokens;
  tokens = *Refresh(tokens.refresh_token);
  const std::string row = ValueOf(
      "SELECT row_to_json(s)::text || (SELECT string_agg(row_to_json(d)::text, '') FROM "
      "devices d) FROM sessions s");
  const std::string secret = auth::Base64UrlDecode(tokens.refresh_token.Expose())->substr(20, 32);
  std::string hex;
  for (const char c : secret) {
    char digits[3];
    std::snprintf(digits, sizeof digits, "%02x", static_cast<unsigned char>(c));
    hex += digits;
  }
  EXPECT_NE(row.find("current_hash"), std::string::npos);
  EXPECT_EQ(row.find(hex), std::string::npos);
}

TEST_F(SessionsTest, ManyExchangesAtOnceMakeOneSuccessor) {
  const Tokens tokens = AdaLoggedIn().tokens;
  constexpr std::size_t kMany = 100;
  std::set<std::string> successors;
  for (const auto& result : RunAtOnce<Tokens>(
           kMany, [&](Call& call, std::size_t) { return service_.sessions().Refresh(call, tokens.refresh_token); })) {
    ASSERT_TRUE(result) << result.error().ToString();
    EXPECT_EQ(result->session, tokens.session);
    EXPECT_TRUE(Verify(result->access_token));
    successors.insert(result->refresh_token.Expose());
  }
  ASSERT_EQ(successors.size(), 1U);
  EXPECT_EQ(CountOf("sessions"), "1");
  EXPECT_EQ(ValueOf("SELECT generation FROM sessions"), "1");
  EXPECT_EQ(Refreshes("rotated"), 1);
  EXPECT_EQ(Refreshes("grace"), kMany - 1);
  EXPECT_TRUE(Refresh(Secret<>(*successors.begin())));
}

TEST_F(SessionsTest, ASessionEndsUnusedAndAtItsGreatestAge) {
  const Tokens unused = AdaLoggedIn().tokens;
  Tokens used = LogInAgain();
  const WallTime opened = clock_.WallNow();
  clock_.Advance(config_.session.refresh_lifetime);
  ExpectRefused(unused.refresh_token, "unused");
  ExpectRefused(used.refresh_token, "unused");
  used = LogInAgain();
  const WallTime last = clock_.WallNow() + config_.session.session_lifetime_max;
  while (clock_.WallNow() + 20h * 24 < last) {
    clock_.Advance(20h * 24);
    const auto next = Refresh(used.refresh_token);
    ASSERT_TRUE(next) << next.error().ToString();
    EXPECT_EQ(next->refresh_expires_at, std::min(clock_.WallNow() + config_.session.refresh_lifetime, last));
    used = *next;
  }
  EXPECT_EQ(used.refresh_expires_at, last);
  clock_.Advance(last - clock_.WallNow() - 1min);
  const auto final = Refresh(used.refresh_token);
  ASSERT_TRUE(final);
  EXPECT_EQ(final->access_expires_at, std::chrono::floor<std::chrono::seconds>(last))
      << "the access token outlives its session";
  clock_.Advance(1min);
  ExpectRefused(final->refresh_token, "at its greatest age");
  EXPECT_FALSE(Verify(final->access_token));
  EXPECT_GT(last, opened);
}

TEST_F(SessionsTest, LogOutEndsTheCallersSessionAlone) {
  const Tokens tokens = AdaLoggedIn().tokens;
  const Tokens other = LogInAgain();
  ASSERT_TRUE(LogOut(tokens));
  EXPECT_EQ(ReasonOf(tokens), "logout");
  ExpectRefused(tokens.refresh_token, "after log-out");
  const auto refused = Verify(tokens.access_token);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().message(), Verify(Secret<>("x")).error().message()) << "the cause shows";
  EXPECT_EQ(GetAccount(tokens).error().code(), Code::kUnauthenticated);
  EXPECT_EQ(List(tokens).error().code(), Code::kUnauthenticated);
  EXPECT_TRUE(LogOut(tokens)) << "repeating it is an error";
  EXPECT_TRUE(Verify(other.access_token));
  EXPECT_TRUE(Refresh(other.refresh_token));
  const auto nobody = Run<void>([&](Call& call) { return service_.sessions().LogOut(call); });
  EXPECT_EQ(nobody.error().code(), Code::kUnauthenticated);
}

TEST_F(SessionsTest, TheListShowsTheCallersLiveSessionsInPages) {
  const Tokens first = AdaLoggedIn().tokens;
  Registration grace = Ada();
  grace.email = "grace@example.com";
  grace.username = "grace";
  ASSERT_TRUE(Register(grace));
  ASSERT_TRUE(LogIn("grace", kPassword));
  std::vector<Tokens> sessions = {first};
  for (int i = 1; i < 7; ++i) {
    clock_.Advance(1s);
    auto login =
        LogIn({.identifier = "ada", .password = Secret<>(kPassword), .device_name = "phone\n" + std::to_string(i)});
    ASSERT_TRUE(login);
    sessions.push_back(login->tokens);
  }
  ASSERT_TRUE(LogOut(sessions[3]));

  std::vector<SessionPage::Item> listed;
  std::string page_token;
  int pages = 0;
  do {
    const auto page = List(first, 2, page_token);
    ASSERT_TRUE(page) << page.error().ToString();
    ASSERT_LE(page->items.size(), 2U);
    ASSERT_FALSE(page->items.empty());
    listed.insert(listed.end(), page->items.begin(), page->items.end());
    page_token = page->next_page_token;
    // What comes and goes meanwhile neither shifts nor repeats anything.
    if (++pages == 1) {
      clock_.Advance(1s);
      ASSERT_TRUE(LogIn("ada", kPassword));
      ASSERT_TRUE(LogOut(sessions[6]));
    }
  } while (!page_token.empty());
  EXPECT_EQ(pages, 3);
  const int expected[] = {6, 5, 4, 2, 1, 0};
  ASSERT_EQ(listed.size(), std::size(expected));
  for (std::size_t i = 0; i < listed.size(); ++i) {
    const int n = expected[i];
    const auto& [session, current] = listed[i];
    EXPECT_EQ(session.id, sessions[static_cast<std::size_t>(n)].session) << i;
    EXPECT_EQ(session.device_name, n == 0 ? "" : "phone " + std::to_string(n));
    EXPECT_EQ(current, n == 0);
    EXPECT_EQ(session.last_used_at, session.created_at);
    EXPECT_EQ(session.expires_at, session.created_at + config_.session.refresh_lifetime);
  }
  const auto beyond = List(first, 2, first.session.ToString());
  ASSERT_TRUE(beyond) << "an empty page is no error";
  EXPECT_TRUE(beyond->items.empty());

  for (const auto& [size, token] : {std::pair(-1, ""), std::pair(kSessionPageMax + 1, ""), std::pair(1, "x")})
    EXPECT_EQ(List(first, size, token).error().code(), Code::kInvalidArgument);
}

TEST_F(SessionsTest, OnlyOnesOwnSessionsCanBeRevoked) {
  const Tokens ada = AdaLoggedIn().tokens;
  const Tokens phone = LogInAgain();
  Registration other = Ada();
  other.email = "grace@example.com";
  other.username = "grace";
  ASSERT_TRUE(Register(other));
  const Tokens grace = LogIn("grace", kPassword)->tokens;

  const auto foreign = Revoke(ada, grace.session.ToString());
  ASSERT_FALSE(foreign);
  EXPECT_EQ(foreign.error().code(), Code::kNotFound);
  EXPECT_EQ(Revoke(ada, Uuid::New(clock_).ToString()).error().message(), foreign.error().message());
  EXPECT_EQ(Revoke(ada, "x").error().code(), Code::kInvalidArgument);
  EXPECT_TRUE(Verify(grace.access_token));

  ASSERT_TRUE(Revoke(ada, phone.session.ToString()));
  EXPECT_TRUE(Revoke(ada, phone.session.ToString())) << "repeating it is an error";
  ExpectRefused(phone.refresh_token, "revoked");
  EXPECT_EQ(Revoke(phone, ada.session.ToString()).error().code(), Code::kUnauthenticated)
      << "a revoked session can revoke";
  EXPECT_TRUE(Verify(ada.access_token));
}

TEST_F(SessionsTest, AllOthersOrAllAreRevoked) {
  const Tokens ada = AdaLoggedIn().tokens;
  std::vector<Tokens> others = {LogInAgain(), LogInAgain(), LogInAgain()};
  ASSERT_TRUE(LogOut(others[2]));
  const auto revoked = RevokeAll(ada, false);
  ASSERT_TRUE(revoked) << revoked.error().ToString();
  EXPECT_EQ(*revoked, 2);
  for (const Tokens& other : others) EXPECT_FALSE(Verify(other.access_token));
  EXPECT_TRUE(Verify(ada.access_token));
  EXPECT_EQ(*RevokeAll(ada, false), 0);
  EXPECT_EQ(*RevokeAll(ada, true), 1);
  EXPECT_EQ(RevokeAll(ada, true).error().code(), Code::kUnauthenticated);
  ExpectRefused(ada.refresh_token, "revoked by itself");
}

TEST_F(SessionsTest, AnAccountHasABoundedNumberOfSessionsAndDevices) {
  ServiceConfig few;
  few.session.sessions_max = 3;
  few.lockout.devices_max = 2;
  Service service(store_, *hasher_, signer_, verifier_, metrics_, few, clock_);
  ASSERT_TRUE(Register(Ada()));
  std::vector<Tokens> sessions;
  for (int i = 0; i < 5; ++i) {
    clock_.Advance(1s);
    auto login = Run<Login>(
        [&](Call& call) { return service.LogIn(call, {.identifier = "ada", .password = Secret<>(kPassword)}); });
    ASSERT_TRUE(login) << login.error().ToString();
    sessions.push_back(login->tokens);
    // The first stays in use, and so stays.
    if (i < 4) sessions[0] = *Refresh(sessions[0].refresh_token);
    clock_.Advance(1s);
  }
  EXPECT_TRUE(Lives(sessions[0]));
  EXPECT_EQ(ReasonOf(sessions[1]), "limit");
  EXPECT_EQ(ReasonOf(sessions[2]), "limit");
  EXPECT_TRUE(Lives(sessions[3]));
  EXPECT_TRUE(Lives(sessions[4]));
  EXPECT_EQ(CountOf("devices"), "2");
}

TEST_F(SessionsTest, SessionsFromBeforeRefreshTokensSurvive) {
  const Tokens ada = AdaLoggedIn().tokens;
  const Uuid old = Uuid::New(clock_);
  // As the binary before inserts it.
  Execute("INSERT INTO sessions (id, account_id, created_at) VALUES ('" + old.ToString() + "', '" +
          ada.account.ToString() + "', now())");
  const Caller caller{.account = ada.account, .session = old};
  const auto page = Run<SessionPage>(caller, [&](Call& call) { return service_.sessions().List(call, 0, ""); });
  ASSERT_TRUE(page) << page.error().ToString();
  EXPECT_EQ(page->items.size(), 2U);
  ExpectRefused(RefreshToken::First(old, NewKey()).Encode(), "it has no family");
  EXPECT_TRUE(Revoke(ada, old.ToString()));
}

TEST_F(SessionsTest, HousekeepingDeletesWhatIsLongDead) {
  const Tokens dead = AdaLoggedIn().tokens;
  ASSERT_TRUE(LogOut(dead));
  const Tokens live = LogInAgain();
  ASSERT_FALSE(LogIn("grace", kPassword));
  ASSERT_TRUE(Run<void>([&](Call& call) { return service_.passwords().RequestReset(call, "ada@example.com"); }));
  const auto keep_house = [&] {
    const auto more = Run<bool>([&](Call& call) { return service_.KeepHouse(call); });
    ASSERT_TRUE(more) << more.error().ToString();
    EXPECT_FALSE(*more);
  };
  keep_house();
  EXPECT_EQ(CountOf("sessions"), "2") << "too soon";
  EXPECT_EQ(CountOf("login_attempts"), "1");
  EXPECT_EQ(CountOf("password_resets"), "1");
  clock_.Advance(config_.session.session_retention + 1s);
  keep_house();
  EXPECT_EQ(CountOf("sessions"), "1");
  EXPECT_TRUE(Lives(live));
  EXPECT_EQ(CountOf("login_attempts"), "0");
  EXPECT_EQ(CountOf("password_resets"), "0");
  EXPECT_EQ(CountOf("password_reset_requests"), "0");
  EXPECT_EQ(CountOf("devices"), "2");
  clock_.Advance(config_.lockout.device_lifetime);
  keep_house();
  EXPECT_EQ(CountOf("sessions"), "0");
  EXPECT_EQ(CountOf("devices"), "0");
}

TEST_F(SessionsTest, HousekeepingThatIsNotDoneInOneRoundSaysSo) {
  Execute(
      "INSERT INTO login_attempts (subject, failures, last_at) "
      "SELECT sha256(n::text::bytea), 1, '2000-01-01' FROM generate_series(1, 100001) AS n");
  const auto keep_house = [&] { return Run<bool>([&](Call& call) { return service_.KeepHouse(call); }); };
  const auto first = keep_house();
  ASSERT_TRUE(first) << first.error().ToString();
  EXPECT_TRUE(*first);
  EXPECT_EQ(CountOf("login_attempts"), "1") << "a round has a limit";
  const auto second = keep_house();
  ASSERT_TRUE(second) << second.error().ToString();
  EXPECT_FALSE(*second);
  EXPECT_EQ(CountOf("login_attempts"), "0");
}

// Random exchanges, replays, forgeries, log-outs and waits, against a model of what a family may do.
TEST_F(SessionsTest, NoSpentTokenLives) {
  struct Family {
    WallTime opened_at;
    WallTime expires_at;
    WallTime rotated_at;
    bool dead = false;
    std::vector<Tokens> tokens;  // by generation
  };
  const unsigned seed = tests::TestSeed();
  std::mt19937_64 random(seed);
  const auto pick = [&](std::size_t below) { return std::uniform_int_distribution<std::size_t>(0, below - 1)(random); };
  const auto chance = [&](double p) { return std::bernoulli_distribution(p)(random); };

  // Each reuse is a warning, and there are hundreds.
  telemetry::InitLogging({.level = telemetry::Level::kError});
  ASSERT_TRUE(Register(Ada()));
  const StoredAccount ada = Read("ada");
  std::map<std::string, int> outcomes;
  std::set<std::string> issued;
  std::vector<Family> families(8);
  // What a log-in does once the password is right.
  const auto open = [&](Family& family) {
    const auto tokens = Open(ada);
    ASSERT_TRUE(tokens);
    EXPECT_TRUE(issued.insert(tokens->refresh_token.Expose()).second);
    family = {.opened_at = clock_.WallNow(),
              .expires_at = tokens->refresh_expires_at,
              .rotated_at = {},
              .dead = false,
              .tokens = {*tokens}};
  };
  for (Family& family : families) open(family);

  constexpr int kSteps = 2500;
  for (int step = 0; step < kSteps; ++step) {
    SCOPED_TRACE("seed " + std::to_string(seed) + ", step " + std::to_string(step));
    Family& family = families[pick(families.size())];
    const WallTime now = clock_.WallNow();
    const std::size_t current = family.tokens.size() - 1;
    const bool live = !family.dead && now < family.expires_at;
    const std::size_t action = pick(100);
    if (action < 70) {
      // Mostly the newest, often the one before, sometimes any.
      std::size_t index = current;
      if (chance(0.3) && current > 0) index = current - 1;
      if (chance(0.05)) index = pick(family.tokens.size());
      const auto result = Refresh(family.tokens[index].refresh_token);
      const bool recent = index + 1 == current && now < family.rotated_at + config_.session.refresh_grace;
      if (live && index == current) {
        ++outcomes["rotated"];
        ASSERT_TRUE(result) << result.error().ToString();
        EXPECT_TRUE(issued.insert(result->refresh_token.Expose()).second);
        family.rotated_at = now;
        family.expires_at = std::min<WallTime>(now + config_.session.refresh_lifetime,
                                               family.opened_at + config_.session.session_lifetime_max);
        EXPECT_EQ(result->refresh_expires_at, family.expires_at);
        family.tokens.push_back(*result);
      } else if (live && recent) {
        ++outcomes["grace"];
        ASSERT_TRUE(result) << result.error().ToString();
        EXPECT_EQ(result->refresh_token.Expose(), family.tokens[current].refresh_token.Expose());
        EXPECT_EQ(result->refresh_expires_at, family.expires_at);
      } else {
        ++outcomes[live ? "reuse" : "dead"];
        ASSERT_FALSE(result) << "a spent token lives";
        EXPECT_EQ(result.error().message(), kInvalid);
        family.dead = true;
      }
    } else if (action < 78) {
      std::string bytes = *auth::Base64UrlDecode(family.tokens[pick(family.tokens.size())].refresh_token.Expose());
      const std::size_t at = pick(bytes.size());
      bytes[at] = static_cast<char>(bytes[at] ^ (1 << pick(8)));
      ++outcomes["forged"];
      ASSERT_FALSE(Refresh(Secret<>(auth::Base64UrlEncode(bytes))));
    } else if (action < 80) {
      ++outcomes["log-out"];
      ASSERT_TRUE(LogOut(family.tokens[current]));
      family.dead = true;
    } else if (action < 95) {
      if (chance(0.02)) {
        clock_.Advance(24h * static_cast<int>(1 + pick(20)));
      } else {
        clock_.Advance(std::chrono::milliseconds(pick(4000)));
      }
    } else {
      // What the service says of the session is what the model says.
      const auto claims =
          Run<Account>(CallerOf(family.tokens[current]), [&](Call& call) { return service_.GetAccount(call); });
      EXPECT_EQ(claims.ok(), live);
    }
    // A dead family stays for a while, so that its tokens are tried too.
    if (!live && chance(0.3)) open(family);
  }
  telemetry::InitLogging({});
  for (const char* const outcome : {"rotated", "grace", "reuse", "dead", "forged", "log-out"}) {
    EXPECT_GT(outcomes[outcome], 5) << outcome << " was hardly tried";
    std::cout << outcome << ' ' << outcomes[outcome] << '\n';
  }
}

// The same with calls at once: exchanges of any token of a family, among them, at times, something that ends it.
TEST_F(SessionsTest, NoSpentTokenLivesWhateverComesAtOnce) {
  const unsigned seed = tests::TestSeed();
  std::mt19937_64 random(seed);
  const auto pick = [&](std::size_t below) { return std::uniform_int_distribution<std::size_t>(0, below - 1)(random); };
  telemetry::InitLogging({.level = telemetry::Level::kError});
  ASSERT_TRUE(Register(Ada()));
  const StoredAccount ada = Read("ada");
  const Uuid account = ada.account.id;
  std::map<std::string, int> outcomes;

  constexpr int kRounds = 120;
  constexpr std::size_t kCalls = 10;
  for (int round = 0; round < kRounds; ++round) {
    SCOPED_TRACE("seed " + std::to_string(seed) + ", round " + std::to_string(round));
    const auto other = Open(ada);
    const auto first = Open(ada);
    ASSERT_TRUE(other && first);
    std::vector<Tokens> chain = {*first};  // by generation
    for (std::size_t exchanges = pick(4); exchanges > 0; --exchanges) {
      const auto next = Refresh(chain.back().refresh_token);
      ASSERT_TRUE(next) << next.error().ToString();
      chain.push_back(*next);
    }
    const std::size_t current = chain.size() - 1;
    std::vector<std::size_t> presented(kCalls);
    for (std::size_t& index : presented) index = pick(10) < 7 ? current : current - std::min(current, pick(3));
    // The place of what ends the session among the calls; behind them all: nothing does.
    const std::size_t end_at = pick(2 * kCalls);
    const std::size_t end = pick(3);
    const bool ended = end_at < kCalls;

    const auto results = RunAtOnce<Tokens>(kCalls, [&](Call& call, std::size_t i) -> Task<Tokens> {
      if (i != end_at) co_return co_await service_.sessions().Refresh(call, chain[presented[i]].refresh_token);
      if (end == 0) {
        call.set_caller(CallerOf(chain.back()));
        NOVA_CO_TRY(co_await service_.sessions().LogOut(call));
      } else if (end == 1) {
        call.set_caller(CallerOf(*other));
        NOVA_CO_TRY([[maybe_unused]] const auto count, co_await service_.sessions().RevokeAll(call, false));
      } else {
        NOVA_CO_TRY(co_await pool_.InTransaction(
            call, [&](postgres::Transaction& transaction) { return service_.Suspend(call, transaction, account); }));
        NOVA_CO_TRY(co_await pool_.InTransaction(
            call, [&](postgres::Transaction& transaction) { return service_.Reinstate(call, transaction, account); }));
      }
      co_return Tokens();
    });

    bool reused = false;
    std::set<std::string> successors;
    for (std::size_t i = 0; i < kCalls; ++i) {
      if (i == end_at) {
        ASSERT_TRUE(results[i]) << results[i].error().ToString();
        continue;
      }
      if (presented[i] + 1 < current) reused = true;
      if (!results[i]) {
        ASSERT_EQ(results[i].error().code(), Code::kUnauthenticated) << results[i].error().ToString();
        continue;
      }
      EXPECT_GE(presented[i] + 1, current) << "a spent token lives";
      const std::string& successor = results[i]->refresh_token.Expose();
      if (presented[i] == current) {
        successors.insert(successor);
      } else {
        EXPECT_EQ(successor, chain[current].refresh_token.Expose());
      }
    }
    ASSERT_LE(successors.size(), 1U) << "the family has split";
    const bool lives = Lives(chain.back());
    EXPECT_FALSE(lives && (ended || reused)) << "ended: " << ended << ", reused: " << reused;
    ++outcomes[ended ? "ended" : reused ? "reused" : lives ? "lives" : "overtaken"];
    for (const std::string& successor : successors) EXPECT_EQ(Refresh(Secret<>(successor)).ok(), lives);
    if (!lives) ExpectRefused(chain.back().refresh_token, "the family is dead");
  }
  telemetry::InitLogging({});
  for (const char* const outcome : {"ended", "reused", "lives"}) {
    EXPECT_GT(outcomes[outcome], 2) << outcome << " was hardly tried";
    std::cout << outcome << ' ' << outcomes[outcome] << '\n';
  }
}

}  // namespace
}  // namespace nova::identity
