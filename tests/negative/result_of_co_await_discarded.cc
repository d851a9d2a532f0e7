// must not compile: ignoring return value
#include "nova/base/result.h"
#include "nova/runtime/task.h"

nova::runtime::Task<int> Load();

nova::runtime::Task<void> Use() {
#ifdef WRONG
  co_await Load();
#else
  NOVA_CO_TRY(co_await Load());
#endif
  co_return nova::Ok();
}
