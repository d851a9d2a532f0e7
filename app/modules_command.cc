// `nova modules`: the map, printed.
#include <boost/json.hpp>
#include <cstdio>
#include <string>

#include "app/command.h"
#include "app/modules.h"

namespace nova::app {
namespace {

std::string Join(const std::vector<std::string_view>& names) {
  std::string text;
  for (const std::string_view name : names) text.append(text.empty() ? "" : ", ").append(name);
  return text.empty() ? "-" : text;
}

class ModulesVerb final : public Verb {
 public:
  void Bind(config::Config& config) override {
    config.Field("modules.json", json_, {.help = "print JSON", .flag = "json"});
  }

  Result<ExitCode> Run() override {
    if (json_) {
      boost::json::array list;
      for (const ModuleEntry& entry : Modules()) {
        list.push_back({{"name", entry.name},
                        {"description", entry.description},
                        {"hard", boost::json::array(entry.hard.begin(), entry.hard.end())},
                        {"soft", boost::json::array(entry.soft.begin(), entry.soft.end())}});
      }
      std::printf("%s\n", boost::json::serialize(boost::json::object{{"modules", std::move(list)}}).c_str());
      return kDone;
    }
    std::printf("%-14s %-22s %-14s %s\n", "service", "needs", "uses", "what it is");
    for (const ModuleEntry& entry : Modules()) {
      std::printf("%-14s %-22s %-14s %s\n", std::string(entry.name).c_str(), Join(entry.hard).c_str(),
                  Join(entry.soft).c_str(), std::string(entry.description).c_str());
    }
    return kDone;
  }

 private:
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Verb> MakeModules() { return std::make_unique<ModulesVerb>(); }

}  // namespace nova::app
