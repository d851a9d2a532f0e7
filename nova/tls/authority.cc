#include "nova/tls/authority.h"

#include <algorithm>
#include <arpa/inet.h>
#include <array>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <poll.h>
#include <set>
#include <string_view>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>

#include "nova/base/uuid.h"
#include "nova/tls/certificate.h"
#include "nova/tls/certificate_maker.h"
#include "nova/tls/files.h"
#include "nova/tls/openssl.h"

namespace nova::tls {
namespace {

namespace fs = std::filesystem;
using std::chrono::seconds;

constexpr std::string_view kCertificateName = "tls.crt";
constexpr std::string_view kKeyName = "tls.key";
constexpr std::string_view kCaCertificateName = "ca.crt";

// The authority's own directory. The certificate and the key of who signs have constant names; the files of a
// replacement are beside them in the version in use, and say by being there how far it is.
constexpr std::string_view kCaKeyName = "ca.key";
constexpr std::string_view kNextCertificateName = "next.crt";
constexpr std::string_view kNextKeyName = "next.key";
constexpr std::string_view kFormerCertificateName = "former.crt";
constexpr std::string_view kLockName = "lock";

// As in a Secret that Kubernetes mounts: a link to the version in use, which begins with two dots as well.
constexpr std::string_view kDataLink = "..data";
constexpr std::string_view kVersionPrefix = "..v-";

constexpr seconds kAuthorityLifetime = std::chrono::days(3650);
// Certificates begin this long before their issue, for peers whose clock is behind.
constexpr seconds kBackdate = kClockSkewMax;
constexpr std::chrono::milliseconds kLockPollInterval{20};

constexpr std::array<std::string_view, 1> kDnsNamesAlways = {"localhost"};
constexpr std::array<std::string_view, 2> kIpsAlways = {"127.0.0.1", "::1"};

// An address in the one spelling by which two can be compared. Errors: INVALID_ARGUMENT.
Result<std::string> CanonicalAddress(const std::string& text) {
  std::array<unsigned char, 16> bytes{};
  for (const int family : {AF_INET, AF_INET6}) {
    if (inet_pton(family, text.c_str(), bytes.data()) != 1) continue;
    std::array<char, INET6_ADDRSTRLEN> canonical{};
    inet_ntop(family, bytes.data(), canonical.data(), canonical.size());
    return std::string(canonical.data());
  }
  return InvalidArgument("not an IP address: " + text);
}

bool IsDnsName(std::string_view name) {
  return !name.empty() && name.size() <= 253 && std::ranges::all_of(name, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '.';
  });
}

struct Names {
  std::set<std::string> dns;
  std::set<std::string> ips;
  bool operator==(const Names&) const = default;
};

// Also keeps commas and other syntax of OpenSSL's configuration out of the extension.
Result<Names> NamesOf(const LeafSpec& spec) {
  if (!IsPrincipal(spec.principal))
    return InvalidArgument("not a principal: '" + spec.principal + "'; use lower-case letters, digits and hyphens");
  Names names;
  names.dns.insert(ServiceDnsName(spec.principal));
  names.dns.insert(kDnsNamesAlways.begin(), kDnsNamesAlways.end());
  names.ips.insert(kIpsAlways.begin(), kIpsAlways.end());
  for (const std::string& name : spec.dns_extra) {
    if (!IsDnsName(name)) return InvalidArgument("not a DNS name in lower case: '" + name + "'");
    names.dns.insert(name);
  }
  for (const std::string& text : spec.ips_extra) {
    NOVA_TRY(auto address, CanonicalAddress(text));
    names.ips.insert(std::move(address));
  }
  return names;
}

// Removes the entries of `directory` that begin with `prefix`, except those to keep. Best effort: what stays is
// harmless.
void RemoveEntries(const fs::path& directory, std::string_view prefix, const std::set<std::string>& keep) {
  std::error_code error;
  std::vector<fs::path> doomed;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (name.starts_with(prefix) && !keep.contains(name)) doomed.push_back(entry->path());
  }
  for (const fs::path& path : doomed) fs::remove_all(path, error);
}

Result<void> MakeDirectories(const fs::path& directory) {
  std::error_code error;
  // Readable for other users whatever the umask: what is private has a mode of its own.
  if (fs::create_directories(directory, error))
    fs::permissions(directory, fs::perms(0755), fs::perm_options::replace, error);
  if (error) return FailedPrecondition("cannot create " + directory.string() + ": " + error.message());
  return Ok();
}

