// Where a publisher of this folder keeps what others read of it: a directory of its own, whose files are replaced all
// at once and are gone when it is. Included by the sources of this folder only.
#pragma once

#include <cstdint>
#include <ctime>
#include <filesystem>
#include <memory>
#include <string_view>
#include <vector>

#include "nova/base/clock.h"
#include "nova/base/result.h"

namespace nova::tls {

// The owner holds a lock on a file in the directory, which the kernel releases if the owner is killed: that is how the
// next one knows what to remove. Not thread-safe, except for PathOf().
class PrivateDirectory {
 public:
  struct File {
    std::string_view name;
    std::string_view content;
  };

  // Makes a directory of mode 0700 in `parent` (empty: $TMPDIR, else /tmp), and removes those that killed processes of
  // this user left there. Errors: FAILED_PRECONDITION, naming TMPDIR.
  static Result<std::unique_ptr<PrivateDirectory>> Create(const std::filesystem::path& parent);
  ~PrivateDirectory();
  PrivateDirectory(const PrivateDirectory&) = delete;
  PrivateDirectory& operator=(const PrivateDirectory&) = delete;

  // Replaces all files at once: a reader finds the former ones or these. The former ones stay until the next time, for
  // readers that have only resolved the link. Errors: FAILED_PRECONDITION; then the former ones go on to be published.
  Result<void> Publish(const std::vector<File>& files, WallTime now);

  // Constant: where the file of this name is, once it was published.
  std::filesystem::path PathOf(std::string_view name) const;

 private:
  explicit PrivateDirectory(std::filesystem::path path);
  static void RemoveAbandoned(const std::filesystem::path& parent);

  const std::filesystem::path path_;
  int lock_ = -1;
  std::uint64_t version_ = 0;
  std::time_t stamp_ = 0;
};

}  // namespace nova::tls
