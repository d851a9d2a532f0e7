#include "nova/telemetry/log.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <memory>
#include <mutex>
#include <spdlog/async_logger.h>
#include <spdlog/details/thread_pool.h>
#include <spdlog/logger.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <utility>

#include "nova/telemetry/redact.h"

namespace nova::telemetry {
namespace {

// Lines waiting for the writer; at a few hundred bytes each that is some megabytes.
constexpr std::size_t kQueueMax = 8192;
// Longer texts end in "...".
constexpr std::size_t kTextBytesMax = 8 * 1024;

constexpr std::array<std::string_view, 4> kLevelNames = {"debug", "info", "warn", "error"};
constexpr std::array<std::string_view, 4> kLevelLabels = {"DEBUG", "INFO ", "WARN ", "ERROR"};

class CallbackSink final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  explicit CallbackSink(LogSink sink) : sink_(std::move(sink)) {}

 private:
  void sink_it_(const spdlog::details::log_msg& message) override {
    sink_(std::string_view(message.payload.data(), message.payload.size()));
  }
  void flush_() override {}

  LogSink sink_;
};

struct Output {
  LogConfig config;
  std::shared_ptr<spdlog::details::thread_pool> pool;  // null: the caller's thread writes
  std::shared_ptr<spdlog::logger> logger;
};

std::shared_ptr<const Output> MakeOutput(const LogConfig& config, spdlog::sink_ptr sink, bool queued) {
  auto output = std::make_shared<Output>();
  output->config = config;
  if (queued) {
    output->pool = std::make_shared<spdlog::details::thread_pool>(kQueueMax, 1);
    // Overrun, never block: a stalled reader of stderr must not stall a request.
    output->logger = std::make_shared<spdlog::async_logger>("nova", std::move(sink), output->pool,
                                                            spdlog::async_overflow_policy::overrun_oldest);
  } else {
    output->logger = std::make_shared<spdlog::logger>("nova", std::move(sink));
  }
  // We make the lines, level and time included; spdlog carries them.
  output->logger->set_level(spdlog::level::trace);
  output->logger->set_formatter(
      std::make_unique<spdlog::pattern_formatter>("%v", spdlog::pattern_time_type::local, "\n"));
  return output;
}

std::shared_ptr<const Output> MakeDirect(const LogConfig& config) {
  return MakeOutput(config, std::make_shared<spdlog::sinks::stderr_sink_mt>(), false);
}

// The one process-wide object of Nova: a log line must be possible anywhere, also before and after main's own.
struct Process {
  std::atomic<Level> level = Level::kInfo;
  std::atomic<std::uint64_t> dropped_before = 0;  // by queues that are gone
  std::mutex mutex;
  std::shared_ptr<const Output> output = MakeDirect({});  // guarded by mutex
};

Process& TheProcess() {
  static Process& process = *new Process();  // never destroyed: destructors log too
  return process;
}

std::shared_ptr<const Output> Current() {
  Process& process = TheProcess();
  std::lock_guard lock(process.mutex);
  return process.output;
}

void Replace(std::shared_ptr<const Output> output) {
  Process& process = TheProcess();
  process.level = output->config.level;
  {
    std::lock_guard lock(process.mutex);
    process.output.swap(output);
  }
  if (output->pool) process.dropped_before += output->pool->overrun_counter();
  // The last owner of the old queue writes what it holds; that is us, or a line that is being logged right now.
}

// The length of the UTF-8 sequence that begins at `at`, or 0 if there is no valid one.
std::size_t SequenceLength(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(at);
  if (first < 0x80) return 1;
  std::size_t length = 0;
  unsigned char second_min = 0x80;
  unsigned char second_max = 0xbf;
  if (first >= 0xc2 && first <= 0xdf) {
    length = 2;
  } else if (first >= 0xe0 && first <= 0xef) {
    length = 3;
    if (first == 0xe0) second_min = 0xa0;
    if (first == 0xed) second_max = 0x9f;  // surrogates
  } else if (first >= 0xf0 && first <= 0xf4) {
    length = 4;
    if (first == 0xf0) second_min = 0x90;
    if (first == 0xf4) second_max = 0x8f;
  }
  if (length == 0 || at + length > text.size()) return 0;
  if (byte(at + 1) < second_min || byte(at + 1) > second_max) return 0;
  for (std::size_t i = 2; i < length; ++i) {
    if ((byte(at + i) & 0xc0) != 0x80) return 0;
  }
  return length;
}

// Escaped for a JSON string, without the quotes. Invalid UTF-8 becomes U+FFFD, so that the line stays valid JSON.
void AppendEscaped(std::string& line, std::string_view text) {
  static constexpr char kHex[] = "0123456789abcdef";
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = SequenceLength(text, at);
    if (length != 1) {
      line.append(length == 0 ? std::string_view("\xef\xbf\xbd") : text.substr(at, length));
      at += std::max<std::size_t>(length, 1);
      continue;
    }
    const char c = text[at++];
    switch (c) {
      case '"':
        line.append("\\\"");
        break;
      case '\\':
        line.append("\\\\");
        break;
      case '\n':
        line.append("\\n");
        break;
      case '\r':
        line.append("\\r");
        break;
      case '\t':
        line.append("\\t");
        break;
      default: {
        const auto byte = static_cast<unsigned char>(c);
        if (byte < 0x20 || byte == 0x7f) {
          line.append("\\u00").push_back(kHex[byte >> 4]);
          line.push_back(kHex[byte & 0x0f]);
        } else {
          line.push_back(c);
        }
      }
    }
  }
}

