#include "nova/tls/authority.h"

#include <algorithm>
#include <arpa/inet.h>
#include <array>
#include <cerrno>
#include <cstring>
#include <set>
#include <string_view>
#include <sys/stat.h>
#include <utility>

#include "nova/base/uuid.h"
#include "nova/tls/certificate.h"
#include "nova/tls/files.h"
#include "nova/tls/openssl.h"

namespace nova::tls {
namespace {

namespace fs = std::filesystem;
using std::chrono::seconds;

constexpr std::string_view kCertificateName = "tls.crt";
constexpr std::string_view kKeyName = "tls.key";
constexpr std::string_view kCaCertificateName = "ca.crt";
constexpr std::string_view kCaKeyName = "ca.key";
// As in a Secret that Kubernetes mounts: a link to the version in use, which begins with two dots as well.
constexpr std::string_view kDataLink = "..data";
constexpr std::string_view kVersionPrefix = "..v-";

constexpr seconds kAuthorityLifetime = std::chrono::days(3650);
// Certificates begin this long before their issue, for peers whose clock is behind.
constexpr seconds kBackdate = kClockSkewMax;
constexpr int kSerialBits = 127;
// The longest common name that X.509 allows.
constexpr std::size_t kCommonNameMax = 64;

constexpr std::array<std::string_view, 1> kDnsNamesAlways = {"localhost"};
constexpr std::array<std::string_view, 2> kIpsAlways = {"127.0.0.1", "::1"};

Result<X509Ptr> NewCertificate(EVP_PKEY* key, WallTime not_before, WallTime not_after) {
  X509Ptr certificate(X509_new());
  const BignumPtr serial(BN_new());
  if (certificate == nullptr || serial == nullptr) return Internal(OpenSslReason());
  const auto seconds_of = [](WallTime time) { return std::chrono::system_clock::to_time_t(time); };
  // The top bit set: never zero, and never shorter than others.
  const bool ok = BN_rand(serial.get(), kSerialBits, BN_RAND_TOP_ONE, BN_RAND_BOTTOM_ANY) == 1 &&
                  BN_to_ASN1_INTEGER(serial.get(), X509_get_serialNumber(certificate.get())) != nullptr &&
                  X509_set_version(certificate.get(), X509_VERSION_3) == 1 &&
                  ASN1_TIME_set(X509_getm_notBefore(certificate.get()), seconds_of(not_before)) != nullptr &&
                  ASN1_TIME_set(X509_getm_notAfter(certificate.get()), seconds_of(not_after)) != nullptr &&
                  X509_set_pubkey(certificate.get(), key) == 1;
  if (!ok) return Internal(OpenSslReason());
  return certificate;
}

Result<void> SetCommonName(X509_NAME* name, std::string_view text) {
  text = text.substr(0, kCommonNameMax);
  if (X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_UTF8, reinterpret_cast<const unsigned char*>(text.data()),
                                 static_cast<int>(text.size()), -1, 0) != 1)
    return Internal(OpenSslReason());
  return Ok();
}

// `issuer` is the certificate itself when it signs itself.
Result<void> AddExtension(X509* certificate, X509* issuer, int nid, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  const ExtensionPtr extension(X509V3_EXT_conf_nid(nullptr, &context, nid, value.c_str()));
  if (extension == nullptr || X509_add_ext(certificate, extension.get(), -1) != 1) return Internal(OpenSslReason());
  return Ok();
}

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

}  // namespace

struct Authority::State {
  const Clock& clock;
  X509Ptr certificate;
  PkeyPtr key;
  std::string certificate_pem;
};

Authority::Authority(std::unique_ptr<State> state) : state_(std::move(state)) {}
Authority::Authority(Authority&&) noexcept = default;
Authority& Authority::operator=(Authority&&) noexcept = default;
Authority::~Authority() = default;

const std::string& Authority::certificate_pem() const { return state_->certificate_pem; }

