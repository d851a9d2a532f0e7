#include "nova/config/config.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstring>
#include <fcntl.h>
#include <functional>
#include <limits>
#include <set>
#include <span>
#include <system_error>
#include <unistd.h>
#include <yaml-cpp/yaml.h>

extern char** environ;

namespace nova::config {
namespace {

constexpr std::string_view kPrefix = "NOVA_";
// A variable that begins with one of these is a setting or a spelling mistake.
constexpr std::array<std::string_view, 2> kCheckedPrefixes = {kPrefix, "RESILIENCE_"};
constexpr std::size_t kFileBytesMax = 1024 * 1024;
constexpr std::size_t kSecretBytesMax = 64 * 1024;
constexpr std::size_t kFileValuesMax = 4096;  // also ends a file whose aliases multiply
constexpr int kFileDepthMax = 16;
constexpr std::size_t kQuotedMax = 60;

// "postgres.pool_size" -> "postgres-pool-size"
std::string FlagName(std::string_view key) {
  std::string name(key);
  for (char& c : name) {
    if (c == '.' || c == '_') c = '-';
  }
  return name;
}

// "postgres.pool_size" -> "NOVA_POSTGRES_POOL_SIZE"
std::string VariableName(std::string_view key) {
  std::string name(kPrefix);
  for (const char c : key) {
    if (c == '.' || c == '-') {
      name.push_back('_');
    } else {
      name.push_back(c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c);
    }
  }
  return name;
}

// What a user wrote, fit for one line of a message.
std::string Quote(std::string_view text) {
  std::string quoted = "\"";
  for (const char c : text.substr(0, kQuotedMax)) {
    const auto byte = static_cast<unsigned char>(c);
    quoted.push_back(byte < 0x20 || byte == 0x7f ? '?' : c);
  }
  quoted.append(text.size() > kQuotedMax ? "...\"" : "\"");
  return quoted;
}

std::string Join(std::span<const std::string> items, std::string_view separator) {
  std::string joined;
  for (const std::string& item : items) {
    if (!joined.empty()) joined.append(separator);
    joined.append(item);
  }
  return joined;
}

std::size_t EditDistance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i);
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = std::exchange(row[j], std::min({row[j] + 1, row[j - 1] + 1, replaced}));
    }
  }
  return row[b.size()];
}

// "; did you mean X?" or `otherwise`.
std::string DidYouMean(std::string_view wrong, std::span<const std::string> known, std::string_view otherwise) {
  constexpr std::size_t kWordMax = 128;
  const std::string* best = nullptr;
  std::size_t best_distance = std::max<std::size_t>(2, wrong.size() / 4) + 1;
  if (wrong.size() > kWordMax) return std::string(otherwise);
  for (const std::string& candidate : known) {
    const std::size_t distance = EditDistance(wrong, candidate);
    if (distance < best_distance) {
      best = &candidate;
      best_distance = distance;
    }
  }
  return best != nullptr ? "; did you mean " + *best + "?" : std::string(otherwise);
}

// The error's message is the system's reason alone.
Result<std::string> ReadFile(const std::string& path, std::size_t bytes_max) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return InvalidArgument(std::strerror(errno));
  // Reserved up front: a string that grows leaves copies of a secret behind.
  std::string text(bytes_max + 1, '\0');
  std::size_t size = 0;
  ssize_t count = 0;
  do {
    count = ::read(file, text.data() + size, text.size() - size);
    if (count > 0) size += static_cast<std::size_t>(count);
  } while ((count > 0 && size < text.size()) || (count < 0 && errno == EINTR));
  const int failure = count < 0 ? errno : 0;
  ::close(file);
  if (failure != 0) return InvalidArgument(std::strerror(failure));
  if (size > bytes_max) return InvalidArgument("larger than " + std::to_string(bytes_max) + " bytes");
  text.resize(size);
  return text;
}

template <class T>
std::optional<T> ParseNumber(std::string_view text) {
  T value{};
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end || text.empty()) return std::nullopt;
  if constexpr (std::is_floating_point_v<T>) {
    if (!std::isfinite(value)) return std::nullopt;
  }
  return value;
}

std::optional<bool> ParseBool(std::string_view text) {
  if (text == "true") return true;
  if (text == "false") return false;
  return std::nullopt;
}

