#include "services/identity/config.h"

#include <functional>
#include <gtest/gtest.h>
#include <utility>

namespace nova::identity {
namespace {

using namespace std::chrono_literals;

TEST(Config, DefaultsAreWithinTheirLimits) {
  IdentityConfig identity;
  config::Config config({});
  Bind(config, identity);
  const auto done = config.Finish();
  EXPECT_TRUE(done) << done.error().ToString();
  EXPECT_TRUE(Validate(identity.service));
}

TEST(Config, KeysReachTheirFields) {
  IdentityConfig identity;
  config::Config config({.args = {"--identity-refresh-grace", "3s", "--identity-lockout-threshold=5"},
                         .environment = {{"NOVA_IDENTITY_RESET_LIFETIME", "10m"}}});
  Bind(config, identity);
  const auto done = config.Finish();
  ASSERT_TRUE(done) << done.error().ToString();
  EXPECT_EQ(identity.service.session.refresh_grace, 3s);
  EXPECT_EQ(identity.service.lockout.lockout_threshold, 5);
  EXPECT_EQ(identity.service.reset.reset_lifetime, 10min);
}

TEST(Config, AGraceShorterThanACallIsRefused) {
  IdentityConfig identity;
  config::Config config({.args = {"--identity-refresh-grace", "1s"}});
  Bind(config, identity);
  EXPECT_FALSE(config.Finish());
}

TEST(Config, WhatDoesNotFitTogetherIsNamed) {
  const std::pair<std::string, std::function<void(ServiceConfig&)>> cases[] = {
      {"identity.refresh_lifetime", [](ServiceConfig& c) { c.session.session_lifetime_max = 1h; }},
      {"identity.lockout_base", [](ServiceConfig& c) { c.lockout.lockout_base = 16min; }},
      {"identity.lockout_max", [](ServiceConfig& c) { c.lockout.lockout_forget = 15min; }},
      {"identity.reset_interval", [](ServiceConfig& c) { c.reset.reset_interval = 31min; }},
  };
  for (const auto& [setting, spoil] : cases) {
    ServiceConfig service;
    spoil(service);
    const auto valid = Validate(service);
    ASSERT_FALSE(valid) << setting;
    EXPECT_EQ(valid.error().code(), Code::kInvalidArgument);
    EXPECT_TRUE(valid.error().message().starts_with(setting + ": ")) << valid.error().message();
  }
}

}  // namespace
}  // namespace nova::identity
