// must not compile: no viable conversion from 'nova::Result<int>' to 'int'
#include "nova/base/result.h"

nova::Result<int> Parse();

nova::Result<int> Use() {
#ifdef WRONG
  int value = Parse();
#else
  NOVA_TRY(int value, Parse());
#endif
  return value;
}
