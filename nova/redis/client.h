// Client: commands to one Redis, over a few connections that all calls of a process share. Commands are pipelined: many
// are on the way on one connection, and Redis answers in order.
//
//   resilience::CacheDependency dependency("redis", metrics);
//   Client redis(runtime, metrics, dependency, config);
//   NOVA_CO_TRY(const Reply reply, co_await redis.Run(call, Command("GET", key)));
//   NOVA_CO_TRY(const auto replies, co_await redis.RunAll(call, {Command("XADD", ...), Command("XADD", ...)}));
//
// hiredis formats the commands and parses the replies; sockets, TLS, deadlines and order are ours.
#pragma once

#include <chrono>
#include <memory>
#include <vector>

#include "nova/base/result.h"
#include "nova/redis/config.h"
#include "nova/redis/reply.h"
#include "nova/resilience/dependency.h"
#include "nova/resilience/protect.h"
#include "nova/runtime/call.h"
#include "nova/runtime/runtime.h"
#include "nova/runtime/scope.h"
#include "nova/runtime/task.h"
#include "nova/telemetry/metrics.h"

namespace nova::redis {

// Thread-safe. Connects at first use, and from then on again whenever a connection is lost, with backoff; nothing is
// ever sent twice. Connections are replaced when they reach connection_lifetime; no command notices. Metrics:
// nova_redis_commands_total{command,outcome}, nova_redis_command_seconds{command}, nova_redis_connections{state},
// nova_redis_reconnects_total, nova_redis_abandoned_replies_total.
//
// Every command goes through resilience::Protect, once. Of what Redis says only that it is not available (it loads, it
// is not the one that takes writes) speaks against it; every other error is an answer.
//
// Errors of every command: UNAVAILABLE if Redis cannot be reached (at once while an attempt to reconnect is not due, or
// the circuit breaker is open) or the connection broke, in which case the command may have been executed;
// DEADLINE_EXCEEDED; RESOURCE_EXHAUSTED if too many commands are on the way, or the bulkhead is full; why the call
// ended. Deadline: the earlier of the dependency's timeout and the call's. Cancellation: at once, and so at the
// deadline. A command that was sent is not undone: its reply is skipped when it comes, so that the replies of the
// commands behind it are never shifted; one that was not is never sent. Until then it keeps its place in the bulkhead,
// as an orphan. A connection that leaves a command without reply for reply_limit is closed, and all that was on the way
// on it fails.
class Client {
 public:
  // Opens nothing. The references must outlive it, and the calls that a Close over its limit left behind.
  Client(runtime::Runtime& runtime, telemetry::Metrics& metrics, resilience::CacheDependency& dependency,
         ClientConfig config);
  // Precondition: closed.
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // The reply to one command; an error of the server becomes an Error (ToError).
  runtime::Task<Reply> Run(runtime::Call& call, Command command);

  // The same for what must be tried whatever is known about Redis: neither the breaker nor the bulkhead refuses it.
  runtime::Task<Reply> RunAlways(runtime::Call& call, Command command);

  // The replies to several commands that are sent together on one connection, in order; others' commands may come
  // between them. An error of the server is a Reply, and an answer: what it means is the caller's affair.
  runtime::Task<std::vector<Reply>> RunAll(runtime::Call& call, std::vector<Command> commands);

  // The reply to a command that waits in the server for `block` at most (XREAD BLOCK), on a connection of its own,
  // which is closed if the call ends first. Errors: as Run; RESOURCE_EXHAUSTED if blocking_connections_max such
  // commands run already. Deadline: `block` and the dependency's timeout together, or the call's.
  runtime::Task<Reply> RunBlocking(runtime::Call& call, Command command, Duration block);

  // For health: PING over one of the shared connections. Neither the breaker nor the bulkhead refuses it, and while the
  // breaker is half-open it may be the probe that closes it.
  runtime::Task<void> Ping(runtime::Call& call);

  // The longest that Run and RunAll take: the dependency's timeout.
  std::chrono::milliseconds timeout() const;

  // Refuses new commands, waits for what is on the way, closes all connections. Blocks for `limit` at most; not to be
  // called from a task. Errors: DEADLINE_EXCEEDED if commands were still on the way: they fail, but for blocking ones,
  // which end by themselves.
  Result<void> Close(Duration limit);

 private:
  struct State;

  // Begins to keep connections open, if nobody did yet.
  void Start();
  runtime::Task<Reply> RunOne(runtime::Call& call, Command command, resilience::ProtectOptions options);

  // Shared with calls that outlive a Close that ran into its limit.
  std::shared_ptr<State> state_;
  runtime::Scope background_;
};

}  // namespace nova::redis
