#include "nova/secrets/look_rhythm.h"

#include <gtest/gtest.h>
#include <set>

namespace nova::secrets {
namespace {

using namespace std::chrono_literals;

constexpr SteadyTime kStart{1000s};

TEST(LookRhythm, TheFirstPauseDiffersAndTheOthersAreExact) {
  std::set<Duration> first;
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    LookRhythm rhythm(300s, seed);
    rhythm.Succeeded(kStart);
    const Duration pause = rhythm.due() - kStart;
    EXPECT_LE(pause, 300s);
    EXPECT_GE(pause, 270s);
    first.insert(pause);
    rhythm.Succeeded(rhythm.due() + 2s);
    EXPECT_EQ(rhythm.due(), kStart + pause + 302s) << "measured from where the look began";
  }
  EXPECT_GT(first.size(), 90U);
}

TEST(LookRhythm, MakesAtMost289LooksADay) {
  for (std::uint64_t seed = 0; seed < 1000; ++seed) {
    LookRhythm rhythm(300s, seed);
    int looks = 0;
    for (SteadyTime now = kStart; now < kStart + 24h; now = rhythm.due()) {
      ++looks;
      rhythm.Succeeded(now);
    }
    EXPECT_LE(looks, 289) << "seed " << seed;
    EXPECT_GE(looks, 288);
  }
}

TEST(LookRhythm, FailuresAreFollowedByGrowingPauses) {
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    LookRhythm rhythm(300s, seed);
    rhythm.Succeeded(kStart);
    Duration least = 1s;
    for (int i = 0; i < 20; ++i) {
      rhythm.Failed(kStart);
      EXPECT_GE(rhythm.due() - kStart, std::min<Duration>(least, 300s)) << "after failure " << i;
      EXPECT_LE(rhythm.due() - kStart, std::min<Duration>(2 * least, 300s)) << "after failure " << i;
      least = std::min<Duration>(2 * least, 300s);
    }
    rhythm.Succeeded(kStart);
    EXPECT_EQ(rhythm.due(), kStart + 300s);
    rhythm.Failed(kStart);
    EXPECT_LE(rhythm.due(), kStart + 2s) << "a success ends the series";
  }
}

TEST(LookRhythm, NoPauseIsLongerThanTheInterval) {
  LookRhythm rhythm(100ms, 1);
  rhythm.Failed(kStart);
  EXPECT_EQ(rhythm.due(), kStart + 100ms);
}

}  // namespace
}  // namespace nova::secrets
