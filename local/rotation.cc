#include "local/rotation.h"

#include <algorithm>
#include <cerrno>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <poll.h>
#include <pwd.h>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>
#include <utility>

#include "local/control.h"
#include "local/redis_server.h"
#include "nova/tls/credentials.h"
#include "nova/tls/publisher.h"

namespace nova::local {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;
using std::chrono::seconds;
using tls::Authority;
using tls::AuthorityRotation;

constexpr milliseconds kPollInterval{100};

const Clock& SystemClock() { return Clock::System(); }

void Pause(Duration duration) {
  ::poll(nullptr, 0, static_cast<int>(std::chrono::ceil<milliseconds>(duration).count()));
}

bool IsServer(std::string_view principal) {
  return principal == kPostgresPrincipal || principal == kPoolerPrincipal || principal == kRedisPrincipal;
}

Result<Layout> ExistingFolder(const fs::path& root) {
  std::error_code error;
  Layout layout{.root = fs::canonical(root, error)};
  if (error || !fs::exists(layout.marker(), error)) {
    return NotFound(fmt::format(
        "there is no data folder {}: make one with `nova certs init` or `nova up`, or name one with --data-dir",
        root.string()));
  }
  return layout;
}

// Files of another account's folder would become ours, and its processes could not read them.
Result<void> CheckOwner(const Layout& layout) {
  struct stat status{};
  if (::stat(layout.root.c_str(), &status) != 0) {
    return FailedPrecondition(fmt::format("cannot read {} ({})", layout.root.string(), ErrnoText(errno)));
  }
  if (status.st_uid == ::geteuid()) return Ok();
  const passwd* const owner = ::getpwuid(status.st_uid);
  return PermissionDenied(fmt::format("{} belongs to '{}': run this as that account", layout.root.string(),
                                      owner != nullptr ? owner->pw_name : std::to_string(status.st_uid)));
}

Result<Authority> LoadAuthority(const Layout& layout) {
  auto authority = Authority::Load(layout.authority(), SystemClock());
  if (!authority && authority.error().code() == Code::kNotFound) {
    return NotFound(authority.error().message() + ": make one with `nova certs init`, or start `nova up`");
  }
  return authority;
}

std::string NamesOf(const std::vector<ProcessCertificates>& processes) {
  std::vector<std::string> names;
  for (const ProcessCertificates& process : processes) names.push_back(process.component.name);
  return fmt::format("{}", fmt::join(names, ", "));
}

Certificates CertificatesIn(const Layout& layout, const RotationConfig& config, ServerAccounts accounts) {
  seconds lifetime = config.lifetime;
  if (lifetime == seconds(0) && FileLock::IsHeld(layout.lock())) {
    const auto state = ReadState(layout);
    if (state) lifetime = state->leaf_lifetime;
  }
  if (lifetime == seconds(0)) lifetime = Certificates::kLifetimeDefault;
  return {layout, config.principals, std::move(accounts), lifetime};
}

// One rotation, from its lock to its end.
class Rotation {
 public:
  static Result<Rotation> Begin(const RotationConfig& config) {
    NOVA_TRY(Layout layout, ExistingFolder(config.data_dir));
    NOVA_TRY(CheckOwner(layout));
    NOVA_TRY(ServerAccounts accounts, FindServerAccounts());
    auto lock = FileLock::TryAcquire(layout.rotation_lock());
    if (!lock && lock.error().code() == Code::kAborted) {
      return FailedPrecondition(
          fmt::format("another `nova certs` rotates the certificates of {}; wait for its end", layout.root.string()));
    }
    NOVA_TRY(FileLock held, std::move(lock));
    if (FileLock::IsHeld(layout.lock())) {
      const auto state = ReadState(layout);
      const Phase phase = state ? state->phase : Phase::kStarting;
      if (phase != Phase::kReady) {
        return FailedPrecondition(
            fmt::format("the stack on {} is {}; try again when `nova status` says that it is ready, or stopped",
                        layout.root.string(), PhaseName(phase)));
      }
    }
    Certificates certificates = CertificatesIn(layout, config, std::move(accounts));
    return Rotation(config, std::move(layout), std::move(certificates), std::move(held));
  }

  const Certificates& certificates() const { return certificates_; }
  // A stack runs.
  bool live() const { return FileLock::IsHeld(layout_.lock()); }
  Result<Authority> LoadAuthority() const { return local::LoadAuthority(layout_); }
  void Say(std::string_view what) const {
    if (config_.progress) config_.progress(what);
  }

  Result<void> Issue(Authority& authority, const std::vector<std::string>& principals) const {
    for (const std::string& principal : principals)
      NOVA_TRY(authority.Issue(certificates_.LeafOf(principal), certificates_.FolderOf(principal)));
    return Ok();
  }

