// `nova lambda`: the rotation as Secrets Manager asks for it, one step per event of a Lambda function.
#include "nova/secrets/lambda.h"

#include <boost/json.hpp>
#include <fmt/format.h>
#include <memory>
#include <string>
#include <string_view>

#include "app/command.h"
#include "app/rotation_settings.h"
#include "nova/http/client.h"
#include "nova/secrets/rotation.h"
#include "nova/telemetry/log.h"

namespace nova::app {
namespace {

namespace json = boost::json;
using runtime::Call;
using runtime::Task;
using secrets::Invocation;

constexpr std::string_view kRuntimeApi = "AWS_LAMBDA_RUNTIME_API";
constexpr std::chrono::seconds kReportLimit{5};
constexpr std::chrono::seconds kCloseLimit{5};
// What Secrets Manager appends to a secret's name in its ARN: a hyphen and six characters.
constexpr std::size_t kArnSuffix = 7;

// {"Step": "createSecret", "SecretId": "arn:...", "ClientRequestToken": "..."}
struct RotationEvent {
  secrets::RotationStep step = secrets::RotationStep::kCreate;
  std::string secret_id;
  std::string token;
};

Result<RotationEvent> ParseEvent(const std::string& text) {
  constexpr std::string_view kNoEvent =
      "the event is not one of a rotation; let Secrets Manager call this function, not a test event";
  boost::system::error_code error;
  const json::value parsed = json::parse(text, error);
  if (error || !parsed.is_object()) return InvalidArgument(fmt::format("{}: a JSON object is needed", kNoEvent));
  const auto member = [&](std::string_view name) -> Result<std::string> {
    const json::value* const found = parsed.get_object().if_contains(name);
    if (found == nullptr || !found->is_string() || found->get_string().empty())
      return InvalidArgument(fmt::format("{}: {} is missing, or no text", kNoEvent, name));
    return std::string(found->get_string());
  };
  RotationEvent event;
  NOVA_TRY(const std::string step, member("Step"));
  NOVA_TRY(event.step, secrets::ParseRotationStep(step));
  NOVA_TRY(event.secret_id, member("SecretId"));
  NOVA_TRY(event.token, member("ClientRequestToken"));
  return event;
}

// Whether an event's SecretId, which is an ARN, means the secret of this name (or ARN).
bool Means(std::string_view secret_id, std::string_view name) {
  if (secret_id == name) return true;
  const std::string tail = fmt::format(":secret:{}-", name);
  return secret_id.starts_with("arn:") && secret_id.size() >= tail.size() + kArnSuffix - 1 &&
         secret_id.substr(0, secret_id.size() - (kArnSuffix - 1)).ends_with(tail);
}

class LambdaVerb final : public Verb {
 public:
  void Bind(config::Config& config) override {
    config.Field("lambda.runtime_api", runtime_api_,
                 {.help = "host:port of Lambda's runtime API, which Lambda sets", .env = std::string(kRuntimeApi)});
    settings_.Bind(config);
    telemetry::Bind(config, log_);
  }

  Result<ExitCode> Run() override {
    if (runtime_api_.empty())
      return InvalidArgument(
          fmt::format("{}: is not set, and Lambda sets it; `nova secrets rotate` does the same "
                      "outside of Lambda",
                      kRuntimeApi));
    telemetry::InitLogging(log_);
    telemetry::Metrics metrics;
    runtime::Runtime runtime({.threads = 1});
    resilience::HttpDependency dependency("lambda_runtime", metrics);
    const http::Client http(dependency);
    auto aws = settings_.Connect(runtime, metrics);
    const auto checked = settings_.ToConfig();
    if (!aws || !checked) {
      const Error error = aws ? checked.error() : aws.error();
      // Whether Lambda hears of it or not, this process ends with the cause.
      (void)runtime.RunBlocking<void>(
          kReportLimit, [&](Call& call) { return secrets::ReportInitError(call, http, runtime_api_, error); });
      return error;
    }
    const auto served = runtime.RunBlocking<void>(Duration::max(), [&](Call& call) {
      return secrets::ServeLambda(call, http, runtime_api_, [&](Call& invocation, const Invocation& event) {
        return Handle(invocation, (*aws)->api(), event);
      });
    });
    const auto closed = (*aws)->Close(kCloseLimit);
    NOVA_TRY(served);
    NOVA_TRY(closed);
    return kDone;
  }

 private:
  Task<std::string> Handle(Call& call, secrets::SecretsApi& api, const Invocation& invocation) const {
    NOVA_CO_TRY(const RotationEvent event, ParseEvent(invocation.event));
    if (!settings_.secret.empty() && !Means(event.secret_id, settings_.secret))
      co_return InvalidArgument(
          fmt::format("the event is about '{}', and AWS_SECRETS_JWT_NAME is '{}'; give each secret "
                      "a function of its own",
                      event.secret_id, settings_.secret));
    NOVA_CO_TRY(auto config, settings_.ToConfig());
    config.secret_id = event.secret_id;
    secrets::Rotator rotator(api, config, Clock::System(), [&](std::string_view what) {
      telemetry::LogInfo(what, {{"version_id", event.token}, {"request_id", invocation.request_id}});
    });
    NOVA_CO_TRY(co_await rotator.Run(call, event.step, event.token));
    co_return std::string("{}");
  }

  std::string runtime_api_;
  RotationSettings settings_;
  telemetry::LogConfig log_{.level = telemetry::Level::kInfo, .service = "lambda"};
};

}  // namespace

std::unique_ptr<Verb> MakeLambda() { return std::make_unique<LambdaVerb>(); }

}  // namespace nova::app
