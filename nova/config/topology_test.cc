#include "nova/config/topology.h"

#include <gtest/gtest.h>

namespace nova::config {
namespace {

Topology Two() {
  Topology topology;
  topology.services = {{.name = "identity", .grpc_port = 1, .admin_port = 2, .max_db_connections = 15},
                       {.name = "user", .grpc_port = 3, .admin_port = 4, .max_db_connections = 10}};
  topology.principals = {"identity", "user", "operator"};
  topology.pgbouncer_replicas = 2;
  return topology;
}

TEST(Topology, FindsAServiceByName) {
  const Topology topology = Two();
  ASSERT_NE(topology.Find("user"), nullptr);
  EXPECT_EQ(topology.Find("user")->grpc_port, 3);
  EXPECT_EQ(topology.Find("operator"), nullptr);
  EXPECT_EQ(topology.Find(""), nullptr);
}

TEST(Topology, KnowsPrincipalsThatAreNoServices) {
  EXPECT_TRUE(Two().HasPrincipal("operator"));
  EXPECT_FALSE(Two().HasPrincipal("opera"));
}

TEST(Topology, BudgetCountsEveryPoolerReplica) { EXPECT_EQ(Two().ConnectionBudget(), 50); }

}  // namespace
}  // namespace nova::config
