// What do log-in and refresh cost? A real `nova serve identity`, a process of its own over PgBouncer, PostgreSQL and
// Redis, called over mTLS as the gateway would. Its CPU is what that process used from the first call until it was at
// rest again, relaying of events included; the kinds of calls take turns within every round. Latencies are of all calls
// of all rounds, the rest are medians of rounds.
#include <algorithm>
#include <atomic>
#include <boost/json.hpp>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <unistd.h>
#include <vector>

#include "api/identity/v2/identity.nova.h"
#include "app/migration.h"
#include "bench/measure.h"
#include "local/process.h"
#include "local/readiness.h"
#include "nova/auth/keys.h"
#include "nova/auth/password.h"
#include "nova/config/config.h"
#include "nova/postgres/pool.h"
#include "nova/rpc/client.h"
#include "nova/rpc/grpc_log.h"
#include "nova/runtime/runtime.h"
#include "nova/telemetry/log.h"
#include "nova/telemetry/metrics.h"
#include "nova/tls/protocol.h"
#include "tests/mtls_fixture.h"
#include "tests/postgres_fixture.h"
#include "tests/redis_fixture.h"

namespace nova::bench {
namespace {

using identity::v2::IdentityServiceMethods;
using runtime::Call;
using runtime::Task;
using Seconds = std::chrono::duration<double>;

constexpr const char* kService = "identity";
// In flight, besides one.
constexpr int kLanes = 8;
// As in the topology of `nova up`.
constexpr int kDatabaseConnections = 15;
constexpr const char* kPassword = "correct horse battery staple";
// What takes longer is broken.
constexpr std::chrono::seconds kReadyLimit{20};
constexpr std::chrono::seconds kLimit{120};
constexpr std::chrono::seconds kStopLimit{20};
// Between two looks whether the service is at rest.
constexpr std::chrono::milliseconds kLookInterval{10};
// How long it is watched doing nothing.
constexpr std::chrono::seconds kIdle{2};

constexpr postgres::Statement kIsPending{"bench_is_pending",
                                         "SELECT EXISTS (SELECT FROM events.outbox WHERE published_at IS NULL)"};

struct Options {
  int rounds = 5;
  int calls = 400;
  int hashes = 40;
  bool durable = true;
  bool json = false;
};

// `nova serve identity`, of the build that this program is of.
class IdentityProcess {
 public:
  explicit IdentityProcess(tests::MtlsFixture& mtls) {
    auto& postgres = tests::PostgresFixture::Instance();
    postgres.CreateDatabase(kService, kDatabaseConnections);
    OrThrow(app::MigrateService(kService, postgres.Direct(kService)));
    const auto nova = std::filesystem::read_symlink("/proc/self/exe").parent_path().parent_path() / "nova";
    port_ = tests::FreePort();
    admin_port_ = tests::FreePort();
    process_ = OrThrow(local::Process::Spawn({.name = kService,
                                              .program = nova,
                                              .title = "nova",
                                              .arguments = {"serve", kService},
                                              .environment = Environment(mtls),
                                              .log_file = mtls.directory() / "identity.log"}));
    local::ReadinessProbe probe;
    const SteadyTime until = Clock::System().Now() + kReadyLimit;
    for (;;) {
      const Result<void> ready = probe.Check(admin_port_, kReadyLimit);
      if (ready) return;
      if (!process_.Running() || Clock::System().Now() > until)
        throw std::runtime_error("identity does not become ready; " + LastLine(mtls));
    }
  }
  ~IdentityProcess() { (void)process_.Terminate({{SIGTERM, kStopLimit}}); }
  IdentityProcess(const IdentityProcess&) = delete;
  IdentityProcess& operator=(const IdentityProcess&) = delete;

  pid_t pid() const { return process_.pid(); }
  std::string target() const { return "127.0.0.1:" + std::to_string(port_); }

