// The shape of a deployment: who exists, on which port, with how many connections. Types only; the one table of
// figures stands in app/, and everything that needs a figure is handed this struct.
#pragma once

#include <chrono>
#include <string>
#include <string_view>
#include <vector>

namespace nova::config {

struct ServiceSpec {
  std::string name = {};
  int grpc_port = 0;
  int admin_port = 0;
  // PostgreSQL: one database and one role per service.
  std::string database = {};
  std::string role = {};
  // PgBouncer's max_db_connections for that database, per PgBouncer replica.
  int max_db_connections = 0;
};

struct Topology {
  std::vector<ServiceSpec> services = {};
  // Everyone who holds a certificate: the services, and people and tools. The SAN is spiffe://nova/<name>.
  std::vector<std::string> principals = {};

  int gateway_port = 0;
  int gateway_admin_port = 0;
  int pgbouncer_port = 0;
  int pgbouncer_exporter_port = 0;
  int postgres_port = 0;
  int redis_port = 0;

  int pgbouncer_replicas = 1;
  int pgbouncer_default_pool_size = 0;
  int pgbouncer_max_client_conn = 0;
  std::chrono::seconds pgbouncer_query_timeout{0};
  std::chrono::seconds pgbouncer_server_lifetime{0};
  int postgres_max_connections = 0;
  // Of postgres_max_connections: kept for migrations and people.
  int postgres_reserved_connections = 0;

  // Null if there is no service of that name.
  const ServiceSpec* Find(std::string_view name) const;
  bool HasPrincipal(std::string_view name) const;
  // What the pools of all services may open at PostgreSQL, over all PgBouncer replicas.
  int ConnectionBudget() const;
};

}  // namespace nova::config
