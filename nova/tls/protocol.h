// The TLS version of the whole process.
#pragma once

#include "nova/base/result.h"

namespace nova::tls {

// Makes TLS 1.3 the only protocol of every OpenSSL context made from now on: gRPC's, libpq's and our own. gRPC has no
// setting for this, and a minimum version set from outside is overridden by its own; protocols that OpenSSL's process
// configuration switches off stay off. Call it first in main, before anything that uses TLS and before there are
// threads; calling it again changes nothing. Errors: FAILED_PRECONDITION if OpenSSL refuses the configuration or does
// not follow it.
Result<void> RequireTls13();

}  // namespace nova::tls
