// ProfileCache: profiles as Redis keeps them for a while, for readers other than their owners. It holds whole rows;
// what of them a reader may see is the service's to decide.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "nova/base/result.h"
#include "nova/redis/cache.h"
#include "nova/redis/client.h"
#include "nova/runtime/call.h"
#include "nova/runtime/runtime.h"
#include "nova/runtime/task.h"
#include "nova/telemetry/metrics.h"
#include "services/user/config.h"
#include "services/user/profile.h"
#include "services/user/store.h"

namespace nova::user {

// The text in which a profile is kept. Decode yields nothing for what Encode never makes.
std::string Encode(const User& user);
std::optional<User> Decode(std::string_view text);

// Thread-safe. Errors, deadline and cancellation of the finders: those of redis::Cache::Get and of Store; never an
// error of Redis, without which everything comes from the store. Users that were deleted are not found.
class ProfileCache {
 public:
  // All references must outlive it. A call waits for Redis as long as the client's dependency grants, before it turns
  // to the database: so that should be one of its own, with a short timeout.
  ProfileCache(runtime::Runtime& runtime, telemetry::Metrics& metrics, redis::Client& redis, Store& store,
               const UserConfig& config);

  runtime::Task<std::optional<User>> FindById(runtime::Call& call, Uuid id);
  // Those there are, in no order. Precondition: no id stands twice.
  runtime::Task<std::vector<User>> FindByIds(runtime::Call& call, const std::vector<Uuid>& ids);
  // The name is folded.
  runtime::Task<std::optional<User>> FindByUsername(runtime::Call& call, std::string username);

  // To be called after every commit that changed, or may have changed, the user; `username` if that went. Goes on when
  // the call has ended, for the timeout of the client's dependency at most with each of the two. If Redis does not take
  // it, readers may see the old profile until its TTL; there is nothing a caller could do about it.
  runtime::Awaitable<void> Forget(runtime::Call& call, Uuid id, std::optional<std::string> username = std::nullopt);

  // Ends the loads that run; before its end. Blocks for `limit` at most. Errors: DEADLINE_EXCEEDED.
  Result<void> Close(Duration limit);

 private:
  // Constant after construction.
  Store& store_;
  redis::Cache profiles_;  // by id
  redis::Cache names_;     // the id, by username
};

}  // namespace nova::user
