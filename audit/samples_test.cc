#include "audit/samples.h"

#include <gtest/gtest.h>
#include <numeric>

namespace nova::audit {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

TEST(Samples, APercentileIsASampleThatWasMeasured) {
  std::vector<Duration> hundred;
  for (int i = 100; i >= 1; --i) hundred.push_back(milliseconds(i));
  EXPECT_EQ(Percentile(hundred, 0.5), milliseconds(50));
  EXPECT_EQ(Percentile(hundred, 0.95), milliseconds(95));
  EXPECT_EQ(Percentile(hundred, 1.0), milliseconds(100));
  EXPECT_EQ(Percentile({milliseconds(10), milliseconds(20)}, 0.5), milliseconds(10));
  EXPECT_EQ(Percentile({milliseconds(10), milliseconds(20)}, 0.95), milliseconds(20));
  EXPECT_EQ(Percentile({milliseconds(7)}, 0.01), milliseconds(7));
}

TEST(Samples, AreShownInMilliseconds) {
  EXPECT_EQ(FormatMilliseconds(microseconds(4312)), "4.31");
  EXPECT_EQ(FormatMilliseconds(microseconds(-20)), "-0.02");
  EXPECT_EQ(Describe({microseconds(500), microseconds(1000)}), "p50 0.50 ms, p95 1.00 ms");
}

}  // namespace
}  // namespace nova::audit
