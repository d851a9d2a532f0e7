#include "nova/resilience/crash_point.h"

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <thread>

namespace nova::resilience {
namespace {

using ::testing::ElementsAre;
using ::testing::ExitedWithCode;
using ::testing::KilledBySignal;

const CrashPoint kSecond("crash_point_test.second");
const CrashPoint kFirst("crash_point_test.first");

class CrashPointDeathTest : public ::testing::Test {
 protected:
  // The process that dies starts anew: it has no threads but its own.
  CrashPointDeathTest() { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

TEST(CrashPointTest, ListsThePointsOfTheProgramSorted) {
  EXPECT_THAT(CrashPoint::Names(), ElementsAre("crash_point_test.first", "crash_point_test.second"));
}

TEST(CrashPointTest, DoesNothingUnlessArmed) {
  for (int i = 0; i < 1'000; ++i) kFirst.Pass();
}

TEST(CrashPointTest, RefusesWhatDoesNotExistAndArmsNothing) {
  const Result<void> unknown = CrashPoint::Arm("crash_point_test.third", 1);
  ASSERT_FALSE(unknown.ok());
  EXPECT_EQ(unknown.error().code(), Code::kInvalidArgument);
  EXPECT_EQ(unknown.error().message(),
            "there is no crash point of this name; there are crash_point_test.first, crash_point_test.second");
  const Result<void> never = CrashPoint::Arm("crash_point_test.first", 0);
  ASSERT_FALSE(never.ok());
  EXPECT_EQ(never.error().code(), Code::kInvalidArgument);
  kFirst.Pass();
}

TEST_F(CrashPointDeathTest, EndsTheProcessAsByKill) {
  EXPECT_EXIT(
      {
        std::atexit([] { std::fputs("the end was orderly\n", stderr); });
        (void)CrashPoint::Arm("crash_point_test.first", 1);
        kFirst.Pass();
        std::exit(0);
      },
      KilledBySignal(SIGKILL), "^crash point crash_point_test.first: the process ends here, as by kill -9\n$");
}

TEST_F(CrashPointDeathTest, EndsItAtThePassingThatWasAskedForAndAtNoOtherPoint) {
  EXPECT_EXIT(
      {
        (void)CrashPoint::Arm("crash_point_test.first", 3);
        for (int i = 0; i < 10; ++i) kSecond.Pass();
        kFirst.Pass();
        kFirst.Pass();
        std::fputs("passed twice\n", stderr);
        kFirst.Pass();
        std::exit(0);
      },
      KilledBySignal(SIGKILL), "^passed twice\ncrash point ");
}

// Passes from several threads; 4'000 times in all.
void PassInThreads() {
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([] {
      for (int passing = 0; passing < 1'000; ++passing) kFirst.Pass();
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_F(CrashPointDeathTest, CountsThePassingsOfAllThreads) {
  EXPECT_EXIT(
      {
        (void)CrashPoint::Arm("crash_point_test.first", 4'000);
        PassInThreads();
        std::exit(0);
      },
      KilledBySignal(SIGKILL), "");
  EXPECT_EXIT(
      {
        (void)CrashPoint::Arm("crash_point_test.first", 4'001);
        PassInThreads();
        std::exit(0);
      },
      ExitedWithCode(0), "");
}

}  // namespace
}  // namespace nova::resilience
