// must not compile: no matching constructor for initialization of 'nova::postgres::Pool'
#include "nova/postgres/pool.h"

void Use(nova::runtime::Runtime& runtime, nova::telemetry::Metrics& metrics) {
#ifdef WRONG
  nova::postgres::Pool pool(runtime, metrics, nova::postgres::PoolConfig());
#else
  nova::resilience::DatabaseDependency database("postgres", metrics);
  nova::postgres::Pool pool(runtime, metrics, database, nova::postgres::PoolConfig());
#endif
}
