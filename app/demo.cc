// `nova demo`: what an app does with this backend, step by step, over the real mTLS port. Every step says what it
// expected and what it got; one that goes another way fails the demo.
#include <boost/json.hpp>
#include <chrono>
#include <cstdio>
#include <functional>
#include <string>
#include <unistd.h>
#include <vector>

#include "api/identity/v2/identity.nova.h"
#include "app/command.h"
#include "app/stack_access.h"
#include "nova/rpc/client.h"
#include "nova/runtime/runtime.h"
#include "nova/telemetry/log.h"

namespace nova::app {
namespace {

using Methods = identity::v2::IdentityServiceMethods;
using runtime::Call;
using runtime::Task;

// Longest the whole scenario may take.
constexpr std::chrono::seconds kDemoLimit{60};

// What a step makes of an answer that came.
struct Verdict {
  bool as_expected = true;
  std::string words;
};

template <class Response>
using Judge = std::function<Verdict(const Response&)>;

struct Step {
  std::string what;
  bool passed = false;
  double milliseconds = 0;
  std::string observed;
};

class DemoVerb final : public Verb {
 public:
  void Bind(config::Config& config) override {
    config.Field("demo.json", json_, {.help = "print the steps as JSON", .flag = "json"});
    config.Field("demo.target", target_,
                 {.help = "host:port of identity; by default this machine's stack", .flag = "target"});
    access_.Bind(config);
  }

  Result<ExitCode> Run() override;

 private:
  Task<void> Scenario(Call& call, rpc::Client& identity);
  // Runs one step, judges and records it.
  template <class Response, class Request>
  Task<Response> Do(Call& call, rpc::Client& client, rpc::UnaryMethod<Request, Response> method, const Request& request,
                    std::string what, Code expected, Judge<Response> judge = {}, rpc::InvokeOptions options = {});
  void Print(const Step& step) const;

