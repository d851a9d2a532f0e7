#include "services/user/rpc.h"

#include "api/user/v2/user.nova.h"
#include "nova/proto/timestamp.h"

namespace nova::user {
namespace {

using Methods = v2::UserServiceMethods;
using runtime::Call;
using runtime::Task;

void ToProto(const User& user, v2::User& out) {
  out.set_id(user.id.ToString());
  out.set_username(user.username);
  out.set_display_name(user.display_name);
  out.set_avatar_media_id(user.avatar);
  out.set_verified(user.verified_at.has_value());
  out.set_is_private(user.is_private);
  out.set_banned(user.banned_at.has_value());
  out.set_bio(user.bio);
  out.set_location(user.location);
  out.set_website(user.website);
  out.set_version(user.version);
  // The epoch stands for what the caller may not see.
  if (user.created_at != WallTime()) *out.mutable_created_at() = proto::ToTimestamp(user.created_at);
  if (user.updated_at != WallTime()) *out.mutable_updated_at() = proto::ToTimestamp(user.updated_at);
  out.set_ban_reason(user.ban_reason);
}

v2::Audience ToProto(Audience audience) {
  switch (audience) {
    case Audience::kEveryone:
      return v2::AUDIENCE_EVERYONE;
    case Audience::kFollowers:
      return v2::AUDIENCE_FOLLOWERS;
    case Audience::kNobody:
      return v2::AUDIENCE_NOBODY;
  }
  return v2::AUDIENCE_UNSPECIFIED;
}

void ToProto(const Settings& settings, v2::Settings& out) {
  out.set_language(settings.language);
  out.set_time_zone(settings.time_zone);
  out.set_profile_visibility(settings.profile_visibility == Visibility::kPrivate ? v2::VISIBILITY_PRIVATE
                                                                                 : v2::VISIBILITY_PUBLIC);
  out.set_discoverable(settings.discoverable);
  out.set_allow_messages_from(ToProto(settings.allow_messages_from));
  out.set_email_notifications(settings.email_notifications);
  out.set_push_notifications(settings.push_notifications);
  out.set_version(settings.version);
  *out.mutable_updated_at() = proto::ToTimestamp(settings.updated_at);
}

ProfileUpdate FromProto(const v2::UpdateProfileRequest& request) {
  ProfileUpdate update{.expected_version = request.expected_version()};
  if (request.has_display_name()) update.display_name = request.display_name();
  if (request.has_bio()) update.bio = request.bio();
  if (request.has_location()) update.location = request.location();
  if (request.has_website()) update.website = request.website();
  if (request.has_avatar_media_id()) update.avatar = request.avatar_media_id();
  return update;
}

Result<Visibility> FromProto(v2::Visibility visibility) {
  switch (visibility) {
    case v2::VISIBILITY_PUBLIC:
      return Visibility::kPublic;
    case v2::VISIBILITY_PRIVATE:
      return Visibility::kPrivate;
    default:  // a number of a newer client, too
      return InvalidArgument("profile_visibility: VISIBILITY_PUBLIC or VISIBILITY_PRIVATE is needed");
  }
}

Result<Audience> FromProto(v2::Audience audience) {
  switch (audience) {
    case v2::AUDIENCE_EVERYONE:
      return Audience::kEveryone;
    case v2::AUDIENCE_FOLLOWERS:
      return Audience::kFollowers;
    case v2::AUDIENCE_NOBODY:
      return Audience::kNobody;
    default:
      return InvalidArgument("allow_messages_from: AUDIENCE_EVERYONE, AUDIENCE_FOLLOWERS or AUDIENCE_NOBODY is needed");
  }
}

Result<SettingsUpdate> FromProto(const v2::UpdateSettingsRequest& request) {
  SettingsUpdate update{.expected_version = request.expected_version()};
  if (request.has_language()) update.language = request.language();
  if (request.has_time_zone()) update.time_zone = request.time_zone();
  if (request.has_profile_visibility()) {
    NOVA_TRY(update.profile_visibility, FromProto(request.profile_visibility()));
  }
  if (request.has_discoverable()) update.discoverable = request.discoverable();
  if (request.has_allow_messages_from()) {
    NOVA_TRY(update.allow_messages_from, FromProto(request.allow_messages_from()));
  }
  if (request.has_email_notifications()) update.email_notifications = request.email_notifications();
  if (request.has_push_notifications()) update.push_notifications = request.push_notifications();
  return update;
}

// The answer of the many methods that yield one user.
template <class Response>
Task<Response> Answer(Task<User> task) {
  NOVA_CO_TRY(const User user, co_await std::move(task));
  Response response;
  ToProto(user, *response.mutable_user());
  co_return response;
}

}  // namespace

rpc::Service MakeRpcService(Service& user) {
  rpc::Service service(Methods::kService);

  service.Handle(Methods::kGetUser, [&user](Call& call, const v2::GetUserRequest& request) {
    return Answer<v2::GetUserResponse>(user.GetUser(call, request.user_id()));
  });

  service.Handle(Methods::kGetUsersByIds,
                 [&user](Call& call, const v2::GetUsersByIdsRequest& request) -> Task<v2::GetUsersByIdsResponse> {
                   NOVA_CO_TRY(const auto entries, co_await user.GetUsersByIds(
                                                       call, {request.user_ids().begin(), request.user_ids().end()}));
                   v2::GetUsersByIdsResponse response;
                   for (const UserEntry& entry : entries) {
                     v2::GetUsersByIdsResponse::Entry& out = *response.add_entries();
                     out.set_user_id(entry.id.ToString());
                     out.set_found(entry.user.has_value());
                     if (entry.user) ToProto(*entry.user, *out.mutable_user());
                   }
                   co_return response;
                 });

  service.Handle(Methods::kGetUserByUsername, [&user](Call& call, const v2::GetUserByUsernameRequest& request) {
    return Answer<v2::GetUserByUsernameResponse>(user.GetUserByUsername(call, request.username()));
  });

  service.Handle(Methods::kUpdateProfile, [&user](Call& call, const v2::UpdateProfileRequest& request) {
    return Answer<v2::UpdateProfileResponse>(user.UpdateProfile(call, FromProto(request)));
  });

  service.Handle(Methods::kGetSettings,
                 [&user](Call& call, const v2::GetSettingsRequest&) -> Task<v2::GetSettingsResponse> {
                   NOVA_CO_TRY(const Settings settings, co_await user.GetSettings(call));
                   v2::GetSettingsResponse response;
                   ToProto(settings, *response.mutable_settings());
                   co_return response;
                 });

  service.Handle(Methods::kUpdateSettings,
                 [&user](Call& call, const v2::UpdateSettingsRequest& request) -> Task<v2::UpdateSettingsResponse> {
                   NOVA_CO_TRY(SettingsUpdate update, FromProto(request));
                   NOVA_CO_TRY(const Settings settings, co_await user.UpdateSettings(call, std::move(update)));
                   v2::UpdateSettingsResponse response;
                   ToProto(settings, *response.mutable_settings());
                   co_return response;
                 });

  service.Handle(Methods::kBanUser, [&user](Call& call, const v2::BanUserRequest& request) {
    return Answer<v2::BanUserResponse>(user.BanUser(call, request.user_id(), request.reason()));
  });

  service.Handle(Methods::kUnbanUser, [&user](Call& call, const v2::UnbanUserRequest& request) {
    return Answer<v2::UnbanUserResponse>(user.UnbanUser(call, request.user_id()));
  });

  service.Handle(Methods::kVerifyUser, [&user](Call& call, const v2::VerifyUserRequest& request) {
    return Answer<v2::VerifyUserResponse>(user.VerifyUser(call, request.user_id(), request.verified()));
  });

  service.Handle(Methods::kDeleteUser,
                 [&user](Call& call, const v2::DeleteUserRequest&) -> Task<v2::DeleteUserResponse> {
                   NOVA_CO_TRY(co_await user.DeleteUser(call));
                   co_return v2::DeleteUserResponse();
                 });

  return service;
}

}  // namespace nova::user
