#include "nova/redis/config.h"

#include <unistd.h>

namespace nova::redis {

void Bind(config::Config& config, ClientConfig& redis) {
  using std::chrono::hours;
  using std::chrono::milliseconds;
  using std::chrono::seconds;
  config.Field("redis.host", redis.host, {.help = "of Redis: a name or an address"});
  config.Field("redis.port", redis.port, {.help = "of Redis", .min = 1, .max = 65535});
  config.Field("redis.user", redis.user, {.help = "ACL user to log in as; empty: the default user"});
  config.Field("redis.password", redis.password, {.help = "of the user"});
  config.Field("redis.tls", redis.tls, {.help = "encrypt, and check the server's certificate"});
  config.Field("redis.ca_path", redis.ca_path,
               {.help = "PEM file with the authorities that sign the server's certificate"});
  config.Field("redis.server_name", redis.server_name,
               {.help = "name that the server's certificate must carry; empty: the host"});
  config.Field("redis.connections", redis.connections,
               {.help = "connections that all calls share", .min = 1, .max = 64});
  config.Field("redis.blocking_connections_max", redis.blocking_connections_max,
               {.help = "connections for blocking commands, at most", .min = 1, .max = 1000});
  config.Field("redis.pipeline_max", redis.pipeline_max,
               {.help = "commands on the way on one connection, at most", .min = 16, .max = 1'000'000});
  config.Field(
      "redis.queued_bytes_max", redis.queued_bytes_max,
      {.help = "bytes that one connection has not sent yet, at most", .min = 1024, .max = std::int64_t{1} << 30});
  config.Field("redis.connect_timeout", redis.connect_timeout,
               {.help = "one attempt to open a connection", .min = milliseconds(1), .max = seconds(60)});
  config.Field("redis.reply_limit", redis.reply_limit,
               {.help = "a connection that leaves a command without reply for so long is closed",
                .min = milliseconds(1),
                .max = seconds(60)});
  config.Field("redis.connection_lifetime", redis.connection_lifetime,
               {.help = "age at which a connection is replaced", .min = seconds(1), .max = hours(24)});
  config.Field(
      "redis.reconnect_delay_min", redis.reconnect_delay_min,
      {.help = "delay after the first failed attempt to connect, at most", .min = milliseconds(1), .max = seconds(60)});
  config.Field(
      "redis.reconnect_delay_max", redis.reconnect_delay_max,
      {.help = "delay after many failed attempts to connect, at most", .min = milliseconds(1), .max = seconds(60)});
  config.Field("redis.reply_bytes_max", redis.reply_bytes_max,
               {.help = "size of a reply, at most", .min = 1024, .max = std::int64_t{1} << 30});
}

Result<void> Validate(const ClientConfig& redis) {
  if (redis.host.empty()) return InvalidArgument("redis.host is empty: set NOVA_REDIS_HOST to where Redis listens");
  if (!redis.user.empty() && redis.password.empty())
    return InvalidArgument(
        "redis.password is missing: set NOVA_REDIS_PASSWORD or NOVA_REDIS_PASSWORD_FILE to that of " + redis.user +
        ", or leave redis.user empty");
  if (redis.tls) {
    if (redis.ca_path.empty())
      return InvalidArgument(
          "redis.ca_path is missing: set NOVA_REDIS_CA_PATH to the PEM file of the authority that signed Redis's "
          "certificate");
    if (::access(redis.ca_path.c_str(), R_OK) != 0)
      return InvalidArgument("redis.ca_path: cannot read " + redis.ca_path +
                             "; set NOVA_REDIS_CA_PATH to the authority's PEM file");
  }
  if (redis.reconnect_delay_min > redis.reconnect_delay_max)
    return InvalidArgument(
        "redis.reconnect_delay_min is larger than redis.reconnect_delay_max: lower NOVA_REDIS_RECONNECT_DELAY_MIN");
  return Ok();
}

}  // namespace nova::redis
