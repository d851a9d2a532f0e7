// must not compile: no viable conversion from 'const nova::Secret<>' to 'std::string'
#include "nova/base/secret.h"

std::string Use(const nova::Secret<>& password) {
#ifdef WRONG
  std::string text = password;
#else
  std::string text = password.Expose();
#endif
  return text;
}
