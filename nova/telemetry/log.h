// Structured logs: one JSON object per line on stderr.
//
//   LogInfo("listening", {{"port", 7401}, {"tls", true}});
//   LogError("migration failed", {{"version", 7}, {"error", result.error()}});
//
// A Secret<T> is no field value: it does not compile. For what slips through as text, values of keys named like a
// secret are replaced, and whatever looks like a secret or like personal data is masked in every string (redact.h).
#pragma once

#include <concepts>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <string>
#include <string_view>
#include <variant>

#include "nova/base/error.h"
#include "nova/base/secret.h"
#include "nova/config/config.h"

namespace nova::telemetry {

enum class Level : std::uint8_t { kDebug, kInfo, kWarn, kError };

enum class LogFormat : std::uint8_t {
  kJson,  // {"time":"2026-01-31T12:00:00.123Z","level":"info","service":"identity","message":"listening","port":7401}
  kText,  // for a person at a terminal: 12:00:00.123 INFO  identity listening port=7401
};

struct LogConfig {
  Level level = Level::kInfo;
  // Who speaks, in every record; set by the verb, not by the user.
  std::string service = {};
  LogFormat format = LogFormat::kJson;
  // Of others than this machine; they may be people's. Concerns every text that passes Redact.
  bool ip_addresses = false;
};

void Bind(config::Config& config, LogConfig& log);

// One key and value. Holds views: lives as long as the log statement.
class Field {
 public:
  Field(std::string_view key, bool value) : key_(key), value_(value) {}
  template <std::integral T>
    requires(!std::same_as<T, bool>)
  Field(std::string_view key, T value) : key_(key), value_(Widen(value)) {}
  Field(std::string_view key, double value) : key_(key), value_(value) {}
  Field(std::string_view key, std::string_view value) : key_(key), value_(value) {}
  Field(std::string_view key, const std::string& value) : key_(key), value_(std::string_view(value)) {}
  // A null pointer is an empty text.
  Field(std::string_view key, const char* value)
      : key_(key), value_(value == nullptr ? std::string_view() : std::string_view(value)) {}
  // An object of code, message and, if there is one, detail.
  Field(std::string_view key, const Error& value) : key_(key), value_(&value) {}
  template <class T>
  Field(std::string_view key, const Secret<T>& value) = delete;
  // Without this any other pointer would convert to bool.
  template <class T>
  Field(std::string_view key, const T* value) = delete;

  using Value = std::variant<std::int64_t, std::uint64_t, double, bool, std::string_view, const Error*>;
  std::string_view key() const { return key_; }
  const Value& value() const { return value_; }

 private:
  template <std::integral T>
  static Value Widen(T value) {
    if constexpr (std::signed_integral<T>) {
      return static_cast<std::int64_t>(value);
    } else {
      return static_cast<std::uint64_t>(value);
    }
  }

  std::string_view key_;
  Value value_;
};

// Receives each line, without the newline, before Log() returns; calls do not overlap.
using LogSink = std::function<void(std::string_view line)>;

// Sets up the process's log; may be called again. Without a sink, lines go to stderr through a bounded queue and a
// thread of its own: a reader of stderr that stalls costs lines (DroppedLogLines counts them), never a request.
// Before the first call the log is JSON, of level info, without a service, written by the caller's thread.
void InitLogging(const LogConfig& config, LogSink sink = {});
// Writes what is queued and ends the thread; later lines are written by the caller's thread. Runs at exit by itself.
void ShutdownLogging();
// Lines lost because the queue was full.
std::uint64_t DroppedLogLines();

// True if a record of this level would be written; guards fields that are expensive to make.
bool LogEnabled(Level level);

// Thread-safe. Never fails, never blocks on I/O once InitLogging ran. Costs one atomic load if the level is off.
void Log(Level level, std::string_view message, std::initializer_list<Field> fields = {});

inline void LogDebug(std::string_view message, std::initializer_list<Field> fields = {}) {
  Log(Level::kDebug, message, fields);
}
inline void LogInfo(std::string_view message, std::initializer_list<Field> fields = {}) {
  Log(Level::kInfo, message, fields);
}
inline void LogWarn(std::string_view message, std::initializer_list<Field> fields = {}) {
  Log(Level::kWarn, message, fields);
}
inline void LogError(std::string_view message, std::initializer_list<Field> fields = {}) {
  Log(Level::kError, message, fields);
}

}  // namespace nova::telemetry
