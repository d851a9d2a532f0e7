#include "nova/health/hysteresis.h"

#include <gtest/gtest.h>

namespace nova::health {
namespace {

TEST(HysteresisTest, TheFirstResultDecides) {
  Hysteresis good({.fall = 3, .rise = 2});
  EXPECT_FALSE(good.healthy());
  EXPECT_TRUE(good.Observe(true));
  EXPECT_TRUE(good.healthy());
  Hysteresis bad({.fall = 3, .rise = 2});
  EXPECT_FALSE(bad.Observe(false));
  EXPECT_FALSE(bad.healthy());
}

TEST(HysteresisTest, FallsAfterThreeFailuresInARowAndRisesAfterTwoSuccesses) {
  Hysteresis state({.fall = 3, .rise = 2});
  (void)state.Observe(true);
  EXPECT_FALSE(state.Observe(false));
  EXPECT_FALSE(state.Observe(false));
  EXPECT_FALSE(state.Observe(true));  // breaks the row
  EXPECT_FALSE(state.Observe(false));
  EXPECT_FALSE(state.Observe(false));
  EXPECT_TRUE(state.healthy());
  EXPECT_TRUE(state.Observe(false));
  EXPECT_FALSE(state.healthy());
  EXPECT_FALSE(state.Observe(true));
  EXPECT_FALSE(state.Observe(false));  // breaks the row
  EXPECT_FALSE(state.Observe(true));
  EXPECT_TRUE(state.Observe(true));
  EXPECT_TRUE(state.healthy());
}

}  // namespace
}  // namespace nova::health