// "a/b/" and "a/b" are the same directory, but only the second has a file name.
fs::path WithoutTrailingSlash(const fs::path& path) {
  const fs::path normal = path.lexically_normal();
  return normal.has_filename() ? normal : normal.parent_path();
}

CertificateFiles FilesIn(const fs::path& directory) {
  return {.certificate = {.path = directory / kCertificateName, .variable = {}},
          .key = {.path = directory / kKeyName, .variable = {}},
          .ca = {.path = directory / kCaCertificateName, .variable = {}}};
}

// One file of a version.
struct VersionFile {
  std::string_view name;
  std::string_view content;
  mode_t mode;
};

// Puts a new version of these files into `directory`, complete and durable, where nothing refers to it yet. Returns its
// name.
Result<fs::path> WriteVersion(const fs::path& directory, const std::vector<VersionFile>& files,
                              const std::optional<FileOwner>& owner) {
  NOVA_TRY(const auto version, MakeUniqueDirectory(directory, kVersionPrefix));
  const auto write = [&]() -> Result<void> {
    for (const VersionFile& file : files) {
      NOVA_TRY(WriteNewFile(version / file.name, file.content, file.mode, owner));
      NOVA_TRY(Sync(version / file.name));
    }
    NOVA_TRY(Sync(version));
    // Others may read what is not private; that has a mode of its own.
    if (::chmod(version.c_str(), 0755) != 0)
      return FailedPrecondition("cannot change the mode of " + version.string() + ": " + std::strerror(errno));
    return Ok();
  };
  if (auto written = write(); !written) {
    std::error_code ignored;
    fs::remove_all(version, ignored);
    return std::move(written).error();
  }
  return version.filename();
}

fs::path LinkTarget(const fs::path& link) {
  std::error_code ignored;
  return fs::read_symlink(link, ignored);
}

// Makes each name a link into the version in use.
Result<void> LinkNames(const fs::path& directory, std::initializer_list<std::string_view> names) {
  for (const std::string_view name : names) {
    const fs::path wanted = fs::path(kDataLink) / name;
    if (LinkTarget(directory / name) != wanted) NOVA_TRY(ReplaceLink(directory / name, wanted));
  }
  return Sync(directory);
}

// From here on the version is the one in use.
Result<void> UseVersion(const fs::path& directory, const fs::path& version) {
  NOVA_TRY(ReplaceLink(directory / kDataLink, version));
  return Sync(directory);
}

// A set of a leaf: a former set stays for readers that have only resolved the link.
Result<void> InstallSet(const fs::path& directory, std::string_view certificate_pem, std::string_view key_pem,
                        std::string_view ca_pem, const std::optional<FileOwner>& owner) {
  NOVA_TRY(MakeDirectories(directory));
  NOVA_TRY(const auto version, WriteVersion(directory,
                                            {{kCertificateName, certificate_pem, 0644},
                                             {kKeyName, key_pem, 0600},
                                             {kCaCertificateName, ca_pem, 0644}},
                                            owner));
  const fs::path previous = LinkTarget(directory / kDataLink);
  NOVA_TRY(UseVersion(directory, version));
  NOVA_TRY(LinkNames(directory, {kCertificateName, kKeyName, kCaCertificateName}));
  RemoveEntries(directory, kVersionPrefix, {version.string(), previous.string()});
  return Ok();
}

// Held as long as it lives; the kernel lets go of it when its process dies.
class DirectoryLock {
 public:
  // `directory` exists. Errors: ABORTED if another holds it for longer than `patience`.
  static Result<DirectoryLock> Take(const fs::path& directory, std::chrono::milliseconds patience) {
    const fs::path path = directory / kLockName;
    const auto limit = std::chrono::steady_clock::now() + patience;
    while (true) {
      DirectoryLock lock(::open(path.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600));
      if (lock.file_ < 0) return FailedPrecondition("cannot lock " + path.string() + ": " + std::strerror(errno));
      lock.GiveToOwnerOf(directory);
      if (::flock(lock.file_, LOCK_EX | LOCK_NB) == 0) {
        // The directory may have been removed, and made anew, in between: then this is nobody's lock.
        struct stat held{};
        struct stat there{};
        if (::fstat(lock.file_, &held) == 0 && ::stat(path.c_str(), &there) == 0 && held.st_dev == there.st_dev &&
            held.st_ino == there.st_ino)
          return lock;
      } else if (errno != EWOULDBLOCK && errno != EINTR) {
        return FailedPrecondition("cannot lock " + path.string() + ": " + std::strerror(errno));
      }
      if (std::chrono::steady_clock::now() >= limit)
        return Aborted("another process has been working on the development CA in " + directory.string() + " for " +
                       std::to_string(patience.count()) + " ms; try again when it is done");
      ::poll(nullptr, 0, static_cast<int>(kLockPollInterval.count()));
    }
  }

