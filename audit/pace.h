// How the checks that take their time go about it: they say what they do, look again and again, and end soon when
// somebody wants them to.
#pragma once

#include <functional>
#include <string>

#include "audit/audit.h"
#include "nova/base/clock.h"
#include "nova/runtime/runtime.h"

namespace nova::audit {

void Say(const AuditConfig& config, const std::string& what);

// Somebody wants the audit to end.
bool IsInterrupted(const AuditConfig& config);

// Returns once `condition` holds; false if `limit` has passed, or the audit is interrupted, without. Blocks.
bool AwaitCondition(runtime::Runtime& runtime, const AuditConfig& config, Duration limit,
                    const std::function<bool()>& condition);

}  // namespace nova::audit
