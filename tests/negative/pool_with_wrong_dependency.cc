// must not compile: no matching constructor for initialization of 'nova::postgres::Pool'
#include "nova/postgres/pool.h"

void Use(nova::runtime::Runtime& runtime, nova::telemetry::Metrics& metrics) {
#ifdef WRONG
  nova::resilience::CacheDependency dependency("cache", metrics);
#else
  nova::resilience::DatabaseDependency dependency("postgres", metrics);
#endif
  nova::postgres::Pool pool(runtime, metrics, dependency, nova::postgres::PoolConfig());
}
