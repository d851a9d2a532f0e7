// Config: where settings come from. A flag wins over the environment, the environment over the file of `--config`, the
// file over the default that stands in the component's struct.
//
//   struct PoolConfig { int size_max = 25; std::chrono::milliseconds connect_timeout = 2s; };
//
//   void Bind(config::Config& config, PoolConfig& pool) {       // stands beside the struct
//     config.Field("postgres.pool_size", pool.size_max, {.help = "server connections, at most", .min = 1, .max =
//     1000}); config.Field("postgres.connect_timeout", pool.connect_timeout, {.help = "for one attempt", .max = 30s});
//   }
//
//   Config config(Sources::FromProcess(argc - 2, argv + 2));    // in the verb
//   Bind(config, pool);
//   if (config.help_requested()) { std::cout << config.Help("nova serve <service>", "Runs one service."); return 0; }
//   NOVA_TRY(config.Finish());
//
// The dotted key gives every other name: the path in the file (`postgres:` / `pool_size:`), the flag
// `--postgres-pool-size` and the variable NOVA_POSTGRES_POOL_SIZE.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "nova/base/result.h"
#include "nova/base/secret.h"

namespace nova::config {

struct Sources {
  // What follows the verb: flags (`--name value`, `--name=value`, `--switch`) and positional arguments; after `--`
  // all is positional.
  std::vector<std::string> args = {};
  std::map<std::string, std::string> environment = {};

  // `argc` and `argv` of what follows the verb; the environment is the process's.
  static Sources FromProcess(int argc, const char* const* argv);
};

// A bound of a number (plain) or of a duration (with its unit); the two do not mix.
class Limit {
 public:
  Limit(int value) : Limit(static_cast<double>(value)) {}           // NOLINT(google-explicit-constructor)
  Limit(std::int64_t value) : Limit(static_cast<double>(value)) {}  // NOLINT(google-explicit-constructor)
  Limit(double value) : value_(value) {}                            // NOLINT(google-explicit-constructor)
  template <class Rep, class Period>
  Limit(std::chrono::duration<Rep, Period> value)  // NOLINT(google-explicit-constructor)
      : value_(std::chrono::duration<double, std::milli>(value).count()), is_duration_(true) {}

  // Milliseconds, if is_duration().
  double value() const { return value_; }
  bool is_duration() const { return is_duration_; }

 private:
  double value_;
  bool is_duration_ = false;
};

struct FieldOptions {
  // One line without a full stop, for Help().
  std::string help = {};
  // Replaces the derived name of the variable, for names that exist in the field: "GRPC_SERVER_CERT_PATH".
  std::string env = {};
  // Replaces the derived name of the flag; without the hyphens: "port-base".
  std::string flag = {};
  // Both ends are allowed. Numbers and durations only.
  std::optional<Limit> min = {};
  std::optional<Limit> max = {};
  // The values allowed, for strings; empty: any.
  std::vector<std::string> one_of = {};
  // Finish() fails if no source has it.
  bool required = false;
};

struct PositionalOptions {
  std::string help = {};
  bool required = false;
};

// Not thread-safe: used by main before anything starts.
class Config {
 public:
  explicit Config(Sources sources);
  ~Config();
  Config(Config&&) noexcept;
  Config& operator=(Config&&) noexcept;

  // Binds one setting. `value` holds the default on entry; on return it holds what the strongest source says, if that
  // is valid (if not, Finish() says so and `value` is unchanged). The reference is not kept. A key may be bound
  // again, by a second component that shares it.
  //
  // bool: `--name` alone is true; true and false are the only words. Durations carry a unit: 250ms, 2s, 5m, 1h, 90d.
  // Lists: comma separated, or a YAML sequence; an empty text is an empty list.
  void Field(std::string_view key, bool& value, FieldOptions options = {});
  void Field(std::string_view key, int& value, FieldOptions options = {});
  void Field(std::string_view key, std::int64_t& value, FieldOptions options = {});
  void Field(std::string_view key, double& value, FieldOptions options = {});
  void Field(std::string_view key, std::string& value, FieldOptions options = {});
  void Field(std::string_view key, std::chrono::milliseconds& value, FieldOptions options = {});
  void Field(std::string_view key, std::chrono::seconds& value, FieldOptions options = {});
  void Field(std::string_view key, std::vector<std::string>& value, FieldOptions options = {});
  // A secret comes from its variable, or from the file that <VARIABLE>_FILE names (a last newline is dropped), never
  // from a flag or the configuration file. Its value appears in no message.
  void Field(std::string_view key, Secret<>& value, FieldOptions options = {});

  // Binds the next positional argument. It is written at once, except when it follows a flag that is not bound yet
  // (`serve --x 5 identity`: is 5 the value of --x?); then Finish() writes it, so `value` must live until then.
  void Positional(std::string_view name, std::string& value, PositionalOptions options = {});

  // Variables and keys (or sections: "gateway") that belong to other verbs or services, and so are no spelling
  // mistakes. Take them from a Config without sources to which all components are bound.
  void KnowEnvironment(const std::vector<std::string>& names);
  void KnowKeys(const std::vector<std::string>& keys);

  // Call after the last binding. Errors: INVALID_ARGUMENT with the first problem in one line that names the setting
  // as the user wrote it (flag, variable, or file:line and key) and the remedy: a bad value, an unknown flag, an
  // unknown key, an unknown variable that begins with NOVA_ or RESILIENCE_, an argument too many, a required setting
  // that is missing, an unreadable file.
  Result<void> Finish();

  // `--help` or `-h` was given. Ask before Finish(), so that help is shown whatever else is wrong.
  bool help_requested() const;
  // The usage line, the description, and all that was bound: flag, variable, default, help.
  std::string Help(std::string_view usage, std::string_view description) const;

  // Of what was bound so far.
  std::vector<std::string> environment_names() const;
  std::vector<std::string> keys() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace nova::config
