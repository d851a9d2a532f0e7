// must not compile: ignoring return value
#include "nova/base/result.h"

nova::Result<int> Parse();

void Use() {
#ifdef WRONG
  Parse();
#else
  static_cast<void>(Parse().ok());
#endif
}
