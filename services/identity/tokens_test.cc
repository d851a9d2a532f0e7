#include "services/identity/tokens.h"

#include <gtest/gtest.h>
#include <set>

#include "nova/auth/base64url.h"

namespace nova::identity {
namespace {

std::string TextOf(const RefreshToken& token) { return token.Encode().Expose(); }

TEST(RefreshToken, KeepsItsPartsInItsText) {
  const Uuid session = Uuid::New();
  const Bytes family_key = NewKey();
  RefreshToken token = RefreshToken::First(session, family_key);
  for (int generation = 0; generation < 300; ++generation) {
    const auto parsed = RefreshToken::Parse(TextOf(token));
    ASSERT_TRUE(parsed);
    EXPECT_EQ(parsed->session(), session);
    EXPECT_EQ(parsed->generation(), generation);
    EXPECT_EQ(parsed->Hash(), token.Hash());
    EXPECT_EQ(TextOf(*parsed), TextOf(token));
    EXPECT_TRUE(parsed->IssuedWith(family_key));
    token = token.Successor(NewKey(), family_key);
  }
}

TEST(RefreshToken, TheSuccessorNeedsTheTokenAndTheSalt) {
  const Bytes family_key = NewKey();
  const Bytes salt = NewKey();
  const RefreshToken token = RefreshToken::First(Uuid::New(), family_key);
  const RefreshToken successor = token.Successor(salt, family_key);
  EXPECT_EQ(TextOf(token.Successor(salt, family_key)), TextOf(successor)) << "exchanges of one token disagree";
  EXPECT_NE(TextOf(token.Successor(NewKey(), family_key)), TextOf(successor));
  const RefreshToken other = RefreshToken::First(token.session(), family_key);
  EXPECT_NE(other.Successor(salt, family_key).Hash(), successor.Hash());
  EXPECT_NE(token.Hash(), successor.Hash());
}

TEST(RefreshToken, AnyChangeOfAByteIsNoticed) {
  const Bytes family_key = NewKey();
  const RefreshToken token = RefreshToken::First(Uuid::New(), family_key);
  const std::string bytes = *auth::Base64UrlDecode(TextOf(token));
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    std::string changed = bytes;
    changed[i] = static_cast<char>(changed[i] ^ 1);
    const auto parsed = RefreshToken::Parse(auth::Base64UrlEncode(changed));
    ASSERT_TRUE(parsed);
    EXPECT_FALSE(parsed->IssuedWith(family_key)) << "byte " << i;
  }
  EXPECT_FALSE(token.IssuedWith(NewKey()));
}

TEST(RefreshToken, OtherTextsAreNone) {
  const std::string text = TextOf(RefreshToken::First(Uuid::New(), NewKey()));
  EXPECT_FALSE(RefreshToken::Parse(""));
  EXPECT_FALSE(RefreshToken::Parse(text.substr(1)));
  EXPECT_FALSE(RefreshToken::Parse(text + "A"));
  EXPECT_FALSE(RefreshToken::Parse("!" + text.substr(1)));
  EXPECT_FALSE(RefreshToken::Parse(std::string(100'000, 'A')));
  EXPECT_FALSE(RefreshToken::Parse(RowToken(Uuid::New()).Encode().Expose()));
}

TEST(RowToken, KeepsItsPartsInItsText) {
  const RowToken token(Uuid::New());
  const auto parsed = RowToken::Parse(token.Encode().Expose());
  ASSERT_TRUE(parsed);
  EXPECT_EQ(parsed->id(), token.id());
  EXPECT_EQ(parsed->Hash(), token.Hash());
  EXPECT_EQ(parsed->Encode().Expose(), token.Encode().Expose());
  EXPECT_NE(RowToken(token.id()).Hash(), token.Hash()) << "the secret is not random";
  EXPECT_FALSE(RowToken::Parse(""));
  EXPECT_FALSE(RowToken::Parse(token.Encode().Expose() + "A"));
  EXPECT_FALSE(RowToken::Parse(std::string(token.Encode().Expose().size(), '*')));
}

TEST(Keys, AreRandomAndCompared) {
  std::set<Bytes> keys;
  for (int i = 0; i < 100; ++i) EXPECT_TRUE(keys.insert(NewKey()).second);
  EXPECT_TRUE(SameBytes({1, 2, 3}, {1, 2, 3}));
  EXPECT_FALSE(SameBytes({1, 2, 3}, {1, 2, 4}));
  EXPECT_FALSE(SameBytes({1, 2, 3}, {1, 2}));
  EXPECT_TRUE(SameBytes({}, {}));
}

}  // namespace
}  // namespace nova::identity
