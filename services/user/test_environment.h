// What user's tests share: the service over a real database, reached through PgBouncer as in production.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "services/user/migrations.h"
#include "services/user/service.h"
#include "tests/service_fixture.h"

namespace nova::user {

inline constexpr char kName[] = "user";

class UserTest : public tests::ServiceFixture<kName, Migrations> {
 protected:
  // The events told of a user, oldest first: "UserCreated UserUpdated".
  static std::string EventsOf(Uuid id) {
    return ValueOf(
        "SELECT string_agg(replace(type, 'nova.events.v1.', ''), ' ' ORDER BY sequence) FROM events.outbox "
        "WHERE aggregate = 'user/" +
        id.ToString() + "'");
  }

  // What the event of a registration does.
  Result<void> Create(const NewUser& account) {
    return Run<void>([&](runtime::Call& call) {
      return outbox_.InTransaction(
          call, [&](postgres::Transaction& transaction) { return service_.CreateUser(call, transaction, account); });
    });
  }
  // The id of a new user.
  Uuid Made(std::string username) {
    const Uuid id = Uuid::New(clock_);
    const auto created = Create({.id = id, .username = std::move(username), .registered_at = clock_.WallNow()});
    EXPECT_TRUE(created) << created.error().ToString();
    return id;
  }

  Result<User> Get(Uuid id, tests::As caller = {}) {
    return Run<User>(caller, [&](runtime::Call& call) { return service_.GetUser(call, id.ToString()); });
  }
  Result<std::vector<UserEntry>> GetMany(std::vector<std::string> ids, tests::As caller = {}) {
    return Run<std::vector<UserEntry>>(caller, [&](runtime::Call& call) { return service_.GetUsersByIds(call, ids); });
  }
  Result<User> GetByName(std::string username, tests::As caller = {}) {
    return Run<User>(caller, [&](runtime::Call& call) { return service_.GetUserByUsername(call, username); });
  }
  Result<User> Update(Uuid caller, ProfileUpdate update) {
    return Run<User>(caller, [&](runtime::Call& call) { return service_.UpdateProfile(call, update); });
  }
  Result<Settings> GetSettings(Uuid caller) {
    return Run<Settings>(caller, [&](runtime::Call& call) { return service_.GetSettings(call); });
  }
  Result<Settings> Update(Uuid caller, SettingsUpdate update) {
    return Run<Settings>(caller, [&](runtime::Call& call) { return service_.UpdateSettings(call, update); });
  }
  Result<User> Ban(Uuid id, std::string reason = "spam") {
    return Run<User>([&](runtime::Call& call) { return service_.BanUser(call, id.ToString(), reason); });
  }
  Result<User> Unban(Uuid id) {
    return Run<User>([&](runtime::Call& call) { return service_.UnbanUser(call, id.ToString()); });
  }
  Result<User> Verify(Uuid id, bool verified) {
    return Run<User>([&](runtime::Call& call) { return service_.VerifyUser(call, id.ToString(), verified); });
  }
  Result<void> Delete(Uuid caller) {
    return Run<void>(caller, [&](runtime::Call& call) { return service_.DeleteUser(call); });
  }

  Store store_{pool_, outbox_};
  Service service_{store_, nullptr, metrics_, clock_};
};

}  // namespace nova::user
