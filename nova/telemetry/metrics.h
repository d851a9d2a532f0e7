// Metrics: the process's counters, gauges and histograms, and their Prometheus text form. Made by the verb and passed
// by reference: two servers in one test do not share figures.
//
//   auto& refused = metrics.Counter("nova_http_refused_total", "Connections refused", {{"reason", "limit"}});
//   refused.Increment();
//
// Look metrics up once, at construction: the lookup takes a lock, the increment does not.
#pragma once

#include <array>
#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <span>
#include <string>

namespace nova::telemetry {

using Labels = prometheus::Labels;

// Upper bounds in seconds. 5 ms and 10 ms are the limits of the promises, so they must be edges.
inline constexpr std::array<double, 14> kLatencyBuckets = {0.0005, 0.001, 0.0025, 0.005, 0.010, 0.025, 0.050,
                                                           0.100,  0.250, 0.500,  1.0,   2.5,   5.0,   10.0};

// Thread-safe. Metrics live as long as this object; the same name and labels give the same metric. Preconditions: names
// and labels are valid for Prometheus, a name has one type, one help text and one set of buckets.
class Metrics {
 public:
  Metrics() = default;
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  prometheus::Counter& Counter(const std::string& name, const std::string& help, const Labels& labels = {});
  prometheus::Gauge& Gauge(const std::string& name, const std::string& help, const Labels& labels = {});
  // `buckets`: upper bounds, ascending; +Inf is added.
  prometheus::Histogram& Histogram(const std::string& name, const std::string& help, std::span<const double> buckets,
                                   const Labels& labels = {});

  // Prometheus text exposition format, version 0.0.4.
  std::string Scrape() const;

 private:
  prometheus::Registry registry_;
};

}  // namespace nova::telemetry
