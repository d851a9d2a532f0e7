// Settings of the identity service.
#pragma once

#include "nova/auth/jwt.h"
#include "nova/auth/password.h"
#include "nova/config/config.h"
#include "nova/postgres/config.h"

namespace nova::identity {

struct IdentityConfig {
  postgres::PoolConfig database;
  auth::JwtConfig jwt;
  auth::PasswordConfig password;
};

void Bind(config::Config& config, IdentityConfig& identity);

}  // namespace nova::identity
