#include "nova/tls/trust.h"

#include <mutex>
#include <utility>

#include "nova/telemetry/log.h"
#include "nova/tls/private_directory.h"
#include "nova/tls/reloads.h"

namespace nova::tls {
namespace {

constexpr std::string_view kFileName = "ca.crt";

std::string Subjects(const std::vector<AuthorityInfo>& authorities) {
  std::string text;
  for (const AuthorityInfo& authority : authorities) text += (text.empty() ? "" : "; ") + authority.subject;
  return text;
}

}  // namespace

struct TrustPublisher::State {
  State(TrustConfig trust_config, const Clock& source, telemetry::Metrics& metrics)
      : config(std::move(trust_config)), clock(source), reloads(metrics, config.name) {}

  Outcome Check();
  Result<void> Publish(AuthoritySet set);
  static runtime::Task<void> Poll(State& state, runtime::Call& call);

  const TrustConfig config;
  const Clock& clock;
  std::unique_ptr<PrivateDirectory> directory;  // set once, by Create

  std::mutex mutex;
  Reloads reloads;         // guarded by mutex
  AuthoritySet published;  // guarded by mutex
};

Result<void> TrustPublisher::State::Publish(AuthoritySet set) {
  NOVA_TRY(directory->Publish({{kFileName, set.pem}}, clock.WallNow()));
  published = std::move(set);
  telemetry::LogInfo("authorities published",
                     {{"side", reloads.side()}, {"authorities", Subjects(published.authorities)}});
  return Ok();
}

TrustPublisher::Outcome TrustPublisher::State::Check() {
  const std::lock_guard lock(mutex);
  auto pem = ReadCertificateFile(config.file);
  const auto refused = [&](const Error& error) { return reloads.Refused(error, Subjects(published.authorities)); };
  if (!pem) return refused(pem.error());
  if (*pem == published.pem) return reloads.Unchanged();
  auto set = ValidateAuthorities(*std::move(pem), config.file, clock);
  if (!set) return refused(set.error());
  if (const auto done = Publish(*std::move(set)); !done) return refused(done.error());
  return reloads.Published();
}

runtime::Task<void> TrustPublisher::State::Poll(State& state, runtime::Call& call) {
  while (true) {
    NOVA_CO_TRY(co_await runtime::Sleep(call, state.config.poll_interval));
    state.Check();
  }
}

TrustPublisher::TrustPublisher(std::unique_ptr<State> state) : state_(std::move(state)) {}
TrustPublisher::~TrustPublisher() = default;

Result<std::unique_ptr<TrustPublisher>> TrustPublisher::Create(TrustConfig config, const Clock& clock,
                                                               telemetry::Metrics& metrics) {
  NOVA_TRY(auto pem, ReadCertificateFile(config.file));
  NOVA_TRY(auto set, ValidateAuthorities(std::move(pem), config.file, clock));
  auto state = std::make_unique<State>(std::move(config), clock, metrics);
  NOVA_TRY(state->directory, PrivateDirectory::Create(state->config.directory));
  NOVA_TRY(state->Publish(std::move(set)));
  state->reloads.Published();
  return std::unique_ptr<TrustPublisher>(new TrustPublisher(std::move(state)));
}

void TrustPublisher::Watch(runtime::Scope& scope) {
  scope.Spawn("watch authorities: " + state_->reloads.side(),
              [state = state_.get()](runtime::Call& call) { return State::Poll(*state, call); });
}

TrustPublisher::Outcome TrustPublisher::Check() { return state_->Check(); }

std::filesystem::path TrustPublisher::path() const { return state_->directory->PathOf(kFileName); }

std::vector<AuthorityInfo> TrustPublisher::authorities() const {
  const std::lock_guard lock(state_->mutex);
  return state_->published.authorities;
}

}  // namespace nova::tls
