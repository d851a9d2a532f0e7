#include "nova/base/result.h"

#include <gtest/gtest.h>
#include <memory>
#include <string>

namespace nova {
namespace {

Result<int> Half(int value) {
  if (value % 2 != 0) return InvalidArgument("odd");
  return value / 2;
}

Result<int> Quarter(int value) {
  NOVA_TRY(const int half, Half(value));
  return Half(half);
}

Result<void> CheckEven(int value) {
  NOVA_TRY(Half(value));
  return Ok();
}

TEST(ResultTest, TryPassesTheValueOn) {
  const auto result = Quarter(12);
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(*result, 3);
  EXPECT_TRUE(CheckEven(2).ok());
}

TEST(ResultTest, TryReturnsTheFirstError) {
  EXPECT_EQ(Quarter(6).error().message(), "odd");
  EXPECT_EQ(CheckEven(3).error().code(), Code::kInvalidArgument);
}

TEST(ResultTest, ADefaultResultHoldsAnErrorNotAValue) { EXPECT_FALSE(Result<int>().ok()); }

TEST(ResultTest, CarriesMoveOnlyValues) {
  Result<std::unique_ptr<int>> result = std::make_unique<int>(7);
  const std::unique_ptr<int> taken = *std::move(result);
  EXPECT_EQ(*taken, 7);
}

TEST(ErrorTest, ContextGoesToThePrivateDetail) {
  const Error error = Unavailable("try again", "connection refused").WithContext("connect to db");
  EXPECT_EQ(error.message(), "try again");
  EXPECT_EQ(error.detail(), "connect to db: connection refused");
  EXPECT_EQ(error.ToString(), "UNAVAILABLE: try again [connect to db: connection refused]");
}

TEST(ErrorTest, CodesCarryTheProtocolsNames) {
  EXPECT_EQ(CodeName(Code::kOk), "OK");
  EXPECT_EQ(CodeName(Code::kDeadlineExceeded), "DEADLINE_EXCEEDED");
  EXPECT_EQ(CodeName(Code::kUnauthenticated), "UNAUTHENTICATED");
}

}  // namespace
}  // namespace nova
