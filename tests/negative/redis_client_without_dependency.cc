// must not compile: no matching constructor for initialization of 'nova::redis::Client'
#include "nova/redis/client.h"

void Use(nova::runtime::Runtime& runtime, nova::telemetry::Metrics& metrics) {
#ifdef WRONG
  nova::redis::Client redis(runtime, metrics, nova::redis::ClientConfig());
#else
  nova::resilience::CacheDependency cache("cache", metrics);
  nova::redis::Client redis(runtime, metrics, cache, nova::redis::ClientConfig());
#endif
}
