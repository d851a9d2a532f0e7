// What an app does with this backend, step by step.
#pragma once

#include <chrono>
#include <string>

#include "app/demo_stage.h"
#include "nova/telemetry/metrics.h"
#include "nova/tls/credentials.h"

namespace nova::app {

// host:port of the services.
struct DemoTargets {
  std::string identity;
  std::string user;
};

// Longest the whole scenario may take.
inline constexpr std::chrono::seconds kDemoLimit{60};

// Makes an account of its own, and uses and deletes it, as `me` and over connections of its own. Blocks; not to be
// called from a task. Errors: why it could not go on; the steps tell what failed.
Result<void> RunDemo(Stage& stage, const DemoTargets& targets, const tls::ChannelIdentity& me,
                     telemetry::Metrics& metrics);

}  // namespace nova::app
