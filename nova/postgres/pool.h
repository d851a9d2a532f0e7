// Pool: connections to one database, shared by all calls of a process. Safe behind a PgBouncer in transaction mode:
// nothing outlives a transaction (no prepared statements, no SET, no LISTEN).
//
//   Pool pool(runtime, metrics, config);
//   NOVA_CO_TRY(Rows rows, co_await pool.Query(call, kSelectAccount, id));
//
//   co_return co_await pool.InTransaction(call, [&](Transaction& transaction) -> Task<Account> {
//     NOVA_CO_TRY(co_await transaction.Query(call, kInsertAccount, account.id, account.email));
//     NOVA_CO_TRY(co_await transaction.Query(call, kInsertOutbox, event));
//     co_return account;
//   });
#pragma once

#include <exception>
#include <memory>
#include <type_traits>
#include <utility>

#include "nova/base/result.h"
#include "nova/postgres/config.h"
#include "nova/postgres/params.h"
#include "nova/postgres/rows.h"
#include "nova/postgres/sql_error.h"
#include "nova/postgres/statement.h"
#include "nova/runtime/call.h"
#include "nova/runtime/runtime.h"
#include "nova/runtime/scope.h"
#include "nova/runtime/task.h"
#include "nova/telemetry/metrics.h"

namespace nova::postgres {

class Lease;  // a connection taken out of the pool; internal

// An open transaction, given to the body of Pool::InTransaction. Confined to the strand of the call.
class Transaction {
 public:
  ~Transaction();
  Transaction(Transaction&&) noexcept;
  Transaction& operator=(Transaction&&) noexcept;

  // As Pool::Query, within the transaction. After an error (of the server, or the end of the call) the transaction
  // can only be rolled back; use ON CONFLICT where a conflict is expected. One statement at a time.
  template <class... Ts>
  runtime::Task<Rows> Query(runtime::Call& call, const Statement& statement, const Ts&... values) {
    return Run(call, statement, Params::Of(values...));
  }

 private:
  friend class Pool;
  explicit Transaction(std::unique_ptr<Lease> lease);
  runtime::Task<Rows> Run(runtime::Call& call, Statement statement, Params params);

  std::unique_ptr<Lease> lease_;
};

namespace internal {

template <class T>
struct TaskValue;
template <class T>
struct TaskValue<runtime::Task<T>> {
  using type = T;
};

}  // namespace internal

// Thread-safe. Each statement runs on its call's strand. Metrics: nova_postgres_pool_connections{state},
// nova_postgres_waiters, nova_postgres_acquire_seconds, nova_postgres_query_seconds{statement,outcome}.
class Pool {
 public:
  // Opens nothing: connections are made on demand. `runtime` and `metrics` outlive the pool.
  Pool(runtime::Runtime& runtime, telemetry::Metrics& metrics, PoolConfig config);
  // Precondition: closed.
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  // Runs one statement, in its own transaction, and returns its rows. `values` are copied (see params.h for the types).
  //
  // Errors: those of sql_error.h; RESOURCE_EXHAUSTED if no connection came free in time or too many wait; UNAVAILABLE
  // if the database cannot be reached or the connection broke, in which case the statement may have been executed.
  // Deadline: the earlier of query_timeout and the call's, the wait for a connection included.
  // Cancellation: the statement is cancelled in the server too. It returns when the server has confirmed that, or
  // after cancel_drain with the connection closed; so nothing runs on behalf of a call that has ended.
  // Nothing is retried, except that a pooled connection found dead before anything was sent is replaced.
  template <class... Ts>
  runtime::Task<Rows> Query(runtime::Call& call, const Statement& statement, const Ts&... values) {
    return Run(call, statement, Params::Of(values...));
  }

  // Runs `body(Transaction&) -> Task<T>` between BEGIN and COMMIT and returns its value. The isolation level is READ
  // COMMITTED, unless the body's first statement is SET TRANSACTION.
  //
  // Errors: those of `body`, after a rollback; those of Query; ABORTED if the server asks for another try, which is the
  // caller's decision; INTERNAL if `body` swallowed a statement's error and succeeded; UNKNOWN if the connection broke
  // during COMMIT, so that nobody knows.
  // Rollback: whenever `body` fails or throws, or the call has ended before COMMIT. If the server does not confirm
  // it within cancel_drain the connection is closed, which rolls back too.
  // Deadline: the call's, as statement_timeout and idle_in_transaction_session_timeout in the server as well, so that
  // locks are not held by a process that has died; query_timeout holds for each statement. A COMMIT that was sent is
  // waited for (query_timeout or what was left of the call, plus cancel_drain): its outcome must be known.
  template <class F>
  auto InTransaction(runtime::Call& call, F body) -> std::invoke_result_t<F&, Transaction&>;

  // SELECT 1 on a connection of the pool, for health.
  runtime::Task<void> Ping(runtime::Call& call);

  // Refuses new work, waits for what runs, closes all connections. Blocks for `limit` at most; not to be called from a
  // task. Errors: DEADLINE_EXCEEDED if connections were still in use; they close when they are given back.
  Result<void> Close(Duration limit);

 private:
  friend class Lease;
  friend class Transaction;
  struct State;

  runtime::Task<Rows> Run(runtime::Call& call, Statement statement, Params params);
  runtime::Task<Transaction> Begin(runtime::Call& call);
  runtime::Task<void> Commit(runtime::Call& call, Transaction& transaction);
  runtime::Awaitable<void> Rollback(runtime::Call& call, Transaction& transaction);

  // Shared with leases, which may outlive a Close that ran into its limit.
  std::shared_ptr<State> state_;
  runtime::Scope background_;
};

template <class F>
auto Pool::InTransaction(runtime::Call& call, F body) -> std::invoke_result_t<F&, Transaction&> {
  using T = typename internal::TaskValue<std::invoke_result_t<F&, Transaction&>>::type;
  NOVA_CO_TRY(Transaction transaction, co_await Begin(call));
  Result<T> result = Error();
  std::exception_ptr thrown;
  try {
    result = co_await body(transaction);
  } catch (...) {
    thrown = std::current_exception();  // a handler cannot co_await
  }
  if (thrown || !result) {
    co_await Rollback(call, transaction);
    if (thrown) std::rethrow_exception(thrown);
    co_return result;
  }
  NOVA_CO_TRY(co_await Commit(call, transaction));
  co_return result;
}

}  // namespace nova::postgres
