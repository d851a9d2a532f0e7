// Replacing the certificates of a data folder, under a stack that runs or without one: `nova certs rotate`. The files
// are replaced at once; a rotation is done when every process has the new ones in memory.
//
//   const RotationConfig rotation{.data_dir = root, .principals = topology.principals};
//   NOVA_TRY(RotateLeaves(rotation));
//   NOVA_TRY(RotateAuthority(rotation));
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "local/certificates.h"
#include "local/certificates_in_use.h"
#include "nova/base/clock.h"
#include "nova/base/result.h"
#include "nova/tls/authority.h"

namespace nova::local {

struct RotationConfig {
  // How long all processes together may take until they have new files in memory. They look once a second.
  static constexpr std::chrono::seconds kTakeUpLimit{30};

  std::filesystem::path data_dir;
  // The topology's.
  std::vector<std::string> principals;
  // Of new leaves; 0: as the running stack issues them, else Certificates::kLifetimeDefault. A stack shortens what
  // outlives its own.
  std::chrono::seconds lifetime{0};
  std::chrono::milliseconds take_up_limit = kTakeUpLimit;
  // Told what is being done or waited for, in a few words. May be empty.
  std::function<void(std::string_view)> progress = {};
};

struct RotationReport {
  // Whose leaf is new.
  std::vector<std::string> principals;
  // A stack runs, and each of its processes uses what is new.
  bool live = false;
  // An earlier run was interrupted, and this one has finished its work before its own.
  bool continued = false;
};

// All that write. Errors, one line each: NOT_FOUND when there is no data folder, or no authority in it;
// PERMISSION_DENIED when the folder is another account's; INVALID_ARGUMENT when there is no such principal;
// FAILED_PRECONDITION when the stack starts or stops, another rotation is under way, or a file cannot be written;
// ABORTED as Authority::Load.

// Issues the leaves of `principals`, or of everyone who has one, anew. Errors also: DEADLINE_EXCEEDED when a process
// has not taken up its leaf within the limit, naming it and its log; the files are replaced then.
Result<RotationReport> RotateLeaves(const RotationConfig& config, const std::vector<std::string>& principals = {});

// Replaces the authority, and with it every leaf, in the steps of tls::Authority; waits after each one. What an earlier
// run has begun, it finishes first. Who signs afterwards has a key that this run has made. Errors also:
// DEADLINE_EXCEEDED as above; the rotation is under way then, everybody trusts each other, and the next run goes on.
Result<RotationReport> RotateAuthority(const RotationConfig& config);

// Issues one leaf of the data folder and does not wait for who uses it. Returns its folder.
Result<std::filesystem::path> IssueLeaf(const RotationConfig& config, const std::string& principal);

// Gives `principal` a leaf that ends in `left`, and does not wait. One with less than half a minute left is due at
// once, and a running stack renews it within a second or two.
Result<void> ShortenLeaf(const RotationConfig& config, const std::string& principal, std::chrono::seconds left);

// The certificates of an existing data folder, to look at: owners are left out. Errors: NOT_FOUND when there is no such
// folder.
Result<Certificates> CertificatesOf(const RotationConfig& config);

// Everything that `nova certs show` shows.
struct CertificatesView {
  struct Set {
    std::string principal;
    CertificateOnDisk on_disk;
  };
  struct ProcessView {
    ProcessCertificates seen;
    // It has in memory what is on the disk.
    bool current = false;
  };
  struct AuthorityView {
    tls::AuthorityInfo signer;
    tls::AuthorityRotation rotation = tls::AuthorityRotation::kNone;
    // A replacement is under way: between two steps, or some set does not know of the last one yet.
    bool under_way = false;
  };

  std::filesystem::path data_dir;
  bool running = false;
  std::optional<AuthorityView> authority;
  // Why there is no authority to see.
  std::string authority_problem;
  std::vector<Set> sets;
  std::vector<ProcessView> processes;
};

// Looks at the folder and asks the processes that run on it; changes nothing. Errors: NOT_FOUND when there is no such
// folder.
Result<CertificatesView> ViewCertificates(const RotationConfig& config);

}  // namespace nova::local
