#include "audit/samples.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <thread>

namespace nova::audit {

Duration Percentile(std::vector<Duration> samples, double fraction) {
  const auto count = static_cast<double>(samples.size());
  const auto rank = std::clamp(std::ceil(fraction * count), 1.0, count);
  const auto nth = samples.begin() + static_cast<std::ptrdiff_t>(rank) - 1;
  std::ranges::nth_element(samples, nth);
  return *nth;
}

double ToMilliseconds(Duration time) { return std::chrono::duration<double, std::milli>(time).count(); }

std::string FormatMilliseconds(Duration time) {
  char text[32];
  const int size = std::snprintf(text, sizeof text, "%.2f", ToMilliseconds(time));
  return {text, static_cast<std::size_t>(size)};
}

std::string Describe(const std::vector<Duration>& samples) {
  return "p50 " + FormatMilliseconds(Percentile(samples, 0.5)) + " ms, p95 " +
         FormatMilliseconds(Percentile(samples, 0.95)) + " ms";
}

std::string DescribeLoad() {
  double minute = 0;
  if (::getloadavg(&minute, 1) != 1) return {};
  char text[64];
  const int size =
      std::snprintf(text, sizeof text, "load %.1f on %u cores", minute, std::thread::hardware_concurrency());
  return {text, static_cast<std::size_t>(size)};
}

}  // namespace nova::audit
