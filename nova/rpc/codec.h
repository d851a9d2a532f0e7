// Messages <-> the bytes of a call.
#pragma once

#include <google/protobuf/message_lite.h>
#include <grpcpp/support/byte_buffer.h>

#include "nova/base/result.h"

namespace nova::rpc {

// Errors: INVALID_ARGUMENT naming the message type.
Result<void> Decode(const grpc::ByteBuffer& bytes, google::protobuf::MessageLite& message);
// Errors: INTERNAL (a required limit of protobuf was passed).
Result<void> Encode(const google::protobuf::MessageLite& message, grpc::ByteBuffer& bytes);

}  // namespace nova::rpc
