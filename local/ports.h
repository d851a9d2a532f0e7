// The ports of the stack, looked at before anything starts.
#pragma once

#include <string>
#include <vector>

#include "nova/base/result.h"

namespace nova::local {

struct PortUse {
  int port = 0;
  // "identity", "PgBouncer": who is going to listen there.
  std::string who;
};

// Whether every port of 127.0.0.1 can be listened on. Errors: FAILED_PRECONDITION, one line that names the first taken
// port, who wants it, and the setting that moves it.
Result<void> CheckPorts(const std::vector<PortUse>& ports, int port_base);

}  // namespace nova::local
