#include "services/user/profile_cache.h"

#include <boost/json/object.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>
#include <chrono>
#include <map>
#include <utility>

#include "nova/telemetry/log.h"

namespace nova::user {
namespace {

namespace json = boost::json;
using redis::Cache;
using runtime::Call;
using runtime::Task;

// The number is that of the form: a binary that writes another does not read this one.
constexpr char kProfilesPrefix[] = "user:profile:1:";
constexpr char kNamesPrefix[] = "user:name:1:";

redis::CacheConfig ConfigOf(std::string name, std::string prefix, const UserConfig& user) {
  redis::CacheConfig config;
  config.name = std::move(name);
  config.prefix = std::move(prefix);
  config.ttl = user.cache_ttl;
  config.negative_ttl = user.cache_negative_ttl;
  return config;
}

std::int64_t ToNumber(WallTime time) {
  return std::chrono::floor<std::chrono::microseconds>(time).time_since_epoch().count();
}

// Takes an object apart; `complete` turns false when a member is missing or of another kind.
class Members {
 public:
  explicit Members(const json::object& object) : object_(object) {}

  bool complete() const { return complete_; }

  std::string Text(std::string_view name) {
    const json::value* const value = Find(name);
    if (value != nullptr && value->is_string()) return std::string(value->get_string());
    complete_ = false;
    return {};
  }
  bool Flag(std::string_view name) {
    const json::value* const value = Find(name);
    if (value != nullptr && value->is_bool()) return value->get_bool();
    complete_ = false;
    return false;
  }
  std::int64_t Number(std::string_view name) {
    const json::value* const value = Find(name);
    if (value != nullptr && value->is_int64()) return value->get_int64();
    complete_ = false;
    return 0;
  }
  WallTime Time(std::string_view name) { return WallTime(std::chrono::microseconds(Number(name))); }
  std::optional<WallTime> OptionalTime(std::string_view name) {
    return Find(name) == nullptr ? std::nullopt : std::optional(Time(name));
  }

 private:
  const json::value* Find(std::string_view name) const { return object_.if_contains({name.data(), name.size()}); }

