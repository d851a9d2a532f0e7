#include "services/user/profile_cache.h"

#include <gtest/gtest.h>
#include <random>

#include "tests/seed.h"

namespace nova::user {
namespace {

// A text of every kind of character, quotes and line ends included.
std::string RandomText(std::mt19937& random) {
  constexpr std::string_view kCharacters[] = {"a",      "\"",         "\\", "\n", "\u00eb",
                                              "\u2028", "\U0001f680", "{",  "/",  "\x7f"};
  std::string text;
  for (auto left = random() % 20; left > 0; --left) text += kCharacters[random() % std::size(kCharacters)];
  return text;
}

TEST(ProfileCacheTest, WhatIsEncodedIsDecoded) {
  std::mt19937 random(tests::TestSeed());
  const auto time = [&] { return WallTime(std::chrono::microseconds(1'700'000'000'000'000 + random())); };
  const auto maybe = [&] { return random() % 2 == 0 ? std::optional(time()) : std::nullopt; };
  for (int i = 0; i < 200; ++i) {
    const User user{.id = Uuid::New(),
                    .username = RandomText(random),
                    .display_name = RandomText(random),
                    .bio = RandomText(random),
                    .location = RandomText(random),
                    .website = RandomText(random),
                    .avatar = RandomText(random),
                    .is_private = random() % 2 == 0,
                    .discoverable = random() % 2 == 0,
                    .verified_at = maybe(),
                    .banned_at = maybe(),
                    .ban_reason = RandomText(random),
                    .deleted_at = maybe(),
                    .version = static_cast<std::int64_t>(random()) << 20,
                    .created_at = time(),
                    .updated_at = time()};
    const auto decoded = Decode(Encode(user));
    ASSERT_TRUE(decoded) << Encode(user);
    EXPECT_EQ(*decoded, user);
  }
}

TEST(ProfileCacheTest, WhatWasNotEncodedIsNotDecoded) {
  const std::string encoded = Encode({.id = Uuid::New(), .username = "ada"});
  ASSERT_TRUE(Decode(encoded));
  for (std::size_t size = 0; size < encoded.size(); ++size) EXPECT_FALSE(Decode(encoded.substr(0, size))) << size;
  for (const std::string_view member : {"\"username\"", "\"is_private\"", "\"version\"", "\"created_at\"", "\"id\""}) {
    std::string without = encoded;
    without.replace(without.find(member), member.size(), "\"other\"");
    EXPECT_FALSE(Decode(without)) << member;
  }
  for (const std::string_view text : {"[]", "1", "{}", "null"}) EXPECT_FALSE(Decode(text)) << text;
}

}  // namespace
}  // namespace nova::user
