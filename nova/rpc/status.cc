#include "nova/rpc/status.h"

namespace nova::rpc {

grpc::Status ToStatus(const Error& error) {
  return grpc::Status(static_cast<grpc::StatusCode>(error.code()), error.message());
}

grpc::Status ToStatus(const Result<void>& result) { return result ? grpc::Status::OK : ToStatus(result.error()); }

Error FromStatus(const grpc::Status& status) {
  const int code = status.error_code();
  return Error(code > 0 && code < kCodeCount ? static_cast<Code>(code) : Code::kUnknown, status.error_message());
}

}  // namespace nova::rpc
