#include <algorithm>
#include <gtest/gtest.h>
#include <random>
#include <set>

#include "api/events/v1/user.pb.h"
#include "services/user/service.h"
#include "services/user/test_environment.h"
#include "tests/seed.h"

namespace nova::user {
namespace {

using namespace std::chrono_literals;
using runtime::Call;
using runtime::Task;

class ServiceTest : public UserTest {
 protected:
  NewUser Account(std::string username) {
    return {.id = Uuid::New(clock_), .username = std::move(username), .registered_at = clock_.WallNow()};
  }

  // The newest event told of a user.
  template <class Event>
  Event LastEventOf(Uuid id) {
    static constexpr postgres::Statement kSelect{
        "test_last_event",
        "SELECT type, payload FROM events.outbox WHERE aggregate = $1 ORDER BY sequence DESC LIMIT 1"};
    Event event;
    const auto read = Run<void>([&](Call& call) -> Task<void> {
      NOVA_CO_TRY(const auto rows, co_await pool_.Query(call, kSelect, "user/" + id.ToString()));
      std::string type;
      std::vector<std::uint8_t> payload;
      NOVA_CO_TRY(rows[0].Read(type, payload));
      EXPECT_EQ(type, event.GetTypeName());
      EXPECT_TRUE(event.ParseFromArray(payload.data(), static_cast<int>(payload.size())));
      co_return Ok();
    });
    EXPECT_TRUE(read) << read.error().ToString();
    return event;
  }

