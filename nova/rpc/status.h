// Error <-> grpc::Status. The private detail of an Error never crosses this line.
#pragma once

#include <grpcpp/support/status.h>

#include "nova/base/result.h"

namespace nova::rpc {

grpc::Status ToStatus(const Error& error);
grpc::Status ToStatus(const Result<void>& result);
// Precondition: !status.ok(). Codes outside the protocol become UNKNOWN. The text of a code that the transport sets
// goes to the detail: it names hosts.
Error FromStatus(const grpc::Status& status);

}  // namespace nova::rpc
