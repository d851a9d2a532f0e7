#include "services/identity/account.h"

#include <gtest/gtest.h>
#include <string>
#include <utility>
#include <vector>

namespace nova::identity {
namespace {

template <class T>
void ExpectInvalid(const Result<T>& result, std::string_view message, std::string_view what) {
  ASSERT_FALSE(result) << what;
  EXPECT_EQ(result.error().code(), Code::kInvalidArgument) << what;
  EXPECT_EQ(result.error().message(), message) << what;
}

TEST(Email, IsTrimmedAndFolded) {
  const std::pair<std::string, std::string> cases[] = {
      {"ada@example.com", "ada@example.com"},
      {" \tAda@Example.COM\r\n", "ada@example.com"},
      {"a@b", "a@b"},
      {"zo\xc3\x8b@example.com", "zo\xc3\xab@example.com"},   // Ë, one code point
      {"zoe\xcc\x88@example.com", "zo\xc3\xab@example.com"},  // e and a combining diaeresis
      {"\xef\xbd\x81\xef\xbc\xa0\xef\xbd\x82", "a@b"},        // full-width a@b
      {"a\xe2\x80\x8b"
       "da@example.com",
       "ada@example.com"},  // zero-width space
      {"stra\xc3\x9f"
       "e@example.com",
       "strasse@example.com"},
  };
  for (const auto& [given, expected] : cases) {
    const auto email = NormalizeEmail(given);
    ASSERT_TRUE(email) << given << ": " << email.error().ToString();
    EXPECT_EQ(*email, expected);
    EXPECT_EQ(*NormalizeEmail(*email), expected) << "normalising twice differs";
  }
}

TEST(Email, RefusesWhatIsNoAddress) {
  constexpr char kForm[] = "email: an address of the form name@domain is needed";
  for (const std::string given : {"", "  ", "ada", "@", "@example.com", "ada@", "a@b@c", "a@@b",
                                  "a@b\xef\xbc\xa0"
                                  "c"})
    ExpectInvalid(NormalizeEmail(given), kForm, given);
  constexpr char kCharacters[] = "email: white space and control characters are not allowed";
  for (const std::string& given : {std::string("a da@example.com"), std::string("ada\0@example.com", 16),
                                   std::string("ada@exam\nple.com"), std::string("ada@exam\xe2\x80\xa8ple.com"),
                                   std::string("ada\xc2\xa0@example.com"), std::string("ada\x7f@example.com")})
    ExpectInvalid(NormalizeEmail(given), kCharacters, given);
  for (const std::string given : {"ada\xff@example.com", "ada\xc3@example.com", "\xed\xa0\x80@example.com"})
    ExpectInvalid(NormalizeEmail(given), "email: is not valid UTF-8", given);
}

TEST(Email, ItsLengthIsBounded) {
  const std::string domain = "@example.com";
  const std::string longest = std::string(kEmailBytesMax - domain.size(), 'a') + domain;
  EXPECT_TRUE(NormalizeEmail(longest));
  EXPECT_TRUE(NormalizeEmail("  " + longest + "  "));
  ExpectInvalid(NormalizeEmail("a" + longest), "email: at most 254 bytes are allowed", longest);
  // The limit holds for what is stored, which may be longer than what came.
  std::string expanding;
  for (int i = 0; i < 100; ++i) expanding += "\xc5\x89";  // 2 bytes become 3
  ExpectInvalid(NormalizeEmail(expanding + domain), "email: at most 254 bytes are allowed", expanding);
}

TEST(Username, IsFolded) {
  const std::pair<std::string, std::string> cases[] = {
      {"ada", "ada"},
      {"Ada.Lovelace_1815", "ada.lovelace_1815"},
      {"\xef\xbc\xa1\xef\xbd\x84\xef\xbd\x81", "ada"},  // full-width Ada
      {"a\xe2\x80\x8b"
       "da",
       "ada"},  // zero-width space
      {"\xe2\x84\xaa"
       "ai",
       "kai"},  // the Kelvin sign
      {std::string(30, 'x'), std::string(30, 'x')},
  };
  for (const auto& [given, expected] : cases) {
    const auto username = NormalizeUsername(given);
    ASSERT_TRUE(username) << given << ": " << username.error().ToString();
    EXPECT_EQ(*username, expected);
  }
}

TEST(Username, RefusesWhatIsNone) {
  constexpr char kForm[] = "username: 3 to 30 characters of a-z, 0-9, '_' and '.' are needed";
  for (const std::string& given : {std::string(), std::string("ab"), std::string(31, 'x'), std::string(100'000, 'x'),
                                   std::string("a da"), std::string(" ada"), std::string("ada@example.com"),
                                   std::string("ada\0", 4), std::string("a-da"), std::string("zo\xc3\xab"),
                                   std::string("\xd0\xb0"
                                               "da") /* Cyrillic a */})
    ExpectInvalid(NormalizeUsername(given), kForm, given.substr(0, 40));
  for (const std::string given : {".ada", "ada.", "..."})
    ExpectInvalid(NormalizeUsername(given), "username: it must not begin or end with '.'", given);
  ExpectInvalid(NormalizeUsername("ada\xff"), "username: is not valid UTF-8", "malformed");
}

TEST(Password, LengthIsCountedInCharactersBelowAndBytesAbove) {
  const auto check = [](const std::string& text) { return CheckPassword(Secret<>(text), "ada@example.com", "ada"); };
  constexpr char kShort[] = "password: at least 10 characters are needed";
  ExpectInvalid(check(""), kShort, "empty");
  ExpectInvalid(check("123456789"), kShort, "nine");
  ExpectInvalid(check("\xe6\xbc\xa2\xe6\xbc\xa2\xe6\xbc\xa2\xe6\xbc\xa2"), kShort, "twelve bytes, four characters");
  EXPECT_TRUE(check("1234567890"));
  EXPECT_TRUE(check(std::string(kPasswordBytesMax, 'x')));
  ExpectInvalid(check(std::string(kPasswordBytesMax + 1, 'x')), "password: at most 256 bytes are allowed", "long");
  ExpectInvalid(check("123456789\xff"
                      "0"),
                "password: is not valid UTF-8", "malformed");
}

TEST(Password, MustNotRepeatTheName) {
  constexpr char kRepeats[] = "password: it must not be the username or the email address";
  for (const std::string given : {"ada_lovelace", "Ada_Lovelace", "ada@example.com", "ADA@example.com"})
    ExpectInvalid(CheckPassword(Secret<>(given), "ada@example.com", "ada_lovelace"), kRepeats, given);
  EXPECT_TRUE(CheckPassword(Secret<>("ada_lovelace1"), "ada@example.com", "ada_lovelace"));
}

TEST(Password, TheFieldIsNamedAsTheRequestHasIt) {
  ExpectInvalid(CheckPassword(Secret<>("x"), "ada@example.com", "ada", "new_password"),
                "new_password: at least 10 characters are needed", "short");
}

TEST(DeviceName, IsOneLineOfText) {
  const std::pair<std::string, std::string> cases[] = {
      {"", ""},
      {"Firefox on Linux", "Firefox on Linux"},
      {"  Ada's\t\n phone \x7f", "Ada's phone"},
      {std::string("a\0b", 3), "a b"},
      {"a\xe2\x80\xae"
       "b",
       "a b"},  // right-to-left override
      {"a\xe2\x80\xa8"
       "b",
       "a b"},                                   // line separator
      {"Zo\xc3\xab", "Zo\xc3\xab"},              // not folded
      {"\xf0\x9f\x93\xb1", "\xf0\x9f\x93\xb1"},  // four bytes
      {std::string(100, 'x'), std::string(100, 'x')},
  };
  for (const auto& [given, expected] : cases) {
    const auto name = NormalizeDeviceName(given);
    ASSERT_TRUE(name) << given << ": " << name.error().ToString();
    EXPECT_EQ(*name, expected);
  }
  constexpr char kLong[] = "device_name: at most 100 characters are allowed";
  ExpectInvalid(NormalizeDeviceName(std::string(101, 'x')), kLong, "long");
  ExpectInvalid(NormalizeDeviceName(std::string(100'000, ' ')), kLong, "very long");
  ExpectInvalid(NormalizeDeviceName("a\xff"), "device_name: is not valid UTF-8", "malformed");
}

}  // namespace
}  // namespace nova::identity
