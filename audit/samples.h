// Latencies of one measurement.
#pragma once

#include <string>
#include <vector>

#include "nova/base/clock.h"

namespace nova::audit {

// The smallest sample that `fraction` of all samples do not exceed (nearest rank): a time that was really measured,
// never one in between. Preconditions: there is a sample; 0 < fraction <= 1.
Duration Percentile(std::vector<Duration> samples, double fraction);

double ToMilliseconds(Duration time);
// "4.31": milliseconds with two decimals.
std::string FormatMilliseconds(Duration time);

// "p50 0.21 ms, p95 0.34 ms"
std::string Describe(const std::vector<Duration>& samples);

// "load 2.6 on 2 cores" of this machine, without which a slow figure cannot be read; empty if it is not known.
std::string DescribeLoad();

}  // namespace nova::audit
