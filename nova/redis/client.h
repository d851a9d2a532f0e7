// Client: commands to one Redis, over a few connections that all calls of a process share. Commands are pipelined: many
// are on the way on one connection, and Redis answers in order.
//
//   Client redis(runtime, metrics, config);
//   NOVA_CO_TRY(const Reply reply, co_await redis.Run(call, Command("GET", key)));
//   NOVA_CO_TRY(const auto replies, co_await redis.RunAll(call, {Command("XADD", ...), Command("XADD", ...)}));
//
// hiredis formats the commands and parses the replies; sockets, TLS, deadlines and order are ours.
#pragma once

#include <memory>
#include <vector>

#include "nova/base/result.h"
#include "nova/redis/config.h"
#include "nova/redis/reply.h"
#include "nova/runtime/call.h"
#include "nova/runtime/runtime.h"
#include "nova/runtime/scope.h"
#include "nova/runtime/task.h"
#include "nova/telemetry/metrics.h"

namespace nova::redis {

// Thread-safe. Connects at first use, and from then on again whenever a connection is lost, with backoff; nothing is
// ever sent twice. Metrics: nova_redis_commands_total{command,outcome}, nova_redis_command_seconds{command},
// nova_redis_connections{state}, nova_redis_reconnects_total, nova_redis_abandoned_replies_total.
//
// Errors of every command: UNAVAILABLE if Redis cannot be reached (at once while an attempt to reconnect is not due) or
// the connection broke, in which case the command may have been executed; DEADLINE_EXCEEDED; RESOURCE_EXHAUSTED if too
// many commands are on the way; why the call ended.
// Deadline: the earlier of command_timeout and the call's.
// Cancellation: at once. A command that was sent is not undone: its reply is skipped when it comes, so that the replies
// of the commands behind it are never shifted; one that was not is never sent. A connection that leaves a command
// without reply for command_timeout is closed, and all that was on the way on it fails.
class Client {
 public:
  // Opens nothing. `runtime` and `metrics` must outlive it.
  Client(runtime::Runtime& runtime, telemetry::Metrics& metrics, ClientConfig config);
  // Precondition: closed.
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // The reply to one command; an error of the server becomes an Error (ToError).
  runtime::Task<Reply> Run(runtime::Call& call, Command command);

  // The replies to several commands that are sent together on one connection, in order; others' commands may come
  // between them. An error of the server is a Reply: what it means is the caller's affair.
  runtime::Task<std::vector<Reply>> RunAll(runtime::Call& call, std::vector<Command> commands);

  // The reply to a command that waits in the server for `block` at most (XREAD BLOCK), on a connection of its own,
  // which is closed if the call ends first. Errors: as Run; RESOURCE_EXHAUSTED if blocking_connections_max such
  // commands run already. Deadline: `block` and command_timeout together, or the call's.
  runtime::Task<Reply> RunBlocking(runtime::Call& call, Command command, Duration block);

  // For health: PING over one of the shared connections.
  runtime::Task<void> Ping(runtime::Call& call);

  // Refuses new commands, waits for what is on the way, closes all connections. Blocks for `limit` at most; not to be
  // called from a task. Errors: DEADLINE_EXCEEDED if commands were still on the way: they fail, but for blocking ones,
  // which end by themselves.
  Result<void> Close(Duration limit);

 private:
  struct State;

  runtime::Task<std::vector<Reply>> Send(runtime::Call& call, const std::vector<Command>& commands);

  // Shared with calls that outlive a Close that ran into its limit.
  std::shared_ptr<State> state_;
  runtime::Scope background_;
};

}  // namespace nova::redis
