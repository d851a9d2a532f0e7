#include "nova/postgres/pool.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <unordered_map>
#include <vector>

#include "nova/postgres/connection.h"
#include "nova/runtime/one_shot.h"
#include "nova/runtime/scope.h"
#include "nova/telemetry/log.h"

namespace nova::postgres {
namespace {

using resilience::Bulkhead;
using resilience::DatabaseDependency;
using resilience::Guard;
using runtime::Call;
using runtime::OneShot;
using runtime::Task;

// How often idle connections past their lifetime are looked for, at most and at least.
constexpr std::chrono::milliseconds kReapIntervalMax = std::chrono::seconds(30);
constexpr std::chrono::milliseconds kReapIntervalMin(10);
constexpr double kLifetimeJitter = 0.2;
// A transaction without a deadline may be idle for so long before the server ends it.
constexpr Duration kIdleInTransactionMax = std::chrono::seconds(60);

constexpr std::array kAcquireBuckets = {0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.010, 0.025,
                                        0.050,  0.100,  0.250, 0.500,  1.0,   2.0,   5.0};

double Seconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }

// At least 1: for PostgreSQL 0 means no limit.
std::string Milliseconds(Duration duration) {
  return std::to_string(std::max<std::int64_t>(1, std::chrono::ceil<std::chrono::milliseconds>(duration).count()));
}

// A histogram for each label pair that occurs, found without the registry's lock and string labels.
class QueryMetrics {
 public:
  QueryMetrics(telemetry::Metrics& metrics, std::string pool) : metrics_(metrics), pool_(std::move(pool)) {}

  void Observe(std::string_view statement, Code outcome, Duration took) {
    prometheus::Histogram* histogram = nullptr;
    {
      std::lock_guard lock(mutex_);
      prometheus::Histogram*& known = histograms_[statement][static_cast<std::size_t>(outcome)];
      if (known == nullptr)
        known = &metrics_.Histogram(
            "nova_postgres_query_seconds", "Time of a statement on its connection", telemetry::kLatencyBuckets,
            {{"pool", pool_}, {"statement", std::string(statement)}, {"outcome", std::string(CodeName(outcome))}});
      histogram = known;
    }
    histogram->Observe(Seconds(took));
  }

 private:
  telemetry::Metrics& metrics_;
  const std::string pool_;
  std::mutex mutex_;
  // Guarded by mutex_. The keys are names of statements, which live as long as the program.
  std::unordered_map<std::string_view, std::array<prometheus::Histogram*, kCodeCount>> histograms_;
};

struct Pooled {
  std::unique_ptr<Connection> connection;
  SteadyTime expires;
};

// A call that waits for a connection. What is granted is the right to one; the connection comes along if there is one.
struct Waiter {
  OneShot<bool> granted;
  // Written before `granted` is set, read after it was awaited.
  Pooled pooled;
};

// What the end of a call says for itself does not name the statement; the server's errors do.
Error Named(Error error, std::string_view statement) {
  if (error.detail().find("statement=") != std::string::npos) return error;
  return std::move(error).WithContext("statement=" + std::string(statement));
}

// In a transaction the guard does not know that a statement ran into the policy's limit.
Error Attribute(const Call& call, const DatabaseDependency& database, Error error) {
  if (error.code() != Code::kDeadlineExceeded || SqlErrorOf(error) || !call.Check()) return error;
  return DeadlineExceeded("a dependency took too long",
                          "dependency=" + std::string(database.name().text()) + " ran into " +
                              resilience::SettingName(database.name(), "timeout_ms") + " (" +
                              std::to_string(database.config().timeout.count()) + "): " + error.detail());
}

// A try that failed, but not by the database: the guard alone would judge by the code, and INTERNAL is also a mistake
// in the SQL, UNAVAILABLE also another dependency that the body of a transaction needed.
void EndWithoutFault(const Call& call, Guard& guard) {
  (void)guard.Failed(call.Check() ? FailedPrecondition("answered") : Cancelled("the call ended"));
}

}  // namespace

