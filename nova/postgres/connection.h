// Connection: one connection to PostgreSQL, asynchronous, on libpq. Internal to this folder: everybody else uses Pool.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/basic_stream_descriptor.hpp>
#include <memory>
#include <string>
#include <string_view>

#include "nova/base/result.h"
#include "nova/postgres/config.h"
#include "nova/postgres/params.h"
#include "nova/postgres/rows.h"
#include "nova/postgres/statement.h"
#include "nova/runtime/call.h"
#include "nova/runtime/task.h"
#include "nova/runtime/worker_pool.h"

struct pg_conn;  // libpq's PGconn

namespace nova::postgres {

namespace asio = boost::asio;

// Sends cancel requests. libpq 15 can do that only by blocking a thread, so it happens on two of our own: as long as a
// server takes requests and then says nothing, nothing is cancelled, and what waits for that ends by its own deadline.
// Thread-safe.
class Canceller {
 public:
  Canceller();
  // Blocks for kStopLimit at most. A request whose peer accepts and then says nothing has no end in libpq: its thread
  // is left behind rather than holding up the end of the process.
  ~Canceller();
  Canceller(const Canceller&) = delete;
  Canceller& operator=(const Canceller&) = delete;

  // Asks the server to end what `connection` runs. OK says that the request was delivered, not that it had an effect.
  // Errors: UNAVAILABLE if it could not be delivered; RESOURCE_EXHAUSTED if too many wait. Cancellation: at once.
  runtime::Task<void> Cancel(runtime::Call& call, pg_conn* connection);

 private:
  struct Running;

  std::shared_ptr<Running> running_;
  std::unique_ptr<runtime::WorkerPool> workers_;
};

// Used by one task at a time, which may be on another strand each time.
class Connection {
 public:
  // Resolves the name, connects and logs in.
  // Errors: UNAVAILABLE; the end of the call. Deadline: the call's. Cancellation: at once.
  static runtime::Task<std::unique_ptr<Connection>> Open(runtime::Call& call, ConnectionConfig config);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // Runs one statement. Errors: those of sql_error.h; UNAVAILABLE if the connection broke; the end of the call.
  // Deadline: the call's. Cancellation: at once, and then the connection may be abandoned().
  runtime::Task<Rows> Query(runtime::Call& call, Statement statement, Params params);

  // Runs one statement by the simple protocol, the only one that PgBouncer's console speaks. The values come as text,
  // which Row refuses: only AdminConsole reads them.
  runtime::Task<Rows> Simple(runtime::Call& call, std::string_view name, std::string sql);

  // Runs any number of statements without parameters in one round trip; stops at the first error. Returns no rows.
  runtime::Task<void> Script(runtime::Call& call, std::string_view name, std::string sql);

  // A statement was sent whose answer was not read to its end, because its call ended: the server may still work for
  // it. Only Drain can follow, or the end of the connection.
  bool abandoned() const { return busy_ && !broken_; }
  // Cancels that statement in the server and reads what is left of its answer; on whatever strand. OK: the connection
  // is ready for the next statement. Errors: the server did not confirm the cancellation, or not before the deadline
  // of `call`; then the connection can only be closed. Precondition: abandoned().
  runtime::Task<void> Drain(runtime::Call& call, Canceller& canceller);

  // False once anything happened after which the state of the connection is not known. Then it can only be closed.
  bool usable() const;
  // Outside a transaction, and nothing is running.
  bool idle() const;
  // In a transaction in which no statement has failed.
  bool in_transaction() const;
  // Precondition: idle. False if the peer closed the connection, or said anything unasked, which it only does then.
  bool PeerIsSilent() const;

 private:
  // Asio watches a duplicate: libpq closes its own descriptor whenever it sees fit, and by the time Asio lets go of the
  // number it may be somebody else's.
  using Socket = asio::posix::basic_stream_descriptor<asio::io_context::executor_type>;

  explicit Connection(asio::io_context& io) : socket_(io) {}

  runtime::Task<void> Connect(runtime::Call& call, const ConnectionConfig& config);
  Result<void> WatchSocket();
  runtime::Task<void> Wait(runtime::Call& call, Socket::wait_type what);
  // After something was given to libpq to send: sends it and returns the last result. When it returns the connection
  // is ready for the next statement, abandoned, or broken.
  runtime::Task<Rows> Finish(runtime::Call& call, std::string_view name);
  runtime::Task<void> Flush(runtime::Call& call);
  // Reads to the end of the answer. An error with busy_ still set means that the end was not reached.
  runtime::Task<Rows> Collect(runtime::Call& call, std::string_view name);
  // What libpq says, on one line.
  std::string LibpqMessage() const;

  // Of the task that uses the connection.
  Socket socket_;
  pg_conn* connection_ = nullptr;
  bool busy_ = false;  // something was sent whose answer was not read to its end
  bool broken_ = false;
};

}  // namespace nova::postgres
