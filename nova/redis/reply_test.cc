#include "nova/redis/reply.h"

#include <gtest/gtest.h>

namespace nova::redis {
namespace {

Reply ServerError(std::string text) {
  return {.kind = Reply::Kind::kError, .integer = 0, .text = std::move(text), .elements = {}};
}

TEST(RedisReply, AValueOfTheRightKindIsGiven) {
  const Reply integer{.kind = Reply::Kind::kInteger, .integer = 7, .text = {}, .elements = {}};
  const Reply text{.kind = Reply::Kind::kText, .integer = 0, .text = "x", .elements = {}};
  const Reply status{.kind = Reply::Kind::kStatus, .integer = 0, .text = "OK", .elements = {}};
  const Reply array{.kind = Reply::Kind::kArray, .integer = 0, .text = {}, .elements = {integer, text}};
  EXPECT_EQ(*integer.Integer(), 7);
  EXPECT_EQ(*text.Text(), "x");
  EXPECT_EQ(*status.Text(), "OK");
  EXPECT_EQ((*array.Array())[1].text, "x");
  EXPECT_EQ(*Reply(text).Text(), "x");
  EXPECT_EQ(Reply(array).Array()->size(), 2U);
}

TEST(RedisReply, AnotherKindIsNamed) {
  const Error error = Reply().Text().error();
  EXPECT_EQ(error.code(), Code::kInternal);
  EXPECT_EQ(error.detail(), "Redis replied nil instead of a text");
  EXPECT_EQ(Reply().Integer().error().code(), Code::kInternal);
  EXPECT_EQ(Reply().Array().error().code(), Code::kInternal);
  EXPECT_EQ(ServerError("LOADING Redis is loading").Text().error().code(), Code::kUnavailable);
}

TEST(RedisReply, ErrorsMeanWhatTheirFirstWordSays) {
  EXPECT_EQ(ServerError("NOGROUP No such key").error_name(), "NOGROUP");
  EXPECT_EQ(ServerError("LOADING").error_name(), "LOADING");
  EXPECT_EQ(Reply().error_name(), "");
  for (const char* const text :
       {"LOADING Redis is loading the dataset in memory", "BUSY Redis is busy running a script",
        "READONLY You can't write against a read only replica.", "MISCONF Redis is configured"})
    EXPECT_EQ(ToError(ServerError(text)).code(), Code::kUnavailable) << text;
  EXPECT_EQ(ToError(ServerError("OOM command not allowed")).code(), Code::kResourceExhausted);
  for (const char* const text : {"WRONGPASS invalid username-password pair or user is disabled.",
                                 "NOAUTH Authentication required.", "NOPERM this user has no permissions"}) {
    const Error error = ToError(ServerError(text));
    EXPECT_EQ(error.code(), Code::kFailedPrecondition) << text;
    EXPECT_NE(error.detail().find("NOVA_REDIS_USER"), std::string::npos) << error.detail();
  }
  const Error other = ToError(ServerError("ERR unknown command 'x', with args beginning with: 'private'"));
  EXPECT_EQ(other.code(), Code::kInternal);
  EXPECT_EQ(other.message().find("private"), std::string::npos) << "the server's words stay in the log";
}

TEST(RedisReply, ALongErrorIsCut) {
  EXPECT_LT(ToError(ServerError("ERR " + std::string(100'000, 'x'))).detail().size(), 300U);
}

}  // namespace
}  // namespace nova::redis
