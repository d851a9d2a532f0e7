// The certificates of a data folder: who has one, to whom its files belong, which of them are due. What is known about
// them is known here, for `nova up`, which renews them, and for `nova certs`, which rotates them from another process.
//
//   const Certificates certificates(layout, topology.principals, accounts, up.leaf_lifetime);
//   NOVA_TRY(auto authority, tls::Authority::Load(layout.authority(), clock));
//   const Renewal renewal = certificates.RenewDue(authority);
#pragma once

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "local/data_dir.h"
#include "local/file.h"
#include "local/postgres_server.h"
#include "nova/base/result.h"
#include "nova/tls/authority.h"
#include "nova/tls/certificate.h"

namespace nova::local {

inline constexpr std::string_view kPostgresPrincipal = "postgres";
inline constexpr std::string_view kPoolerPrincipal = "pgbouncer";

// As a Kubernetes TLS secret names them.
tls::CertificateFiles FilesOf(const std::filesystem::path& folder);

// The accounts that servers run as when root starts them; nobody otherwise.
struct ServerAccounts {
  std::optional<User> postgres;  // and PgBouncer's
  std::optional<User> redis;
};

// Errors: NOT_FOUND naming the account that this machine does not have.
Result<ServerAccounts> FindServerAccounts();

struct Renewal {
  // Whose files are new.
  std::vector<std::string> changed = {};
  // The first error of Authority::Issue and IssueTrust, and whose it was.
  Result<void> outcome = Ok();
};

// Thread-safe.
class Certificates {
 public:
  // As cert-manager's.
  static constexpr std::chrono::seconds kLifetimeDefault = std::chrono::days(90);

  // `principals`: the topology's; those of PostgreSQL, PgBouncer and Redis are added.
  Certificates(Layout layout, std::vector<std::string> principals, ServerAccounts accounts,
               std::chrono::seconds lifetime);

  const std::vector<std::string>& principals() const { return principals_; }
  // Errors: INVALID_ARGUMENT naming those there are.
  Result<void> CheckPrincipal(std::string_view principal) const;
  std::filesystem::path FolderOf(std::string_view principal) const { return layout_.certificate(principal); }
  tls::LeafSpec LeafOf(const std::string& principal) const;
  // Those who have a set, good or bad.
  std::vector<std::string> Issued() const;

  // Issues what is missing, about to end, of another authority, or made for a longer life than is asked for now; and
  // corrects whom the others trust. One set that cannot be written keeps no other from its renewal.
  Renewal RenewDue(tls::Authority& authority) const;

 private:
  bool IsDue(const tls::Authority& authority, const tls::LeafSpec& spec) const;

  const Layout layout_;
  const ServerAccounts accounts_;
  const std::chrono::seconds lifetime_;
  std::vector<std::string> principals_;  // constant after construction
};

// Tells whether a set was replaced, whoever did that and however: the three files are compared by content, so the link
// swap of a mounted Secret is seen, too. Used by one thread at a time.
class CertificateWatch {
 public:
  // What is there now counts as known.
  explicit CertificateWatch(TlsFiles files);

  // Whether the files are others than at the last call. One that cannot be read counts as empty.
  bool Changed();

 private:
  std::string Digest() const;

  TlsFiles files_;
  std::string known_;
};

}  // namespace nova::local
