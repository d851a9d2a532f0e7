#include "audit/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <vector>

namespace nova::audit {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::vector<Row> SomeRows() {
  return {{.promise = "P0-1",
           .check = "handshake",
           .value = "4.31",
           .unit = "ms",
           .floor = "< 10",
           .status = Row::Status::kPass,
           .how = "a \"new\" channel"},
          {.promise = "P0-3",
           .check = "pool_mode",
           .value = "session",
           .floor = "transaction",
           .status = Row::Status::kFail,
           .how = "SHOW CONFIG"},
          {.promise = "P0-5", .check = "a deadline", .unit = "calls", .floor = "0", .how = "not built"}};
}

TEST(Report, JsonHasOneObjectPerRowAndTextsOnly) {
  EXPECT_EQ(ToJson(SomeRows()),
            "{\"rows\":["
            "{\"promise\":\"P0-1\",\"check\":\"handshake\",\"value\":\"4.31\",\"unit\":\"ms\",\"floor\":\"< 10\","
            "\"status\":\"pass\",\"how\":\"a \\\"new\\\" channel\"},"
            "{\"promise\":\"P0-3\",\"check\":\"pool_mode\",\"value\":\"session\",\"unit\":\"\","
            "\"floor\":\"transaction\",\"status\":\"fail\",\"how\":\"SHOW CONFIG\"},"
            "{\"promise\":\"P0-5\",\"check\":\"a deadline\",\"value\":\"\",\"unit\":\"calls\",\"floor\":\"0\","
            "\"status\":\"not_measured\",\"how\":\"not built\"}]}\n");
}

TEST(Report, TableIsAlignedAndEndsWithTheSum) {
  EXPECT_EQ(ToTable(SomeRows(), false),
            "PROMISE  CHECK       VALUE    FLOOR        STATUS\n"
            "P0-1     handshake   4.31 ms  < 10 ms      PASS\n"
            "         a \"new\" channel\n"
            "P0-3     pool_mode   session  transaction  FAIL\n"
            "         SHOW CONFIG\n"
            "P0-5     a deadline  -        0 calls      NOT MEASURED\n"
            "         not built\n"
            "1 passed, 1 failed, 1 not measured\n");
}

TEST(Report, ALongExplanationIsWrappedAtWords) {
  std::vector<Row> rows = SomeRows();
  rows.resize(1);
  rows[0].how = std::string(99, 'a') + " " + std::string(2, 'b') + " " + std::string(120, 'c') + " d";
  EXPECT_THAT(ToTable(rows, false), HasSubstr("PASS\n         " + std::string(99, 'a') + "\n         bb\n         " +
                                              std::string(120, 'c') + "\n         d\n1 passed"));
}

TEST(Report, WhatTheRowAboveSaysIsNotRepeated) {
  std::vector<Row> rows = SomeRows();
  const std::string method(90, 'm');
  rows[0].how = method + "; 1 under expired";
  rows[1].how = method + "; 1 under plaintext";
  rows[2].how = method;
  const std::string table = ToTable(rows, false);
  EXPECT_THAT(table, HasSubstr(method + "; 1 under\n         expired\n"));
  EXPECT_THAT(table, HasSubstr("\n         as above; 1 under plaintext\n"));
  EXPECT_THAT(table, HasSubstr("\n         as above\n"));
  // Half a part is not the same part.
  rows[1].how = method + "; 1 under expiring";
  EXPECT_THAT(ToTable(rows, false), HasSubstr("as above; 1 under expiring"));
  rows[1].how = method + "more";
  EXPECT_THAT(ToTable(rows, false), HasSubstr(method + "more\n"));
}

TEST(Report, ColourIsForTerminalsOnly) {
  EXPECT_THAT(ToTable(SomeRows(), true), HasSubstr("\033[31mFAIL\033[0m"));
  EXPECT_THAT(ToTable(SomeRows(), false), Not(HasSubstr("\033")));
}

TEST(Report, OnlyWhatWasMeasuredAndPassesIsProven) {
  const auto rows = SomeRows();
  EXPECT_EQ(ExitCode({}), 1);
  EXPECT_EQ(ExitCode(std::vector{rows[0], rows[0]}), 0);
  EXPECT_EQ(ExitCode(std::vector{rows[0], rows[1]}), 1);
  EXPECT_EQ(ExitCode(std::vector{rows[0], rows[2]}), 1);
}

}  // namespace
}  // namespace nova::audit
