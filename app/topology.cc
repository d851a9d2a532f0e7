#include "app/topology.h"

#include <chrono>

#include "app/modules.h"

namespace nova::app {
namespace {

struct ServiceRow {
  const char* name;
  int port_offset;
  int max_db_connections;
};

// Sum 90 per PgBouncer replica; two replicas fit under max_connections 200 with 20 kept for migrations and people.
constexpr ServiceRow kServices[] = {
    {"identity", 1, 15}, {"user", 2, 10},          {"content", 3, 15}, {"social", 4, 15},
    {"media", 5, 5},     {"communication", 6, 10}, {"search", 7, 10},  {"events", 8, 10},
};
constexpr int kAdminOffset = 100;

}  // namespace

config::Topology FullTopology(int port_base) {
  config::Topology topology;
  for (const ServiceRow& row : kServices) {
    topology.services.push_back({.name = row.name,
                                 .grpc_port = port_base + row.port_offset,
                                 .admin_port = port_base + row.port_offset + kAdminOffset,
                                 .database = row.name,
                                 .role = row.name,
                                 .max_db_connections = row.max_db_connections});
    topology.principals.emplace_back(row.name);
  }
  // The gateway, and three for people and tools.
  for (const char* principal : {"gateway", "operator", "probe", "audit"}) topology.principals.emplace_back(principal);
  topology.gateway_port = port_base;
  topology.gateway_admin_port = port_base + kAdminOffset;
  topology.pgbouncer_port = port_base + 32;
  topology.postgres_port = port_base + 33;
  topology.redis_port = port_base + 79;
  topology.pgbouncer_exporter_port = 9127;
  topology.pgbouncer_replicas = 2;
  topology.pgbouncer_default_pool_size = 25;
  topology.pgbouncer_max_client_conn = 1000;
  topology.pgbouncer_query_timeout = std::chrono::seconds(30);
  topology.pgbouncer_server_lifetime = std::chrono::seconds(3600);
  topology.postgres_max_connections = 200;
  topology.postgres_reserved_connections = 20;
  return topology;
}

config::Topology LocalTopology(int port_base) {
  config::Topology topology = FullTopology(port_base);
  std::erase_if(topology.services,
                [](const config::ServiceSpec& service) { return FindModule(service.name) == nullptr; });
  topology.pgbouncer_replicas = 1;
  return topology;
}

}  // namespace nova::app
