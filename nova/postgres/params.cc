#include "nova/postgres/params.h"

#include <bit>

#include "nova/postgres/wire.h"

namespace nova::postgres {
namespace {

template <std::integral T>
std::string_view AsBytes(const T& big_endian) {
  return {reinterpret_cast<const char*>(&big_endian), sizeof(T)};
}

}  // namespace

void Params::Append(std::uint32_t type, std::string_view bytes) {
  values_.push_back({.type = type, .begin = bytes_.size(), .size = bytes.size()});
  bytes_.append(bytes);
}

void Params::Add(std::string_view value) { Append(wire::kText, value); }

void Params::Add(double value) {
  Append(wire::kFloat8, AsBytes(wire::SwapToBigEndian(std::bit_cast<std::int64_t>(value))));
}

void Params::Add(const Uuid& value) {
  Append(wire::kUuid, {reinterpret_cast<const char*>(value.bytes().data()), value.bytes().size()});
}

void Params::Add(WallTime value) {
  const auto since = std::chrono::floor<std::chrono::microseconds>(value) - wire::kEpoch;
  Append(wire::kTimestamptz, AsBytes(wire::SwapToBigEndian(static_cast<std::int64_t>(since.count()))));
}

void Params::Add(std::span<const std::uint8_t> value) {
  Append(wire::kBytea, {reinterpret_cast<const char*>(value.data()), value.size()});
}

void Params::AddBool(bool value) { Append(wire::kBool, std::string_view(value ? "\1" : "\0", 1)); }

void Params::AddInt32(std::int32_t value) { Append(wire::kInt4, AsBytes(wire::SwapToBigEndian(value))); }

void Params::AddInt64(std::int64_t value) { Append(wire::kInt8, AsBytes(wire::SwapToBigEndian(value))); }

}  // namespace nova::postgres
