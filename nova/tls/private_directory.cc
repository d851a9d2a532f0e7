#include "nova/tls/private_directory.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <string>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>

#include "nova/tls/files.h"

namespace nova::tls {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kDirectoryPrefix = "nova-tls-";
constexpr std::string_view kLockName = "lock";
constexpr std::string_view kCurrentName = "current";

fs::path TemporaryDirectory() {
  const char* directory = std::getenv("TMPDIR");
  return directory != nullptr && *directory != '\0' ? directory : "/tmp";
}

Error WithRemedy(const std::string& problem) {
  return FailedPrecondition(problem + "; set TMPDIR to a directory this user may write");
}

}  // namespace

PrivateDirectory::PrivateDirectory(fs::path path) : path_(std::move(path)) {}

PrivateDirectory::~PrivateDirectory() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
  if (lock_ >= 0) ::close(lock_);
}

Result<std::unique_ptr<PrivateDirectory>> PrivateDirectory::Create(const fs::path& parent) {
  const fs::path place = parent.empty() ? TemporaryDirectory() : parent;
  RemoveAbandoned(place);
  auto path = MakeUniqueDirectory(place, kDirectoryPrefix);
  if (!path) return WithRemedy(path.error().message());
  auto directory = std::unique_ptr<PrivateDirectory>(new PrivateDirectory(*std::move(path)));
  // Locked under another name first: under its own it must never be seen unlocked.
  const fs::path lock = directory->path_ / kLockName;
  const fs::path fresh = lock.string() + ".new";
  directory->lock_ = ::open(fresh.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (directory->lock_ < 0 || ::flock(directory->lock_, LOCK_EX | LOCK_NB) != 0 ||
      ::rename(fresh.c_str(), lock.c_str()) != 0)
    return WithRemedy("cannot lock " + lock.string() + ": " + std::strerror(errno));
  return directory;
}

void PrivateDirectory::RemoveAbandoned(const fs::path& parent) {
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

Result<void> PrivateDirectory::Publish(const std::vector<File>& files, WallTime now) {
  const std::string name = "v" + std::to_string(version_ + 1);
  const fs::path folder = path_ / name;
  std::error_code ignored;
  fs::remove_all(folder, ignored);
  if (::mkdir(folder.c_str(), 0700) != 0)
    return FailedPrecondition("cannot create " + folder.string() + ": " + std::strerror(errno));
  // gRPC reads the key, then the certificate, and takes them for a pair if the modification times, in whole seconds,
  // are the same before and after. Two versions of one second would let a torn read through, so no two share a second.
  const std::time_t stamp = std::max(stamp_ + 1, std::chrono::system_clock::to_time_t(now));
  const struct timespec times[2] = {{.tv_sec = stamp, .tv_nsec = 0}, {.tv_sec = stamp, .tv_nsec = 0}};
  for (const File& file : files) {
    NOVA_TRY(WriteNewFile(folder / file.name, file.content, 0600));
    if (::utimensat(AT_FDCWD, (folder / file.name).c_str(), times, 0) != 0)
      return FailedPrecondition("cannot set the time of files in " + folder.string() + ": " + std::strerror(errno));
  }
  NOVA_TRY(ReplaceLink(path_ / kCurrentName, name));
  ++version_;
  stamp_ = stamp;
  // The version before stays for readers that have only resolved the link.
  if (version_ > 2) fs::remove_all(path_ / ("v" + std::to_string(version_ - 2)), ignored);
  return Ok();
}

fs::path PrivateDirectory::PathOf(std::string_view name) const { return path_ / kCurrentName / name; }

}  // namespace nova::tls
