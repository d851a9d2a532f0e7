#include "nova/postgres/config.h"

#include <algorithm>
#include <array>
#include <unistd.h>
#include <utility>

namespace nova::postgres {
namespace {

constexpr std::array kSslModes = {SslMode::kDisable, SslMode::kRequire, SslMode::kVerifyCa, SslMode::kVerifyFull};

}  // namespace

std::string_view SslModeName(SslMode mode) {
  switch (mode) {
    case SslMode::kDisable:
      return "disable";
    case SslMode::kRequire:
      return "require";
    case SslMode::kVerifyCa:
      return "verify-ca";
    case SslMode::kVerifyFull:
      return "verify-full";
  }
  std::unreachable();
}

void Bind(config::Config& config, ConnectionConfig& connection) {
  config.Field("postgres.host", connection.host,
               {.help = "of PgBouncer or PostgreSQL: a name, an address, or the folder of a Unix socket"});
  config.Field("postgres.port", connection.port, {.help = "of PgBouncer or PostgreSQL", .min = 1, .max = 65535});
  config.Field("postgres.database", connection.database, {.help = "name of the database"});
  config.Field("postgres.user", connection.user, {.help = "role to log in as"});
  config.Field("postgres.password", connection.password, {.help = "of the role"});
  config::FieldOptions ssl_mode{.help = "how the server's certificate is checked"};
  for (const SslMode mode : kSslModes) ssl_mode.one_of.emplace_back(SslModeName(mode));
  std::string chosen(SslModeName(connection.ssl_mode));
  config.Field("postgres.ssl_mode", chosen, ssl_mode);
  for (const SslMode mode : kSslModes) {
    if (SslModeName(mode) == chosen) connection.ssl_mode = mode;
  }
  config.Field("postgres.ssl_root_cert", connection.ssl_root_cert,
               {.help = "PEM file with the authorities that sign the server's certificate"});
  config.Field("postgres.application_name", connection.application_name, {.help = "shown in pg_stat_activity"});
}

void Bind(config::Config& config, PoolConfig& pool) {
  using std::chrono::hours;
  using std::chrono::milliseconds;
  using std::chrono::seconds;
  Bind(config, pool.connection);
  config.Field("postgres.pool_size", pool.size_max, {.help = "connections, at most", .min = 1, .max = 1000});
  config.Field("postgres.waiters_max", pool.waiters_max,
               {.help = "calls that may wait for a connection", .min = 0, .max = 100'000});
  config.Field("postgres.acquire_timeout", pool.acquire_timeout,
               {.help = "wait for a connection of the pool", .min = milliseconds(1), .max = seconds(60)});
  config.Field("postgres.connect_timeout", pool.connect_timeout,
               {.help = "one attempt to open a connection", .min = milliseconds(1), .max = seconds(60)});
  config.Field(
      "postgres.connection_lifetime", pool.lifetime,
      {.help = "age at which a connection is closed, give or take 20 %", .min = milliseconds(1), .max = hours(24)});
  config.Field(
      "postgres.cancel_drain", pool.cancel_drain,
      {.help = "wait for the server to confirm a cancelled statement", .min = milliseconds(1), .max = seconds(60)});
}

bool VerifiesServer(const ConnectionConfig& connection) {
  return !connection.host.starts_with('/') &&
         (connection.ssl_mode == SslMode::kVerifyCa || connection.ssl_mode == SslMode::kVerifyFull);
}

Result<void> Validate(const ConnectionConfig& connection) {
  if (connection.host.empty())
    return InvalidArgument("postgres.host is empty: set NOVA_POSTGRES_HOST to where PgBouncer listens");
  if (connection.database.empty())
    return InvalidArgument("postgres.database is missing: set NOVA_POSTGRES_DATABASE to the service's database");
  if (connection.user.empty())
    return InvalidArgument("postgres.user is missing: set NOVA_POSTGRES_USER to the service's role");
  if (VerifiesServer(connection)) {
    if (connection.ssl_root_cert.empty())
      return InvalidArgument(
          "postgres.ssl_root_cert is missing: set NOVA_POSTGRES_SSL_ROOT_CERT to the authority's "
          "PEM file, which ssl_mode " +
          std::string(SslModeName(connection.ssl_mode)) + " needs");
    if (::access(connection.ssl_root_cert.c_str(), R_OK) != 0)
      return InvalidArgument("postgres.ssl_root_cert: cannot read " + connection.ssl_root_cert +
                             "; set NOVA_POSTGRES_SSL_ROOT_CERT to the authority's PEM file");
  }
  return Ok();
}

Result<void> Validate(const ConnectionConfig& connection, config::AppEnv env) {
  if (env != config::AppEnv::kDevelopment && connection.ssl_mode != SslMode::kVerifyFull)
    return FailedPrecondition(
        "NOVA_POSTGRES_SSL_MODE: is " + std::string(SslModeName(connection.ssl_mode)) +
        ", and APP_ENV=" + std::string(config::AppEnvName(env)) +
        " allows no server that has not proved its name; set it to verify-full, and NOVA_POSTGRES_SSL_ROOT_CERT");
  return Validate(connection);
}

PoolConfig ForHealth(const PoolConfig& main) {
  PoolConfig health = main;
  health.name = "health";
  health.size_max = 1;
  health.waiters_max = 1;
  // The next probe needs the connection back soon, or another one.
  health.cancel_drain = std::min<std::chrono::milliseconds>(main.cancel_drain, std::chrono::milliseconds(200));
  return health;
}

}  // namespace nova::postgres
