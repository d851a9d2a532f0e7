#include "nova/config/app_env.h"

#include <gtest/gtest.h>

namespace nova::config {
namespace {

AppEnv Read(Sources sources) {
  Config config(std::move(sources));
  AppEnv env = AppEnv::kDevelopment;
  Bind(config, env);
  const auto finished = config.Finish();
  EXPECT_TRUE(finished) << finished.error().message();
  return env;
}

TEST(AppEnv, IsDevelopmentUnlessSaidOtherwise) { EXPECT_EQ(Read({}), AppEnv::kDevelopment); }

TEST(AppEnv, ComesFromItsVariable) {
  EXPECT_EQ(Read({.environment = {{"APP_ENV", "staging"}}}), AppEnv::kStaging);
  EXPECT_EQ(Read({.environment = {{"APP_ENV", "production"}}}), AppEnv::kProduction);
}

TEST(AppEnv, AnUnknownNameIsRefusedAndNeverFallsBackToDevelopment) {
  Config config({.environment = {{"APP_ENV", "prod"}}});
  AppEnv env = AppEnv::kProduction;
  Bind(config, env);
  const auto finished = config.Finish();
  ASSERT_FALSE(finished);
  EXPECT_EQ(finished.error().message(), "APP_ENV must be one of development, staging, production, not \"prod\"");
  EXPECT_EQ(env, AppEnv::kProduction);
}

}  // namespace
}  // namespace nova::config
