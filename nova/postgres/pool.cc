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

// Says whose deadline it was: the call's, or query_timeout.
Error Attribute(const Call& call, Error error, std::string_view statement) {
  if (error.code() != Code::kDeadlineExceeded) return error;
  if (Result<void> ended = call.Check(); !ended) return std::move(ended).error();
  // The server's own limit says so itself.
  if (SqlErrorOf(error)) return error;
  return DeadlineExceeded("the database took too long",
                          "statement=" + std::string(statement) + " ran into postgres.query_timeout");
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
        acquire_ok(AcquireHistogram(metrics, config.name, "ok")),
        acquire_error(AcquireHistogram(metrics, config.name, "error")) {}

  static prometheus::Histogram& AcquireHistogram(telemetry::Metrics& metrics, const std::string& pool,
                                                 const std::string& outcome) {
    return metrics.Histogram("nova_postgres_acquire_seconds",
                             "Time to get a connection: the wait for one, or opening it", kAcquireBuckets,
                             {{"pool", pool}, {"outcome", outcome}});
  }

  static Task<std::unique_ptr<Lease>> Acquire(std::shared_ptr<State> self, Call& call);
  static Task<std::unique_ptr<Lease>> AcquireUntimed(const std::shared_ptr<State>& self, Call& call);
  // Takes back the right to a connection, and the connection if it is still good.
  void Release(Pooled pooled);
  void CloseExpired();
  SteadyTime Expiry();
  void UpdateGauges();  // precondition: mutex is held

  const PoolConfig config;
  // Outlives the connections below.
  Canceller canceller;
  QueryMetrics queries;
  prometheus::Gauge& in_use_gauge;
  prometheus::Gauge& idle_gauge;
  prometheus::Gauge& waiters_gauge;
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

  // Runs one statement under `limited`, a child of `call` with query_timeout, and records it.
  static Task<Rows> Query(Call& call, Call& limited, Lease& lease, Statement statement, Params params) {
    const SteadyTime begin = Clock::System().Now();
    Result<Rows> rows = co_await lease.connection().Query(limited, statement, std::move(params));
    if (!rows) rows = Attribute(call, std::move(rows).error(), statement.name);
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
  auto opened =
      co_await Connection::Open(connecting, self->config.connection, self->config.cancel_drain, self->canceller);
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

Transaction::Transaction(std::unique_ptr<Lease> lease) : lease_(std::move(lease)) {}
Transaction::~Transaction() = default;
Transaction::Transaction(Transaction&&) noexcept = default;
Transaction& Transaction::operator=(Transaction&&) noexcept = default;

Task<Rows> Transaction::Run(Call& call, Statement statement, Params params) {
  NOVA_CO_TRY(call.Check());
  if (!lease_->connection().in_transaction())
    co_return Internal("internal error", "statement=" + std::string(statement.name) +
                                             ": an earlier statement of the transaction has failed");
  Call limited(call, lease_->state().config.query_timeout);
  co_return co_await Lease::Query(call, limited, *lease_, statement, std::move(params));
}

Pool::Pool(runtime::Runtime& runtime, telemetry::Metrics& metrics, PoolConfig config)
    : state_(std::make_shared<State>(metrics, std::move(config))), background_(runtime) {
  const auto interval = std::clamp(state_->config.lifetime / 10, kReapIntervalMin, kReapIntervalMax);
  background_.Spawn("postgres: close expired connections", [state = state_, interval](Call& call) -> Task<void> {
    for (;;) {
      NOVA_CO_TRY(co_await runtime::Sleep(call, interval));
      state->CloseExpired();
    }
  });
}

Pool::~Pool() = default;

Task<Rows> Pool::Run(Call& call, Statement statement, Params params) {
  Call limited(call, state_->config.query_timeout);
  auto lease = co_await State::Acquire(state_, limited);
  if (!lease) co_return Attribute(call, std::move(lease).error(), statement.name);
  co_return co_await Lease::Query(call, limited, **lease, statement, std::move(params));
}

Task<Transaction> Pool::Begin(Call& call) {
  const PoolConfig& config = state_->config;
  Call limited(call, config.query_timeout);
  auto lease = co_await State::Acquire(state_, limited);
  if (!lease) co_return Attribute(call, std::move(lease).error(), "begin");
  const Duration left = call.Remaining();
  const Duration statement_timeout = std::min<Duration>(left, config.query_timeout);
  const Duration idle_timeout = std::min(left, kIdleInTransactionMax) + config.cancel_drain;
  Result<void> begun = co_await (*lease)->connection().Script(
      limited, "begin",
      "BEGIN; SET LOCAL statement_timeout = " + Milliseconds(statement_timeout) +
          "; SET LOCAL idle_in_transaction_session_timeout = " + Milliseconds(idle_timeout));
  if (!begun) co_return Attribute(call, std::move(begun).error(), "begin");
  co_return Transaction(*std::move(lease));
}

Task<void> Pool::Commit(Call& call, Transaction& transaction) {
  Connection& connection = transaction.lease_->connection();
  if (Result<void> may = call.Check(); !may) {
    co_await Rollback(call, transaction);
    co_return std::move(may).error();
  }
  if (!connection.in_transaction()) {
    co_await Rollback(call, transaction);
    co_return Internal("internal error", "the body of a transaction succeeded although a statement in it had failed");
  }
  // From here on the call's end does not count: somebody has to learn the outcome.
  const PoolConfig& config = state_->config;
  const Duration limit = std::min<Duration>(call.Remaining(), config.query_timeout) + config.cancel_drain;
  Call commit(call.strand(), {.deadline = Clock::System().Now() + limit, .trace = call.trace(), .peer = {}});
  const SteadyTime begin = Clock::System().Now();
  Result<void> committed = co_await connection.Script(commit, "commit", "COMMIT");
  state_->queries.Observe("commit", committed ? Code::kOk : committed.error().code(), Clock::System().Now() - begin);
  const bool outcome_known = connection.idle();
  transaction.lease_.reset();
  if (committed) co_return Ok();
  if (outcome_known && SqlErrorOf(committed.error())) co_return std::move(committed).error();
  co_return Error(Code::kUnknown, "it is not known whether the change was made",
                  "statement=commit: " + committed.error().ToString());
}

runtime::Awaitable<void> Pool::Rollback(Call& call, Transaction& transaction) {
  Connection& connection = transaction.lease_->connection();
  if (connection.usable() && !connection.idle()) {
    const Duration limit = state_->config.cancel_drain;
    Call rollback(call.strand(), {.deadline = Clock::System().Now() + limit, .trace = call.trace(), .peer = {}});
    const Result<void> done = co_await connection.Script(rollback, "rollback", "ROLLBACK");
    if (!done) telemetry::LogWarn("a rollback was not confirmed; the connection is closed", {{"error", done.error()}});
  }
  // Closes the connection, unless it is outside a transaction again.
  transaction.lease_.reset();
}

Task<void> Pool::Ping(Call& call) {
  static constexpr Statement kPing{"ping", "SELECT 1"};
  NOVA_CO_TRY(co_await Query(call, kPing));
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
  NOVA_TRY(background_.Stop(limit));
  std::unique_lock lock(state_->mutex);
  if (state_->released.wait_until(lock, until, [this] { return state_->in_use == 0; })) return Ok();
  return DeadlineExceeded("closing the database pool took too long",
                          std::to_string(state_->in_use) + " connections are still in use");
}

}  // namespace nova::postgres
