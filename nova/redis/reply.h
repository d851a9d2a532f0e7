// Command and Reply: what is said to Redis and what it answers (RESP2).
#pragma once

#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "nova/base/result.h"

namespace nova::redis {

// One command: `Command("SET", key, value, "EX", 60)`. Arguments are binary-safe; nothing is quoted or interpreted.
// The first argument, which metrics show, must be a literal.
class Command {
 public:
  template <class... Ts>
  explicit Command(std::string_view verb, const Ts&... arguments) {
    Add(verb);
    (Add(arguments), ...);
  }

  void Add(std::string_view argument) { arguments_.emplace_back(argument); }
  void Add(const std::string& argument) { arguments_.push_back(argument); }
  void Add(const char* argument) { arguments_.emplace_back(argument); }
  template <std::integral T>
  void Add(T argument) {
    arguments_.push_back(std::to_string(argument));
  }

  const std::vector<std::string>& arguments() const { return arguments_; }
  std::string_view verb() const { return arguments_.front(); }

 private:
  std::vector<std::string> arguments_;
};

struct Reply {
  enum class Kind : std::uint8_t { kNil, kInteger, kText, kStatus, kError, kArray };

  Kind kind = Kind::kNil;
  std::int64_t integer = 0;
  // Of kText, kStatus ("OK") and kError ("NOGROUP No such key ..."): bytes as they came.
  std::string text;
  std::vector<Reply> elements;

  bool is_nil() const { return kind == Kind::kNil; }
  bool is_error() const { return kind == Kind::kError; }
  // The first word of an error: "NOGROUP"; empty if it is none.
  std::string_view error_name() const;

  // The value, if it is of that kind; a status is text too. Errors: INTERNAL naming what came instead; for kError the
  // error of ToError.
  Result<std::int64_t> Integer() const;
  Result<std::string> Text() const&;
  Result<std::string> Text() &&;
  Result<std::vector<Reply>> Array() const&;
  Result<std::vector<Reply>> Array() &&;
};

// What an error of the server means to a caller; the server's words stay private. UNAVAILABLE while it loads, is busy,
// or is not the one that takes writes; RESOURCE_EXHAUSTED when its memory is full; FAILED_PRECONDITION naming the
// settings when it refuses the user or the password, or the user may not do this; else INTERNAL.
Error ToError(const Reply& error);

}  // namespace nova::redis
