// The identity service on the wire: nova.identity.v2.IdentityService.
#pragma once

#include "nova/rpc/service.h"
#include "services/identity/service.h"

namespace nova::identity {

// `identity` must outlive the server it is added to.
rpc::Service MakeRpcService(Service& identity);

}  // namespace nova::identity
