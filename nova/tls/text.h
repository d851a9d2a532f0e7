// Text for messages; included by the sources of this folder only.
#pragma once

#include <ctime>
#include <initializer_list>
#include <string>
#include <string_view>

#include "nova/base/clock.h"

namespace nova::tls {

inline std::string Concat(std::initializer_list<std::string_view> parts) {
  std::string text;
  for (const std::string_view part : parts) text.append(part);
  return text;
}

// "2026-01-31T12:00:00Z".
inline std::string Timestamp(WallTime time) {
  const std::time_t seconds = std::chrono::system_clock::to_time_t(time);
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  char text[sizeof "2026-01-31T12:00:00Z"];
  return {text, std::strftime(text, sizeof text, "%FT%TZ", &parts)};
}

}  // namespace nova::tls