  DirectoryLock(DirectoryLock&& other) noexcept : file_(std::exchange(other.file_, -1)) {}
  DirectoryLock& operator=(DirectoryLock&&) = delete;
  ~DirectoryLock() {
    if (file_ >= 0) ::close(file_);
  }

 private:
  explicit DirectoryLock(int file) : file_(file) {}

  // Root may look at another account's authority: the lock it makes there must not keep that account out.
  void GiveToOwnerOf(const fs::path& directory) const {
    struct stat owner{};
    struct stat own{};
    if (::geteuid() != 0 || ::stat(directory.c_str(), &owner) != 0 || ::fstat(file_, &own) != 0) return;
    if (own.st_uid != owner.st_uid) (void)!::fchown(file_, owner.st_uid, owner.st_gid);
  }

  int file_;
};

// Whether there is an authority, or a part of one.
bool IsThere(const fs::path& directory) {
  std::error_code ignored;
  return fs::exists(directory / kCaCertificateName, ignored) || fs::exists(directory / kCaKeyName, ignored);
}

// Errors: ALREADY_EXISTS if `directory` has anything in it but its lock and what an interrupted creation left.
Result<void> CheckEmpty(const fs::path& directory) {
  std::error_code error;
  const auto is_ours = [&](const fs::path& path) {
    const std::string name = path.filename().string();
    if (name == kCaCertificateName || name == kCaKeyName) return LinkTarget(path) == fs::path(kDataLink) / name;
    return name == kLockName || name.starts_with(kVersionPrefix) || name.ends_with(".new");
  };
  if (!IsThere(directory)) {
    bool empty = true;
    for (fs::directory_iterator entry(directory, error), end; !error && entry != end; entry.increment(error))
      empty = empty && is_ours(entry->path());
    if (empty && !error) return Ok();
  }
  if (error) return FailedPrecondition("cannot read " + directory.string() + ": " + error.message());
  return AlreadyExists(directory.string() + " has files in it; a development CA is made in an empty directory");
}

Result<SignedCertificate> MakeAuthority(const Clock& clock) {
  // A name of its own, so that a leaf of an earlier authority fails with "unable to get issuer", not with "bad
  // signature".
  const std::string id = Uuid::New(clock).ToString();
  const WallTime now = clock.WallNow();
  return MakeCertificate({.common_name = "Nova development CA " + id.substr(id.size() - 12),
                          .extended_key_usage = {},
                          .key_usage = "critical,keyCertSign,cRLSign",
                          .basic_constraints = "critical,CA:TRUE,pathlen:0",
                          .not_before = now - kBackdate,
                          .not_after = now + kAuthorityLifetime},
                         nullptr);
}

Result<std::string> ReadPart(const fs::path& path, const std::string& remedy) {
  auto text = ReadFile(path, kFileBytesMax);
  if (text) return text;
  return FailedPrecondition(path.string() + " cannot be used (" + text.error().message() + ")" + remedy);
}

// Reads an authority and its key. Errors: FAILED_PRECONDITION, with the remedy.
Result<SignedCertificate> ReadAuthority(const fs::path& certificate_path, const fs::path& key_path,
                                        const std::string& remedy, WallTime now) {
  SignedCertificate authority;
  NOVA_TRY(authority.certificate_pem, ReadPart(certificate_path, remedy));
  NOVA_TRY(auto key_pem, ReadPart(key_path, remedy));
  authority.key_pem = Secret<>(std::move(key_pem));
  const auto unusable = [&remedy](const fs::path& path, std::string_view why) {
    return FailedPrecondition(path.string() + " cannot be used (" + std::string(why) + ")" + remedy);
  };
  const auto certificates = ParseCertificates(authority.certificate_pem);
  if (!certificates) return unusable(certificate_path, certificates.error().message());
  const auto key = ParsePrivateKey(authority.key_pem);
  if (!key) return unusable(key_path, key.error().message());
  X509* certificate = certificates->front().get();
  if (X509_check_private_key(certificate, key->get()) != 1) {
    (void)OpenSslReason();
    return unusable(key_path, "it does not match " + certificate_path.string());
  }
  if (X509_check_ca(certificate) == 0) return unusable(certificate_path, "it is no authority");
  if (ToWallTime(X509_get0_notAfter(certificate)) <= now) return unusable(certificate_path, "it has expired");
  return authority;
}

}  // namespace

