#include "nova/config/topology.h"

#include <algorithm>

namespace nova::config {

const ServiceSpec* Topology::Find(std::string_view name) const {
  const auto found = std::ranges::find(services, name, &ServiceSpec::name);
  return found == services.end() ? nullptr : &*found;
}

bool Topology::HasPrincipal(std::string_view name) const {
  return std::ranges::find(principals, name) != principals.end();
}

int Topology::ConnectionBudget() const {
  int sum = 0;
  for (const ServiceSpec& service : services) sum += service.max_db_connections;
  return sum * pgbouncer_replicas;
}

}  // namespace nova::config
