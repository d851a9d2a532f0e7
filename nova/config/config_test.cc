#include "nova/config/config.h"

#include <atomic>
#include <cstdlib>
#include <fstream>
#include <gtest/gtest.h>
#include <unistd.h>

namespace nova::config {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// A file that is gone when the test ends.
class TempFile {
 public:
  explicit TempFile(std::string_view content) {
    static std::atomic<int> count = 0;
    path_ = testing::TempDir() + "config_test_" + std::to_string(::getpid()) + "_" + std::to_string(count++) + ".yaml";
    std::ofstream(path_) << content;
  }
  ~TempFile() { ::unlink(path_.c_str()); }
  TempFile(const TempFile&) = delete;
  TempFile& operator=(const TempFile&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

struct Pool {
  int size_max = 25;
  std::int64_t bytes_max = 1'000'000;
  double ratio = 0.5;
  bool tls = true;
  bool verbose = false;
  std::string host = "localhost";
  std::string mode = "transaction";
  milliseconds connect_timeout{2000};
  seconds lifetime{3600};
  std::vector<std::string> peers = {"a", "b"};
  Secret<> password;
};

void Bind(Config& config, Pool& pool) {
  config.Field("postgres.pool_size", pool.size_max, {.help = "server connections, at most", .min = 1, .max = 1000});
  config.Field("postgres.bytes_max", pool.bytes_max, {.max = std::int64_t{2'000'000'000'000}});
  config.Field("postgres.ratio", pool.ratio, {.min = 0, .max = 1});
  config.Field("postgres.tls", pool.tls);
  config.Field("postgres.verbose", pool.verbose);
  config.Field("postgres.host", pool.host, {.env = "PGHOST"});
  config.Field("postgres.mode", pool.mode, {.one_of = {"transaction", "session"}});
  config.Field("postgres.connect_timeout", pool.connect_timeout, {.min = milliseconds(10), .max = seconds(30)});
  config.Field("postgres.lifetime", pool.lifetime);
  config.Field("postgres.peers", pool.peers);
  config.Field("postgres.password", pool.password, {.env = "PG_PASSWORD"});
}

// The outcome of one reading: the settings, and the message of Finish() or nothing.
struct Reading {
  Pool pool;
  std::string problem;
};

Reading Read(Sources sources) {
  Reading reading;
  Config config(std::move(sources));
  Bind(config, reading.pool);
  if (const auto finished = config.Finish(); !finished) {
    EXPECT_EQ(finished.error().code(), Code::kInvalidArgument);
    reading.problem = finished.error().message();
    EXPECT_EQ(reading.problem.find('\n'), std::string::npos) << reading.problem;
  }
  return reading;
}

TEST(Config, KeepsTheDefaultsWhenNothingIsSaid) {
  const Reading reading = Read({});
  EXPECT_EQ(reading.problem, "");
  EXPECT_EQ(reading.pool.size_max, 25);
  EXPECT_EQ(reading.pool.peers, (std::vector<std::string>{"a", "b"}));
  EXPECT_TRUE(reading.pool.password.empty());
}

TEST(Config, AFlagWinsOverTheEnvironmentOverTheFileOverTheDefault) {
  const TempFile file("postgres:\n  pool_size: 3\n");
  EXPECT_EQ(Read({.args = {"--config", file.path()}}).pool.size_max, 3);
  EXPECT_EQ(Read({.environment = {{"NOVA_CONFIG", file.path()}}}).pool.size_max, 3);
  EXPECT_EQ(
      Read({.args = {"--config=" + file.path()}, .environment = {{"NOVA_POSTGRES_POOL_SIZE", "4"}}}).pool.size_max, 4);
  EXPECT_EQ(Read({.args = {"--config=" + file.path(), "--postgres-pool-size", "5"},
                  .environment = {{"NOVA_POSTGRES_POOL_SIZE", "4"}}})
                .pool.size_max,
            5);
}

TEST(Config, ReadsEveryTypeFromFlags) {
  const Reading reading =
      Read({.args = {"--postgres-bytes-max=123456789012", "--postgres-ratio", "0.25", "--postgres-tls=false",
                     "--postgres-verbose", "--postgres-host=db.example", "--postgres-mode", "session",
                     "--postgres-connect-timeout=250ms", "--postgres-lifetime", "5m", "--postgres-peers=x, y,,z"}});
  EXPECT_EQ(reading.problem, "");
  EXPECT_EQ(reading.pool.bytes_max, 123456789012);
  EXPECT_EQ(reading.pool.ratio, 0.25);
  EXPECT_FALSE(reading.pool.tls);
  EXPECT_TRUE(reading.pool.verbose);
  EXPECT_EQ(reading.pool.host, "db.example");
  EXPECT_EQ(reading.pool.mode, "session");
  EXPECT_EQ(reading.pool.connect_timeout, milliseconds(250));
  EXPECT_EQ(reading.pool.lifetime, seconds(300));
  EXPECT_EQ(reading.pool.peers, (std::vector<std::string>{"x", "y", "z"}));
}

TEST(Config, ReadsEveryTypeFromTheFile) {
  const TempFile file(
      "# a comment\npostgres:\n  bytes_max: 7\n  ratio: 1\n  tls: false\n  host: \"h\"\n  connect_timeout: 2s\n"
      "  lifetime: 1h\n  peers: [p, q]\n");
  const Reading reading = Read({.args = {"--config", file.path()}});
  EXPECT_EQ(reading.problem, "");
  EXPECT_EQ(reading.pool.bytes_max, 7);
  EXPECT_FALSE(reading.pool.tls);
  EXPECT_EQ(reading.pool.host, "h");
  EXPECT_EQ(reading.pool.connect_timeout, seconds(2));
  EXPECT_EQ(reading.pool.lifetime, seconds(3600));
  EXPECT_EQ(reading.pool.peers, (std::vector<std::string>{"p", "q"}));
}

TEST(Config, AnEmptyListIsAnEmptyList) { EXPECT_TRUE(Read({.args = {"--postgres-peers="}}).pool.peers.empty()); }

TEST(Config, TheNamesOfTheFieldCanBeKept) {
  EXPECT_EQ(Read({.environment = {{"PGHOST", "kept"}}}).pool.host, "kept");
  int port = 7400;
  Config config({.args = {"--port-base", "8400"}});
  config.Field("local.port_base", port, {.flag = "port-base"});
  EXPECT_TRUE(config.Finish());
  EXPECT_EQ(port, 8400);
}

TEST(Config, TheLastOfARepeatedFlagCounts) {
  EXPECT_EQ(Read({.args = {"--postgres-pool-size=1", "--postgres-pool-size=2"}}).pool.size_max, 2);
}

TEST(Config, AFlagIsNotTakenForALongerOne) {
  int base = 1;
  int port = 2;
  Config config({.args = {"--port-base", "5"}});
  config.Field("port", port);
  config.Field("port_base", base);
  EXPECT_TRUE(config.Finish());
  EXPECT_EQ(port, 2);
  EXPECT_EQ(base, 5);
}

struct BadCase {
  const char* name;
  std::vector<std::string> args;
  std::map<std::string, std::string> environment;
  const char* message;
};

void PrintTo(const BadCase& bad, std::ostream* out) { *out << bad.name; }

class BadInput : public testing::TestWithParam<BadCase> {};

TEST_P(BadInput, IsReportedAsTheUserWroteIt) {
  const Reading reading = Read({.args = GetParam().args, .environment = GetParam().environment});
  EXPECT_EQ(reading.problem, GetParam().message);
  EXPECT_EQ(reading.pool.size_max, 25) << "an invalid value must not be written";
}

INSTANTIATE_TEST_SUITE_P(
    Config, BadInput,
    testing::Values(
        BadCase{"NotANumber",
                {"--postgres-pool-size", "many"},
                {},
                "--postgres-pool-size must be a whole number from 1 to 1000, not \"many\""},
        BadCase{"TrailingText",
                {},
                {{"NOVA_POSTGRES_POOL_SIZE", "5x"}},
                "NOVA_POSTGRES_POOL_SIZE must be a whole number from 1 to 1000, not \"5x\""},
        BadCase{"Empty",
                {},
                {{"NOVA_POSTGRES_POOL_SIZE", ""}},
                "NOVA_POSTGRES_POOL_SIZE must be a whole number from 1 to 1000, not \"\""},
        BadCase{"TooLarge",
                {"--postgres-pool-size=1001"},
                {},
                "--postgres-pool-size must be a whole number from 1 to 1000, not \"1001\""},
        BadCase{"OverflowsTheType",
                {"--postgres-pool-size=4294967297"},
                {},
                "--postgres-pool-size must be a whole number from 1 to 1000, not \"4294967297\""},
        BadCase{"LargeLimitIsWrittenOut",
                {"--postgres-bytes-max=3000000000000"},
                {},
                "--postgres-bytes-max must be a whole number of at most 2000000000000, not \"3000000000000\""},
        BadCase{
            "NotFinite", {"--postgres-ratio=nan"}, {}, "--postgres-ratio must be a number from 0 to 1, not \"nan\""},
        BadCase{"NotABool", {"--postgres-tls=yes"}, {}, "--postgres-tls must be true or false, not \"yes\""},
        BadCase{"NotOneOf",
                {"--postgres-mode=pool"},
                {},
                "--postgres-mode must be one of transaction, session, not \"pool\""},
        BadCase{"DurationWithoutUnit",
                {"--postgres-connect-timeout=250"},
                {},
                "--postgres-connect-timeout must be a duration from 10ms to 30s (250ms, 2s, 5m, 1h), not \"250\""},
        BadCase{"DurationOutOfRange",
                {"--postgres-connect-timeout=1h"},
                {},
                "--postgres-connect-timeout must be a duration from 10ms to 30s (250ms, 2s, 5m, 1h), not \"1h\""},
        BadCase{"DurationOverflows",
                {"--postgres-lifetime=9223372036854775807h"},
                {},
                "--postgres-lifetime must be a duration of whole seconds (2s, 5m, 1h), not \"9223372036854775807h\""},
        BadCase{"SecondsAreWhole",
                {"--postgres-lifetime=1500ms"},
                {},
                "--postgres-lifetime must be a duration of whole seconds (2s, 5m, 1h), not \"1500ms\""},
        BadCase{"FlagWithoutValue",
                {"--postgres-pool-size"},
                {},
                "--postgres-pool-size needs a value: --postgres-pool-size=VALUE"},
        BadCase{"FlagFollowedByFlag",
                {"--postgres-pool-size", "--postgres-verbose"},
                {},
                "--postgres-pool-size needs a value: --postgres-pool-size=VALUE"},
        BadCase{"UnknownFlag",
                {"--postgres-pool-sise=5"},
                {},
                "--postgres-pool-sise: there is no such flag; did you mean --postgres-pool-size?"},
        BadCase{"UnknownFlagUnlikeAny", {"--zebra"}, {}, "--zebra: there is no such flag; --help lists them"},
        BadCase{"UnknownFlagHidesItsValue",
                {"--postgres-pasword=hunter2"},
                {},
                "--postgres-pasword: there is no such flag; --help lists them"},
        BadCase{"UnknownVariable",
                {},
                {{"NOVA_POSTGRES_POOLSIZE", "5"}},
                "NOVA_POSTGRES_POOLSIZE: there is no such setting; did you mean NOVA_POSTGRES_POOL_SIZE?"},
        BadCase{"UnknownVariableOfADependency",
                {},
                {{"RESILIENCE_POSTGRES_TIMEOUT", "5"}},
                "RESILIENCE_POSTGRES_TIMEOUT: there is no such setting; unset the variable"},
        BadCase{"SwitchTakesNoSecondWord",
                {"--postgres-verbose", "extra"},
                {},
                "\"extra\" is one argument too many; --help shows what is allowed"},
        BadCase{"SecretOnTheCommandLine",
                {"--postgres-password", "hunter2"},
                {},
                "--postgres-password: a secret must not stand on the command line; set PG_PASSWORD, or "
                "PG_PASSWORD_FILE to a file that holds it"},
        BadCase{"SecretTwice",
                {},
                {{"PG_PASSWORD", "x"}, {"PG_PASSWORD_FILE", "/y"}},
                "PG_PASSWORD and PG_PASSWORD_FILE are both set; unset one of them"},
        BadCase{"SecretFileMissing",
                {},
                {{"PG_PASSWORD_FILE", "/no/such/file"}},
                "PG_PASSWORD_FILE: cannot read \"/no/such/file\": No such file or directory"},
        BadCase{"FileMissing",
                {"--config", "/no/such/file"},
                {},
                "--config: cannot read \"/no/such/file\": No such file or directory"},
        BadCase{"FileIsAFolder", {}, {{"NOVA_CONFIG", "/"}}, "NOVA_CONFIG: cannot read \"/\": Is a directory"},
        BadCase{"ControlCharactersStayOutOfTheMessage",
                {"--postgres-pool-size=1\n2"},
                {},
                "--postgres-pool-size must be a whole number from 1 to 1000, not \"1?2\""}),
    [](const auto& info) { return std::string(info.param.name); });

struct BadFile {
  const char* name;
  const char* content;
  const char* message;  // after the file's name
};

void PrintTo(const BadFile& bad, std::ostream* out) { *out << bad.name; }

class BadYaml : public testing::TestWithParam<BadFile> {};

TEST_P(BadYaml, IsReportedWithItsLine) {
  const TempFile file(GetParam().content);
  const Reading reading = Read({.args = {"--config", file.path()}});
  EXPECT_EQ(reading.problem, file.path() + GetParam().message);
  EXPECT_EQ(reading.problem.find("hunter2"), std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(
    Config, BadYaml,
    testing::Values(
        BadFile{"UnknownKey", "postgres:\n  pool_size: 5\n  pol_size: 6\n",
                ":3: postgres.pol_size: there is no such setting; did you mean postgres.pool_size?"},
        BadFile{"UnknownSection", "\nzebra:\n  stripes: 5\n",
                ":3: zebra.stripes: there is no such setting; delete the line"},
        BadFile{"TheFirstLineComesFirst", "zebra: 1\nant: 1\n", ":1: zebra: there is no such setting; delete the line"},
        BadFile{"SectionWithAValue", "postgres: 5\n", ":1: postgres is a section; put its settings beneath it"},
        BadFile{"BadValue", "postgres:\n  pool_size: 0\n",
                ":2: postgres.pool_size must be a whole number from 1 to 1000, not \"0\""},
        BadFile{"ListForANumber", "postgres:\n  pool_size: [1, 2]\n",
                ":2: postgres.pool_size must be a whole number from 1 to 1000, not a list"},
        BadFile{"NoValue", "postgres:\n  pool_size:\n",
                ":2: postgres.pool_size has no value; give it one or delete the line"},
        BadFile{"Twice", "postgres:\n  pool_size: 1\n  pool_size: 2\n",
                ":3: postgres.pool_size stands on line 2 already; delete one of them"},
        BadFile{"ListOfMaps", "postgres:\n  peers: [{a: 1}]\n", ":2: postgres.peers must be a list of plain values"},
        BadFile{"Secret", "postgres:\n  password: hunter2\n",
                ":2: postgres.password: a secret must not stand in the file; set PG_PASSWORD, or PG_PASSWORD_FILE to a "
                "file that holds it"},
        BadFile{"NotAMap", "- a\n- b\n", ": must hold settings as `section:` and `name: value`"},
        BadFile{"NotYaml", "postgres: [1,\n", ":2: is not valid YAML: end of sequence flow not found"}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(Config, AliasesThatMultiplyAreEnded) {
  std::string bomb = "a0: &a0 {x: 1, y: 1}\n";
  for (int i = 1; i < 14; ++i) {
    const std::string before = "*a" + std::to_string(i - 1);
    bomb += "a" + std::to_string(i) + ": &a" + std::to_string(i) + " {p: " + before + ", q: " + before +
            ", r: " + before + "}\n";
  }
  const TempFile file(bomb);
  const Reading reading = Read({.args = {"--config", file.path()}});
  EXPECT_EQ(reading.problem, file.path() + ": holds more than 4096 settings");
}

TEST(Config, AnEmptyFileOrSectionSaysNothing) {
  const TempFile empty("");
  EXPECT_EQ(Read({.args = {"--config", empty.path()}}).problem, "");
  const TempFile section("postgres:\n  # pool_size: 5\n");
  EXPECT_EQ(Read({.args = {"--config", section.path()}}).problem, "");
}

TEST(Config, ASecretComesFromItsVariableOrItsFile) {
  EXPECT_EQ(Read({.environment = {{"PG_PASSWORD", "hunter2"}}}).pool.password.Expose(), "hunter2");
  const TempFile file("hunter3\n");
  EXPECT_EQ(Read({.environment = {{"PG_PASSWORD_FILE", file.path()}}}).pool.password.Expose(), "hunter3");
}

TEST(Config, AnEmptySecretIsRefused) {
  const TempFile file("\n");
  EXPECT_EQ(Read({.environment = {{"PG_PASSWORD_FILE", file.path()}}}).problem,
            "PG_PASSWORD_FILE holds an empty secret; set PG_PASSWORD, or PG_PASSWORD_FILE to a file that holds it");
}

TEST(Config, ASecretFileThatNeverEndsIsRefused) {
  EXPECT_EQ(Read({.environment = {{"PG_PASSWORD_FILE", "/dev/zero"}}}).problem,
            "PG_PASSWORD_FILE: cannot read \"/dev/zero\": larger than 65536 bytes");
}

TEST(Config, SettingsOfOthersAreNoMistakes) {
  struct Gateway {
    int port = 8080;
  } gateway;
  Config all({});
  all.Field("gateway.port", gateway.port);
  const TempFile file("gateway:\n  port: 1\n");
  Pool pool;
  Config config({.args = {"--config", file.path()}, .environment = {{"NOVA_GATEWAY_PORT", "2"}, {"NOVA_HOME", "/x"}}});
  config.KnowKeys(all.keys());
  config.KnowEnvironment(all.environment_names());
  config.KnowEnvironment({"NOVA_HOME"});
  Bind(config, pool);
  const auto finished = config.Finish();
  EXPECT_TRUE(finished) << finished.error().message();
}

TEST(Config, ASectionGivenAsAValueIsAMistakeAlsoWhenOthersHaveThatSection) {
  Pool pool;
  Config all({});
  Bind(all, pool);
  const TempFile file("postgres: identity\n");
  Config config({.args = {"--config", file.path()}});
  config.KnowKeys(all.keys());
  Bind(config, pool);
  const auto finished = config.Finish();
  ASSERT_FALSE(finished);
  EXPECT_EQ(finished.error().message(), file.path() + ":1: postgres is a section; put its settings beneath it");
}

TEST(Config, ARequiredSettingIsAskedForByAllItsNames) {
  std::string url;
  Config config({});
  config.Field("postgres.url", url, {.required = true});
  const auto finished = config.Finish();
  ASSERT_FALSE(finished);
  EXPECT_EQ(finished.error().message(),
            "postgres.url is not set; give --postgres-url, NOVA_POSTGRES_URL, or postgres.url in the file of --config");
}

TEST(Config, AMisspeltFlagIsReportedRatherThanTheSettingItShouldHaveSet) {
  std::string url;
  Config config({.args = {"--postgres-ulr", "x"}});
  config.Field("postgres.url", url, {.required = true});
  const auto finished = config.Finish();
  ASSERT_FALSE(finished);
  EXPECT_EQ(finished.error().message(), "--postgres-ulr: there is no such flag; did you mean --postgres-url?");
}

TEST(Config, ASharedKeyMayBeBoundTwice) {
  int first = 1;
  int second = 2;
  Config config({.args = {"--pool-size", "9"}});
  config.Field("pool_size", first);
  config.Field("pool_size", second);
  EXPECT_TRUE(config.Finish());
  EXPECT_EQ(first, 9);
  EXPECT_EQ(second, 9);
}

TEST(Positional, IsWrittenAtOnceSoThatItCanDecideWhatIsBound) {
  std::string service;
  Config config({.args = {"identity", "--port", "5"}});
  config.Positional("service", service, {.required = true});
  EXPECT_EQ(service, "identity");
  int port = 0;
  config.Field("port", port);
  EXPECT_TRUE(config.Finish());
  EXPECT_EQ(port, 5);
}

TEST(Positional, WaitsForTheFlagsWhenItFollowsOneThatIsNotBoundYet) {
  std::string service;
  std::string second;
  int port = 0;
  Config config({.args = {"--port", "5", "identity", "more"}});
  config.Positional("service", service, {.required = true});
  config.Positional("second", second);
  EXPECT_EQ(service, "");
  config.Field("port", port);
  EXPECT_TRUE(config.Finish());
  EXPECT_EQ(service, "identity");
  EXPECT_EQ(second, "more");
  EXPECT_EQ(port, 5);
}

TEST(Positional, AllIsPositionalBehindTwoHyphens) {
  std::string name;
  Config config({.args = {"--", "--odd"}});
  config.Positional("name", name);
  EXPECT_TRUE(config.Finish());
  EXPECT_EQ(name, "--odd");
}

TEST(Positional, MissingAndTooManyAreReported) {
  std::string name;
  Config missing({});
  missing.Positional("service", name, {.required = true});
  const auto without = missing.Finish();
  ASSERT_FALSE(without);
  EXPECT_EQ(without.error().message(), "<service> is missing; --help shows how to write it");

  Config many({.args = {"a", "b"}});
  many.Positional("service", name, {.required = true});
  const auto with = many.Finish();
  ASSERT_FALSE(with);
  EXPECT_EQ(with.error().message(), "\"b\" is one argument too many; --help shows what is allowed");
}

TEST(Help, ListsWhatIsBoundAndNeverASecret) {
  Pool pool;
  std::string service;
  Config config({.args = {"--help"}, .environment = {{"PG_PASSWORD", "hunter2"}}});
  EXPECT_TRUE(config.help_requested());
  config.Positional("service", service, {.help = "which one", .required = true});
  Bind(config, pool);
  const std::string help = config.Help("nova serve <service> [settings]", "Runs one service.");
  EXPECT_TRUE(help.starts_with("usage: nova serve <service> [settings]\nRuns one service.\n")) << help;
  EXPECT_NE(help.find("  <service>  which one\n"), std::string::npos) << help;
  EXPECT_NE(help.find("  --postgres-pool-size N "), std::string::npos) << help;
  EXPECT_NE(help.find("NOVA_POSTGRES_POOL_SIZE"), std::string::npos) << help;
  EXPECT_NE(help.find("server connections, at most\n"), std::string::npos) << help;
  EXPECT_NE(help.find("transaction|session"), std::string::npos) << help;
  EXPECT_NE(help.find("1h"), std::string::npos) << help;
  EXPECT_NE(help.find("PG_PASSWORD_FILE"), std::string::npos) << help;
  EXPECT_EQ(help.find("hunter2"), std::string::npos) << help;
  EXPECT_EQ(help.find("--postgres-password"), std::string::npos) << help;
}

TEST(Sources, FromProcessTakesTheEnvironmentAndTheArguments) {
  ASSERT_EQ(::setenv("CONFIG_TEST_VARIABLE", "a=b", 1), 0);
  const char* const argv[] = {"identity", "--x"};
  const Sources sources = Sources::FromProcess(2, argv);
  EXPECT_EQ(sources.args, (std::vector<std::string>{"identity", "--x"}));
  EXPECT_EQ(sources.environment.at("CONFIG_TEST_VARIABLE"), "a=b");
}

}  // namespace
}  // namespace nova::config