// What the directory holds. Changes in memory once it has changed there.
struct Authority::State {
  const Clock& clock;
  const fs::path directory;
  const DirectoryLock lock;
  SignedCertificate signer;
  // While the signer is replaced by it.
  std::optional<SignedCertificate> next;
  // While it is replaced by the signer. Its key is gone: it signs nothing any more.
  std::string former_pem;
  std::string trusted_pem;

  static Result<std::unique_ptr<State>> Read(const fs::path& directory, const Clock& clock, DirectoryLock lock);
  Result<void> Replace(SignedCertificate new_signer, std::optional<SignedCertificate> new_next,
                       std::string new_former_pem);
  void SetTrusted();
  // The set, judged as one of who signs.
  Result<CertificateSet> LoadSet(const fs::path& out_directory) const;
};

Authority::Authority(std::unique_ptr<State> state) : state_(std::move(state)) {}
Authority::Authority(Authority&&) noexcept = default;
Authority& Authority::operator=(Authority&&) noexcept = default;
Authority::~Authority() = default;

const std::string& Authority::certificate_pem() const { return state_->signer.certificate_pem; }
const std::string& Authority::trusted_pem() const { return state_->trusted_pem; }

// The older first, so that a set's ca.crt stays the same when the signer changes.
void Authority::State::SetTrusted() {
  trusted_pem.clear();
  for (const std::string_view pem : {std::string_view(former_pem), std::string_view(signer.certificate_pem),
                                     next ? std::string_view(next->certificate_pem) : std::string_view()}) {
    // One that was edited by hand may lack its last newline.
    if (!trusted_pem.empty() && !trusted_pem.ends_with('\n')) trusted_pem += '\n';
    trusted_pem += pem;
  }
}

Result<std::unique_ptr<Authority::State>> Authority::State::Read(const fs::path& directory, const Clock& clock,
                                                                 DirectoryLock lock) {
  const fs::path certificate_path = directory / kCaCertificateName;
  const fs::path key_path = directory / kCaKeyName;
  std::error_code ignored;
  const bool has_certificate = fs::exists(certificate_path, ignored);
  const bool has_key = fs::exists(key_path, ignored);
  if (!has_certificate && !has_key) return NotFound("no development CA in " + directory.string());
  const std::string remedy = "; restore it, or remove " + directory.string() + " to have a new one made";
  if (!has_certificate || !has_key)
    return FailedPrecondition("half a development CA: " + (has_key ? certificate_path : key_path).string() +
                              " is missing" + remedy);
  const WallTime now = clock.WallNow();
  NOVA_TRY(auto signer, ReadAuthority(certificate_path, key_path, remedy, now));
  auto state = std::unique_ptr<State>(new State{.clock = clock,
                                                .directory = directory,
                                                .lock = std::move(lock),
                                                .signer = std::move(signer),
                                                .next = {},
                                                .former_pem = {},
                                                .trusted_pem = {}});
  const fs::path data = directory / kDataLink;
  if (fs::exists(data / kNextCertificateName, ignored)) {
    NOVA_TRY(state->next, ReadAuthority(data / kNextCertificateName, data / kNextKeyName, remedy, now));
  } else if (fs::exists(data / kFormerCertificateName, ignored)) {
    NOVA_TRY(state->former_pem, ReadPart(data / kFormerCertificateName, remedy));
  }
  state->SetTrusted();
  // What a killed process left, which may hold a key that should be gone.
  RemoveEntries(directory, kVersionPrefix, {LinkTarget(data).string()});
  return state;
}