std::optional<std::chrono::milliseconds> ParseDuration(std::string_view text) {
  std::size_t digits = 0;
  while (digits < text.size() && text[digits] >= '0' && text[digits] <= '9') ++digits;
  const auto count = ParseNumber<std::int64_t>(text.substr(0, digits));
  if (!count) return std::nullopt;
  std::int64_t factor = 0;
  const std::string_view unit = text.substr(digits);
  if (unit == "ms") factor = 1;
  if (unit == "s") factor = 1000;
  if (unit == "m") factor = 60 * 1000;
  if (unit == "h") factor = 60 * 60 * 1000;
  if (unit == "d") factor = 24 * 60 * 60 * 1000;
  if (factor == 0 || *count > std::numeric_limits<std::int64_t>::max() / factor) return std::nullopt;
  return std::chrono::milliseconds(*count * factor);
}

std::string FormatDuration(std::chrono::milliseconds value) {
  constexpr std::int64_t kDay = 24 * 60 * 60 * 1000;
  const std::int64_t count = value.count();
  // One or two days are better known by their hours.
  if (count > 2 * kDay && count % kDay == 0) return std::to_string(count / kDay) + "d";
  if (count != 0 && count % (60 * 60 * 1000) == 0) return std::to_string(count / (60 * 60 * 1000)) + "h";
  if (count != 0 && count % (60 * 1000) == 0) return std::to_string(count / (60 * 1000)) + "m";
  if (count % 1000 == 0) return std::to_string(count / 1000) + "s";
  return std::to_string(count) + "ms";
}

std::string FormatNumber(double value) {
  constexpr double kExactMax = 1e15;
  if (value == std::floor(value) && std::fabs(value) < kExactMax)
    return std::to_string(static_cast<std::int64_t>(value));
  std::array<char, 32> text;
  const auto [end, error] = std::to_chars(text.data(), text.data() + text.size(), value);
  return std::string(text.data(), end);
}

std::string FormatLimit(const Limit& limit) {
  return limit.is_duration() ? FormatDuration(std::chrono::milliseconds(static_cast<std::int64_t>(limit.value())))
                             : FormatNumber(limit.value());
}

// " from 1 to 10", " of at least 1", " of at most 10", or nothing.
std::string FormatRange(const FieldOptions& options) {
  if (options.min && options.max) return " from " + FormatLimit(*options.min) + " to " + FormatLimit(*options.max);
  if (options.min) return " of at least " + FormatLimit(*options.min);
  if (options.max) return " of at most " + FormatLimit(*options.max);
  return {};
}

bool InRange(double value, const FieldOptions& options) {
  return (!options.min || value >= options.min->value()) && (!options.max || value <= options.max->value());
}

std::vector<std::string> SplitList(std::string_view text) {
  std::vector<std::string> items;
  while (!text.empty()) {
    const std::size_t comma = std::min(text.find(','), text.size());
    std::string_view item = text.substr(0, comma);
    text.remove_prefix(std::min(comma + 1, text.size()));
    while (item.starts_with(' ')) item.remove_prefix(1);
    while (item.ends_with(' ')) item.remove_suffix(1);
    if (!item.empty()) items.emplace_back(item);
  }
  return items;
}

// A value as some source has it, and that source as the user would name it.
struct Given {
  std::string origin;
  std::string text;
  std::optional<std::vector<std::string>> list = {};  // a YAML sequence
};

struct FileValue {
  int line = 0;
  bool is_null = false;
  std::string text = {};
  std::optional<std::vector<std::string>> list = {};
};

// One setting as Help() shows it.
struct Bound {
  std::string key;
  std::string flag;  // with its hyphens; empty for a secret
  std::string env;
  std::string kind;  // placeholder of the value; empty for a switch
  std::string default_text;
  std::string help;
  bool required = false;
};

}  // namespace

Sources Sources::FromProcess(int argc, const char* const* argv) {
  Sources sources;
  for (int i = 0; i < argc; ++i) sources.args.emplace_back(argv[i]);
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string_view text(*entry);
    const std::size_t equals = text.find('=');
    if (equals != std::string_view::npos) sources.environment.emplace(text.substr(0, equals), text.substr(equals + 1));
  }
  return sources;
}

struct Config::State {
  struct Pending {
    std::string name;
    std::string* value;
    bool required;
  };

