#include "nova/secrets/failure.h"

#include <array>
#include <utility>

namespace nova::secrets {
namespace {

struct Kind {
  Failure failure;
  Code code;
  const char* name;
};

constexpr std::array<Kind, 7> kKinds = {{
    {Failure::kNotFound, Code::kNotFound, "not_found"},
    {Failure::kAccessDenied, Code::kPermissionDenied, "access_denied"},
    {Failure::kDecryptionFailed, Code::kFailedPrecondition, "decryption_failed"},
    {Failure::kThrottled, Code::kResourceExhausted, "throttled"},
    {Failure::kInvalidFormat, Code::kDataLoss, "invalid_format"},
    {Failure::kExpiredCredentials, Code::kUnauthenticated, "expired_credentials"},
    {Failure::kNetwork, Code::kUnavailable, "network"},
}};

const Kind& KindOf(Failure failure) { return kKinds[static_cast<std::size_t>(failure)]; }

}  // namespace

const char* FailureName(Failure failure) { return KindOf(failure).name; }

Error Fail(Failure failure, std::string message, std::string detail) {
  return {KindOf(failure).code, std::move(message), std::move(detail)};
}

std::optional<Failure> FailureOf(const Error& error) {
  if (error.code() == Code::kDeadlineExceeded) return Failure::kNetwork;
  for (const Kind& kind : kKinds) {
    if (kind.code == error.code()) return kind.failure;
  }
  return std::nullopt;
}

bool IsTransient(Failure failure) { return failure == Failure::kThrottled || failure == Failure::kNetwork; }

}  // namespace nova::secrets
