// What user does when other services say something.
#pragma once

#include "nova/events/consumer.h"
#include "services/user/service.h"

namespace nova::user {

// Registers the handlers of identity's events: an account that was registered gets a profile. Call before
// consumer.Start(); `user` must outlive the consumer.
void Consume(events::Consumer& consumer, Service& user);

}  // namespace nova::user
