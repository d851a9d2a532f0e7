#include "nova/secrets/failure.h"

#include <cstdint>
#include <gtest/gtest.h>
#include <set>
#include <string>

namespace nova::secrets {
namespace {

constexpr int kFailureCount = 7;

TEST(FailureTest, EveryKindIsKnownAgainByItsCode) {
  std::set<std::string> names;
  for (int i = 0; i < kFailureCount; ++i) {
    const auto failure = static_cast<Failure>(i);
    const Error error = Fail(failure, "said");
    ASSERT_TRUE(FailureOf(error).has_value());
    EXPECT_EQ(*FailureOf(error), failure);
    EXPECT_EQ(error.message(), "said");
    names.insert(FailureName(failure));
  }
  EXPECT_EQ(names.size(), kFailureCount);
}

TEST(FailureTest, OnlyWhatTimeMayMendIsTransient) {
  EXPECT_TRUE(IsTransient(Failure::kThrottled));
  EXPECT_TRUE(IsTransient(Failure::kNetwork));
  EXPECT_FALSE(IsTransient(Failure::kNotFound));
  EXPECT_FALSE(IsTransient(Failure::kAccessDenied));
  EXPECT_FALSE(IsTransient(Failure::kDecryptionFailed));
  EXPECT_FALSE(IsTransient(Failure::kInvalidFormat));
  EXPECT_FALSE(IsTransient(Failure::kExpiredCredentials));
}

TEST(FailureTest, WhoDidNotAnswerInTimeWasNotReached) {
  EXPECT_EQ(FailureOf(DeadlineExceeded("late")), Failure::kNetwork);
  EXPECT_FALSE(FailureOf(Cancelled("gave up")).has_value());
  EXPECT_FALSE(FailureOf(Internal("bug")).has_value());
}

}  // namespace
}  // namespace nova::secrets
