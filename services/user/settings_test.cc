#include "services/user/settings.h"

#include <gtest/gtest.h>

namespace nova::user {
namespace {

TEST(SettingsTest, LanguagesAndTimeZonesAreHeldAgainstTheirForm) {
  const auto language = [](std::string value) { return Check({.expected_version = 1, .language = std::move(value)}); };
  for (const std::string good : {"de", "gsw", "pt-BR", "zh-Hant-TW", "es-419", "de-DE-1996"})
    EXPECT_TRUE(language(good)) << good;
  for (const std::string& bad :
       {std::string(), std::string("d"), std::string("deutsch"), std::string("de_DE"), std::string("de-"),
        std::string("-de"), std::string("d3"), std::string("de-DE\n"), std::string("de-123456789"),
        "de" + std::string(17, '-'), "de-" + std::string("abcdefgh-abcdefgh-abcdefgh-abcdefgh")}) {
    const auto checked = language(bad);
    ASSERT_FALSE(checked) << bad;
    EXPECT_EQ(checked.error().message(), "language: a BCP 47 tag, such as en or pt-BR, is needed");
  }

  const auto zone = [](std::string value) { return Check({.expected_version = 1, .time_zone = std::move(value)}); };
  for (const std::string good :
       {"UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires", "Etc/GMT+3", "America/Port-au-Prince"})
    EXPECT_TRUE(zone(good)) << good;
  for (const std::string& bad :
       {std::string(), std::string("/"), std::string("Europe/"), std::string("/etc/passwd"), std::string("../UTC"),
        std::string("Europe/Berlin "), std::string("+03:00"), std::string(65, 'A')}) {
    const auto checked = zone(bad);
    ASSERT_FALSE(checked) << bad;
    EXPECT_EQ(checked.error().message(),
              "time_zone: a name of the IANA time zone database, such as Europe/Berlin, is needed");
  }
}

TEST(SettingsTest, AnUpdateNeedsAVersionAndAField) {
  const auto nothing = Check({.expected_version = 1});
  ASSERT_FALSE(nothing);
  EXPECT_EQ(nothing.error().message(), "a field to change is needed");
  const auto blind = Check({.language = "de"});
  ASSERT_FALSE(blind);
  EXPECT_EQ(blind.error().message(), "expected_version: the version of the settings that were read is needed");
  EXPECT_TRUE(Check({.expected_version = 1, .push_notifications = false}));
}

TEST(SettingsTest, OnlyWhatIsGivenIsApplied) {
  Settings settings;
  Settings expected;
  Apply({.expected_version = 1, .language = "de", .discoverable = false}, settings);
  expected.language = "de";
  expected.discoverable = false;
  EXPECT_EQ(settings, expected);
  Apply({.expected_version = 1,
         .time_zone = "Europe/Berlin",
         .profile_visibility = Visibility::kPrivate,
         .allow_messages_from = Audience::kNobody,
         .email_notifications = false,
         .push_notifications = false},
        settings);
  expected.time_zone = "Europe/Berlin";
  expected.profile_visibility = Visibility::kPrivate;
  expected.allow_messages_from = Audience::kNobody;
  expected.email_notifications = false;
  expected.push_notifications = false;
  EXPECT_EQ(settings, expected);
}

}  // namespace
}  // namespace nova::user
