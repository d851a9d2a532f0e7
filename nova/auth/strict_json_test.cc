#include "nova/auth/strict_json.h"

#include <boost/json/serialize.hpp>
#include <gtest/gtest.h>
#include <string>

namespace nova::auth {
namespace {

TEST(StrictJson, ReadsAnObject) {
  const std::string text = R"({"a":1,"b":[true,null,-2.5,"\u00e4"],"c":{"a":{},"b":18446744073709551615}})";
  const auto object = ParseStrictObject(text);
  ASSERT_TRUE(object) << object.error().ToString();
  EXPECT_EQ(boost::json::serialize(*object),
            "{\"a\":1,\"b\":[true,null,-2.5E0,\"\xc3\xa4\"],\"c\":{\"a\":{},\"b\":18446744073709551615}}");
}

TEST(StrictJson, TheSameNameInDifferentObjectsIsFine) {
  EXPECT_TRUE(ParseStrictObject(R"({"a":{"a":1},"b":[{"a":1},{"a":2}]})"));
}

TEST(StrictJson, RefusesAMemberThatStandsTwice) {
  for (const std::string_view text : {R"({"alg":"a","alg":"a"})", R"({"alg":"a","\u0061lg":"b"})",
                                      R"({"x":{"a":1,"b":2,"a":3}})", R"({"x":[0,{"a":1,"a":1}]})", R"({"":1,"":2})"}) {
    const auto object = ParseStrictObject(text);
    ASSERT_FALSE(object) << text;
    EXPECT_EQ(object.error().message(), "not strict JSON: a member stands twice");
  }
}

TEST(StrictJson, LongNamesAreComparedWhole) {
  // Longer than the parser's buffer, so that a name arrives in parts; they differ in the last character.
  const std::string name(5000, 'k');
  EXPECT_TRUE(ParseStrictObject("{\"" + name + "\\u00611\":1,\"" + name + "\\u00612\":2}"));
  EXPECT_FALSE(ParseStrictObject("{\"" + name + "\\u00611\":1,\"" + name + "a1\":2}"));
}

TEST(StrictJson, RefusesEverythingButOneObject) {
  for (const std::string_view text : {"", " ", "[]", "\"a\"", "1", "null", "{", "{}}", "{} {}", "{\"a\":1,}", "{'a':1}",
                                      "{\"a\":01}", "{\"a\":NaN}", "{\"a\":\"\xff\"}", "{/**/}", "{\"a\":\"\t\"}"})
    EXPECT_FALSE(ParseStrictObject(text)) << text;
  EXPECT_FALSE(ParseStrictObject(std::string_view("{}\0", 3)));
}

TEST(StrictJson, WipedStorageHoldsTheWholeValueAndItsCopiesInIt) {
  const std::string text =
      "{\"" + std::string(100, 'k') + "\":\"" + std::string(5000, 'v') + "\",\"list\":[\"a\",{\"b\":1}]}";
  const auto object = ParseStrictObject(text, WipedStorage());
  ASSERT_TRUE(object);
  EXPECT_EQ(*object->storage(), *WipedStorage());
  for (const auto& member : *object) EXPECT_EQ(*member.value().storage(), *WipedStorage());
  EXPECT_EQ(boost::json::serialize(*object), text);
  EXPECT_FALSE(ParseStrictObject(text.substr(0, 3000), WipedStorage()));
  EXPECT_FALSE(ParseStrictObject(text + text, WipedStorage()));
}

TEST(StrictJson, DepthIsBounded) {
  const auto nested = [](std::size_t depth) {
    return std::string("{\"a\":") + std::string(depth - 1, '[') + std::string(depth - 1, ']') + "}";
  };
  EXPECT_TRUE(ParseStrictObject(nested(kJsonDepthMax)));
  EXPECT_FALSE(ParseStrictObject(nested(kJsonDepthMax + 1)));
  EXPECT_FALSE(ParseStrictObject(nested(100'000)));
}

}  // namespace
}  // namespace nova::auth
