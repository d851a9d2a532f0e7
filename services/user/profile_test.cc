#include "services/user/profile.h"

#include <functional>
#include <gtest/gtest.h>
#include <utility>

namespace nova::user {
namespace {

using namespace std::chrono_literals;

constexpr WallTime kThen{std::chrono::seconds(1'700'000'000)};

User Ada() {
  return {.id = Uuid::New(),
          .username = "ada",
          .display_name = "Ada L.",
          .bio = "first",
          .location = "London",
          .website = "https://ada.example",
          .avatar = Uuid::New().ToString(),
          .discoverable = false,
          .verified_at = kThen + 1h,
          .version = 7,
          .created_at = kThen,
          .updated_at = kThen + 2h};
}

TEST(ProfileTest, OthersSeeAPublicProfileButNotItsSettings) {
  const User ada = Ada();
  User expected = ada;
  expected.discoverable = User().discoverable;
  EXPECT_EQ(ForOthers(ada), expected);
}

TEST(ProfileTest, OthersSeeOfAPrivateProfileTheNamesTheAvatarAndTheMark) {
  User ada = Ada();
  ada.is_private = true;
  EXPECT_EQ(ForOthers(ada), (User{.id = ada.id,
                                  .username = "ada",
                                  .display_name = "Ada L.",
                                  .avatar = ada.avatar,
                                  .is_private = true,
                                  .verified_at = ada.verified_at,
                                  .version = 0}));
}

TEST(ProfileTest, OthersSeeOfABannedUserTheUsernameAndTheBan) {
  for (const bool is_private : {false, true}) {
    User ada = Ada();
    ada.is_private = is_private;
    ada.banned_at = kThen + 3h;
    ada.ban_reason = "spam";
    EXPECT_EQ(ForOthers(ada), (User{.id = ada.id, .username = "ada", .banned_at = ada.banned_at, .version = 0}));
  }
}

ProfileUpdate Update(std::optional<std::string> ProfileUpdate::* field, std::string value) {
  ProfileUpdate update{.expected_version = 1};
  update.*field = std::move(value);
  return update;
}

TEST(ProfileTest, WhatIsWrittenIsNormalised) {
  const std::string media = "0190A000-0000-7000-8000-00000000ABCD";
  const struct {
    std::optional<std::string> ProfileUpdate::* field;
    std::string given;
    std::string stored;
  } cases[] = {
      {&ProfileUpdate::display_name, " \u00a0Ada  Lovelace\u3000", "Ada  Lovelace"},
      {&ProfileUpdate::display_name, std::string(50, 'x'), std::string(50, 'x')},
      {&ProfileUpdate::display_name, "\u05d0\u05d3\u05d4\u200f!", "\u05d0\u05d3\u05d4\u200f!"},
      {&ProfileUpdate::bio, "\nline\n\nline ", "line\n\nline"},
      {&ProfileUpdate::bio, "  ", ""},
      {&ProfileUpdate::location, "", ""},
      {&ProfileUpdate::website, "", ""},
      {&ProfileUpdate::website, " HTTPS://Ada.Example:8443/a?b=@#c ", "HTTPS://Ada.Example:8443/a?b=@#c"},
      {&ProfileUpdate::website, "http://\u00e4.example", "http://\u00e4.example"},
      {&ProfileUpdate::avatar, media, "0190a000-0000-7000-8000-00000000abcd"},
      {&ProfileUpdate::avatar, "", ""},
  };
  for (const auto& [field, given, stored] : cases) {
    const auto normalized = Normalize(Update(field, given));
    ASSERT_TRUE(normalized) << given << ": " << normalized.error().ToString();
    EXPECT_EQ((*normalized).*field, stored);
    EXPECT_EQ(normalized->expected_version, 1);
  }
  std::string longest;
  for (std::size_t i = 0; i < kBioCharactersMax; ++i) longest += "\U0001f680";
  EXPECT_TRUE(Normalize(Update(&ProfileUpdate::bio, longest))) << "500 characters are 2000 bytes here";
  EXPECT_FALSE(Normalize(Update(&ProfileUpdate::bio, longest + "x")));
}

TEST(ProfileTest, EveryBadFieldIsNamed) {
  const std::string unseen = ": control characters and characters that turn the direction of text are not allowed";
  const struct {
    std::optional<std::string> ProfileUpdate::* field;
    std::string given;
    std::string message;
  } cases[] = {
      {&ProfileUpdate::display_name, "", "display_name: it is needed"},
      {&ProfileUpdate::display_name, "\u200b\u2060", "display_name: it is needed"},
      {&ProfileUpdate::display_name, std::string(51, 'x'), "display_name: at most 50 characters are allowed"},
      {&ProfileUpdate::display_name, "a\nb", "display_name" + unseen},
      {&ProfileUpdate::display_name, std::string("a\0b", 3), "display_name" + unseen},
      {&ProfileUpdate::display_name, "ada\u202egnp", "display_name" + unseen},
      {&ProfileUpdate::display_name, "ada\xff", "display_name: is not valid UTF-8"},
      {&ProfileUpdate::bio, "a\x1b[31m", "bio" + unseen},
      {&ProfileUpdate::location, "a\tb", "location" + unseen},
      {&ProfileUpdate::location, std::string(101, 'x'), "location: at most 100 characters are allowed"},
      {&ProfileUpdate::website, "ada.example", "website: a URL that begins with https:// or http:// is needed"},
      {&ProfileUpdate::website, "javascript:alert(1)", "website: a URL that begins with https:// or http:// is needed"},
      {&ProfileUpdate::website, "https://", "website: is not a valid URL"},
      {&ProfileUpdate::website, "https:///path", "website: is not a valid URL"},
      {&ProfileUpdate::website, "https://:80", "website: is not a valid URL"},
      {&ProfileUpdate::website, "https://a.example/\"onload=", "website: is not a valid URL"},
      {&ProfileUpdate::website, "https://a.exa mple", "website: is not a valid URL"},
      {&ProfileUpdate::website, "https://bank.example@a.example", "website: a user name in the URL is not allowed"},
      {&ProfileUpdate::website, "https://a.example/" + std::string(183, 'x'),
       "website: at most 200 characters are allowed"},
      {&ProfileUpdate::avatar, "cat.png", "avatar_media_id: the UUID of a medium, or nothing, is needed"},
      {&ProfileUpdate::avatar, Uuid().ToString(), "avatar_media_id: the UUID of a medium, or nothing, is needed"},
  };
  for (const auto& [field, given, message] : cases) {
    const auto normalized = Normalize(Update(field, given));
    ASSERT_FALSE(normalized) << given;
    EXPECT_EQ(normalized.error().code(), Code::kInvalidArgument);
    EXPECT_EQ(normalized.error().message(), message);
  }
  const auto nothing = Normalize({.expected_version = 1});
  ASSERT_FALSE(nothing);
  EXPECT_EQ(nothing.error().message(), "a field to change is needed");
  ProfileUpdate blind = Update(&ProfileUpdate::bio, "x");
  blind.expected_version = 0;
  const auto refused = Normalize(blind);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().message(), "expected_version: the version of the profile that was read is needed");
}

TEST(ProfileTest, OnlyWhatIsGivenIsApplied) {
  const User before = Ada();
  User user = before;
  Apply({.expected_version = 7, .bio = "", .avatar = ""}, user);
  User expected = before;
  expected.bio.clear();
  expected.avatar.clear();
  EXPECT_EQ(user, expected);
  Apply({.expected_version = 7, .display_name = "a", .location = "b", .website = "c"}, user);
  expected.display_name = "a";
  expected.location = "b";
  expected.website = "c";
  EXPECT_EQ(user, expected);
}

TEST(ProfileTest, UsernamesFoldAsIdentityFoldsThem) {
  for (const std::string_view spelling : {"ada", "ADA", "\uff21da", "a\u00adda"})
    EXPECT_EQ(FoldUsername(spelling), "ada");
  EXPECT_EQ(FoldUsername(std::string(30, 'A')), std::string(30, 'a'));
  for (const std::string& nobodys : {std::string(), std::string(31, 'a'), std::string(121, 'a'), std::string("ada\xff"),
                                     std::string("a\0da", 4), std::string("\u200b")})
    EXPECT_FALSE(FoldUsername(nobodys)) << nobodys;
}

TEST(ProfileTest, ABanNeedsAReason) {
  EXPECT_EQ(*NormalizeBanReason(" spam "), "spam");
  for (const std::string& reason : {std::string(), std::string("  "), std::string(501, 'x'), std::string("a\nb")})
    EXPECT_FALSE(NormalizeBanReason(reason)) << reason;
}

}  // namespace
}  // namespace nova::user
