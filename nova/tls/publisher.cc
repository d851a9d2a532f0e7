#include "nova/tls/publisher.h"

#include <atomic>
#include <mutex>
#include <string>
#include <utility>

#include "nova/telemetry/log.h"
#include "nova/tls/private_directory.h"
#include "nova/tls/reloads.h"
#include "nova/tls/text.h"

namespace nova::tls {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kCertificateName = "tls.crt";
constexpr std::string_view kKeyName = "tls.key";
constexpr std::string_view kCaName = "ca.crt";

std::string UsageSide(Usage usage) { return usage == Usage::kServer ? "server" : "client"; }

}  // namespace

struct IdentityPublisher::State {
  State(PublisherConfig publisher_config, const Clock& source, telemetry::Metrics& metrics)
      : config(std::move(publisher_config)),
        clock(source),
        expiry(metrics.Gauge("nova_tls_certificate_expiry_timestamp_seconds",
                             "When the certificate in use expires, in seconds since 1970",
                             {{"side", UsageSide(config.usage)}})),
        reloads(metrics, UsageSide(config.usage)) {}

  Outcome Check();
  // `looking` is held, but by Create.
  Result<void> CheckPrincipal(const CertificateSet& set) const;
  Result<void> Publish(CertificateSet set);
  static runtime::Task<void> Poll(State& state, runtime::Call& call);

  const PublisherConfig config;
  const Clock& clock;
  prometheus::Gauge& expiry;
  std::unique_ptr<PrivateDirectory> directory;  // set once, by Create

  std::mutex looking;  // held while the files are looked at, and before the other
  Reloads reloads;     // guarded by looking
  std::mutex mutex;
  CertificateSet published;  // written with both held, so it may be read with either
  // Written with both held; read without, for every call asks.
  std::atomic<std::uint64_t> trust_version = 0;
};

Result<void> IdentityPublisher::State::Publish(CertificateSet set) {
  NOVA_TRY(directory->Publish(
      {{kCertificateName, set.complete_chain_pem}, {kKeyName, set.key_pem.Expose()}, {kCaName, set.ca_pem}},
      clock.WallNow()));
  {
    const std::lock_guard lock(mutex);
    if (set.authorities != published.authorities) ++trust_version;
    published = std::move(set);
  }
  expiry.Set(std::chrono::duration<double>(published.info.not_after.time_since_epoch()).count());
  telemetry::LogInfo("certificate published", {{"side", reloads.side()},
                                               {"principal", published.info.principal},
                                               {"serial", published.info.serial},
                                               {"expires", Timestamp(published.info.not_after)},
                                               {"authorities", published.authorities.size()}});
  return Ok();
}

Result<void> IdentityPublisher::State::CheckPrincipal(const CertificateSet& set) const {
  const std::string& own = config.principal.empty() ? published.info.principal : config.principal;
  if (own.empty() || set.info.principal == own) return Ok();
  const CertificateFile& file = config.files.certificate;
  return InvalidArgument(Concat({file.variable, file.variable.empty() ? "" : "=", file.path, ": the certificate of '",
                                 set.info.principal, "', and this process is '", own, "': issue one for the latter"}));
}

IdentityPublisher::Outcome IdentityPublisher::State::Check() {
  const std::lock_guard lock(looking);
  auto texts = ReadCertificateFiles(config.files);
  if (!texts) return reloads.Refused(texts.error(), published.info.serial);
  if (texts->chain_pem == published.chain_pem && texts->key_pem.Expose() == published.key_pem.Expose() &&
      texts->ca_pem == published.ca_pem)
    return reloads.Unchanged();
  auto set = ValidateCertificateTexts(*std::move(texts), config.files, config.usage, clock);
  if (!set) return reloads.Refused(set.error(), published.info.serial);
  if (const auto own = CheckPrincipal(*set); !own) return reloads.Refused(own.error(), published.info.serial);
  // Good, but a peer whose clock is behind by the allowance would refuse it: the old one serves until it begins.
  if (set->info.not_before > clock.WallNow()) return Outcome::kUnchanged;
  if (const auto done = Publish(*std::move(set)); !done) return reloads.Refused(done.error(), published.info.serial);
  return reloads.Published();
}

runtime::Task<void> IdentityPublisher::State::Poll(State& state, runtime::Call& call) {
  while (true) {
    NOVA_CO_TRY(co_await runtime::Sleep(call, state.config.poll_interval));
    state.Check();
  }
}

IdentityPublisher::IdentityPublisher(std::unique_ptr<State> state) : state_(std::move(state)) {}
IdentityPublisher::~IdentityPublisher() = default;

Result<std::unique_ptr<IdentityPublisher>> IdentityPublisher::Create(PublisherConfig config, const Clock& clock,
                                                                     telemetry::Metrics& metrics) {
  NOVA_TRY(auto set, LoadCertificateSet(config.files, config.usage, clock));
  auto state = std::make_unique<State>(std::move(config), clock, metrics);
  NOVA_TRY(state->CheckPrincipal(set));
  NOVA_TRY(state->directory, PrivateDirectory::Create(state->config.directory));
  NOVA_TRY(state->Publish(std::move(set)));
  state->reloads.Published();
  return std::unique_ptr<IdentityPublisher>(new IdentityPublisher(std::move(state)));
}

void IdentityPublisher::Watch(runtime::Scope& scope) {
  scope.Spawn("watch certificates: " + state_->reloads.side(),
              [state = state_.get()](runtime::Call& call) { return State::Poll(*state, call); });
}

IdentityPublisher::Outcome IdentityPublisher::Check() { return state_->Check(); }

fs::path IdentityPublisher::certificate_path() const { return state_->directory->PathOf(kCertificateName); }
fs::path IdentityPublisher::key_path() const { return state_->directory->PathOf(kKeyName); }
fs::path IdentityPublisher::ca_path() const { return state_->directory->PathOf(kCaName); }

CertificateInfo IdentityPublisher::info() const {
  const std::lock_guard lock(state_->mutex);
  return state_->published.info;
}

std::vector<AuthorityInfo> IdentityPublisher::authorities() const {
  const std::lock_guard lock(state_->mutex);
  return state_->published.authorities;
}

std::uint64_t IdentityPublisher::trust_version() const { return state_->trust_version; }

}  // namespace nova::tls