  // Every binding but a secret's. `parse` yields nothing for a text that is no `kind`.
  template <class T>
  void Bind(std::string_view key, T& value, const FieldOptions& options, std::string kind, std::string expected,
            std::string default_text, const std::function<std::optional<T>(const Given&)>& parse);
  template <class T>
  void BindNumber(std::string_view key, T& value, const FieldOptions& options, const char* expected);
  template <class T>
  void BindDuration(std::string_view key, T& value, const FieldOptions& options);

  void Fail(std::string message);
  void LoadFile(const Given& path);
  void Flatten(const YAML::Node& node, const std::string& prefix, int depth);
  void AddFileValue(const std::string& key, int line, FileValue value);

  bool IsFlag(std::size_t index) const;
  bool IsPositional(std::size_t index) const;
  std::optional<Given> FromFlag(const std::string& flag, bool is_switch);
  std::optional<Given> FromEnvironment(const std::string& name) const;
  std::optional<Given> FromFile(std::string_view key);
  void Remember(Bound bound, const std::string& environment_name);
  // False if it cannot be told yet; `at_end`: all flags are known.
  bool TakePositional(const Pending& positional, bool at_end);

  std::optional<std::string> UnknownFlag() const;
  std::optional<std::string> UnknownKey() const;
  std::optional<std::string> UnknownVariable() const;
  bool IsSection(std::string_view key) const;

  Sources sources;
  std::vector<bool> used;     // by index of sources.args
  std::size_t flags_end = 0;  // the index of "--", or the number of arguments
  bool help = false;
  std::string file;  // as the user named it
  std::map<std::string, FileValue, std::less<>> file_values;
  std::optional<std::string> problem;  // the first
  std::optional<std::string> missing;  // the first required setting that no source has
  std::vector<Bound> bound;
  std::set<std::string, std::less<>> bound_keys;
  std::set<std::string, std::less<>> bound_environment;
  std::set<std::string, std::less<>> known_environment;
  std::set<std::string, std::less<>> known_keys;
  std::vector<Pending> pending;
  std::vector<std::pair<std::string, PositionalOptions>> positionals;
};

void Config::State::Fail(std::string message) {
  if (!problem) problem = std::move(message);
}

bool Config::State::IsFlag(std::size_t index) const {
  const std::string& arg = sources.args[index];
  return index < flags_end && arg.size() > 1 && arg.starts_with('-');
}

bool Config::State::IsPositional(std::size_t index) const { return index != flags_end && !IsFlag(index); }

std::optional<Given> Config::State::FromFlag(const std::string& flag, bool is_switch) {
  std::optional<Given> given;
  for (std::size_t i = 0; i < flags_end; ++i) {
    const std::string_view arg = sources.args[i];
    if (!arg.starts_with(flag)) continue;
    const std::string_view rest = arg.substr(flag.size());
    if (rest.starts_with('=')) {
      used[i] = true;
      given = Given{.origin = flag, .text = std::string(rest.substr(1))};
    } else if (rest.empty() && is_switch) {
      used[i] = true;
      given = Given{.origin = flag, .text = "true"};
    } else if (rest.empty()) {
      used[i] = true;
      if (i + 1 >= flags_end || sources.args[i + 1].starts_with("--")) {
        Fail(flag + " needs a value: " + flag + "=VALUE");
        return std::nullopt;
      }
      used[++i] = true;
      given = Given{.origin = flag, .text = sources.args[i]};
    }
  }
  return given;
}

std::optional<Given> Config::State::FromEnvironment(const std::string& name) const {
  const auto found = sources.environment.find(name);
  if (found == sources.environment.end()) return std::nullopt;
  return Given{.origin = name, .text = found->second};
}

std::optional<Given> Config::State::FromFile(std::string_view key) {
  const auto found = file_values.find(key);
  if (found == file_values.end()) return std::nullopt;
  const FileValue& value = found->second;
  std::string origin = file + ":" + std::to_string(value.line) + ": " + found->first;
  if (value.is_null) {
    Fail(origin + " has no value; give it one or delete the line");
    return std::nullopt;
  }
  return Given{.origin = std::move(origin), .text = value.text, .list = value.list};
}

void Config::State::Remember(Bound entry, const std::string& environment_name) {
  bound_environment.insert(environment_name);
  if (bound_keys.insert(entry.key).second) bound.push_back(std::move(entry));
}

