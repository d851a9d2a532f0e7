#include "nova/redis/parser.h"

#include <gtest/gtest.h>

namespace nova::redis {
namespace {

constexpr std::int64_t kPlenty = 1 << 20;

const std::string kEverything =
    "+OK\r\n-ERR no such thing\r\n:-42\r\n$5\r\na\r\nbc\r\n$0\r\n\r\n$-1\r\n*-1\r\n*0\r\n"
    "*3\r\n*2\r\n$1\r\nx\r\n:7\r\n$-1\r\n*1\r\n*1\r\n+deep\r\n";

void ExpectEverything(const std::vector<Reply>& replies) {
  using Kind = Reply::Kind;
  ASSERT_EQ(replies.size(), 9U);
  EXPECT_EQ(replies[0].kind, Kind::kStatus);
  EXPECT_EQ(replies[0].text, "OK");
  EXPECT_EQ(replies[1].kind, Kind::kError);
  EXPECT_EQ(replies[1].text, "ERR no such thing");
  EXPECT_EQ(replies[1].error_name(), "ERR");
  EXPECT_EQ(replies[2].kind, Kind::kInteger);
  EXPECT_EQ(replies[2].integer, -42);
  EXPECT_EQ(replies[3].kind, Kind::kText);
  EXPECT_EQ(replies[3].text, "a\r\nbc");
  EXPECT_EQ(replies[4].kind, Kind::kText);
  EXPECT_EQ(replies[4].text, "");
  EXPECT_TRUE(replies[5].is_nil());
  EXPECT_TRUE(replies[6].is_nil());
  EXPECT_EQ(replies[7].kind, Kind::kArray);
  EXPECT_TRUE(replies[7].elements.empty());
  const std::vector<Reply>& nested = replies[8].elements;
  ASSERT_EQ(nested.size(), 3U);
  ASSERT_EQ(nested[0].elements.size(), 2U);
  EXPECT_EQ(nested[0].elements[0].text, "x");
  EXPECT_EQ(nested[0].elements[1].integer, 7);
  EXPECT_TRUE(nested[1].is_nil());
  ASSERT_EQ(nested[2].elements.size(), 1U);
  ASSERT_EQ(nested[2].elements[0].elements.size(), 1U);
  EXPECT_EQ(nested[2].elements[0].elements[0].text, "deep");
}

std::vector<Reply> TakeAll(Parser& parser) {
  std::vector<Reply> replies;
  for (;;) {
    auto reply = parser.Next();
    EXPECT_TRUE(reply.ok()) << reply.error().ToString();
    if (!reply || !*reply) return replies;
    replies.push_back(**std::move(reply));
  }
}

// The error that these bytes lead to, fed piece by piece; and how many were taken.
struct Failure {
  Error error;
  std::size_t bytes;
};
Failure FailureOf(std::string_view bytes, std::int64_t reply_bytes_max = kPlenty, std::size_t piece = 1) {
  Parser parser(reply_bytes_max);
  for (std::size_t i = 0; i < bytes.size(); i += piece) {
    EXPECT_TRUE(parser.Feed(bytes.substr(i, piece)).ok());
    for (;;) {
      auto reply = parser.Next();
      if (!reply) return {.error = reply.error(), .bytes = i + piece};
      if (!*reply) break;
    }
  }
  ADD_FAILURE() << "no error came of " << bytes.substr(0, 80);
  return {};
}

TEST(RedisParser, EveryKindOfReplyInOnePiece) {
  Parser parser(kPlenty);
  ASSERT_TRUE(parser.Feed(kEverything).ok());
  ExpectEverything(TakeAll(parser));
}

TEST(RedisParser, EveryKindOfReplyCutAtEveryByte) {
  for (std::size_t cut = 0; cut <= kEverything.size(); ++cut) {
    Parser parser(kPlenty);
    std::vector<Reply> replies;
    for (const std::string& piece : {kEverything.substr(0, cut), kEverything.substr(cut)}) {
      ASSERT_TRUE(parser.Feed(piece).ok());
      for (Reply& reply : TakeAll(parser)) replies.push_back(std::move(reply));
    }
    ExpectEverything(replies);
  }
}

TEST(RedisParser, EveryKindOfReplyByteByByte) {
  Parser parser(kPlenty);
  std::vector<Reply> replies;
  for (const char byte : kEverything) {
    ASSERT_TRUE(parser.Feed({&byte, 1}).ok());
    for (Reply& reply : TakeAll(parser)) replies.push_back(std::move(reply));
  }
  ExpectEverything(replies);
}

TEST(RedisParser, ABulkIsRefusedByTheLengthItAnnounces) {
  const Failure failure = FailureOf("$1048577\r\nx");
  EXPECT_EQ(failure.error.code(), Code::kUnavailable);
  EXPECT_NE(failure.error.detail().find("redis.reply_bytes_max"), std::string::npos) << failure.error.ToString();
  EXPECT_LE(failure.bytes, 10U) << "it was not waited for";
  FailureOf("$99999999999999999999999\r\n");
  FailureOf("$9223372036854775807\r\n");
}

TEST(RedisParser, TheLimitItselfIsAllowed) {
  Parser parser(1000);
  ASSERT_TRUE(parser.Feed("$1000\r\n" + std::string(1000, 'x') + "\r\n").ok());
  ASSERT_TRUE(parser.Feed("$1000\r\n" + std::string(1000, 'y') + "\r\n").ok());
  const std::vector<Reply> replies = TakeAll(parser);
  ASSERT_EQ(replies.size(), 2U) << "each reply has the limit to itself";
  EXPECT_EQ(replies[1].text, std::string(1000, 'y'));
}

TEST(RedisParser, TextsOfAnArrayCountTogether) {
  const std::string element = Format(Command(std::string(300, 'x'))).substr(4);  // without "*1\r\n"
  const Failure failure = FailureOf("*4\r\n" + element + element + element + element, 1000);
  EXPECT_NE(failure.error.detail().find("redis.reply_bytes_max"), std::string::npos) << failure.error.ToString();
  EXPECT_LT(failure.bytes, 4 + 4 * element.size() - 300) << "the last was refused by its length";
}

TEST(RedisParser, AnArrayIsRefusedByTheElementsItAnnounces) {
  const Failure failure = FailureOf("*1000000\r\n");
  EXPECT_NE(failure.error.detail().find("redis.reply_bytes_max"), std::string::npos) << failure.error.ToString();
}

TEST(RedisParser, NestedArraysCountTogether) {
  std::string bytes = "*100\r\n";
  for (int i = 0; i < 100; ++i) bytes += "*1\r\n:1\r\n";
  EXPECT_LT(FailureOf(bytes, 150 * sizeof(Reply)).bytes, bytes.size() - 100) << "two hundred elements are too many";
}

TEST(RedisParser, ArraysMayBeNestedOnlySoDeep) {
  std::string bytes;
  for (int i = 0; i < 20; ++i) bytes += "*1\r\n";
  EXPECT_EQ(FailureOf(bytes).error.code(), Code::kUnavailable);
}

TEST(RedisParser, WhatIsNotRespIsRefused) {
  EXPECT_EQ(FailureOf("HTTP/1.1 400 Bad Request\r\n").bytes, 1U);
  FailureOf(":12a\r\n");
  FailureOf("$x\r\n\r\n");
  FailureOf("$-2\r\n");
  FailureOf("*-2\r\n");
  FailureOf("+" + std::string(2 * kLineBytesMax, 'x'), kPlenty, 1000);
  FailureOf("$" + std::string(100, '1'));
}

TEST(RedisParser, AfterAnErrorNothingComesAnyMore) {
  Parser parser(kPlenty);
  ASSERT_TRUE(parser.Feed("?\r\n+OK\r\n").ok());
  EXPECT_FALSE(parser.Next().ok());
  EXPECT_FALSE(parser.Feed("+OK\r\n").ok() && parser.Next().ok());
}

TEST(RedisFormat, ArgumentsAreBinarySafe) {
  const std::string with_nul("a\0b", 3);
  EXPECT_EQ(Format(Command("SET", with_nul, "\r\n", 42, -7)),
            "*5\r\n$3\r\nSET\r\n$3\r\n" + with_nul + "\r\n$2\r\n\r\n\r\n$2\r\n42\r\n$2\r\n-7\r\n");
}

TEST(RedisFormat, TheBoundOfTheSizeHolds) {
  for (const Command& command : {Command("PING"), Command("ECHO", ""), Command("SET", std::string(12345, 'k'), "v")})
    EXPECT_GE(WireBytesMax(command), static_cast<std::int64_t>(Format(command).size()));
}

}  // namespace
}  // namespace nova::redis
