#include "nova/tls/publisher.h"

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <mutex>
#include <optional>
#include <string>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>

#include "nova/telemetry/log.h"
#include "nova/tls/files.h"
#include "nova/tls/text.h"

namespace nova::tls {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kDirectoryPrefix = "nova-tls-";
constexpr std::string_view kLockName = "lock";
constexpr std::string_view kCurrentName = "current";
constexpr std::string_view kCertificateName = "tls.crt";
constexpr std::string_view kKeyName = "tls.key";
constexpr std::string_view kCaName = "ca.crt";

fs::path TemporaryDirectory() {
  const char* directory = std::getenv("TMPDIR");
  return directory != nullptr && *directory != '\0' ? directory : "/tmp";
}

std::string_view SideName(Usage usage) { return usage == Usage::kServer ? "server" : "client"; }

// A directory of mode 0700 that is gone when its owner is. The owner holds a lock on a file in it, which the kernel
// releases if the owner is killed: that is how the next one knows what to remove.
class PrivateDirectory {
 public:
  static Result<std::unique_ptr<PrivateDirectory>> Create(const fs::path& parent) {
    RemoveAbandoned(parent);
    NOVA_TRY(auto path, MakeUniqueDirectory(parent, kDirectoryPrefix));
    auto directory = std::unique_ptr<PrivateDirectory>(new PrivateDirectory(std::move(path)));
    // Locked under another name first: under its own it must never be seen unlocked.
    const fs::path lock = directory->path() / kLockName;
    const fs::path fresh = lock.string() + ".new";
    directory->lock_ = ::open(fresh.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (directory->lock_ < 0 || ::flock(directory->lock_, LOCK_EX | LOCK_NB) != 0 ||
        ::rename(fresh.c_str(), lock.c_str()) != 0)
      return FailedPrecondition("cannot lock " + lock.string() + ": " + std::strerror(errno));
    return directory;
  }

  ~PrivateDirectory() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
    if (lock_ >= 0) ::close(lock_);
  }
  PrivateDirectory(const PrivateDirectory&) = delete;
  PrivateDirectory& operator=(const PrivateDirectory&) = delete;

  const fs::path& path() const { return path_; }

 private:
  explicit PrivateDirectory(fs::path path) : path_(std::move(path)) {}

  static void RemoveAbandoned(const fs::path& parent) {
    std::error_code error;
    for (fs::directory_iterator entry(parent, error), end; !error && entry != end; entry.increment(error)) {
      const fs::path& path = entry->path();
      if (!path.filename().string().starts_with(kDirectoryPrefix)) continue;
      struct stat status{};
      if (::lstat(path.c_str(), &status) != 0 || !S_ISDIR(status.st_mode) || status.st_uid != ::geteuid()) continue;
      const int lock = ::open((path / kLockName).c_str(), O_WRONLY | O_NOFOLLOW | O_CLOEXEC);
      if (lock < 0) continue;
      std::error_code ignored;
      if (::flock(lock, LOCK_EX | LOCK_NB) == 0) fs::remove_all(path, ignored);
      ::close(lock);
    }
  }

  const fs::path path_;
  int lock_ = -1;
};

}  // namespace

struct IdentityPublisher::State {
  State(PublisherConfig publisher_config, const Clock& source, telemetry::Metrics& metrics)
      : config(std::move(publisher_config)),
        clock(source),
        side(SideName(config.usage)),
        published_total(Reloads(metrics, "published")),
        refused_total(Reloads(metrics, "refused")),
        expiry(metrics.Gauge("nova_tls_certificate_expiry_timestamp_seconds",
                             "When the certificate in use expires, in seconds since 1970", {{"side", side}})) {}

  prometheus::Counter& Reloads(telemetry::Metrics& metrics, const std::string& result) const {
    return metrics.Counter("nova_tls_reloads_total", "Certificate sets found in the files, by what became of them",
                           {{"side", side}, {"result", result}});
  }

  Outcome Check();
  Outcome Refuse(const Error& error);
  Result<void> Publish(CertificateSet set);
  static runtime::Task<void> Poll(State& state, runtime::Call& call);

  const PublisherConfig config;
  const Clock& clock;
  const std::string side;
  prometheus::Counter& published_total;
  prometheus::Counter& refused_total;
  prometheus::Gauge& expiry;
  std::unique_ptr<PrivateDirectory> directory;  // set once, by Create

  std::mutex mutex;
  CertificateSet published;   // guarded by mutex
  std::uint64_t version = 0;  // guarded by mutex
  std::time_t stamp = 0;      // guarded by mutex
  std::string last_problem;   // guarded by mutex; empty: the files were good when last seen
};

