// How a read of a secret can fail, so that callers can tell a wrong name from a bad minute. Each kind has a code of its
// own, so the code of the Error is the kind: nothing else need be carried along.
//
//   const auto secret = co_await secrets.GetSecret(call, "prod/nova/jwt");
//   if (!secret && FailureOf(secret.error()) == Failure::kAccessDenied) ...
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "nova/base/error.h"

namespace nova::secrets {

enum class Failure : std::uint8_t {
  kNotFound,            // no such secret, version or stage             NOT_FOUND
  kAccessDenied,        // this identity may not read it                PERMISSION_DENIED
  kDecryptionFailed,    // KMS refused or its key is disabled           FAILED_PRECONDITION
  kThrottled,           // too many requests                            RESOURCE_EXHAUSTED
  kInvalidFormat,       // the value is not what it must be; the error names the field, never the value   DATA_LOSS
  kExpiredCredentials,  // ours are expired, not valid, or not to be had                      UNAUTHENTICATED
  kNetwork,             // not reached, broken off, or 5xx              UNAVAILABLE
};

// "not_found", "access_denied", ...: the value of `result` in metrics.
const char* FailureName(Failure failure);

// Both texts must hold no part of a value, a token or a key.
Error Fail(Failure failure, std::string message, std::string detail = {});

// Nothing for what is none of these: why a call ended, INTERNAL, INVALID_ARGUMENT of a caller's mistake.
// DEADLINE_EXCEEDED counts as kNetwork: somebody did not answer in time.
std::optional<Failure> FailureOf(const Error& error);

// Whether time alone may mend it: throttled, network. A last good value may be used meanwhile.
bool IsTransient(Failure failure);

}  // namespace nova::secrets
