// `nova demo`: what an app does with this backend, step by step, over the real mTLS ports. Every step says what it
// expected and what it got; one that goes another way fails the demo.
#include <boost/json.hpp>
#include <chrono>
#include <cstdio>
#include <string>
#include <unistd.h>

#include "app/command.h"
#include "app/demo_scenario.h"
#include "app/stack_access.h"
#include "nova/telemetry/log.h"

namespace nova::app {

namespace {

class DemoVerb final : public Verb {
 public:
  void Bind(config::Config& config) override {
    config.Field("demo.json", json_, {.help = "print the steps as JSON", .flag = "json"});
    config.Field("demo.identity_target", identity_target_,
                 {.help = "host:port of identity; by default this machine's stack", .flag = "identity-target"});
    config.Field("demo.user_target", user_target_,
                 {.help = "host:port of user; by default this machine's stack", .flag = "user-target"});
    access_.Bind(config);
  }

  Result<ExitCode> Run() override;

 private:
  void Print(const Step& step) const;

  bool json_ = false;
  std::string identity_target_;
  std::string user_target_;
  StackAccess access_{"operator"};
  telemetry::Metrics metrics_;
};

void DemoVerb::Print(const Step& step) const {
  if (json_) return;
  const bool terminal = isatty(STDOUT_FILENO) != 0;
  const char* const colour = !terminal ? "" : step.passed ? "\033[32m" : "\033[31m";
  std::printf("%s%-4s%s  %8.1f ms  %-44s %s\n", colour, step.passed ? "ok" : "FAIL", terminal ? "\033[0m" : "",
              step.milliseconds, step.what.c_str(), step.observed.c_str());
  std::fflush(stdout);
}

Result<ExitCode> DemoVerb::Run() {
  telemetry::InitLogging({.level = telemetry::Level::kWarn, .service = "demo", .format = telemetry::LogFormat::kText});
  NOVA_TRY(access_.Resolve());
  if (identity_target_.empty()) identity_target_ = access_.Target("identity");
  if (user_target_.empty()) user_target_ = access_.Target("user");
  NOVA_TRY(const auto me, access_.Identity(metrics_));
  Stage stage([this](const Step& step) { Print(step); });
  const auto outcome = RunDemo(stage, {.identity = identity_target_, .user = user_target_}, me, metrics_);
  if (!outcome && stage.steps().empty())
    return Error(outcome.error()).WithContext("asking identity at " + identity_target_ + "; is `nova up` running?");

  int failed = 0;
  boost::json::array list;
  for (const Step& step : stage.steps()) {
    if (!step.passed) ++failed;
    list.push_back({{"step", step.what},
                    {"passed", step.passed},
                    {"milliseconds", step.milliseconds},
                    {"observed", step.observed}});
  }
  if (json_)
    std::printf("%s\n", boost::json::serialize(boost::json::object{{"steps", std::move(list)}}).c_str());
  else
    std::printf("%zu steps, %d failed\n", stage.steps().size(), failed);
  // A step that broke the scenario off was recorded as failed.
  return failed == 0 && outcome ? kDone : kCheckFailed;
}

}  // namespace

std::unique_ptr<Verb> MakeDemo() { return std::make_unique<DemoVerb>(); }

}  // namespace nova::app
