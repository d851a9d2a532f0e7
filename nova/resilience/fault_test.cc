#include "nova/resilience/fault.h"

#include <array>
#include <gtest/gtest.h>
#include <limits>

namespace nova::resilience {
namespace {

using std::chrono::milliseconds;

FaultPlan MustParse(std::string_view text) {
  const Result<FaultPlan> plan = FaultPlan::Parse(text);
  EXPECT_TRUE(plan.ok()) << text << ": " << (plan ? "" : plan.error().message());
  return plan ? *plan : FaultPlan();
}

TEST(FaultPlanTest, ReadsEveryFaultInAnyOrder) {
  for (const char* text : {"delay=0.2:250ms, error=0.1, abort=0.05, black_hole=0.01",
                           "black_hole=0.01,abort=0.05,error=0.1,delay=0.2:250ms",
                           "  delay = 0.2 : 250ms ,error= 1e-1,abort=.05,  black_hole=0.01  "}) {
    const FaultPlan plan = MustParse(text);
    EXPECT_EQ(plan.delay, 0.2) << text;
    EXPECT_EQ(plan.delay_time, milliseconds(250)) << text;
    EXPECT_EQ(plan.error, 0.1) << text;
    EXPECT_EQ(plan.abort, 0.05) << text;
    EXPECT_EQ(plan.black_hole, 0.01) << text;
    EXPECT_FALSE(plan.empty());
  }
}

TEST(FaultPlanTest, AnEmptyTextIsNoFaults) {
  EXPECT_TRUE(MustParse("").empty());
  EXPECT_TRUE(MustParse("   ").empty());
  EXPECT_TRUE(MustParse("error=0, delay=0:1s").empty());
  EXPECT_TRUE(FaultPlan().empty());
}

TEST(FaultPlanTest, TheTimeHasAUnit) {
  EXPECT_EQ(MustParse("delay=1:1ms").delay_time, milliseconds(1));
  EXPECT_EQ(MustParse("delay=1:2s").delay_time, milliseconds(2000));
  EXPECT_EQ(MustParse("delay=1:600s").delay_time, std::chrono::minutes(10));
}

TEST(FaultPlanTest, SharesThatAreOneButForRoundingAreOne) {
  EXPECT_FALSE(MustParse("delay=0.1:1ms, error=0.2, abort=0.7").empty());
  EXPECT_FALSE(MustParse("delay=0.7:1ms, error=0.1, abort=0.1, black_hole=0.1").empty());
}

TEST(FaultPlanTest, WhatIsWrittenIsRead) {
  EXPECT_EQ(FaultPlan().ToString(), "");
  EXPECT_EQ(MustParse("error=0.1").ToString(), "error=0.1");
  const std::string text = "delay=0.2:1500ms, error=0.1, abort=0.05, black_hole=0.01";
  EXPECT_EQ(MustParse(text).ToString(), text);
  EXPECT_EQ(MustParse("black_hole=1, delay=0:5s").ToString(), "black_hole=1");
}

TEST(FaultPlanTest, SaysWhatIsWrong) {
  const std::string understood =
      " is no fault; write, as many as apply, delay=0.2:250ms, error=0.1, abort=0.05, black_hole=0.01";
  const std::string time = ": the time must be from 1ms to 600s; write delay=0.2:250ms";
  const std::string share = ": the share of calls must be a number from 0 to 1";
  const std::array<std::pair<std::string, std::string>, 27> cases = {{
      {"timeout=0.1", "\"timeout=0.1\"" + understood},
      {"none=0.1", "\"none=0.1\"" + understood},
      {"error", "\"error\"" + understood},
      {"Error=0.1", "\"Error=0.1\"" + understood},
      {"0.1", "\"0.1\"" + understood},
      {"=", "\"=\"" + understood},
      {",", "\"\"" + understood},
      {"error=0.1,", "\"\"" + understood},
      {"error=0.1,,abort=0.1", "\"\"" + understood},
      {"error=0.1;abort=0.1", "\"error=0.1;abort=0.1\"" + share},
      {"error=", "\"error=\"" + share},
      {"error=10%", "\"error=10%\"" + share},
      {"error=1.1", "\"error=1.1\"" + share},
      {"error=-0.1", "\"error=-0.1\"" + share},
      {"error=nan", "\"error=nan\"" + share},
      {"error=inf", "\"error=inf\"" + share},
      {"delay=0.2", "\"delay=0.2\" says not how long; write delay=0.2:250ms"},
      {"delay=0.2:", "\"delay=0.2:\"" + time},
      {"delay=0.2:250", "\"delay=0.2:250\"" + time},
      {"delay=0.2:ms", "\"delay=0.2:ms\"" + time},
      {"delay=0.2:0ms", "\"delay=0.2:0ms\"" + time},
      {"delay=0.2:-5ms", "\"delay=0.2:-5ms\"" + time},
      {"delay=0.2:601s", "\"delay=0.2:601s\"" + time},
      {"delay=0.2:99999999999999999999s", "\"delay=0.2:99999999999999999999s\"" + time},
      {"error=0.2:5ms", "\"error=0.2:5ms\": only delay has a time"},
      {"error=0.1, error=0.2", "error stands twice; delete one of them"},
      {"error=0.6, abort=0.6", "the shares together must be 1 at most: a call has one fate"},
  }};
  for (const auto& [text, message] : cases) {
    const Result<FaultPlan> plan = FaultPlan::Parse(text);
    ASSERT_FALSE(plan.ok()) << text;
    EXPECT_EQ(plan.error().code(), Code::kInvalidArgument) << text;
    EXPECT_EQ(plan.error().message(), message);
  }
}

TEST(FaultPlanTest, AMessageIsOneShortLineWhateverWasWritten) {
  const Result<FaultPlan> plan = FaultPlan::Parse("a\nb" + std::string(10'000, 'x'));
  ASSERT_FALSE(plan.ok());
  EXPECT_TRUE(plan.error().message().starts_with("\"a?bxxx"));
  EXPECT_LT(plan.error().message().size(), 200u);
}

TEST(FaultPlanTest, DrawsEachFaultByItsShare) {
  const FaultPlan plan = MustParse("delay=0.2:1ms, error=0.1, abort=0.05, black_hole=0.01");
  constexpr int kDraws = 100'000;
  std::array<int, kFaultCount> drawn{};
  for (int i = 0; i < kDraws; ++i)
    ++drawn[static_cast<std::size_t>(
        plan.Draw(std::numeric_limits<std::uint64_t>::max() / kDraws * static_cast<std::uint64_t>(i)))];
  EXPECT_NEAR(drawn[static_cast<std::size_t>(Fault::kDelay)], 20'000, 2);
  EXPECT_NEAR(drawn[static_cast<std::size_t>(Fault::kError)], 10'000, 2);
  EXPECT_NEAR(drawn[static_cast<std::size_t>(Fault::kAbort)], 5'000, 2);
  EXPECT_NEAR(drawn[static_cast<std::size_t>(Fault::kBlackHole)], 1'000, 2);
  EXPECT_NEAR(drawn[static_cast<std::size_t>(Fault::kNone)], 64'000, 2);
}

TEST(FaultPlanTest, AShareOfOneIsEveryCallAndOfZeroNone) {
  constexpr std::uint64_t kLast = std::numeric_limits<std::uint64_t>::max();
  for (const std::uint64_t random : {std::uint64_t{0}, std::uint64_t{1}, kLast / 2, kLast - 1, kLast}) {
    EXPECT_EQ(MustParse("error=1").Draw(random), Fault::kError);
    EXPECT_EQ(MustParse("black_hole=1, error=0").Draw(random), Fault::kBlackHole);
    EXPECT_EQ(FaultPlan().Draw(random), Fault::kNone);
  }
}

}  // namespace
}  // namespace nova::resilience
