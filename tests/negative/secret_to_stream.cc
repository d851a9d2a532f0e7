// must not compile: invalid operands to binary expression
#include <ostream>

#include "nova/base/secret.h"

void Use(std::ostream& out, const nova::Secret<>& password) {
#ifdef WRONG
  out << password;
#else
  out << password.empty();
#endif
}
