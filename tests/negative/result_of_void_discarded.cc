// must not compile: ignoring return value
#include "nova/base/result.h"

nova::Result<void> Save();

nova::Result<void> Use() {
#ifdef WRONG
  Save();
  return nova::Ok();
#else
  return Save();
#endif
}
