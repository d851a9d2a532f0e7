#include "nova/resilience/config.h"

#include <algorithm>
#include <cmath>
#include <mutex>
#include <set>

#include "nova/resilience/crash_point.h"

namespace nova::resilience {
namespace {

using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;

// Bounds of the settings.
constexpr milliseconds kTimeoutMax = minutes(10);
constexpr int kCallsMax = 100'000;
constexpr int kWindowCallsMax = 10'000;
constexpr milliseconds kWindowTimeMin{100};
constexpr milliseconds kWindowTimeMax = minutes(10);
constexpr milliseconds kOpenTimeMax = minutes(10);
constexpr int kProbesMax = 1'000;
constexpr int kTriesMax = 10;
constexpr milliseconds kBackoffMax = minutes(1);
constexpr int kPassingMax = 1'000'000'000;

constexpr const char* kCount = "count";
constexpr const char* kTime = "time";

// Methods grant 2 s as a rule: a dependency that stalls must show as slow before its callers have gone, for what their
// own deadlines end does not speak against it.
constexpr milliseconds kSlowMax = seconds(1);

// Half of the timeout; not zero, for then every call would be slow.
milliseconds SlowOf(milliseconds timeout) { return std::clamp(timeout / 2, milliseconds(1), kSlowMax); }

// Binds the figures of one dependency.
class Figures {
 public:
  Figures(config::Config& config, DependencyName name) : config_(config), name_(name) {}

  void Text(std::string_view figure, std::string& value, std::string help, std::vector<std::string> one_of = {}) {
    config_.Field(Key(figure), value,
                  {.help = std::move(help), .env = SettingName(name_, figure), .one_of = std::move(one_of)});
  }

  void Number(std::string_view figure, int& value, int min, int max, std::string help) {
    config_.Field(Key(figure), value,
                  {.help = std::move(help), .env = SettingName(name_, figure), .min = min, .max = max});
  }

  void Time(std::string_view figure, milliseconds& value, milliseconds min, milliseconds max, std::string help) {
    std::int64_t count = value.count();
    config_.Field(Key(figure), count,
                  {.help = std::move(help), .env = SettingName(name_, figure), .min = min.count(), .max = max.count()});
    value = milliseconds(count);
  }

  void Percent(std::string_view figure, double& ratio, int min, std::string help) {
    const int before = static_cast<int>(std::lround(ratio * 100));
    int percent = before;
    Number(figure, percent, min, 100, std::move(help));
    // A default need not be a whole percentage.
    if (percent != before) ratio = percent / 100.0;
  }

 private:
  std::string Key(std::string_view figure) const {
    return "resilience." + std::string(name_.text()) + "." + std::string(figure);
  }

