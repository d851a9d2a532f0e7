// What does Nova's server stack cost? Unary echo over mTLS against a bare gRPC callback server, each server in a
// process of its own, so that its CPU can be told from the client's. The servers take turns within every round; quote
// the medians and the ratios, not one absolute figure: the machine's noise hits all of a round alike.
#include <algorithm>
#include <atomic>
#include <boost/json.hpp>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "bench/rpc_servers.h"
#include "bench/server_process.h"
#include "nova/config/config.h"
#include "tests/echo.grpc.pb.h"
#include "tests/mtls_fixture.h"

namespace nova::bench {
namespace {

struct Options {
  int rounds = 7;
  int calls = 4'000;
  bool json = false;
  std::string server;
  std::string certificates;
};

struct Figures {
  double rps = 0;
  double p50_us = 0;
  double p99_us = 0;
  double cpu_us = 0;
};

// A closed loop: `in_flight` calls at any time, each answer starting the next.
class Load {
 public:
  Load(tests::EchoService::Stub& stub, int in_flight, int calls, std::uint32_t wait_us)
      : stub_(stub), in_flight_(in_flight), calls_(calls) {
    request_.set_text("sixteen bytes!!!");
    request_.set_wait_us(wait_us);
    latencies_us_.resize(static_cast<std::size_t>(calls));
  }

  Figures Run(const ServerProcess& server) {
    const Seconds cpu_before = server.Cpu();
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < std::min(in_flight_, calls_); ++i) Next();
    {
      std::unique_lock lock(mutex_);
      ended_.wait(lock, [this] { return finished_ == calls_; });
    }
    const Seconds wall = std::chrono::steady_clock::now() - begin;
    const Seconds cpu = server.Cpu() - cpu_before;
    if (failed_ > 0) throw std::runtime_error(std::to_string(failed_) + " calls failed: " + failure_);
    std::ranges::sort(latencies_us_);
    return {.rps = calls_ / wall.count(),
            .p50_us = latencies_us_[latencies_us_.size() / 2],
            .p99_us = latencies_us_[latencies_us_.size() * 99 / 100],
            .cpu_us = cpu.count() * 1e6 / calls_};
  }

 private:
  struct Attempt {
    grpc::ClientContext context;
    tests::EchoResponse response;
    std::chrono::steady_clock::time_point begin = std::chrono::steady_clock::now();
  };

  void Next() {
    const int index = started_.fetch_add(1);
    if (index >= calls_) return;
    auto* const attempt = new Attempt;
    attempt->context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
    stub_.async()->Echo(&attempt->context, &request_, &attempt->response, [this, attempt, index](grpc::Status status) {
      const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - attempt->begin;
      latencies_us_[static_cast<std::size_t>(index)] = took.count();
      delete attempt;
      Next();
      std::lock_guard lock(mutex_);
      if (!status.ok()) {
        ++failed_;
        failure_ = status.error_message();
      }
      if (++finished_ == calls_) ended_.notify_all();
    });
  }

  tests::EchoService::Stub& stub_;
  const int in_flight_;
  const int calls_;
  tests::EchoRequest request_;
  std::atomic<int> started_ = 0;
  std::vector<double> latencies_us_;
  std::mutex mutex_;
  std::condition_variable ended_;
  int finished_ = 0;     // guarded by mutex_
  int failed_ = 0;       // guarded by mutex_
  std::string failure_;  // guarded by mutex_
};

double Median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

struct Peer {
  std::string kind;
  std::unique_ptr<ServerProcess> process;
  std::unique_ptr<tests::EchoService::Stub> stub;
};

std::vector<Peer> StartPeers(tests::MtlsFixture& mtls) {
  std::vector<Peer> peers;
  const auto credentials = mtls.ChannelIdentity("gateway").For("echo");
  for (const std::string& kind : ServerKinds()) {
    auto process = std::make_unique<ServerProcess>(
        std::vector<std::string>{"--server", kind, "--certificates", mtls.directory().string()});
    grpc::ChannelArguments arguments;
    credentials.ApplyTo(arguments);
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    auto channel =
        grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(process->port()), credentials.credentials, arguments);
    peers.push_back({kind, std::move(process), tests::EchoService::NewStub(channel)});
  }
  return peers;
}

