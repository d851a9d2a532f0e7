#include "nova/config/app_env.h"

#include <algorithm>
#include <array>
#include <string>

namespace nova::config {
namespace {

constexpr std::array<std::string_view, 3> kNames = {"development", "staging", "production"};

}  // namespace

std::string_view AppEnvName(AppEnv env) { return kNames[static_cast<std::size_t>(env)]; }

void Bind(Config& config, AppEnv& env) {
  std::string name(AppEnvName(env));
  config.Field("app_env", name,
               {.help = "staging and production refuse to run without mTLS",
                .env = "APP_ENV",
                .one_of = {kNames.begin(), kNames.end()}});
  env = static_cast<AppEnv>(std::ranges::find(kNames, name) - kNames.begin());
}

}  // namespace nova::config