  bool json_ = false;
  std::string target_;
  StackAccess access_{"operator"};
  telemetry::Metrics metrics_;
  std::vector<Step> steps_;
  // If set: the words in which the next step must be refused.
  std::string refused_alike_;
};

template <class Response, class Request>
Task<Response> DemoVerb::Do(Call& call, rpc::Client& client, rpc::UnaryMethod<Request, Response> method,
                            const Request& request, std::string what, Code expected, Judge<Response> judge,
                            rpc::InvokeOptions options) {
  const SteadyTime begin = Clock::System().Now();
  auto response = co_await client.Invoke(call, method, request, options);
  const std::chrono::duration<double, std::milli> took = Clock::System().Now() - begin;
  const Code got = response ? Code::kOk : response.error().code();
  // An unreachable stack is no failed promise; it ends the demo with an exit code of its own.
  if (got == Code::kUnavailable && steps_.empty()) co_return response.error();
  Step step{.what = std::move(what), .passed = got == expected, .milliseconds = took.count(), .observed = {}};
  if (!response) {
    step.observed = std::string(CodeName(got)) + ": " + response.error().message();
    if (!refused_alike_.empty() && response.error().message() != refused_alike_) step.passed = false;
  } else {
    const Verdict verdict = judge ? judge(*response) : Verdict{.words = "OK"};
    step.observed = verdict.words;
    step.passed = step.passed && verdict.as_expected;
  }
  if (got != expected) step.observed += " (expected " + std::string(CodeName(expected)) + ")";
  steps_.push_back(step);
  Print(step);
  co_return response;
}

Task<void> DemoVerb::Scenario(Call& call, rpc::Client& client) {
  using namespace identity::v2;
  const std::string tag = Uuid::New().ToString().substr(24);  // random part: every run has an account of its own
  RegisterRequest registration;
  registration.set_email("demo-" + tag + "@example.com");
  registration.set_username("demo_" + tag);
  registration.set_password("correct horse " + tag);
  registration.set_idempotency_key(Uuid::New().ToString());
  const Judge<RegisterResponse> account_made = [](const RegisterResponse& response) {
    return Verdict{.as_expected = Uuid::Parse(response.account().id()).ok(),
                   .words = "account " + response.account().id()};
  };
  NOVA_CO_TRY(const RegisterResponse made, co_await Do(call, client, Methods::kRegister, registration,
                                                       "register a new account", Code::kOk, account_made));

  const Judge<RegisterResponse> same_account = [&](const RegisterResponse& response) {
    const bool same = response.account().id() == made.account().id();
    return Verdict{.as_expected = same, .words = same ? "the same account" : "another: " + response.account().id()};
  };
  NOVA_CO_TRY(co_await Do(call, client, Methods::kRegister, registration, "repeat the request, as after a lost answer",
                          Code::kOk, same_account));

  RegisterRequest rival = registration;
  rival.set_email("rival-" + tag + "@example.com");
  rival.set_idempotency_key(Uuid::New().ToString());
  (void)co_await Do(call, client, Methods::kRegister, rival, "register the same username again", Code::kAlreadyExists);

  LoginRequest login;
  login.set_identifier(registration.email());
  login.set_password(registration.password());
  const Judge<LoginResponse> token_given = [&](const LoginResponse& response) {
    return Verdict{.as_expected = response.account_id() == made.account().id(),
                   .words = "access token of " + std::to_string(response.access_token().size()) + " bytes"};
  };
  NOVA_CO_TRY(const LoginResponse session,
              co_await Do(call, client, Methods::kLogin, login, "log in", Code::kOk, token_given));

  VerifyTokenRequest verify;
  verify.set_access_token(session.access_token());
  const Judge<VerifyTokenResponse> verified = [&](const VerifyTokenResponse& response) {
    const bool same = response.account_id() == made.account().id();
    return Verdict{.as_expected = same, .words = same ? "it names the account" : "it names " + response.account_id()};
  };
  NOVA_CO_TRY(co_await Do(call, client, Methods::kVerifyToken, verify, "verify the token", Code::kOk, verified));

  const Secret<> token(session.access_token());
  const Judge<GetAccountResponse> own = [&](const GetAccountResponse& response) {
    return Verdict{.as_expected = response.account().id() == made.account().id(),
                   .words = "'" + response.account().username() + "', taken from the token"};
  };
  const GetAccountRequest nothing;
  NOVA_CO_TRY(co_await Do(call, client, Methods::kGetAccount, nothing, "read the own account", Code::kOk, own,
                          {.access_token = &token}));
  (void)co_await Do(call, client, Methods::kGetAccount, nothing, "read it without a token", Code::kUnauthenticated);

  LoginRequest wrong = login;
  wrong.set_password("not the password");
  const auto refused =
      co_await Do(call, client, Methods::kLogin, wrong, "log in with a wrong password", Code::kUnauthenticated);
  LoginRequest nobody = login;
  nobody.set_identifier("nobody-" + tag + "@example.com");
  if (!refused) refused_alike_ = refused.error().message();
  (void)co_await Do(call, client, Methods::kLogin, nobody, "log in as nobody: same answer", Code::kUnauthenticated);
  refused_alike_.clear();

  VerifyTokenRequest tampered = verify;
  // One character of the payload, which lies between the two dots.
  std::string& text = *tampered.mutable_access_token();
  char& changed = text[text.find('.') + 5];
  changed = changed == 'A' ? 'B' : 'A';
  (void)co_await Do(call, client, Methods::kVerifyToken, tampered, "verify a tampered token", Code::kUnauthenticated);

  RegisterRequest malformed = registration;
  malformed.set_email("no-at-sign");
  malformed.set_idempotency_key(Uuid::New().ToString());
  (void)co_await Do(call, client, Methods::kRegister, malformed, "register with a malformed email",
                    Code::kInvalidArgument);

  const Judge<GetJwksResponse> keys = [](const GetJwksResponse& response) {
    return Verdict{.as_expected = response.jwks().find("\"keys\"") != std::string::npos,
                   .words = std::to_string(response.jwks().size()) + " bytes of public keys"};
  };
  const GetJwksRequest ask_keys;
  NOVA_CO_TRY(co_await Do(call, client, Methods::kGetJwks, ask_keys, "fetch the public keys", Code::kOk, keys));
  co_return Ok();
}

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
  if (target_.empty()) target_ = access_.Target("identity");
  NOVA_TRY(const auto me, access_.Identity(metrics_));
  rpc::Client client(metrics_, {.principal = "identity", .target = target_}, me);
  runtime::Runtime runtime;
  const auto outcome = runtime.RunBlocking<void>(kDemoLimit, [&](Call& call) { return Scenario(call, client); });
  if (!outcome && steps_.empty())
    return Error(outcome.error()).WithContext("asking identity at " + target_ + "; is `nova up` running?");

  int failed = 0;
  boost::json::array list;
  for (const Step& step : steps_) {
    if (!step.passed) ++failed;
    list.push_back({{"step", step.what},
                    {"passed", step.passed},
                    {"milliseconds", step.milliseconds},
                    {"observed", step.observed}});
  }
  if (json_)
    std::printf("%s\n", boost::json::serialize(boost::json::object{{"steps", std::move(list)}}).c_str());
  else
    std::printf("%zu steps, %d failed\n", steps_.size(), failed);
  // A step that broke the scenario off was recorded as failed.
  return failed == 0 && outcome ? kDone : kCheckFailed;
}

}  // namespace

std::unique_ptr<Verb> MakeDemo() { return std::make_unique<DemoVerb>(); }

}  // namespace nova::app