// Redacted first: half a secret would no longer be recognised.
std::string Clean(std::string_view text) {
  std::string clean = Redact(text);
  if (clean.size() > kTextBytesMax) {
    std::size_t end = kTextBytesMax;
    while (end > 0 && (static_cast<unsigned char>(clean[end]) & 0xc0) == 0x80) --end;
    clean.resize(end);
    clean.append("...");
  }
  return clean;
}

template <class T>
void AppendNumber(std::string& line, T value) {
  std::array<char, 32> text;
  const auto [end, error] = std::to_chars(text.data(), text.data() + text.size(), value);
  line.append(text.data(), end);
}

// A line of JSON.
class JsonLine {
 public:
  void Begin(std::chrono::system_clock::time_point now, Level level, const std::string& service,
             std::string_view message) {
    line_ = "{\"time\":\"";
    AppendTime(now);
    line_.append("\",\"level\":\"").append(kLevelNames[static_cast<std::size_t>(level)]).append("\"");
    if (!service.empty()) AppendText("service", service);
    AppendText("message", Clean(message));
  }

  void Add(const Field& field) {
    if (IsSecretKey(field.key())) {
      AppendText(field.key(), kRedacted);
      return;
    }
    std::visit([&](const auto& value) { AddValue(field.key(), value); }, field.value());
  }

  std::string_view End() { return line_.append("}"); }

 private:
  void AppendTime(std::chrono::system_clock::time_point now) {
    using namespace std::chrono;
    const auto whole = floor<seconds>(now);
    const std::time_t time = system_clock::to_time_t(whole);
    std::tm parts{};
    gmtime_r(&time, &parts);
    std::array<char, 32> text;
    const std::size_t size = std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%S.", &parts);
    line_.append(text.data(), size);
    const auto millis = duration_cast<milliseconds>(now - whole).count();
    line_.push_back(static_cast<char>('0' + millis / 100));
    line_.push_back(static_cast<char>('0' + millis / 10 % 10));
    line_.push_back(static_cast<char>('0' + millis % 10));
    line_.push_back('Z');
  }

  void AppendKey(std::string_view key) {
    // A field may not pretend to be one of ours.
    const bool taken = key == "time" || key == "level" || key == "service" || key == "message";
    line_.append(taken && begun_ ? ",\"field_" : ",\"");
    AppendEscaped(line_, key);
    line_.append("\":");
  }

  void AppendText(std::string_view key, std::string_view clean) {
    AppendKey(key);
    line_.push_back('"');
    AppendEscaped(line_, clean);
    line_.push_back('"');
    if (key == "message") begun_ = true;
  }

  void AddValue(std::string_view key, std::string_view value) { AppendText(key, Clean(value)); }
  void AddValue(std::string_view key, bool value) {
    AppendKey(key);
    line_.append(value ? "true" : "false");
  }
  void AddValue(std::string_view key, std::int64_t value) {
    AppendKey(key);
    AppendNumber(line_, value);
  }
  void AddValue(std::string_view key, std::uint64_t value) {
    AppendKey(key);
    AppendNumber(line_, value);
  }
  void AddValue(std::string_view key, double value) {
    AppendKey(key);
    if (std::isfinite(value)) {
      AppendNumber(line_, value);
    } else {
      line_.append("null");  // JSON has no word for it
    }
  }
  void AddValue(std::string_view key, const Error* error) {
    AppendKey(key);
    line_.append("{\"code\":\"").append(CodeName(error->code())).append("\",\"message\":\"");
    AppendEscaped(line_, Clean(error->message()));
    if (!error->detail().empty()) {
      line_.append("\",\"detail\":\"");
      AppendEscaped(line_, Clean(error->detail()));
    }
    line_.append("\"}");
  }

