// A certificate authority for one machine: what `nova up` and the tests use where Kubernetes has cert-manager. Its keys
// lie in plain files of mode 0600, so it must never sign for production.
//
//   NOVA_TRY(auto authority, Authority::LoadOrCreate(data / "ca", clock));
//   const LeafSpec spec{.principal = "identity"};
//   if (authority.NeedsRenewal(spec, data / "identity")) NOVA_TRY(authority.Issue(spec, data / "identity"));
#pragma once

#include <chrono>
#include <cstdint>
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

// An authority is replaced in three steps, so that at each moment everybody trusts whoever signs; between two of them
// every process must have taken up the sets that the last one changed.
enum class AuthorityRotation : std::uint8_t {
  kNone,
  kNextTrusted,    // the next authority is trusted, and signs nothing yet
  kFormerTrusted,  // the next one signs; the former is still trusted
};

// Safe to use from one thread at a time. Holds the lock of its directory as long as it lives, so keep it for one piece
// of work: `nova up` and `nova certs` work on the same one.
class Authority {
 public:
  // `directory` gets ca.crt and ca.key (ECDSA P-256, ten years), which are links through `..data`, as those of Issue:
  // it appears complete or not at all. What an interrupted creation left is removed. `clock` must outlive the
  // authority. Errors: ALREADY_EXISTS if `directory` has files in it; FAILED_PRECONDITION if it cannot be written. All
  // three: ABORTED if another process works on it for longer than kLockLimit, or
  // `lock_limit`.
  static constexpr std::chrono::milliseconds kLockLimit{5000};
  static Result<Authority> Create(const std::filesystem::path& directory, const Clock& clock);
  // Errors: NOT_FOUND if there is no authority; FAILED_PRECONDITION, with the remedy, if there is half of one, if it
  // cannot be read, or if it has expired.
  static Result<Authority> Load(const std::filesystem::path& directory, const Clock& clock,
                                std::chrono::milliseconds lock_limit = kLockLimit);
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

  // True if Issue is due: nothing usable is there, it is not of who signs, its names differ from the spec's, or less
  // than `fraction_min` of its lifetime is left. Whom it trusts is NeedsTrust's question.
  bool NeedsRenewal(const LeafSpec& spec, const std::filesystem::path& out_directory,
                    double fraction_min = 1.0 / 3) const;

  // The certificate of who signs, PEM.
  const std::string& certificate_pem() const;
  // What the leaves of Issue trust, as their ca.crt: the former as well, while one is replaced by the other.
  const std::string& trusted_pem() const;
  // True if a set that Issue made trusts others than it should now, or nobody.
  bool NeedsTrust(const std::filesystem::path& out_directory) const;
  // Replaces ca.crt of such a set as Issue does, and leaves certificate and key as they are; of the spec only the owner
  // matters. Errors: FAILED_PRECONDITION if the certificate would not verify then (NeedsRenewal comes first), or the
  // directory cannot be written.
  Result<void> IssueTrust(const LeafSpec& spec, const std::filesystem::path& out_directory);

  // Replacing the authority. Each step is in effect, and durable, when it returns, and lets the next one through; a
  // process that is killed in one leaves the directory as before or after it. Directories that were made before there
  // was this, with plain files, are taken over by the first step. Errors: FAILED_PRECONDITION if it is another step's
  // turn, or the directory cannot be written.
  AuthorityRotation rotation() const;
  // kNone to kNextTrusted. Then IssueTrust for every set.
  Result<void> IntroduceNext();
  // kNextTrusted to kFormerTrusted. Then Issue for every set. The former authority's key is gone for good: nothing is
  // signed with it any more, and who steals the directory from here on cannot.
  Result<void> SignWithNext();
  // kFormerTrusted to kNone. Then IssueTrust for every set.
  Result<void> WithdrawFormer();

 private:
  struct State;
  explicit Authority(std::unique_ptr<State> state);

  std::unique_ptr<State> state_;
};

}  // namespace nova::tls