template <class T>
void Config::State::Bind(std::string_view key, T& value, const FieldOptions& options, std::string kind,
                         std::string expected, std::string default_text,
                         const std::function<std::optional<T>(const Given&)>& parse) {
  const std::string flag = "--" + (options.flag.empty() ? FlagName(key) : options.flag);
  const std::string env = options.env.empty() ? VariableName(key) : options.env;
  const bool is_switch = kind.empty();
  Remember({.key = std::string(key),
            .flag = flag,
            .env = env,
            .kind = std::move(kind),
            .default_text = std::move(default_text),
            .help = options.help,
            .required = options.required},
           env);

  std::optional<Given> given = FromFlag(flag, is_switch);
  if (!given) given = FromEnvironment(env);
  if (!given) given = FromFile(key);
  if (!given) {
    if (options.required && !missing)
      missing = std::string(key) + " is not set; give " + flag + ", " + env + ", or " + std::string(key) +
                " in the file of --config";
    return;
  }
  std::optional<T> parsed = parse(*given);
  if (!parsed) {
    const std::string shown = given->list ? "a list" : Quote(given->text);
    Fail(given->origin + " must be " + expected + ", not " + shown);
    return;
  }
  value = *std::move(parsed);
}

template <class T>
void Config::State::BindNumber(std::string_view key, T& value, const FieldOptions& options, const char* expected) {
  assert((!options.min || !options.min->is_duration()) && (!options.max || !options.max->is_duration()));
  const std::string default_text =
      std::is_floating_point_v<T> ? FormatNumber(static_cast<double>(value)) : std::to_string(value);
  Bind<T>(key, value, options, "N", expected + FormatRange(options), default_text,
          [&options](const Given& given) -> std::optional<T> {
            if (given.list) return std::nullopt;
            const auto number = ParseNumber<T>(given.text);
            if (number && !InRange(static_cast<double>(*number), options)) return std::nullopt;
            return number;
          });
}

template <class T>
void Config::State::BindDuration(std::string_view key, T& value, const FieldOptions& options) {
  assert((!options.min || options.min->is_duration()) && (!options.max || options.max->is_duration()));
  constexpr bool kWholeSeconds = std::is_same_v<T, std::chrono::seconds>;
  const std::string expected = std::string(kWholeSeconds ? "a duration of whole seconds" : "a duration") +
                               FormatRange(options) + (kWholeSeconds ? " (2s, 5m, 1h)" : " (250ms, 2s, 5m, 1h)");
  Bind<T>(key, value, options, "TIME", expected, FormatDuration(value),
          [&options](const Given& given) -> std::optional<T> {
            if (given.list) return std::nullopt;
            const auto duration = ParseDuration(given.text);
            if (!duration || !InRange(static_cast<double>(duration->count()), options)) return std::nullopt;
            const T whole = std::chrono::duration_cast<T>(*duration);
            if (whole != *duration) return std::nullopt;
            return whole;
          });
}

Config::Config(Sources sources) : state_(std::make_unique<State>()) {
  State& state = *state_;
  state.sources = std::move(sources);
  const auto& args = state.sources.args;
  state.used.resize(args.size());
  state.flags_end = static_cast<std::size_t>(std::ranges::find(args, "--") - args.begin());
  for (std::size_t i = 0; i < state.flags_end; ++i) {
    if (args[i] == "--help" || args[i] == "-h") state.help = state.used[i] = true;
  }

  const std::string flag = "--config";
  const std::string env = VariableName("config");
  state.Remember({.key = "config",
                  .flag = flag,
                  .env = env,
                  .kind = "FILE",
                  .default_text = "",
                  .help = "a YAML file with settings"},
                 env);
  std::optional<Given> path = state.FromFlag(flag, false);
  if (!path) path = state.FromEnvironment(env);
  if (path) state.LoadFile(*path);
}

Config::~Config() = default;
Config::Config(Config&&) noexcept = default;
Config& Config::operator=(Config&&) noexcept = default;

void Config::State::LoadFile(const Given& path) {
  file = path.text;
  const auto text = ReadFile(file, kFileBytesMax);
  if (!text) {
    Fail(path.origin + ": cannot read " + Quote(file) + ": " + text.error().message());
    return;
  }
  // yaml-cpp reports by exception; this is where they end.
  try {
    const YAML::Node root = YAML::Load(*text);
    if (root.IsNull()) return;
    if (!root.IsMap()) {
      Fail(file + ": must hold settings as `section:` and `name: value`");
      return;
    }
    Flatten(root, "", 0);
  } catch (const YAML::Exception& error) {
    Fail(file + ":" + std::to_string(error.mark.line + 1) + ": is not valid YAML: " + error.msg);
  }
}

