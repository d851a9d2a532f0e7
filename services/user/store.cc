#include "services/user/store.h"

#include <array>
#include <google/protobuf/message.h>
#include <memory>
#include <utility>

#include "api/events/v1/user.pb.h"

namespace nova::user {
namespace {

using postgres::Rows;
using postgres::Statement;
using postgres::Transaction;
using runtime::Call;
using runtime::Task;

// One statement: it makes both rows or neither. Another user with that name is an error, not a conflict that is passed
// over: somebody would be without a profile and nobody would know.
constexpr Statement kInsert{
    "insert_user",
    "WITH made AS (INSERT INTO users (id, username, display_name, is_private, discoverable, version, created_at, "
    "updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (id) DO NOTHING RETURNING id) "
    "INSERT INTO user_settings (user_id, language, time_zone, allow_messages_from, email_notifications, "
    "push_notifications, version, updated_at) SELECT id, $9, $10, $11, $12, $13, $14, $15 FROM made"};

#define NOVA_USER_COLUMNS                                                                                          \
  "id, username, display_name, bio, location, website, avatar, is_private, discoverable, verified_at, banned_at, " \
  "ban_reason, deleted_at, users.version, created_at, users.updated_at"
#define NOVA_SETTINGS_COLUMNS                                                                                  \
  "language, time_zone, allow_messages_from, email_notifications, push_notifications, user_settings.version, " \
  "user_settings.updated_at"
constexpr Statement kSelectById{"select_user_by_id", "SELECT " NOVA_USER_COLUMNS " FROM users WHERE id = $1"};
constexpr Statement kSelectByUsername{"select_user_by_username",
                                      "SELECT " NOVA_USER_COLUMNS " FROM users WHERE username = $1"};
constexpr Statement kSelectByIds{"select_users_by_ids", "SELECT " NOVA_USER_COLUMNS " FROM users WHERE id = ANY ($1)"};
constexpr Statement kLock{"lock_user", "SELECT " NOVA_USER_COLUMNS " FROM users WHERE id = $1 FOR UPDATE"};
constexpr Statement kSelectSettings{"select_settings",
                                    "SELECT is_private, discoverable, " NOVA_SETTINGS_COLUMNS
                                    " FROM user_settings JOIN users ON id = user_id WHERE user_id = $1"};
#undef NOVA_USER_COLUMNS
#undef NOVA_SETTINGS_COLUMNS

constexpr Statement kUpdate{
    "update_user",
    "UPDATE users SET display_name = $2, bio = $3, location = $4, website = $5, avatar = $6, is_private = $7, "
    "discoverable = $8, verified_at = $9, banned_at = $10, ban_reason = $11, version = $12, updated_at = $13 "
    "WHERE id = $1"};

constexpr Statement kUpdateSettings{
    "update_settings",
    "UPDATE user_settings SET language = $2, time_zone = $3, allow_messages_from = $4, email_notifications = $5, "
    "push_notifications = $6, version = $7, updated_at = $8 WHERE user_id = $1"};

constexpr Statement kErase{
    "erase_user",
    "WITH gone AS (DELETE FROM user_settings WHERE user_id = $1) "
    "UPDATE users SET username = NULL, display_name = '', bio = '', location = '', website = '', avatar = '', "
    "is_private = false, discoverable = true, verified_at = NULL, banned_at = NULL, ban_reason = '', deleted_at = $2, "
    "version = $3, updated_at = $2 WHERE id = $1"};

struct AudienceName {
  Audience audience;
  std::string_view name;
};
constexpr std::array<AudienceName, 3> kAudiences{
    {{Audience::kEveryone, "everyone"}, {Audience::kFollowers, "followers"}, {Audience::kNobody, "nobody"}}};

std::string_view NameOf(Audience audience) {
  for (const AudienceName& entry : kAudiences) {
    if (entry.audience == audience) return entry.name;
  }
  return {};  // no audience; the table's CHECK refuses it
}

Result<Audience> AudienceOf(std::string_view name) {
  for (const AudienceName& entry : kAudiences) {
    if (entry.name == name) return entry.audience;
  }
  return Internal("the database holds an unknown audience");
}

Result<User> ReadUser(const postgres::Row& row) {
  User user;
  std::optional<std::string> username;
  NOVA_TRY(row.Read(user.id, username, user.display_name, user.bio, user.location, user.website, user.avatar,
                    user.is_private, user.discoverable, user.verified_at, user.banned_at, user.ban_reason,
                    user.deleted_at, user.version, user.created_at, user.updated_at));
  user.username = std::move(username).value_or("");
  return user;
}

Task<std::optional<User>> ReadOne(Task<Rows> query) {
  NOVA_CO_TRY(const Rows rows, co_await std::move(query));
  if (rows.empty()) co_return std::optional<User>();
  NOVA_CO_TRY(User user, ReadUser(rows[0]));
  co_return std::optional(std::move(user));
}

Task<std::optional<Settings>> ReadSettings(Task<Rows> query) {
  NOVA_CO_TRY(const Rows rows, co_await std::move(query));
  if (rows.empty()) co_return std::optional<Settings>();
  Settings settings;
  bool is_private = false;
  std::string audience;
  NOVA_CO_TRY(rows[0].Read(is_private, settings.discoverable, settings.language, settings.time_zone, audience,
                           settings.email_notifications, settings.push_notifications, settings.version,
                           settings.updated_at));
  settings.profile_visibility = is_private ? Visibility::kPrivate : Visibility::kPublic;
  NOVA_CO_TRY(settings.allow_messages_from, AudienceOf(audience));
  co_return std::optional(std::move(settings));
}

// Errors: INTERNAL if it touched no row, which the lock rules out.
Task<void> WriteOne(Task<Rows> query) {
  NOVA_CO_TRY(const Rows rows, co_await std::move(query));
  if (rows.affected() != 1) co_return Internal("the row to write is not there");
  co_return Ok();
}

std::string Aggregate(Uuid user) { return "user/" + user.ToString(); }

std::unique_ptr<google::protobuf::Message> EventOf(Happening happening, const User& user) {
  const auto make = [&]<class Event>(Event event) {
    event.set_user_id(user.id.ToString());
    return std::make_unique<Event>(std::move(event));
  };
  switch (happening) {
    case Happening::kUpdated: {
      auto event = make(events::v1::UserUpdated());
      event->set_username(user.username);
      event->set_display_name(user.display_name);
      event->set_is_public(!user.is_private);
      event->set_verified(user.verified_at.has_value());
      event->set_version(user.version);
      event->set_discoverable(user.discoverable);
      return event;
    }
    case Happening::kBanned: {
      auto event = make(events::v1::UserBanned());
      event->set_version(user.version);
      return event;
    }
    case Happening::kUnbanned: {
      auto event = make(events::v1::UserUnbanned());
      event->set_version(user.version);
      return event;
    }
    case Happening::kDeleted:
      break;
  }
  return make(events::v1::UserDeleted());
}

}  // namespace

Task<std::optional<User>> Store::FindById(Call& call, Uuid id) { return ReadOne(pool_.Query(call, kSelectById, id)); }

Task<std::optional<User>> Store::FindByUsername(Call& call, const std::string& username) {
  return ReadOne(pool_.Query(call, kSelectByUsername, username));
}

Task<std::vector<User>> Store::FindByIds(Call& call, const std::vector<Uuid>& ids) {
  NOVA_CO_TRY(const Rows rows, co_await pool_.Query(call, kSelectByIds, ids));
  std::vector<User> users;
  users.reserve(static_cast<std::size_t>(rows.size()));
  for (const postgres::Row row : rows) {
    NOVA_CO_TRY(User user, ReadUser(row));
    users.push_back(std::move(user));
  }
  co_return users;
}

Task<std::optional<Settings>> Store::FindSettings(Call& call, Uuid user) {
  return ReadSettings(pool_.Query(call, kSelectSettings, user));
}

Task<bool> Store::InsertUser(Call& call, Transaction& transaction, const StoredUser& stored) {
  const auto& [user, settings] = stored;
  NOVA_CO_TRY(
      const Rows rows,
      co_await transaction.Query(call, kInsert, user.id, user.username, user.display_name, user.is_private,
                                 user.discoverable, user.version, user.created_at, user.updated_at, settings.language,
                                 settings.time_zone, NameOf(settings.allow_messages_from), settings.email_notifications,
                                 settings.push_notifications, settings.version, settings.updated_at));
  if (rows.affected() == 0) co_return false;
  events::v1::UserCreated event;
  event.set_user_id(user.id.ToString());
  event.set_username(user.username);
  NOVA_CO_TRY(co_await outbox_.Append(call, transaction, Aggregate(user.id), event));
  co_return true;
}

Task<std::optional<StoredUser>> Store::Change(Call& call, Uuid id, Decision decide) {
  co_return co_await outbox_.InTransaction(call, [&](Transaction& transaction) -> Task<std::optional<StoredUser>> {
    NOVA_CO_TRY(auto user, co_await ReadOne(transaction.Query(call, kLock, id)));
    if (!user) co_return std::optional<StoredUser>();
    NOVA_CO_TRY(auto settings, co_await ReadSettings(transaction.Query(call, kSelectSettings, id)));
    if (!settings && !user->deleted_at) co_return Internal("the user has no settings");
    StoredUser stored{.user = *std::move(user), .settings = std::move(settings).value_or(Settings())};
    const std::int64_t version = stored.settings.version;
    NOVA_CO_TRY(const std::optional<Happening> happening, decide(stored));
    if (stored.settings.version != version) {
      const Settings& changed = stored.settings;
      NOVA_CO_TRY(co_await WriteOne(transaction.Query(
          call, kUpdateSettings, id, changed.language, changed.time_zone, NameOf(changed.allow_messages_from),
          changed.email_notifications, changed.push_notifications, changed.version, changed.updated_at)));
    }
    if (happening) NOVA_CO_TRY(co_await Write(call, transaction, stored.user, *happening));
    co_return stored;
  });
}

Task<void> Store::Write(Call& call, Transaction& transaction, const User& user, Happening happening) {
  if (happening == Happening::kDeleted) {
    NOVA_CO_TRY(co_await WriteOne(transaction.Query(call, kErase, user.id, user.deleted_at, user.version)));
  } else {
    NOVA_CO_TRY(co_await WriteOne(transaction.Query(
        call, kUpdate, user.id, user.display_name, user.bio, user.location, user.website, user.avatar, user.is_private,
        user.discoverable, user.verified_at, user.banned_at, user.ban_reason, user.version, user.updated_at)));
  }
  const auto event = EventOf(happening, user);
  co_return co_await outbox_.Append(call, transaction, Aggregate(user.id), *event);
}

}  // namespace nova::user