struct Pool::State {
  State(telemetry::Metrics& metrics, PoolConfig pool_config)
      : config(std::move(pool_config)),
        queries(metrics, config.name),
        in_use_gauge(metrics.Gauge("nova_postgres_pool_connections", "Connections to the database",
                                   {{"pool", config.name}, {"state", "in_use"}})),
        idle_gauge(metrics.Gauge("nova_postgres_pool_connections", "Connections to the database",
                                 {{"pool", config.name}, {"state", "idle"}})),
        waiters_gauge(
            metrics.Gauge("nova_postgres_waiters", "Calls that wait for a connection", {{"pool", config.name}})),
        repeated(metrics.Counter("nova_postgres_transaction_retries_total",
                                 "Transactions made again after a conflict with others", {{"pool", config.name}})),
        acquire_ok(AcquireHistogram(metrics, config.name, "ok")),
        acquire_error(AcquireHistogram(metrics, config.name, "error")) {}

  static prometheus::Histogram& AcquireHistogram(telemetry::Metrics& metrics, const std::string& pool,
                                                 const std::string& outcome) {
    return metrics.Histogram("nova_postgres_acquire_seconds",
                             "Time to get a connection: the wait for one, or opening it", kAcquireBuckets,
                             {{"pool", pool}, {"outcome", outcome}});
  }

  // Errors: those of Pool::Query. Cancellation: at once.
  static Task<std::unique_ptr<Lease>> Acquire(std::shared_ptr<State> self, Call& call);
  static Task<std::unique_ptr<Lease>> AcquireUntimed(const std::shared_ptr<State>& self, Call& call);
  // Takes back the right to a connection, and the connection if it is still good.
  void Release(Pooled pooled);
  void CloseExpired();
  bool IsClosing();
  SteadyTime Expiry();
  void UpdateGauges();  // precondition: mutex is held

  const PoolConfig config;
  // Outlives the connections below.
  Canceller canceller;
  QueryMetrics queries;
  prometheus::Gauge& in_use_gauge;
  prometheus::Gauge& idle_gauge;
  prometheus::Gauge& waiters_gauge;
  prometheus::Counter& repeated;
  prometheus::Histogram& acquire_ok;
  prometheus::Histogram& acquire_error;

  std::mutex mutex;
  std::condition_variable released;
  // Guarded by mutex. Rights to a connection that are given out; in_use + idle.size() <= size_max.
  int in_use = 0;
  std::vector<Pooled> idle;                     // the last one given back is the first one taken, so the rest can age
  std::deque<std::shared_ptr<Waiter>> waiters;  // first come, first served
  bool closing = false;
  std::minstd_rand jitter{std::random_device{}()};
};

// The right to one connection, and the connection once there is one. Gives both back when it dies.
class Lease {
 public:
  explicit Lease(std::shared_ptr<Pool::State> state, Pooled taken = {})
      : state_(std::move(state)), pooled(std::move(taken)) {}
  ~Lease() { state_->Release(std::move(pooled)); }
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;

  Pool::State& state() const { return *state_; }
  Connection& connection() const { return *pooled.connection; }

  // Runs one statement and records it.
  static Task<Rows> Query(Call& call, Lease& lease, Statement statement, Params params) {
    const SteadyTime begin = Clock::System().Now();
    Result<Rows> rows = co_await lease.connection().Query(call, statement, std::move(params));
    if (!rows) rows = Named(std::move(rows).error(), statement.name);
    lease.state().queries.Observe(statement.name, rows ? Code::kOk : rows.error().code(),
                                  Clock::System().Now() - begin);
    co_return rows;
  }

 private:
  std::shared_ptr<Pool::State> state_;

 public:
  Pooled pooled;
};

void Pool::State::UpdateGauges() {
  in_use_gauge.Set(in_use);
  idle_gauge.Set(static_cast<double>(idle.size()));
  waiters_gauge.Set(static_cast<double>(waiters.size()));
}

SteadyTime Pool::State::Expiry() {
  std::lock_guard lock(mutex);
  const double factor = std::uniform_real_distribution<double>(1 - kLifetimeJitter, 1 + kLifetimeJitter)(jitter);
  return Clock::System().Now() +
         std::chrono::duration_cast<Duration>(std::chrono::duration<double, std::milli>(config.lifetime) * factor);
}

