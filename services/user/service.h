// User: profiles and settings. A profile is made when identity tells of a registration, and what happens to it is told
// to every other service.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "nova/base/clock.h"
#include "nova/base/result.h"
#include "nova/postgres/pool.h"
#include "nova/runtime/call.h"
#include "nova/runtime/task.h"
#include "nova/telemetry/metrics.h"
#include "services/user/profile.h"
#include "services/user/profile_cache.h"
#include "services/user/settings.h"
#include "services/user/store.h"

namespace nova::user {

struct NewUser {
  Uuid id;
  // As identity stored it.
  std::string username;
  WallTime registered_at;
};

// The answer for one id of GetUsersByIds.
struct UserEntry {
  Uuid id;
  std::optional<User> user;
};

inline constexpr std::size_t kIdsMax = 100;

// Thread-safe. "The caller" is the call's; what concerns the caller's own profile has these errors besides those it
// names: UNAUTHENTICATED without a caller; UNAVAILABLE while the profile is still being made, which takes as long as
// the event from identity: trying again is right; NOT_FOUND once it was deleted. Every function may also end with
// RESOURCE_EXHAUSTED when too many calls wait for the database; UNAVAILABLE without the database; why the call ended.
// Cancellation: at once, the statement under way included. Deadline: the call's.
class Service {
 public:
  // All references must outlive the service, and `cache` too; without one (null) every read goes to the store.
  Service(Store& store, ProfileCache* cache, telemetry::Metrics& metrics, const Clock& clock = Clock::System());

  // The three below yield what the caller, if there is one, may see: everything of the own profile, which is read
  // afresh; of others what ForOthers leaves, from the cache.

  // Errors: INVALID_ARGUMENT for what is no UUID; NOT_FOUND.
  runtime::Task<User> GetUser(runtime::Call& call, std::string id);

  // One entry for each id, in their order, repetitions included; without a user where there is none. Errors:
  // INVALID_ARGUMENT for more than kIdsMax ids, and for what is no UUID, naming its place.
  runtime::Task<std::vector<UserEntry>> GetUsersByIds(runtime::Call& call, std::vector<std::string> ids);

  // In any spelling that folds to the name. Errors: INVALID_ARGUMENT for an empty name; NOT_FOUND.
  runtime::Task<User> GetUserByUsername(runtime::Call& call, std::string username);

  // Changes the caller's own profile. Errors: INVALID_ARGUMENT naming the field; ABORTED, with nothing changed, if it
  // has another version than expected; PERMISSION_DENIED if the user is banned.
  runtime::Task<User> UpdateProfile(runtime::Call& call, ProfileUpdate update);

  // The caller's own.
  runtime::Task<Settings> GetSettings(runtime::Call& call);

  // As UpdateProfile. What others notice of it is a change of the profile too, which then has a new version.
  runtime::Task<Settings> UpdateSettings(runtime::Call& call, SettingsUpdate update);

  // For operators; they yield the whole profile. What is so already is left as it is. Errors: INVALID_ARGUMENT naming
  // the field; NOT_FOUND.
  runtime::Task<User> BanUser(runtime::Call& call, std::string id, std::string reason);
  runtime::Task<User> UnbanUser(runtime::Call& call, std::string id);
  runtime::Task<User> VerifyUser(runtime::Call& call, std::string id, bool verified);

  // Erases what is known of the caller; done before, it does nothing.
  runtime::Task<void> DeleteUser(runtime::Call& call);

  // Makes the profile of a new account, in the transaction of the event that tells of it. A user that is known, or was
  // deleted, stays as it is. Errors: INVALID_ARGUMENT for a username that identity cannot have stored; ALREADY_EXISTS
  // if another user has it, which identity rules out.
  runtime::Task<void> CreateUser(runtime::Call& call, postgres::Transaction& transaction, NewUser account);

 private:
  // Whole profiles, from the cache if there is one: what of them others may see is decided last. Those that were
  // deleted are not found.
  runtime::Task<std::vector<User>> FindByIds(runtime::Call& call, const std::vector<Uuid>& ids);
  runtime::Task<std::optional<User>> FindByUsername(runtime::Call& call, const std::string& username);
  // The caller's own, afresh.
  runtime::Task<User> FindOwn(runtime::Call& call, Uuid own);

  // Store::Change, after which readers see the change.
  runtime::Task<std::optional<StoredUser>> Change(runtime::Call& call, Uuid id, Store::Decision decide);
  // `change` returns false if there is nothing to change.
  runtime::Task<User> Moderate(runtime::Call& call, std::string id, Happening happening,
                               std::function<bool(User&)> change);
  void CountUpdate(Code outcome);
  // Makes the next version of it.
  void Touch(User& user) const;

  // Constant after construction.
  Store& store_;
  ProfileCache* const cache_;
  const Clock& clock_;
  prometheus::Counter& created_;
  prometheus::Counter& known_;
  prometheus::Counter& updated_;
  prometheus::Counter& conflicts_;
  prometheus::Counter& refused_;
  prometheus::Counter& moderated_;
  prometheus::Counter& deleted_;
};

}  // namespace nova::user
