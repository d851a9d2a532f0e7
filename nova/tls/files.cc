#include "nova/tls/files.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>

namespace nova::tls {
namespace {

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  const int fd_;
};

Error Failure(std::string_view what, const std::filesystem::path& path, int code) {
  return FailedPrecondition("cannot " + std::string(what) + " " + path.string() + ": " + std::strerror(code));
}

}  // namespace

Result<std::string> ReadFile(const std::filesystem::path& path, std::size_t bytes_max) {
  // Not blocking: a named pipe must be refused, not waited for.
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.get() < 0) return FailedPrecondition(std::strerror(errno));
  struct stat status{};
  if (::fstat(file.get(), &status) != 0) return FailedPrecondition(std::strerror(errno));
  if (!S_ISREG(status.st_mode)) return FailedPrecondition("not a regular file");
  if (std::cmp_greater(status.st_size, bytes_max))
    return FailedPrecondition("larger than " + std::to_string(bytes_max) + " bytes");
  // One allocation of the final size: growing would leave copies of a key behind.
  std::string content(static_cast<std::size_t>(status.st_size), '\0');
  std::size_t filled = 0;
  while (filled < content.size()) {
    const ssize_t count = ::read(file.get(), content.data() + filled, content.size() - filled);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return FailedPrecondition(std::strerror(errno));
    if (count == 0) break;
    filled += static_cast<std::size_t>(count);
  }
  content.resize(filled);
  return content;
}

Result<void> WriteNewFile(const std::filesystem::path& path, std::string_view content, mode_t mode,
                          const std::optional<FileOwner>& owner) {
  const Descriptor file(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode & 0600));
  if (file.get() < 0) return Failure("create", path, errno);
  while (!content.empty()) {
    const ssize_t count = ::write(file.get(), content.data(), content.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return Failure("write", path, errno);
    content.remove_prefix(static_cast<std::size_t>(count));
  }
  if (owner && ::fchown(file.get(), owner->uid, owner->gid) != 0) return Failure("change the owner of", path, errno);
  // After the owner: changing that may clear mode bits, and the umask has had its say.
  if (::fchmod(file.get(), mode) != 0) return Failure("change the mode of", path, errno);
  return Ok();
}

Result<void> ReplaceLink(const std::filesystem::path& link, const std::filesystem::path& target) {
  const std::filesystem::path fresh = link.string() + ".new";
  if (::unlink(fresh.c_str()) != 0 && errno != ENOENT) return Failure("remove", fresh, errno);
  if (::symlink(target.c_str(), fresh.c_str()) != 0) return Failure("create", fresh, errno);
  if (::rename(fresh.c_str(), link.c_str()) != 0) return Failure("replace", link, errno);
  return Ok();
}

Result<std::filesystem::path> MakeUniqueDirectory(const std::filesystem::path& parent, std::string_view prefix) {
  std::string name = (parent / prefix).string() + "XXXXXX";
  if (::mkdtemp(name.data()) == nullptr) return Failure("create a directory in", parent, errno);
  return std::filesystem::path(name);
}

Result<void> Sync(const std::filesystem::path& path) {
  const Descriptor handle(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (handle.get() < 0) return Failure("open", path, errno);
  // Some file systems cannot sync a directory, and need not.
  if (::fsync(handle.get()) != 0 && errno != EINVAL) return Failure("sync", path, errno);
  return Ok();
}

}  // namespace nova::tls
