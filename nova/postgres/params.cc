#include "nova/postgres/params.h"

#include <bit>

#include "nova/postgres/wire.h"

namespace nova::postgres {
namespace {

template <std::integral T>
std::string_view AsBytes(const T& big_endian) {
  return {reinterpret_cast<const char*>(&big_endian), sizeof(T)};
}

std::string_view AsBytes(const Uuid& value) {
  return {reinterpret_cast<const char*>(value.bytes().data()), value.bytes().size()};
}

void AppendInt32(std::string& out, std::size_t value) {
  out.append(AsBytes(wire::SwapToBigEndian(static_cast<std::int32_t>(value))));
}

void AppendElement(std::string& out, std::string_view bytes) {
  AppendInt32(out, bytes.size());
  out.append(bytes);
}
void AppendElement(std::string& out, const Uuid& value) { AppendElement(out, AsBytes(value)); }
void AppendElement(std::string& out, std::int64_t value) { AppendElement(out, AsBytes(wire::SwapToBigEndian(value))); }

// An array of one dimension whose elements are counted from 1 and are not NULL; an empty one has no dimension.
template <class T>
std::string EncodeArray(wire::Oid element_type, std::span<const T> values) {
  std::string out;
  AppendInt32(out, values.empty() ? 0 : 1);  // dimensions
  AppendInt32(out, 0);                       // whether there are NULLs
  AppendInt32(out, element_type);
  if (values.empty()) return out;
  AppendInt32(out, values.size());
  AppendInt32(out, 1);  // the first element's number
  for (const T& value : values) AppendElement(out, value);
  return out;
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

void Params::Add(const Uuid& value) { Append(wire::kUuid, AsBytes(value)); }

void Params::Add(WallTime value) {
  const auto since = std::chrono::floor<std::chrono::microseconds>(value) - wire::kEpoch;
  Append(wire::kTimestamptz, AsBytes(wire::SwapToBigEndian(static_cast<std::int64_t>(since.count()))));
}

void Params::Add(std::span<const std::uint8_t> value) {
  Append(wire::kBytea, {reinterpret_cast<const char*>(value.data()), value.size()});
}

void Params::Add(std::span<const Uuid> values) { Append(wire::kUuidArray, EncodeArray(wire::kUuid, values)); }

void Params::Add(std::span<const std::int64_t> values) { Append(wire::kInt8Array, EncodeArray(wire::kInt8, values)); }

void Params::Add(std::span<const std::string> values) { Append(wire::kTextArray, EncodeArray(wire::kText, values)); }

void Params::AddBool(bool value) { Append(wire::kBool, std::string_view(value ? "\1" : "\0", 1)); }

void Params::AddInt32(std::int32_t value) { Append(wire::kInt4, AsBytes(wire::SwapToBigEndian(value))); }

void Params::AddInt64(std::int64_t value) { Append(wire::kInt8, AsBytes(wire::SwapToBigEndian(value))); }

}  // namespace nova::postgres
