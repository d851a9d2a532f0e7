// What the server said about a failed statement, and how it becomes an Error.
//
//   auto rows = co_await pool_.Query(call, kInsertAccount, id, email);
//   if (!rows && ViolatesConstraint(rows.error(), "account_email_key")) co_return AlreadyExists("the email is taken");
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "nova/base/error.h"

namespace nova::postgres {

struct SqlError {
  // Five characters: https://www.postgresql.org/docs/15/errcodes-appendix.html
  std::string state;
  // The constraint that was violated; empty if it was something else.
  std::string constraint;
};

// The Error of a failed statement. The public message says only what kind of failure it is; the detail names the
// statement, the SQLSTATE, the constraint and the server's primary message. That message is left out where it may quote
// values (class 22, data exceptions), and the server's DETAIL and CONTEXT always are.
//
//   23505 unique                                ALREADY_EXISTS
//   23503 foreign key, 23514 check, 23502 null  FAILED_PRECONDITION
//   40001 serialization, 40P01 deadlock,
//   55P03 lock timeout                          ABORTED: the transaction may be tried again
//   57014 cancelled, 25P03 idle in transaction  DEADLINE_EXCEEDED (a call that ended early gives its own reason)
//   08xxx, 53xxx, 57P0x                         UNAVAILABLE
//   everything else                             INTERNAL
Error MakeSqlError(std::string_view statement, const SqlError& error, std::string_view primary_message);

// Nothing if the error does not come from the server.
std::optional<SqlError> SqlErrorOf(const Error& error);

// Whether a failed statement, or the failure to connect, is the database's fault, as its circuit breaker counts it: it
// was lost, is shutting down, has run out of something, is broken inside, or took too long. Not: what a wrong
// statement, a value or other transactions make fail.
bool IsDatabaseFault(const Error& error);

// Whether the server has undone a transaction because of what others did at the same time, so that another try may
// well succeed: 40001 and 40P01. Not 55P03, after which somebody still holds the lock.
bool IsConflict(const Error& error);

// True if `error` says that this constraint was violated.
bool ViolatesConstraint(const Error& error, std::string_view constraint);

}  // namespace nova::postgres