  // The whole profile, past every rule.
  User Row(Uuid id) {
    const auto found = Run<std::optional<User>>([&](Call& call) { return store_.FindById(call, id); });
    return found && *found ? **found : User();
  }
};

// --- Making ---

TEST_F(ServiceTest, ANewAccountGetsAProfileAndSettings) {
  clock_.Advance(123'456'789ns);  // finer than what PostgreSQL keeps
  const NewUser account = Account("ada");
  clock_.Advance(3s);
  ASSERT_TRUE(Create(account));
  const auto own = Get(account.id, account.id);
  ASSERT_TRUE(own) << own.error().ToString();
  const User expected{.id = account.id,
                      .username = "ada",
                      .display_name = "ada",
                      .version = 1,
                      .created_at = std::chrono::floor<std::chrono::microseconds>(account.registered_at),
                      .updated_at = std::chrono::floor<std::chrono::microseconds>(clock_.WallNow())};
  EXPECT_EQ(*own, expected);
  EXPECT_EQ(*Get(account.id), expected);
  const auto settings = GetSettings(account.id);
  ASSERT_TRUE(settings) << settings.error().ToString();
  EXPECT_EQ(*settings, (Settings{.updated_at = expected.updated_at}));

  EXPECT_EQ(EventsOf(account.id), "UserCreated");
  const auto event = LastEventOf<events::v1::UserCreated>(account.id);
  EXPECT_EQ(event.user_id(), account.id.ToString());
  EXPECT_EQ(event.username(), "ada");
}

TEST_F(ServiceTest, AnEventThatComesAgainChangesNothing) {
  const NewUser account = Account("ada");
  ASSERT_TRUE(Create(account));
  ASSERT_TRUE(Update(account.id, {.expected_version = 1, .display_name = "Ada"}));
  const User before = Row(account.id);
  for (int i = 0; i < 3; ++i) {
    const auto again = Create(account);
    EXPECT_TRUE(again) << again.error().ToString();
  }
  EXPECT_EQ(Row(account.id), before);
  EXPECT_EQ(CountOf("users"), "1");
  EXPECT_EQ(CountOf("user_settings"), "1");
  EXPECT_EQ(EventsOf(account.id), "UserCreated UserUpdated");
}

TEST_F(ServiceTest, AUsernameOfAnotherIsAnErrorThatNobodySwallows) {
  ASSERT_TRUE(Create(Account("ada")));
  const NewUser second = Account("ada");
  const auto created = Create(second);
  EXPECT_EQ(CodeOf(created), Code::kAlreadyExists);
  EXPECT_EQ(CountOf("users"), "1");
  EXPECT_EQ(EventsOf(second.id), "");
}

TEST_F(ServiceTest, OfManyAccountsWithOneUsernameExactlyOneGetsTheProfile) {
  const auto results = RunAtOnce<void>(32, [this](Call& call, std::size_t) {
    return outbox_.InTransaction(call, [this, &call](postgres::Transaction& transaction) {
      return service_.CreateUser(call, transaction, Account("ada"));
    });
  });
  int created = 0;
  for (const auto& result : results) {
    if (result) {
      ++created;
    } else {
      EXPECT_EQ(CodeOf(result), Code::kAlreadyExists) << result.error().ToString();
    }
  }
  EXPECT_EQ(created, 1);
  EXPECT_EQ(CountOf("users"), "1");
  EXPECT_EQ(CountOf("events.outbox"), "1");
}

TEST_F(ServiceTest, AUsernameThatIdentityCannotHaveStoredIsRefused) {
  for (const std::string& username :
       {std::string(), std::string("Ada"), std::string("\uff41da"), std::string(31, 'a'), std::string("ada\xff")})
    EXPECT_EQ(CodeOf(Create(Account(username))), Code::kInvalidArgument) << username;
  EXPECT_EQ(CountOf("users"), "0");
}

// --- Reading ---

TEST_F(ServiceTest, WhoeverIsFasterThanTheEventIsAskedToTryAgain) {
  const Uuid fresh = Uuid::New(clock_);
  for (const auto& error : {Get(fresh, fresh).error(), GetSettings(fresh).error(), Delete(fresh).error(),
                            Update(fresh, ProfileUpdate{.expected_version = 1, .bio = "x"}).error(),
                            Update(fresh, SettingsUpdate{.expected_version = 1, .language = "de"}).error()}) {
    EXPECT_EQ(error.code(), Code::kUnavailable);
    EXPECT_EQ(error.message(), "the profile is being made; try again");
  }
  EXPECT_EQ(CodeOf(Get(fresh)), Code::kNotFound) << "to others it is not there";
  ASSERT_TRUE(Create({.id = fresh, .username = "ada", .registered_at = clock_.WallNow()}));
  EXPECT_TRUE(Get(fresh, fresh));
}

TEST_F(ServiceTest, WhatIsOnesOwnNeedsACaller) {
  EXPECT_EQ(CodeOf(Run<Settings>([&](Call& call) { return service_.GetSettings(call); })), Code::kUnauthenticated);
  EXPECT_EQ(CodeOf(Run<void>([&](Call& call) { return service_.DeleteUser(call); })), Code::kUnauthenticated);
  EXPECT_EQ(CodeOf(Run<User>([&](Call& call) { return service_.UpdateProfile(call, {}); })), Code::kUnauthenticated);
  EXPECT_EQ(CodeOf(Run<Settings>([&](Call& call) { return service_.UpdateSettings(call, {}); })),
            Code::kUnauthenticated);
}

TEST_F(ServiceTest, ABatchAnswersEveryIdInOrder) {
  std::mt19937 random(tests::TestSeed());
  std::vector<Uuid> present;
  std::vector<Uuid> absent;
  for (int i = 0; i < 40; ++i) present.push_back(Made("user" + std::to_string(i)));
  for (int i = 0; i < 10; ++i) absent.push_back(Uuid::New(clock_));
  for (int i = 0; i < 5; ++i) {
    absent.push_back(Made("gone" + std::to_string(i)));
    ASSERT_TRUE(Delete(absent.back()));
  }
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(Ban(present[static_cast<std::size_t>(i)]));
  const Uuid caller = present.back();

  for (const std::size_t size : {0, 1, 2, 7, 50, 100}) {
    std::vector<Uuid> asked;
    std::vector<std::string> ids;
    for (std::size_t i = 0; i < size; ++i) {
      const auto& from = random() % 3 == 0 ? absent : present;
      asked.push_back(from[random() % from.size()]);
      ids.push_back(asked.back().ToString());
      // UUIDs are compared as such, however they are written.
      if (random() % 4 == 0)
        std::ranges::transform(ids.back(), ids.back().begin(), [](char c) { return std::toupper(c); });
    }
    const auto entries = GetMany(ids, caller);
    ASSERT_TRUE(entries) << entries.error().ToString();
    ASSERT_EQ(entries->size(), size);
    for (std::size_t i = 0; i < size; ++i) {
      const UserEntry& entry = (*entries)[i];
      EXPECT_EQ(entry.id, asked[i]);
      const bool is_present = std::ranges::find(present, asked[i]) != present.end();
      ASSERT_EQ(entry.user.has_value(), is_present) << i;
      if (!is_present) continue;
      EXPECT_EQ(entry.user->id, asked[i]);
      EXPECT_EQ(*entry.user, *Get(asked[i], caller)) << "a batch shows what a single read shows";
    }
  }
}

TEST_F(ServiceTest, ABatchHasALimitAndNamesWhatItCannotRead) {
  std::vector<std::string> ids(kIdsMax, Uuid::New(clock_).ToString());
  const auto most = GetMany(ids);
  ASSERT_TRUE(most) << most.error().ToString();
  EXPECT_EQ(most->size(), kIdsMax);
  ids[7] = "ada";
  const auto malformed = GetMany(ids);
  EXPECT_EQ(CodeOf(malformed), Code::kInvalidArgument);
  EXPECT_EQ(malformed.error().message(), "user_ids[7]: a UUID is needed");
  ids.emplace_back(ids.front());
  const auto too_many = GetMany(ids);
  EXPECT_EQ(CodeOf(too_many), Code::kInvalidArgument);
  EXPECT_EQ(too_many.error().message(), "user_ids: at most 100 are allowed");
  EXPECT_EQ(CodeOf(Run<User>([&](Call& call) { return service_.GetUser(call, "ada"); })), Code::kInvalidArgument);
}

TEST_F(ServiceTest, AUserIsFoundByEverySpellingOfTheName) {
  const Uuid id = Made("ada.l_1");
  for (const std::string spelling : {"ada.l_1", "ADA.L_1", "\uff21da.l_1", "a\u00adda.l_\u00b9"}) {
    const auto found = GetByName(spelling);
    ASSERT_TRUE(found) << spelling << ": " << found.error().ToString();
    EXPECT_EQ(found->id, id);
  }
  for (const std::string& nobody : {std::string("ada"), std::string("ada.l_1 "), std::string(500, 'a'),
                                    std::string("\u0430da.l_1"), std::string("a\0a", 3)})
    EXPECT_EQ(CodeOf(GetByName(nobody)), Code::kNotFound) << nobody;
  EXPECT_EQ(CodeOf(GetByName("")), Code::kInvalidArgument);
}

// --- Privacy ---

TEST_F(ServiceTest, OfAPrivateProfileOthersSeeTheNamesOnly) {
  const Uuid ada = Made("ada");
  const Uuid bob = Made("bob");
  ASSERT_TRUE(Update(ada, {.expected_version = 1, .display_name = "Ada", .bio = "secret", .location = "London"}));
  ASSERT_TRUE(Update(ada, SettingsUpdate{.expected_version = 1, .profile_visibility = Visibility::kPrivate}));
  const User expected{.id = ada, .username = "ada", .display_name = "Ada", .is_private = true, .version = 0};
  for (const std::optional<Uuid> other : {std::optional<Uuid>(), std::optional(bob)}) {
    EXPECT_EQ(*Get(ada, other), expected);
    EXPECT_EQ(*GetByName("ada", other), expected);
    EXPECT_EQ(*GetMany({ada.ToString()}, other)->front().user, expected);
  }
  for (const User& own : {*Get(ada, ada), *GetByName("ada", ada), *GetMany({ada.ToString()}, ada)->front().user}) {
    EXPECT_EQ(own, Row(ada));
    EXPECT_EQ(own.bio, "secret");
  }
}

TEST_F(ServiceTest, ABannedUserIsShownAsSuchAndMayNotWrite) {
  const Uuid ada = Made("ada");
  ASSERT_TRUE(Update(ada, {.expected_version = 1, .display_name = "Buy now", .bio = "spam"}));
  const auto banned = Ban(ada, " spam ");
  ASSERT_TRUE(banned) << banned.error().ToString();
  EXPECT_EQ(banned->ban_reason, "spam");
  EXPECT_EQ(banned->version, 3);
  EXPECT_EQ(LastEventOf<events::v1::UserBanned>(ada).version(), 3);

  EXPECT_EQ(*Get(ada), (User{.id = ada, .username = "ada", .banned_at = banned->banned_at, .version = 0}));
  EXPECT_EQ(*Get(ada, ada), *banned) << "the user sees what was done, and why";
  EXPECT_TRUE(GetSettings(ada));
  EXPECT_EQ(CodeOf(Update(ada, ProfileUpdate{.expected_version = 3, .bio = "x"})), Code::kPermissionDenied);
  EXPECT_EQ(CodeOf(Update(ada, SettingsUpdate{.expected_version = 1, .language = "de"})), Code::kPermissionDenied);
  EXPECT_EQ(Row(ada), *banned);

  const auto unbanned = Unban(ada);
  ASSERT_TRUE(unbanned);
  EXPECT_EQ(unbanned->version, 4);
  EXPECT_EQ(unbanned->ban_reason, "");
  EXPECT_EQ(LastEventOf<events::v1::UserUnbanned>(ada).version(), 4);
  EXPECT_EQ(Get(ada)->bio, "spam");
  EXPECT_TRUE(Update(ada, ProfileUpdate{.expected_version = 4, .bio = "x"}));
  EXPECT_TRUE(Ban(ada));
  EXPECT_TRUE(Delete(ada)) << "a banned user may go";
}

// --- Writing ---

TEST_F(ServiceTest, AnUpdateRaisesTheVersionAndIsToldToOthers) {
  const Uuid ada = Made("ada");
  clock_.Advance(1h);
  const std::string media = Uuid::New(clock_).ToString();
  const auto updated = Update(ada, {.expected_version = 1,
                                    .display_name = " Ada Lovelace ",
                                    .bio = "first\nsecond",
                                    .location = "London",
                                    .website = "https://ada.example",
                                    .avatar = media});
  ASSERT_TRUE(updated) << updated.error().ToString();
  EXPECT_EQ(updated->version, 2);
  EXPECT_EQ(updated->display_name, "Ada Lovelace");
  EXPECT_EQ(updated->updated_at, clock_.WallNow());
  EXPECT_EQ(updated->created_at, clock_.WallNow() - 1h);
  EXPECT_EQ(*updated, Row(ada)) << "what is answered is what is stored";
  EXPECT_EQ(updated->avatar, media);

  const auto event = LastEventOf<events::v1::UserUpdated>(ada);
  EXPECT_EQ(event.user_id(), ada.ToString());
  EXPECT_EQ(event.username(), "ada");
  EXPECT_EQ(event.display_name(), "Ada Lovelace");
  EXPECT_TRUE(event.is_public());
  EXPECT_TRUE(event.discoverable());
  EXPECT_FALSE(event.verified());
  EXPECT_EQ(event.version(), 2);
}

TEST_F(ServiceTest, AnUpdateOfAnOlderVersionChangesNothing) {
  const Uuid ada = Made("ada");
  ASSERT_TRUE(Update(ada, {.expected_version = 1, .bio = "second"}));
  const User before = Row(ada);
  for (const std::int64_t version : {1, 3}) {
    const auto stale = Update(ada, {.expected_version = version, .bio = "lost"});
    EXPECT_EQ(CodeOf(stale), Code::kAborted) << version;
    EXPECT_EQ(stale.error().message(), "it was changed meanwhile; read it again");
  }
  EXPECT_EQ(CodeOf(Update(ada, {.expected_version = 2, .website = "ftp://x"})), Code::kInvalidArgument);
  EXPECT_EQ(Row(ada), before);
  EXPECT_EQ(EventsOf(ada), "UserCreated UserUpdated");
}

TEST_F(ServiceTest, OfManyUpdatesOfOneVersionExactlyOneWins) {
  const Uuid ada = Made("ada");
  for (std::int64_t version = 1; version <= 4; ++version) {
    const auto results = RunAtOnce<User>(50, [&](Call& call, std::size_t racer) {
      tests::As(ada).Enter(call);
      return service_.UpdateProfile(call, {.expected_version = version, .bio = "racer " + std::to_string(racer)});
    });
    std::vector<std::size_t> winners;
    for (std::size_t racer = 0; racer < results.size(); ++racer) {
      if (results[racer]) {
        winners.push_back(racer);
      } else {
        EXPECT_EQ(CodeOf(results[racer]), Code::kAborted) << results[racer].error().ToString();
      }
    }
    ASSERT_EQ(winners.size(), 1U) << "version " << version;
    EXPECT_EQ(Row(ada).version, version + 1);
    EXPECT_EQ(Row(ada).bio, "racer " + std::to_string(winners[0]));
  }
  EXPECT_EQ(EventsOf(ada), "UserCreated UserUpdated UserUpdated UserUpdated UserUpdated");
}

TEST_F(ServiceTest, WhoeverReadsAgainGetsThroughAndNoUpdateIsLost) {
  constexpr int kRacers = 50;
  const Uuid ada = Made("ada");
  const auto results = RunAtOnce<User>(kRacers, [&](Call& call, std::size_t) -> Task<User> {
    tests::As(ada).Enter(call);
    while (true) {
      NOVA_CO_TRY(const User seen, co_await service_.GetUser(call, ada.ToString()));
      auto saved = co_await service_.UpdateProfile(call, {.expected_version = seen.version, .bio = seen.bio + "x"});
      if (saved || saved.error().code() != Code::kAborted) co_return saved;
    }
  });
  std::set<std::int64_t> versions;
  for (const auto& result : results) {
    ASSERT_TRUE(result) << result.error().ToString();
    versions.insert(result->version);
    EXPECT_EQ(result->bio.size() + 1, static_cast<std::size_t>(result->version));
  }
  EXPECT_EQ(versions.size(), static_cast<std::size_t>(kRacers));
  EXPECT_EQ(*versions.rbegin(), kRacers + 1);
  EXPECT_EQ(Row(ada).bio, std::string(kRacers, 'x'));
}

TEST_F(ServiceTest, SettingsHaveAVersionOfTheirOwn) {
  const Uuid ada = Made("ada");
  clock_.Advance(1h);
  const auto saved = Update(ada, SettingsUpdate{.expected_version = 1,
                                                .language = "pt-BR",
                                                .time_zone = "America/Sao_Paulo",
                                                .allow_messages_from = Audience::kFollowers,
                                                .email_notifications = false});
  ASSERT_TRUE(saved) << saved.error().ToString();
  EXPECT_EQ(*saved, (Settings{.language = "pt-BR",
                              .time_zone = "America/Sao_Paulo",
                              .allow_messages_from = Audience::kFollowers,
                              .email_notifications = false,
                              .version = 2,
                              .updated_at = clock_.WallNow()}));
  EXPECT_EQ(*GetSettings(ada), *saved);
  EXPECT_EQ(Row(ada).version, 1) << "nobody else notices";
  EXPECT_EQ(EventsOf(ada), "UserCreated");

  EXPECT_EQ(CodeOf(Update(ada, SettingsUpdate{.expected_version = 1, .language = "de"})), Code::kAborted);
  EXPECT_EQ(CodeOf(Update(ada, SettingsUpdate{.expected_version = 2, .language = "?"})), Code::kInvalidArgument);
  EXPECT_EQ(*GetSettings(ada), *saved);
}

TEST_F(ServiceTest, SettingsThatOthersNoticeChangeTheProfileToo) {
  const Uuid ada = Made("ada");
  ASSERT_TRUE(Update(ada, SettingsUpdate{.expected_version = 1, .profile_visibility = Visibility::kPrivate}));
  auto event = LastEventOf<events::v1::UserUpdated>(ada);
  EXPECT_FALSE(event.is_public());
  EXPECT_TRUE(event.discoverable());
  EXPECT_EQ(event.version(), 2);
  ASSERT_TRUE(Update(
      ada, SettingsUpdate{.expected_version = 2, .discoverable = false, .allow_messages_from = Audience::kNobody}));
  event = LastEventOf<events::v1::UserUpdated>(ada);
  EXPECT_FALSE(event.discoverable());
  EXPECT_EQ(event.version(), 3);
  EXPECT_EQ(Row(ada).version, 3);
  const auto settings = GetSettings(ada);
  EXPECT_EQ(settings->profile_visibility, Visibility::kPrivate);
  EXPECT_FALSE(settings->discoverable);
  EXPECT_EQ(settings->allow_messages_from, Audience::kNobody);
  // Chosen again, it is news to nobody.
  ASSERT_TRUE(Update(ada, SettingsUpdate{.expected_version = 3, .profile_visibility = Visibility::kPrivate}));
  EXPECT_EQ(Row(ada).version, 3);
  EXPECT_EQ(EventsOf(ada), "UserCreated UserUpdated UserUpdated");
}

// --- Moderation ---

TEST_F(ServiceTest, WhatIsSoAlreadyIsLeftAsItIs) {
  const Uuid ada = Made("ada");
  const auto banned = Ban(ada, "spam");
  ASSERT_TRUE(banned);
  const auto verified = Verify(ada, true);
  ASSERT_TRUE(verified);
  EXPECT_EQ(verified->version, 3);
  EXPECT_TRUE(LastEventOf<events::v1::UserUpdated>(ada).verified());
  clock_.Advance(1h);
  EXPECT_EQ(*Ban(ada, "another reason"), *verified);
  EXPECT_EQ(*Verify(ada, true), *verified);
  const auto unbanned = Unban(ada);
  EXPECT_EQ(*Unban(ada), *unbanned);
  const auto unverified = Verify(ada, false);
  EXPECT_FALSE(unverified->verified_at);
  EXPECT_EQ(*Verify(ada, false), *unverified);
  EXPECT_EQ(EventsOf(ada), "UserCreated UserBanned UserUpdated UserUnbanned UserUpdated");
}

TEST_F(ServiceTest, BansAtOnceAreOneBan) {
  const Uuid ada = Made("ada");
  const auto results = RunAtOnce<User>(16, [&](Call& call, std::size_t i) {
    return service_.BanUser(call, ada.ToString(), "reason " + std::to_string(i));
  });
  for (const auto& result : results) {
    ASSERT_TRUE(result) << result.error().ToString();
    EXPECT_EQ(*result, Row(ada)) << "everybody is told of the ban that holds";
  }
  EXPECT_EQ(Row(ada).version, 2);
  EXPECT_EQ(EventsOf(ada), "UserCreated UserBanned");
}

TEST_F(ServiceTest, ModerationNeedsAUserAndAReason) {
  const Uuid nobody = Uuid::New(clock_);
  EXPECT_EQ(CodeOf(Ban(nobody)), Code::kNotFound);
  EXPECT_EQ(CodeOf(Unban(nobody)), Code::kNotFound);
  EXPECT_EQ(CodeOf(Verify(nobody, true)), Code::kNotFound);
  const auto no_reason = Ban(Made("ada"), "");
  EXPECT_EQ(CodeOf(no_reason), Code::kInvalidArgument);
  EXPECT_EQ(no_reason.error().message(), "reason: it is needed");
  EXPECT_EQ(CodeOf(Run<User>([&](Call& call) { return service_.VerifyUser(call, "ada", true); })),
            Code::kInvalidArgument);
}

// --- Deletion ---

TEST_F(ServiceTest, DeletionErasesThePersonAndKeepsTheTombstone) {
  const NewUser account = Account("ada");
  ASSERT_TRUE(Create(account));
  const Uuid ada = account.id;
  ASSERT_TRUE(Update(ada, {.expected_version = 1,
                           .display_name = "Ada",
                           .bio = "bio",
                           .location = "London",
                           .website = "https://ada.example",
                           .avatar = Uuid::New(clock_).ToString()}));
  ASSERT_TRUE(Verify(ada, true));
  ASSERT_TRUE(Ban(ada, "a reason that names Ada"));
  clock_.Advance(1h);
  const User before = Row(ada);
  ASSERT_TRUE(Delete(ada));
  const WallTime now = clock_.WallNow();
  EXPECT_EQ(Row(ada), (User{.id = ada,
                            .deleted_at = now,
                            .version = before.version + 1,
                            .created_at = before.created_at,
                            .updated_at = now}));
  EXPECT_EQ(ValueOf("SELECT username IS NULL FROM users"), "t");
  EXPECT_EQ(CountOf("user_settings"), "0");
  EXPECT_EQ(LastEventOf<events::v1::UserDeleted>(ada).user_id(), ada.ToString());

  clock_.Advance(1h);
  EXPECT_TRUE(Delete(ada)) << "done is done";
  EXPECT_EQ(Row(ada).deleted_at, now);
  EXPECT_EQ(EventsOf(ada), "UserCreated UserUpdated UserUpdated UserBanned UserDeleted");

  for (const std::optional<Uuid> caller : {std::optional<Uuid>(), std::optional(ada)}) {
    EXPECT_EQ(CodeOf(Get(ada, caller)), Code::kNotFound);
    EXPECT_EQ(CodeOf(GetByName("ada", caller)), Code::kNotFound);
    EXPECT_FALSE(GetMany({ada.ToString()}, caller)->front().user);
  }
  EXPECT_EQ(CodeOf(Update(ada, ProfileUpdate{.expected_version = 5, .bio = "x"})), Code::kNotFound);
  EXPECT_EQ(CodeOf(Update(ada, SettingsUpdate{.expected_version = 1, .language = "de"})), Code::kNotFound);
  EXPECT_EQ(CodeOf(GetSettings(ada)), Code::kNotFound);
  EXPECT_EQ(CodeOf(Ban(ada)), Code::kNotFound);
  EXPECT_EQ(CodeOf(Verify(ada, true)), Code::kNotFound);
}

TEST_F(ServiceTest, AReplayResurrectsNobody) {
  const NewUser account = Account("ada");
  ASSERT_TRUE(Create(account));
  ASSERT_TRUE(Delete(account.id));
  const User tombstone = Row(account.id);
  EXPECT_TRUE(Create(account));
  EXPECT_EQ(Row(account.id), tombstone);
  // Not even when somebody else has the name by now, who keeps it.
  const NewUser heir = Account("ada");
  ASSERT_TRUE(Create(heir));
  const auto again = Create(account);
  EXPECT_TRUE(again) << again.error().ToString();
  EXPECT_EQ(Row(account.id), tombstone);
  EXPECT_EQ(GetByName("ada")->id, heir.id);
  EXPECT_EQ(CountOf("user_settings"), "1");
  EXPECT_EQ(EventsOf(account.id), "UserCreated UserDeleted");
}

TEST_F(ServiceTest, DeletionWinsAgainstEverythingAtOnce) {
  std::mt19937 random(tests::TestSeed());
  for (int round = 0; round < 5; ++round) {
    const NewUser account = Account("ada");
    ASSERT_TRUE(Create(account));
    const Uuid ada = account.id;
    std::vector<unsigned long> kinds(24);
    for (auto& kind : kinds) kind = random() % 6;
    kinds.push_back(0);  // whatever the others do, one deletes
    const auto results = RunAtOnce<void>(kinds.size(), [&](Call& call, std::size_t i) -> Task<void> {
      tests::As(ada).Enter(call);
      switch (kinds[i]) {
        case 0:
          co_return co_await service_.DeleteUser(call);
        case 1:
          NOVA_CO_TRY(co_await service_.BanUser(call, ada.ToString(), "spam"));
          break;
        case 2:
          NOVA_CO_TRY(co_await service_.UnbanUser(call, ada.ToString()));
          break;
        case 3:
          NOVA_CO_TRY(co_await service_.UpdateSettings(
              call, {.expected_version = 1, .profile_visibility = Visibility::kPrivate}));
          break;
        case 4:
          co_return co_await outbox_.InTransaction(call, [&](postgres::Transaction& transaction) {
            return service_.CreateUser(call, transaction, account);
          });
        default:
          NOVA_CO_TRY(co_await service_.UpdateProfile(call, {.expected_version = 1, .bio = "x"}));
      }
      co_return Ok();
    });
    for (const auto& result : results) {
      EXPECT_TRUE(CodeOf(result) == Code::kOk || CodeOf(result) == Code::kNotFound ||
                  CodeOf(result) == Code::kAborted || CodeOf(result) == Code::kPermissionDenied)
          << result.error().ToString();
    }
    const User tombstone = Row(ada);
    ASSERT_TRUE(tombstone.deleted_at);
    EXPECT_EQ(tombstone, (User{.id = ada,
                               .deleted_at = tombstone.deleted_at,
                               .version = tombstone.version,
                               .created_at = tombstone.created_at,
                               .updated_at = tombstone.updated_at}));
    const std::string told = EventsOf(ada);
    EXPECT_TRUE(told.ends_with(" UserDeleted")) << told;
    EXPECT_EQ(told.find("UserDeleted"), told.size() - std::string("UserDeleted").size()) << told;
    // Every version but the first was told, whatever order they came in.
    EXPECT_EQ(std::ranges::count(told, ' ') + 1, tombstone.version) << told;
  }
}

TEST_F(ServiceTest, ACallThatHasEndedDoesNothing) {
  const Uuid ada = Made("ada");
  const auto late =
      Run<User>(ada, [&](Call& call) { return service_.UpdateProfile(call, {.expected_version = 1, .bio = "x"}); }, 0s);
  EXPECT_EQ(CodeOf(late), Code::kDeadlineExceeded);
  EXPECT_EQ(Row(ada).version, 1);
}

}  // namespace
}  // namespace nova::user
