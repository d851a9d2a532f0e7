#include "nova/postgres/connection.h"

#include <algorithm>
#include <boost/asio/ip/address.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <condition_variable>
#include <fcntl.h>
#include <libpq-fe.h>
#include <mutex>
#include <poll.h>
#include <vector>

#include "nova/postgres/sql_error.h"
#include "nova/runtime/one_shot.h"
#include "nova/telemetry/log.h"

namespace nova::postgres {
namespace {

using runtime::Call;
using runtime::CancelHook;
using runtime::OneShot;
using runtime::Task;
using runtime::use_task;

// Addresses of one name that are tried, in order, within the one timeout.
constexpr std::size_t kAddressesMax = 8;
constexpr int kCancelThreads = 2;
constexpr int kCancelQueueMax = 64;
// How long a Canceller waits for its threads when it dies.
constexpr auto kStopLimit = std::chrono::seconds(1);
// A peer that does not acknowledge for so long is gone. Bounds the connect of a cancel request as well.
constexpr const char* kTcpUserTimeoutMs = "10000";

struct FreeCancel {
  void operator()(PGcancel* cancel) const { PQfreeCancel(cancel); }
};

Error DatabaseUnavailable(std::string detail) { return Unavailable("the database is unavailable", std::move(detail)); }

std::string OneLine(std::string_view text) {
  std::string line(text.substr(0, text.find_last_not_of(" \n") + 1));
  std::ranges::replace(line, '\n', ' ');
  return line;
}

// libpq would print notices on stderr, past the log and its redaction.
void LogNotice(void*, const PGresult* notice) {
  telemetry::LogDebug("postgres notice", {{"sqlstate", PQresultErrorField(notice, PG_DIAG_SQLSTATE)},
                                          {"text", PQresultErrorField(notice, PG_DIAG_MESSAGE_PRIMARY)}});
}

Error ErrorOf(const PGresult* result, std::string_view name, const std::string& libpq_message) {
  const char* const state = PQresultErrorField(result, PG_DIAG_SQLSTATE);
  // Errors that libpq makes itself, such as a closed connection, have no state.
  if (state == nullptr) return DatabaseUnavailable("statement=" + std::string(name) + ": " + libpq_message);
  const char* const constraint = PQresultErrorField(result, PG_DIAG_CONSTRAINT_NAME);
  const char* const text = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
  return MakeSqlError(name, {.state = state, .constraint = constraint != nullptr ? constraint : ""},
                      text != nullptr ? text : "");
}

using Addresses = std::vector<std::string>;

// libpq resolves names with a blocking call; so we do it and hand over addresses.
Task<Addresses> Resolve(Call& call, std::string host) {
  boost::system::error_code not_an_address;
  asio::ip::make_address(host, not_an_address);
  if (!not_an_address) co_return Addresses{host};
  using Resolver = asio::ip::basic_resolver<asio::ip::tcp, asio::io_context::executor_type>;
  // A lookup under way cannot be stopped: it holds its own state, and a call that ends does not wait for it.
  const auto resolver = std::make_shared<Resolver>(call.strand().io());
  const OneShot<Addresses> done;
  resolver->async_resolve(
      host, "", [resolver, done](const boost::system::error_code& error, const Resolver::results_type& found) {
        if (error) {
          (void)done.TrySet(DatabaseUnavailable(error.message()));
          return;
        }
        Addresses addresses;
        for (const auto& entry : found) {
          if (addresses.size() == kAddressesMax) break;
          addresses.push_back(entry.endpoint().address().to_string());
        }
        (void)done.TrySet(std::move(addresses));
      });
  auto addresses = co_await done.Wait(call);
  if (!addresses) {
    resolver->cancel();
    co_return std::move(addresses).error().WithContext("resolve " + host);
  }
  co_return addresses;
}

// "a,a,a": libpq pairs each address with a host, whose name the certificate must bear.
std::string Repeat(const std::string& host, std::size_t times) {
  std::string list = host;
  for (std::size_t i = 1; i < times; ++i) list += "," + host;
  return list;
}

std::string Join(const Addresses& addresses) {
  std::string list;
  for (const std::string& address : addresses) list += (list.empty() ? "" : ",") + address;
  return list;
}

}  // namespace

struct Canceller::Running {
  std::mutex mutex;
  std::condition_variable ended;
  int count = 0;  // guarded by mutex
};

Canceller::Canceller()
    : running_(std::make_shared<Running>()),
      workers_(std::make_unique<runtime::WorkerPool>(runtime::WorkerPoolConfig{
          .name = "nova-pg-cancel", .threads = kCancelThreads, .queue_max = kCancelQueueMax})) {}

Canceller::~Canceller() {
  std::unique_lock lock(running_->mutex);
  const bool all_ended = running_->ended.wait_for(lock, kStopLimit, [this] { return running_->count == 0; });
  if (all_ended) return;
  telemetry::LogWarn("a cancel request to PostgreSQL does not end; its thread is left behind");
  (void)workers_.release();
}

Task<void> Canceller::Cancel(Call& call, pg_conn* connection) {
  const std::shared_ptr<PGcancel> cancel(PQgetCancel(connection), FreeCancel());
  if (!cancel) co_return DatabaseUnavailable("the connection is closed");
  auto delivered = co_await workers_->Run<bool>(call, [cancel, running = running_]() -> Result<bool> {
    {
      std::lock_guard lock(running->mutex);
      ++running->count;
    }
    std::array<char, 256> why{};
    const bool ok = PQcancel(cancel.get(), why.data(), static_cast<int>(why.size())) != 0;
    std::lock_guard lock(running->mutex);
    --running->count;
    running->ended.notify_all();
    if (!ok) return DatabaseUnavailable("cancel request: " + OneLine(why.data()));
    return true;
  });
  NOVA_CO_TRY(std::move(delivered));
  co_return Ok();
}

Connection::~Connection() {
  // The duplicate goes first, so that libpq's own close is the one that ends the connection.
  boost::system::error_code ignored;
  socket_.close(ignored);
  PQfinish(connection_);
}

Task<std::unique_ptr<Connection>> Connection::Open(Call& call, ConnectionConfig config) {
  NOVA_CO_TRY(call.Check());
  std::unique_ptr<Connection> connection(new Connection(call.strand().io()));
  Result<void> connected = co_await connection->Connect(call, config);
  if (!connected)
    co_return std::move(connected).error().WithContext("connect to " + config.host + ":" + std::to_string(config.port));
  co_return connection;
}

Task<void> Connection::Connect(Call& call, const ConnectionConfig& config) {
  std::string host = config.host;
  std::string hostaddr;
  if (!host.starts_with('/')) {
    NOVA_CO_TRY(const Addresses addresses, co_await Resolve(call, host));
    if (addresses.empty()) co_return DatabaseUnavailable("the name has no address");
    host = Repeat(host, addresses.size());
    hostaddr = Join(addresses);
  }
  const std::string port = std::to_string(config.port);
  // Every value is passed by itself, so nothing needs quoting and no message can quote a whole connection string.
  const std::vector<std::pair<const char*, const char*>> settings = {
      {"host", host.c_str()},
      {"hostaddr", hostaddr.c_str()},
      {"port", port.c_str()},
      {"dbname", config.database.c_str()},
      {"user", config.user.c_str()},
      {"password", config.password.Expose().c_str()},
      {"application_name", config.application_name.c_str()},
      {"client_encoding", "UTF8"},
      {"sslmode", SslModeName(config.ssl_mode).data()},
      {"sslrootcert", config.ssl_root_cert.c_str()},
      {"gssencmode", "disable"},
      {"tcp_user_timeout", kTcpUserTimeoutMs},
      {"keepalives_idle", "30"},
      {"keepalives_interval", "10"},
      {"keepalives_count", "3"},
  };
  std::vector<const char*> keywords;
  std::vector<const char*> values;
  for (const auto& [keyword, value] : settings) {
    keywords.push_back(keyword);
    values.push_back(value);
  }
  keywords.push_back(nullptr);
  values.push_back(nullptr);

  // A `dbname` is a name, never a connection string: 0.
  connection_ = PQconnectStartParams(keywords.data(), values.data(), 0);
  if (connection_ == nullptr) co_return ResourceExhausted("out of memory");
  if (PQstatus(connection_) == CONNECTION_BAD) co_return DatabaseUnavailable(LibpqMessage());
  PQsetNoticeReceiver(connection_, &LogNotice, nullptr);
  for (auto next = PGRES_POLLING_WRITING; next != PGRES_POLLING_OK; next = PQconnectPoll(connection_)) {
    if (next == PGRES_POLLING_FAILED) co_return DatabaseUnavailable(LibpqMessage());
    // The last poll may have gone on to another address or, after a refused TLS, to another socket.
    NOVA_CO_TRY(WatchSocket());
    NOVA_CO_TRY(co_await Wait(call, next == PGRES_POLLING_READING ? Socket::wait_read : Socket::wait_write));
  }
  NOVA_CO_TRY(WatchSocket());
  if (PQsetnonblocking(connection_, 1) != 0) co_return DatabaseUnavailable(LibpqMessage());
  co_return Ok();
}

Result<void> Connection::WatchSocket() {
  boost::system::error_code error;
  socket_.close(error);
  const int duplicate = ::fcntl(PQsocket(connection_), F_DUPFD_CLOEXEC, 0);
  if (duplicate < 0) return DatabaseUnavailable("no file descriptor is free");
  socket_.assign(duplicate, error);
  if (error) {
    ::close(duplicate);
    return DatabaseUnavailable("watch the socket: " + error.message());
  }
  return Ok();
}

Task<void> Connection::Wait(Call& call, Socket::wait_type what) {
  NOVA_CO_TRY(call.Check());
  Error why;
  bool ended = false;
  const CancelHook hook(call, [&](const Error& reason) {
    why = reason;
    ended = true;
    boost::system::error_code ignored;
    socket_.cancel(ignored);
  });
  boost::system::error_code error;
  // A hook that fired before the wait began has nothing to cancel yet.
  if (!ended) co_await socket_.async_wait(what, asio::redirect_error(use_task, error));
  if (ended) co_return why;
  if (error) co_return DatabaseUnavailable("wait for the socket: " + error.message());
  co_return Ok();
}

Task<Rows> Connection::Query(Call& call, Statement statement, Params params) {
  NOVA_CO_TRY(call.Check());
  const std::string sql(statement.sql);
  std::vector<Oid> types;
  std::vector<const char*> values;
  std::vector<int> lengths;
  const std::vector<int> formats(params.size(), 1);
  for (const Params::Value& value : params.values_) {
    types.push_back(value.type);
    values.push_back(value.null ? nullptr : params.bytes_.data() + value.begin);
    lengths.push_back(static_cast<int>(value.size));
  }
  busy_ = true;
  if (PQsendQueryParams(connection_, sql.c_str(), static_cast<int>(params.size()), types.data(), values.data(),
                        lengths.data(), formats.data(), 1) == 0) {
    broken_ = true;
    co_return DatabaseUnavailable("statement=" + std::string(statement.name) + ": " + LibpqMessage());
  }
  co_return co_await Finish(call, statement.name);
}

Task<Rows> Connection::Simple(Call& call, std::string_view name, std::string sql) {
  NOVA_CO_TRY(call.Check());
  busy_ = true;
  if (PQsendQuery(connection_, sql.c_str()) == 0) {
    broken_ = true;
    co_return DatabaseUnavailable("statement=" + std::string(name) + ": " + LibpqMessage());
  }
  co_return co_await Finish(call, name);
}

Task<void> Connection::Script(Call& call, std::string_view name, std::string sql) {
  NOVA_CO_TRY(co_await Simple(call, name, std::move(sql)));
  co_return Ok();
}

Task<Rows> Connection::Finish(Call& call, std::string_view name) {
  if (Result<void> sent = co_await Flush(call); !sent) {
    // Half a statement may be on its way; nothing can follow it.
    broken_ = true;
    co_return std::move(sent).error();
  }
  co_return co_await Collect(call, name);
}

Task<void> Connection::Flush(Call& call) {
  for (;;) {
    const int left = PQflush(connection_);
    if (left == 0) co_return Ok();
    if (left < 0) co_return DatabaseUnavailable(LibpqMessage());
    // Waiting to write is enough: the server reads a statement to its end before it answers.
    NOVA_CO_TRY(co_await Wait(call, Socket::wait_write));
  }
}

Task<Rows> Connection::Collect(Call& call, std::string_view name) {
  Rows last;
  std::optional<Error> failure;
  for (;;) {
    while (PQisBusy(connection_) == 0) {
      PGresult* const result = PQgetResult(connection_);
      if (result == nullptr) {
        busy_ = false;
        if (failure) co_return *std::move(failure);
        co_return std::move(last);
      }
      Rows rows(result);
      switch (PQresultStatus(result)) {
        case PGRES_TUPLES_OK:
        case PGRES_COMMAND_OK:
        case PGRES_EMPTY_QUERY:
          last = std::move(rows);
          break;
        case PGRES_FATAL_ERROR:
        case PGRES_NONFATAL_ERROR:
        case PGRES_BAD_RESPONSE:
          // The first error is the cause, what follows are consequences.
          if (!failure) failure = ErrorOf(result, name, LibpqMessage());
          break;
        default:
          // COPY, which would wait for us for ever.
          broken_ = true;
          co_return Internal("internal error", "statement=" + std::string(name) + ": COPY is not supported");
      }
    }
    NOVA_CO_TRY(co_await Wait(call, Socket::wait_read));
    if (PQconsumeInput(connection_) == 0) {
      broken_ = true;
      if (failure) co_return *std::move(failure);
      co_return DatabaseUnavailable("statement=" + std::string(name) + ": " + LibpqMessage());
    }
  }
}

Task<void> Connection::Drain(Call& call, Canceller& canceller) {
  if (Result<void> cancelled = co_await canceller.Cancel(call, connection_); !cancelled) {
    broken_ = true;
    co_return std::move(cancelled).error();
  }
  const Result<Rows> rest = co_await Collect(call, "cancel");
  // A request that found nothing to cancel may still be on its way and would hit the next statement. Only a statement
  // that says it was cancelled proves that the request is spent.
  const std::optional<SqlError> said = rest ? std::nullopt : SqlErrorOf(rest.error());
  if (!busy_ && said && said->state == "57014") co_return Ok();
  broken_ = true;
  co_return rest ? DatabaseUnavailable("the statement ended before it could be cancelled") : rest.error();
}

bool Connection::usable() const { return !broken_ && !busy_ && PQstatus(connection_) == CONNECTION_OK; }

bool Connection::idle() const { return usable() && PQtransactionStatus(connection_) == PQTRANS_IDLE; }

bool Connection::in_transaction() const { return usable() && PQtransactionStatus(connection_) == PQTRANS_INTRANS; }

bool Connection::PeerIsSilent() const {
  pollfd socket{.fd = PQsocket(connection_), .events = POLLIN, .revents = 0};
  return ::poll(&socket, 1, 0) == 0;
}

std::string Connection::LibpqMessage() const { return OneLine(PQerrorMessage(connection_)); }

}  // namespace nova::postgres
