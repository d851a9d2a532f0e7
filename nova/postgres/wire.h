// PostgreSQL's binary format: the type numbers we speak and big-endian integers. Internal to this folder.
#pragma once

#include <bit>
#include <chrono>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace nova::postgres::wire {

// From pg_type.dat; these numbers never change.
enum Oid : std::uint32_t {
  kBool = 16,
  kBytea = 17,
  kChar = 18,
  kName = 19,
  kInt8 = 20,
  kInt2 = 21,
  kInt4 = 23,
  kText = 25,
  kJson = 114,
  kFloat4 = 700,
  kFloat8 = 701,
  kTextArray = 1009,
  kInt8Array = 1016,
  kBpchar = 1042,
  kVarchar = 1043,
  kTimestamptz = 1184,
  kUuid = 2950,
  kUuidArray = 2951,
  kJsonb = 3802,
};

// 2000-01-01T00:00:00Z, from which PostgreSQL counts microseconds.
inline constexpr std::chrono::sys_seconds kEpoch{std::chrono::seconds(946'684'800)};

template <std::integral T>
constexpr T SwapToBigEndian(T value) {
  return std::endian::native == std::endian::little ? std::byteswap(value) : value;
}

// Precondition: bytes.size() == sizeof(T).
template <std::integral T>
T Load(std::string_view bytes) {
  T value;
  std::memcpy(&value, bytes.data(), sizeof(T));
  return SwapToBigEndian(value);
}

}  // namespace nova::postgres::wire