  // Lets every set trust whom the authority says.
  Result<void> IssueTrust(Authority& authority) const {
    for (const std::string& principal : certificates_.Issued()) {
      const tls::LeafSpec spec = certificates_.LeafOf(principal);
      const fs::path folder = certificates_.FolderOf(principal);
      // A server's port shows its leaf and not whom it trusts: a new leaf is the proof that it has read both.
      if (IsServer(principal) || authority.NeedsRenewal(spec, folder)) {
        NOVA_TRY(authority.Issue(spec, folder));
      } else {
        NOVA_TRY(authority.IssueTrust(spec, folder));
      }
    }
    return Ok();
  }

  // Returns when every process of these principals has in memory what is on the disk, and every handshake uses it.
  Result<void> AwaitTakenUp(const std::vector<std::string>& principals) const {
    if (!live()) return Ok();
    const Clock& clock = SystemClock();
    const SteadyTime written = clock.Now();
    const SteadyTime end = written + config_.take_up_limit;
    UseProbe probe;
    std::string said;
    while (true) {
      const std::vector<ProcessCertificates> behind = Behind(principals, probe);
      if (behind.empty()) break;
      if (clock.Now() >= end) return NotTakenUp(behind);
      if (const std::string waiting = "waiting for " + NamesOf(behind); waiting != said) {
        Say(waiting);
        said = waiting;
      }
      Pause(kPollInterval);
    }
    // Not all who watch their files can be asked: tools that run beside the stack, and what services verify Redis and
    // PgBouncer with.
    const SteadyTime others = written + tls::PublisherConfig().poll_interval;
    const SteadyTime settled = std::max(clock.Now(), others) + tls::kHandshakesFollowWithin;
    Pause(settled - clock.Now());
    return Ok();
  }

 private:
  Rotation(RotationConfig config, Layout layout, Certificates certificates, FileLock lock)
      : config_(std::move(config)),
        layout_(std::move(layout)),
        certificates_(std::move(certificates)),
        lock_(std::move(lock)) {}

  // Who has something else in memory than is on the disk at this moment: it may be replaced while this waits.
  std::vector<ProcessCertificates> Behind(const std::vector<std::string>& principals, UseProbe& probe) const {
    std::vector<ProcessCertificates> behind;
    if (!live()) return behind;  // whoever ended has nothing in memory
    const auto state = ReadState(layout_);
    if (!state) return behind;
    for (const ComponentState& component : state->components) {
      // One that does not run reads what is new when it starts.
      if (component.pid == 0 || std::ranges::find(principals, component.name) == principals.end()) continue;
      ProcessCertificates seen = probe.Ask(component);
      if (!seen.Has(ReadFromDisk(certificates_.FolderOf(component.name)))) behind.push_back(std::move(seen));
    }
    return behind;
  }

  Error NotTakenUp(const std::vector<ProcessCertificates>& behind) const {
    const ProcessCertificates& first = behind.front();
    const std::string& name = first.component.name;
    const CertificateOnDisk on_disk = ReadFromDisk(certificates_.FolderOf(name));
    std::string why = "it still uses the former one";
    if (!first.problem.empty()) why = first.problem;
    if (!on_disk.problem.empty()) why = on_disk.problem;
    return DeadlineExceeded(fmt::format(
        "{} {} not taken up {} new certificate within {} s ({}: {}); see {} and `nova certs show`, then run "
        "this again",
        NamesOf(behind), behind.size() == 1 ? "has" : "have", behind.size() == 1 ? "its" : "their",
        std::chrono::ceil<seconds>(config_.take_up_limit).count(), name, why, layout_.log(name).string()));
  }

  RotationConfig config_;
  Layout layout_;
  Certificates certificates_;
  FileLock lock_;
};

// A process that was killed after the last step and before every set had followed: the authority itself shows nothing
// of it any more.
bool IsTrustBehind(const Authority& authority, const Certificates& certificates) {
  return std::ranges::any_of(certificates.Issued(), [&](const std::string& principal) {
    return authority.NeedsTrust(certificates.FolderOf(principal));
  });
}

// How far a replacement of the authority has got.
struct Progress {
  AuthorityRotation reached = AuthorityRotation::kNone;
  // All steps are done, but not every set has followed the last one.
  bool withdrawn = false;
};

// Each step that a killed run has reached is repeated as far as its sets and the wait: whether it had got there is not
// known.
Result<void> Replace(const Rotation& rotation, Progress progress, const std::vector<std::string>& everyone) {
  const AuthorityRotation reached = progress.reached;
  if (reached != AuthorityRotation::kFormerTrusted && !progress.withdrawn) {
    rotation.Say("step 1 of 3: the next authority is trusted");
    {
      NOVA_TRY(Authority authority, rotation.LoadAuthority());
      if (reached == AuthorityRotation::kNone) NOVA_TRY(authority.IntroduceNext());
      NOVA_TRY(rotation.IssueTrust(authority));
    }
    NOVA_TRY(rotation.AwaitTakenUp(everyone));
  }
  if (!progress.withdrawn) {
    rotation.Say("step 2 of 3: the next authority signs");
    {
      NOVA_TRY(Authority authority, rotation.LoadAuthority());
      if (reached != AuthorityRotation::kFormerTrusted) NOVA_TRY(authority.SignWithNext());
      NOVA_TRY(rotation.Issue(authority, everyone));
    }
    NOVA_TRY(rotation.AwaitTakenUp(everyone));
  }
  rotation.Say("step 3 of 3: the former authority is withdrawn");
  {
    NOVA_TRY(Authority authority, rotation.LoadAuthority());
    if (!progress.withdrawn) NOVA_TRY(authority.WithdrawFormer());
    NOVA_TRY(rotation.IssueTrust(authority));
  }
  return rotation.AwaitTakenUp(everyone);
}

}  // namespace

