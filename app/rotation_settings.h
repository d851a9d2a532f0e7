// What both doors of the rotation are told: `nova secrets` and `nova lambda`.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "nova/base/result.h"
#include "nova/config/app_env.h"
#include "nova/config/config.h"
#include "nova/runtime/runtime.h"
#include "nova/secrets/aws.h"
#include "nova/secrets/rotation.h"
#include "nova/telemetry/metrics.h"

namespace nova::app {

struct RotationSettings {
  std::string secret;
  std::string public_secret;
  // Zero: as long as everybody takes with the default refresh intervals, and a minute.
  std::chrono::milliseconds announce{0};
  // Empty: that of the version before.
  std::string algorithm;
  secrets::AwsConfig aws;
  config::AppEnv app_env = config::AppEnv::kDevelopment;

  void Bind(config::Config& config);

  // Of the settings above. Errors: INVALID_ARGUMENT.
  Result<secrets::RotationConfig> ToConfig() const;
  // Contacts nobody. Errors: INVALID_ARGUMENT naming the setting and the remedy.
  Result<std::unique_ptr<secrets::Aws>> Connect(runtime::Runtime& runtime, telemetry::Metrics& metrics) const;
};

}  // namespace nova::app