Task<std::unique_ptr<Lease>> Pool::State::Acquire(std::shared_ptr<State> self, Call& call) {
  const SteadyTime begin = Clock::System().Now();
  auto lease = co_await AcquireUntimed(self, call);
  (lease ? self->acquire_ok : self->acquire_error).Observe(Seconds(Clock::System().Now() - begin));
  co_return lease;
}

Task<std::unique_ptr<Lease>> Pool::State::AcquireUntimed(const std::shared_ptr<State>& self, Call& call) {
  NOVA_CO_TRY(call.Check());
  std::unique_ptr<Lease> lease;
  std::shared_ptr<Waiter> waiter;
  {
    std::lock_guard lock(self->mutex);
    if (self->closing) co_return Unavailable("the service is stopping", "the database pool is closed");
    if (self->in_use < self->config.size_max) {
      ++self->in_use;
      lease = std::make_unique<Lease>(self);
      if (!self->idle.empty()) {
        lease->pooled = std::move(self->idle.back());
        self->idle.pop_back();
      }
    } else if (static_cast<int>(self->waiters.size()) < self->config.waiters_max) {
      waiter = self->waiters.emplace_back(std::make_shared<Waiter>());
    } else {
      co_return ResourceExhausted("the database is busy, try again later",
                                  "postgres.waiters_max calls wait for a connection already");
    }
    self->UpdateGauges();
  }
  if (waiter) {
    Call wait(call, self->config.acquire_timeout);
    Result<bool> granted = co_await waiter->granted.Wait(wait);
    if (!granted) {
      {
        std::lock_guard lock(self->mutex);
        std::erase(self->waiters, waiter);
        self->UpdateGauges();
      }
      if (granted.error().code() != Code::kDeadlineExceeded || !call.Check()) co_return std::move(granted).error();
      co_return ResourceExhausted("the database is busy, try again later",
                                  "no connection came free within postgres.acquire_timeout");
    }
    lease = std::make_unique<Lease>(self, std::move(waiter->pooled));
  }

  // A server that restarted leaves a pool full of dead connections: all are dropped, none is worth a try.
  while (lease->pooled.connection) {
    if (lease->pooled.expires > Clock::System().Now() && lease->connection().idle() &&
        lease->connection().PeerIsSilent())
      co_return lease;
    lease->pooled = {};
    std::lock_guard lock(self->mutex);
    if (!self->idle.empty()) {
      lease->pooled = std::move(self->idle.back());
      self->idle.pop_back();
      self->UpdateGauges();
    }
  }
  Call connecting(call, self->config.connect_timeout);
  auto opened = co_await Connection::Open(connecting, self->config.connection);
  if (!opened) {
    if (opened.error().code() != Code::kDeadlineExceeded || !call.Check()) co_return std::move(opened).error();
    co_return Unavailable("the database is unavailable",
                          opened.error().detail() + ": postgres.connect_timeout has passed");
  }
  lease->pooled = {.connection = *std::move(opened), .expires = self->Expiry()};
  co_return lease;
}

void Pool::State::Release(Pooled pooled) {
  // Destroyed after the lock is gone: closing a connection is a system call or several.
  Pooled dropped;
  if (pooled.connection && (!pooled.connection->idle() || pooled.expires <= Clock::System().Now()))
    dropped = std::move(pooled);
  std::lock_guard lock(mutex);
  while (!waiters.empty()) {
    const std::shared_ptr<Waiter> waiter = std::move(waiters.front());
    waiters.pop_front();
    waiter->pooled = std::move(pooled);
    if (waiter->granted.TrySet(true)) {
      UpdateGauges();
      return;
    }
    // Its call ended first, so it will not look.
    pooled = std::move(waiter->pooled);
  }
  --in_use;
  if (pooled.connection) {
    if (closing) {
      dropped = std::move(pooled);
    } else {
      idle.push_back(std::move(pooled));
    }
  }
  UpdateGauges();
  released.notify_all();
}

