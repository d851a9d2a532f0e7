// A blocking connection for the few statements of the supervisor: making roles and databases, and asking PgBouncer's
// console. Services use nova/postgres instead; nothing here may run on a runtime's thread.
#pragma once

#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "nova/base/clock.h"
#include "nova/base/result.h"
#include "nova/base/secret.h"

struct pg_conn;

namespace nova::local {

struct SqlTarget {
  int port = 0;  // on 127.0.0.1
  std::string database;
  std::string user;
  Secret<> password;
  // The authority that the server's certificate must chain to. Empty: no TLS, which both servers refuse.
  std::filesystem::path ca_file;
};

// One row; an SQL NULL is empty.
using SqlRow = std::vector<std::optional<std::string>>;

struct SqlRows {
  std::vector<std::string> columns;
  std::vector<SqlRow> rows;

  // The value at a named column; empty for NULL and for a column that is not there.
  std::string Get(std::size_t row, std::string_view column) const;
};

// Used by one thread at a time.
class SqlConnection {
 public:
  static constexpr Duration kConnectLimit = std::chrono::seconds(5);
  static constexpr Duration kStatementLimit = std::chrono::seconds(30);

  // Errors: UNAVAILABLE when nobody answers or the server does not accept connections yet; UNAUTHENTICATED when it
  // refuses this user; DEADLINE_EXCEEDED after `limit`.
  static Result<SqlConnection> Open(const SqlTarget& target, Duration limit = kConnectLimit);

  SqlConnection(SqlConnection&&) noexcept;
  SqlConnection& operator=(SqlConnection&&) noexcept;
  ~SqlConnection();

  // One statement in the simple protocol. Errors: INTERNAL with the server's message; DEADLINE_EXCEEDED after
  // kStatementLimit, and the connection is of no use afterwards.
  Result<SqlRows> Execute(const std::string& sql);

  // "name" and 'text', quoted for this connection.
  std::string Identifier(std::string_view name) const;
  std::string Literal(std::string_view text) const;
  // The SCRAM-SHA-256 verifier of a password, so that the password itself never travels in a statement.
  Result<std::string> ScramVerifier(const std::string& user, const Secret<>& password) const;

 private:
  struct Close {
    void operator()(pg_conn* connection) const;
  };
  explicit SqlConnection(pg_conn* connection);

  std::unique_ptr<pg_conn, Close> connection_;
};

}  // namespace nova::local
