#include "local/sql.h"

#include <fmt/format.h>
#include <libpq-fe.h>
#include <poll.h>

namespace nova::local {
namespace {

struct ClearResult {
  void operator()(PGresult* result) const { ::PQclear(result); }
};
using ResultPointer = std::unique_ptr<PGresult, ClearResult>;

struct FreeMemory {
  void operator()(char* memory) const { ::PQfreemem(memory); }
};
using TextPointer = std::unique_ptr<char, FreeMemory>;

// libpq's messages end in a newline and may have several lines; ours have one.
std::string OneLine(const char* message) {
  std::string text(message == nullptr ? "" : message);
  while (!text.empty() && text.back() == '\n') text.pop_back();
  for (char& c : text) {
    if (c == '\n') c = ' ';
  }
  return text;
}

// Waits for the socket; false when `end` came first.
bool WaitSocket(PGconn* connection, short events, SteadyTime end) {
  Duration left = end - Clock::System().Now();
  if (left <= Duration::zero()) return false;
  pollfd wait{.fd = ::PQsocket(connection), .events = events, .revents = 0};
  auto ms = std::chrono::ceil<std::chrono::milliseconds>(left).count();
  return ::poll(&wait, 1, static_cast<int>(ms)) != 0;
}

// SQLSTATE class 28 is "invalid authorization"; libpq gives no SQLSTATE for a failed connection, so its text decides.
Error ConnectError(const SqlTarget& target, const std::string& text) {
  std::string message = fmt::format("cannot connect to {} on port {}: {}", target.database, target.port, text);
  bool refused = text.find("authentication failed") != std::string::npos ||
                 text.find("pg_hba.conf") != std::string::npos || text.find("permission denied") != std::string::npos ||
                 text.find("SSL required") != std::string::npos;
  return refused ? Unauthenticated(std::move(message)) : Unavailable(std::move(message));
}

}  // namespace

std::string SqlRows::Get(std::size_t row, std::string_view column) const {
  for (std::size_t i = 0; i < columns.size(); ++i) {
    if (columns[i] == column && row < rows.size()) return rows[row][i].value_or("");
  }
  return {};
}

void SqlConnection::Close::operator()(pg_conn* connection) const { ::PQfinish(connection); }

SqlConnection::SqlConnection(pg_conn* connection) : connection_(connection) {}
SqlConnection::SqlConnection(SqlConnection&&) noexcept = default;
SqlConnection& SqlConnection::operator=(SqlConnection&&) noexcept = default;
SqlConnection::~SqlConnection() = default;

Result<SqlConnection> SqlConnection::Open(const SqlTarget& target, Duration limit) {
  const std::string port = std::to_string(target.port);
  const std::string ca = target.ca_file.string();
  // Every setting that the environment or a file in the home directory could change is given.
  std::vector<std::pair<const char*, const char*>> settings = {
      {"host", "localhost"},
      {"hostaddr", "127.0.0.1"},
      {"port", port.c_str()},
      {"dbname", target.database.c_str()},
      {"user", target.user.c_str()},
      {"password", target.password.Expose().c_str()},
      {"sslmode", ca.empty() ? "disable" : "verify-full"},
      {"sslrootcert", ca.c_str()},
      {"ssl_min_protocol_version", "TLSv1.3"},
      {"gssencmode", "disable"},
      {"client_encoding", "UTF8"},
      {"application_name", "nova-up"},
      {"options", ""},
  };
  std::vector<const char*> names;
  std::vector<const char*> values;
  for (auto [name, value] : settings) {
    names.push_back(name);
    values.push_back(value);
  }
  names.push_back(nullptr);
  values.push_back(nullptr);

  SteadyTime end = Clock::System().Now() + limit;
  SqlConnection connection(::PQconnectStartParams(names.data(), values.data(), 0));
  PGconn* raw = connection.connection_.get();
  if (raw == nullptr) return ResourceExhausted("out of memory");
  ::PQsetNoticeProcessor(raw, [](void*, const char*) {}, nullptr);
  PostgresPollingStatusType status = PGRES_POLLING_WRITING;
  while (status != PGRES_POLLING_OK) {
    if (status == PGRES_POLLING_FAILED || ::PQstatus(raw) == CONNECTION_BAD) {
      return ConnectError(target, OneLine(::PQerrorMessage(raw)));
    }
    if (!WaitSocket(raw, status == PGRES_POLLING_READING ? POLLIN : POLLOUT, end)) {
      return DeadlineExceeded(fmt::format("{} on port {} does not answer", target.database, target.port));
    }
    status = ::PQconnectPoll(raw);
  }
  return connection;
}

Result<SqlRows> SqlConnection::Execute(const std::string& sql) {
  PGconn* raw = connection_.get();
  if (::PQsendQuery(raw, sql.c_str()) == 0) {
    return Internal(fmt::format("statement not sent: {}", OneLine(::PQerrorMessage(raw))));
  }
  SteadyTime end = Clock::System().Now() + kStatementLimit;
  SqlRows answer;
  std::optional<Error> error;
  while (true) {
    while (::PQisBusy(raw) != 0) {
      if (!WaitSocket(raw, POLLIN, end)) return DeadlineExceeded("the statement takes too long");
      if (::PQconsumeInput(raw) == 0) {
        return Unavailable(fmt::format("connection lost: {}", OneLine(::PQerrorMessage(raw))));
      }
    }
    ResultPointer result(::PQgetResult(raw));
    if (!result) break;
    ExecStatusType status = ::PQresultStatus(result.get());
    if (status == PGRES_COMMAND_OK || status == PGRES_EMPTY_QUERY) continue;
    if (status != PGRES_TUPLES_OK) {
      if (!error) error = Internal(OneLine(::PQresultErrorMessage(result.get())));
      continue;
    }
    answer = {};
    int columns = ::PQnfields(result.get());
    for (int c = 0; c < columns; ++c) answer.columns.emplace_back(::PQfname(result.get(), c));
    for (int r = 0; r < ::PQntuples(result.get()); ++r) {
      SqlRow& row = answer.rows.emplace_back();
      for (int c = 0; c < columns; ++c) {
        if (::PQgetisnull(result.get(), r, c) != 0) {
          row.emplace_back(std::nullopt);
        } else {
          row.emplace_back(::PQgetvalue(result.get(), r, c));
        }
      }
    }
  }
  if (error) return *std::move(error);
  return answer;
}

std::string SqlConnection::Identifier(std::string_view name) const {
  TextPointer quoted(::PQescapeIdentifier(connection_.get(), name.data(), name.size()));
  return quoted ? std::string(quoted.get()) : std::string();
}

std::string SqlConnection::Literal(std::string_view text) const {
  TextPointer quoted(::PQescapeLiteral(connection_.get(), text.data(), text.size()));
  return quoted ? std::string(quoted.get()) : std::string();
}

Result<std::string> SqlConnection::ScramVerifier(const std::string& user, const Secret<>& password) const {
  TextPointer verifier(
      ::PQencryptPasswordConn(connection_.get(), password.Expose().c_str(), user.c_str(), "scram-sha-256"));
  if (!verifier) return Internal(fmt::format("no verifier: {}", OneLine(::PQerrorMessage(connection_.get()))));
  return std::string(verifier.get());
}

}  // namespace nova::local
