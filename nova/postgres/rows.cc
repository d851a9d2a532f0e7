#include "nova/postgres/rows.h"

#include <bit>
#include <charconv>
#include <cstring>
#include <libpq-fe.h>
#include <limits>

#include "nova/postgres/wire.h"

namespace nova::postgres {
namespace {

Error Mismatch(int column, std::string why) {
  return Internal("the database answered unexpectedly", "column " + std::to_string(column) + ": " + std::move(why));
}

Error WrongType(int column, std::uint32_t type, std::string_view wanted) {
  return Mismatch(column, "type " + std::to_string(type) + " cannot be read as " + std::string(wanted));
}

Error WrongSize(int column, std::size_t size) {
  return Mismatch(column, "a value of " + std::to_string(size) + " bytes, which its type does not have");
}

}  // namespace

Result<Row::Cell> Row::CellAt(int column) const {
  if (row_ < 0 || row_ >= PQntuples(result_))
    return Internal("the database answered unexpectedly",
                    "row " + std::to_string(row_) + " of " + std::to_string(PQntuples(result_)));
  if (column < 0 || column >= PQnfields(result_))
    return Mismatch(column, "the result has " + std::to_string(PQnfields(result_)) + " columns");
  if (PQfformat(result_, column) != 1) return Mismatch(column, "the value is not in binary format");
  return Cell{
      .type = PQftype(result_, column),
      .null = PQgetisnull(result_, row_, column) != 0,
      .bytes = {PQgetvalue(result_, row_, column), static_cast<std::size_t>(PQgetlength(result_, row_, column))}};
}

Result<Row::Cell> Row::ValueAt(int column) const {
  NOVA_TRY(const Cell cell, CellAt(column));
  if (cell.null) return Mismatch(column, "NULL, where a value was expected");
  return cell;
}

Result<void> Row::ReadAt(int column, std::string_view& value) const {
  NOVA_TRY(const Cell cell, ValueAt(column));
  switch (cell.type) {
    case wire::kText:
    case wire::kVarchar:
    case wire::kBpchar:
    case wire::kChar:
    case wire::kName:
    case wire::kJson:
      value = cell.bytes;
      return Ok();
    case wire::kJsonb:
      // One byte of format version precedes the text.
      if (cell.bytes.empty() || cell.bytes.front() != 1) return Mismatch(column, "jsonb of an unknown version");
      value = cell.bytes.substr(1);
      return Ok();
    default:
      return WrongType(column, cell.type, "a string");
  }
}

Result<void> Row::ReadAt(int column, std::string& value) const {
  std::string_view view;
  NOVA_TRY(ReadAt(column, view));
  value = view;
  return Ok();
}

Result<void> Row::ReadAt(int column, bool& value) const {
  NOVA_TRY(const Cell cell, ValueAt(column));
  if (cell.type != wire::kBool) return WrongType(column, cell.type, "a bool");
  if (cell.bytes.size() != 1) return WrongSize(column, cell.bytes.size());
  value = cell.bytes.front() != 0;
  return Ok();
}

Result<void> Row::ReadAt(int column, std::int64_t& value) const {
  NOVA_TRY(const Cell cell, ValueAt(column));
  const std::size_t size = cell.bytes.size();
  switch (cell.type) {
    case wire::kInt2:
      if (size != sizeof(std::int16_t)) return WrongSize(column, size);
      value = wire::Load<std::int16_t>(cell.bytes);
      return Ok();
    case wire::kInt4:
      if (size != sizeof(std::int32_t)) return WrongSize(column, size);
      value = wire::Load<std::int32_t>(cell.bytes);
      return Ok();
    case wire::kInt8:
      if (size != sizeof(std::int64_t)) return WrongSize(column, size);
      value = wire::Load<std::int64_t>(cell.bytes);
      return Ok();
    default:
      return WrongType(column, cell.type, "an integer of 64 bits");
  }
}

Result<void> Row::ReadAt(int column, std::int32_t& value) const {
  NOVA_TRY(const Cell cell, ValueAt(column));
  // bigint is refused whatever its value: code that works by today's data only is wrong.
  if (cell.type != wire::kInt2 && cell.type != wire::kInt4)
    return WrongType(column, cell.type, "an integer of 32 bits");
  std::int64_t wide = 0;
  NOVA_TRY(ReadAt(column, wide));
  value = static_cast<std::int32_t>(wide);
  return Ok();
}

Result<void> Row::ReadAt(int column, double& value) const {
  NOVA_TRY(const Cell cell, ValueAt(column));
  const std::size_t size = cell.bytes.size();
  switch (cell.type) {
    case wire::kFloat4:
      if (size != sizeof(float)) return WrongSize(column, size);
      value = std::bit_cast<float>(wire::Load<std::int32_t>(cell.bytes));
      return Ok();
    case wire::kFloat8:
      if (size != sizeof(double)) return WrongSize(column, size);
      value = std::bit_cast<double>(wire::Load<std::int64_t>(cell.bytes));
      return Ok();
    default:
      return WrongType(column, cell.type, "a floating-point number");
  }
}

Result<void> Row::ReadAt(int column, Uuid& value) const {
  NOVA_TRY(const Cell cell, ValueAt(column));
  if (cell.type != wire::kUuid) return WrongType(column, cell.type, "a UUID");
  if (cell.bytes.size() != value.bytes().size()) return WrongSize(column, cell.bytes.size());
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  text.reserve(36);
  for (std::size_t i = 0; i < cell.bytes.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    const auto byte = static_cast<std::uint8_t>(cell.bytes[i]);
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  NOVA_TRY(value, Uuid::Parse(text));
  return Ok();
}

Result<void> Row::ReadAt(int column, WallTime& value) const {
  NOVA_TRY(const Cell cell, ValueAt(column));
  if (cell.type != wire::kTimestamptz) return WrongType(column, cell.type, "a point in time");
  if (cell.bytes.size() != sizeof(std::int64_t)) return WrongSize(column, cell.bytes.size());
  using std::chrono::microseconds;
  // PostgreSQL's range (and its infinities) is wider than that of system_clock, which counts nanoseconds in 64 bits.
  constexpr auto kMin = std::chrono::ceil<microseconds>(WallTime::min()) - wire::kEpoch;
  constexpr auto kMax = std::chrono::floor<microseconds>(WallTime::max()) - wire::kEpoch;
  const microseconds since(wire::Load<std::int64_t>(cell.bytes));
  if (since < kMin || since > kMax) return Mismatch(column, "a point in time before 1678 or after 2262");
  value = wire::kEpoch + since;
  return Ok();
}

Result<void> Row::ReadAt(int column, std::vector<std::uint8_t>& value) const {
  NOVA_TRY(const Cell cell, ValueAt(column));
  if (cell.type != wire::kBytea) return WrongType(column, cell.type, "bytes");
  value.assign(cell.bytes.begin(), cell.bytes.end());
  return Ok();
}

void Rows::Clear::operator()(pg_result* result) const { PQclear(result); }

int Rows::size() const { return PQntuples(result_.get()); }

std::int64_t Rows::affected() const {
  if (!result_) return 0;
  const std::string_view text = PQcmdTuples(result_.get());
  std::int64_t count = 0;
  std::from_chars(text.data(), text.data() + text.size(), count);
  return count;
}

}  // namespace nova::postgres
