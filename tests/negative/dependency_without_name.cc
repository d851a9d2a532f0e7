// must not compile: no matching constructor for initialization of 'nova::resilience::DatabaseDependency'
#include "nova/resilience/dependency.h"

void Use(nova::telemetry::Metrics& metrics) {
#ifdef WRONG
  nova::resilience::DatabaseDependency database(metrics);
#else
  nova::resilience::DatabaseDependency database("postgres", metrics);
#endif
}
