#include "nova/redis/config.h"

#include <gtest/gtest.h>

namespace nova::redis {
namespace {

using namespace std::chrono_literals;

struct Bound {
  ClientConfig redis;
  Result<void> finished;
};

Bound BindFrom(std::map<std::string, std::string> environment) {
  Bound bound;
  config::Config config(config::Sources{.args = {}, .environment = std::move(environment)});
  Bind(config, bound.redis);
  bound.finished = config.Finish();
  return bound;
}

TEST(RedisConfig, DefaultsAreSafe) {
  const Bound bound = BindFrom({});
  ASSERT_TRUE(bound.finished.ok());
  EXPECT_TRUE(bound.redis.tls);
  EXPECT_EQ(bound.redis.reply_limit, 5s);
}

TEST(RedisConfig, ReadsTheEnvironment) {
  const Bound bound = BindFrom({{"NOVA_REDIS_HOST", "redis"},
                                {"NOVA_REDIS_PORT", "7479"},
                                {"NOVA_REDIS_USER", "identity"},
                                {"NOVA_REDIS_PASSWORD", "hidden"},
                                {"NOVA_REDIS_TLS", "false"},
                                {"NOVA_REDIS_CA_PATH", "/ca.crt"},
                                {"NOVA_REDIS_SERVER_NAME", "redis.nova.svc.cluster.local"},
                                {"NOVA_REDIS_CONNECTIONS", "3"},
                                {"NOVA_REDIS_BLOCKING_CONNECTIONS_MAX", "5"},
                                {"NOVA_REDIS_PIPELINE_MAX", "17"},
                                {"NOVA_REDIS_QUEUED_BYTES_MAX", "9000"},
                                {"NOVA_REDIS_REPLY_LIMIT", "1s"},
                                {"NOVA_REDIS_CONNECTION_LIFETIME", "10m"},
                                {"NOVA_REDIS_REPLY_BYTES_MAX", "4096"}});
  ASSERT_TRUE(bound.finished.ok()) << bound.finished.error().ToString();
  EXPECT_EQ(bound.redis.host, "redis");
  EXPECT_EQ(bound.redis.port, 7479);
  EXPECT_EQ(bound.redis.user, "identity");
  EXPECT_EQ(bound.redis.password.Expose(), "hidden");
  EXPECT_FALSE(bound.redis.tls);
  EXPECT_EQ(bound.redis.ca_path, "/ca.crt");
  EXPECT_EQ(bound.redis.server_name, "redis.nova.svc.cluster.local");
  EXPECT_EQ(bound.redis.connections, 3);
  EXPECT_EQ(bound.redis.blocking_connections_max, 5);
  EXPECT_EQ(bound.redis.pipeline_max, 17);
  EXPECT_EQ(bound.redis.queued_bytes_max, 9000);
  EXPECT_EQ(bound.redis.reply_limit, 1s);
  EXPECT_EQ(bound.redis.connection_lifetime, 600s);
  EXPECT_EQ(bound.redis.reply_bytes_max, 4096);
}

TEST(RedisConfig, ValidateNamesTheSettingAndTheRemedy) {
  const auto refused = [](const ClientConfig& redis, std::string_view variable) {
    const Result<void> valid = Validate(redis);
    return !valid && valid.error().code() == Code::kInvalidArgument &&
           valid.error().message().find(variable) != std::string::npos;
  };
  ClientConfig redis;
  EXPECT_TRUE(refused(redis, "NOVA_REDIS_CA_PATH"));
  redis.ca_path = "/does/not/exist";
  EXPECT_TRUE(refused(redis, "NOVA_REDIS_CA_PATH"));
  redis.ca_path = "/dev/null";
  EXPECT_TRUE(Validate(redis).ok());
  redis.tls = false;
  redis.ca_path = "";
  EXPECT_TRUE(Validate(redis).ok());
  redis.user = "identity";
  EXPECT_TRUE(refused(redis, "NOVA_REDIS_PASSWORD"));
  redis.password = Secret<>("x");
  EXPECT_TRUE(Validate(redis).ok());
  redis.reconnect_delay_min = 3s;
  EXPECT_TRUE(refused(redis, "NOVA_REDIS_RECONNECT_DELAY_MIN"));
  redis.reconnect_delay_min = 1s;
  redis.host = "";
  EXPECT_TRUE(refused(redis, "NOVA_REDIS_HOST"));
}

}  // namespace
}  // namespace nova::redis
