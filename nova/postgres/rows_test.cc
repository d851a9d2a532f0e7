#include "nova/postgres/rows.h"

#include <bit>
#include <gtest/gtest.h>
#include <libpq-fe.h>
#include <string>
#include <vector>

#include "nova/postgres/wire.h"

namespace nova::postgres {
namespace {

using namespace std::chrono_literals;

struct Column {
  std::uint32_t type;
  std::optional<std::string> bytes;  // nothing: NULL
  int format = 1;
};

// A result of one row, as libpq makes it from the server's bytes.
Rows OneRow(std::vector<Column> columns) {
  PGresult* const result = PQmakeEmptyPGresult(nullptr, PGRES_TUPLES_OK);
  std::string name = "c";
  std::vector<PGresAttDesc> descriptions;
  for (const Column& column : columns) {
    descriptions.push_back({.name = name.data(),
                            .tableid = 0,
                            .columnid = 0,
                            .format = column.format,
                            .typid = column.type,
                            .typlen = -1,
                            .atttypmod = -1});
  }
  EXPECT_EQ(PQsetResultAttrs(result, static_cast<int>(descriptions.size()), descriptions.data()), 1);
  for (std::size_t i = 0; i < columns.size(); ++i) {
    auto& bytes = columns[i].bytes;
    EXPECT_EQ(PQsetvalue(result, 0, static_cast<int>(i), bytes ? bytes->data() : nullptr,
                         bytes ? static_cast<int>(bytes->size()) : -1),
              1);
  }
  return Rows(result);
}

template <std::integral T>
std::string BigEndian(T value) {
  const T swapped = wire::SwapToBigEndian(value);
  return {reinterpret_cast<const char*>(&swapped), sizeof swapped};
}

template <class T>
T Value(const Rows& rows, int column = 0) {
  auto value = rows[0].Get<T>(column);
  EXPECT_TRUE(value.ok()) << value.error().ToString();
  return value ? *std::move(value) : T{};
}

template <class T>
std::string Failure(const Rows& rows, int row = 0, int column = 0) {
  auto value = rows[row].Get<T>(column);
  if (value.ok()) return "no failure";
  EXPECT_EQ(value.error().code(), Code::kInternal);
  return value.error().detail();
}

TEST(Rows, DefaultIsEmpty) {
  const Rows rows;
  EXPECT_TRUE(rows.empty());
  EXPECT_EQ(rows.affected(), 0);
  EXPECT_EQ(rows.begin(), rows.end());
  EXPECT_EQ(Failure<std::string>(rows), "row 0 of 0");
}

TEST(Rows, ReadsEveryType) {
  const Rows rows = OneRow({{wire::kText, "text"},
                            {wire::kJsonb, "\1{}"},
                            {wire::kBool, std::string(1, '\1')},
                            {wire::kInt2, BigEndian<std::int16_t>(-2)},
                            {wire::kInt4, BigEndian<std::int32_t>(-4)},
                            {wire::kInt8, BigEndian<std::int64_t>(-8)},
                            {wire::kFloat8, BigEndian(std::bit_cast<std::int64_t>(1.5))},
                            {wire::kBytea, std::string("a\0b", 3)}});
  EXPECT_EQ(Value<std::string>(rows, 0), "text");
  EXPECT_EQ(Value<std::string_view>(rows, 1), "{}");
  EXPECT_TRUE(Value<bool>(rows, 2));
  EXPECT_EQ(Value<std::int32_t>(rows, 3), -2);
  EXPECT_EQ(Value<std::int32_t>(rows, 4), -4);
  EXPECT_EQ(Value<std::int64_t>(rows, 4), -4);
  EXPECT_EQ(Value<std::int64_t>(rows, 5), -8);
  EXPECT_EQ(Value<double>(rows, 6), 1.5);
  EXPECT_EQ(Value<std::vector<std::uint8_t>>(rows, 7), (std::vector<std::uint8_t>{'a', 0, 'b'}));
}

TEST(Rows, ReadsUuidAndTime) {
  const Uuid id = Uuid::New();
  const Rows rows = OneRow({{wire::kUuid, std::string(id.bytes().begin(), id.bytes().end())},
                            {wire::kTimestamptz, BigEndian<std::int64_t>(-1)}});
  EXPECT_EQ(Value<Uuid>(rows, 0), id);
  EXPECT_EQ(Value<WallTime>(rows, 1), WallTime(946'684'800s) - 1us);
}

TEST(Rows, ReadFillsInOrderAndStopsAtTheFirstError) {
  const Rows rows = OneRow({{wire::kText, "a"}, {wire::kInt4, BigEndian<std::int32_t>(7)}, {wire::kText, "b"}});
  std::string first;
  std::int32_t second = 0;
  std::string third;
  EXPECT_TRUE(rows[0].Read(first, second, third).ok());
  EXPECT_EQ(first + std::to_string(second) + third, "a7b");

  bool wrong = false;
  third.clear();
  EXPECT_EQ(rows[0].Read(first, wrong, third).error().code(), Code::kInternal);
  EXPECT_EQ(third, "");
}

TEST(Rows, NullNeedsOptional) {
  const Rows rows = OneRow({{wire::kText, std::nullopt}, {wire::kText, "x"}});
  EXPECT_EQ(Value<std::optional<std::string>>(rows, 0), std::nullopt);
  EXPECT_EQ(Value<std::optional<std::string>>(rows, 1), "x");
  EXPECT_EQ(Failure<std::string>(rows), "column 0: NULL, where a value was expected");
}

TEST(Rows, AnotherTypeIsRefused) {
  EXPECT_EQ(Failure<std::string>(OneRow({{wire::kInt4, BigEndian<std::int32_t>(1)}})),
            "column 0: type 23 cannot be read as a string");
  EXPECT_EQ(Failure<std::int32_t>(OneRow({{wire::kInt8, BigEndian<std::int64_t>(1)}})),
            "column 0: type 20 cannot be read as an integer of 32 bits");
  EXPECT_EQ(Failure<std::int64_t>(OneRow({{wire::kText, "1"}})),
            "column 0: type 25 cannot be read as an integer of 64 bits");
  EXPECT_EQ(Failure<bool>(OneRow({{wire::kText, "t"}})), "column 0: type 25 cannot be read as a bool");
  EXPECT_EQ(Failure<double>(OneRow({{wire::kText, "1"}})),
            "column 0: type 25 cannot be read as a floating-point number");
  EXPECT_EQ(Failure<Uuid>(OneRow({{wire::kText, "1"}})), "column 0: type 25 cannot be read as a UUID");
  EXPECT_EQ(Failure<WallTime>(OneRow({{wire::kText, "1"}})), "column 0: type 25 cannot be read as a point in time");
  EXPECT_EQ(Failure<std::vector<std::uint8_t>>(OneRow({{wire::kText, "1"}})),
            "column 0: type 25 cannot be read as bytes");
}

TEST(Rows, MalformedBytesAreRefused) {
  EXPECT_NE(Failure<bool>(OneRow({{wire::kBool, ""}})), "no failure");
  EXPECT_NE(Failure<std::int32_t>(OneRow({{wire::kInt4, "123"}})), "no failure");
  EXPECT_NE(Failure<std::int64_t>(OneRow({{wire::kInt8, "1234"}})), "no failure");
  EXPECT_NE(Failure<double>(OneRow({{wire::kFloat8, "1234"}})), "no failure");
  EXPECT_NE(Failure<Uuid>(OneRow({{wire::kUuid, "short"}})), "no failure");
  EXPECT_NE(Failure<WallTime>(OneRow({{wire::kTimestamptz, "short"}})), "no failure");
  EXPECT_NE(Failure<std::string>(OneRow({{wire::kJsonb, "\2{}"}})), "no failure");
  EXPECT_NE(Failure<std::string>(OneRow({{wire::kJsonb, ""}})), "no failure");
  EXPECT_NE(Failure<std::string>(OneRow({{.type = wire::kText, .bytes = "x", .format = 0}})), "no failure");
}

TEST(Rows, TimesOutsideTheClockAreRefused) {
  EXPECT_NE(Failure<WallTime>(OneRow({{wire::kTimestamptz, BigEndian(std::numeric_limits<std::int64_t>::max())}})),
            "no failure");
  EXPECT_NE(Failure<WallTime>(OneRow({{wire::kTimestamptz, BigEndian(std::numeric_limits<std::int64_t>::min())}})),
            "no failure");
}

TEST(Rows, OutsideTheResultIsAnError) {
  const Rows rows = OneRow({{wire::kText, "x"}});
  EXPECT_EQ(Failure<std::string>(rows, 1), "row 1 of 1");
  EXPECT_EQ(Failure<std::string>(rows, -1), "row -1 of 1");
  EXPECT_EQ(Failure<std::string>(rows, 0, 1), "column 1: the result has 1 columns");
  EXPECT_EQ(Failure<std::string>(rows, 0, -1), "column -1: the result has 1 columns");
}

}  // namespace
}  // namespace nova::postgres
