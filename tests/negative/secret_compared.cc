// must not compile: invalid operands to binary expression
#include "nova/base/secret.h"

bool Use(const nova::Secret<>& given, const nova::Secret<>& stored) {
#ifdef WRONG
  return given == stored;
#else
  return given.empty() && stored.empty();
#endif
}