void Config::State::Flatten(const YAML::Node& node, const std::string& prefix, int depth) {
  for (const auto& entry : node) {
    const int line = entry.first.Mark().line + 1;
    const std::string where = file + ":" + std::to_string(line) + ": ";
    if (!entry.first.IsScalar()) {
      Fail(where + "the name of a setting must be a plain word");
      return;
    }
    const std::string key = prefix + entry.first.Scalar();
    const YAML::Node& child = entry.second;
    if (child.IsMap() && child.size() > 0) {
      if (depth >= kFileDepthMax) {
        Fail(where + key + " is nested too deeply");
        return;
      }
      Flatten(child, key + ".", depth + 1);
    } else if (child.IsSequence()) {
      std::vector<std::string> items;
      for (const YAML::Node& item : child) {
        if (!item.IsScalar()) {
          Fail(where + key + " must be a list of plain values");
          return;
        }
        items.push_back(item.Scalar());
      }
      AddFileValue(key, line, {.list = std::move(items)});
    } else if (child.IsScalar()) {
      AddFileValue(key, line, {.text = child.Scalar()});
    } else {
      AddFileValue(key, line, {.is_null = true});
    }
    if (problem) return;
  }
}

void Config::State::AddFileValue(const std::string& key, int line, FileValue value) {
  value.line = line;
  const auto [found, added] = file_values.emplace(key, std::move(value));
  if (!added) {
    Fail(file + ":" + std::to_string(line) + ": " + key + " stands on line " + std::to_string(found->second.line) +
         " already; delete one of them");
  } else if (file_values.size() > kFileValuesMax) {
    Fail(file + ": holds more than " + std::to_string(kFileValuesMax) + " settings");
  }
}

void Config::Field(std::string_view key, bool& value, FieldOptions options) {
  state_->Bind<bool>(key, value, options, "", "true or false", value ? "true" : "false",
                     [](const Given& given) { return given.list ? std::nullopt : ParseBool(given.text); });
}

void Config::Field(std::string_view key, int& value, FieldOptions options) {
  state_->BindNumber(key, value, options, "a whole number");
}

void Config::Field(std::string_view key, std::int64_t& value, FieldOptions options) {
  state_->BindNumber(key, value, options, "a whole number");
}

void Config::Field(std::string_view key, double& value, FieldOptions options) {
  state_->BindNumber(key, value, options, "a number");
}

void Config::Field(std::string_view key, std::string& value, FieldOptions options) {
  const std::string expected = options.one_of.empty() ? std::string("a text") : "one of " + Join(options.one_of, ", ");
  const std::string kind = options.one_of.empty() ? std::string("TEXT") : Join(options.one_of, "|");
  state_->Bind<std::string>(
      key, value, options, kind, expected, value, [&options](const Given& given) -> std::optional<std::string> {
        if (given.list) return std::nullopt;
        if (!options.one_of.empty() && std::ranges::find(options.one_of, given.text) == options.one_of.end())
          return std::nullopt;
        return given.text;
      });
}

void Config::Field(std::string_view key, std::chrono::milliseconds& value, FieldOptions options) {
  state_->BindDuration(key, value, options);
}

void Config::Field(std::string_view key, std::chrono::seconds& value, FieldOptions options) {
  state_->BindDuration(key, value, options);
}

void Config::Field(std::string_view key, std::vector<std::string>& value, FieldOptions options) {
  const std::string expected =
      options.one_of.empty() ? std::string("a list separated by commas") : "a list of " + Join(options.one_of, ", ");
  state_->Bind<std::vector<std::string>>(
      key, value, options, "A,B,...", expected, Join(value, ","),
      [&options](const Given& given) -> std::optional<std::vector<std::string>> {
        std::vector<std::string> items = given.list ? *given.list : SplitList(given.text);
        const auto allowed = [&options](const std::string& item) {
          return options.one_of.empty() || std::ranges::find(options.one_of, item) != options.one_of.end();
        };
        if (!std::ranges::all_of(items, allowed)) return std::nullopt;
        return items;
      });
}

