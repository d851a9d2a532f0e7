#include "nova/telemetry/log.h"

#include <boost/json.hpp>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <limits>
#include <regex>
#include <string>
#include <thread>
#include <unistd.h>
#include <vector>

#include "nova/telemetry/redact.h"

namespace nova::telemetry {
namespace {

namespace json = boost::json;
using testing::HasSubstr;
using testing::Not;

// The promise of this library: a secret is no field value. If this compiles otherwise, secrets reach the log.
static_assert(!std::constructible_from<Field, std::string_view, Secret<>>);
static_assert(!std::constructible_from<Field, std::string_view, const Secret<>&>);
static_assert(!std::constructible_from<Field, std::string_view, Secret<std::vector<unsigned char>>>);
static_assert(!std::constructible_from<Field, std::string_view, const Secret<>*>);
static_assert(std::constructible_from<Field, std::string_view, int>);
static_assert(std::constructible_from<Field, std::string_view, std::string>);

class LogTest : public testing::Test {
 protected:
  ~LogTest() override {
    InitLogging({.level = Level::kError}, [](std::string_view) {});
  }

  void Start(LogConfig config) {
    config.service = "identity";
    InitLogging(config, [this](std::string_view line) { lines_.emplace_back(line); });
  }
  json::object Only() {
    EXPECT_EQ(lines_.size(), 1u);
    if (lines_.empty()) return {};
    json::error_code error;
    json::value value = json::parse(lines_.front(), error);
    EXPECT_FALSE(error) << lines_.front();
    return value.is_object() ? value.as_object() : json::object();
  }

