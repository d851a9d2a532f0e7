// Pool: connections to one database, shared by all calls of a process. Safe behind a PgBouncer in transaction mode:
// nothing outlives a transaction (no prepared statements, no SET, no LISTEN).
//
//   resilience::DatabaseDependency database("postgres", metrics);
//   Pool pool(runtime, metrics, database, config);
//   NOVA_CO_TRY(Rows rows, co_await pool.Query(call, kSelectAccount, id));
//
//   co_return co_await pool.InTransaction(call, [&](Transaction& transaction) -> Task<Account> {
//     NOVA_CO_TRY(co_await transaction.Query(call, kInsertAccount, account.id, account.email));
//     NOVA_CO_TRY(co_await transaction.Query(call, kInsertOutbox, event));
//     co_return account;
//   });
#pragma once

#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <string_view>
#include <type_traits>
#include <utility>

#include "nova/base/result.h"
#include "nova/postgres/config.h"
#include "nova/postgres/params.h"
#include "nova/postgres/rows.h"
#include "nova/postgres/sql_error.h"
#include "nova/postgres/statement.h"
#include "nova/resilience/dependency.h"
#include "nova/resilience/protect.h"
#include "nova/runtime/call.h"
#include "nova/runtime/runtime.h"
#include "nova/runtime/scope.h"
#include "nova/runtime/task.h"
#include "nova/runtime/task_value.h"
#include "nova/telemetry/metrics.h"

namespace nova::postgres {

class Lease;  // a connection taken out of the pool; internal

// What becomes of a transaction that the server could not serialise with others, or ended to resolve a deadlock.
enum class OnConflict : std::uint8_t {
  kRepeat,  // it is made again
  kFail,    // its error is returned: somebody else makes it again
};

// An open transaction, given to the body of Pool::InTransaction. Confined to the strand of the call.
class Transaction {
 public:
  ~Transaction();
  Transaction(Transaction&&) noexcept;
  Transaction& operator=(Transaction&&) noexcept;

  // As Pool::Query, within the transaction. After an error (of the server, the end of the call, or the dependency's
  // timeout, which holds for each statement) the transaction can only be rolled back; use ON CONFLICT where a conflict
  // is expected. One statement at a time.
  template <class... Ts>
  runtime::Task<Rows> Query(runtime::Call& call, const Statement& statement, const Ts&... values) {
    return Run(call, statement, Params::Of(values...));
  }

 private:
  friend class Pool;
  struct State;

  explicit Transaction(std::unique_ptr<State> state);
  runtime::Task<Rows> Run(runtime::Call& call, Statement statement, Params params);

  std::unique_ptr<State> state_;
};

// Thread-safe. Each statement runs on its call's strand. Metrics: nova_postgres_pool_connections{state},
// nova_postgres_waiters, nova_postgres_acquire_seconds, nova_postgres_query_seconds{statement,outcome},
// nova_postgres_transaction_retries_total; and those of the dependency.
//
// A call returns as soon as it ends. What the server still does for it is ended in the background: the statement is
// cancelled, a transaction rolled back, each within cancel_drain, and past that the connection is closed. As long the
// connection counts as in use, and its place in the dependency's bulkhead as orphaned; so what runs in the server
// on behalf of calls, ended or not, never exceeds the limits.
class Pool {
 public:
  // Opens nothing: connections are made on demand. `runtime`, `metrics` and `database` outlive the pool; several pools
  // may share a dependency.
  Pool(runtime::Runtime& runtime, telemetry::Metrics& metrics, resilience::DatabaseDependency& database,
       PoolConfig config);
  // Precondition: closed, and every call to it has returned.
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  // Runs one statement, in its own transaction, and returns its rows. `values` are copied (see params.h for the types).
  //
  // Errors: those of sql_error.h; RESOURCE_EXHAUSTED if no connection came free in time, or too many calls wait or are
  // under way; UNAVAILABLE if the database cannot be reached, its breaker is open, or the connection broke, in which
  // last case the statement may have been executed. Only what IsDatabaseFault says counts against the database.
  // Deadline: the earlier of the dependency's timeout and the call's, the wait for a connection included.
  // Cancellation: at once; the statement is cancelled in the server too, in the background. Whether it was executed is
  // not known then.
  // Nothing is retried, except that a pooled connection found dead before anything was sent is replaced.
  template <class... Ts>
  runtime::Task<Rows> Query(runtime::Call& call, const Statement& statement, const Ts&... values) {
    return Run(call, statement, Params::Of(values...));
  }

