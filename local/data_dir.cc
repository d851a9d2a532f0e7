#include "local/data_dir.h"

#include <boost/json.hpp>
#include <charconv>
#include <fmt/format.h>
#include <system_error>
#include <unistd.h>
#include <utility>
#include <vector>

#include "local/process.h"
#include "local/redis_server.h"
#include "nova/base/timestamp.h"

namespace nova::local {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

constexpr std::string_view kOtherFolder = "choose another folder with --data-dir or NOVA_UP_DATA_DIR";
constexpr std::string_view kStartAnew = "restore it from a copy, or start anew with `nova down --wipe`";

constexpr Duration kOrphanLimit = std::chrono::seconds(10);

// What a start that was interrupted before it wrote the marker leaves behind.
bool IsOwnLeftover(const fs::path& path, const Layout& layout) {
  return path == layout.lock() || path.filename().string().starts_with("nova.json.");
}

// A path inside the folder that is there and not ours; empty when there is none.
Result<fs::path> Foreign(const Layout& layout) {
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(layout.root, error)) {
    if (!IsOwnLeftover(entry.path(), layout)) return entry.path();
  }
  if (error) {
    return FailedPrecondition(
        fmt::format("cannot read {} ({}); {}", layout.root.string(), error.message(), kOtherFolder));
  }
  return fs::path();
}

Error Damaged(const Layout& layout, std::string_view what) {
  return FailedPrecondition(
      fmt::format("the data folder {} is damaged: {}; {}", layout.root.string(), what, kStartAnew));
}

}  // namespace

Result<fs::path> DefaultDataDir(const std::map<std::string, std::string>& environment, uid_t uid) {
  if (uid == 0) return fs::path("/var/lib/nova");
  auto value = [&](const char* name) {
    auto found = environment.find(name);
    return found == environment.end() ? std::string() : found->second;
  };
  // The specification of XDG_DATA_HOME says to pass over relative paths.
  if (fs::path data = value("XDG_DATA_HOME"); data.is_absolute()) return data / "nova";
  if (fs::path home = value("HOME"); home.is_absolute()) return home / ".local/share/nova";
  return FailedPrecondition("no data folder: neither XDG_DATA_HOME nor HOME is set; name one with --data-dir");
}

DataDir::DataDir(Layout layout, FileLock lock, Marker marker)
    : layout_(std::move(layout)), lock_(std::move(lock)), marker_(std::move(marker)) {}

Result<DataDir> DataDir::Open(const fs::path& root, const DataDirOptions& options, const Clock& clock) {
  std::error_code error;
  Layout layout{.root = fs::absolute(root, error).lexically_normal()};
  if (!layout.root.has_filename()) layout.root = layout.root.parent_path();
  fs::create_directories(layout.root, error);
  if (error) {
    return FailedPrecondition(
        fmt::format("cannot make the data folder {} ({}); {}", layout.root.string(), error.message(), kOtherFolder));
  }
  // Before the lock, which would already be a file of ours in a folder of somebody else.
  if (!fs::exists(layout.marker(), error)) {
    NOVA_TRY(fs::path foreign, Foreign(layout));
    if (!foreign.empty()) {
      return FailedPrecondition(fmt::format("{} is not empty and was not made by nova (it holds {}); {}",
                                            layout.root.string(), foreign.filename().string(), kOtherFolder));
    }
  }
  auto lock = FileLock::TryAcquire(layout.lock());
  if (!lock && lock.error().code() == Code::kAborted) {
    return FailedPrecondition(fmt::format("nova already runs on {} (pid {}): stop it with `nova down`, or {}",
                                          layout.root.string(), SupervisorOf(layout), kOtherFolder));
  }
  if (!lock) {
    return FailedPrecondition(
        fmt::format("{}; run as the account that owns the data folder, or {}", lock.error().message(), kOtherFolder));
  }
  // The start time tells this process from a later one of the same pid.
  NOVA_TRY(lock->Write(fmt::format("{} {}\n", ::getpid(), StartTicks(::getpid()).value_or(0))));

  Marker marker{.port_base = options.port_base, .created = Timestamp(clock.WallNow())};
  if (fs::exists(layout.marker(), error)) {
    NOVA_TRY(marker, ReadMarker(layout));
  } else {
    NOVA_TRY(WriteMarker(layout, marker));
  }

  // Other accounts must be able to pass through to what is theirs, and see nothing else.
  NOVA_TRY(MakeDirectory(layout.root, 0711));
  NOVA_TRY(MakeDirectory(layout.secrets(), 0700));
  NOVA_TRY(MakeDirectory(layout.logs(), 0700));
  NOVA_TRY(MakeDirectory(layout.certificates(), 0711));
  NOVA_TRY(MakeDirectory(layout.services(), 0700));
  return DataDir(std::move(layout), *std::move(lock), std::move(marker));
}

