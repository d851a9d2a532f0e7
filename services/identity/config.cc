#include "services/identity/config.h"

namespace nova::identity {
namespace {

using std::chrono::days;
using std::chrono::hours;
using std::chrono::minutes;
using std::chrono::seconds;

void Bind(config::Config& config, SessionConfig& session) {
  config.Field("identity.refresh_lifetime", session.refresh_lifetime,
               {.help = "a session ends so long after its last refresh", .min = minutes(1), .max = days(365)});
  config.Field("identity.session_lifetime_max", session.session_lifetime_max,
               {.help = "a session ends so long after its log-in", .min = minutes(1), .max = days(3650)});
  // The lower limit is the longest that RefreshToken may take (api/identity/v2/identity.proto).
  config.Field(
      "identity.refresh_grace", session.refresh_grace,
      {.help = "the refresh token spent last yields its successor for so long", .min = seconds(2), .max = minutes(1)});
  config.Field("identity.sessions_max", session.sessions_max,
               {.help = "live sessions of one account", .min = 1, .max = 10'000});
  config.Field("identity.session_retention", session.session_retention,
               {.help = "an ended session stays in the table for so long", .min = seconds(0), .max = days(3650)});
}

void Bind(config::Config& config, LockoutConfig& lockout) {
  config.Field("identity.lockout_threshold", lockout.lockout_threshold,
               {.help = "failed log-ins in a row until further ones must wait", .min = 2, .max = 1000});
  config.Field("identity.lockout_base", lockout.lockout_base,
               {.help = "the first wait; it doubles with each failure", .min = seconds(1), .max = hours(1)});
  config.Field("identity.lockout_max", lockout.lockout_max,
               {.help = "the longest wait", .min = seconds(1), .max = hours(24)});
  config.Field("identity.lockout_forget", lockout.lockout_forget,
               {.help = "failures are forgotten after so long without an attempt", .min = minutes(1), .max = days(30)});
  config.Field("identity.devices_max", lockout.devices_max,
               {.help = "devices by which one account is recognised", .min = 1, .max = 1000});
  config.Field("identity.device_lifetime", lockout.device_lifetime,
               {.help = "a device is forgotten after so long without a log-in", .min = hours(1), .max = days(3650)});
}

void Bind(config::Config& config, ResetConfig& reset) {
  config.Field("identity.reset_lifetime", reset.reset_lifetime,
               {.help = "a password reset is good for so long", .min = minutes(1), .max = days(1)});
  // The lower limit is the longest that RequestPasswordReset may take, so that repeating it has no further effect.
  config.Field("identity.reset_interval", reset.reset_interval,
               {.help = "one password reset for an address in so long", .min = seconds(5), .max = hours(1)});
}

}  // namespace

void Bind(config::Config& config, IdentityConfig& identity) {
  Bind(config, identity.password);
  Bind(config, identity.service.session);
  Bind(config, identity.service.lockout);
  Bind(config, identity.service.reset);
  config.Field("identity.housekeeping_interval", identity.service.housekeeping_interval,
               {.help = "between two rounds of deleting what has expired", .min = seconds(1), .max = hours(24)});
}

Result<void> Validate(const ServiceConfig& service) {
  if (service.session.refresh_lifetime > service.session.session_lifetime_max)
    return InvalidArgument(
        "identity.refresh_lifetime: it is longer than identity.session_lifetime_max; shorten the former, or lengthen "
        "the latter");
  if (service.lockout.lockout_base > service.lockout.lockout_max)
    return InvalidArgument(
        "identity.lockout_base: it is longer than identity.lockout_max; shorten the former or lengthen the latter");
  // Else waiting for the lock to end would clear the count as well.
  if (service.lockout.lockout_max >= service.lockout.lockout_forget)
    return InvalidArgument(
        "identity.lockout_max: it must be shorter than identity.lockout_forget; shorten the former or lengthen the "
        "latter");
  // Else there would be times in which nobody could have a reset: none that is good, and none to be had.
  if (service.reset.reset_interval > service.reset.reset_lifetime)
    return InvalidArgument(
        "identity.reset_interval: it is longer than identity.reset_lifetime; shorten the former or lengthen the "
        "latter");
  return Ok();
}

}  // namespace nova::identity