  // Runs `body(Transaction&) -> Task<T>` between BEGIN and COMMIT and returns its value. The isolation level is READ
  // COMMITTED, unless the body's first statement is SET TRANSACTION.
  //
  // A conflict with other transactions (SQLSTATE 40001 and 40P01, COMMIT's included) undoes all, and `body` runs again,
  // on whatever connection comes free: after a random pause, as often as the dependency's retry policy, its budget and
  // the request's allowance have it. So `body` must have no effect but by its statements, and begin anew each time.
  //
  // Errors: those of `body`, after a rollback; those of Query; ABORTED if there were conflicts to the end, or with
  // kFail, or a lock was not had in time (55P03); INTERNAL if `body` swallowed a statement's error and succeeded;
  // UNKNOWN if the connection broke during COMMIT, so that nobody knows. Rollback: whenever `body` fails or throws, or
  // the call has ended before COMMIT; in the background if the call has ended. If the server does not confirm it within
  // cancel_drain the connection is closed, which rolls back too. Deadline: the call's for the whole, since `body`
  // decides how long it takes; the earlier of the dependency's timeout and the call's for each statement, and for BEGIN
  // with the wait for a connection. The server knows them as statement_timeout and idle_in_transaction_session_timeout,
  // with cancel_drain on top, so that locks are not held by a process that has died. A COMMIT that was sent is waited
  // for (what a statement may take, plus cancel_drain), even if the call ends: its outcome must be known. Breaker: the
  // whole is one try of the dependency, with one place in its bulkhead and one verdict. What its statements met
  // decides; what `body` failed with for reasons of its own says nothing about the database. It is slow if one of its
  // statements was, however long `body` takes.
  template <class F>
  auto InTransaction(runtime::Call& call, F body, OnConflict on_conflict = OnConflict::kRepeat)
      -> std::invoke_result_t<F&, Transaction&>;

  // SELECT 1 on a connection of the pool, for health. Asked even if the breaker is open: a success is how it closes
  // where nobody else calls.
  runtime::Task<void> Ping(runtime::Call& call);

  // Refuses new work, waits for what runs, that for ended calls included, and closes all connections. Blocks for
  // `limit` at most; not to be called from a task. Errors: DEADLINE_EXCEEDED if connections were still in use; they
  // close when they are given back, and what their calls leave behind is closed without being cancelled.
  Result<void> Close(Duration limit);

 private:
  friend class Lease;
  friend class Transaction;
  struct State;

  // `always`: whatever the breaker says.
  runtime::Task<Rows> Run(runtime::Call& call, Statement statement, Params params, bool always = false);
  template <class F>
  auto InOneTransaction(runtime::Call& call, F& body, bool again) -> std::invoke_result_t<F&, Transaction&>;
  // The pause before a transaction that ended so is made again, for the n-th time.
  std::optional<Duration> RepeatAfter(const runtime::Call& call, const Error& error,
                                      runtime::RetryAllowance& own_allowance, int tries);
  runtime::Task<Transaction> Begin(runtime::Call& call, bool again);
  // Both end the transaction, and its try of the dependency with a verdict.
  runtime::Task<void> Commit(runtime::Call& call, Transaction& transaction);
  runtime::Awaitable<void> Rollback(runtime::Call& call, Transaction& transaction);

  // Ends a try that failed, and returns what its caller is to be told.
  Error Judge(const runtime::Call& call, resilience::Guard& guard, Error error) const;
  // Ends in the background what a call left behind on a connection, and gives both back.
  void Settle(std::unique_ptr<Lease> lease, resilience::Bulkhead::Permit permit, std::string_view statement);

  resilience::DatabaseDependency& database_;
  // Shared with leases, which may outlive a Close that ran into its limit.
  std::shared_ptr<State> state_;
  runtime::Scope reaper_;
  runtime::Scope settling_;
};

template <class F>
auto Pool::InTransaction(runtime::Call& call, F body, OnConflict on_conflict)
    -> std::invoke_result_t<F&, Transaction&> {
  runtime::RetryAllowance own_allowance = resilience::OwnAllowance(database_);
  for (int tries = 1;; ++tries) {
    auto result = co_await InOneTransaction(call, body, tries > 1);
    if (result || on_conflict == OnConflict::kFail) co_return result;
    const std::optional<Duration> pause = RepeatAfter(call, result.error(), own_allowance, tries);
    if (!pause) co_return result;
    if (auto slept = co_await runtime::Sleep(call, *pause); !slept) co_return result;
  }
}

template <class F>
auto Pool::InOneTransaction(runtime::Call& call, F& body, bool again) -> std::invoke_result_t<F&, Transaction&> {
  using T = runtime::TaskValueOf<F, Transaction&>;
  NOVA_CO_TRY(Transaction transaction, co_await Begin(call, again));
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
