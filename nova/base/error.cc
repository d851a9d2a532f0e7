#include "nova/base/error.h"

#include <array>

namespace nova {

std::string_view CodeName(Code code) {
  static constexpr std::array<std::string_view, kCodeCount> kNames = {
      "OK",        "CANCELLED",      "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
      "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
      "ABORTED",   "OUT_OF_RANGE",   "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",
      "DATA_LOSS", "UNAUTHENTICATED"};
  const auto index = static_cast<std::size_t>(code);
  return index < kNames.size() ? kNames[index] : "UNKNOWN";
}

Error Error::WithContext(std::string_view context) && {
  std::string detail(context);
  if (!detail_.empty()) detail.append(": ").append(detail_);
  detail_ = std::move(detail);
  return std::move(*this);
}

std::string Error::ToString() const {
  std::string text(CodeName(code_));
  text.append(": ").append(message_);
  if (!detail_.empty()) text.append(" [").append(detail_).append("]");
  return text;
}

#define NOVA_DEFINE_ERROR(Name)                                         \
  Error Name(std::string message, std::string detail) {                 \
    return Error(Code::k##Name, std::move(message), std::move(detail)); \
  }
NOVA_DEFINE_ERROR(Cancelled)
NOVA_DEFINE_ERROR(InvalidArgument)
NOVA_DEFINE_ERROR(DeadlineExceeded)
NOVA_DEFINE_ERROR(NotFound)
NOVA_DEFINE_ERROR(AlreadyExists)
NOVA_DEFINE_ERROR(PermissionDenied)
NOVA_DEFINE_ERROR(ResourceExhausted)
NOVA_DEFINE_ERROR(FailedPrecondition)
NOVA_DEFINE_ERROR(Aborted)
NOVA_DEFINE_ERROR(Internal)
NOVA_DEFINE_ERROR(Unavailable)
NOVA_DEFINE_ERROR(Unauthenticated)
#undef NOVA_DEFINE_ERROR

}  // namespace nova
