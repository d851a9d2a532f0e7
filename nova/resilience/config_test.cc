#include "nova/resilience/config.h"

#include <algorithm>
#include <fstream>
#include <functional>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

namespace nova::resilience {
namespace {

using config::AppEnv;
using config::Config;
using config::Sources;
using std::chrono::milliseconds;
using ::testing::HasSubstr;

constexpr DependencyName kPostgres = "postgres";

// A file that is gone when the test ends.
class TempFile {
 public:
  explicit TempFile(const std::string& content)
      : path_(testing::TempDir() + "resilience_config_test_" + std::to_string(::getpid()) + ".yaml") {
    std::ofstream(path_) << content;
  }
  ~TempFile() { ::unlink(path_.c_str()); }
  TempFile(const TempFile&) = delete;
  TempFile& operator=(const TempFile&) = delete;
  const std::string& path() const { return path_; }

 private:
  const std::string path_;
};

// The outcome of one reading: the settings, and the message of Finish() or nothing.
struct Reading {
  DependencyConfig postgres = DependencyConfig::Default(Kind::kDatabase);
  DependencyConfig redis = DependencyConfig::Default(Kind::kCache);
  std::string problem;
};

Reading Read(Sources sources) {
  Reading reading;
  Config config(std::move(sources));
  Bind(config, kPostgres, reading.postgres);
  Bind(config, "redis", reading.redis);
  if (const auto finished = config.Finish(); !finished) reading.problem = finished.error().message();
  return reading;
}

// One figure of a dependency as a text.
struct Figure {
  std::string name;
  std::string value;
  std::function<std::string(const DependencyConfig&)> get;
};

std::string Text(milliseconds value) { return std::to_string(value.count()); }
std::string Text(int value) { return std::to_string(value); }
std::string Percent(double ratio) { return std::to_string(static_cast<int>(ratio * 100 + 0.5)); }

// All there are, each with a value that is no default.
std::vector<Figure> Figures() {
  using C = DependencyConfig;
  return {
      {"timeout_ms", "1234", [](const C& c) { return Text(c.timeout); }},
      {"slow_ms", "123", [](const C& c) { return Text(c.slow); }},
      {"calls_max", "7", [](const C& c) { return Text(c.calls_max); }},
      {"breaker_window", "count",
       [](const C& c) { return c.breaker.window == BreakerConfig::Window::kCount ? "count" : "time"; }},
      {"breaker_window_calls", "77", [](const C& c) { return Text(c.breaker.window_calls); }},
      {"breaker_window_ms", "2345", [](const C& c) { return Text(c.breaker.window_time); }},
      {"breaker_calls_min", "3", [](const C& c) { return Text(c.breaker.calls_min); }},
      {"breaker_failure_percent", "29", [](const C& c) { return Percent(c.breaker.failure_ratio); }},
      {"breaker_slow_percent", "100", [](const C& c) { return Percent(c.breaker.slow_ratio); }},
      {"breaker_open_ms", "345", [](const C& c) { return Text(c.breaker.open_time); }},
      {"breaker_probes", "5", [](const C& c) { return Text(c.breaker.probes); }},
      {"retry_tries_max", "4", [](const C& c) { return Text(c.retry.tries_max); }},
      {"retry_backoff_ms", "55", [](const C& c) { return Text(c.retry.backoff); }},
      {"retry_backoff_max_ms", "555", [](const C& c) { return Text(c.retry.backoff_max); }},
      {"retry_budget_percent", "0", [](const C& c) { return Percent(c.retry.budget_ratio); }},
      {"fault", "error=0.5", [](const C& c) { return c.faults.ToString(); }},
  };
}

std::string Variable(const std::string& figure) { return SettingName(kPostgres, figure); }
std::string Flag(const std::string& figure) {
  std::string flag = "--resilience-postgres-" + figure;
  std::ranges::replace(flag, '_', '-');
  return flag;
}

TEST(ResilienceConfigTest, TheDefaultsAreThoseOfTheKind) {
  const auto expect = [](Kind kind, milliseconds timeout, int calls_max) {
    const DependencyConfig config = DependencyConfig::Default(kind);
    EXPECT_EQ(config.timeout, timeout);
    EXPECT_EQ(config.slow, std::chrono::seconds(1));
    EXPECT_EQ(config.breaker.probe_limit, timeout);
    EXPECT_EQ(config.calls_max, calls_max);
    EXPECT_TRUE(config.faults.empty());
    EXPECT_TRUE(Validate(kPostgres, config, AppEnv::kProduction).ok());
  };
  expect(Kind::kDatabase, std::chrono::seconds(10), 512);
  expect(Kind::kPeer, std::chrono::seconds(10), 256);
  expect(Kind::kCache, std::chrono::seconds(5), 1024);
  expect(Kind::kHttp, std::chrono::seconds(10), 64);
}

TEST(ResilienceConfigTest, NothingSaidKeepsTheDefaults) {
  Reading reading = Read({});
  EXPECT_EQ(reading.problem, "");
  for (const Figure& figure : Figures()) {
    EXPECT_EQ(figure.get(reading.postgres), figure.get(DependencyConfig::Default(Kind::kDatabase))) << figure.name;
    EXPECT_NE(figure.get(reading.postgres), figure.value) << figure.name << ": the test would not see a change";
  }
  // A default that is no whole percentage is not rounded.
  DependencyConfig own = DependencyConfig::Default(Kind::kPeer);
  own.retry.budget_ratio = 0.125;
  Config config({});
  Bind(config, "identity", own);
  EXPECT_EQ(own.retry.budget_ratio, 0.125);
}

TEST(ResilienceConfigTest, EveryFigureHasAVariableAFlagAndAPlaceInTheFile) {
  for (const Figure& figure : Figures()) {
    const TempFile file("resilience:\n  postgres:\n    " + figure.name + ": " + figure.value + "\n");
    for (const Sources& sources :
         {Sources{.environment = {{Variable(figure.name), figure.value}}},
          Sources{.args = {Flag(figure.name) + "=" + figure.value}}, Sources{.args = {"--config", file.path()}}}) {
      const Reading reading = Read(sources);
      EXPECT_EQ(reading.problem, "") << figure.name;
      EXPECT_EQ(figure.get(reading.postgres), figure.value) << figure.name;
      EXPECT_EQ(figure.get(reading.redis), figure.get(DependencyConfig::Default(Kind::kCache))) << figure.name;
    }
  }
}

TEST(ResilienceConfigTest, ThereAreNoOtherFigures) {
  Config config({});
  DependencyConfig postgres = DependencyConfig::Default(Kind::kDatabase);
  Bind(config, kPostgres, postgres);
  std::vector<std::string> expected = {"config"};
  for (const Figure& figure : Figures()) expected.push_back("resilience.postgres." + figure.name);
  EXPECT_THAT(config.keys(), testing::UnorderedElementsAreArray(expected));
}

TEST(ResilienceConfigTest, AFlagWinsOverTheVariableOverTheFile) {
  const TempFile file("resilience:\n  postgres:\n    calls_max: 1\n    timeout_ms: 1\n    slow_ms: 1\n");
  const Reading reading =
      Read({.args = {"--config", file.path(), "--resilience-postgres-slow-ms", "3"},
            .environment = {{"RESILIENCE_POSTGRES_TIMEOUT_MS", "2"}, {"RESILIENCE_POSTGRES_SLOW_MS", "2"}}});
  EXPECT_EQ(reading.problem, "");
  EXPECT_EQ(reading.postgres.calls_max, 1);
  EXPECT_EQ(reading.postgres.timeout, milliseconds(2));
  EXPECT_EQ(reading.postgres.slow, milliseconds(3));
}

TEST(ResilienceConfigTest, SlowIsHalfOfAConfiguredTimeoutUnlessItIsSetToo) {
  const auto read = [](std::map<std::string, std::string> environment) {
    return Read({.environment = std::move(environment)}).postgres;
  };
  const DependencyConfig halved = read({{"RESILIENCE_POSTGRES_TIMEOUT_MS", "300"}});
  EXPECT_EQ(halved.slow, milliseconds(150));
  EXPECT_EQ(halved.breaker.probe_limit, milliseconds(300));
  EXPECT_EQ(read({{"RESILIENCE_POSTGRES_TIMEOUT_MS", "300"}, {"RESILIENCE_POSTGRES_SLOW_MS", "200"}}).slow,
            milliseconds(200));
  EXPECT_EQ(read({{"RESILIENCE_POSTGRES_TIMEOUT_MS", "60000"}}).slow, milliseconds(1000));
  // With a limit of zero every call would be slow.
  EXPECT_EQ(read({{"RESILIENCE_POSTGRES_TIMEOUT_MS", "1"}}).slow, milliseconds(1));
  // One that is not half by default stays as it is, if the timeout does.
  DependencyConfig own = DependencyConfig::Default(Kind::kDatabase);
  own.slow = milliseconds(100);
  Config config({.environment = {{"RESILIENCE_POSTGRES_CALLS_MAX", "5"}}});
  Bind(config, kPostgres, own);
  EXPECT_EQ(own.slow, milliseconds(100));
}

TEST(ResilienceConfigTest, BindingAgainChangesNothing) {
  Config config({.environment = {{"RESILIENCE_POSTGRES_TIMEOUT_MS", "300"},
                                 {"RESILIENCE_POSTGRES_FAULT", "error=0.5"},
                                 {"RESILIENCE_POSTGRES_SLOW_MS", "200"}}});
  DependencyConfig postgres = DependencyConfig::Default(Kind::kDatabase);
  for (int i = 0; i < 2; ++i) {
    Bind(config, kPostgres, postgres);
    EXPECT_EQ(postgres.timeout, milliseconds(300));
    EXPECT_EQ(postgres.slow, milliseconds(200));
    EXPECT_EQ(postgres.faults.error, 0.5);
  }
  EXPECT_TRUE(config.Finish().ok());
}

TEST(ResilienceConfigTest, AnUnknownDependencyOrFigureIsRefusedWithTheNameThatWasMeant) {
  EXPECT_EQ(Read({.environment = {{"RESILIENCE_POSTGRS_TIMEOUT_MS", "5"}}}).problem,
            "RESILIENCE_POSTGRS_TIMEOUT_MS: there is no such setting; did you mean RESILIENCE_POSTGRES_TIMEOUT_MS?");
  EXPECT_EQ(Read({.environment = {{"RESILIENCE_POSTGRES_TIMEOUT", "5"}}}).problem,
            "RESILIENCE_POSTGRES_TIMEOUT: there is no such setting; did you mean RESILIENCE_POSTGRES_TIMEOUT_MS?");
  EXPECT_EQ(Read({.args = {"--resilience-redis-call-max=5"}}).problem,
            "--resilience-redis-call-max: there is no such flag; did you mean --resilience-redis-calls-max?");
  const TempFile file("resilience:\n  redsi:\n    timeout_ms: 5\n");
  EXPECT_EQ(Read({.args = {"--config", file.path()}}).problem,
            file.path() +
                ":3: resilience.redsi.timeout_ms: there is no such setting; did you mean resilience.redis.timeout_ms?");
}

TEST(ResilienceConfigTest, EveryNumberHasBounds) {
  struct Bounds {
    const char* figure;
    int min;
    int max;
  };
  for (const auto& [figure, min, max] :
       {Bounds{"timeout_ms", 1, 600'000}, Bounds{"slow_ms", 1, 600'000}, Bounds{"calls_max", 1, 100'000},
        Bounds{"breaker_window_calls", 1, 10'000}, Bounds{"breaker_window_ms", 100, 600'000},
        Bounds{"breaker_calls_min", 1, 10'000}, Bounds{"breaker_failure_percent", 1, 100},
        Bounds{"breaker_slow_percent", 1, 100}, Bounds{"breaker_open_ms", 1, 600'000},
        Bounds{"breaker_probes", 1, 1'000}, Bounds{"retry_tries_max", 1, 10}, Bounds{"retry_backoff_ms", 1, 60'000},
        Bounds{"retry_backoff_max_ms", 1, 60'000}, Bounds{"retry_budget_percent", 0, 100}}) {
    const std::string variable = Variable(figure);
    for (const int good : {min, max}) EXPECT_EQ(Read({.environment = {{variable, std::to_string(good)}}}).problem, "");
    for (const std::string& bad : {std::to_string(min - 1), std::to_string(max + 1), std::string("5s")})
      EXPECT_EQ(Read({.environment = {{variable, bad}}}).problem, variable + " must be a whole number from " +
                                                                      std::to_string(min) + " to " +
                                                                      std::to_string(max) + ", not \"" + bad + "\"");
  }
  EXPECT_EQ(Read({.environment = {{"RESILIENCE_POSTGRES_BREAKER_WINDOW", "calls"}}}).problem,
            "RESILIENCE_POSTGRES_BREAKER_WINDOW must be one of count, time, not \"calls\"");
}

// The message of Validate for what the environment says, or nothing.
std::string Check(std::map<std::string, std::string> environment, AppEnv app_env = AppEnv::kDevelopment,
                  Code code = Code::kInvalidArgument) {
  const Reading reading = Read({.environment = std::move(environment)});
  EXPECT_EQ(reading.problem, "");
  const Result<void> valid = Validate(kPostgres, reading.postgres, app_env);
  if (valid) return "";
  EXPECT_EQ(valid.error().code(), code);
  return valid.error().message();
}

TEST(ResilienceConfigTest, FiguresMustFitEachOther) {
  EXPECT_EQ(Check({{"RESILIENCE_POSTGRES_TIMEOUT_MS", "100"}, {"RESILIENCE_POSTGRES_SLOW_MS", "100"}}), "");
  EXPECT_EQ(Check({{"RESILIENCE_POSTGRES_TIMEOUT_MS", "100"}, {"RESILIENCE_POSTGRES_SLOW_MS", "101"}}),
            "RESILIENCE_POSTGRES_SLOW_MS is 101, more than RESILIENCE_POSTGRES_TIMEOUT_MS, which is 100: no call would "
            "ever be slow; unset it for half of the timeout, 1 s at most");
  EXPECT_EQ(Check({{"RESILIENCE_POSTGRES_BREAKER_WINDOW", "count"},
                   {"RESILIENCE_POSTGRES_BREAKER_WINDOW_CALLS", "10"},
                   {"RESILIENCE_POSTGRES_BREAKER_CALLS_MIN", "10"}}),
            "");
  EXPECT_EQ(
      Check({{"RESILIENCE_POSTGRES_BREAKER_WINDOW", "count"}, {"RESILIENCE_POSTGRES_BREAKER_WINDOW_CALLS", "10"}}),
      "RESILIENCE_POSTGRES_BREAKER_CALLS_MIN is 20, more than RESILIENCE_POSTGRES_BREAKER_WINDOW_CALLS, which is "
      "10: the breaker would never open; lower the one or raise the other");
  // A window of time may hold any number of calls.
  EXPECT_EQ(Check({{"RESILIENCE_POSTGRES_BREAKER_WINDOW_CALLS", "10"}}), "");
  EXPECT_EQ(
      Check({{"RESILIENCE_POSTGRES_RETRY_BACKOFF_MS", "2000"}}),
      "RESILIENCE_POSTGRES_RETRY_BACKOFF_MS is 2000, more than RESILIENCE_POSTGRES_RETRY_BACKOFF_MAX_MS, which is "
      "1000: lower the one or raise the other");
}

TEST(ResilienceConfigTest, FaultsThatCannotBeReadAreRefused) {
  EXPECT_EQ(Check({{"RESILIENCE_POSTGRES_FAULT", "delay=0.2"}}),
            "RESILIENCE_POSTGRES_FAULT: \"delay=0.2\" says not how long; write delay=0.2:250ms");
}

TEST(ResilienceConfigTest, ProductionRefusesFaults) {
  const std::map<std::string, std::string> environment = {{"RESILIENCE_POSTGRES_FAULT", "error=0.1"}};
  EXPECT_EQ(Check(environment, AppEnv::kDevelopment), "");
  EXPECT_EQ(Check(environment, AppEnv::kStaging), "");
  const std::string refusal = "RESILIENCE_POSTGRES_FAULT injects faults, and APP_ENV=production allows none: unset it";
  EXPECT_EQ(Check(environment, AppEnv::kProduction, Code::kFailedPrecondition), refusal);
  // None are none.
  EXPECT_EQ(Check({{"RESILIENCE_POSTGRES_FAULT", ""}}, AppEnv::kProduction), "");
  // Wherever they come from.
  DependencyConfig own = DependencyConfig::Default(Kind::kDatabase);
  own.faults.black_hole = 0.01;
  const Result<void> valid = Validate(kPostgres, own, AppEnv::kProduction);
  ASSERT_FALSE(valid.ok());
  EXPECT_EQ(valid.error().message(), refusal);
}

TEST(ResilienceConfigTest, NamesThatComeFromElsewhereAreChecked) {
  for (const char* good : {"a", "postgres", "s3", "user_cache"}) {
    const auto name = DependencyName::Parse(good);
    ASSERT_TRUE(name.ok()) << good;
    EXPECT_EQ(name->text(), good);
  }
  EXPECT_TRUE(DependencyName::Parse(std::string(40, 'a')).ok());
  for (const std::string& bad :
       {std::string(), std::string("Postgres"), std::string("3s"), std::string("_a"), std::string("a-b"),
        std::string("a.b"), std::string("a\0b", 3), std::string(41, 'a')}) {
    const auto name = DependencyName::Parse(bad);
    ASSERT_FALSE(name.ok()) << bad;
    EXPECT_EQ(name.error().code(), Code::kInvalidArgument);
  }
}

TEST(ResilienceConfigTest, ANameOutlivesWhatItWasMadeFrom) {
  auto text = std::make_unique<std::string>("a_name_that_is_too_long_for_small_strings");
  text->resize(40);
  const std::string copy = *text;
  const auto name = DependencyName::Parse(*text);
  ASSERT_TRUE(name.ok());
  text.reset();
  EXPECT_EQ(name->text(), copy);
  EXPECT_EQ(DependencyName::Parse(copy)->text().data(), name->text().data()) << "a name was kept twice";
}

TEST(CrashConfigTest, IsReadFromTheEnvironment) {
  CrashConfig crash;
  Config config({.environment = {{"NOVA_CRASH_AT", "relay.published"}, {"NOVA_CRASH_PASSING", "3"}}});
  Bind(config, crash);
  EXPECT_TRUE(config.Finish().ok());
  EXPECT_EQ(crash.at, "relay.published");
  EXPECT_EQ(crash.passing, 3);

  Config zero({.environment = {{"NOVA_CRASH_PASSING", "0"}}});
  Bind(zero, crash);
  EXPECT_THAT(zero.Finish().error().message(), HasSubstr("NOVA_CRASH_PASSING must be a whole number from 1 to "));
}

TEST(CrashConfigTest, ArmsNothingUnlessTold) { EXPECT_TRUE(Arm(CrashConfig(), AppEnv::kProduction).ok()); }

TEST(CrashConfigTest, ProductionRefusesToCrash) {
  const Result<void> armed = Arm({.at = "crash_point_test.first"}, AppEnv::kProduction);
  ASSERT_FALSE(armed.ok());
  EXPECT_EQ(armed.error().code(), Code::kFailedPrecondition);
  EXPECT_EQ(armed.error().message(),
            "NOVA_CRASH_AT ends the process on purpose, and APP_ENV=production does not allow it: unset it");
}

TEST(CrashConfigTest, AnUnknownPointIsRefusedWithThoseThereAre) {
  const Result<void> armed = Arm({.at = "crash_point_test.frist"}, AppEnv::kStaging);
  ASSERT_FALSE(armed.ok());
  EXPECT_EQ(armed.error().code(), Code::kInvalidArgument);
  EXPECT_EQ(armed.error().message(),
            "NOVA_CRASH_AT: there is no crash point of this name; there are crash_point_test.first, "
            "crash_point_test.second");
}

}  // namespace
}  // namespace nova::resilience
