// must not compile: call to deleted constructor of 'const nova::telemetry::Field'
#include "nova/base/secret.h"
#include "nova/telemetry/log.h"

void Use(const nova::Secret<>& password) {
#ifdef WRONG
  nova::telemetry::LogInfo("connecting", {{"password", password}});
#else
  nova::telemetry::LogInfo("connecting", {{"password given", !password.empty()}});
#endif
}