Result<void> IdentityPublisher::State::Publish(CertificateSet set) {
  const fs::path& root = directory->path();
  const std::string name = "v" + std::to_string(version + 1);
  const fs::path folder = root / name;
  std::error_code ignored;
  fs::remove_all(folder, ignored);
  if (::mkdir(folder.c_str(), 0700) != 0)
    return FailedPrecondition("cannot create " + folder.string() + ": " + std::strerror(errno));
  NOVA_TRY(WriteNewFile(folder / kCertificateName, set.complete_chain_pem, 0600));
  NOVA_TRY(WriteNewFile(folder / kKeyName, set.key_pem.Expose(), 0600));
  NOVA_TRY(WriteNewFile(folder / kCaName, set.ca_pem, 0600));
  // gRPC reads the key, then the certificate, and takes them for a pair if the modification times, in whole seconds,
  // are the same before and after. Two versions of one second would let a torn read through, so no two share a second.
  const std::time_t next_stamp = std::max(stamp + 1, std::chrono::system_clock::to_time_t(clock.WallNow()));
  const struct timespec times[2] = {{.tv_sec = next_stamp, .tv_nsec = 0}, {.tv_sec = next_stamp, .tv_nsec = 0}};
  for (const std::string_view file : {kCertificateName, kKeyName, kCaName}) {
    if (::utimensat(AT_FDCWD, (folder / file).c_str(), times, 0) != 0)
      return FailedPrecondition("cannot set the time of files in " + folder.string() + ": " + std::strerror(errno));
  }
  NOVA_TRY(ReplaceLink(root / kCurrentName, name));
  ++version;
  stamp = next_stamp;
  // The version before stays for readers that have only resolved the link.
  if (version > 2) fs::remove_all(root / ("v" + std::to_string(version - 2)), ignored);

  published = std::move(set);
  published_total.Increment();
  expiry.Set(std::chrono::duration<double>(published.info.not_after.time_since_epoch()).count());
  telemetry::LogInfo("certificate published", {{"side", side},
                                               {"principal", published.info.principal},
                                               {"serial", published.info.serial},
                                               {"expires", Timestamp(published.info.not_after)}});
  return Ok();
}

IdentityPublisher::Outcome IdentityPublisher::State::Refuse(const Error& error) {
  if (last_problem == error.message()) return Outcome::kUnchanged;
  last_problem = error.message();
  refused_total.Increment();
  telemetry::LogError("certificate refused; the last good one stays in use",
                      {{"side", side}, {"in_use", published.info.serial}, {"error", error}});
  return Outcome::kRefused;
}

IdentityPublisher::Outcome IdentityPublisher::State::Check() {
  const std::lock_guard lock(mutex);
  auto texts = ReadCertificateFiles(config.files);
  if (!texts) return Refuse(texts.error());
  if (texts->chain_pem == published.chain_pem && texts->key_pem.Expose() == published.key_pem.Expose() &&
      texts->ca_pem == published.ca_pem) {
    last_problem.clear();
    return Outcome::kUnchanged;
  }
  auto set = ValidateCertificateTexts(*std::move(texts), config.files, config.usage, clock);
  if (!set) return Refuse(set.error());
  // Good, but a peer whose clock is behind by the allowance would refuse it: the old one serves until it begins.
  if (set->info.not_before > clock.WallNow()) return Outcome::kUnchanged;
  if (const auto done = Publish(*std::move(set)); !done) return Refuse(done.error());
  last_problem.clear();
  return Outcome::kPublished;
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
  const fs::path parent = state->config.directory.empty() ? TemporaryDirectory() : state->config.directory;
  auto directory = PrivateDirectory::Create(parent);
  if (!directory)
    return FailedPrecondition(directory.error().message() + "; set TMPDIR to a directory this user may write");
  state->directory = *std::move(directory);
  NOVA_TRY(state->Publish(std::move(set)));
  return std::unique_ptr<IdentityPublisher>(new IdentityPublisher(std::move(state)));
}

void IdentityPublisher::Watch(runtime::Scope& scope) {
  scope.Spawn("watch certificates: " + state_->side,
              [state = state_.get()](runtime::Call& call) { return State::Poll(*state, call); });
}

IdentityPublisher::Outcome IdentityPublisher::Check() { return state_->Check(); }

fs::path IdentityPublisher::certificate_path() const {
  return state_->directory->path() / kCurrentName / kCertificateName;
}
fs::path IdentityPublisher::key_path() const { return state_->directory->path() / kCurrentName / kKeyName; }
fs::path IdentityPublisher::ca_path() const { return state_->directory->path() / kCurrentName / kCaName; }

CertificateInfo IdentityPublisher::info() const {
  const std::lock_guard lock(state_->mutex);
  return state_->published.info;
}

}  // namespace nova::tls
