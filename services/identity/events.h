// What identity does when other services say something.
#pragma once

#include "nova/events/consumer.h"
#include "services/identity/service.h"

namespace nova::identity {

// Registers the handlers of the user service's events: a ban suspends the account, the end of the ban reinstates it,
// and the end of the user is the end of the account. Call before consumer.Start(); `identity` must outlive the
// consumer.
void Consume(events::Consumer& consumer, Service& identity);

}  // namespace nova::identity
