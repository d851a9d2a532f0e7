// must not compile: ignoring return value
#include "nova/base/result.h"
#include "nova/runtime/task.h"

nova::runtime::Task<void> Save();

nova::runtime::Task<void> Use() {
#ifdef WRONG
  Save();
  co_return nova::Ok();
#else
  co_return co_await Save();
#endif
}
