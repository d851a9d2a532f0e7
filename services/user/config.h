// Settings of the user service.
#pragma once

#include <chrono>

#include "nova/config/config.h"

namespace nova::user {

struct UserConfig {
  // How long Redis keeps a profile for readers other than its owner. Writes replace it at once; this bounds how old an
  // answer can be when Redis missed one.
  std::chrono::milliseconds cache_ttl = std::chrono::seconds(60);
  // How long it keeps that there is no such user: also how late a new user may appear to those who asked too early.
  std::chrono::milliseconds cache_negative_ttl = std::chrono::seconds(1);
};

void Bind(config::Config& config, UserConfig& user);

}  // namespace nova::user
