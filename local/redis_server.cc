#include "local/redis_server.h"

#include <array>
#include <fmt/format.h>
#include <sodium.h>
#include <system_error>
#include <unistd.h>
#include <utility>

#include "nova/tls/certificate.h"

namespace nova::local {
namespace {

namespace fs = std::filesystem;
using std::chrono::seconds;

constexpr Duration kStopLimit = seconds(10);
constexpr std::string_view kConfigurationFile = "redis.conf";
constexpr std::string_view kUserListFile = "users.acl";
constexpr std::string_view kSupervisor = "supervisor";
// A rewrite of the log begins with a file of this name; one that was killed leaves it behind.
constexpr std::string_view kUnfinishedPrefix = "temp-";
// Beyond clients: listeners, logs, the event loop.
constexpr int kOpenFilesSpare = 200;

// A value in redis.conf.
std::string Quoted(const fs::path& path) {
  std::string quoted = "\"";
  for (char c : path.string()) {
    if (c == '"' || c == '\\') quoted += '\\';
    quoted += c;
  }
  return quoted + "\"";
}

std::string Configuration(const RedisConfig& config) {
  std::string text = fmt::format(
      "# Written by nova at every start; changes are lost.\n"
      "bind 127.0.0.1\n"
      // Plaintext has no port and no Unix socket.
      "port 0\n"
      "tls-port {}\n"
      "tls-protocols TLSv1.3\n"
      "tls-cert-file {}\n"
      "tls-key-file {}\n"
      // Users prove themselves by a password.
      "tls-auth-clients no\n"
      "aclfile {}\n"
      "maxclients {}\n"
      // Keys are told apart by their prefix, which the rules of a user can name; a database's number they cannot.
      "databases 1\n"
      "dir {}\n"
      "maxmemory {}\n"
      "maxmemory-policy volatile-lru\n",
      config.port, Quoted(config.tls.certificate), Quoted(config.tls.key), Quoted(config.folder / kUserListFile),
      config.clients_max, Quoted(config.folder), config.memory_max_bytes);
  text += fmt::format(
      // A write is in the kernel's hands before it is acknowledged, so it survives a killed server. The one exception
      // is `everysec` while an fsync is slow: then writes wait in the server for up to 2 s, acknowledged. What a crash
      // of the machine, or that, takes from a stream is published again from the outbox it came from.
      "appendonly yes\n"
      "appendfsync {}\n"
      // The log alone is the data; snapshots would only be a second, older truth.
      "save \"\"\n"
      // A crash of the machine may cut the last write in half: it was not acknowledged, and the rest counts.
      "aof-load-truncated yes\n",
      config.durable ? "everysec" : "no");
  text +=
      // Standard output goes to the supervisor's log file.
      "daemonize no\n"
      "logfile \"\"\n"
      "loglevel notice\n"
      // It would put commands, with what people entered, into the log.
      "crash-log-enabled no\n";
  return text;
}

// Passwords are random texts of 256 bits, so their plain hash cannot be guessed.
std::string PasswordRule(const Secret<>& password) {
  std::array<unsigned char, crypto_hash_sha256_BYTES> hash;
  ::crypto_hash_sha256(hash.data(), reinterpret_cast<const unsigned char*>(password.Expose().data()),
                       password.Expose().size());
  std::array<char, 2 * hash.size() + 1> text;
  ::sodium_bin2hex(text.data(), text.size(), hash.data(), hash.size());
  return fmt::format("#{}", text.data());
}

std::string UserList(const RedisConfig& config, const Secret<>& supervisor_password) {
  // Nobody is let in without a name: `off` alone sees to that. The rights are there because Redis reads its own log as
  // this user, and without them it passes over every transaction and script in it, silently.
  std::string text = "user default off resetpass ~* &* +@all\n";
  text += fmt::format("user {} on {} -@all +ping +config|set\n", kSupervisor, PasswordRule(supervisor_password));
  for (const RedisUser& user : config.users) {
    text += fmt::format("user {} on {} {}\n", user.name, PasswordRule(user.password), user.rules);
  }
  return text;
}

}  // namespace

Result<fs::path> FindRedis() {
  for (const char* path : {"/usr/bin/redis-server", "/usr/local/bin/redis-server"}) {
    if (::access(path, X_OK) == 0) return fs::path(path);
  }
  return NotFound("Redis is not installed: apt-get install redis-server");
}

Result<void> EndRedisOrphans(const fs::path& folder, Duration limit) {
  // On Debian redis-server is a link to redis-check-rdb, one program for all its names; the kernel knows the file.
  for (const char* program : {"redis-check-rdb", "redis-server"}) NOVA_TRY(EndOrphans(folder, program, limit));
  return Ok();
}

std::string RedisServiceRules(std::string_view service) {
  return fmt::format(
      "resetchannels ~{0}:* ~stream:{0} -@all +@connection +@read +@write +@stream +@transaction +@scripting "
      // SCAN, RANDOMKEY and CLIENT TRACKING show everybody's keys; functions and scripts belong to all.
      "-@admin -@dangerous -scan -randomkey -client|tracking -function -script +script|load +script|exists "
      "(~stream:* +xreadgroup +xack +xpending +xread +xrange +xrevrange +xlen +xinfo +exists +type +xgroup|create)",
      service);
}

std::string RedisAuditRules() {
  return "resetchannels %R~stream:* -@all +ping +info +config|get +client|setname +xlen +xinfo|groups";
}

RedisServer::RedisServer(RedisConfig config) : config_(std::move(config)), supervisor_password_(RandomText()) {}

Result<RedisServer> RedisServer::Start(RedisConfig config) {
  NOVA_TRY(RedisServer server, Launch(std::move(config)));
  NOVA_TRY(server.AwaitReady());
  return server;
}

Result<RedisServer> RedisServer::Launch(RedisConfig config) {
  RedisServer server(std::move(config));
  const RedisConfig& c = server.config_;
  NOVA_TRY(fs::path program, FindRedis());
  NOVA_TRY(EndRedisOrphans(c.folder, kOrphanLimit));
  std::error_code error;
  std::vector<fs::path> unfinished;
  for (const fs::directory_entry& entry : fs::directory_iterator(c.folder, error)) {
    if (entry.path().filename().string().starts_with(kUnfinishedPrefix)) unfinished.push_back(entry.path());
  }
  for (const fs::path& path : unfinished) fs::remove(path, error);
  NOVA_TRY(server.WriteConfiguration());
  NOVA_TRY(server.process_, Process::Spawn({.name = "redis",
                                            .program = std::move(program),
                                            .arguments = {(c.folder / kConfigurationFile).string()},
                                            .environment = {{"PATH", "/usr/bin:/bin"}, {"LC_ALL", "C.UTF-8"}},
                                            .working_directory = c.folder,
                                            .log_file = c.log_file,
                                            .user = c.user,
                                            // It is obeyed at once, whatever the server does; nothing acknowledged
                                            // is lost by it.
                                            .death_signal = SIGKILL,
                                            .open_files = static_cast<std::size_t>(c.clients_max + kOpenFilesSpare)}));
  return server;
}

Result<void> RedisServer::WriteConfiguration() const {
  // Neither file is worth an fsync: both are written again at the next start.
  FileOptions options{.mode = 0600, .owner = config_.user, .durable = false};
  NOVA_TRY(WriteFile(config_.folder / kUserListFile, UserList(config_, supervisor_password_), options));
  return WriteFile(config_.folder / kConfigurationFile, Configuration(config_), options);
}

RedisTarget RedisServer::Target(const std::string& user, const Secret<>& password) const {
  return {.port = config_.port,
          .user = user,
          .password = password,
          .ca_file = config_.tls.ca,
          .server_name = tls::ServiceDnsName(kRedisPrincipal)};
}

Result<void> RedisServer::CheckReady(Duration limit) const {
  const SteadyTime end = Clock::System().Now() + limit;
  auto connection = RedisConnection::Open(Target(std::string(kSupervisor), supervisor_password_), limit);
  if (!connection) {
    if (connection.error().code() != Code::kUnauthenticated) return std::move(connection).error();
    return FailedPrecondition(fmt::format("the server on port {} is not the Redis that was started here; see {}",
                                          config_.port, config_.log_file.string()),
                              connection.error().message());
  }
  NOVA_TRY(connection->Execute({"PING"}, end - Clock::System().Now()));
  return Ok();
}

Result<void> RedisServer::AwaitReady(Duration limit) {
  return local::AwaitReady(process_, "Redis", config_.log_file, limit,
                           [this] { return CheckReady(RedisConnection::kConnectLimit); });
}

Result<void> RedisServer::Reload() {
  const SteadyTime end = Clock::System().Now() + kReloadLimit;
  NOVA_TRY(RedisConnection connection,
           RedisConnection::Open(Target(std::string(kSupervisor), supervisor_password_), kReloadLimit));
  // The paths are the same as before; setting them makes it read the files, both at once.
  NOVA_TRY(connection.Execute(
      {"CONFIG", "SET", "tls-cert-file", config_.tls.certificate.string(), "tls-key-file", config_.tls.key.string()},
      end - Clock::System().Now()));
  return Ok();
}

Result<void> RedisServer::Stop() {
  NOVA_TRY(ExitStatus status, process_.Terminate({{SIGTERM, kStopLimit}}));
  if (!status.clean()) {
    return Internal(fmt::format("Redis stopped with {}; see {}", status.ToString(), config_.log_file.string()));
  }
  return Ok();
}

}  // namespace nova::local