  std::vector<std::string> lines_;
};

TEST_F(LogTest, ARecordIsOneObjectWithEveryTypeOfField) {
  Start({});
  const std::string text = "a string";
  LogWarn("listening", {{"port", 7401},
                        {"bytes", std::uint64_t{18446744073709551615u}},
                        {"negative", std::int64_t{-5}},
                        {"small", std::uint8_t{7}},
                        {"ratio", 0.25},
                        {"tls", true},
                        {"literal", "x"},
                        {"view", std::string_view("y")},
                        {"string", text},
                        {"none", std::numeric_limits<double>::infinity()}});
  const json::object record = Only();
  EXPECT_TRUE(
      std::regex_match(record.at("time").as_string().c_str(), std::regex(R"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z)")));
  EXPECT_EQ(record.at("level"), "warn");
  EXPECT_EQ(record.at("service"), "identity");
  EXPECT_EQ(record.at("message"), "listening");
  EXPECT_EQ(record.at("port"), 7401);
  EXPECT_EQ(record.at("bytes").as_uint64(), 18446744073709551615u);
  EXPECT_EQ(record.at("negative"), -5);
  EXPECT_EQ(record.at("small"), 7);
  EXPECT_EQ(record.at("ratio"), 0.25);
  EXPECT_EQ(record.at("tls"), true);
  EXPECT_EQ(record.at("literal"), "x");
  EXPECT_EQ(record.at("view"), "y");
  EXPECT_EQ(record.at("string"), "a string");
  EXPECT_TRUE(record.at("none").is_null());
}

TEST_F(LogTest, AnErrorIsAnObjectOfCodeMessageAndDetail) {
  Start({});
  LogError("failed", {{"error", Unavailable("try later", "postgres://u:hunter2@db: refused")}});
  const json::object record = Only();
  const json::object& error = record.at("error").as_object();
  EXPECT_EQ(error.at("code"), "UNAVAILABLE");
  EXPECT_EQ(error.at("message"), "try later");
  EXPECT_EQ(error.at("detail"), "postgres://u:[redacted]@db: refused");
}

TEST_F(LogTest, NoSecretThatCameAsTextIsWritten) {
  for (const LogFormat format : {LogFormat::kJson, LogFormat::kText}) {
    lines_.clear();
    Start({.format = format});
    LogInfo("login with Bearer hunter2", {{"password", "hunter2"},
                                          {"refresh_token", std::string("hunter2")},
                                          {"Set-Cookie", std::string_view("hunter2")},
                                          {"token_number", 4711},
                                          {"url", "postgres://nova:hunter2@db/x"},
                                          {"jwt", "eyJhbGciOiJFZERTQSJ9.eyJodW50ZXIyIjoxfQ.hunter2"},
                                          {"error", Internal("x", "password=hunter2")}});
    ASSERT_EQ(lines_.size(), 1u);
    EXPECT_THAT(lines_.front(), Not(HasSubstr("hunter2")));
    EXPECT_THAT(lines_.front(), Not(HasSubstr("4711")));
    EXPECT_THAT(lines_.front(), Not(HasSubstr("eyJ")));
    EXPECT_THAT(lines_.front(), HasSubstr(kRedacted));
  }
}

TEST_F(LogTest, ARecordIsOneLineOfValidJsonWhateverTheTextHolds) {
  Start({});
  LogInfo("a\nb\"c\\d\x01\x7f", {{"bad", "\xff\xc0\xaf|\xed\xa0\x80|\xe2\x82"},
                                 {"good", "\xe2\x82\xac\xf0\x9f\x9a\x80"},
                                 {"nothing", static_cast<const char*>(nullptr)}});
  const json::object record = Only();
  EXPECT_THAT(lines_.front(), Not(HasSubstr("\n")));
  EXPECT_EQ(record.at("message"), "a\nb\"c\\d\x01\x7f");
  EXPECT_THAT(std::string(record.at("bad").as_string()), HasSubstr("\xef\xbf\xbd|"));
  EXPECT_EQ(record.at("good"), "\xe2\x82\xac\xf0\x9f\x9a\x80");
  EXPECT_EQ(record.at("nothing"), "");
}

TEST_F(LogTest, AFieldCannotPretendToBeTheLevel) {
  Start({});
  LogInfo("x", {{"level", "error"}, {"message", "y"}});
  const json::object record = Only();
  EXPECT_EQ(record.at("level"), "info");
  EXPECT_EQ(record.at("message"), "x");
  EXPECT_EQ(record.at("field_level"), "error");
  EXPECT_EQ(record.at("field_message"), "y");
}

TEST_F(LogTest, LongTextsAreCutBetweenCharacters) {
  Start({});
  std::string text = "x";
  while (text.size() < 100'000) text += "\xe2\x82\xac";
  LogInfo("long", {{"text", text}});
  EXPECT_LT(lines_.front().size(), 10'000u);
  const std::string cut(Only().at("text").as_string());
  EXPECT_TRUE(cut.ends_with("\xe2\x82\xac...")) << cut.substr(cut.size() - 10);
}

TEST_F(LogTest, RecordsBelowTheLevelAreNotWritten) {
  Start({.level = Level::kWarn});
  LogDebug("a");
  LogInfo("b");
  EXPECT_TRUE(lines_.empty());
  EXPECT_FALSE(LogEnabled(Level::kInfo));
  EXPECT_TRUE(LogEnabled(Level::kError));
  LogWarn("c");
  LogError("d");
  EXPECT_EQ(lines_.size(), 2u);
}

TEST_F(LogTest, TextIsForPeople) {
  Start({.format = LogFormat::kText});
  LogInfo("listening\n", {{"port", 7401}, {"path", "/a b"}, {"tls", true}, {"ratio", 0.5}});
  ASSERT_EQ(lines_.size(), 1u);
  EXPECT_TRUE(std::regex_match(lines_.front(), std::regex("\\d\\d:\\d\\d:\\d\\d\\.\\d{3} INFO  identity listening\\\\n "
                                                          "port=7401 path=\"/a b\" tls=true ratio=0.5")))
      << lines_.front();
}

TEST_F(LogTest, LinesOfManyThreadsDoNotMix) {
  Start({});
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([i] {
      for (int n = 0; n < 250; ++n) LogInfo("work", {{"thread", i}, {"n", n}});
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(lines_.size(), 1000u);
  for (const std::string& line : lines_) EXPECT_TRUE(json::parse(line).is_object());
}

TEST_F(LogTest, LevelAndFormatComeFromTheConfiguration) {
  LogConfig log;
  config::Config config({.args = {"--log-level=debug"}, .environment = {{"NOVA_LOG_FORMAT", "text"}}});
  Bind(config, log);
  EXPECT_TRUE(config.Finish());
  EXPECT_EQ(log.level, Level::kDebug);
  EXPECT_EQ(log.format, LogFormat::kText);

  config::Config wrong({.args = {"--log-level=loud"}});
  Bind(wrong, log);
  const auto finished = wrong.Finish();
  ASSERT_FALSE(finished);
  EXPECT_EQ(finished.error().message(), "--log-level must be one of debug, info, warn, error, not \"loud\"");
}

// Stderr replaced by a pipe for the life of the object.
class StderrPipe {
 public:
  StderrPipe() {
    saved_ = ::dup(STDERR_FILENO);
    EXPECT_EQ(::pipe(ends_), 0);
    ::dup2(ends_[1], STDERR_FILENO);
    ::close(ends_[1]);
  }
  ~StderrPipe() {
    Restore();
    ::close(ends_[0]);
  }
  StderrPipe(const StderrPipe&) = delete;
  StderrPipe& operator=(const StderrPipe&) = delete;

  // Closes the writing end; then everything up to the end of the stream.
  std::string Finish() {
    Restore();
    return ReadAll();
  }
  std::string ReadAll() const {
    std::string text;
    char buffer[4096];
    for (ssize_t n = 0; (n = ::read(ends_[0], buffer, sizeof buffer)) > 0;) text.append(buffer, static_cast<size_t>(n));
    return text;
  }
  void Restore() {
    if (saved_ < 0) return;
    ::dup2(saved_, STDERR_FILENO);
    ::close(saved_);
    saved_ = -1;
  }

 private:
  int ends_[2] = {-1, -1};
  int saved_ = -1;
};

TEST_F(LogTest, ShutdownWritesWhatIsQueuedAndLaterLinesStillArrive) {
  StderrPipe pipe;
  InitLogging({.service = "identity"});
  for (int i = 0; i < 50; ++i) LogInfo("queued", {{"i", i}});
  ShutdownLogging();
  LogInfo("afterwards");
  const std::string text = pipe.Finish();
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 51);
  EXPECT_LT(text.find("\"i\":49"), text.find("afterwards"));
}

TEST_F(LogTest, AReaderThatStallsCostsLinesButNeverTheCaller) {
  // Nobody reads the pipe meanwhile: its 64 KiB fill, then the queue, then lines are dropped. If Log() blocked, this
  // test would never end.
  StderrPipe pipe;
  InitLogging({});
  const std::uint64_t before = DroppedLogLines();
  for (int i = 0; i < 30'000; ++i) LogInfo("into a pipe that nobody reads", {{"i", i}});
  EXPECT_GT(DroppedLogLines(), before);
  std::string text;
  std::thread reader([&] { text = pipe.ReadAll(); });
  ShutdownLogging();
  pipe.Restore();
  reader.join();
  EXPECT_THAT(text, HasSubstr("\"i\":29999"));  // the newest survive
}

}  // namespace
}  // namespace nova::telemetry
