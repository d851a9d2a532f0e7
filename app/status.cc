// `nova status`: the processes of this machine's backend, and whether they are ready.
#include <cstdio>

#include "app/command.h"
#include "local/control.h"
#include "local/stack.h"

namespace nova::app {
namespace {

class StatusVerb final : public Verb {
 public:
  void Bind(config::Config& config) override {
    local::Bind(config, folder_);
    config.Field("status.json", json_, {.help = "print JSON", .flag = "json"});
  }

  Result<ExitCode> Run() override {
    NOVA_TRY(const auto root, folder_.Path());
    NOVA_TRY(const auto status, local::ReadStatus(root));
    const WallTime now = Clock::System().WallNow();
    std::fputs((json_ ? local::StatusJson(status, now) : local::StatusTable(status, now)).c_str(), stdout);
    if (!status.running) return kDependencyMissing;
    return status.ready() ? kDone : kCheckFailed;
  }

 private:
  local::DataDirConfig folder_;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Verb> MakeStatus() { return std::make_unique<StatusVerb>(); }

}  // namespace nova::app