 private:
  // As `nova up` sets it, where the settings are not the defaults.
  std::map<std::string, std::string> Environment(tests::MtlsFixture& mtls) const {
    const auto database = tests::PostgresFixture::Instance().Pooled(kService);
    const auto redis = tests::RedisFixture::Instance().Client(kService);
    const auto leaf = mtls.Leaf(kService);
    const auto key = OrThrow(auth::SigningKey::Generate(auth::Algorithm::kEdDsa));
    return {{"APP_ENV", "development"},
            {"GRPC_SERVER_CERT_PATH", leaf / "tls.crt"},
            {"GRPC_SERVER_KEY_PATH", leaf / "tls.key"},
            {"GRPC_CLIENT_CA_CERT_PATH", leaf / "ca.crt"},
            {"GRPC_SERVER_CA_CERT_PATH", leaf / "ca.crt"},
            {"GRPC_CLIENT_CERT_PATH", leaf / "tls.crt"},
            {"GRPC_CLIENT_KEY_PATH", leaf / "tls.key"},
            {"NOVA_GRPC_ADDRESS", "127.0.0.1"},
            {"NOVA_GRPC_PORT", std::to_string(port_)},
            {"NOVA_ADMIN_ADDRESS", "127.0.0.1"},
            {"NOVA_ADMIN_PORT", std::to_string(admin_port_)},
            {"NOVA_POSTGRES_HOST", database.host},
            {"NOVA_POSTGRES_PORT", std::to_string(database.port)},
            {"NOVA_POSTGRES_DATABASE", database.database},
            {"NOVA_POSTGRES_USER", database.user},
            {"NOVA_POSTGRES_PASSWORD", database.password.Expose()},
            {"NOVA_POSTGRES_SSL_ROOT_CERT", database.ssl_root_cert},
            {"NOVA_REDIS_HOST", redis.host},
            {"NOVA_REDIS_PORT", std::to_string(redis.port)},
            {"NOVA_REDIS_USER", redis.user},
            {"NOVA_REDIS_PASSWORD", redis.password.Expose()},
            {"NOVA_REDIS_CA_PATH", redis.ca_path},
            {"NOVA_REDIS_SERVER_NAME", redis.server_name},
            {"NOVA_AUTH_JWT_SIGNING_KEY", OrThrow(key.ToPem()).Expose()},
            {"NOVA_AUTH_JWT_ALGORITHM", std::string(auth::AlgorithmName(auth::Algorithm::kEdDsa))}};
  }

  static std::string LastLine(tests::MtlsFixture& mtls) {
    const auto log = local::ReadFile(mtls.directory() / "identity.log");
    if (!log || log->empty()) return "its log is empty";
    const std::string text = log->substr(0, log->find_last_not_of('\n') + 1);
    return "its last words: " + text.substr(text.rfind('\n') + 1);
  }

  int port_ = 0;
  int admin_port_ = 0;
  local::Process process_;
};

// Somebody who is logged in. Used by one lane at a time.
struct User {
  std::string username;
  std::string access_token;
  std::string refresh_token;
  std::string device_token;
};

enum class Kind : std::uint8_t { kVerifyToken, kRefreshToken, kLogin, kRegister, kArgon2id };

struct Figures {
  double per_second = 0;
  std::vector<double> latencies_ms;
  Cpu cpu_ms;  // per call
};

class Bench {
 public:
  explicit Bench(const Options& options)
      : servers_(options.durable),
        identity_(mtls_),
        database_(runtime_, metrics_, postgres_,
                  {.connection = tests::PostgresFixture::Instance().Direct(kService), .size_max = 1}),
        client_(metrics_, identity_peer_, {.principal = kService, .target = identity_.target()},
                mtls_.ChannelIdentity("gateway")),
        hasher_(OrThrow(auth::PasswordHasher::Create({.threads = 1}, metrics_))) {
    RunLanes(runtime_, kLanes, [this](Call& call, int lane) -> Task<void> {
      // Sessions that are carried on are not those that log-ins crowd out.
      for (std::vector<User>* users : {&refreshing_, &logging_in_}) {
        User& user = (*users)[static_cast<std::size_t>(lane)];
        NOVA_CO_TRY(user.username, co_await Register(call));
        NOVA_CO_TRY(co_await LogIn(call, user));
      }
      co_return Ok();
    });
    hash_ = OrThrow(runtime_.RunBlocking<std::string>(
        kLimit, [this](Call& call) { return hasher_->Hash(call, Secret<>(kPassword)); }));
    AwaitRest();
  }
  ~Bench() { (void)database_.Close(kStopLimit); }