  std::string line_;
  bool begun_ = false;  // time, level, service and message are written
};

// A line for a person.
class TextLine {
 public:
  void Begin(std::chrono::system_clock::time_point now, Level level, const std::string& service,
             std::string_view message) {
    using namespace std::chrono;
    const auto whole = floor<seconds>(now);
    const std::time_t time = system_clock::to_time_t(whole);
    std::tm parts{};
    localtime_r(&time, &parts);
    std::array<char, 32> text;
    const std::size_t size = std::strftime(text.data(), text.size(), "%H:%M:%S.", &parts);
    line_.assign(text.data(), size);
    const std::string millis = std::to_string(duration_cast<milliseconds>(now - whole).count());
    line_.append(3 - millis.size(), '0').append(millis).append(" ");
    line_.append(kLevelLabels[static_cast<std::size_t>(level)]).append(" ");
    if (!service.empty()) line_.append(service).append(" ");
    AppendEscaped(line_, Clean(message));
  }

  void Add(const Field& field) {
    line_.push_back(' ');
    AppendEscaped(line_, field.key());
    line_.push_back('=');
    if (IsSecretKey(field.key())) {
      line_.append(kRedacted);
      return;
    }
    std::visit([this](const auto& value) { AddValue(value); }, field.value());
  }

  std::string_view End() { return line_; }

 private:
  void AddValue(std::string_view value) {
    const std::string clean = Clean(value);
    const bool plain = !clean.empty() && clean.find_first_of(" \"=\n\t") == std::string::npos;
    if (!plain) line_.push_back('"');
    AppendEscaped(line_, clean);
    if (!plain) line_.push_back('"');
  }
  void AddValue(bool value) { line_.append(value ? "true" : "false"); }
  void AddValue(std::int64_t value) { AppendNumber(line_, value); }
  void AddValue(std::uint64_t value) { AppendNumber(line_, value); }
  void AddValue(double value) { AppendNumber(line_, value); }
  void AddValue(const Error* error) { AddValue(std::string_view(error->ToString())); }

  std::string line_;
};

template <class Line>
void Write(const Output& output, Level level, std::string_view message, std::initializer_list<Field> fields) {
  Line line;
  line.Begin(std::chrono::system_clock::now(), level, output.config.service, message);
  for (const Field& field : fields) line.Add(field);
  const std::string_view text = line.End();
  output.logger->log(spdlog::level::info, spdlog::string_view_t(text.data(), text.size()));
}

}  // namespace

void Bind(config::Config& config, LogConfig& log) {
  static constexpr std::array<std::string_view, 2> kFormats = {"json", "text"};
  std::string level(kLevelNames[static_cast<std::size_t>(log.level)]);
  std::string format(kFormats[static_cast<std::size_t>(log.format)]);
  config.Field("log.level", level,
               {.help = "records below it are not written", .one_of = {kLevelNames.begin(), kLevelNames.end()}});
  config.Field("log.format", format,
               {.help = "json for machines, text for a terminal", .one_of = {kFormats.begin(), kFormats.end()}});
  config.Field("log.ip_addresses", log.ip_addresses,
               {.help = "show IP addresses other than loopback, which may be people's"});
  log.level = static_cast<Level>(std::ranges::find(kLevelNames, level) - kLevelNames.begin());
  log.format = static_cast<LogFormat>(std::ranges::find(kFormats, format) - kFormats.begin());
}

void InitLogging(const LogConfig& config, LogSink sink) {
  ShowAddresses(config.ip_addresses);
  if (sink) {
    Replace(MakeOutput(config, std::make_shared<CallbackSink>(std::move(sink)), false));
    return;
  }
  Replace(MakeOutput(config, std::make_shared<spdlog::sinks::stderr_sink_mt>(), true));
  [[maybe_unused]] static const int registered = std::atexit(&ShutdownLogging);
}

void ShutdownLogging() {
  const auto current = Current();
  if (current->pool) Replace(MakeDirect(current->config));
}

std::uint64_t DroppedLogLines() {
  const auto output = Current();
  const std::uint64_t before = TheProcess().dropped_before;
  return before + (output->pool ? output->pool->overrun_counter() : 0);
}

bool LogEnabled(Level level) { return level >= TheProcess().level.load(std::memory_order_relaxed); }

void Log(Level level, std::string_view message, std::initializer_list<Field> fields) {
  if (!LogEnabled(level)) return;
  const auto output = Current();
  if (output->config.format == LogFormat::kJson) {
    Write<JsonLine>(*output, level, message, fields);
  } else {
    Write<TextLine>(*output, level, message, fields);
  }
}

}  // namespace nova::telemetry
