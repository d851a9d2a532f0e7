// Where the other services are.
#pragma once

#include <map>
#include <string>

#include "nova/config/config.h"

namespace nova::app {

struct PeersConfig {
  // host:port of every service of the deployment, by name.
  std::map<std::string, std::string> targets;
};

// Keys `peers.<service>_target`, such as NOVA_PEERS_IDENTITY_TARGET; by default <service>:9080, as in Kubernetes.
void Bind(config::Config& config, PeersConfig& peers);

}  // namespace nova::app
