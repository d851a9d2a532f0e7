#include "audit/exposition.h"

#include <cmath>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <limits>

#include "nova/resilience/dependency.h"
#include "nova/telemetry/metrics.h"

namespace nova::audit {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

Exposition Parsed(std::string_view text) {
  auto parsed = Exposition::Parse(text);
  EXPECT_TRUE(parsed.ok()) << parsed.error().ToString();
  return *std::move(parsed);
}

TEST(Exposition, SumsTheSamplesThatCarryTheLabels) {
  const Exposition parsed = Parsed(
      "# HELP calls_total Calls, \"by\" outcome\n# TYPE calls_total counter\n"
      "calls_total{dependency=\"a\",outcome=\"ok\"} 3\ncalls_total{dependency=\"a\",outcome=\"failed\"} 2 "
      "1712000000000\n"
      "calls_total{dependency=\"b\",outcome=\"ok\"} 1e2\n\nup 1\nbucket{le=\"+Inf\"} +Inf\nodd NaN");
  EXPECT_EQ(parsed.Sum("calls_total", {{"dependency", "a"}}), 5);
  EXPECT_EQ(parsed.Sum("calls_total", {{"outcome", "ok"}}), 103);
  EXPECT_EQ(parsed.Sum("calls_total", {{"outcome", "ok"}, {"dependency", "b"}}), 100);
  EXPECT_EQ(parsed.Sum("up", {}), 1);
  EXPECT_TRUE(std::isinf(*parsed.Sum("bucket", {})));
  EXPECT_TRUE(std::isnan(*parsed.Sum("odd", {})));
  EXPECT_FALSE(parsed.Sum("calls_total", {{"dependency", "c"}}).has_value());
  EXPECT_FALSE(parsed.Sum("calls", {}).has_value());
  EXPECT_THAT(parsed.Values("calls", "dependency"), ElementsAre("a", "b"));
}

TEST(Exposition, ReadsEscapedLabelValues) {
  const Exposition parsed = Parsed("m{a=\"x\\\"y\\\\z\\nw}\",b=\"\"} 1\n");
  EXPECT_EQ(parsed.Sum("m", {{"a", "x\"y\\z\nw}"}, {"b", ""}}), 1);
}

TEST(Exposition, SaysWhichLineItCannotRead) {
  for (const char* line :
       {"m", "m{", "m{a=\"b\"", "m{a=\"b}", "m{a} 1", "m{=\"b\"} 1", "{} 1", "m one", "m{a=\"b\"}1"}) {
    const auto parsed = Exposition::Parse("fine 1\n" + std::string(line) + "\n");
    ASSERT_FALSE(parsed.ok()) << line;
    EXPECT_THAT(parsed.error().message(), HasSubstr(line));
  }
}

// What the chassis exports is what the audit looks for: if one of them is renamed, this test says so.
TEST(Exposition, FindsThePoliciesThatADependencyExports) {
  telemetry::Metrics metrics;
  resilience::CacheDependency redis("redis", metrics);
  const Exposition scraped = Parsed(metrics.Scrape());
  EXPECT_THAT(DependenciesOf(scraped), ElementsAre("redis"));
  EXPECT_TRUE(HasDeadline(scraped, "redis"));
  EXPECT_TRUE(HasBreaker(scraped, "redis"));
  EXPECT_TRUE(HasBulkhead(scraped, "redis"));
  EXPECT_TRUE(BreakerIsClosed(scraped, "redis"));
  EXPECT_EQ(TimesOpened(scraped, "redis"), 0);
  EXPECT_EQ(scraped.Sum("nova_bulkhead_permits", {{"dependency", "redis"}, {"state", "orphaned"}}), 0);

  const SteadyTime now = Clock::System().Now();
  for (int i = 0; i < redis.config().breaker.calls_min; ++i)
    redis.breaker().TryAcquire(now)->Record({.failed = true, .slow = false}, now);
  const Exposition opened = Parsed(metrics.Scrape());
  EXPECT_TRUE(HasBreaker(opened, "redis"));
  EXPECT_FALSE(BreakerIsClosed(opened, "redis"));
  EXPECT_EQ(TimesOpened(opened, "redis"), 1);
}

TEST(Exposition, MissesThePoliciesThatAreNotThere) {
  const Exposition scraped = Parsed(
      "nova_dependency_calls_total{dependency=\"bare\",outcome=\"ok\"} 1\n"
      "nova_dependency_timeout_seconds{dependency=\"odd\"} 0\n"
      "nova_breaker_state{dependency=\"odd\",state=\"closed\"} "
      "0\nnova_breaker_state{dependency=\"odd\",state=\"open\"} 0\n"
      "nova_bulkhead_permits{dependency=\"odd\",state=\"max\"} 0\n"
      "nova_bulkhead_permits{dependency=\"odd\",state=\"in_use\"} 3\n"
      "nova_dependency_timeout_seconds{dependency=\"endless\"} +Inf\n");
  EXPECT_THAT(DependenciesOf(scraped), ElementsAre("bare", "endless", "odd"));
  for (const char* name : {"bare", "odd", "endless", "unknown"}) {
    EXPECT_FALSE(HasDeadline(scraped, name)) << name;
    EXPECT_FALSE(HasBreaker(scraped, name)) << name;
    EXPECT_FALSE(HasBulkhead(scraped, name)) << name;
    EXPECT_FALSE(BreakerIsClosed(scraped, name)) << name;
  }
}

TEST(Exposition, AHistogramTellsWhatAFractionIsNotAbove) {
  const auto times = [](const std::string& text) { return Parsed(text).HistogramOf("h", {{"side", "server"}}); };
  const auto first = times(
      "h_bucket{side=\"server\",le=\"0.005\"} 10\nh_bucket{side=\"server\",le=\"0.01\"} 10\n"
      "h_bucket{side=\"server\",le=\"+Inf\"} 12\nh_bucket{side=\"client\",le=\"0.005\"} 7\nh_count{side=\"server\"} "
      "12\n");
  const auto last = times(
      "h_bucket{side=\"server\",le=\"0.005\"} 104\nh_bucket{side=\"server\",le=\"0.01\"} 108\n"
      "h_bucket{side=\"server\",le=\"+Inf\"} 112\n");
  const auto growth = Growth(last, first);
  EXPECT_EQ(growth.rbegin()->second, 100);
  EXPECT_EQ(UpperBound(growth, 0.94), 0.005);
  EXPECT_EQ(UpperBound(growth, 0.95), 0.01);
  EXPECT_EQ(UpperBound(growth, 0.99), std::numeric_limits<double>::infinity());
  EXPECT_EQ(UpperBound(Growth(last, last), 0.95), std::nullopt);
  EXPECT_EQ(UpperBound({}, 0.95), std::nullopt);
}

}  // namespace
}  // namespace nova::audit
