// What becomes of a server that is offered more than it can do? Two servers, with the limiter and without, each pinned
// to one core; their load comes from another, at a fixed rate, whatever becomes of the calls before (open loop). Each
// handler awaits a while, then burns a fixed amount of CPU. The servers take turns at every rate and in every round.
//
// Goodput is what was answered in a second, in time. Latency counts from when a call was due, so that a generator that
// falls behind cannot flatter the server; that of a call which missed its deadline counts too.
#include <algorithm>
#include <array>
#include <atomic>
#include <boost/json.hpp>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <sched.h>
#include <stdexcept>
#include <string>
#include <sys/prctl.h>
#include <time.h>
#include <vector>

#include "bench/server_process.h"
#include "nova/config/config.h"
#include "nova/rpc/server.h"
#include "nova/runtime/runtime.h"
#include "nova/telemetry/log.h"
#include "tests/load.grpc.pb.h"
#include "tests/load.nova.h"
#include "tests/mtls_fixture.h"

namespace nova::bench {
namespace {

using tests::LoadRequest;
using tests::LoadResponse;
using Milliseconds = std::chrono::duration<double, std::milli>;

constexpr int kServerCore = 0;
constexpr int kLoadCore = 1;
// Of the capacity.
constexpr std::array kRates = {0.25, 0.5, 0.75, 0.9, 1.0, 1.25, 1.5, 2.0, 3.0};
// gRPC gives a connection 1000 calls at once; a server without limiter gets more.
constexpr int kConnections = 4;
// In the closed loop that finds the capacity: enough to keep the core busy.
constexpr int kClosedLoop = 8;

struct Options {
  int rounds = 3;
  std::chrono::milliseconds length{2'000};
  std::chrono::milliseconds settle{1'000};
  std::chrono::milliseconds deadline{1'000};
  int wait_us = 1'000;
  int work_us = 1'000;
  bool json = false;
  std::string server;
  std::string certificates;
};

// --- The server. ---

// CPU time of this thread, so that a turn on the core that somebody else took does not count.
void Burn(std::uint32_t microseconds) {
  const auto now = [] {
    timespec time{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
  };
  const auto end = now() + std::chrono::microseconds(microseconds);
  // The clock is a system call: it is asked every few microseconds only.
  for (volatile std::uint32_t state = 1; now() < end;) {
    for (int i = 0; i < 2'000; ++i) state = state * 1'664'525U + 1'013'904'223U;
  }
}

int RunServer(const std::string& kind, const std::string& certificates) {
  using runtime::Call;
  using runtime::Task;
  using Methods = tests::LoadServiceMethods;
  telemetry::InitLogging({.level = telemetry::Level::kError, .service = "bench"});
  tests::MtlsFixture mtls{std::filesystem::path(certificates)};
  runtime::Runtime runtime({.threads = 1});  // it has one core
  telemetry::Metrics metrics;
  rpc::ServerConfig config{.address = "127.0.0.1", .port = 0};
  if (kind == "without") config.overload.initial = config.overload.min = config.overload.max = 1'000'000;
  rpc::Server server(runtime, metrics, config, {.credentials = mtls.ServerCredentials("echo"), .stack = {}});

  const auto load = [](Call& call, const LoadRequest& request) -> Task<LoadResponse> {
    NOVA_CO_TRY(co_await runtime::Sleep(call, std::chrono::microseconds(request.wait_us())));
    Burn(request.work_us());
    co_return LoadResponse();
  };
  rpc::Service service(Methods::kService);
  service.Handle(Methods::kCritical, load);
  service.Handle(Methods::kHigh, load);
  service.Handle(Methods::kNormal, load);
  service.Handle(Methods::kLow, load);
  service.Handle(Methods::kStream, [](Call&, const LoadRequest&, rpc::Writer<LoadResponse>&) -> Task<void> {
    co_return FailedPrecondition("not part of this bench");
  });
  server.Add(std::move(service));
  if (const auto started = server.Start(); !started) {
    std::fprintf(stderr, "%s\n", started.error().ToString().c_str());
    return 3;
  }
  ServeUntilStdinEnds(server.port());
  return 0;
}

// --- The load. ---

struct Figures {
  Seconds time{};
  int answered = 0;  // within the time, whenever it was due; the others are of the calls due then
  int offered = 0;
  int shed = 0;
  int late = 0;
  int failed = 0;
  Seconds cpu{};
  std::vector<double> latencies_ms;  // of what was admitted

  double Offered() const { return offered / time.count(); }
  double Goodput() const { return answered / time.count(); }
  double ShedPercent() const { return 100.0 * shed / std::max(1, offered); }
  double LatePercent() const { return 100.0 * late / std::max(1, offered); }
  double CpuPercent() const { return 100 * cpu / time; }
  double P50() const { return Percentile(0.5); }
  double P99() const { return Percentile(0.99); }
  double Percentile(double share) const {
    if (latencies_ms.empty()) return 0;
    auto sorted = latencies_ms;
    std::ranges::sort(sorted);
    return sorted[static_cast<std::size_t>(share * static_cast<double>(sorted.size() - 1))];
  }
};

class Peer {
 public:
  Peer(const std::string& kind, tests::MtlsFixture& mtls, const Options& options)
      : options_(options),
        process_({"--server", kind, "--certificates", mtls.directory().string()}, kServerCore),
        identity_(mtls.ChannelIdentity("gateway")) {
    const auto credentials = identity_.For("echo");
    for (int i = 0; i < kConnections; ++i) {
      grpc::ChannelArguments arguments;
      credentials.ApplyTo(arguments);
      arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
      auto channel =
          grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(process_.port()), credentials.credentials, arguments);
      if (!channel->WaitForConnected(std::chrono::system_clock::now() + std::chrono::seconds(10)))
        throw std::runtime_error("no connection to the server '" + kind + "'");
      stubs_.push_back(tests::LoadService::NewStub(channel));
    }
    request_.set_wait_us(static_cast<std::uint32_t>(options.wait_us));
    request_.set_work_us(static_cast<std::uint32_t>(options.work_us));
  }

  // `per_second` calls at random moments; those due within `settle` of the start do not count.
  Figures OpenLoop(double per_second, std::mt19937_64& random) {
    std::exponential_distribution<double> pause(per_second);
    const auto begin = std::chrono::steady_clock::now();
    const auto counted = begin + options_.settle;
    const auto end = counted + options_.length;
    counted_ = counted;
    end_ = end;
    Seconds cpu_before{-1};
    figures_ = {.time = options_.length};
    auto due = begin;
    for (;;) {
      due += std::chrono::duration_cast<std::chrono::nanoseconds>(Seconds(pause(random)));
      if (due >= end) break;
      WaitUntil(due);
      if (due >= counted && cpu_before.count() < 0) cpu_before = process_.Cpu();
      Begin(due);
    }
    WaitUntil(end);
    const Seconds cpu = process_.Cpu() - cpu_before;
    Drain();
    figures_.cpu = cpu;
    return figures_;
  }

  // Answered calls in a second, at full load.
  double Capacity() {
    constexpr std::chrono::seconds kLength{2};
    int done = 0;
    for (const bool counts : {false, true}) {
      const auto end = std::chrono::steady_clock::now() + (counts ? kLength : std::chrono::seconds(1));
      while (std::chrono::steady_clock::now() < end) {
        std::unique_lock lock(mutex_);
        ended_.wait(lock, [this] { return open_ < kClosedLoop; });
        lock.unlock();
        Begin(std::chrono::steady_clock::now());
        done += counts ? 1 : 0;
      }
    }
    Drain();
    return static_cast<double>(done) / kLength.count();
  }

 private:
  struct Attempt {
    grpc::ClientContext context;
    LoadResponse response;
  };

  static void WaitUntil(std::chrono::steady_clock::time_point due) {
    const auto since_boot = due.time_since_epoch();
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(since_boot);
    const timespec until{.tv_sec = seconds.count(), .tv_nsec = (since_boot - seconds).count()};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, nullptr) == EINTR) {
    }
  }

  void Begin(std::chrono::steady_clock::time_point due) {
    {
      std::lock_guard lock(mutex_);
      ++open_;
    }
    auto* const attempt = new Attempt;
    attempt->context.set_deadline(std::chrono::system_clock::now() + options_.deadline);
    auto& stub = *stubs_[next_++ % stubs_.size()];
    stub.async()->Normal(&attempt->context, &request_, &attempt->response,
                         [this, attempt, due](const grpc::Status& status) {
                           const auto now = std::chrono::steady_clock::now();
                           delete attempt;
                           std::lock_guard lock(mutex_);
                           --open_;
                           ended_.notify_all();
                           if (status.ok() && now >= counted_ && now < end_) ++figures_.answered;
                           if (due >= counted_) Count(status.error_code(), now - due);
                         });
  }

  // With mutex_ held.
  void Count(grpc::StatusCode code, Milliseconds took) {
    ++figures_.offered;
    if (code == grpc::RESOURCE_EXHAUSTED) {
      ++figures_.shed;
      return;
    }
    figures_.latencies_ms.push_back(took.count());
    if (code == grpc::DEADLINE_EXCEEDED) {
      ++figures_.late;
    } else if (code != grpc::OK) {
      ++figures_.failed;
    }
  }

  void Drain() {
    std::unique_lock lock(mutex_);
    ended_.wait(lock, [this] { return open_ == 0; });
  }

  const Options& options_;
  ServerProcess process_;
  tls::ChannelIdentity identity_;
  std::vector<std::unique_ptr<tests::LoadService::Stub>> stubs_;
  LoadRequest request_;
  std::size_t next_ = 0;
  // What counts; changed while no call is open.
  std::chrono::steady_clock::time_point counted_ = std::chrono::steady_clock::time_point::max();
  std::chrono::steady_clock::time_point end_;
  std::mutex mutex_;
  std::condition_variable ended_;
  int open_ = 0;     // guarded by mutex_
  Figures figures_;  // guarded by mutex_ while calls are open
};

// By rate, as a share of the capacity: one entry for each round.
using Curve = std::map<double, std::vector<Figures>>;

// Of the rounds: somebody else who takes the core for a moment spoils one of them.
double Median(const std::vector<Figures>& rounds, double (Figures::*figure)() const) {
  std::vector<double> values;
  for (const Figures& round : rounds) values.push_back((round.*figure)());
  std::ranges::sort(values);
  return values[values.size() / 2];
}

void Print(const char* title, double capacity, const Curve& curve, boost::json::array& json) {
  std::printf("\n%s\n%9s %9s %9s %9s %9s %8s %8s %8s\n", title, "offered", "calls/s", "goodput", "p50 ms", "p99 ms",
              "shed %", "late %", "CPU %");
  for (const auto& [rate, rounds] : curve) {
    const auto median = [&](double (Figures::*figure)() const) { return Median(rounds, figure); };
    std::printf("%8.2fx %9.0f %9.0f %9.1f %9.1f %8.1f %8.1f %8.0f\n", rate, median(&Figures::Offered),
                median(&Figures::Goodput), median(&Figures::P50), median(&Figures::P99), median(&Figures::ShedPercent),
                median(&Figures::LatePercent), median(&Figures::CpuPercent));
    int failed = 0;
    for (const Figures& round : rounds) failed += round.failed;
    if (failed > 0) std::printf("          %d calls failed otherwise\n", failed);
    json.push_back({{"server", title},
                    {"offered_of_capacity", rate},
                    {"capacity", capacity},
                    {"goodput", median(&Figures::Goodput)},
                    {"p50_ms", median(&Figures::P50)},
                    {"p99_ms", median(&Figures::P99)},
                    {"shed_percent", median(&Figures::ShedPercent)},
                    {"late_percent", median(&Figures::LatePercent)}});
  }
}

// Goodput and latency at twice the capacity, as ratios: what the limiter is for.
void PrintRatios(const char* title, const Curve& curve) {
  double peak = 0;
  for (const auto& [rate, rounds] : curve) peak = std::max(peak, Median(rounds, &Figures::Goodput));
  std::printf("%-20s goodput at 2x is %3.0f %% of its peak; p99 at 2x is %.1f times that at 0.25x\n", title,
              100 * Median(curve.at(2.0), &Figures::Goodput) / peak,
              Median(curve.at(2.0), &Figures::P99) / Median(curve.at(0.25), &Figures::P99));
}

int Run(const Options& options) {
  cpu_set_t cores;
  if (sched_getaffinity(0, sizeof cores, &cores) != 0 || !CPU_ISSET(kServerCore, &cores) ||
      !CPU_ISSET(kLoadCore, &cores)) {
    std::fprintf(stderr, "bench_overload: cores %d and %d are needed, one for the server and one for the load\n",
                 kServerCore, kLoadCore);
    return 3;
  }
  CPU_ZERO(&cores);
  CPU_SET(kLoadCore, &cores);
  sched_setaffinity(0, sizeof cores, &cores);
  prctl(PR_SET_TIMERSLACK, 1UL);  // the calls are due to the microsecond
  telemetry::InitLogging({.level = telemetry::Level::kError, .service = "bench"});

  tests::MtlsFixture mtls;
  (void)mtls.Leaf("echo");  // before the servers look for it
  Peer with("with", mtls, options);
  Peer without("without", mtls, options);
  (void)with.Capacity();
  const double capacity = without.Capacity();
  std::printf(
      "server on core %d, load on core %d, mTLS, %d connections; each handler awaits %d us and burns %d us of CPU\n"
      "capacity %.0f calls/s (%d in flight, closed loop); deadline %lld ms\n"
      "medians of %d rounds of %.1f s at each rate, after %.1f s\n",
      kServerCore, kLoadCore, kConnections, options.wait_us, options.work_us, capacity, kClosedLoop,
      static_cast<long long>(options.deadline.count()), options.rounds, Seconds(options.length).count(),
      Seconds(options.settle).count());
  std::fflush(stdout);

  std::mt19937_64 random(1);  // both servers' arrivals differ all the same: they take turns with it
  std::array<Curve, 2> curves;
  for (int round = 0; round < options.rounds; ++round) {
    for (const double rate : kRates) {
      curves[0][rate].push_back(without.OpenLoop(rate * capacity, random));
      curves[1][rate].push_back(with.OpenLoop(rate * capacity, random));
    }
  }
  boost::json::array json;
  constexpr std::array kTitles = {"without the limiter", "with the limiter"};
  for (std::size_t i = 0; i < curves.size(); ++i) Print(kTitles[i], capacity, curves[i], json);
  std::printf("\n");
  for (std::size_t i = 0; i < curves.size(); ++i) PrintRatios(kTitles[i], curves[i]);
  if (options.json) std::printf("%s\n", boost::json::serialize(json).c_str());
  return 0;
}

}  // namespace
}  // namespace nova::bench

int main(int argc, char** argv) {
  using std::chrono::milliseconds;
  using std::chrono::seconds;
  nova::bench::Options options;
  // Settings of the product are no business of a benchmark.
  nova::config::Config config({.args = {argv + 1, argv + argc}, .environment = {}});
  config.Field("bench.rounds", options.rounds, {.help = "rounds counted", .flag = "rounds", .min = 1, .max = 100});
  config.Field("bench.length", options.length,
               {.help = "what is counted of each rate and round", .flag = "length", .min = milliseconds(100)});
  config.Field(
      "bench.settle", options.settle,
      {.help = "time before that, for the server to find its limit", .flag = "settle", .min = milliseconds(0)});
  config.Field("bench.deadline", options.deadline,
               {.help = "of each call", .flag = "deadline", .min = milliseconds(1), .max = seconds(60)});
  config.Field("bench.wait_us", options.wait_us, {.help = "what a handler awaits", .flag = "wait-us", .min = 0});
  config.Field("bench.work_us", options.work_us,
               {.help = "CPU time that a handler burns", .flag = "work-us", .min = 1, .max = 1'000'000});
  config.Field("bench.json", options.json, {.help = "print the figures as JSON, last", .flag = "json"});
  config.Field("bench.server", options.server, {.help = "internal: run one of the servers", .flag = "server"});
  config.Field("bench.certificates", options.certificates,
               {.help = "internal: certificates of that server", .flag = "certificates"});
  if (config.help_requested()) {
    std::fputs(config.Help("./dev bench overload", "Goodput and latency of a server that is offered too much.").c_str(),
               stdout);
    return 0;
  }
  if (const auto finished = config.Finish(); !finished) {
    std::fprintf(stderr, "bench_overload: %s\n", finished.error().message().c_str());
    return 2;
  }
  if (!options.server.empty()) return nova::bench::RunServer(options.server, options.certificates);
  try {
    return nova::bench::Run(options);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_overload: %s\n", error.what());
    return 1;
  }
}
