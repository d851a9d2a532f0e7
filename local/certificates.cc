#include "local/certificates.h"

#include <algorithm>
#include <array>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sodium.h>
#include <system_error>
#include <unistd.h>
#include <utility>

#include "local/redis_server.h"
#include "nova/base/clock.h"

namespace nova::local {
namespace {

namespace fs = std::filesystem;
using std::chrono::seconds;

// Who runs PostgreSQL and PgBouncer when this process is root; Debian's packages make the account, and Redis's.
constexpr const char* kPostgresAccount = "postgres";
// Certificates count in whole seconds.
constexpr seconds kLifetimeSlack{2};

}  // namespace

tls::CertificateFiles FilesOf(const fs::path& folder) {
  const TlsFiles files = TlsFiles::In(folder);
  return {.certificate = {.path = files.certificate, .variable = {}},
          .key = {.path = files.key, .variable = {}},
          .ca = {.path = files.ca, .variable = {}}};
}

Result<ServerAccounts> FindServerAccounts() {
  ServerAccounts accounts;
  if (::geteuid() != 0) return accounts;
  NOVA_TRY(accounts.postgres, FindUser(kPostgresAccount));
  NOVA_TRY(accounts.redis, FindUser(kRedisAccount));
  return accounts;
}

Certificates::Certificates(Layout layout, std::vector<std::string> principals, ServerAccounts accounts,
                           seconds lifetime)
    : layout_(std::move(layout)),
      accounts_(std::move(accounts)),
      lifetime_(lifetime),
      principals_(std::move(principals)) {
  for (const std::string_view server : {kPostgresPrincipal, kPoolerPrincipal, kRedisPrincipal})
    principals_.emplace_back(server);
}

Result<void> Certificates::CheckPrincipal(std::string_view principal) const {
  if (std::ranges::find(principals_, principal) != principals_.end()) return Ok();
  return InvalidArgument(
      fmt::format("there is no principal '{}'; those there are: {}", principal, fmt::join(principals_, ", ")));
}

tls::LeafSpec Certificates::LeafOf(const std::string& principal) const {
  tls::LeafSpec spec{.principal = principal, .lifetime = lifetime_};
  std::optional<User> owner;
  if (principal == kPostgresPrincipal || principal == kPoolerPrincipal) owner = accounts_.postgres;
  if (principal == kRedisPrincipal) owner = accounts_.redis;
  if (owner) spec.owner = tls::FileOwner{.uid = owner->uid, .gid = owner->gid};
  return spec;
}

std::vector<std::string> Certificates::Issued() const {
  std::vector<std::string> issued;
  std::error_code ignored;
  for (const std::string& principal : principals_) {
    if (fs::exists(TlsFiles::In(FolderOf(principal)).certificate, ignored)) issued.push_back(principal);
  }
  return issued;
}

bool Certificates::IsDue(const tls::Authority& authority, const tls::LeafSpec& spec) const {
  const fs::path folder = FolderOf(spec.principal);
  if (authority.NeedsRenewal(spec, folder)) return true;
  // A shorter life than before must not wait for the end of the longer one.
  const Clock& clock = Clock::System();
  const auto set = tls::LoadCertificateSet(FilesOf(folder), tls::Usage::kServer, clock);
  // One that does not load with the authorities beside it is mended by IssueTrust.
  return set && set->info.not_after > clock.WallNow() + lifetime_ + kLifetimeSlack;
}

Renewal Certificates::RenewDue(tls::Authority& authority) const {
  Renewal renewal;
  for (const std::string& principal : principals_) {
    const tls::LeafSpec spec = LeafOf(principal);
    const fs::path folder = FolderOf(principal);
    Result<void> done = Ok();
    if (IsDue(authority, spec)) {
      done = authority.Issue(spec, folder);
    } else if (authority.NeedsTrust(folder)) {
      done = authority.IssueTrust(spec, folder);
    } else {
      continue;
    }
    if (done) {
      renewal.changed.push_back(principal);
    } else if (renewal.outcome) {
      renewal.outcome = Error(done.error()).WithContext(principal);
    }
  }
  return renewal;
}

CertificateWatch::CertificateWatch(TlsFiles files) : files_(std::move(files)), known_(Digest()) {}

bool CertificateWatch::Changed() {
  std::string digest = Digest();
  if (digest == known_) return false;
  known_ = std::move(digest);
  return true;
}

// Instead of the content, which holds a key.
std::string CertificateWatch::Digest() const {
  std::string digests;
  for (const fs::path* path : {&files_.certificate, &files_.key, &files_.ca}) {
    auto content = ReadFile(*path);
    const Secret<> text(content ? *std::move(content) : std::string());
    std::array<unsigned char, crypto_hash_sha256_BYTES> digest;
    ::crypto_hash_sha256(digest.data(), reinterpret_cast<const unsigned char*>(text.Expose().data()),
                         text.Expose().size());
    digests.append(digest.begin(), digest.end());
  }
  return digests;
}

}  // namespace nova::local