void Config::Field(std::string_view key, Secret<>& value, FieldOptions options) {
  State& state = *state_;
  const std::string env = options.env.empty() ? VariableName(key) : options.env;
  const std::string file_env = env + "_FILE";
  state.Remember({.key = std::string(key),
                  .flag = "",
                  .env = env,
                  .kind = "",
                  .default_text = "",
                  .help = options.help + (options.help.empty() ? "" : "; ") + "or " + file_env + " names a file",
                  .required = options.required},
                 env);
  state.bound_environment.insert(file_env);

  const std::string remedy = "; set " + env + ", or " + file_env + " to a file that holds it";
  const std::string flag = "--" + (options.flag.empty() ? FlagName(key) : options.flag);
  if (state.FromFlag(flag, true)) state.Fail(flag + ": a secret must not stand on the command line" + remedy);
  if (const auto found = state.file_values.find(key); found != state.file_values.end())
    state.Fail(state.file + ":" + std::to_string(found->second.line) + ": " + found->first +
               ": a secret must not stand in the file" + remedy);

  const auto direct = state.FromEnvironment(env);
  const auto from_file = state.FromEnvironment(file_env);
  if (!direct && !from_file) {
    if (options.required && !state.missing) state.missing = std::string(key) + " is not set" + remedy;
    return;
  }
  if (direct && from_file) {
    state.Fail(env + " and " + file_env + " are both set; unset one of them");
    return;
  }
  std::string text;
  if (direct) {
    text = direct->text;
  } else {
    auto content = ReadFile(from_file->text, kSecretBytesMax);
    if (!content) {
      state.Fail(file_env + ": cannot read " + Quote(from_file->text) + ": " + content.error().message());
      return;
    }
    text = *std::move(content);
    if (text.ends_with('\n')) text.pop_back();
    if (text.ends_with('\r')) text.pop_back();
  }
  if (text.empty()) {
    state.Fail((direct ? env : file_env) + " holds an empty secret" + remedy);
    return;
  }
  value = Secret<>(std::move(text));
}

bool Config::State::TakePositional(const Pending& positional, bool at_end) {
  for (std::size_t i = 0; i < sources.args.size(); ++i) {
    if (used[i] || !IsPositional(i)) continue;
    const bool may_be_a_flags_value =
        i > 0 && i < flags_end && IsFlag(i - 1) && !used[i - 1] && sources.args[i - 1].find('=') == std::string::npos;
    if (may_be_a_flags_value && !at_end) return false;
    used[i] = true;
    *positional.value = sources.args[i];
    return true;
  }
  if (at_end && positional.required && !missing)
    missing = "<" + positional.name + "> is missing; --help shows how to write it";
  return false;
}

void Config::Positional(std::string_view name, std::string& value, PositionalOptions options) {
  State& state = *state_;
  const State::Pending positional{.name = std::string(name), .value = &value, .required = options.required};
  state.positionals.emplace_back(name, std::move(options));
  // In order: one that waits makes the next ones wait.
  if (!state.pending.empty() || !state.TakePositional(positional, false)) state.pending.push_back(positional);
}

void Config::KnowEnvironment(const std::vector<std::string>& names) {
  state_->known_environment.insert(names.begin(), names.end());
}

void Config::KnowKeys(const std::vector<std::string>& keys) { state_->known_keys.insert(keys.begin(), keys.end()); }

std::optional<std::string> Config::State::UnknownFlag() const {
  for (std::size_t i = 0; i < flags_end; ++i) {
    if (used[i] || !IsFlag(i)) continue;
    // Never what follows the "=": it may be a secret behind a misspelt name.
    const std::string name = sources.args[i].substr(0, sources.args[i].find('='));
    std::vector<std::string> flags = {"--help"};
    for (const Bound& entry : bound) {
      if (!entry.flag.empty()) flags.push_back(entry.flag);
    }
    return name + ": there is no such flag" + DidYouMean(name, flags, "; --help lists them");
  }
  return std::nullopt;
}

bool Config::State::IsSection(std::string_view key) const {
  const std::string prefix = std::string(key) + ".";
  const auto found = bound_keys.lower_bound(prefix);
  return found != bound_keys.end() && found->starts_with(prefix);
}

