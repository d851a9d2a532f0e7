// must not compile: Cannot format an argument
#include <fmt/format.h>

#include "nova/base/secret.h"

std::string Use(const nova::Secret<>& password) {
#ifdef WRONG
  return fmt::format("{}", password);
#else
  return fmt::format("{}", password.empty());
#endif
}
