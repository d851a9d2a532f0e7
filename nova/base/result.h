// Result<T>: a value or an Error. A discarded Result does not compile (-Werror=unused-result), also when it came
// out of a co_await.
//
//   Result<Config> Load(std::string_view path) {
//     NOVA_TRY(auto text, ReadFile(path));
//     NOVA_TRY(Validate(text));
//     return Parse(text);
//   }
//
// In a coroutine the same macros are spelt NOVA_CO_TRY, because `return` and `co_return` cannot share a spelling.
#pragma once

#include <expected>
#include <utility>

#include "nova/base/error.h"

namespace nova {

template <class T>
class [[nodiscard]] Result {
 public:
  using value_type = T;

  // Asio default-constructs the result of a spawned coroutine: that state holds an error, never a made-up value.
  Result() : expected_(std::unexpected(Error())) {}
  // Implicit on purpose: functions return values and errors alike.
  Result(T value) : expected_(std::move(value)) {}                       // NOLINT(google-explicit-constructor)
  Result(Error error) : expected_(std::unexpected(std::move(error))) {}  // NOLINT(google-explicit-constructor)

  bool ok() const { return expected_.has_value(); }
  explicit operator bool() const { return ok(); }

  // Precondition of the accessors below: ok().
  T& operator*() & { return *expected_; }
  const T& operator*() const& { return *expected_; }
  T&& operator*() && { return *std::move(expected_); }
  T* operator->() { return &*expected_; }
  const T* operator->() const { return &*expected_; }

  // Precondition: !ok().
  const Error& error() const& { return expected_.error(); }
  Error&& error() && { return std::move(expected_).error(); }

 private:
  std::expected<T, Error> expected_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  using value_type = void;

  Result() = default;
  Result(Error error) : expected_(std::unexpected(std::move(error))) {}  // NOLINT(google-explicit-constructor)

  bool ok() const { return expected_.has_value(); }
  explicit operator bool() const { return ok(); }
  const Error& error() const& { return expected_.error(); }
  Error&& error() && { return std::move(expected_).error(); }

 private:
  std::expected<void, Error> expected_;
};

// What a function of Result<void> returns at its end: `return Ok();`.
inline Result<void> Ok() { return {}; }

}  // namespace nova

#define NOVA_INTERNAL_CAT2(a, b) a##b
#define NOVA_INTERNAL_CAT(a, b) NOVA_INTERNAL_CAT2(a, b)
#define NOVA_INTERNAL_TRY(ret, ...)                                                         \
  do {                                                                                      \
    if (auto nova_result = (__VA_ARGS__); !nova_result) ret std::move(nova_result).error(); \
  } while (false)
#define NOVA_INTERNAL_TRY_ASSIGN3(ret, tmp, decl, ...) \
  auto tmp = (__VA_ARGS__);                            \
  if (!tmp) ret std::move(tmp).error();                \
  decl = *std::move(tmp)
#define NOVA_INTERNAL_TRY_ASSIGN(ret, decl, ...) \
  NOVA_INTERNAL_TRY_ASSIGN3(ret, NOVA_INTERNAL_CAT(nova_result_, __COUNTER__), decl, __VA_ARGS__)

// NOVA_TRY(expr): returns the error of `expr`, if it holds one. It is one statement. NOVA_TRY(decl, expr): else
// initialises `decl` with its value. It is several statements, because `decl` outlives it: as the body of an if, else,
// for or while it needs braces, and does not compile without them.
#define NOVA_TRY(first, ...) \
  NOVA_INTERNAL_CAT(NOVA_INTERNAL_TRY, __VA_OPT__(_ASSIGN))(return, first __VA_OPT__(, ) __VA_ARGS__)
#define NOVA_CO_TRY(first, ...) \
  NOVA_INTERNAL_CAT(NOVA_INTERNAL_TRY, __VA_OPT__(_ASSIGN))(co_return, first __VA_OPT__(, ) __VA_ARGS__)
