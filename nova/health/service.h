// The standard gRPC health service over a Monitor: Check and Watch, for the process (the empty name) and for each
// service it runs.
#pragma once

#include <set>
#include <string>

#include "nova/health/monitor.h"
#include "nova/rpc/service.h"

namespace nova::health {

// `services`: full names that are known besides the empty one. `monitor` must outlive the server.
rpc::Service MakeHealthService(Monitor& monitor, std::set<std::string> services);

}  // namespace nova::health
