// `nova secrets`: the secret with the keys of access tokens, replaced on a schedule and shown without its values.
#include <array>
#include <boost/json.hpp>
#include <cstdio>
#include <fmt/format.h>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <unistd.h>
#include <vector>

#include "app/command.h"
#include "app/rotation_settings.h"
#include "app/text.h"
#include "local/secrets_manager.h"
#include "local/stack.h"
#include "nova/base/timestamp.h"
#include "nova/secrets/jwt_secret.h"
#include "nova/secrets/secret_value.h"
#include "nova/telemetry/log.h"

namespace nova::app {
namespace {

namespace json = boost::json;
using runtime::Call;
using runtime::Task;
using secrets::RotationReport;
using std::chrono::seconds;

constexpr std::string_view kActions = "rotate or status";
// For all requests of a rotation; besides, it waits.
constexpr std::chrono::minutes kRequestsLimit{5};
constexpr seconds kStatusLimit{30};
constexpr seconds kCloseLimit{5};

// One version of a secret, as far as anybody may see it.
struct Seen {
  std::string secret;
  std::string_view stage;
  std::string version_id;
  WallTime created_at;
  std::string kid;
  std::string algorithm;
  // Of the one that is current.
  std::optional<WallTime> due_at;
  // Empty if all is well.
  std::string problem;
};

class SecretsVerb final : public Verb {
 public:
  void Bind(config::Config& config) override {
    // Before the action, so that they may also follow it.
    config.Field("secrets.json", json_, {.help = "print JSON", .flag = "json"});
    local::Bind(config, folder_);
    settings_.Bind(config);
    config.Field("secrets.interval", interval_,
                 {.help = "age at which a version is due", .flag = "interval", .min = seconds(1)});
    config.Positional("action", action_, {.help = std::string(kActions), .required = true});
    // Without an action (help, and the list of known variables) all are shown.
    if (!action_.empty() && action_ != "rotate") return;
    config.Field("secrets.now", now_, {.help = "rotate: whatever the age", .flag = "now"});
    config.Field("secrets.create", create_,
                 {.help = "rotate: make the secrets if they are not there", .flag = "create"});
    config.Field("auth.jwt_issuer", first_.issuer,
                 {.help = "rotate: issuer in the first version; later ones take it over", .flag = "issuer"});
    config.Field("auth.jwt_audience", first_.audience,
                 {.help = "rotate: audience in the first version; later ones take it over", .flag = "audience"});
    config.Field("auth.jwt_expiry", first_.expiry,
                 {.help = "rotate: life of an access token in the first version; later ones take it over",
                  .flag = "expiry",
                  .min = secrets::kJwtExpiryMin,
                  .max = secrets::kJwtExpiryMax});
  }

  Result<ExitCode> Run() override {
    telemetry::InitLogging(
        {.level = telemetry::Level::kWarn, .service = "secrets", .format = telemetry::LogFormat::kText});
    if (action_ != "rotate" && action_ != "status")
      return InvalidArgument(fmt::format("there is no `nova secrets {}`; use {}", action_, kActions));
    NOVA_TRY(UseFolder());
    if (settings_.secret.empty())
      return InvalidArgument(
          "AWS_SECRETS_JWT_NAME: is not set; name the secret with the keys of access tokens, here or with --secret");
    NOVA_TRY(auto config, settings_.ToConfig());
    config.interval = interval_;
    config.create = create_;
    config.first = first_;
    if (first_.issuer.empty()) return InvalidArgument("--issuer: is empty; name the issuer of access tokens");
    if (first_.audience.empty() || first_.audience.size() > auth::kAudienceMax)
      return InvalidArgument(fmt::format("--audience: 1 to {} names are needed", auth::kAudienceMax));
    telemetry::Metrics metrics;
    runtime::Runtime runtime({.threads = 1});
    NOVA_TRY(const auto aws, settings_.Connect(runtime, metrics));
    const auto code = action_ == "rotate" ? Rotate(runtime, aws->api(), config) : Status(runtime, aws->api(), config);
    const auto closed = aws->Close(kCloseLimit);
    NOVA_TRY(code);
    NOVA_TRY(closed);
    return code;
  }

