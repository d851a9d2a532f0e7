#include "nova/rpc/codec.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <grpcpp/support/slice.h>
#include <limits>
#include <vector>

namespace nova::rpc {

Result<void> Decode(const grpc::ByteBuffer& bytes, google::protobuf::MessageLite& message) {
  const auto malformed = [&] { return InvalidArgument("the request is not a valid " + message.GetTypeName()); };
  grpc::Slice slice;
  // Nearly every message arrives in one slice, which is parsed where it lies.
  if (!bytes.TrySingleSlice(&slice).ok() && !bytes.DumpToSingleSlice(&slice).ok()) return malformed();
  if (slice.size() > std::numeric_limits<int>::max()) return malformed();
  if (!message.ParseFromArray(slice.begin(), static_cast<int>(slice.size()))) return malformed();
  return Ok();
}

Result<void> Encode(const google::protobuf::MessageLite& message, grpc::ByteBuffer& bytes) {
  const std::size_t size = message.ByteSizeLong();
  if (size > std::numeric_limits<int>::max()) return Internal("the response is too large");
  grpc::Slice slice(size);
  // A fresh slice is ours alone until it is put into the buffer.
  message.SerializeWithCachedSizesToArray(const_cast<std::uint8_t*>(slice.begin()));
  bytes = grpc::ByteBuffer(&slice, 1);
  return Ok();
}

}  // namespace nova::rpc
