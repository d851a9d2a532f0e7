#include "services/user/config.h"

namespace nova::user {

using std::chrono::milliseconds;
using std::chrono::seconds;

void Bind(config::Config& config, UserConfig& user) {
  config.Field("user.cache_ttl", user.cache_ttl,
               {.help = "how long others may see an old profile if Redis missed a change",
                .min = seconds(1),
                .max = seconds(3600)});
  config.Field("user.cache_negative_ttl", user.cache_negative_ttl,
               {.help = "how long an unknown user stays unknown", .min = milliseconds(100), .max = seconds(60)});
}

}  // namespace nova::user
