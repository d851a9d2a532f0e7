// The two directions of a streaming call, as its handler sees them. One read and one write may be outstanding at a
// time. A wait that ends early, say by the deadline of a child call, is the last of its stream: the operation it waited
// for is still under way, so later ones return CANCELLED.
#pragma once

#include <grpcpp/support/byte_buffer.h>
#include <optional>

#include "nova/rpc/codec.h"
#include "nova/runtime/call.h"
#include "nova/runtime/task.h"

namespace nova::rpc {

// What a streaming reactor offers, on bytes; internal to this folder.
class RawStream {
 public:
  virtual ~RawStream() = default;
  // Nothing once the peer has half-closed. Errors: why the call ended.
  virtual runtime::Task<std::optional<grpc::ByteBuffer>> Read(runtime::Call& call) = 0;
  // Returns when the transport has taken the message, which is the back-pressure. Errors: why the call ended.
  virtual runtime::Task<void> Write(runtime::Call& call, grpc::ByteBuffer bytes) = 0;
};

template <class Message>
class Reader {
 public:
  explicit Reader(RawStream& stream) : stream_(stream) {}

  // The next message; nothing once the peer has sent its last.
  // Errors: INVALID_ARGUMENT for bytes that are no Message; why the call ended.
  runtime::Task<std::optional<Message>> Read(runtime::Call& call) {
    NOVA_CO_TRY(const auto bytes, co_await stream_.Read(call));
    if (!bytes) co_return std::optional<Message>();
    std::optional<Message> message(std::in_place);
    NOVA_CO_TRY(Decode(*bytes, *message));
    co_return message;
  }

 private:
  RawStream& stream_;
};

template <class Message>
class Writer {
 public:
  explicit Writer(RawStream& stream) : stream_(stream) {}

  // Errors: why the call ended.
  runtime::Task<void> Write(runtime::Call& call, const Message& message) {
    grpc::ByteBuffer bytes;
    NOVA_CO_TRY(Encode(message, bytes));
    co_return co_await stream_.Write(call, bytes);
  }

 private:
  RawStream& stream_;
};

}  // namespace nova::rpc