// In effect at the one moment in which `..data` is swapped.
Result<void> Authority::State::Replace(SignedCertificate new_signer, std::optional<SignedCertificate> new_next,
                                       std::string new_former_pem) {
  const auto write = [&](const SignedCertificate& is_signer, const std::optional<SignedCertificate>& is_next,
                         const std::string& is_former_pem) -> Result<void> {
    std::vector<VersionFile> files{{kCaKeyName, is_signer.key_pem.Expose(), 0600},
                                   {kCaCertificateName, is_signer.certificate_pem, 0644}};
    if (is_next) {
      files.push_back({kNextKeyName, is_next->key_pem.Expose(), 0600});
      files.push_back({kNextCertificateName, is_next->certificate_pem, 0644});
    }
    if (!is_former_pem.empty()) files.push_back({kFormerCertificateName, is_former_pem, 0644});
    NOVA_TRY(const auto version, WriteVersion(directory, files, {}));
    return UseVersion(directory, version);
  };
  // Plain files, as they were made formerly or restored by hand: first the same as links, so that the signer changes
  // together with the rest.
  if (LinkTarget(directory / kCaKeyName) != fs::path(kDataLink) / kCaKeyName ||
      LinkTarget(directory / kCaCertificateName) != fs::path(kDataLink) / kCaCertificateName) {
    NOVA_TRY(write(signer, next, former_pem));
    NOVA_TRY(LinkNames(directory, {kCaKeyName, kCaCertificateName}));
  }
  NOVA_TRY(write(new_signer, new_next, new_former_pem));
  signer = std::move(new_signer);
  next = std::move(new_next);
  former_pem = std::move(new_former_pem);
  SetTrusted();
  const fs::path current = LinkTarget(directory / kDataLink);
  RemoveEntries(directory, kVersionPrefix, {current.string()});
  // Here what stays is a key that signs for those who still trust it.
  std::error_code error;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (name.starts_with(kVersionPrefix) && name != current.string())
      return FailedPrecondition("the step is done, but " + entry->path().string() +
                                " with a former key in it cannot be removed; remove it");
  }
  return Ok();
}

Result<Authority> Authority::Create(const fs::path& given_directory, const Clock& clock) {
  const fs::path directory = WithoutTrailingSlash(given_directory);
  NOVA_TRY(MakeDirectories(directory));
  // Before the lock, too: a directory that is something else gets no file of ours.
  NOVA_TRY(CheckEmpty(directory));
  NOVA_TRY(auto lock, DirectoryLock::Take(directory, kLockLimit));
  NOVA_TRY(CheckEmpty(directory));
  RemoveEntries(directory, kVersionPrefix, {});
  NOVA_TRY(const auto made, MakeAuthority(clock));
  NOVA_TRY(
      const auto version,
      WriteVersion(directory,
                   {{kCaKeyName, made.key_pem.Expose(), 0600}, {kCaCertificateName, made.certificate_pem, 0644}}, {}));
  // The names lead nowhere until the last step, which makes the authority appear.
  NOVA_TRY(LinkNames(directory, {kCaKeyName, kCaCertificateName}));
  NOVA_TRY(UseVersion(directory, version));
  NOVA_TRY(Sync(directory.has_parent_path() ? directory.parent_path() : fs::path(".")));
  NOVA_TRY(auto state, State::Read(directory, clock, std::move(lock)));
  return Authority(std::move(state));
}

Result<Authority> Authority::Load(const fs::path& given_directory, const Clock& clock,
                                  std::chrono::milliseconds lock_limit) {
  const fs::path directory = WithoutTrailingSlash(given_directory);
  if (!IsThere(directory)) return NotFound("no development CA in " + directory.string());
  NOVA_TRY(auto lock, DirectoryLock::Take(directory, lock_limit));
  NOVA_TRY(auto state, State::Read(directory, clock, std::move(lock)));
  return Authority(std::move(state));
}

Result<Authority> Authority::LoadOrCreate(const fs::path& directory, const Clock& clock) {
  auto loaded = Load(directory, clock);
  if (loaded || loaded.error().code() != Code::kNotFound) return loaded;
  auto created = Create(directory, clock);
  // Another process may have been first; if it was not, there is something else in the directory.
  if (created || created.error().code() != Code::kAlreadyExists) return created;
  loaded = Load(directory, clock);
  if (!loaded && loaded.error().code() == Code::kNotFound) return created;
  return loaded;
}

AuthorityRotation Authority::rotation() const {
  if (state_->next) return AuthorityRotation::kNextTrusted;
  return state_->former_pem.empty() ? AuthorityRotation::kNone : AuthorityRotation::kFormerTrusted;
}

