#include "audit/exposition.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

namespace nova::audit {
namespace {

constexpr char kDependency[] = "dependency";

Error NotASample(std::string_view line) { return InvalidArgument("not a sample: '" + std::string(line) + "'"); }

// strtod would follow the locale; from_chars knows "inf" and "nan" in any case, but no sign '+'.
std::optional<double> ToNumber(std::string_view text) {
  if (text.starts_with('+')) text.remove_prefix(1);
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

}  // namespace

bool Exposition::Carries(const Sample& sample, const Labels& labels) {
  return std::ranges::all_of(labels, [&sample](const auto& label) {
    const auto found = sample.labels.find(label.first);
    return found != sample.labels.end() && found->second == label.second;
  });
}

Result<Exposition> Exposition::Parse(std::string_view text) {
  Exposition parsed;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.empty() || line.starts_with('#')) continue;
    NOVA_TRY(Sample sample, ParseSample(line));
    parsed.samples_.push_back(std::move(sample));
  }
  return parsed;
}

// name{label="value",...} value [timestamp]
Result<Exposition::Sample> Exposition::ParseSample(std::string_view line) {
  std::string_view rest = line;
  const std::size_t name_end = rest.find_first_of("{ ");
  if (name_end == 0 || name_end == std::string_view::npos) return NotASample(line);
  Sample sample{.name = std::string(rest.substr(0, name_end))};
  rest.remove_prefix(name_end);
  if (rest.starts_with('{')) {
    rest.remove_prefix(1);
    while (!rest.starts_with('}')) {
      const std::size_t equals = rest.find("=\"");
      if (equals == 0 || equals == std::string_view::npos) return NotASample(line);
      std::string& value = sample.labels[std::string(rest.substr(0, equals))];
      rest.remove_prefix(equals + 2);
      while (!rest.empty() && rest.front() != '"') {
        char c = rest.front();
        rest.remove_prefix(1);
        if (c == '\\' && !rest.empty()) {
          c = rest.front() == 'n' ? '\n' : rest.front();
          rest.remove_prefix(1);
        }
        value += c;
      }
      if (rest.empty()) return NotASample(line);
      rest.remove_prefix(1);
      if (rest.starts_with(',')) rest.remove_prefix(1);
    }
    rest.remove_prefix(1);
  }
  if (!rest.starts_with(' ')) return NotASample(line);
  rest.remove_prefix(1);
  const auto value = ToNumber(rest.substr(0, rest.find(' ')));
  if (!value) return NotASample(line);
  sample.value = *value;
  return sample;
}

std::optional<double> Exposition::Sum(std::string_view name, const Labels& labels) const {
  std::optional<double> sum;
  for (const Sample& sample : samples_) {
    if (sample.name == name && Carries(sample, labels)) sum = sum.value_or(0) + sample.value;
  }
  return sum;
}

Exposition::Histogram Exposition::HistogramOf(std::string_view name, const Labels& labels) const {
  const std::string bucket = std::string(name) + "_bucket";
  Histogram histogram;
  for (const Sample& sample : samples_) {
    const auto edge = sample.labels.find("le");
    if (sample.name != bucket || edge == sample.labels.end() || !Carries(sample, labels)) continue;
    if (const auto number = ToNumber(edge->second)) histogram[*number] += sample.value;
  }
  return histogram;
}

std::set<std::string> Exposition::Values(std::string_view prefix, const std::string& label) const {
  std::set<std::string> values;
  for (const Sample& sample : samples_) {
    const auto found = sample.labels.find(label);
    if (sample.name.starts_with(prefix) && found != sample.labels.end()) values.insert(found->second);
  }
  return values;
}

Exposition::Histogram Growth(const Exposition::Histogram& last, const Exposition::Histogram& first) {
  Exposition::Histogram growth = last;
  for (auto& [edge, count] : growth) {
    const auto before = first.find(edge);
    if (before != first.end()) count -= before->second;
  }
  return growth;
}

std::optional<double> UpperBound(const Exposition::Histogram& histogram, double fraction) {
  if (histogram.empty() || histogram.rbegin()->second <= 0) return std::nullopt;
  const double enough = fraction * histogram.rbegin()->second;
  return std::ranges::find_if(histogram, [enough](const auto& bucket) { return bucket.second >= enough; })->first;
}

std::set<std::string> DependenciesOf(const Exposition& process) { return process.Values("nova_", kDependency); }

bool HasDeadline(const Exposition& process, const std::string& dependency) {
  const auto seconds = process.Sum("nova_dependency_timeout_seconds", {{kDependency, dependency}});
  return seconds && *seconds > 0 && std::isfinite(*seconds);
}

bool HasBreaker(const Exposition& process, const std::string& dependency) {
  return process.Sum("nova_breaker_state", {{kDependency, dependency}}) == 1;
}

bool HasBulkhead(const Exposition& process, const std::string& dependency) {
  return process.Sum("nova_bulkhead_permits", {{kDependency, dependency}, {"state", "max"}}).value_or(0) > 0;
}

bool BreakerIsClosed(const Exposition& process, const std::string& dependency) {
  return process.Sum("nova_breaker_state", {{kDependency, dependency}, {"state", "closed"}}) == 1;
}

double TimesOpened(const Exposition& process, const std::string& dependency) {
  return process.Sum("nova_breaker_transitions_total", {{kDependency, dependency}, {"from", "closed"}, {"to", "open"}})
      .value_or(0);
}

}  // namespace nova::audit