Result<Authority> Authority::Create(const fs::path& directory, const Clock& clock) {
  PkeyPtr key(EVP_EC_gen("P-256"));
  if (key == nullptr) return Internal(OpenSslReason());
  const WallTime now = clock.WallNow();
  NOVA_TRY(X509Ptr certificate, NewCertificate(key.get(), now - kBackdate, now + kAuthorityLifetime));
  X509* self = certificate.get();
  // A name of its own, so that a leaf of an earlier authority fails with "unable to get issuer", not with "bad
  // signature".
  const std::string id = Uuid::New(clock).ToString();
  NOVA_TRY(SetCommonName(X509_get_subject_name(self), "Nova development CA " + id.substr(id.size() - 12)));
  if (X509_set_issuer_name(self, X509_get_subject_name(self)) != 1) return Internal(OpenSslReason());
  NOVA_TRY(AddExtension(self, self, NID_basic_constraints, "critical,CA:TRUE,pathlen:0"));
  NOVA_TRY(AddExtension(self, self, NID_key_usage, "critical,keyCertSign,cRLSign"));
  NOVA_TRY(AddExtension(self, self, NID_subject_key_identifier, "hash"));
  if (X509_sign(self, key.get(), EVP_sha256()) == 0) return Internal(OpenSslReason());
  NOVA_TRY(auto certificate_pem, ToPem(self));
  NOVA_TRY(const auto key_pem, ToPem(key.get()));

  const fs::path target = WithoutTrailingSlash(directory);
  const fs::path parent = target.has_parent_path() ? target.parent_path() : fs::path(".");
  const std::string prefix = "." + target.filename().string() + ".new-";
  NOVA_TRY(MakeDirectories(parent));
  RemoveEntries(parent, prefix, {});
  NOVA_TRY(const auto fresh, MakeUniqueDirectory(parent, prefix));
  const auto install = [&]() -> Result<void> {
    NOVA_TRY(WriteNewFile(fresh / kCaKeyName, key_pem.Expose(), 0600));
    NOVA_TRY(WriteNewFile(fresh / kCaCertificateName, certificate_pem, 0644));
    NOVA_TRY(Sync(fresh / kCaKeyName));
    NOVA_TRY(Sync(fresh / kCaCertificateName));
    NOVA_TRY(Sync(fresh));
    // Others may read the certificate; the key has its own mode.
    if (::chmod(fresh.c_str(), 0755) != 0)
      return FailedPrecondition("cannot change the mode of " + fresh.string() + ": " + std::strerror(errno));
    if (::rename(fresh.c_str(), target.c_str()) != 0) {
      if (errno == ENOTEMPTY || errno == EEXIST)
        return AlreadyExists(target.string() + " has files in it; a development CA is made in an empty directory");
      return FailedPrecondition("cannot create " + target.string() + ": " + std::strerror(errno));
    }
    return Sync(parent);
  };
  if (auto installed = install(); !installed) {
    RemoveEntries(parent, prefix, {});
    return std::move(installed).error();
  }
  return Authority(std::make_unique<State>(clock, std::move(certificate), std::move(key), std::move(certificate_pem)));
}

Result<Authority> Authority::Load(const fs::path& directory, const Clock& clock) {
  const fs::path target = WithoutTrailingSlash(directory);
  const fs::path certificate_path = target / kCaCertificateName;
  const fs::path key_path = target / kCaKeyName;
  std::error_code ignored;
  const bool has_certificate = fs::exists(certificate_path, ignored);
  const bool has_key = fs::exists(key_path, ignored);
  if (!has_certificate && !has_key) return NotFound("no development CA in " + target.string());
  const std::string remedy = "; restore it, or remove " + target.string() + " to have a new one made";
  if (!has_certificate || !has_key)
    return FailedPrecondition("half a development CA: " + (has_key ? certificate_path : key_path).string() +
                              " is missing" + remedy);
  const auto unusable = [&remedy](const fs::path& path, std::string_view why) {
    return FailedPrecondition(path.string() + " cannot be used (" + std::string(why) + ")" + remedy);
  };
  auto certificate_pem = ReadFile(certificate_path, kFileBytesMax);
  if (!certificate_pem) return unusable(certificate_path, certificate_pem.error().message());
  auto key_pem = ReadFile(key_path, kFileBytesMax);
  if (!key_pem) return unusable(key_path, key_pem.error().message());
  auto certificates = ParseCertificates(*certificate_pem);
  if (!certificates) return unusable(certificate_path, certificates.error().message());
  auto key = ParsePrivateKey(Secret<>(*std::move(key_pem)));
  if (!key) return unusable(key_path, key.error().message());
  X509Ptr certificate = std::move(certificates->front());
  if (X509_check_private_key(certificate.get(), key->get()) != 1) {
    (void)OpenSslReason();
    return unusable(key_path, "it does not match " + certificate_path.string());
  }
  if (X509_check_ca(certificate.get()) == 0) return unusable(certificate_path, "it is no authority");
  if (ToWallTime(X509_get0_notAfter(certificate.get())) <= clock.WallNow())
    return unusable(certificate_path, "it has expired");
  return Authority(
      std::make_unique<State>(clock, std::move(certificate), *std::move(key), *std::move(certificate_pem)));
}

Result<Authority> Authority::LoadOrCreate(const fs::path& directory, const Clock& clock) {
  auto loaded = Load(directory, clock);
  if (loaded || loaded.error().code() != Code::kNotFound) return loaded;
  return Create(directory, clock);
}