  // A closed loop: `in_flight` calls at any time, each answer starting the next.
  Figures Measure(Kind kind, int in_flight, int calls) {
    Figures figures;
    std::mutex mutex;
    std::atomic<int> left = calls;
    const bool here = kind == Kind::kArgon2id;
    const Cpu before = servers_.CpuOf(here ? getpid() : identity_.pid());
    const SteadyTime begin = Clock::System().Now();
    RunLanes(runtime_, in_flight, [&](Call& call, int lane) -> Task<void> {
      std::vector<double> latencies;
      while (left.fetch_sub(1) > 0) {
        Call limited(call, kLimit);
        const SteadyTime asked = Clock::System().Now();
        NOVA_CO_TRY(co_await Do(limited, kind, static_cast<std::size_t>(lane)));
        latencies.push_back(std::chrono::duration<double, std::milli>(Clock::System().Now() - asked).count());
      }
      std::lock_guard lock(mutex);
      figures.latencies_ms.insert(figures.latencies_ms.end(), latencies.begin(), latencies.end());
      co_return Ok();
    });
    const Seconds wall = Clock::System().Now() - begin;
    AwaitRest();
    const Cpu cpu = servers_.CpuOf(here ? getpid() : identity_.pid()) - before;
    figures.per_second = calls / wall.count();
    figures.cpu_ms = cpu / (calls * 1e-3);
    return figures;
  }

  // CPU in milliseconds per second, of a service that nobody calls.
  Cpu MeasureIdle() {
    const Cpu before = servers_.CpuOf(identity_.pid());
    OrThrow(runtime_.RunBlocking<void>(kLimit, [](Call& call) { return runtime::Sleep(call, kIdle); }));
    return (servers_.CpuOf(identity_.pid()) - before) / (Seconds(kIdle).count() * 1e-3);
  }

 private:
  Task<void> Do(Call& call, Kind kind, std::size_t lane) {
    switch (kind) {
      case Kind::kVerifyToken:
        co_return co_await VerifyToken(call, refreshing_[lane]);
      case Kind::kRefreshToken:
        co_return co_await Refresh(call, refreshing_[lane]);
      case Kind::kLogin:
        co_return co_await LogIn(call, logging_in_[lane]);
      case Kind::kRegister: {
        NOVA_CO_TRY(const std::string username, co_await Register(call));
        co_return Ok();
      }
      case Kind::kArgon2id: {
        NOVA_CO_TRY(const bool right, co_await hasher_->Verify(call, hash_, Secret<>(kPassword)));
        if (!right) co_return Internal("argon2id does not know its own hash");
        co_return Ok();
      }
    }
    co_return Internal("unknown kind");
  }

  Task<std::string> Register(Call& call) {
    const std::string username = "bench" + std::to_string(registered_++);
    identity::v2::RegisterRequest request;
    request.set_email(username + "@example.com");
    request.set_username(username);
    request.set_password(kPassword);
    request.set_idempotency_key(Uuid::New().ToString());
    NOVA_CO_TRY(const auto response, co_await client_.Invoke(call, IdentityServiceMethods::kRegister, request));
    if (response.account().username() != username) co_return Internal("an account of another name was made");
    co_return username;
  }

  Task<void> LogIn(Call& call, User& user) {
    identity::v2::LoginRequest request;
    request.set_identifier(user.username);
    request.set_password(kPassword);
    request.set_device_name("bench");
    request.set_device_token(user.device_token);
    NOVA_CO_TRY(const auto response, co_await client_.Invoke(call, IdentityServiceMethods::kLogin, request));
    user.access_token = response.access_token();
    user.refresh_token = response.refresh_token();
    user.device_token = response.device_token();
    co_return Ok();
  }

