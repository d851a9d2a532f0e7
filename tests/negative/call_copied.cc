// must not compile: call to deleted constructor of 'nova::runtime::Call'
#include "nova/runtime/call.h"

void Use(nova::runtime::Call& call) {
#ifdef WRONG
  nova::runtime::Call copy = call;
#else
  nova::runtime::Call copy(call, std::chrono::seconds(1));
#endif
}
