#include "app/peers.h"

#include "app/topology.h"

namespace nova::app {
namespace {

constexpr char kClusterPort[] = "9080";

}  // namespace

void Bind(config::Config& config, PeersConfig& peers) {
  for (const config::ServiceSpec& service : FullTopology(kPortBaseDefault).services) {
    std::string& target = peers.targets[service.name];
    if (target.empty()) target = service.name + ":" + kClusterPort;
    config.Field("peers." + service.name + "_target", target, {.help = "host:port of the service " + service.name});
  }
}

}  // namespace nova::app
