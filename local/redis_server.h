// A private Redis from Debian's package, as a child of this process: on 127.0.0.1 alone, TLS 1.3 only, no user without
// a password and none that may do more than its work, and a log of all writes (the AOF) that survives a kill.
//
//   NOVA_TRY(auto redis, RedisServer::Start({.folder = f, .port = 7479, .tls = tls,
//       .users = {{"identity", password, RedisServiceRules("identity")}}}));
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "local/postgres_server.h"
#include "local/process.h"
#include "local/redis_connection.h"
#include "nova/base/result.h"
#include "nova/base/secret.h"

namespace nova::local {

// Whose certificate Redis presents.
inline constexpr std::string_view kRedisPrincipal = "redis";
// The account of Debian's package. Not PostgreSQL's: whoever breaks into one server must not read the files of the
// other.
inline constexpr const char* kRedisAccount = "redis";

// Errors: NOT_FOUND naming the Debian package to install.
Result<std::filesystem::path> FindRedis();

// EndOrphans for a Redis that works in `folder`, and for the process that rewrites its log.
Result<void> EndRedisOrphans(const std::filesystem::path& folder, Duration limit);

// What a service may do, in the syntax of ACL SETUSER. All commands on values, on the keys `<service>:*` and on its own
// stream `stream:<service>`; on other services' streams what a consumer needs and no more, so that nobody can publish
// in another's name (Redis knows no rights per group, so another's group is within reach). Nothing that reaches beyond
// its keys (SCAN, FLUSHALL), looks at others (MONITOR), or changes the server (CONFIG, SCRIPT FLUSH).
std::string RedisServiceRules(std::string_view service);
// What `nova audit` may do: read settings and statistics, and how far consumers of the streams are. No value.
std::string RedisAuditRules();

struct RedisUser {
  std::string name;
  Secret<> password;
  std::string rules;
};

struct RedisConfig {
  // Gets the configuration, the list of users and the data; belongs to `user`, mode 0700.
  std::filesystem::path folder;
  std::filesystem::path log_file;
  int port = 0;
  // The account it runs as, when this process is root.
  std::optional<User> user = std::nullopt;
  std::vector<RedisUser> users;
  // The key must belong to `user`.
  TlsFiles tls;

  // Of the data. When it is reached, the least used keys that have a time to live go, which is the cache; what has
  // none, which is the streams, stays, and further writes are refused.
  std::int64_t memory_max_bytes = std::int64_t{256} << 20;
  int clients_max = 1000;
  // False gives up the data if the machine crashes, for speed; only for tests.
  bool durable = true;
};

// Used by the main thread only. Movable.
class RedisServer {
 public:
  // Reading the data included.
  static constexpr Duration kReadyLimit = std::chrono::seconds(30);
  static constexpr Duration kReloadLimit = std::chrono::seconds(2);
  // How long the process that rewrites the log of a killed server may take to end.
  static constexpr Duration kOrphanLimit = std::chrono::seconds(2);

  // Launch, then AwaitReady.
  static Result<RedisServer> Start(RedisConfig config);
  // Writes the configuration and starts the process.
  static Result<RedisServer> Launch(RedisConfig config);

  // Returns when commands are executed. Errors: INTERNAL when the process ended, naming its log and the last line of
  // it; DEADLINE_EXCEEDED.
  Result<void> AwaitReady(Duration limit = kReadyLimit);
  // Asks once. Errors: UNAVAILABLE and DEADLINE_EXCEEDED when it does not answer yet, or still reads its data;
  // FAILED_PRECONDITION when waiting will not help.
  Result<void> CheckReady(Duration limit) const;

  // Makes it present the certificate that lies in its files now; connections stay. Errors: those of RedisConnection.
  Result<void> Reload();
  // Disconnects everybody, writes what is not yet on the disk, and ends. Bounded.
  Result<void> Stop();

  Process& process() { return process_; }
  const RedisConfig& config() const { return config_; }
  // How a user of `config` connects.
  RedisTarget Target(const std::string& user, const Secret<>& password) const;

 private:
  explicit RedisServer(RedisConfig config);
  Result<void> WriteConfiguration() const;

  RedisConfig config_;
  // Of the only user that may change settings; known to this process alone, and as long as the server runs.
  Secret<> supervisor_password_;
  Process process_;
};

}  // namespace nova::local
