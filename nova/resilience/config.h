// Settings of a dependency's policies, by its name: RESILIENCE_POSTGRES_TIMEOUT_MS, or `resilience: postgres:
// timeout_ms:` in the file, or --resilience-postgres-timeout-ms.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "nova/base/result.h"
#include "nova/config/app_env.h"
#include "nova/config/config.h"
#include "nova/resilience/breaker.h"
#include "nova/resilience/fault.h"
#include "nova/resilience/retry.h"

namespace nova::resilience {

enum class Kind : std::uint8_t { kDatabase, kPeer, kCache, kHttp };

// A dependency's name: lower-case letters, digits and '_', beginning with a letter; its metrics and settings bear it.
// A literal that is none does not compile.
class DependencyName {
 public:
  template <std::size_t N>
  consteval DependencyName(const char (&literal)[N]) : text_(literal, N - 1) {  // NOLINT(google-explicit-constructor)
    if (!IsValid(text_)) throw "a dependency's name is lower-case letters, digits and '_', beginning with a letter";
  }
  // For names that come from elsewhere; kept as long as the process. Errors: INVALID_ARGUMENT.
  static Result<DependencyName> Parse(std::string_view text);

  std::string_view text() const { return text_; }

 private:
  struct Kept {};
  DependencyName(Kept, std::string_view text) : text_(text) {}

  static constexpr bool IsValid(std::string_view text) {
    if (text.empty() || text.size() > kLengthMax || text[0] < 'a' || text[0] > 'z') return false;
    for (const char c : text) {
      if ((c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_') return false;
    }
    return true;
  }
  static constexpr std::size_t kLengthMax = 40;

  std::string_view text_;
};

struct DependencyConfig {
  // The longest a call may take, retries included, whatever its caller would grant.
  std::chrono::milliseconds timeout{0};
  // A call that takes longer is slow for the breaker, whoever ended it.
  std::chrono::milliseconds slow{0};
  // Calls under way at once, those whose caller has gone included.
  int calls_max = 0;
  BreakerConfig breaker;
  RetryConfig retry;
  FaultPlan faults;
  // What `faults` was read from, until Validate has said what is wrong with it. Empty: from no setting.
  std::string fault_text;

  // SPEC: database 10 s, gRPC 10 s, cache 5 s. `slow` is half of the timeout, 1 s at most.
  static DependencyConfig Default(Kind kind);
};

// How messages name a setting: "RESILIENCE_POSTGRES_TIMEOUT_MS" for the figure "timeout_ms".
std::string SettingName(DependencyName name, std::string_view figure);

// `dependency` holds the defaults. A timeout that is set without `slow` decides that, too.
void Bind(config::Config& config, DependencyName name, DependencyConfig& dependency);

// What no single field shows, and faults where they have no place: in production. Errors: INVALID_ARGUMENT or
// FAILED_PRECONDITION naming the setting and the remedy.
Result<void> Validate(DependencyName name, const DependencyConfig& dependency, config::AppEnv app_env);

struct CrashConfig {
  // The name of a crash point; empty: none.
  std::string at;
  // At which passing.
  int passing = 1;
};

// Keys `crash.at` and `crash.passing`.
void Bind(config::Config& config, CrashConfig& crash);

// Arms it. Errors: FAILED_PRECONDITION in production; INVALID_ARGUMENT for a point that does not exist.
Result<void> Arm(const CrashConfig& crash, config::AppEnv app_env);

}  // namespace nova::resilience
