// The user service on the wire: nova.user.v2.UserService.
#pragma once

#include "nova/rpc/service.h"
#include "services/user/service.h"

namespace nova::user {

// `user` must outlive the server it is added to.
rpc::Service MakeRpcService(Service& user);

}  // namespace nova::user
