#include "nova/rpc/status.h"

#include <string_view>

namespace nova::rpc {
namespace {

// Statuses travel in headers, of which gRPC takes 8 KiB; a longer message would replace the status by another one.
constexpr std::size_t kMessageBytesMax = 1024;

// Codes that the transport itself sets, with texts that name addresses; so what comes with them is no public message.
bool FromTransport(Code code) {
  return code == Code::kUnavailable || code == Code::kUnknown || code == Code::kInternal || code == Code::kCancelled ||
         code == Code::kDeadlineExceeded;
}

}  // namespace

grpc::Status ToStatus(const Error& error) {
  return grpc::Status(static_cast<grpc::StatusCode>(error.code()), error.message().substr(0, kMessageBytesMax));
}

grpc::Status ToStatus(const Result<void>& result) { return result ? grpc::Status::OK : ToStatus(result.error()); }

Error FromStatus(const grpc::Status& status) {
  const int number = status.error_code();
  const Code code = number > 0 && number < kCodeCount ? static_cast<Code>(number) : Code::kUnknown;
  if (FromTransport(code)) return Error(code, "a service that is needed did not answer", status.error_message());
  return Error(code, status.error_message());
}

}  // namespace nova::rpc
