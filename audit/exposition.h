// Exposition: what a process says on its /metrics (Prometheus text format 0.0.4), for questions about single figures;
// and what it says there about what it depends on.
//
//   NOVA_TRY(const Exposition scraped, Exposition::Parse(response.body));
//   scraped.Sum("nova_dependency_calls_total", {{"dependency", "postgres"}, {"outcome", "ok"}});
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "nova/base/result.h"

namespace nova::audit {

class Exposition {
 public:
  using Labels = std::map<std::string, std::string>;

  // Errors: INVALID_ARGUMENT with the line that is not of the format.
  static Result<Exposition> Parse(std::string_view text);

  // The sum of the samples of `name` that carry at least these labels; nothing if there is none.
  std::optional<double> Sum(std::string_view name, const Labels& labels) const;
  // How many observations of the histogram `name` were not above each edge: the buckets that carry at least these
  // labels, added up by edge, the last of which is infinite. Empty if there is none.
  using Histogram = std::map<double, double>;
  Histogram HistogramOf(std::string_view name, const Labels& labels) const;
  // The values that `label` has on any metric whose name begins with `prefix`.
  std::set<std::string> Values(std::string_view prefix, const std::string& label) const;

 private:
  struct Sample {
    std::string name;
    Labels labels;
    double value = 0;
  };
  static Result<Sample> ParseSample(std::string_view line);
  static bool Carries(const Sample& sample, const Labels& labels);

  std::vector<Sample> samples_;
};

// What was observed between two looks at a histogram.
Exposition::Histogram Growth(const Exposition::Histogram& last, const Exposition::Histogram& first);
// The lowest edge that `fraction` of the observations are not above; nothing if there are none.
std::optional<double> UpperBound(const Exposition::Histogram& histogram, double fraction);

// --- What a process says about its dependencies (nova/resilience/dependency.h). ---

// Every name that stands there, under whatever policy.
std::set<std::string> DependenciesOf(const Exposition& process);

bool HasDeadline(const Exposition& process, const std::string& dependency);
// One that is in one state.
bool HasBreaker(const Exposition& process, const std::string& dependency);
bool HasBulkhead(const Exposition& process, const std::string& dependency);

bool BreakerIsClosed(const Exposition& process, const std::string& dependency);
// How often it has opened while everything had seemed well.
double TimesOpened(const Exposition& process, const std::string& dependency);

}  // namespace nova::audit