Result<void> Authority::IntroduceNext() {
  if (rotation() != AuthorityRotation::kNone)
    return FailedPrecondition("the development CA in " + state_->directory.string() +
                              " is being replaced already; finish that first");
  NOVA_TRY(auto next, MakeAuthority(state_->clock));
  return state_->Replace(state_->signer, std::move(next), {});
}

Result<void> Authority::SignWithNext() {
  if (rotation() != AuthorityRotation::kNextTrusted)
    return FailedPrecondition("the development CA in " + state_->directory.string() +
                              " has no next one that is trusted; introduce it first");
  return state_->Replace(*state_->next, {}, state_->signer.certificate_pem);
}

Result<void> Authority::WithdrawFormer() {
  if (rotation() != AuthorityRotation::kFormerTrusted)
    return FailedPrecondition("the development CA in " + state_->directory.string() +
                              " has no former one to withdraw; let the next one sign first");
  return state_->Replace(state_->signer, {}, {});
}

Result<void> Authority::Issue(const LeafSpec& spec, const fs::path& out_directory) {
  NOVA_TRY(const Names names, NamesOf(spec));
  if (spec.lifetime <= seconds(0)) return InvalidArgument("a certificate's lifetime must be positive");
  NOVA_TRY(const auto issuer, ParseCertificates(state_->signer.certificate_pem));
  const WallTime now = state_->clock.WallNow();
  std::string san = "URI:" + std::string(kSpiffePrefix) + spec.principal;
  for (const std::string& name : names.dns) san += ",DNS:" + name;
  for (const std::string& address : names.ips) san += ",IP:" + address;
  NOVA_TRY(const auto leaf,
           MakeCertificate(
               {.common_name = spec.principal,
                .names = std::move(san),
                .not_before = now - kBackdate,
                .not_after = std::min(now + spec.lifetime, ToWallTime(X509_get0_notAfter(issuer.front().get())))},
               &state_->signer));
  return InstallSet(out_directory, leaf.certificate_pem, leaf.key_pem.Expose(), state_->trusted_pem, spec.owner);
}

Result<CertificateSet> Authority::State::LoadSet(const fs::path& out_directory) const {
  const CertificateFiles files = FilesIn(out_directory);
  NOVA_TRY(auto texts, ReadCertificateFiles(files));
  texts.ca_pem = signer.certificate_pem;
  return ValidateCertificateTexts(std::move(texts), files, Usage::kServer, clock);
}

bool Authority::NeedsRenewal(const LeafSpec& spec, const fs::path& out_directory, double fraction_min) const {
  const auto names = NamesOf(spec);
  // A malformed spec is for Issue to report.
  if (!names) return true;
  const auto set = state_->LoadSet(out_directory);
  if (!set) return true;
  const CertificateInfo& info = set->info;
  const Names found{.dns = {info.dns_names.begin(), info.dns_names.end()},
                    .ips = {info.ip_addresses.begin(), info.ip_addresses.end()}};
  if (info.principal != spec.principal || found != *names) return true;
  if (spec.owner) {
    struct stat status{};
    if (::stat((out_directory / kKeyName).c_str(), &status) != 0 || status.st_uid != spec.owner->uid ||
        status.st_gid != spec.owner->gid)
      return true;
  }
  using Fractional = std::chrono::duration<double>;
  const Fractional lifetime = info.not_after - info.not_before;
  const Fractional left = info.not_after - state_->clock.WallNow();
  return left < lifetime * fraction_min;
}

bool Authority::NeedsTrust(const fs::path& out_directory) const {
  const auto trusted = ReadFile(out_directory / kCaCertificateName, kFileBytesMax);
  return !trusted || *trusted != state_->trusted_pem;
}

Result<void> Authority::IssueTrust(const LeafSpec& spec, const fs::path& out_directory) {
  const CertificateFiles files = FilesIn(out_directory);
  NOVA_TRY(auto texts, ReadCertificateFiles(files));
  texts.ca_pem = state_->trusted_pem;
  // Whoever reads the set would refuse it.
  const auto set = ValidateCertificateTexts(std::move(texts), files, Usage::kServer, state_->clock);
  if (!set) return FailedPrecondition(set.error().message() + "; issue the certificate first");
  return InstallSet(out_directory, set->chain_pem, set->key_pem.Expose(), state_->trusted_pem, spec.owner);
}

}  // namespace nova::tls
