#include "services/identity/config.h"

namespace nova::identity {

void Bind(config::Config& config, IdentityConfig& identity) {
  Bind(config, identity.database);
  Bind(config, identity.jwt);
  Bind(config, identity.password);
}

}  // namespace nova::identity
