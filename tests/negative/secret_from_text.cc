// must not compile: no viable conversion from returned value of type 'const std::string'
#include "nova/base/secret.h"

nova::Secret<> Use(const std::string& text) {
#ifdef WRONG
  return text;
#else
  return nova::Secret<>(text);
#endif
}