void Pool::State::CloseExpired() {
  // Destroyed after the lock is gone, as in Release.
  std::vector<Pooled> expired;
  std::lock_guard lock(mutex);
  const SteadyTime now = Clock::System().Now();
  for (Pooled& pooled : std::exchange(idle, {})) (pooled.expires > now ? idle : expired).push_back(std::move(pooled));
  UpdateGauges();
}

bool Pool::State::IsClosing() {
  std::lock_guard lock(mutex);
  return closing;
}

struct Transaction::State {
  State(Call& call, Pool& owner, bool again)
      : pool(owner), guard(call, owner.database_, {.lasting = true, .again = again}) {}

  // Of an error that came from the connection, under a call that goes on: the first one that is a fault is the verdict.
  void Note(const Error& error) {
    if (!fault && IsDatabaseFault(error)) fault = error;
  }
  // A statement that began then has ended, whoever ended it. The transaction as a whole may last as long as its body.
  void NoteTime(SteadyTime begin) {
    if (Clock::System().Now() - begin >= pool.database_.config().slow) guard.attempt().SetSlow();
  }

  Pool& pool;
  Guard guard;
  std::optional<Error> fault;
  // Null once it was settled in the background.
  std::unique_ptr<Lease> lease;
};

Transaction::Transaction(std::unique_ptr<State> state) : state_(std::move(state)) {}
Transaction::~Transaction() = default;
Transaction::Transaction(Transaction&&) noexcept = default;
Transaction& Transaction::operator=(Transaction&&) noexcept = default;

Task<Rows> Transaction::Run(Call& call, Statement statement, Params params) {
  NOVA_CO_TRY(call.Check());
  State& state = *state_;
  if (!state.lease || !state.lease->connection().in_transaction())
    co_return Internal("internal error", "statement=" + std::string(statement.name) +
                                             ": an earlier statement of the transaction has failed");
  const DatabaseDependency& database = state.pool.database_;
  const SteadyTime begin = Clock::System().Now();
  Call limited(call, database.config().timeout, begin);
  Result<Rows> rows = co_await Lease::Query(limited, *state.lease, statement, std::move(params));
  state.NoteTime(begin);
  if (rows) co_return rows;
  Error error = Attribute(call, database, std::move(rows).error());
  if (call.Check()) state.Note(error);
  // Now, and not when the body ends, which may take its time.
  if (state.lease->connection().abandoned())
    state.pool.Settle(std::move(state.lease), state.guard.attempt().TakePermit(), statement.name);
  co_return error;
}

Pool::Pool(runtime::Runtime& runtime, telemetry::Metrics& metrics, DatabaseDependency& database, PoolConfig config)
    : database_(database),
      state_(std::make_shared<State>(metrics, std::move(config))),
      reaper_(runtime),
      settling_(runtime) {
  const auto interval = std::clamp(state_->config.lifetime / 10, kReapIntervalMin, kReapIntervalMax);
  reaper_.Spawn("postgres: close expired connections", [state = state_, interval](Call& call) -> Task<void> {
    for (;;) {
      NOVA_CO_TRY(co_await runtime::Sleep(call, interval));
      state->CloseExpired();
    }
  });
}

Pool::~Pool() = default;

Error Pool::Judge(const Call& call, Guard& guard, Error error) const {
  // A pool that is being closed refuses those who wait for it, and knows nothing about the database.
  if (IsDatabaseFault(error) && !state_->IsClosing()) return guard.Failed(std::move(error));
  EndWithoutFault(call, guard);
  return error;
}

Task<Rows> Pool::Run(Call& call, Statement statement, Params params, bool always) {
  Guard guard(call, database_, {.always = always});
  NOVA_CO_TRY(guard.Begin());
  if (guard.has_fault()) {
    if (Result<void> injected = co_await guard.InjectBefore(); !injected)
      co_return guard.Failed(std::move(injected).error());
  }
  auto lease = co_await State::Acquire(state_, guard.call());
  if (!lease) co_return Judge(call, guard, Named(std::move(lease).error(), statement.name));
  Result<Rows> rows = co_await Lease::Query(guard.call(), **lease, statement, std::move(params));
  if (!rows) {
    if ((*lease)->connection().abandoned()) Settle(*std::move(lease), guard.attempt().TakePermit(), statement.name);
    co_return Judge(call, guard, std::move(rows).error());
  }
  if (auto lost = guard.InjectAfter()) co_return guard.Failed(*std::move(lost));
  guard.Succeeded();
  co_return rows;
}

