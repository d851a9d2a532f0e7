// `nova up`: the whole backend on this machine, until Ctrl-C.
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <map>
#include <string>
#include <unistd.h>

#include "api/identity/v2/identity.nova.h"
#include "app/command.h"
#include "app/migration.h"
#include "app/stack_access.h"
#include "app/topology.h"
#include "local/file.h"
#include "local/stack.h"
#include "nova/rpc/client.h"
#include "nova/runtime/runtime.h"
#include "nova/telemetry/log.h"

namespace nova::app {
namespace {

constexpr char kDemoUser[] = "demo";
constexpr std::chrono::seconds kDemoUserLimit{10};

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

class UpVerb final : public Verb {
 public:
  void Bind(config::Config& config) override {
    local::Bind(config, up_);
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
    plan.launch = [](const config::ServiceSpec& spec) {
      return local::ServiceLaunch{.arguments = {"serve", spec.name}, .environment = ForServices()};
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
  // The supervisor's own records; those of services go to their files.
  telemetry::LogConfig log_{.level = telemetry::Level::kWarn, .format = telemetry::LogFormat::kText};
};

}  // namespace

std::unique_ptr<Verb> MakeUp() { return std::make_unique<UpVerb>(); }

}  // namespace nova::app
