#include "app/command.h"

#include <algorithm>

#include "nova/telemetry/redact.h"

namespace nova::app {

std::span<const Command> Commands() {
  static constexpr Command kCommands[] = {
      {"up", "nova up", "Runs the whole backend on this machine until Ctrl-C.", MakeUp},
      {"down", "nova down", "Stops the backend of this machine.", MakeDown},
      {"status", "nova status", "Shows the processes of this machine's backend.", MakeStatus},
      {"demo", "nova demo", "Drives a real scenario over mTLS and prints what happened.", MakeDemo},
      {"certs", "nova certs <init|issue|rotate|show|verify> [principal]",
       "Makes, renews, shows and checks certificates. The authority is for development: in a cluster cert-manager "
       "signs.",
       MakeCerts},
      {"secrets", "nova secrets <rotate|status>",
       "Replaces the keys of access tokens in AWS Secrets Manager when they are due, and shows their versions.",
       MakeSecrets},
      {"audit", "nova audit", "Measures every promise against a live stack.", MakeAudit},
      {"serve", "nova serve <service>", "Runs one service in the foreground.", MakeServe},
      {"migrate", "nova migrate [service]", "Brings the databases to the schema of this binary.", MakeMigrate},
      {"probe", "nova probe [service]", "Asks a service for its health over gRPC, as a probe does.", MakeProbe},
      {"lambda", "nova lambda", "Serves the steps of a Secrets Manager rotation as a Lambda function.", MakeLambda},
      {"modules", "nova modules", "Lists the services of this binary and what they need.", MakeModules},
  };
  return kCommands;
}

const Command* FindCommand(std::string_view name) {
  const auto commands = Commands();
  const auto found = std::ranges::find(commands, name, &Command::name);
  return found == commands.end() ? nullptr : &*found;
}

config::Config AllSettings() {
  config::Config all(config::Sources{});
  for (const Command& command : Commands()) command.make()->Bind(all);
  return all;
}

ExitCode ExitCodeOf(const Error& error) {
  switch (error.code()) {
    case Code::kInvalidArgument:
    case Code::kFailedPrecondition:
    case Code::kAlreadyExists:
    case Code::kPermissionDenied:
    case Code::kUnauthenticated:
      return kUsage;
    case Code::kNotFound:
    case Code::kUnavailable:
    case Code::kDeadlineExceeded:
      return kDependencyMissing;
    default:
      return kCheckFailed;
  }
}

std::string Describe(const Error& error) {
  std::string text = error.message();
  if (!error.detail().empty()) text += " (" + error.detail() + ")";
  // One line, whatever a library or a file put into it: a run of control characters becomes one space.
  std::string line;
  for (const char c : telemetry::Redact(text)) {
    const bool control = static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
    if (!control) line += c;
    if (control && !line.ends_with(' ')) line += ' ';
  }
  return line;
}

}  // namespace nova::app