void PrintTable(const char* title, int in_flight, const std::map<std::string, std::vector<Figures>>& rounds,
                boost::json::array& json) {
  std::printf("\n%s, %d in flight\n%-9s %10s %10s %10s %12s %12s\n", title, in_flight, "server", "RPS", "p50 us",
              "p99 us", "CPU us/RPC", "CPU / bare");
  const auto& bare = rounds.at("bare");
  for (const std::string& kind : ServerKinds()) {
    const auto& figures = rounds.at(kind);
    const auto median = [&](double Figures::* field) {
      std::vector<double> values;
      for (const Figures& round : figures) values.push_back(round.*field);
      return Median(values);
    };
    // The ratio is taken within each round, where both met the same noise.
    std::vector<double> ratios;
    for (std::size_t i = 0; i < figures.size(); ++i) ratios.push_back(figures[i].cpu_us / bare[i].cpu_us);
    std::printf("%-9s %10.0f %10.0f %10.0f %12.1f %12.2f\n", kind.c_str(), median(&Figures::rps),
                median(&Figures::p50_us), median(&Figures::p99_us), median(&Figures::cpu_us), Median(ratios));
    json.push_back({{"case", title},
                    {"in_flight", in_flight},
                    {"server", kind},
                    {"rps", median(&Figures::rps)},
                    {"p50_us", median(&Figures::p50_us)},
                    {"p99_us", median(&Figures::p99_us)},
                    {"cpu_us_per_rpc", median(&Figures::cpu_us)},
                    {"cpu_ratio_to_bare", Median(ratios)}});
  }
  std::fflush(stdout);
}

int Run(const Options& options) {
  tests::MtlsFixture mtls;
  (void)mtls.Leaf("echo");  // before the servers look for it
  const auto peers = StartPeers(mtls);
  boost::json::array json;
  std::printf("unary echo of 16 bytes over mTLS; medians of %d interleaved rounds of %d calls\n", options.rounds,
              options.calls);
  struct Case {
    const char* title;
    std::uint32_t wait_us;
  };
  for (const Case& what : {Case{"answering at once", 0}, Case{"after awaiting 1 ms", 1'000}}) {
    for (const int in_flight : {1, 16, 64}) {
      // One in flight is slow by nature: fewer calls give the same precision.
      const int calls = in_flight == 1 ? options.calls / 4 : options.calls;
      std::map<std::string, std::vector<Figures>> rounds;
      for (int round = -1; round < options.rounds; ++round) {
        for (const Peer& peer : peers) {
          Load load(*peer.stub, in_flight, calls, what.wait_us);
          const Figures figures = load.Run(*peer.process);
          if (round >= 0) rounds[peer.kind].push_back(figures);  // the first round warms up
        }
      }
      PrintTable(what.title, in_flight, rounds, json);
    }
  }
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
  config.Field("bench.calls", options.calls, {.help = "calls per server and round", .flag = "calls", .min = 100});
  config.Field("bench.json", options.json, {.help = "print the figures as JSON, last", .flag = "json"});
  config.Field("bench.server", options.server, {.help = "internal: run one of the servers", .flag = "server"});
  config.Field("bench.certificates", options.certificates,
               {.help = "internal: certificates of that server", .flag = "certificates"});
  if (config.help_requested()) {
    std::fputs(config.Help("./dev bench rpc", "Nova's server stack against a bare gRPC server.").c_str(), stdout);
    return 0;
  }
  if (const auto finished = config.Finish(); !finished) {
    std::fprintf(stderr, "bench_rpc: %s\n", finished.error().message().c_str());
    return 2;
  }
  if (!options.server.empty()) return nova::bench::RunServer(options.server, options.certificates);
  try {
    return nova::bench::Run(options);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_rpc: %s\n", error.what());
    return 1;
  }
}