 private:
  Result<void> UseFolder();
  Result<ExitCode> Rotate(runtime::Runtime& runtime, secrets::SecretsApi& api, const secrets::RotationConfig& config);
  Result<ExitCode> Status(runtime::Runtime& runtime, secrets::SecretsApi& api, const secrets::RotationConfig& config);

  void Print(const json::object& object, const std::string& text) const {
    std::fputs(json_ ? (json::serialize(object) + "\n").c_str() : text.c_str(), stdout);
  }

  bool json_ = false;
  bool now_ = false;
  bool create_ = false;
  std::string action_;
  seconds interval_ = secrets::RotationConfig{}.interval;
  auth::JwtConfig first_;
  local::DataDirConfig folder_;
  RotationSettings settings_;
};

// A stack on this machine says in its folder where its secrets are. The default folder counts only if nothing was said:
// what is meant for AWS must not end up here because half of it was left out.
Result<void> SecretsVerb::UseFolder() {
  secrets::AwsConfig& aws = settings_.aws;
  const secrets::CredentialsConfig& credentials = aws.credentials;
  const bool has_credentials =
      !credentials.access_key_id.empty() || !credentials.role_arn.empty() || !credentials.container_full_uri.empty();
  if (folder_.data_dir.empty() && (has_credentials || !aws.api.region.empty() || !aws.api.endpoint.empty()))
    return Ok();
  const auto root = folder_.Path();
  if (!root) return folder_.data_dir.empty() ? Ok() : Result<void>(root.error());
  const auto local = local::ReadSecretsManager({.root = *root});
  if (!local && local.error().code() == Code::kNotFound) {
    if (folder_.data_dir.empty()) return Ok();
    return NotFound(
        fmt::format("the stack in {} has no Secrets Manager; start it with `nova up --secrets-endpoint URL`, "
                    "or leave --data-dir out and set AWS_REGION and the other AWS_ variables",
                    root->string()));
  }
  NOVA_TRY(local);
  if (settings_.secret.empty()) settings_.secret = local->jwt_secret;
  if (settings_.announce == std::chrono::milliseconds::zero()) settings_.announce = local->announce;
  if (aws.api.region.empty()) aws.api.region = local->region;
  if (aws.api.endpoint.empty()) aws.api.endpoint = local->endpoint;
  if (has_credentials) return Ok();
  aws.credentials.access_key_id = local->access_key_id;
  NOVA_TRY(aws.credentials.secret_access_key, local::SecretAccessKey(*local));
  return Ok();
}

Result<ExitCode> SecretsVerb::Rotate(runtime::Runtime& runtime, secrets::SecretsApi& api,
                                     const secrets::RotationConfig& config) {
  secrets::Rotator::Progress progress;
  if (isatty(STDERR_FILENO) != 0)
    progress = [](std::string_view what) {
      std::fprintf(stderr, "  %.*s\n", static_cast<int>(what.size()), what.data());
    };
  secrets::Rotator rotator(api, config, Clock::System(), progress);
  NOVA_TRY(const auto report, runtime.RunBlocking<RotationReport>(config.announce + kRequestsLimit, [&](Call& call) {
    return rotator.Rotate(call, now_);
  }));
  const std::string algorithm(auth::AlgorithmName(report.algorithm));
  json::object object{{"outcome", secrets::RotationOutcomeName(report.outcome)},
                      {"secret", config.secret_id},
                      {"version_id", report.version_id},
                      {"kid", report.kid},
                      {"algorithm", algorithm},
                      {"created_at", Timestamp(report.created_at)},
                      {"due_at", Timestamp(report.due_at)},
                      {"tokens_cut_short_until", nullptr}};
  if (report.tokens_cut_short_until) {
    object["tokens_cut_short_until"] = Timestamp(*report.tokens_cut_short_until);
    std::fprintf(stderr,
                 "nova secrets: the rotation before was so recent that a key was withdrawn whose tokens may be valid "
                 "until %s; whoever holds one has to refresh it or to log in\n",
                 Timestamp(*report.tokens_cut_short_until).c_str());
  }
  std::string text;
  if (report.outcome == RotationReport::Outcome::kNotDue) {
    text =
        fmt::format("not due: version {} is {} old, and due at {}; --now does not wait for that\n", report.version_id,
                    SpanText(std::max(WallTime::duration::zero(), Clock::System().WallNow() - report.created_at)),
                    Timestamp(report.due_at));
  } else {
    text = Table({{"OUTCOME", "VERSION", "KID", "ALGORITHM", "CREATED", "DUE"},
                  {report.outcome == RotationReport::Outcome::kRotated ? "rotated" : "first version", report.version_id,
                   report.kid, algorithm, Timestamp(report.created_at), Timestamp(report.due_at)}});
  }
  Print(object, text);
  return kDone;
}

Task<std::vector<Seen>> Look(Call& call, secrets::SecretsApi& api, const secrets::RotationConfig& config) {
  std::vector<Seen> all;
  const std::array<std::string, 2> names = {config.secret_id, config.public_secret_id};
  // In the direction in which labels move, so that none is missed.
  constexpr std::array<std::string_view, 3> kStages = {secrets::kPending, secrets::kCurrent, secrets::kPrevious};
  for (const std::string& secret : names) {
    if (secret.empty()) continue;
    for (const std::string_view stage : kStages) {
      const auto found = co_await api.Fetch(call, secret, std::string(stage), /*version_is_id=*/false);
      if (!found && (found.error().code() != Code::kNotFound || stage == secrets::kCurrent))
        co_return Error(found.error().code(), fmt::format("{} of '{}': {}", stage, secret, found.error().message()),
                        found.error().detail());
      if (!found) continue;
      Seen seen{.secret = secret, .stage = stage, .version_id = found->version_id, .created_at = found->created_at};
      if (stage == secrets::kCurrent) seen.due_at = found->created_at + config.interval;
      const auto jwt = secrets::ParseJwtSecret(found->value);
      const auto keys = jwt ? secrets::KeysOf(*jwt) : Result<auth::JwtKeys>(jwt.error());
      if (keys) {
        seen.kid = keys->verification->keys().front().kid();
        seen.algorithm = auth::AlgorithmName(jwt->algorithm);
      } else {
        seen.problem = keys.error().message();
      }
      if (keys && secret == config.public_secret_id && keys->signing)
        seen.problem = "signing_key: does not belong into a public secret; rotate, and take it off";
      if (seen.problem.empty() && seen.due_at && *seen.due_at <= Clock::System().WallNow())
        seen.problem = "is due; does the schedule run?";
      all.push_back(std::move(seen));
    }
  }
  co_return all;
}

Result<ExitCode> SecretsVerb::Status(runtime::Runtime& runtime, secrets::SecretsApi& api,
                                     const secrets::RotationConfig& config) {
  NOVA_TRY(const auto all,
           runtime.RunBlocking<std::vector<Seen>>(kStatusLimit, [&](Call& call) { return Look(call, api, config); }));
  const WallTime now = Clock::System().WallNow();
  bool all_good = true;
  std::vector<std::vector<std::string>> rows{{"SECRET", "STAGE", "VERSION", "AGE", "KID", "ALGORITHM", "DUE"}};
  std::string problems;
  json::array list;
  for (const Seen& seen : all) {
    all_good = all_good && seen.problem.empty();
    const auto or_dash = [](const std::string& text) { return text.empty() ? "-" : text; };
    const auto age = std::max(WallTime::duration::zero(), now - seen.created_at);
    rows.push_back({seen.secret, std::string(seen.stage), seen.version_id, SpanText(age), or_dash(seen.kid),
                    or_dash(seen.algorithm), seen.due_at ? Timestamp(*seen.due_at) : "-"});
    if (!seen.problem.empty()) problems += fmt::format("{} of '{}': {}\n", seen.stage, seen.secret, seen.problem);
    list.push_back({{"secret", seen.secret},
                    {"stage", seen.stage},
                    {"version_id", seen.version_id},
                    {"created_at", Timestamp(seen.created_at)},
                    {"age_seconds", std::chrono::floor<seconds>(age).count()},
                    {"kid", seen.kid},
                    {"algorithm", seen.algorithm},
                    {"due_at", seen.due_at ? json::value(Timestamp(*seen.due_at)) : json::value()},
                    {"problem", seen.problem}});
  }
  Print({{"ok", all_good}, {"versions", std::move(list)}}, Table(rows) + (problems.empty() ? "" : "\n" + problems));
  return all_good ? kDone : kCheckFailed;
}

}  // namespace

std::unique_ptr<Verb> MakeSecrets() { return std::make_unique<SecretsVerb>(); }

}  // namespace nova::app
