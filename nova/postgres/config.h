// Settings of the connection to PostgreSQL (or to the PgBouncer in front of it) and of the pool. How long a statement
// may take is no setting of the pool but of its dependency: RESILIENCE_<NAME>_TIMEOUT_MS.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "nova/base/result.h"
#include "nova/base/secret.h"
#include "nova/config/app_env.h"
#include "nova/config/config.h"

namespace nova::postgres {

enum class SslMode : std::uint8_t {
  kDisable,     // plain text
  kRequire,     // encrypted, to whomever
  kVerifyCa,    // encrypted, the certificate is signed by ssl_root_cert
  kVerifyFull,  // and it is the host's
};

// "disable", "require", "verify-ca", "verify-full": libpq's names.
std::string_view SslModeName(SslMode mode);

struct ConnectionConfig {
  // A name, an address, or the folder of a Unix socket (begins with '/'; TLS does not apply there).
  std::string host = "127.0.0.1";
  int port = 5432;
  std::string database;
  std::string user;
  Secret<> password;
  SslMode ssl_mode = SslMode::kVerifyFull;
  // PEM file with the authorities that may have signed the server's certificate.
  std::string ssl_root_cert;
  // Shown in pg_stat_activity.
  std::string application_name = "nova";
};

struct PoolConfig {
  // Tells the pools of a process apart in metrics.
  std::string name = "main";
  ConnectionConfig connection;
  // Connections, at most: idle, in use and being opened.
  int size_max = 10;
  // Calls that wait for a connection, at most; one more is refused at once.
  int waiters_max = 256;
  // How long a call waits for a connection of the pool.
  std::chrono::milliseconds acquire_timeout = std::chrono::seconds(2);
  // One attempt to open a connection: name, TCP, TLS, log-in.
  std::chrono::milliseconds connect_timeout = std::chrono::seconds(5);
  // A connection is closed at this age, give or take 20 %, so that they do not all close at once and a new pooler
  // replica gets its share. It also bounds how long one outlives the authority that its server was verified with.
  std::chrono::milliseconds lifetime = std::chrono::minutes(30);
  // After the end of its call a statement has this long to be cancelled in the server, and a transaction as long again
  // to be rolled back; then the connection is closed. The call does not wait for it.
  std::chrono::milliseconds cancel_drain = std::chrono::seconds(1);
};

// Keys `postgres.*`: postgres.host is NOVA_POSTGRES_HOST and --postgres-host; the password comes from
// NOVA_POSTGRES_PASSWORD or the file that NOVA_POSTGRES_PASSWORD_FILE names.
void Bind(config::Config& config, ConnectionConfig& connection);
void Bind(config::Config& config, PoolConfig& pool);

// A pool of one connection for health probes, so that a busy main pool is not taken for a lost database.
PoolConfig ForHealth(const PoolConfig& main);

// Whether the server has to prove who it is: with a certificate that ssl_root_cert has signed.
bool VerifiesServer(const ConnectionConfig& connection);

// What no single field shows. Errors: INVALID_ARGUMENT naming the setting and the remedy.
Result<void> Validate(const ConnectionConfig& connection);

// And what `env` allows: outside of development nothing but verify-full, because with anything less whoever has some
// certificate of the authority, or none, can pass for the database. Errors: also FAILED_PRECONDITION, in one such line.
Result<void> Validate(const ConnectionConfig& connection, config::AppEnv env);

}  // namespace nova::postgres
