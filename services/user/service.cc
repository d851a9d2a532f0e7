#include "services/user/service.h"

#include <map>
#include <set>
#include <utility>

namespace nova::user {
namespace {

using postgres::ToStoredPrecision;
using runtime::Call;
using runtime::Task;

Error NoSuchUser() { return NotFound("there is no such user"); }
Error ChangedMeanwhile() { return Aborted("it was changed meanwhile; read it again"); }

Result<Uuid> ParseId(std::string_view field, std::string_view id) {
  const auto parsed = Uuid::Parse(id);
  if (!parsed || parsed->is_nil()) return InvalidArgument(std::string(field) + ": a UUID is needed");
  return *parsed;
}

Result<Uuid> OwnIdOf(const Call& call) {
  if (!call.caller()) return Unauthenticated("an access token is needed");
  return call.caller()->account;
}

template <class T>
Code CodeOf(const Result<T>& result) {
  return result ? Code::kOk : result.error().code();
}

bool IsOwn(const Call& call, Uuid id) { return call.caller() && call.caller()->account == id; }

// Whoever has a token has an account: without a profile, the event that tells of it is on the way.
Error StillBeingMade() { return Unavailable("the profile is being made; try again"); }
Error Deleted() { return NotFound("the profile was deleted"); }

Result<void> CheckMayWrite(const User& own) {
  if (own.deleted_at) return Deleted();
  if (own.banned_at) return PermissionDenied("the user is banned");
  return Ok();
}

using Decided = Result<std::optional<Happening>>;

constexpr char kProfiles[] = "nova_user_profiles_total";
constexpr char kProfilesHelp[] = "Profiles asked for by registrations, by outcome";
constexpr char kUpdates[] = "nova_user_updates_total";
constexpr char kUpdatesHelp[] = "Updates of profiles and settings by their users, by outcome";

}  // namespace

Service::Service(Store& store, ProfileCache* cache, telemetry::Metrics& metrics, const Clock& clock)
    : store_(store),
      cache_(cache),
      clock_(clock),
      created_(metrics.Counter(kProfiles, kProfilesHelp, {{"outcome", "created"}})),
      known_(metrics.Counter(kProfiles, kProfilesHelp, {{"outcome", "known"}})),
      updated_(metrics.Counter(kUpdates, kUpdatesHelp, {{"outcome", "ok"}})),
      conflicts_(metrics.Counter(kUpdates, kUpdatesHelp, {{"outcome", "conflict"}})),
      refused_(metrics.Counter(kUpdates, kUpdatesHelp, {{"outcome", "banned"}})),
      moderated_(metrics.Counter("nova_user_moderations_total", "Bans, unbans and verifications that changed a user")),
      deleted_(metrics.Counter("nova_user_deletions_total", "Users that deleted themselves")) {}

// --- Reading ---

Task<std::vector<User>> Service::FindByIds(Call& call, const std::vector<Uuid>& ids) {
  if (cache_ != nullptr) co_return co_await cache_->FindByIds(call, ids);
  NOVA_CO_TRY(std::vector<User> found, co_await store_.FindByIds(call, ids));
  std::erase_if(found, [](const User& user) { return user.deleted_at.has_value(); });
  co_return found;
}

Task<std::optional<User>> Service::FindByUsername(Call& call, const std::string& username) {
  return cache_ != nullptr ? cache_->FindByUsername(call, username) : store_.FindByUsername(call, username);
}

Task<User> Service::FindOwn(Call& call, Uuid own) {
  NOVA_CO_TRY(auto found, co_await store_.FindById(call, own));
  if (!found) co_return StillBeingMade();
  if (found->deleted_at) co_return Deleted();
  co_return *std::move(found);
}

Task<User> Service::GetUser(Call& call, std::string id) {
  NOVA_CO_TRY(const Uuid parsed, ParseId("user_id", id));
  if (IsOwn(call, parsed)) co_return co_await FindOwn(call, parsed);
  NOVA_CO_TRY(const std::vector<User> found, co_await FindByIds(call, {parsed}));
  if (found.empty()) co_return NoSuchUser();
  co_return ForOthers(found.front());
}

Task<std::vector<UserEntry>> Service::GetUsersByIds(Call& call, std::vector<std::string> ids) {
  if (ids.size() > kIdsMax) co_return InvalidArgument("user_ids: at most " + std::to_string(kIdsMax) + " are allowed");
  std::vector<UserEntry> entries;
  entries.reserve(ids.size());
  std::set<Uuid> wanted;
  for (const std::string& id : ids) {
    NOVA_CO_TRY(const Uuid parsed, ParseId("user_ids[" + std::to_string(entries.size()) + "]", id));
    entries.push_back({.id = parsed, .user = std::nullopt});
    wanted.insert(parsed);
  }

  std::map<Uuid, User> visible;
  if (call.caller() && wanted.erase(call.caller()->account) > 0) {
    NOVA_CO_TRY(auto own, co_await store_.FindById(call, call.caller()->account));
    if (own && !own->deleted_at) visible.emplace(own->id, *std::move(own));
  }
  if (!wanted.empty()) {
    NOVA_CO_TRY(const std::vector<User> others, co_await FindByIds(call, {wanted.begin(), wanted.end()}));
    for (const User& other : others) visible.emplace(other.id, ForOthers(other));
  }
  for (UserEntry& entry : entries) {
    if (const auto user = visible.find(entry.id); user != visible.end()) entry.user = user->second;
  }
  co_return entries;
}

Task<User> Service::GetUserByUsername(Call& call, std::string username) {
  if (username.empty()) co_return InvalidArgument("username: it is needed");
  const auto folded = FoldUsername(username);
  if (!folded) co_return NoSuchUser();
  NOVA_CO_TRY(const auto found, co_await FindByUsername(call, *folded));
  if (!found) co_return NoSuchUser();
  if (IsOwn(call, found->id)) co_return co_await FindOwn(call, found->id);
  co_return ForOthers(*found);
}

Task<Settings> Service::GetSettings(Call& call) {
  NOVA_CO_TRY(const Uuid own, OwnIdOf(call));
  NOVA_CO_TRY(auto settings, co_await store_.FindSettings(call, own));
  if (settings) co_return *std::move(settings);
  // They come and go with the profile, which says why they are not there.
  NOVA_CO_TRY(co_await FindOwn(call, own));
  co_return StillBeingMade();
}

// --- Writing ---

void Service::Touch(User& user) const {
  ++user.version;
  user.updated_at = ToStoredPrecision(clock_.WallNow());
}

Task<std::optional<StoredUser>> Service::Change(Call& call, Uuid id, Store::Decision decide) {
  std::optional<std::string> freed;
  auto changed = co_await store_.Change(call, id, [&](StoredUser& stored) {
    const std::string username = stored.user.username;
    auto happening = decide(stored);
    if (happening && *happening == Happening::kDeleted) freed = username;
    return happening;
  });
  // UNKNOWN: it may have been committed.
  const bool committed = changed || changed.error().code() == Code::kUnknown;
  if (cache_ != nullptr && committed) co_await cache_->Forget(call, id, std::move(freed));
  co_return changed;
}

void Service::CountUpdate(Code outcome) {
  if (outcome == Code::kOk) updated_.Increment();
  if (outcome == Code::kAborted) conflicts_.Increment();
  if (outcome == Code::kPermissionDenied) refused_.Increment();
}

Task<User> Service::UpdateProfile(Call& call, ProfileUpdate update) {
  NOVA_CO_TRY(const Uuid own, OwnIdOf(call));
  NOVA_CO_TRY(update, Normalize(std::move(update)));
  auto changed = co_await Change(call, own, [&](StoredUser& stored) -> Decided {
    NOVA_TRY(CheckMayWrite(stored.user));
    if (stored.user.version != update.expected_version) return ChangedMeanwhile();
    Apply(update, stored.user);
    Touch(stored.user);
    return std::optional(Happening::kUpdated);
  });
  CountUpdate(CodeOf(changed));
  NOVA_CO_TRY(auto stored, std::move(changed));
  if (!stored) co_return StillBeingMade();
  co_return std::move(stored->user);
}

Task<Settings> Service::UpdateSettings(Call& call, SettingsUpdate update) {
  NOVA_CO_TRY(const Uuid own, OwnIdOf(call));
  NOVA_CO_TRY(Check(update));
  auto changed = co_await Change(call, own, [&](StoredUser& stored) -> Decided {
    auto& [user, settings] = stored;
    NOVA_TRY(CheckMayWrite(user));
    if (settings.version != update.expected_version) return ChangedMeanwhile();
    Apply(update, settings);
    ++settings.version;
    settings.updated_at = ToStoredPrecision(clock_.WallNow());
    const bool is_private = settings.profile_visibility == Visibility::kPrivate;
    if (user.is_private == is_private && user.discoverable == settings.discoverable) return Decided(std::nullopt);
    user.is_private = is_private;
    user.discoverable = settings.discoverable;
    Touch(user);
    return std::optional(Happening::kUpdated);
  });
  CountUpdate(CodeOf(changed));
  NOVA_CO_TRY(auto stored, std::move(changed));
  if (!stored) co_return StillBeingMade();
  co_return std::move(stored->settings);
}

Task<User> Service::Moderate(Call& call, std::string id, Happening happening, std::function<bool(User&)> change) {
  NOVA_CO_TRY(const Uuid parsed, ParseId("user_id", id));
  bool moderated = false;
  NOVA_CO_TRY(auto stored, co_await Change(call, parsed, [&](StoredUser& found) -> Decided {
                if (found.user.deleted_at) return NoSuchUser();
                moderated = change(found.user);
                if (!moderated) return Decided(std::nullopt);
                Touch(found.user);
                return std::optional(happening);
              }));
  if (!stored) co_return NoSuchUser();
  if (moderated) moderated_.Increment();
  co_return std::move(stored->user);
}

Task<User> Service::BanUser(Call& call, std::string id, std::string reason) {
  NOVA_CO_TRY(reason, NormalizeBanReason(reason));
  co_return co_await Moderate(call, std::move(id), Happening::kBanned, [&](User& user) {
    if (user.banned_at) return false;
    user.banned_at = ToStoredPrecision(clock_.WallNow());
    user.ban_reason = reason;
    return true;
  });
}

Task<User> Service::UnbanUser(Call& call, std::string id) {
  co_return co_await Moderate(call, std::move(id), Happening::kUnbanned, [](User& user) {
    if (!user.banned_at) return false;
    user.banned_at.reset();
    user.ban_reason.clear();
    return true;
  });
}

Task<User> Service::VerifyUser(Call& call, std::string id, bool verified) {
  co_return co_await Moderate(call, std::move(id), Happening::kUpdated, [&](User& user) {
    if (user.verified_at.has_value() == verified) return false;
    user.verified_at = verified ? std::optional(ToStoredPrecision(clock_.WallNow())) : std::nullopt;
    return true;
  });
}

Task<void> Service::DeleteUser(Call& call) {
  NOVA_CO_TRY(const Uuid own, OwnIdOf(call));
  bool deleted = false;
  NOVA_CO_TRY(const auto stored, co_await Change(call, own, [&](StoredUser& found) -> Decided {
                deleted = false;
                if (found.user.deleted_at) return Decided(std::nullopt);
                // Banned or not: what is known of a person is the person's.
                Touch(found.user);
                found.user = {.id = own,
                              .deleted_at = found.user.updated_at,
                              .version = found.user.version,
                              .created_at = found.user.created_at,
                              .updated_at = found.user.updated_at};
                deleted = true;
                return std::optional(Happening::kDeleted);
              }));
  if (!stored) co_return StillBeingMade();
  if (deleted) deleted_.Increment();
  co_return Ok();
}

Task<void> Service::CreateUser(Call& call, postgres::Transaction& transaction, NewUser account) {
  if (FoldUsername(account.username) != account.username)
    co_return InvalidArgument("the username is not one that identity stores");
  const WallTime now = ToStoredPrecision(clock_.WallNow());
  const StoredUser stored{.user = {.id = account.id,
                                   .username = account.username,
                                   .display_name = account.username,
                                   .created_at = ToStoredPrecision(account.registered_at),
                                   .updated_at = now},
                          .settings = {.updated_at = now}};
  NOVA_CO_TRY(const bool inserted, co_await store_.InsertUser(call, transaction, stored));
  // The transaction is the consumer's; one that is rolled back comes again and is counted again.
  (inserted ? created_ : known_).Increment();
  co_return Ok();
}

}  // namespace nova::user
