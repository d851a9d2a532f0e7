#include "nova/postgres/sql_error.h"

#include <gtest/gtest.h>

namespace nova::postgres {
namespace {

Code CodeFor(std::string state) {
  return MakeSqlError("s", {.state = std::move(state), .constraint = {}}, "text").code();
}

TEST(SqlError, EachStateBecomesItsCode) {
  EXPECT_EQ(CodeFor("23505"), Code::kAlreadyExists);
  EXPECT_EQ(CodeFor("23503"), Code::kFailedPrecondition);
  EXPECT_EQ(CodeFor("23514"), Code::kFailedPrecondition);
  EXPECT_EQ(CodeFor("23502"), Code::kFailedPrecondition);
  EXPECT_EQ(CodeFor("40001"), Code::kAborted);
  EXPECT_EQ(CodeFor("40P01"), Code::kAborted);
  EXPECT_EQ(CodeFor("55P03"), Code::kAborted);
  EXPECT_EQ(CodeFor("57014"), Code::kDeadlineExceeded);
  EXPECT_EQ(CodeFor("25P03"), Code::kDeadlineExceeded);
  EXPECT_EQ(CodeFor("08006"), Code::kUnavailable);
  EXPECT_EQ(CodeFor("53300"), Code::kUnavailable);
  EXPECT_EQ(CodeFor("57P01"), Code::kUnavailable);
  EXPECT_EQ(CodeFor("57P03"), Code::kUnavailable);
  EXPECT_EQ(CodeFor("42601"), Code::kInternal);
  EXPECT_EQ(CodeFor("42P01"), Code::kInternal);
  EXPECT_EQ(CodeFor("22P02"), Code::kInternal);
}

TEST(SqlError, StateAndConstraintAreReadBackThroughAnyContext) {
  const Error error = MakeSqlError("insert_account", {.state = "23505", .constraint = "account_email_key"},
                                   "duplicate key value violates unique constraint \"account_email_key\"")
                          .WithContext("register");
  const auto found = SqlErrorOf(error);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->state, "23505");
  EXPECT_EQ(found->constraint, "account_email_key");
  EXPECT_TRUE(ViolatesConstraint(error, "account_email_key"));
  EXPECT_FALSE(ViolatesConstraint(error, "account_handle_key"));
}

TEST(SqlError, OnlyWhatTheDatabaseCannotDoIsItsFault) {
  const auto is_fault = [](std::string state) {
    return IsDatabaseFault(MakeSqlError("s", {.state = std::move(state), .constraint = {}}, "text"));
  };
  // Lost, too many connections, disk full, out of time, shutting down, I/O error, corrupt.
  for (const char* state : {"08006", "53300", "53100", "57014", "57P01", "57P03", "58030", "XX000", "XX001"})
    EXPECT_TRUE(is_fault(state)) << state;
  // Values, constraints, a transaction that was left idle, one that met others, mistakes in the SQL.
  for (const char* state : {"22P02", "22021", "23505", "23503", "25P02", "25P03", "40001", "40P01", "42601", "55P03"})
    EXPECT_FALSE(is_fault(state)) << state;
  EXPECT_TRUE(IsDatabaseFault(Unavailable("the database is unavailable")));
  EXPECT_TRUE(IsDatabaseFault(DeadlineExceeded("the deadline of the call has passed")));
  EXPECT_TRUE(IsDatabaseFault(Error(Code::kUnknown, "it is not known whether the change was made")));
  EXPECT_FALSE(IsDatabaseFault(Internal("internal error", "COPY is not supported")));
  EXPECT_FALSE(IsDatabaseFault(ResourceExhausted("the database is busy, try again later")));
  EXPECT_FALSE(IsDatabaseFault(Cancelled("the client went away")));
}

TEST(SqlError, WithoutConstraintThereIsNone) {
  const Error error = MakeSqlError("s", {.state = "42601", .constraint = {}}, "near constraint=\"x\"");
  EXPECT_EQ(SqlErrorOf(error)->constraint, "");
  EXPECT_FALSE(ViolatesConstraint(error, ""));
}

TEST(SqlError, OtherErrorsHoldNone) {
  EXPECT_FALSE(SqlErrorOf(Unavailable("the database is unavailable", "connect to db:5432")));
  EXPECT_FALSE(ViolatesConstraint(AlreadyExists("it exists"), "account_email_key"));
}

TEST(SqlError, ThePublicMessageHoldsNothingOfTheServer) {
  const Error error =
      MakeSqlError("insert_account", {.state = "42P01", .constraint = {}}, "relation \"account\" does not exist");
  EXPECT_EQ(error.message(), "internal error");
  EXPECT_NE(error.detail().find("relation \"account\" does not exist"), std::string::npos);
  EXPECT_NE(error.detail().find("insert_account"), std::string::npos);
}

TEST(SqlError, WhatMayQuoteAValueIsLeftOut) {
  const Error error =
      MakeSqlError("s", {.state = "22P02", .constraint = {}}, "invalid input syntax for type uuid: \"alice@home\"");
  EXPECT_EQ(error.ToString().find("alice"), std::string::npos);
  EXPECT_EQ(SqlErrorOf(error)->state, "22P02");
}

}  // namespace
}  // namespace nova::postgres
