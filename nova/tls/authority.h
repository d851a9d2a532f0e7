// A certificate authority for one machine: what `nova up` and the tests use where Kubernetes has cert-manager. Its keys
// lie in plain files of mode 0600, so it must never sign for production.
//
//   NOVA_TRY(auto authority, Authority::LoadOrCreate(data / "ca", clock));
//   const LeafSpec spec{.principal = "identity"};
//   if (authority.NeedsRenewal(spec, data / "identity")) NOVA_TRY(authority.Issue(spec, data / "identity"));
#pragma once

#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <sys/types.h>
#include <vector>

#include "nova/base/clock.h"
#include "nova/base/result.h"

namespace nova::tls {

// The user a file is given to; needs root. PostgreSQL and PgBouncer run as a user of their own and read their key.
struct FileOwner {
  uid_t uid;
  gid_t gid;
};

struct LeafSpec {
  // Becomes the name `spiffe://nova/<principal>` and the DNS name `<principal>.nova.svc.cluster.local`. Every leaf also
  // carries localhost, 127.0.0.1 and ::1, and may act as server and as client.
  std::string principal;
  std::vector<std::string> dns_extra;
  std::vector<std::string> ips_extra;
  // From issue; ends with the authority if that is earlier. The default is cert-manager's.
  std::chrono::seconds lifetime = std::chrono::days(90);
  std::optional<FileOwner> owner;
};

// Safe to use from one thread at a time; one process per directory.
class Authority {
 public:
  // `directory` gets ca.crt and ca.key (ECDSA P-256, ten years). It appears complete or not at all; what an interrupted
  // creation left beside it is removed. `clock` must outlive the authority.
  // Errors: ALREADY_EXISTS if `directory` has files in it; FAILED_PRECONDITION if it cannot be written.
  static Result<Authority> Create(const std::filesystem::path& directory, const Clock& clock);
  // Errors: NOT_FOUND if there is no authority; FAILED_PRECONDITION, with the remedy, if there is half of one, if it
  // cannot be read, or if it has expired.
  static Result<Authority> Load(const std::filesystem::path& directory, const Clock& clock);
  static Result<Authority> LoadOrCreate(const std::filesystem::path& directory, const Clock& clock);

  Authority(Authority&&) noexcept;
  Authority& operator=(Authority&&) noexcept;
  ~Authority();

  // Writes tls.crt, tls.key (mode 0600) and ca.crt into `out_directory` with a new key. A re-issue replaces all three
  // at once, as Kubernetes does for a mounted Secret: the names are links through `..data`, which is swapped
  // atomically, so paths stay constant and a reader finds either the old set or the new one. The previous set stays on
  // disk until the next issue, for readers that have only resolved the link. An interrupted issue leaves the old set in
  // place. Errors: INVALID_ARGUMENT for a malformed spec; FAILED_PRECONDITION if the directory cannot be written.
  Result<void> Issue(const LeafSpec& spec, const std::filesystem::path& out_directory);

  // True if Issue is due: nothing usable is there, it is not of this authority, its names differ from the spec's, or
  // less than `fraction_min` of its lifetime is left.
  bool NeedsRenewal(const LeafSpec& spec, const std::filesystem::path& out_directory,
                    double fraction_min = 1.0 / 3) const;

  // The authority's certificate, PEM.
  const std::string& certificate_pem() const;

 private:
  struct State;
  explicit Authority(std::unique_ptr<State> state);

  std::unique_ptr<State> state_;
};

}  // namespace nova::tls
