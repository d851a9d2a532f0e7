// A verb of the binary: `nova <name> [arguments]`.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "nova/base/result.h"
#include "nova/config/config.h"

namespace nova::app {

// What the process returns.
enum ExitCode : int {
  kDone = 0,
  kCheckFailed = 1,
  kUsage = 2,             // the command line or the configuration is wrong
  kDependencyMissing = 3  // something it needs is not there
};

class Verb {
 public:
  virtual ~Verb() = default;
  // Binds every setting the verb has.
  virtual void Bind(config::Config& config) = 0;
  // Does it; the settings are final. Errors are printed by main, as one line.
  virtual Result<ExitCode> Run() = 0;
};

struct Command {
  std::string_view name;
  std::string_view usage;
  std::string_view description;
  std::unique_ptr<Verb> (*make)();
};

std::unique_ptr<Verb> MakeAudit();
std::unique_ptr<Verb> MakeCerts();
std::unique_ptr<Verb> MakeDemo();
std::unique_ptr<Verb> MakeDown();
std::unique_ptr<Verb> MakeLambda();
std::unique_ptr<Verb> MakeMigrate();
std::unique_ptr<Verb> MakeModules();
std::unique_ptr<Verb> MakeProbe();
std::unique_ptr<Verb> MakeSecrets();
std::unique_ptr<Verb> MakeServe();
std::unique_ptr<Verb> MakeStatus();
std::unique_ptr<Verb> MakeUp();

// In the order in which `nova --help` prints them.
std::span<const Command> Commands();
// Null if there is none of that name.
const Command* FindCommand(std::string_view name);

// Every setting of every verb and service. Each is known everywhere: a shell that exports a variable for `nova up` can
// also run `nova demo`, and one file can configure all.
config::Config AllSettings();

// The exit code that tells a script what kind of trouble it was.
ExitCode ExitCodeOf(const Error& error);
// "message (detail)", with whatever looks like a secret masked.
std::string Describe(const Error& error);

}  // namespace nova::app
