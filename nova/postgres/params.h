// Params: the values of $1, $2, ... They travel in PostgreSQL's binary format with explicit types: exact, independent
// of the session's DateStyle and TimeZone, and free of quoting.
//
//   C++                                      PostgreSQL
//   std::string, std::string_view, literal   text (cast in the SQL for others: $1::jsonb)
//   bool                                     boolean
//   std::int32_t, std::int64_t               integer, bigint (narrower and unsigned 32-bit integers widen)
//   double                                   double precision
//   Uuid                                     uuid
//   WallTime                                 timestamptz, rounded down to microseconds
//   std::vector or std::span of bytes        bytea
//   the same of Uuid, std::int64_t,          uuid[], bigint[], text[]: WHERE id = ANY ($1), FROM unnest($1, $2)
//     std::string
//   std::optional of these                   the type, NULL if empty
#pragma once

#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "nova/base/clock.h"
#include "nova/base/uuid.h"

namespace nova::postgres {

// What the server keeps of a time. Whatever is both written and answered goes through this first, so that the first
// answer equals every later one.
inline WallTime ToStoredPrecision(WallTime time) { return std::chrono::floor<std::chrono::microseconds>(time); }

// A value type of its own: owns copies of what it was given.
class Params {
 public:
  Params() = default;

  template <class... Ts>
  static Params Of(const Ts&... values) {
    Params params;
    (params.Add(values), ...);
    return params;
  }

  // A string with a NUL byte is refused by the server, never cut short.
  void Add(std::string_view value);
  void Add(const std::string& value) { Add(std::string_view(value)); }
  void Add(const char* value) { Add(std::string_view(value)); }
  void Add(double value);
  void Add(const Uuid& value);
  void Add(WallTime value);
  void Add(std::span<const std::uint8_t> value);
  void Add(const std::vector<std::uint8_t>& value) { Add(std::span<const std::uint8_t>(value)); }
  void Add(std::span<const Uuid> values);
  void Add(std::span<const std::int64_t> values);
  void Add(std::span<const std::string> values);
  // A template, so that neither pointers nor floating point become integers on the way.
  template <std::integral T>
  void Add(T value) {
    static_assert(sizeof(T) < 8 || std::signed_integral<T>, "PostgreSQL has no unsigned 64-bit integer");
    if constexpr (std::same_as<T, bool>) {
      AddBool(value);
    } else if constexpr (sizeof(T) < 4 || std::same_as<T, std::int32_t>) {
      AddInt32(static_cast<std::int32_t>(value));
    } else {
      AddInt64(static_cast<std::int64_t>(value));
    }
  }
  template <class T>
  void Add(const std::optional<T>& value) {
    if (value) {
      Add(*value);
    } else {
      Add(T{});
      values_.back().null = true;
    }
  }

  std::size_t size() const { return values_.size(); }

 private:
  friend class Connection;

  struct Value {
    std::uint32_t type;  // PostgreSQL's OID
    std::size_t begin;   // in bytes_
    std::size_t size;
    bool null = false;
  };

  void AddBool(bool value);
  void AddInt32(std::int32_t value);
  void AddInt64(std::int64_t value);
  void Append(std::uint32_t type, std::string_view bytes);

  std::vector<Value> values_;
  std::string bytes_;
};

}  // namespace nova::postgres