Result<void> Authority::Issue(const LeafSpec& spec, const fs::path& out_directory) {
  NOVA_TRY(const Names names, NamesOf(spec));
  if (spec.lifetime <= seconds(0)) return InvalidArgument("a certificate's lifetime must be positive");
  const PkeyPtr key(EVP_EC_gen("P-256"));
  if (key == nullptr) return Internal(OpenSslReason());
  X509* issuer = state_->certificate.get();
  const WallTime now = state_->clock.WallNow();
  const WallTime not_after = std::min(now + spec.lifetime, ToWallTime(X509_get0_notAfter(issuer)));
  NOVA_TRY(const X509Ptr certificate, NewCertificate(key.get(), now - kBackdate, not_after));
  X509* leaf = certificate.get();
  NOVA_TRY(SetCommonName(X509_get_subject_name(leaf), spec.principal));
  if (X509_set_issuer_name(leaf, X509_get_subject_name(issuer)) != 1) return Internal(OpenSslReason());
  std::string san = "URI:" + std::string(kSpiffePrefix) + spec.principal;
  for (const std::string& name : names.dns) san += ",DNS:" + name;
  for (const std::string& address : names.ips) san += ",IP:" + address;
  NOVA_TRY(AddExtension(leaf, issuer, NID_basic_constraints, "critical,CA:FALSE"));
  NOVA_TRY(AddExtension(leaf, issuer, NID_key_usage, "critical,digitalSignature"));
  NOVA_TRY(AddExtension(leaf, issuer, NID_ext_key_usage, "serverAuth,clientAuth"));
  NOVA_TRY(AddExtension(leaf, issuer, NID_subject_alt_name, san));
  NOVA_TRY(AddExtension(leaf, issuer, NID_subject_key_identifier, "hash"));
  NOVA_TRY(AddExtension(leaf, issuer, NID_authority_key_identifier, "keyid:always"));
  if (X509_sign(leaf, state_->key.get(), EVP_sha256()) == 0) return Internal(OpenSslReason());
  NOVA_TRY(const auto leaf_pem, ToPem(leaf));
  NOVA_TRY(const auto key_pem, ToPem(key.get()));

  NOVA_TRY(MakeDirectories(out_directory));
  NOVA_TRY(const auto version, MakeUniqueDirectory(out_directory, kVersionPrefix));
  const auto install = [&]() -> Result<void> {
    NOVA_TRY(WriteNewFile(version / kCertificateName, leaf_pem, 0644, spec.owner));
    NOVA_TRY(WriteNewFile(version / kKeyName, key_pem.Expose(), 0600, spec.owner));
    NOVA_TRY(WriteNewFile(version / kCaCertificateName, state_->certificate_pem, 0644, spec.owner));
    for (const std::string_view name : {kCertificateName, kKeyName, kCaCertificateName}) NOVA_TRY(Sync(version / name));
    NOVA_TRY(Sync(version));
    if (::chmod(version.c_str(), 0755) != 0)
      return FailedPrecondition("cannot change the mode of " + version.string() + ": " + std::strerror(errno));
    return Ok();
  };
  std::error_code ignored;
  if (auto installed = install(); !installed) {
    fs::remove_all(version, ignored);
    return std::move(installed).error();
  }
  const std::string previous = fs::read_symlink(out_directory / kDataLink, ignored).string();
  NOVA_TRY(ReplaceLink(out_directory / kDataLink, version.filename()));
  for (const std::string_view name : {kCertificateName, kKeyName, kCaCertificateName}) {
    const fs::path wanted = fs::path(kDataLink) / name;
    if (fs::read_symlink(out_directory / name, ignored) != wanted) NOVA_TRY(ReplaceLink(out_directory / name, wanted));
  }
  NOVA_TRY(Sync(out_directory));
  RemoveEntries(out_directory, kVersionPrefix, {version.filename().string(), previous});
  return Ok();
}

bool Authority::NeedsRenewal(const LeafSpec& spec, const fs::path& out_directory, double fraction_min) const {
  const auto names = NamesOf(spec);
  const CertificateFiles files = FilesIn(out_directory);
  auto texts = ReadCertificateFiles(files);
  // A malformed spec is for Issue to report.
  if (!names || !texts || texts->ca_pem != state_->certificate_pem) return true;
  const auto set = ValidateCertificateTexts(*std::move(texts), files, Usage::kServer, state_->clock);
  if (!set) return true;
  const CertificateInfo& info = set->info;
  const Names found{.dns = {info.dns_names.begin(), info.dns_names.end()},
                    .ips = {info.ip_addresses.begin(), info.ip_addresses.end()}};
  if (info.principal != spec.principal || found != *names) return true;
  if (spec.owner) {
    struct stat status{};
    if (::stat(files.key.path.c_str(), &status) != 0 || status.st_uid != spec.owner->uid ||
        status.st_gid != spec.owner->gid)
      return true;
  }
  using Fractional = std::chrono::duration<double>;
  const Fractional lifetime = info.not_after - info.not_before;
  const Fractional left = info.not_after - state_->clock.WallNow();
  return left < lifetime * fraction_min;
}

}  // namespace nova::tls