  Task<void> Refresh(Call& call, User& user) {
    identity::v2::RefreshTokenRequest request;
    request.set_refresh_token(user.refresh_token);
    NOVA_CO_TRY(const auto response, co_await client_.Invoke(call, IdentityServiceMethods::kRefreshToken, request));
    if (response.refresh_token() == user.refresh_token) co_return Internal("the refresh token was not replaced");
    user.access_token = response.access_token();
    user.refresh_token = response.refresh_token();
    co_return Ok();
  }

  Task<void> VerifyToken(Call& call, const User& user) {
    identity::v2::VerifyTokenRequest request;
    request.set_access_token(user.access_token);
    NOVA_CO_TRY(const auto response, co_await client_.Invoke(call, IdentityServiceMethods::kVerifyToken, request));
    if (response.account_id().empty()) co_return Internal("a token of nobody was verified");
    co_return Ok();
  }

  // Returns when all events are published.
  void AwaitRest() {
    OrThrow(runtime_.RunBlocking<void>(kLimit, [this](Call& call) -> Task<void> {
      for (;;) {
        NOVA_CO_TRY(const postgres::Rows rows, co_await database_.Query(call, kIsPending));
        NOVA_CO_TRY(const bool pending, rows[0].Get<bool>(0));
        if (!pending) co_return Ok();
        NOVA_CO_TRY(co_await runtime::Sleep(call, kLookInterval));
      }
    }));
  }

  const Servers servers_;
  tests::MtlsFixture mtls_;
  const IdentityProcess identity_;
  telemetry::Metrics metrics_;
  runtime::Runtime runtime_;
  resilience::DatabaseDependency postgres_{"postgres", metrics_};
  resilience::PeerDependency identity_peer_{"identity", metrics_};
  postgres::Pool database_;
  rpc::Client client_;
  const std::unique_ptr<auth::PasswordHasher> hasher_;
  std::string hash_;
  std::atomic<int> registered_ = 0;
  // One for each lane.
  std::vector<User> refreshing_{kLanes};
  std::vector<User> logging_in_{kLanes};
};

// A row of the table.
struct Row {
  const char* name;
  Kind kind;
  int in_flight;
  std::vector<Figures> rounds = {};

