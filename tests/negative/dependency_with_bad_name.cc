// must not compile: is not a constant expression
#include "nova/resilience/dependency.h"

void Use(nova::telemetry::Metrics& metrics) {
#ifdef WRONG
  nova::resilience::DatabaseDependency database("Postgres 15", metrics);
#else
  nova::resilience::DatabaseDependency database("postgres_15", metrics);
#endif
}
