#include "nova/telemetry/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <thread>
#include <vector>

namespace nova::telemetry {
namespace {

using testing::HasSubstr;
using testing::Not;

TEST(Metrics, TheSameNameAndLabelsAreTheSameMetric) {
  Metrics metrics;
  auto& a = metrics.Counter("nova_calls_total", "Calls", {{"method", "a"}});
  EXPECT_EQ(&a, &metrics.Counter("nova_calls_total", "Calls", {{"method", "a"}}));
  EXPECT_NE(&a, &metrics.Counter("nova_calls_total", "Calls", {{"method", "b"}}));
  EXPECT_EQ(&metrics.Gauge("nova_depth", "Depth"), &metrics.Gauge("nova_depth", "Depth"));
  EXPECT_EQ(&metrics.Histogram("nova_took_seconds", "Took", kLatencyBuckets),
            &metrics.Histogram("nova_took_seconds", "Took", kLatencyBuckets));
}

TEST(Metrics, ScrapeIsPrometheusText) {
  Metrics metrics;
  metrics.Counter("nova_calls_total", "Calls made", {{"method", "a\"b"}}).Increment(3);
  metrics.Gauge("nova_depth", "Depth").Set(-2);
  auto& took = metrics.Histogram("nova_took_seconds", "Took", kLatencyBuckets);
  took.Observe(0.004);
  took.Observe(0.009);
  took.Observe(99);
  const std::string text = metrics.Scrape();
  EXPECT_THAT(text, HasSubstr("# HELP nova_calls_total Calls made\n# TYPE nova_calls_total counter\n"
                              "nova_calls_total{method=\"a\\\"b\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("nova_depth -2\n"));
  // The limits of the promises, 5 ms and 10 ms, are edges of their own.
  EXPECT_THAT(text, HasSubstr("nova_took_seconds_bucket{le=\"0.005\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("nova_took_seconds_bucket{le=\"0.01\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("nova_took_seconds_bucket{le=\"+Inf\"} 3\n"));
}

TEST(Metrics, TwoInstancesShareNothing) {
  Metrics a;
  const Metrics b;
  a.Counter("nova_only_in_a_total", "A").Increment();
  EXPECT_THAT(b.Scrape(), Not(HasSubstr("nova_only_in_a_total")));
}

TEST(Metrics, MayBeUsedFromManyThreads) {
  Metrics metrics;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&metrics] {
      for (int n = 0; n < 500; ++n) {
        metrics.Counter("nova_calls_total", "Calls", {{"n", std::to_string(n % 7)}}).Increment();
        if (n % 100 == 0) (void)metrics.Scrape();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  double sum = 0;
  for (int n = 0; n < 7; ++n) sum += metrics.Counter("nova_calls_total", "Calls", {{"n", std::to_string(n)}}).Value();
  EXPECT_EQ(sum, 2000);
}

}  // namespace
}  // namespace nova::telemetry
