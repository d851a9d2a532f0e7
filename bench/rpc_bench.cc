// What does Nova's server stack cost? Unary echo over mTLS against a bare gRPC callback server, each server in a
// process of its own, so that its CPU can be told from the client's. The servers take turns within every round; quote
// the medians and the ratios, not one absolute figure: the machine's noise hits all of a round alike.
#include <boost/json.hpp>
#include <cstdio>
#include <grpcpp/create_channel.h>
#include <grpcpp/support/channel_arguments.h>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "bench/echo_load.h"
#include "bench/rpc_servers.h"
#include "bench/server_process.h"
#include "bench/statistics.h"
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

void PrintTable(const char* title, int in_flight, const std::map<std::string, std::vector<EchoFigures>>& rounds,
                boost::json::array& json) {
  std::printf("\n%s, %d in flight\n%-9s %10s %10s %10s %12s %12s\n", title, in_flight, "server", "RPS", "p50 us",
              "p99 us", "CPU us/RPC", "CPU / bare");
  const auto& bare = rounds.at("bare");
  for (const std::string& kind : ServerKinds()) {
    const auto& figures = rounds.at(kind);
    const auto median = [&](double EchoFigures::* field) {
      std::vector<double> values;
      for (const EchoFigures& round : figures) values.push_back(round.*field);
      return Median(values);
    };
    // The ratio is taken within each round, where both met the same noise.
    std::vector<double> ratios;
    for (std::size_t i = 0; i < figures.size(); ++i) ratios.push_back(figures[i].cpu_us / bare[i].cpu_us);
    std::printf("%-9s %10.0f %10.0f %10.0f %12.1f %12.2f\n", kind.c_str(), median(&EchoFigures::rps),
                median(&EchoFigures::p50_us), median(&EchoFigures::p99_us), median(&EchoFigures::cpu_us),
                Median(ratios));
    json.push_back({{"case", title},
                    {"in_flight", in_flight},
                    {"server", kind},
                    {"rps", median(&EchoFigures::rps)},
                    {"p50_us", median(&EchoFigures::p50_us)},
                    {"p99_us", median(&EchoFigures::p99_us)},
                    {"cpu_us_per_rpc", median(&EchoFigures::cpu_us)},
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
      std::map<std::string, std::vector<EchoFigures>> rounds;
      for (int round = -1; round < options.rounds; ++round) {
        for (const Peer& peer : peers) {
          EchoLoad load(*peer.stub, in_flight, calls, what.wait_us);
          const EchoFigures figures = load.Run(*peer.process);
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
