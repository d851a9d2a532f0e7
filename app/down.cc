// `nova down`: stops the backend of this machine, and removes its data if asked to.
#include <cstdio>

#include "app/command.h"
#include "local/control.h"
#include "local/stack.h"

namespace nova::app {
namespace {

class DownVerb final : public Verb {
 public:
  void Bind(config::Config& config) override {
    local::Bind(config, folder_);
    config.Field("down.wipe", wipe_, {.help = "also remove the data folder", .flag = "wipe"});
  }

  Result<ExitCode> Run() override {
    NOVA_TRY(const auto root, folder_.Path());
    const auto stopped = local::Down(root);
    // Nothing to stop and nothing to wipe is what was asked for.
    if (!stopped && stopped.error().code() == Code::kNotFound) {
      std::printf("nothing runs: there is no data folder %s\n", root.c_str());
      return kDone;
    }
    if (!stopped) return stopped.error();
    std::printf("%s\n", *stopped ? "stopped" : "nothing ran");
    if (!wipe_) return kDone;
    NOVA_TRY(local::WipeDataDir(root));
    std::printf("removed %s\n", root.c_str());
    return kDone;
  }

 private:
  local::DataDirConfig folder_;
  bool wipe_ = false;
};

}  // namespace

std::unique_ptr<Verb> MakeDown() { return std::make_unique<DownVerb>(); }

}  // namespace nova::app