  void Print(boost::json::array& json) const {
    const auto median = [this](auto field) {
      std::vector<double> values;
      for (const Figures& round : rounds) values.push_back(field(round));
      return Median(values);
    };
    std::vector<double> latencies;
    for (const Figures& round : rounds)
      latencies.insert(latencies.end(), round.latencies_ms.begin(), round.latencies_ms.end());
    std::ranges::sort(latencies);
    const double per_second = median([](const Figures& round) { return round.per_second; });
    const double p50 = Percentile(latencies, 0.5);
    const double p99 = Percentile(latencies, 0.99);
    const Cpu cpu{.nova = median([](const Figures& round) { return round.cpu_ms.nova; }),
                  .postgres = median([](const Figures& round) { return round.cpu_ms.postgres; }),
                  .pgbouncer = median([](const Figures& round) { return round.cpu_ms.pgbouncer; }),
                  .redis = median([](const Figures& round) { return round.cpu_ms.redis; })};
    std::printf("%-14s %9d %7zu %9.0f %8.2f %8.2f   ", name, in_flight, latencies.size(), per_second, p50, p99);
    boost::json::object object{{"case", name},
                               {"in_flight", in_flight},
                               {"calls", latencies.size()},
                               {"calls_per_second", per_second},
                               {"p50_ms", p50},
                               {"p99_ms", p99},
                               {"cpu_ms_per_call", {{"identity", cpu.nova}}}};
    if (kind == Kind::kArgon2id) {
      std::printf("%8.3f %9s %9s %7s\n", cpu.nova, "-", "-", "-");
    } else {
      std::printf("%8.3f %9.3f %9.3f %7.3f\n", cpu.nova, cpu.postgres, cpu.pgbouncer, cpu.redis);
      auto& object_cpu = object["cpu_ms_per_call"].as_object();
      object_cpu["postgres"] = cpu.postgres;
      object_cpu["pgbouncer"] = cpu.pgbouncer;
      object_cpu["redis"] = cpu.redis;
    }
    json.push_back(std::move(object));
  }
};

int Run(const Options& options) {
  Bench bench(options);
  std::printf("identity over mTLS, PgBouncer, PostgreSQL (fsync %s) and Redis; %d interleaved rounds\n",
              options.durable ? "on" : "off", options.rounds);
  std::fflush(stdout);
  std::vector<Row> rows;
  for (const int in_flight : {1, kLanes}) {
    rows.push_back({"VerifyToken", Kind::kVerifyToken, in_flight});
    rows.push_back({"RefreshToken", Kind::kRefreshToken, in_flight});
    rows.push_back({"Login", Kind::kLogin, in_flight});
    rows.push_back({"Register", Kind::kRegister, in_flight});
  }
  rows.push_back({"argon2id alone", Kind::kArgon2id, 1});
  // The first round warms up.
  for (int round = -1; round < options.rounds; ++round) {
    for (Row& row : rows) {
      const bool cheap = row.kind == Kind::kVerifyToken || row.kind == Kind::kRefreshToken;
      const int calls = cheap ? options.calls : options.hashes;
      Figures figures = bench.Measure(row.kind, row.in_flight, round < 0 ? std::min(calls, kLanes) : calls);
      if (round >= 0) row.rounds.push_back(std::move(figures));
    }
  }
  const Cpu at_rest = bench.MeasureIdle();
  boost::json::array json;
  std::printf("\n%-14s %9s %7s %9s %8s %8s   %-37s\n", "", "", "", "", "", "", "CPU ms/call");
  std::printf("%-14s %9s %7s %9s %8s %8s   %8s %9s %9s %7s\n", "", "in flight", "calls", "calls/s", "p50 ms", "p99 ms",
              "identity", "postgres", "pgbouncer", "redis");
  for (const Row& row : rows) row.Print(json);
  std::printf(
      "\nLogin and Register compute one argon2id hash each, on half of the cores; \"argon2id alone\" is that "
      "computation in\nthis process, its CPU under identity. Logins come from a known device.\n"
      "CPU: of each process, until all events of the calls were published; figures include what it does at rest: "
      "identity %.1f,\npostgres %.1f, pgbouncer %.1f, redis %.1f ms per second.\n",
      at_rest.nova, at_rest.postgres, at_rest.pgbouncer, at_rest.redis);
  if (options.json) std::printf("%s\n", boost::json::serialize(json).c_str());
  return 0;
}

}  // namespace
}  // namespace nova::bench

int main(int argc, char** argv) {
  nova::bench::Options options;
  // Settings of the product are no business of a benchmark.
  nova::config::Config config({.args = {argv + 1, argv + argc}, .environment = {}});
  config.Field("bench.rounds", options.rounds, {.help = "rounds counted", .flag = "rounds", .min = 1, .max = 100});
  config.Field("bench.calls", options.calls,
               {.help = "calls of each kind and round that compute no password", .flag = "calls", .min = 10});
  config.Field("bench.hashes", options.hashes,
               {.help = "calls of each kind and round that do", .flag = "hashes", .min = 10});
  config.Field("bench.durable", options.durable,
               {.help = "make PostgreSQL and Redis wait for the disk, as in production", .flag = "durable"});
  config.Field("bench.json", options.json, {.help = "print the figures as JSON, last", .flag = "json"});
  if (config.help_requested()) {
    std::fputs(config.Help("./dev bench identity", "What log-in and refresh cost, in time and CPU.").c_str(), stdout);
    return 0;
  }
  if (const auto finished = config.Finish(); !finished) {
    std::fprintf(stderr, "bench_identity: %s\n", finished.error().message().c_str());
    return 2;
  }
  std::signal(SIGPIPE, SIG_IGN);
  nova::rpc::LogGrpcThroughTelemetry();
  nova::telemetry::InitLogging({.level = nova::telemetry::Level::kWarn,
                                .service = "bench_identity",
                                .format = nova::telemetry::LogFormat::kText});
  try {
    nova::bench::OrThrow(nova::tls::RequireTls13());
    return nova::bench::Run(options);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_identity: %s\n", error.what());
    return 1;
  }
}
