// Server reflection (grpc.reflection.v1alpha): lets grpcurl and the like ask a server what it speaks. Ours goes through
// the same stack as every method, so default deny covers it too; gRPC's own plugin would bypass it.
#pragma once

#include <string>
#include <vector>

#include "nova/rpc/service.h"

namespace nova::rpc {

// `services`: the full names to list; reflection lists itself as well.
Service MakeReflectionService(std::vector<std::string> services);

}  // namespace nova::rpc
