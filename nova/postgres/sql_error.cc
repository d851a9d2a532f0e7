#include "nova/postgres/sql_error.h"

namespace nova::postgres {
namespace {

// The detail is the only place of an Error that can carry the state; MakeSqlError writes it in this form and
// SqlErrorOf reads it, whatever context was put in front.
constexpr std::string_view kStateKey = "SQLSTATE=";
constexpr std::string_view kConstraintKey = " constraint=\"";
constexpr std::size_t kStateSize = 5;

Code CodeOf(std::string_view state) {
  if (state == "23505") return Code::kAlreadyExists;
  if (state == "23503" || state == "23514" || state == "23502") return Code::kFailedPrecondition;
  if (state == "40001" || state == "40P01" || state == "55P03") return Code::kAborted;
  if (state == "57014" || state == "25P03") return Code::kDeadlineExceeded;
  if (state.starts_with("08") || state.starts_with("53") || state.starts_with("57P0")) return Code::kUnavailable;
  return Code::kInternal;
}

std::string_view PublicMessage(Code code) {
  switch (code) {
    case Code::kAlreadyExists:
      return "it exists already";
    case Code::kFailedPrecondition:
      return "the change contradicts what is stored";
    case Code::kAborted:
      return "others changed the same data, try again";
    case Code::kDeadlineExceeded:
      return "the database took too long";
    case Code::kUnavailable:
      return "the database is unavailable";
    default:
      return "internal error";
  }
}

}  // namespace

Error MakeSqlError(std::string_view statement, const SqlError& error, std::string_view primary_message) {
  const Code code = CodeOf(error.state);
  std::string detail = std::string(kStateKey) + error.state;
  // A quoted identifier may hold anything; one that would break the form is left out.
  if (!error.constraint.empty() && error.constraint.find('"') == std::string::npos)
    detail.append(kConstraintKey).append(error.constraint).append("\"");
  detail.append(" statement=").append(statement);
  // "invalid input syntax for type uuid: "..."" quotes what somebody typed in.
  if (!error.state.starts_with("22")) detail.append(": ").append(primary_message);
  return Error(code, std::string(PublicMessage(code)), std::move(detail));
}

std::optional<SqlError> SqlErrorOf(const Error& error) {
  std::string_view detail = error.detail();
  const std::size_t begin = detail.find(kStateKey);
  if (begin == std::string_view::npos) return std::nullopt;
  detail.remove_prefix(begin + kStateKey.size());
  SqlError found{.state = std::string(detail.substr(0, kStateSize)), .constraint = {}};
  detail.remove_prefix(found.state.size());
  if (detail.starts_with(kConstraintKey)) {
    detail.remove_prefix(kConstraintKey.size());
    found.constraint = detail.substr(0, detail.find('"'));
  }
  return found;
}

bool IsDatabaseFault(const Error& error) {
  if (const std::optional<SqlError> said = SqlErrorOf(error)) {
    // Class 58 is the operating system's errors, XX the server's own; INTERNAL alone is also a mistake in the SQL.
    return said->state.starts_with("08") || said->state.starts_with("53") || said->state.starts_with("57") ||
           said->state.starts_with("58") || said->state.starts_with("XX");
  }
  switch (error.code()) {
    case Code::kUnavailable:
    case Code::kUnknown:
    case Code::kDataLoss:
    case Code::kDeadlineExceeded:
      return true;
    default:
      return false;
  }
}

bool ViolatesConstraint(const Error& error, std::string_view constraint) {
  const std::optional<SqlError> found = SqlErrorOf(error);
  return found && found->constraint == constraint && found->state.starts_with("23");
}

bool IsConflict(const Error& error) {
  const std::optional<SqlError> said = SqlErrorOf(error);
  return said && (said->state == "40001" || said->state == "40P01");
}

}  // namespace nova::postgres
