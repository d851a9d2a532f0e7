#include "local/file.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <fcntl.h>
#include <fmt/format.h>
#include <grp.h>
#include <pwd.h>
#include <sodium.h>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>
#include <utility>

namespace nova::local {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kLastLineBytesMax = 300;

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
  int fd_;
};

Error FileError(std::string_view what, const fs::path& path, int error) {
  std::string message = fmt::format("{} {}: {}", what, path.string(), ErrnoText(error));
  switch (error) {
    case ENOENT:
    case ENOTDIR:
      return NotFound(std::move(message));
    case EACCES:
    case EPERM:
      return PermissionDenied(std::move(message));
    default:
      return Internal(std::move(message));
  }
}

struct flock WholeFile() {
  struct flock whole{};
  whole.l_type = F_WRLCK;
  whole.l_whence = SEEK_SET;
  return whole;
}

}  // namespace

std::string ErrnoText(int error) { return std::system_category().message(error); }

Result<User> FindUser(const std::string& name) {
  std::array<char, 16384> buffer;
  passwd entry;
  passwd* found = nullptr;
  if (::getpwnam_r(name.c_str(), &entry, buffer.data(), buffer.size(), &found) != 0 || found == nullptr) {
    return NotFound(fmt::format("there is no account '{}' on this machine", name));
  }
  User user{.name = name, .uid = entry.pw_uid, .gid = entry.pw_gid, .groups = {}};
  int count = 64;
  user.groups.resize(static_cast<std::size_t>(count));
  if (::getgrouplist(name.c_str(), user.gid, user.groups.data(), &count) < 0) {
    // More than 64 groups: the primary one is enough for what runs here.
    user.groups.assign(1, user.gid);
  } else {
    user.groups.resize(static_cast<std::size_t>(count));
  }
  return user;
}

Result<std::string> ReadFile(const fs::path& path) {
  Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.get() < 0) return FileError("cannot read", path, errno);
  std::string content;
  std::array<char, 8192> chunk;
  while (true) {
    ssize_t got = ::read(file.get(), chunk.data(), chunk.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return FileError("cannot read", path, errno);
    if (got == 0) return content;
    content.append(chunk.data(), static_cast<std::size_t>(got));
    if (content.size() > kReadFileMax) {
      return ResourceExhausted(fmt::format("{} is larger than {} bytes", path.string(), kReadFileMax));
    }
  }
}

Result<void> SyncDirectory(const fs::path& path) {
  Descriptor directory(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (directory.get() < 0 || ::fsync(directory.get()) != 0) return FileError("cannot sync", path, errno);
  return Ok();
}

Result<void> WriteFile(const fs::path& path, std::string_view content, const FileOptions& options) {
  // Beside the target, so that rename stays within one file system; the name carries the process, because two
  // supervisors may look at one folder before the lock decides.
  fs::path temporary = path;
  temporary += fmt::format(".{}.tmp", ::getpid());
  // An older file of that name may carry other rights.
  ::unlink(temporary.c_str());
  Descriptor file(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (file.get() < 0) return FileError("cannot write", path, errno);
  auto fail = [&](int error) {
    ::unlink(temporary.c_str());
    return FileError("cannot write", path, error);
  };
  while (!content.empty()) {
    ssize_t written = ::write(file.get(), content.data(), content.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return fail(errno);
    content.remove_prefix(static_cast<std::size_t>(written));
  }
  // Rights come before the new name: nobody ever opens the file with wider ones.
  if (options.owner && ::fchown(file.get(), options.owner->uid, options.owner->gid) != 0) return fail(errno);
  if (::fchmod(file.get(), options.mode) != 0) return fail(errno);
  if (options.durable && ::fsync(file.get()) != 0) return fail(errno);
  if (::rename(temporary.c_str(), path.c_str()) != 0) return fail(errno);
  if (options.durable) NOVA_TRY(SyncDirectory(path.parent_path()));
  return Ok();
}

Result<void> MakeDirectory(const fs::path& path, mode_t mode, const std::optional<User>& owner) {
  if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) return FileError("cannot make", path, errno);
  Descriptor directory(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (directory.get() < 0) return FileError("cannot open", path, errno);
  if (owner && ::fchown(directory.get(), owner->uid, owner->gid) != 0) return FileError("cannot own", path, errno);
  if (::fchmod(directory.get(), mode) != 0) return FileError("cannot set the rights of", path, errno);
  return Ok();
}

Result<FileLock> FileLock::TryAcquire(const fs::path& path) {
  FileLock lock(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (lock.descriptor_ < 0) return FileError("cannot open", path, errno);
  // Who may read a file may lock it, and keep its owner out.
  if (::fchmod(lock.descriptor_, 0600) != 0) return FileError("cannot set the rights of", path, errno);
  // Of the open file and not of the process, so that closing some other descriptor of it does not give it up.
  struct flock whole = WholeFile();
  if (::fcntl(lock.descriptor_, F_OFD_SETLK, &whole) != 0) {
    if (errno != EAGAIN && errno != EACCES) return FileError("cannot lock", path, errno);
    auto content = ReadFile(path);
    return Aborted(fmt::format("{} is locked", path.string()), content ? *content : std::string());
  }
  return lock;
}

bool FileLock::IsHeld(const fs::path& path) {
  Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct flock whole = WholeFile();
  return file.get() >= 0 && ::fcntl(file.get(), F_OFD_GETLK, &whole) == 0 && whole.l_type != F_UNLCK;
}

FileLock::FileLock(FileLock&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}

FileLock& FileLock::operator=(FileLock&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

FileLock::~FileLock() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

Result<void> FileLock::Write(std::string_view content) {
  if (::ftruncate(descriptor_, 0) != 0 ||
      ::pwrite(descriptor_, content.data(), content.size(), 0) != static_cast<ssize_t>(content.size())) {
    return Internal(fmt::format("cannot write the lock file: {}", ErrnoText(errno)));
  }
  return Ok();
}

std::string LastLineOfFile(const fs::path& path) {
  Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.get() < 0) return {};
  std::array<char, 4096> buffer;
  off_t size = ::lseek(file.get(), 0, SEEK_END);
  off_t begin = std::max<off_t>(0, size - static_cast<off_t>(buffer.size()));
  ssize_t got = ::pread(file.get(), buffer.data(), buffer.size(), begin);
  if (got <= 0) return {};
  std::string_view text(buffer.data(), static_cast<std::size_t>(got));
  auto last = text.find_last_not_of(" \n");
  if (last == std::string_view::npos) return {};
  text = text.substr(0, last + 1);
  if (auto line = text.rfind('\n'); line != std::string_view::npos) text.remove_prefix(line + 1);
  return std::string(text.substr(0, kLastLineBytesMax));
}

std::string RandomText() {
  std::array<unsigned char, 32> bits;
  std::array<char, 65> text;
  ::randombytes_buf(bits.data(), bits.size());
  ::sodium_bin2hex(text.data(), text.size(), bits.data(), bits.size());
  ::sodium_memzero(bits.data(), bits.size());
  return std::string(text.data(), 64);
}

}  // namespace nova::local
