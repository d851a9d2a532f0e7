// must not compile: return statement not allowed in coroutine
#include "nova/base/result.h"
#include "nova/runtime/task.h"

nova::runtime::Task<int> Load();

nova::runtime::Task<int> Use() {
#ifdef WRONG
  NOVA_TRY(auto value, co_await Load());
#else
  NOVA_CO_TRY(auto value, co_await Load());
#endif
  co_return value;
}
