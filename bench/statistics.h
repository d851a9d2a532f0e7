// What a benchmark says of many samples.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

namespace nova::bench {

// Of values in any order. Precondition: there is one.
inline double Median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

// The smallest value that at least `fraction` of all do not exceed. Precondition: ascending, and there is one.
inline double Percentile(const std::vector<double>& ascending, double fraction) {
  const double rank = std::ceil(fraction * static_cast<double>(ascending.size()));
  return ascending[static_cast<std::size_t>(std::max(rank, 1.0)) - 1];
}

}  // namespace nova::bench