Result<DataDir::Marker> DataDir::ReadMarker(const Layout& layout) {
  auto text = ReadFile(layout.marker());
  if (!text) return FailedPrecondition(fmt::format("{}; {}", text.error().message(), kOtherFolder));
  std::error_code error;
  json::value value = json::parse(*text, error);
  const json::object* object = error ? nullptr : value.if_object();
  const json::value* format = object == nullptr ? nullptr : object->if_contains("format");
  if (format == nullptr || !format->is_int64()) return Damaged(layout, "nova.json does not say what format it has");
  if (format->get_int64() != kFormat) {
    return FailedPrecondition(fmt::format("{} has format {} and this nova knows {}: run the nova that made it, or {}",
                                          layout.root.string(), format->get_int64(), kFormat, kOtherFolder));
  }
  Marker marker;
  if (const json::value* base = object->if_contains("port_base"); base != nullptr && base->is_int64()) {
    marker.port_base = static_cast<int>(base->get_int64());
  }
  if (const json::value* created = object->if_contains("created"); created != nullptr && created->is_string()) {
    marker.created = std::string(created->get_string());
  }
  const json::value* initialized = object->if_contains("initialized");
  marker.initialized = initialized != nullptr && initialized->is_bool() && initialized->get_bool();
  return marker;
}

Result<void> DataDir::WriteMarker(const Layout& layout, const Marker& marker) {
  json::object object{{"format", marker.format},
                      {"port_base", marker.port_base},
                      {"created", marker.created},
                      {"initialized", marker.initialized}};
  return WriteFile(layout.marker(), json::serialize(object) + "\n", {.mode = 0644});
}

Result<Secret<>> DataDir::Password(std::string_view role) const {
  const fs::path path = layout_.password(role);
  auto text = ReadFile(path);
  if (text && !text->empty()) return Secret<>(*std::move(text));
  if (!text && text.error().code() != Code::kNotFound) return std::move(text).error();
  Secret<> password(RandomText());
  NOVA_TRY(WriteFile(path, password.Expose(), {.mode = 0600}));
  return password;
}

Result<bool> DataDir::HasCluster() const {
  std::error_code error;
  if (!fs::exists(layout_.cluster(), error)) {
    if (marker_.initialized) return Damaged(layout_, "its folder postgres is gone");
    return false;
  }
  for (const char* part : {"PG_VERSION", "global/pg_control"}) {
    if (!fs::exists(layout_.cluster() / part, error)) {
      return Damaged(layout_, fmt::format("postgres/{} is missing", part));
    }
  }
  return true;
}

Result<void> DataDir::MarkInitialized() {
  if (marker_.initialized) return Ok();
  marker_.initialized = true;
  return WriteMarker(layout_, marker_);
}

pid_t SupervisorOf(const Layout& layout) {
  if (!FileLock::IsHeld(layout.lock())) return 0;
  auto text = ReadFile(layout.lock());
  if (!text) return 0;
  pid_t pid = 0;
  std::uint64_t ticks = 0;
  auto [space, error] = std::from_chars(text->data(), text->data() + text->size(), pid);
  if (error != std::errc() || space == text->data() + text->size()) return 0;
  if (std::from_chars(space + 1, text->data() + text->size(), ticks).ec != std::errc()) return 0;
  return StartTicks(pid) == ticks ? pid : 0;
}

Result<void> WipeDataDir(const fs::path& root) {
  std::error_code error;
  Layout layout{.root = fs::canonical(root, error)};
  if (error) return NotFound(fmt::format("there is no data folder {}", root.string()));
  if (!fs::exists(layout.marker(), error)) {
    return FailedPrecondition(
        fmt::format("{} was not made by nova (no nova.json): nothing was removed; name the data "
                    "folder with --data-dir",
                    layout.root.string()));
  }
  auto lock = FileLock::TryAcquire(layout.lock());
  if (!lock) {
    return FailedPrecondition(fmt::format("nova runs on {} (pid {}): nothing was removed; stop it with `nova down`",
                                          layout.root.string(), SupervisorOf(layout)));
  }
  // A supervisor that was killed just now may have left a server that still writes.
  NOVA_TRY(EndOrphans(layout.cluster(), "postgres", kOrphanLimit));
  NOVA_TRY(EndOrphans(layout.pooler(), "pgbouncer", kOrphanLimit));
  NOVA_TRY(EndRedisOrphans(layout.redis(), kOrphanLimit));
  // The marker goes last, so that what an interrupted wipe leaves can still be wiped.
  std::vector<fs::path> entries;
  for (const fs::directory_entry& entry : fs::directory_iterator(layout.root, error)) {
    if (entry.path() != layout.marker() && entry.path() != layout.lock()) entries.push_back(entry.path());
  }
  for (const fs::path& entry : entries) {
    if (!error) fs::remove_all(entry, error);
  }
  if (!error) fs::remove_all(layout.root, error);
  if (error) return Internal(fmt::format("cannot remove {}: {}", layout.root.string(), error.message()));
  return Ok();
}

}  // namespace nova::local
