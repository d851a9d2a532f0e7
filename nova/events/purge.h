// Purge: deletes what has outlived its retention, a little at a time and now and then. Internal to this folder.
#pragma once

#include <chrono>
#include <string>

#include "nova/postgres/pool.h"
#include "nova/runtime/call.h"
#include "nova/runtime/task.h"

namespace nova::events {

struct PurgeConfig {
  // For the log: "purging the outbox".
  std::string work;
  // Deletes rows older than $1, $2 of them at most.
  postgres::Statement statement;
  std::chrono::seconds retention;
  // After a failure: doubles from this one on.
  std::chrono::milliseconds retry_delay_min;
};

// Works until the call ends.
runtime::Task<void> PurgeNowAndThen(runtime::Call& call, postgres::Pool& pool, const Clock& clock, PurgeConfig config);

}  // namespace nova::events