std::optional<Duration> Pool::RepeatAfter(const Call& call, const Error& error, runtime::RetryAllowance& own_allowance,
                                          int tries) {
  if (!IsConflict(error)) return std::nullopt;
  runtime::RetryAllowance& allowance = call.retries() != nullptr ? *call.retries() : own_allowance;
  const auto pause = resilience::TakeRetry(call, database_, allowance, tries, call.Remaining());
  if (pause) state_->repeated.Increment();
  return pause;
}

Task<Transaction> Pool::Begin(Call& call, bool again) {
  const PoolConfig& config = state_->config;
  auto state = std::make_unique<Transaction::State>(call, *this, again);
  Guard& guard = state->guard;
  NOVA_CO_TRY(guard.Begin());
  if (guard.has_fault()) {
    if (Result<void> injected = co_await guard.InjectBefore(); !injected)
      co_return guard.Failed(std::move(injected).error());
  }
  const Duration timeout = database_.config().timeout;
  const SteadyTime begin = Clock::System().Now();
  Call limited(call, timeout, begin);
  const auto failed = [&](Error error) {
    state->NoteTime(begin);
    return Judge(call, guard, Attribute(call, database_, Named(std::move(error), "begin")));
  };
  auto lease = co_await State::Acquire(state_, limited);
  if (!lease) co_return failed(std::move(lease).error());
  // The server ends by itself what a process leaves behind that has died; as long as we live we are first.
  const Duration left = call.Remaining();
  const Duration statement_timeout = std::min(left, timeout) + config.cancel_drain;
  const Duration idle_timeout = std::min(left, kIdleInTransactionMax) + config.cancel_drain;
  Result<void> begun = co_await (*lease)->connection().Script(
      limited, "begin",
      "BEGIN; SET LOCAL statement_timeout = " + Milliseconds(statement_timeout) +
          "; SET LOCAL idle_in_transaction_session_timeout = " + Milliseconds(idle_timeout));
  if (!begun) {
    if ((*lease)->connection().abandoned()) Settle(*std::move(lease), guard.attempt().TakePermit(), "begin");
    co_return failed(std::move(begun).error());
  }
  state->NoteTime(begin);
  state->lease = *std::move(lease);
  co_return Transaction(std::move(state));
}

Task<void> Pool::Commit(Call& call, Transaction& transaction) {
  Transaction::State& state = *transaction.state_;
  if (Result<void> may = call.Check(); !may) {
    co_await Rollback(call, transaction);
    co_return std::move(may).error();
  }
  if (!state.lease || !state.lease->connection().in_transaction()) {
    co_await Rollback(call, transaction);
    co_return Internal("internal error", "the body of a transaction succeeded although a statement in it had failed");
  }
  // From here on the call's end does not count: somebody has to learn the outcome.
  Connection& connection = state.lease->connection();
  const Duration limit = std::min<Duration>(call.Remaining(), database_.config().timeout) + state_->config.cancel_drain;
  Call commit(call.strand(), {.deadline = Clock::System().Now() + limit, .trace = call.trace()});
  const SteadyTime begin = Clock::System().Now();
  Result<void> committed = co_await connection.Script(commit, "commit", "COMMIT");
  state_->queries.Observe("commit", committed ? Code::kOk : committed.error().code(), Clock::System().Now() - begin);
  state.NoteTime(begin);
  const bool outcome_known = connection.idle();
  if (connection.abandoned()) Settle(std::move(state.lease), state.guard.attempt().TakePermit(), "commit");
  state.lease.reset();
  if (committed) {
    if (auto lost = state.guard.InjectAfter()) co_return state.guard.Failed(*std::move(lost));
    state.guard.Succeeded();
    co_return Ok();
  }
  if (outcome_known && SqlErrorOf(committed.error())) co_return Judge(call, state.guard, std::move(committed).error());
  co_return Judge(call, state.guard,
                  Error(Code::kUnknown, "it is not known whether the change was made",
                        "statement=commit: " + committed.error().ToString()));
}

