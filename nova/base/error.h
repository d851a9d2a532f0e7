// Errors are values. An Error says which of gRPC's sixteen failure codes applies, one public message that may
// travel to the peer, and a private detail for the log that must never leave the process.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace nova {

// The codes of google.rpc.Code; the numbers are those of the gRPC protocol and never change.
enum class Code : std::uint8_t {
  kOk = 0,
  kCancelled = 1,
  kUnknown = 2,
  kInvalidArgument = 3,
  kDeadlineExceeded = 4,
  kNotFound = 5,
  kAlreadyExists = 6,
  kPermissionDenied = 7,
  kResourceExhausted = 8,
  kFailedPrecondition = 9,
  kAborted = 10,
  kOutOfRange = 11,
  kUnimplemented = 12,
  kInternal = 13,
  kUnavailable = 14,
  kDataLoss = 15,
  kUnauthenticated = 16,
};

inline constexpr int kCodeCount = 17;

// The protocol's name of a code, such as "DEADLINE_EXCEEDED".
std::string_view CodeName(Code code);

class [[nodiscard]] Error {
 public:
  // The default is what a result holds before anything was computed; seeing it in a log is a bug.
  Error() : Error(Code::kUnknown, "no result") {}
  Error(Code code, std::string message, std::string detail = {})
      : code_(code), message_(std::move(message)), detail_(std::move(detail)) {}

  Code code() const { return code_; }
  // Safe to show to the caller.
  const std::string& message() const { return message_; }
  // For the log only: may name hosts, statements, files.
  const std::string& detail() const { return detail_; }

  // Adds to the private detail, outermost context first: "load certificate: open /x: no such file".
  Error WithContext(std::string_view context) &&;

  // "CODE: message [detail]"; for logs and operators, not for peers.
  std::string ToString() const;

 private:
  Code code_;
  std::string message_;
  std::string detail_;
};

// One constructor per code in use, so that call sites read as sentences.
Error Cancelled(std::string message, std::string detail = {});
Error InvalidArgument(std::string message, std::string detail = {});
Error DeadlineExceeded(std::string message, std::string detail = {});
Error NotFound(std::string message, std::string detail = {});
Error AlreadyExists(std::string message, std::string detail = {});
Error PermissionDenied(std::string message, std::string detail = {});
Error ResourceExhausted(std::string message, std::string detail = {});
Error FailedPrecondition(std::string message, std::string detail = {});
Error Aborted(std::string message, std::string detail = {});
Error Internal(std::string message, std::string detail = {});
Error Unavailable(std::string message, std::string detail = {});
Error Unauthenticated(std::string message, std::string detail = {});

}  // namespace nova
