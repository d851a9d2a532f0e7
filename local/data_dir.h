// The folder that one `nova up` owns: database, certificates, secrets, logs, state. A lock file says who runs on it; a
// marker, nova.json, says that the folder is ours, so that nothing else is ever overwritten or removed.
//
//   NOVA_TRY(auto folder, DataDir::Open("/var/lib/nova", {.port_base = 7400}));
//   NOVA_TRY(auto password, folder.Password("identity"));
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <sys/types.h>

#include "local/file.h"
#include "nova/base/clock.h"
#include "nova/base/result.h"
#include "nova/base/secret.h"

namespace nova::local {

// Where things are. Makes no file.
struct Layout {
  std::filesystem::path root;

  std::filesystem::path lock() const { return root / "lock"; }
  std::filesystem::path marker() const { return root / "nova.json"; }
  std::filesystem::path state() const { return root / "state.json"; }
  std::filesystem::path authority() const { return root / "ca"; }
  std::filesystem::path certificates() const { return root / "certs"; }
  // Held by whoever replaces certificates step by step.
  std::filesystem::path rotation_lock() const { return root / "rotation.lock"; }
  // tls.crt, tls.key, ca.crt of one principal.
  std::filesystem::path certificate(std::string_view principal) const { return certificates() / principal; }
  std::filesystem::path secrets() const { return root / "secrets"; }
  // The password of a database role.
  std::filesystem::path password(std::string_view role) const { return secrets() / (std::string(role) + ".password"); }
  // The password of a user of Redis, which has nothing to do with that of the database role of the same name.
  std::filesystem::path redis_password(std::string_view user) const { return password(RedisSecret(user)); }
  static std::string RedisSecret(std::string_view user) { return "redis_" + std::string(user); }
  // What identity signs tokens with; nobody else is told this path.
  std::filesystem::path signing_key() const { return secrets() / "identity_signing_key.pem"; }
  std::filesystem::path logs() const { return root / "logs"; }
  std::filesystem::path log(std::string_view component) const { return logs() / (std::string(component) + ".log"); }
  std::filesystem::path cluster() const { return root / "postgres"; }
  std::filesystem::path pooler() const { return root / "pgbouncer"; }
  std::filesystem::path redis() const { return root / "redis"; }
  std::filesystem::path services() const { return root / "services"; }
  // The working directory of a service.
  std::filesystem::path service(std::string_view name) const { return services() / name; }
};

// /var/lib/nova for root, else $XDG_DATA_HOME/nova or ~/.local/share/nova. Errors: FAILED_PRECONDITION when neither
// variable is set.
Result<std::filesystem::path> DefaultDataDir(const std::map<std::string, std::string>& environment, uid_t uid);

struct DataDirOptions {
  // For people: what the folder was made with.
  int port_base = 0;
};

// Holds the folder's lock as long as it lives.
class DataDir {
 public:
  // The format of the folder that this program writes.
  static constexpr int kFormat = 1;

  // Makes the folder, or takes an existing one that carries our marker. Errors: FAILED_PRECONDITION, one line with the
  // remedy: somebody runs on it, it holds something else, it is of another format, it cannot be written.
  static Result<DataDir> Open(const std::filesystem::path& root, const DataDirOptions& options,
                              const Clock& clock = Clock::System());

  const Layout& layout() const { return layout_; }

  // The password of a database role, or of a user of Redis: the one in secrets/, or a new one that is kept there.
  // Errors: INTERNAL.
  Result<Secret<>> Password(std::string_view role) const;
  Result<Secret<>> RedisPassword(std::string_view user) const { return Password(Layout::RedisSecret(user)); }

  // The cluster, which is made by another program, is either not there yet or whole.
  // Errors: FAILED_PRECONDITION, with the remedy, when it was there once and is gone, or is there in part.
  Result<bool> HasCluster() const;
  // To be called once when the cluster has been made: from now on a folder without it is damaged.
  Result<void> MarkInitialized();

 private:
  struct Marker {
    int format = kFormat;
    int port_base = 0;
    std::string created;
    bool initialized = false;
  };
  DataDir(Layout layout, FileLock lock, Marker marker);
  static Result<Marker> ReadMarker(const Layout& layout);
  static Result<void> WriteMarker(const Layout& layout, const Marker& marker);
  friend Result<void> WipeDataDir(const std::filesystem::path& root);

  Layout layout_;
  FileLock lock_;
  Marker marker_;
};

// The supervisor that runs on a folder; 0 when nobody does. A pid that it just got and has not written yet counts as 0.
pid_t SupervisorOf(const Layout& layout);

// Removes a folder and everything in it. Errors: FAILED_PRECONDITION when somebody runs on it, or when it carries no
// marker of ours; NOT_FOUND when there is none.
Result<void> WipeDataDir(const std::filesystem::path& root);

}  // namespace nova::local
