// Settings of the connections to Redis.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "nova/base/result.h"
#include "nova/base/secret.h"
#include "nova/config/config.h"

namespace nova::redis {

struct ClientConfig {
  // Tells the clients of a process apart in metrics.
  std::string name = "main";
  // A name or an address.
  std::string host = "127.0.0.1";
  int port = 6379;
  // An ACL user of Redis; empty: the default user.
  std::string user;
  // Empty: no AUTH is sent.
  Secret<> password;
  // Off for development only.
  bool tls = true;
  // PEM file with the authorities that may have signed the server's certificate. It is read anew for every connection.
  std::string ca_path;
  // The DNS name that the server's certificate must carry; empty: `host`.
  std::string server_name;
  // Connections that calls share; each carries many commands at once, in order.
  int connections = 2;
  // Connections for blocking commands, at most; each is its caller's alone while the command runs.
  int blocking_connections_max = 4;
  // Commands on the way on one connection, those whose caller has gone included; one more is refused at once. As many
  // calls may wait for an attempt to connect.
  int pipeline_max = 1024;
  // Bytes of commands that one connection has not sent yet; a command that does not fit in is refused at once.
  std::int64_t queued_bytes_max = std::int64_t{64} << 20;
  // One attempt to open a connection: name, TCP, TLS, AUTH.
  std::chrono::milliseconds connect_timeout = std::chrono::seconds(2);
  // How long a command that was sent may have no reply, whether its caller still waits or not: then its connection is
  // closed, and all that is on it fails. It bounds what callers who left leave behind, and is no deadline: that is the
  // timeout of the client's dependency (RESILIENCE_<NAME>_TIMEOUT_MS), for which a lower limit here leaves no room.
  std::chrono::milliseconds reply_limit = std::chrono::seconds(5);
  // A connection that is older takes no more commands, and is closed when its replies are in: it bounds how long one
  // outlives the authority that its server was verified with. The next is opened before, at a random moment of the
  // last fifth but not the last tenth, so that no command waits for it; but the limit holds also when none can be had.
  // A connection for blocking commands that is older is closed instead of being used again.
  std::chrono::milliseconds connection_lifetime = std::chrono::minutes(30);
  // From a failed attempt to connect to the next: doubles from the first to the last, each with full jitter. The last
  // is how long a Redis that is back may go unnoticed, to which a circuit breaker that asked in vain adds its open
  // time.
  std::chrono::milliseconds reconnect_delay_min = std::chrono::milliseconds(50);
  std::chrono::milliseconds reconnect_delay_max = std::chrono::seconds(1);
  // A larger reply ends its connection. Each element of an array counts with the memory it takes.
  std::int64_t reply_bytes_max = std::int64_t{64} << 20;
};

// Keys `redis.*`: redis.host is NOVA_REDIS_HOST and --redis-host; the password comes from NOVA_REDIS_PASSWORD or the
// file that NOVA_REDIS_PASSWORD_FILE names.
void Bind(config::Config& config, ClientConfig& redis);

// What no single field shows. Errors: INVALID_ARGUMENT naming the setting and the remedy.
Result<void> Validate(const ClientConfig& redis);

}  // namespace nova::redis
