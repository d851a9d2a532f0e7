#include "nova/text/unicode.h"

#include <gtest/gtest.h>
#include <vector>

namespace nova::text {
namespace {

constexpr std::string_view kMalformed[] = {
    "\xff",              // no such byte
    "a\xc3",             // cut short
    "\xc0\x80",          // a longer form than needed
    "\xed\xa0\x80",      // half a surrogate pair
    "\xf4\x90\x80\x80",  // beyond the last code point
};

TEST(UnicodeTest, CharactersAreCountedNotBytes) {
  EXPECT_EQ(CountCharacters(""), 0U);
  EXPECT_EQ(CountCharacters("ada"), 3U);
  EXPECT_EQ(CountCharacters("Zo\u00eb"), 3U);
  EXPECT_EQ(CountCharacters("Zoe\u0308"), 4U);
  EXPECT_EQ(CountCharacters("\U0001f680"), 1U);
  EXPECT_EQ(CountCharacters(std::string_view("a\0b", 3)), 3U);
}

TEST(UnicodeTest, WhatIsNotUtf8IsRefused) {
  for (const std::string_view text : kMalformed) {
    EXPECT_FALSE(CountCharacters(text));
    EXPECT_FALSE(FoldCase(text));
    EXPECT_FALSE(ForEachCharacter(text, [](char32_t) { return true; }));
    EXPECT_EQ(Trim(text), text);
  }
}

TEST(UnicodeTest, VisitingEndsWhereTheVisitorSays) {
  std::vector<char32_t> seen;
  EXPECT_FALSE(ForEachCharacter("a\u00eb\U0001f680z", [&](char32_t c) {
    seen.push_back(c);
    return c != U'\U0001f680';
  }));
  EXPECT_EQ(seen, (std::vector<char32_t>{U'a', U'\u00eb', U'\U0001f680'}));
}

TEST(UnicodeTest, SpellingsOfOneNameFoldToOne) {
  for (const std::string_view spelling :
       {"Zo\u00eb", "ZO\u00cb", "zoe\u0308", "ZOE\u0308", "\uff3aO\u00eb", "z\u00ado\u00eb"})
    EXPECT_EQ(FoldCase(spelling), "zo\u00eb") << spelling;
  EXPECT_EQ(FoldCase("stra\u00dfe"), "strasse");
  EXPECT_NE(FoldCase("ada"), FoldCase("\u0430da")) << "a Cyrillic letter is another letter";
  EXPECT_EQ(FoldCase(""), "");
}

TEST(UnicodeTest, TrimTakesWhiteSpaceOfEveryKindFromBothEnds) {
  EXPECT_EQ(Trim(" \t\n\u00a0\u3000Ada L.\u2003\r\n"), "Ada L.");
  EXPECT_EQ(Trim("\u00eb"), "\u00eb");
  EXPECT_EQ(Trim(" \u2028 "), "");
  EXPECT_EQ(Trim(""), "");
  EXPECT_EQ(Trim(" \xff "), "\xff");
}

TEST(UnicodeTest, PropertiesAreUnicodes) {
  EXPECT_TRUE(IsWhiteSpace(U' '));
  EXPECT_TRUE(IsWhiteSpace(U'\u00a0'));
  EXPECT_FALSE(IsWhiteSpace(U'a'));
  EXPECT_TRUE(IsControl(U'\0'));
  EXPECT_TRUE(IsControl(U'\n'));
  EXPECT_TRUE(IsControl(U'\u0085'));
  EXPECT_FALSE(IsControl(U' '));
  EXPECT_TRUE(IsFormat(U'\u200d'));
  EXPECT_TRUE(IsFormat(U'\u202e'));
  EXPECT_FALSE(IsFormat(U'a'));
  EXPECT_TRUE(IsDirectionalFormatting(U'\u202e'));
  EXPECT_TRUE(IsDirectionalFormatting(U'\u2066'));
  EXPECT_FALSE(IsDirectionalFormatting(U'\u200f')) << "a mark that right-to-left text needs";
}

TEST(UnicodeTest, AppendUndoesVisiting) {
  const std::string text = "a\u00eb\u6f22\U0001f680";
  std::string copy;
  EXPECT_TRUE(ForEachCharacter(text, [&](char32_t character) {
    Append(character, copy);
    return true;
  }));
  EXPECT_EQ(copy, text);
}

}  // namespace
}  // namespace nova::text
