// Store: user's tables (schema/) and its outbox. SQL only; every rule is the service's. What must happen together is
// one function, and one transaction.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "nova/events/outbox.h"
#include "nova/postgres/pool.h"
#include "nova/runtime/call.h"
#include "nova/runtime/task.h"
#include "services/user/profile.h"
#include "services/user/settings.h"

namespace nova::user {

// What is stored of one user. Of a deleted one the settings are gone; those here mean nothing.
struct StoredUser {
  User user;
  Settings settings;
};

// What became of a user, for the event that tells of it.
enum class Happening { kUpdated, kBanned, kUnbanned, kDeleted };

// Thread-safe. Errors, deadline and cancellation of every function: those of postgres::Pool::Query; of Change those of
// Pool::InTransaction. Users that were deleted are found by their id, as what is left of them.
class Store {
 public:
  // Both must outlive the store; `outbox` writes to the same database.
  Store(postgres::Pool& pool, events::Outbox& outbox) : pool_(pool), outbox_(outbox) {}

  // Nothing if there is none.
  runtime::Task<std::optional<User>> FindById(runtime::Call& call, Uuid id);
  runtime::Task<std::optional<User>> FindByUsername(runtime::Call& call, const std::string& username);
  // Those there are, in no order.
  runtime::Task<std::vector<User>> FindByIds(runtime::Call& call, const std::vector<Uuid>& ids);
  // Nothing for a deleted user, too.
  runtime::Task<std::optional<Settings>> FindSettings(runtime::Call& call, Uuid user);

  // Appends UserCreated, all within a transaction of somebody else's. False if the id is known, deleted users included.
  // Errors: ALREADY_EXISTS if the username is another user's.
  runtime::Task<bool> InsertUser(runtime::Call& call, postgres::Transaction& transaction, const StoredUser& stored);

  // Decides what becomes of a user that nobody else can write meanwhile: changes what is stored and says what has
  // happened, of which an event is appended. Nothing: the user stays as it is (the settings may change all the same, if
  // they have another version then). An error: nothing is changed, and it is the error of Change. Id, username and time
  // of creation are not written.
  // May be asked again, of a user who has changed meanwhile.
  using Decision = std::function<Result<std::optional<Happening>>(StoredUser&)>;
  // What is stored afterwards. Nothing if there is no such user, of whom nothing is decided.
  runtime::Task<std::optional<StoredUser>> Change(runtime::Call& call, Uuid id, Decision decide);

 private:
  runtime::Task<void> Write(runtime::Call& call, postgres::Transaction& transaction, const User& user,
                            Happening happening);

  postgres::Pool& pool_;
  events::Outbox& outbox_;
};

}  // namespace nova::user
