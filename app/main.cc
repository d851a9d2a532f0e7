// nova: one binary, one verb per run. Read on in modules.cc (the services) and serve.cc (how one of them runs).
#include <csignal>
#include <cstdio>
#include <optional>
#include <string>

#include "app/command.h"
#include "nova/rpc/grpc_log.h"
#include "nova/tls/protocol.h"

namespace nova::app {
namespace {

void PrintCommands() {
  std::fputs("usage: nova <command> [arguments]\n\n", stdout);
  for (const Command& command : Commands())
    std::printf("  %-8s  %s\n", command.name.data(), command.description.data());
  std::fputs("\n`nova <command> --help` lists its settings.\n", stdout);
}

int Fail(const Command& command, const Error& error) {
  std::fprintf(stderr, "nova %s: %s\n", command.name.data(), Describe(error).c_str());
  return ExitCodeOf(error);
}

int Main(int argc, char** argv) {
  const std::string verb_name = argc > 1 ? argv[1] : "--help";
  if (verb_name == "--help" || verb_name == "-h" || verb_name == "help") {
    PrintCommands();
    return kDone;
  }
  const Command* const command = FindCommand(verb_name);
  if (command == nullptr) {
    std::fprintf(stderr, "nova: there is no command '%s'; `nova --help` lists those there are\n", verb_name.c_str());
    return kUsage;
  }

  // A peer that goes away is an error of that write, not the end of the process.
  std::signal(SIGPIPE, SIG_IGN);
  rpc::LogGrpcThroughTelemetry();
  if (const auto tls = tls::RequireTls13(); !tls) return Fail(*command, tls.error());

  config::Config config(config::Sources::FromProcess(argc - 2, argv + 2));
  const auto verb = command->make();
  verb->Bind(config);
  if (config.help_requested()) {
    std::fputs(config.Help(command->usage, command->description).c_str(), stdout);
    return kDone;
  }
  const config::Config all = AllSettings();
  config.KnowEnvironment(all.environment_names());
  config.KnowKeys(all.keys());
  if (const auto finished = config.Finish(); !finished) return Fail(*command, finished.error());
  const auto result = verb->Run();
  return result ? *result : Fail(*command, result.error());
}

}  // namespace
}  // namespace nova::app

int main(int argc, char** argv) { return nova::app::Main(argc, argv); }
