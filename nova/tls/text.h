// Text for messages; included by the sources of this folder only.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>

#include "nova/base/timestamp.h"

namespace nova::tls {

inline std::string Concat(std::initializer_list<std::string_view> parts) {
  std::string text;
  for (const std::string_view part : parts) text.append(part);
  return text;
}

}  // namespace nova::tls