Result<RotationReport> RotateLeaves(const RotationConfig& config, const std::vector<std::string>& principals) {
  NOVA_TRY(const Rotation rotation, Rotation::Begin(config));
  for (const std::string& principal : principals) NOVA_TRY(rotation.certificates().CheckPrincipal(principal));
  const std::vector<std::string> wanted = principals.empty() ? rotation.certificates().Issued() : principals;
  {
    NOVA_TRY(Authority authority, rotation.LoadAuthority());
    if (wanted.empty()) return NotFound("there is no certificate to rotate: issue one with `nova certs issue`");
    rotation.Say(fmt::format("issuing {} certificates", wanted.size()));
    NOVA_TRY(rotation.Issue(authority, wanted));
  }
  NOVA_TRY(rotation.AwaitTakenUp(wanted));
  return RotationReport{.principals = wanted, .live = rotation.live()};
}

Result<RotationReport> RotateAuthority(const RotationConfig& config) {
  NOVA_TRY(const Rotation rotation, Rotation::Begin(config));
  RotationReport report{.principals = rotation.certificates().Issued()};
  Progress progress;
  {
    NOVA_TRY(const Authority authority, rotation.LoadAuthority());
    progress.reached = authority.rotation();
    progress.withdrawn =
        progress.reached == AuthorityRotation::kNone && IsTrustBehind(authority, rotation.certificates());
  }
  report.continued = progress.reached != AuthorityRotation::kNone || progress.withdrawn;
  if (report.continued) {
    rotation.Say("first the replacement that was interrupted");
    NOVA_TRY(Replace(rotation, progress, report.principals));
    rotation.Say("then another: the key of the interrupted one has been on the disk before");
  }
  NOVA_TRY(Replace(rotation, {}, report.principals));
  report.live = rotation.live();
  return report;
}

Result<fs::path> IssueLeaf(const RotationConfig& config, const std::string& principal) {
  NOVA_TRY(const Rotation rotation, Rotation::Begin(config));
  NOVA_TRY(rotation.certificates().CheckPrincipal(principal));
  NOVA_TRY(Authority authority, rotation.LoadAuthority());
  NOVA_TRY(rotation.Issue(authority, {principal}));
  return rotation.certificates().FolderOf(principal);
}

Result<void> ShortenLeaf(const RotationConfig& config, const std::string& principal, seconds left) {
  RotationConfig shortened = config;
  shortened.lifetime = left;
  NOVA_TRY(IssueLeaf(shortened, principal));
  return Ok();
}

Result<Certificates> CertificatesOf(const RotationConfig& config) {
  NOVA_TRY(const Layout layout, ExistingFolder(config.data_dir));
  return CertificatesIn(layout, config, {});
}

Result<CertificatesView> ViewCertificates(const RotationConfig& config) {
  NOVA_TRY(const Layout layout, ExistingFolder(config.data_dir));
  CertificatesView view{.data_dir = layout.root,
                        .running = FileLock::IsHeld(layout.lock()),
                        .authority = {},
                        .authority_problem = {},
                        .sets = {},
                        .processes = {}};
  // Owners matter to whoever writes.
  const Certificates certificates = CertificatesIn(layout, config, {});
  {
    const auto authority = LoadAuthority(layout);
    if (!authority) {
      view.authority_problem = authority.error().message();
    } else {
      NOVA_TRY(auto signer,
               tls::ValidateAuthorities(authority->certificate_pem(),
                                        {.path = layout.authority() / "ca.crt", .variable = {}}, SystemClock()));
      view.authority = {
          .signer = std::move(signer.authorities.front()),
          .rotation = authority->rotation(),
          .under_way = authority->rotation() != AuthorityRotation::kNone || IsTrustBehind(*authority, certificates)};
    }
  }
  for (const std::string& principal : certificates.Issued())
    view.sets.push_back({.principal = principal, .on_disk = ReadFromDisk(certificates.FolderOf(principal))});
  if (!view.running) return view;
  const auto state = ReadState(layout);
  if (!state) return view;  // it has just begun
  UseProbe probe;
  for (const ComponentState& component : state->components) {
    ProcessCertificates seen = probe.Ask(component);
    const bool current = seen.Has(ReadFromDisk(certificates.FolderOf(component.name)));
    view.processes.push_back({.seen = std::move(seen), .current = current});
  }
  return view;
}

}  // namespace nova::local
