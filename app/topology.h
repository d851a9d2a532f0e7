// The one table of figures: services, ports, connection budgets, principals (SPEC of the deployment). Everything that
// needs one of them is handed this.
#pragma once

#include "nova/config/topology.h"

namespace nova::app {

inline constexpr int kPortBaseDefault = 7400;

// One machine: every process on loopback, ports counted from `port_base`. Holds the services that have a module.
config::Topology LocalTopology(int port_base);

// Every service of the deployment, those without a module included: the connection budget must fit as a whole.
config::Topology FullTopology(int port_base);

}  // namespace nova::app
