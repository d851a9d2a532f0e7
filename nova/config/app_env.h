// Which kind of deployment this is. Staging and production refuse what development only warns about.
#pragma once

#include <cstdint>
#include <string_view>

#include "nova/config/config.h"

namespace nova::config {

enum class AppEnv : std::uint8_t { kDevelopment, kStaging, kProduction };

// "development", "staging", "production".
std::string_view AppEnvName(AppEnv env);

// Reads APP_ENV (or --app-env, or `app_env:`); anything but the three names is refused.
void Bind(Config& config, AppEnv& env);

}  // namespace nova::config
