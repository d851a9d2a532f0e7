// must not compile: invalid operands to binary expression
#include "nova/base/secret.h"

std::string Use(const nova::Secret<>& password) {
#ifdef WRONG
  return "password=" + password;
#else
  return "password=" + password.Expose();
#endif
}
