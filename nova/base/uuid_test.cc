#include "nova/base/uuid.h"

#include <chrono>
#include <gtest/gtest.h>
#include <set>

namespace nova {
namespace {

TEST(UuidTest, CarriesVersionVariantAndTime) {
  const FakeClock clock(WallTime(std::chrono::milliseconds(0x0123456789ab)));
  const std::string text = Uuid::New(clock).ToString();
  EXPECT_EQ(text.substr(0, 13), "01234567-89ab");
  EXPECT_EQ(text[14], '7');
  EXPECT_NE(std::string("89ab").find(text[19]), std::string::npos);
}

TEST(UuidTest, SortsByCreationTime) {
  FakeClock clock;
  const Uuid first = Uuid::New(clock);
  clock.Advance(std::chrono::milliseconds(1));
  EXPECT_LT(first, Uuid::New(clock));
}

TEST(UuidTest, IsUniqueWithinOneMillisecond) {
  const FakeClock clock;
  std::set<Uuid> seen;
  for (int i = 0; i < 10'000; ++i) EXPECT_TRUE(seen.insert(Uuid::New(clock)).second);
}

TEST(UuidTest, ParsesWhatItPrints) {
  const Uuid id = Uuid::New();
  const auto parsed = Uuid::Parse(id.ToString());
  ASSERT_TRUE(parsed.ok());
  EXPECT_EQ(*parsed, id);
  EXPECT_TRUE(Uuid::Parse("00000000-0000-0000-0000-000000000000")->is_nil());
}

TEST(UuidTest, RefusesOtherText) {
  for (const char* text : {"", "x", "0123456789ab-cdef-0123-4567-89abcdef0123", "01234567089ab-cdef-0123-456789abcdef",
                           "01234567-89ab-cdef-0123-456789abcdeg", "01234567-89ab-cdef-0123-456789abcdef0"})
    EXPECT_FALSE(Uuid::Parse(text).ok()) << text;
}

}  // namespace
}  // namespace nova