  config::Config& config_;
  const DependencyName name_;
};

}  // namespace

Result<DependencyName> DependencyName::Parse(std::string_view text) {
  if (!IsValid(text))
    return InvalidArgument("a dependency's name is lower-case letters, digits and '_', beginning with a letter; " +
                           std::to_string(kLengthMax) + " characters at most");
  static std::mutex mutex;
  // Never destroyed: names are in use until the process ends. A set's elements stay where they are.
  static auto& names = *new std::set<std::string, std::less<>>;
  const std::lock_guard lock(mutex);
  auto found = names.find(text);
  if (found == names.end()) found = names.emplace(text).first;
  return DependencyName(Kept(), *found);
}

DependencyConfig DependencyConfig::Default(Kind kind) {
  DependencyConfig config;
  switch (kind) {
    case Kind::kDatabase:
      config.timeout = seconds(10);
      config.calls_max = 512;
      break;
    case Kind::kPeer:
      config.timeout = seconds(10);
      config.calls_max = 256;
      break;
    case Kind::kCache:
      config.timeout = seconds(5);
      config.calls_max = 1024;
      break;
    case Kind::kHttp:
      config.timeout = seconds(10);
      config.calls_max = 64;
      break;
  }
  config.slow = SlowOf(config.timeout);
  config.breaker.probe_limit = config.timeout;
  return config;
}

std::string SettingName(DependencyName name, std::string_view figure) {
  std::string variable = "RESILIENCE_" + std::string(name.text()) + "_" + std::string(figure);
  for (char& c : variable) {
    if (c >= 'a' && c <= 'z') c = static_cast<char>(c - 'a' + 'A');
  }
  return variable;
}

void Bind(config::Config& config, DependencyName name, DependencyConfig& dependency) {
  constexpr milliseconds kOne{1};
  Figures figures(config, name);
  const milliseconds default_timeout = dependency.timeout;
  figures.Time("timeout_ms", dependency.timeout, kOne, kTimeoutMax, "the longest a call may take, retries included");
  if (dependency.timeout != default_timeout) dependency.slow = SlowOf(dependency.timeout);
  figures.Time("slow_ms", dependency.slow, kOne, kTimeoutMax,
               "a call that takes longer is slow for the breaker; half of the timeout, 1 s at most, unless set");
  figures.Number("calls_max", dependency.calls_max, 1, kCallsMax, "calls under way, at most; more are refused");

  BreakerConfig& breaker = dependency.breaker;
  std::string window = breaker.window == BreakerConfig::Window::kCount ? kCount : kTime;
  figures.Text("breaker_window", window, "what the breaker judges by: the last calls, or those of the last while",
               {kCount, kTime});
  breaker.window = window == kCount ? BreakerConfig::Window::kCount : BreakerConfig::Window::kTime;
  figures.Number("breaker_window_calls", breaker.window_calls, 1, kWindowCallsMax,
                 "how many last calls, if the window is a count");
  figures.Time("breaker_window_ms", breaker.window_time, kWindowTimeMin, kWindowTimeMax,
               "how long a while, if the window is a time");
  figures.Number("breaker_calls_min", breaker.calls_min, 1, kWindowCallsMax,
                 "with fewer calls in the window the breaker stays closed");
  figures.Percent("breaker_failure_percent", breaker.failure_ratio, 1, "the share of failed calls that opens it");
  figures.Percent("breaker_slow_percent", breaker.slow_ratio, 1, "the share of slow calls that opens it");
  figures.Time("breaker_open_ms", breaker.open_time, kOne, kOpenTimeMax,
               "from its opening to the first probe; up to a fifth more, at random");
  figures.Number("breaker_probes", breaker.probes, 1, kProbesMax, "calls that must succeed before it closes");
  breaker.probe_limit = dependency.timeout;

  RetryConfig& retry = dependency.retry;
  figures.Number("retry_tries_max", retry.tries_max, 1, kTriesMax, "tries of a call, the first one included");
  figures.Time("retry_backoff_ms", retry.backoff, kOne, kBackoffMax,
               "the longest pause before the second try; doubles from try to try");
  figures.Time("retry_backoff_max_ms", retry.backoff_max, kOne, kBackoffMax, "the longest pause before any try");
  figures.Percent("retry_budget_percent", retry.budget_ratio, 0, "retries, at most, as a share of calls");

  const std::string default_fault = dependency.fault_text;
  figures.Text("fault", dependency.fault_text,
               "faults to inject, never in production: delay=0.2:250ms, error=0.1, abort=0.05, black_hole=0.01");
  if (dependency.fault_text == default_fault) return;
  // A text that is no plan is Validate's to report.
  const Result<FaultPlan> plan = FaultPlan::Parse(dependency.fault_text);
  dependency.faults = plan ? *plan : FaultPlan();
}

Result<void> Validate(DependencyName name, const DependencyConfig& dependency, config::AppEnv app_env) {
  const auto setting = [name](std::string_view figure) { return SettingName(name, figure); };
  // "X is 5, more than Y, which is 3"
  const auto exceeds = [&setting](std::string_view more, std::int64_t value, std::string_view less,
                                  std::int64_t bound) {
    return setting(more) + " is " + std::to_string(value) + ", more than " + setting(less) + ", which is " +
           std::to_string(bound);
  };
  if (dependency.slow > dependency.timeout)
    return InvalidArgument(exceeds("slow_ms", dependency.slow.count(), "timeout_ms", dependency.timeout.count()) +
                           ": no call would ever be slow; unset it for half of the timeout, 1 s at most");
  const BreakerConfig& breaker = dependency.breaker;
  if (breaker.window == BreakerConfig::Window::kCount && breaker.calls_min > breaker.window_calls)
    return InvalidArgument(
        exceeds("breaker_calls_min", breaker.calls_min, "breaker_window_calls", breaker.window_calls) +
        ": the breaker would never open; lower the one or raise the other");
  const RetryConfig& retry = dependency.retry;
  if (retry.backoff > retry.backoff_max)
    return InvalidArgument(
        exceeds("retry_backoff_ms", retry.backoff.count(), "retry_backoff_max_ms", retry.backoff_max.count()) +
        ": lower the one or raise the other");
  if (const Result<FaultPlan> plan = FaultPlan::Parse(dependency.fault_text); !plan)
    return InvalidArgument(setting("fault") + ": " + plan.error().message());
  if (!dependency.faults.empty() && app_env == config::AppEnv::kProduction)
    return FailedPrecondition(setting("fault") + " injects faults, and APP_ENV=production allows none: unset it");
  return Ok();
}

void Bind(config::Config& config, CrashConfig& crash) {
  config.Field("crash.at", crash.at, {.help = "crash point at which the process kills itself, never in production"});
  config.Field("crash.passing", crash.passing,
               {.help = "at which passing of the crash point, 1 being the first", .min = 1, .max = kPassingMax});
}

Result<void> Arm(const CrashConfig& crash, config::AppEnv app_env) {
  if (crash.at.empty()) return Ok();
  if (app_env == config::AppEnv::kProduction)
    return FailedPrecondition(
        "NOVA_CRASH_AT ends the process on purpose, and APP_ENV=production does not allow it: "
        "unset it");
  if (const auto armed = CrashPoint::Arm(crash.at, crash.passing); !armed)
    return InvalidArgument("NOVA_CRASH_AT: " + armed.error().message());
  return Ok();
}

}  // namespace nova::resilience
