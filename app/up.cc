// `nova up`: the whole backend on this machine, until Ctrl-C.
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <unistd.h>

#include "api/identity/v2/identity.nova.h"
#include "app/command.h"
#include "app/migration.h"
#include "app/stack_access.h"
#include "app/topology.h"
#include "local/file.h"
#include "local/secrets_manager.h"
#include "local/stack.h"
#include "nova/rpc/client.h"
#include "nova/runtime/runtime.h"
#include "nova/secrets/aws.h"
#include "nova/secrets/rotation.h"
#include "nova/telemetry/log.h"

namespace nova::app {
namespace {

constexpr char kDemoUser[] = "demo";
constexpr std::chrono::seconds kDemoUserLimit{10};
// For what has to be done to the secret: at most the rest of a rotation that was cut off.
constexpr std::chrono::seconds kSecretLimit{60};

// An account to log in with; made at the first start, kept with the data. Returns its password, or an empty text if
// the account is there and the password is not: then there is nothing to print that would work.
Result<std::string> EnsureDemoUser(const local::Stack& stack) {
  const auto file = stack.layout().secrets() / "demo_login.password";
  auto kept = local::ReadFile(file);
  // Two version-7 ids: 148 random bits.
  const std::string password =
      kept ? *std::move(kept) : Uuid::New().ToString().substr(14) + Uuid::New().ToString().substr(14);
  const auto leaf = stack.layout().certificate("operator");
  const tls::ChannelTlsConfig tls{
      .server_ca_path = leaf / "ca.crt", .certificate_path = leaf / "tls.crt", .key_path = leaf / "tls.key"};
  telemetry::Metrics metrics;
  runtime::Runtime runtime({.threads = 1});
  NOVA_TRY(const auto publisher, tls::IdentityPublisher::Create({.files = tls.files(), .usage = tls::Usage::kClient},
                                                                Clock::System(), metrics));
  resilience::PeerDependency identity("identity", metrics);
  rpc::Client client(
      metrics, identity,
      {.principal = "identity", .target = "127.0.0.1:" + std::to_string(stack.topology().Find("identity")->grpc_port)},
      tls::ChannelIdentity(*publisher));
  using Methods = identity::v2::IdentityServiceMethods;
  identity::v2::RegisterRequest registration;
  registration.set_email(std::string(kDemoUser) + "@example.com");
  registration.set_username(kDemoUser);
  registration.set_password(password);
  registration.set_idempotency_key(Uuid::New().ToString());
  const auto registered = runtime.RunBlocking<identity::v2::RegisterResponse>(
      kDemoUserLimit, [&](runtime::Call& call) { return client.Invoke(call, Methods::kRegister, registration); });
  if (registered) {
    NOVA_TRY(local::WriteFile(file, password));
    return password;
  }
  if (registered.error().code() != Code::kAlreadyExists)
    return Error(registered.error()).WithContext("registering the account 'demo'");
  identity::v2::LoginRequest login;
  login.set_identifier(kDemoUser);
  login.set_password(password);
  const auto logged_in = runtime.RunBlocking<identity::v2::LoginResponse>(
      kDemoUserLimit, [&](runtime::Call& call) { return client.Invoke(call, Methods::kLogin, login); });
  if (!logged_in)
    telemetry::LogWarn("the password of the account 'demo' is not known any more", {{"file", file.string()}});
  return logged_in ? password : std::string();
}

// One word of a shell.
std::string ShellWord(const std::string& text) {
  constexpr std::string_view kPlain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+:@,=";
  if (text.find_first_not_of(kPlain) == std::string::npos) return text;
  std::string word = "'";
  for (const char c : text) word += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return word + "'";
}

// What the shell sets for services (NOVA_LOG_LEVEL, RESILIENCE_POSTGRES_TIMEOUT_MS, ...) reaches them; what the stack
// decides wins.
std::map<std::string, std::string> ForServices() {
  auto environment = config::Sources::FromProcess(0, nullptr).environment;
  std::erase_if(environment, [](const auto& variable) {
    const std::string& name = variable.first;
    const bool for_services = name.starts_with("NOVA_") || name.starts_with("RESILIENCE_");
    return !for_services || name.starts_with("NOVA_UP_");
  });
  // Services have working directories of their own.
  if (const auto file = environment.find("NOVA_CONFIG"); file != environment.end())
    file->second = std::filesystem::absolute(file->second).string();
  return environment;
}

// The keys of access tokens come from a Secrets Manager on this machine, which gets a first version if it has none.
Result<local::SecretsManager> UseSecretsManager(const local::Layout& layout, const std::string& endpoint) {
  NOVA_TRY(const local::SecretsManager local, local::PrepareSecretsManager(layout, endpoint));
  NOVA_TRY(Secret<> key, local::SecretAccessKey(local));
  secrets::AwsConfig aws_config;
  aws_config.api = {.region = local.region, .endpoint = local.endpoint};
  aws_config.credentials.access_key_id = local.access_key_id;
  aws_config.credentials.secret_access_key = std::move(key);
  telemetry::Metrics metrics;
  runtime::Runtime runtime({.threads = 1});
  NOVA_TRY(const auto aws, secrets::Aws::Create(runtime, metrics, aws_config, config::AppEnv::kDevelopment));
  secrets::Rotator rotator(aws->api(), {.secret_id = local.jwt_secret, .announce = local.announce, .create = true});
  const auto rotated = runtime.RunBlocking<secrets::RotationReport>(
      kSecretLimit, [&](runtime::Call& call) { return rotator.Rotate(call, /*now=*/false); });
  NOVA_TRY(aws->Close(kSecretLimit));
  if (!rotated)
    return Unavailable("--secrets-endpoint: the Secrets Manager at " + endpoint +
                           " cannot be used; is it up? `./dev secrets-manager` runs one",
                       rotated.error().ToString());
  NOVA_TRY(local::WriteSecretsManager(layout, &local));
  return local;
}

class UpVerb final : public Verb {
 public:
  void Bind(config::Config& config) override {
    local::Bind(config, up_);
    config.Field(
        "up.secrets_endpoint", secrets_endpoint_,
        {.help = "URL of a Secrets Manager on this machine that access tokens' keys come from, instead of a file",
         .flag = "secrets-endpoint"});
    telemetry::Bind(config, log_);
  }

