// Small files that must be there whole or not at all, with exactly the rights and the owner they need: secrets, keys,
// configuration of children, state. Everything here blocks and is meant for the supervisor, not for a service.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <sys/types.h>
#include <vector>

#include "nova/base/result.h"

namespace nova::local {

// An account of this machine that children can run as.
struct User {
  std::string name;
  uid_t uid = 0;
  gid_t gid = 0;
  // Supplementary groups, `gid` included.
  std::vector<gid_t> groups;
};

// Errors: NOT_FOUND when there is no such account.
Result<User> FindUser(const std::string& name);

// "Permission denied" for EACCES; thread-safe, unlike strerror.
std::string ErrnoText(int error);

// The largest file that ReadFile takes: everything read here is a key, a marker or a state file.
inline constexpr std::size_t kReadFileMax = std::size_t{1} << 20;

// Errors: NOT_FOUND; PERMISSION_DENIED; RESOURCE_EXHAUSTED above kReadFileMax; INTERNAL otherwise.
Result<std::string> ReadFile(const std::filesystem::path& path);

struct FileOptions {
  mode_t mode = 0600;
  // Whom the file belongs to; nobody: the account of this process. Only root may give files away.
  std::optional<User> owner = std::nullopt;
  // Whether the file and its directory entry must have reached the disk on return.
  bool durable = true;
};

// Replaces `path` in one step: readers see the old content or the new one. Errors: INTERNAL, naming path and cause.
Result<void> WriteFile(const std::filesystem::path& path, std::string_view content, const FileOptions& options = {});

// Makes one directory, or sets mode and owner of an existing one. The parent must exist.
Result<void> MakeDirectory(const std::filesystem::path& path, mode_t mode,
                           const std::optional<User>& owner = std::nullopt);

// Makes the entries of a directory survive a power loss.
Result<void> SyncDirectory(const std::filesystem::path& path);

// An exclusive lock on a file, for as long as the object lives and not a moment longer: the kernel gives it up when the
// process ends, however it ends. Children do not inherit it. Anybody who may read the file can see whether it is held.
class FileLock {
 public:
  // Never waits. The file is made if it is not there, and it stays. Errors: ABORTED when somebody else holds the lock,
  // with the file's content as detail; PERMISSION_DENIED and INTERNAL otherwise.
  static Result<FileLock> TryAcquire(const std::filesystem::path& path);
  // Whether some process holds the lock; false when there is no such file. Does not disturb anybody who wants it.
  static bool IsHeld(const std::filesystem::path& path);

  FileLock(FileLock&& other) noexcept;
  FileLock& operator=(FileLock&& other) noexcept;
  ~FileLock();

  // Replaces the content: what others are told who want the lock.
  Result<void> Write(std::string_view content);

 private:
  explicit FileLock(int descriptor) : descriptor_(descriptor) {}

  int descriptor_ = -1;
};

// What a program said last before it ended: the last line of its log that is not empty, shortened to 300 bytes. Empty
// when there is none.
std::string LastLineOfFile(const std::filesystem::path& path);

// A random text of 256 bits in hexadecimal, fit for passwords in any configuration syntax.
std::string RandomText();

}  // namespace nova::local