std::optional<std::string> Config::State::UnknownKey() const {
  // By line, so that the first problem of the file comes first.
  const std::pair<const std::string, FileValue>* first = nullptr;
  for (const auto& entry : file_values) {
    const auto& [key, value] = entry;
    if (bound_keys.contains(key) || (value.is_null && IsSection(key))) continue;
    const bool known = std::ranges::any_of(known_keys, [&](const std::string& other) {
      return key == other || key.starts_with(other + ".") || (value.is_null && other.starts_with(key + "."));
    });
    if (!known && (first == nullptr || value.line < first->second.line)) first = &entry;
  }
  if (first == nullptr) return std::nullopt;
  const std::string origin = file + ":" + std::to_string(first->second.line) + ": " + first->first;
  if (IsSection(first->first)) return origin + " is a section; put its settings beneath it";
  const std::vector<std::string> keys(bound_keys.begin(), bound_keys.end());
  return origin + ": there is no such setting" + DidYouMean(first->first, keys, "; delete the line");
}

std::optional<std::string> Config::State::UnknownVariable() const {
  for (const std::string_view prefix : kCheckedPrefixes) {
    for (auto entry = sources.environment.lower_bound(std::string(prefix));
         entry != sources.environment.end() && entry->first.starts_with(prefix); ++entry) {
      if (bound_environment.contains(entry->first) || known_environment.contains(entry->first)) continue;
      std::vector<std::string> names(bound_environment.begin(), bound_environment.end());
      names.insert(names.end(), known_environment.begin(), known_environment.end());
      return entry->first + ": there is no such setting" + DidYouMean(entry->first, names, "; unset the variable");
    }
  }
  return std::nullopt;
}

Result<void> Config::Finish() {
  State& state = *state_;
  if (state.problem) return InvalidArgument(*state.problem);
  if (const auto unknown = state.UnknownFlag()) return InvalidArgument(*unknown);
  for (const State::Pending& positional : std::exchange(state.pending, {}))
    (void)state.TakePositional(positional, true);
  if (const auto unknown = state.UnknownKey()) return InvalidArgument(*unknown);
  if (const auto unknown = state.UnknownVariable()) return InvalidArgument(*unknown);
  for (std::size_t i = 0; i < state.sources.args.size(); ++i) {
    if (state.used[i] || !state.IsPositional(i)) continue;
    return InvalidArgument(Quote(state.sources.args[i]) + " is one argument too many; --help shows what is allowed");
  }
  if (state.missing) return InvalidArgument(*state.missing);
  return Ok();
}

bool Config::help_requested() const { return state_->help; }

std::string Config::Help(std::string_view usage, std::string_view description) const {
  struct Line {
    std::string flag, default_text, env, help;
  };
  std::vector<Line> lines;
  std::size_t flag_width = 0;
  std::size_t default_width = 0;
  std::size_t env_width = 0;
  for (const Bound& entry : state_->bound) {
    Line line{.flag = entry.flag, .default_text = entry.default_text, .env = entry.env, .help = entry.help};
    if (!entry.flag.empty() && !entry.kind.empty()) line.flag += " " + entry.kind;
    if (line.default_text.empty()) line.default_text = entry.required ? "required" : "-";
    flag_width = std::max(flag_width, line.flag.size());
    default_width = std::max(default_width, line.default_text.size());
    env_width = std::max(env_width, line.env.size());
    lines.push_back(std::move(line));
  }

  std::string text = "usage: " + std::string(usage) + "\n" + std::string(description) + "\n";
  if (!state_->positionals.empty()) {
    std::size_t width = 0;
    for (const auto& [name, options] : state_->positionals) width = std::max(width, name.size());
    text += "\n";
    for (const auto& [name, options] : state_->positionals)
      text += "  <" + name + ">" + std::string(width - name.size() + 2, ' ') + options.help +
              (options.required ? "" : " (optional)") + "\n";
  }
  text += "\nSettings: flag, default, variable. A flag wins over its variable, the variable over the file.\n";
  const auto padded = [](const std::string& column, std::size_t width) {
    return column + std::string(width - column.size() + 2, ' ');
  };
  for (const Line& line : lines)
    text += "  " + padded(line.flag, flag_width) + padded(line.default_text, default_width) +
            padded(line.env, env_width) + line.help + "\n";
  return text;
}

std::vector<std::string> Config::environment_names() const {
  return {state_->bound_environment.begin(), state_->bound_environment.end()};
}

std::vector<std::string> Config::keys() const { return {state_->bound_keys.begin(), state_->bound_keys.end()}; }

}  // namespace nova::config