runtime::Awaitable<void> Pool::Rollback(Call& call, Transaction& transaction) {
  Transaction::State& state = *transaction.state_;
  if (state.lease && state.lease->connection().usable() && !state.lease->connection().idle()) {
    if (!call.Check()) {
      Settle(std::move(state.lease), state.guard.attempt().TakePermit(), "rollback");
    } else {
      Call limited(call, state_->config.cancel_drain);
      const Result<void> done = co_await state.lease->connection().Script(limited, "rollback", "ROLLBACK");
      if (!done) {
        telemetry::LogWarn("a rollback was not confirmed; the connection is closed", {{"error", done.error()}});
        // One that ran out of time had less than the policy grants.
        if (done.error().code() != Code::kDeadlineExceeded) state.Note(done.error());
      }
    }
  }
  // Closes the connection, unless it is outside a transaction again.
  state.lease.reset();
  if (state.fault && !state_->IsClosing()) {
    (void)state.guard.Failed(*state.fault);
  } else {
    EndWithoutFault(call, state.guard);
  }
}

void Pool::Settle(std::unique_ptr<Lease> lease, Bulkhead::Permit permit, std::string_view statement) {
  struct Left {
    std::unique_ptr<Lease> lease;
    Bulkhead::Permit permit;
  };
  permit.Orphan();
  const auto left = std::make_shared<Left>(std::move(lease), std::move(permit));
  settling_.Spawn("postgres: settle " + std::string(statement), [left, statement](Call& call) -> Task<void> {
    Lease& in_hand = *left->lease;
    Connection& connection = in_hand.connection();
    const auto options = [&] {
      // Calls of their own: Close waits for the end of this, which is near, instead of cancelling it.
      return runtime::CallOptions{.deadline = Clock::System().Now() + in_hand.state().config.cancel_drain,
                                  .trace = call.trace()};
    };
    Result<void> settled = Ok();
    if (connection.abandoned()) {
      Call drain(call.strand(), options());
      settled = co_await connection.Drain(drain, in_hand.state().canceller);
    }
    if (connection.usable() && !connection.idle()) {
      Call rollback(call.strand(), options());
      settled = co_await connection.Script(rollback, "rollback", "ROLLBACK");
    }
    if (!settled)
      telemetry::LogWarn("what a call left behind could not be ended in the server; its connection is closed",
                         {{"statement", statement}, {"error", settled.error()}});
    left->lease.reset();
    left->permit = {};
    co_return Ok();
  });
}

Task<void> Pool::Ping(Call& call) {
  static constexpr Statement kPing{"ping", "SELECT 1"};
  NOVA_CO_TRY(co_await Run(call, kPing, {}, true));
  co_return Ok();
}

Result<void> Pool::Close(Duration limit) {
  const SteadyTime until = Clock::System().Now() + limit;
  std::deque<std::shared_ptr<Waiter>> refused;
  std::vector<Pooled> idle;
  {
    std::lock_guard lock(state_->mutex);
    state_->closing = true;
    refused.swap(state_->waiters);
    idle.swap(state_->idle);
    state_->UpdateGauges();
  }
  for (const auto& waiter : refused) {
    (void)waiter->granted.TrySet(Unavailable("the service is stopping", "the database pool is closed"));
  }
  idle.clear();
  NOVA_TRY(reaper_.Stop(limit));
  int in_use = 0;
  {
    std::unique_lock lock(state_->mutex);
    (void)state_->released.wait_until(lock, until, [this] { return state_->in_use == 0; });
    in_use = state_->in_use;
  }
  // What was left behind has a lease, so if none is out only its last breath is waited for.
  const Result<void> settled = settling_.Stop(std::max(Duration::zero(), until - Clock::System().Now()));
  if (in_use == 0) return settled;
  return DeadlineExceeded("closing the database pool took too long",
                          std::to_string(in_use) + " connections are still in use");
}

}  // namespace nova::postgres
