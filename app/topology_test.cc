#include "app/topology.h"

#include <gtest/gtest.h>

#include "app/modules.h"

namespace nova::app {
namespace {

TEST(TopologyTest, TheConnectionBudgetFitsUnderPostgresMaxConnections) {
  const auto topology = FullTopology(kPortBaseDefault);
  EXPECT_EQ(topology.ConnectionBudget(), 180);
  EXPECT_LE(topology.ConnectionBudget() + topology.postgres_reserved_connections, topology.postgres_max_connections);
  for (const auto& service : topology.services)
    EXPECT_LE(service.max_db_connections, topology.pgbouncer_default_pool_size) << service.name;
}

TEST(TopologyTest, NobodySharesAPort) {
  const auto topology = FullTopology(kPortBaseDefault);
  std::set<int> ports = {topology.gateway_port, topology.gateway_admin_port, topology.pgbouncer_port,
                         topology.postgres_port, topology.redis_port};
  EXPECT_EQ(ports.size(), 5U);
  for (const auto& service : topology.services) {
    EXPECT_TRUE(ports.insert(service.grpc_port).second) << service.name;
    EXPECT_TRUE(ports.insert(service.admin_port).second) << service.name;
  }
}

TEST(TopologyTest, OneMachineRunsTheServicesThatHaveAModule) {
  const auto topology = LocalTopology(17'400);
  EXPECT_EQ(topology.services.size(), Modules().size());
  ASSERT_NE(topology.Find("identity"), nullptr);
  EXPECT_EQ(topology.Find("identity")->grpc_port, 17'401);
  EXPECT_EQ(topology.Find("identity")->admin_port, 17'501);
  EXPECT_EQ(topology.principals.size(), 12U);
}

}  // namespace
}  // namespace nova::app