  Result<ExitCode> Run() override {
    log_.service = "nova-up";
    telemetry::InitLogging(log_);
    local::StackPlan plan;
    plan.topology = LocalTopology(up_.port_base);
    plan.migrate = [](const config::ServiceSpec& spec, const postgres::ConnectionConfig& direct) -> Result<void> {
      NOVA_TRY(MigrateService(spec.name, direct));
      return Ok();
    };
    std::optional<local::SecretsManager> secrets;
    plan.prepare = [&](const local::Layout& layout) -> Result<void> {
      if (secrets_endpoint_.empty()) return local::WriteSecretsManager(layout, nullptr);
      NOVA_TRY(secrets, UseSecretsManager(layout, secrets_endpoint_));
      return Ok();
    };
    plan.launch = [&](const config::ServiceSpec& spec) {
      local::ServiceLaunch launch{.arguments = {"serve", spec.name}, .environment = ForServices()};
      if (secrets) {
        for (const auto& [name, value] : secrets->EnvironmentOf(spec.name)) launch.environment[name] = value;
      }
      return launch;
    };
    if (isatty(STDERR_FILENO) != 0)
      plan.progress = [](std::string_view what) {
        std::fprintf(stderr, "  %.*s\n", static_cast<int>(what.size()), what.data());
      };
    auto started = local::Stack::Start(up_, std::move(plan));
    // Ctrl-C before it was ready is a wish, and no failure.
    if (!started && started.error().code() == Code::kCancelled) return kDone;
    NOVA_TRY(const auto stack, std::move(started));
    const auto password = EnsureDemoUser(*stack);
    if (!password) {
      (void)stack->Stop();
      return password.error();
    }
    // As this program was called, so that the line can be pasted.
    std::string try_this = ShellWord(program_invocation_name) + " demo";
    if (!up_.folder.data_dir.empty()) try_this += " --data-dir " + ShellWord(stack->layout().root.string());
    const std::string login = password->empty() ? std::string() : std::string(kDemoUser) + " / " + *password;
    std::fputs(stack->Summary(login, try_this).c_str(), stdout);
    std::fflush(stdout);
    stack->Run();
    NOVA_TRY(stack->Stop());
    return kDone;
  }

 private:
  local::UpConfig up_{.port_base = kPortBaseDefault};
  std::string secrets_endpoint_;
  // The supervisor's own records; those of services go to their files.
  telemetry::LogConfig log_{.level = telemetry::Level::kWarn, .format = telemetry::LogFormat::kText};
};

}  // namespace

std::unique_ptr<Verb> MakeUp() { return std::make_unique<UpVerb>(); }

}  // namespace nova::app
