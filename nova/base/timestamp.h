// A time as people and machines both read it.
#pragma once

#include <chrono>
#include <ctime>
#include <string>

#include "nova/base/clock.h"

namespace nova {

// In UTC, whole seconds: "2026-01-31T12:00:00Z".
inline std::string Timestamp(WallTime time) {
  const std::time_t seconds = std::chrono::system_clock::to_time_t(time);
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  char text[sizeof "2026-01-31T12:00:00Z"];
  return {text, std::strftime(text, sizeof text, "%FT%TZ", &parts)};
}

}  // namespace nova