  const json::object& object_;
  bool complete_ = true;
};

Cache::Value ToValue(const std::optional<User>& user) {
  if (!user || user->deleted_at) return std::nullopt;
  return Encode(*user);
}

}  // namespace

std::string Encode(const User& user) {
  json::object object{{"id", user.id.ToString()},
                      {"username", user.username},
                      {"display_name", user.display_name},
                      {"bio", user.bio},
                      {"location", user.location},
                      {"website", user.website},
                      {"avatar", user.avatar},
                      {"is_private", user.is_private},
                      {"discoverable", user.discoverable},
                      {"ban_reason", user.ban_reason},
                      {"version", user.version},
                      {"created_at", ToNumber(user.created_at)},
                      {"updated_at", ToNumber(user.updated_at)}};
  if (user.verified_at) object["verified_at"] = ToNumber(*user.verified_at);
  if (user.banned_at) object["banned_at"] = ToNumber(*user.banned_at);
  if (user.deleted_at) object["deleted_at"] = ToNumber(*user.deleted_at);
  return json::serialize(object);
}

std::optional<User> Decode(std::string_view text) {
  json::error_code error;
  const json::value value = json::parse({text.data(), text.size()}, error);
  if (error || !value.is_object()) return std::nullopt;
  Members members(value.get_object());
  const auto id = Uuid::Parse(members.Text("id"));
  if (!id) return std::nullopt;
  User user{.id = *id,
            .username = members.Text("username"),
            .display_name = members.Text("display_name"),
            .bio = members.Text("bio"),
            .location = members.Text("location"),
            .website = members.Text("website"),
            .avatar = members.Text("avatar"),
            .is_private = members.Flag("is_private"),
            .discoverable = members.Flag("discoverable"),
            .verified_at = members.OptionalTime("verified_at"),
            .banned_at = members.OptionalTime("banned_at"),
            .ban_reason = members.Text("ban_reason"),
            .deleted_at = members.OptionalTime("deleted_at"),
            .version = members.Number("version"),
            .created_at = members.Time("created_at"),
            .updated_at = members.Time("updated_at")};
  return members.complete() ? std::optional(std::move(user)) : std::nullopt;
}

ProfileCache::ProfileCache(runtime::Runtime& runtime, telemetry::Metrics& metrics, redis::Client& redis, Store& store,
                           const UserConfig& config)
    : store_(store),
      profiles_(runtime, metrics, redis, ConfigOf("profile", kProfilesPrefix, config)),
      names_(runtime, metrics, redis, ConfigOf("username", kNamesPrefix, config)) {}

Task<std::optional<User>> ProfileCache::FindById(Call& call, Uuid id) {
  NOVA_CO_TRY(const std::vector<User> found, co_await FindByIds(call, {id}));
  co_return found.empty() ? std::nullopt : std::optional(found.front());
}

Task<std::vector<User>> ProfileCache::FindByIds(Call& call, const std::vector<Uuid>& ids) {
  std::vector<std::string> keys;
  keys.reserve(ids.size());
  for (const Uuid& id : ids) keys.push_back(id.ToString());
  // It runs for others than this call, too: it takes the keys that it is given.
  auto load = [this](Call& loading, const std::vector<std::string>& missing) -> Task<std::vector<Cache::Value>> {
    std::vector<Uuid> wanted;
    for (const std::string& key : missing) {
      NOVA_CO_TRY(const Uuid id, Uuid::Parse(key));
      wanted.push_back(id);
    }
    NOVA_CO_TRY(std::vector<User> users, co_await store_.FindByIds(loading, wanted));
    std::map<Uuid, User> by_id;
    for (User& user : users) by_id.emplace(user.id, std::move(user));
    std::vector<Cache::Value> values;
    for (const Uuid& id : wanted) {
      const auto user = by_id.find(id);
      values.push_back(user == by_id.end() ? std::nullopt : ToValue(user->second));
    }
    co_return values;
  };
  NOVA_CO_TRY(const auto values, co_await profiles_.GetMany(call, keys, load));

  std::vector<User> found;
  std::vector<Uuid> unreadable;
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (!values[i]) continue;
    auto user = Decode(*values[i]);
    if (user && user->id == ids[i]) {
      found.push_back(*std::move(user));
    } else {
      unreadable.push_back(ids[i]);
    }
  }
  if (unreadable.empty()) co_return found;
  telemetry::LogWarn("the cache holds profiles that cannot be read", {{"profiles", unreadable.size()}});
  NOVA_CO_TRY(std::vector<User> users, co_await store_.FindByIds(call, unreadable));
  for (User& user : users) {
    if (!user.deleted_at) found.push_back(std::move(user));
  }
  co_return found;
}

Task<std::optional<User>> ProfileCache::FindByUsername(Call& call, std::string username) {
  auto load = [this, username](Call& loading) -> Task<Cache::Value> {
    NOVA_CO_TRY(const auto user, co_await store_.FindByUsername(loading, username));
    co_return user ? Cache::Value(user->id.ToString()) : std::nullopt;
  };
  NOVA_CO_TRY(const Cache::Value id, co_await names_.Get(call, username, load));
  if (!id) co_return std::optional<User>();
  if (const auto parsed = Uuid::Parse(*id)) {
    NOVA_CO_TRY(auto user, co_await FindById(call, *parsed));
    if (user && user->username == username) co_return std::move(user);
  }
  // Whoever had the name has gone; somebody else may have it by now.
  co_return co_await store_.FindByUsername(call, username);
}

runtime::Awaitable<void> ProfileCache::Forget(Call& call, Uuid id, std::optional<std::string> username) {
  // What was committed is so, whether the caller still waits or not.
  Call own(call.strand(), {.trace = call.trace(), .peer = {}});
  (void)co_await profiles_.Forget(own, id.ToString());
  if (username) (void)co_await names_.Forget(own, *std::move(username));
}

Result<void> ProfileCache::Close(Duration limit) {
  const auto closed = profiles_.Close(limit);
  NOVA_TRY(names_.Close(limit));
  return closed;
}

}  // namespace nova::user
