#include <gtest/gtest.h>

#include "api/user/v2/user.nova.h"
#include "services/user/rpc.h"
#include "services/user/test_environment.h"
#include "tests/rpc_fixture.h"

namespace nova::user {
namespace {

using Methods = v2::UserServiceMethods;

class RpcTest : public tests::RpcFixture<UserTest, MakeRpcService> {};

TEST_F(RpcTest, EveryDeclaredMethodHasAHandlerAndAPolicy) {
  for (const auto& [name, policy] : Policies()) {
    EXPECT_TRUE(policy.Allows("operator")) << name;
    EXPECT_EQ(policy.Allows("search"), name.starts_with("GetUser")) << name;
    const bool moderates = name == "BanUser" || name == "UnbanUser" || name == "VerifyUser";
    EXPECT_EQ(policy.Allows("gateway"), !moderates) << name;
  }
}

TEST_F(RpcTest, TheWholeWayOfAProfile) {
  const Uuid ada = Made("ada");
  const auto now = std::chrono::duration_cast<std::chrono::seconds>(clock_.WallNow().time_since_epoch()).count();

  v2::UpdateProfileRequest update;
  update.set_expected_version(1);
  update.set_display_name("Ada");
  update.set_bio("bio");
  update.set_location("London");
  update.set_website("https://ada.example");
  update.set_avatar_media_id("0190a000-0000-7000-8000-00000000abcd");
  const auto updated = Invoke(Methods::kUpdateProfile, update, ada);
  ASSERT_TRUE(updated) << updated.error().ToString();
  const v2::User& user = updated->user();
  EXPECT_EQ(user.id(), ada.ToString());
  EXPECT_EQ(user.username(), "ada");
  EXPECT_EQ(user.display_name(), "Ada");
  EXPECT_EQ(user.bio(), "bio");
  EXPECT_EQ(user.location(), "London");
  EXPECT_EQ(user.website(), "https://ada.example");
  EXPECT_EQ(user.avatar_media_id(), "0190a000-0000-7000-8000-00000000abcd");
  EXPECT_EQ(user.version(), 2);
  EXPECT_EQ(user.created_at().seconds(), now);
  EXPECT_EQ(user.updated_at().seconds(), now);
  EXPECT_FALSE(user.verified() || user.banned() || user.is_private());

  // A field that is set to nothing is removed, one that is not set stays.
  v2::UpdateProfileRequest removal;
  removal.set_expected_version(2);
  removal.set_bio("");
  const auto removed = Invoke(Methods::kUpdateProfile, removal, ada);
  ASSERT_TRUE(removed) << removed.error().ToString();
  EXPECT_EQ(removed->user().bio(), "");
  EXPECT_EQ(removed->user().location(), "London");

  v2::GetUserRequest by_id;
  by_id.set_user_id(ada.ToString());
  v2::GetUserByUsernameRequest by_name;
  by_name.set_username("ADA");
  const auto found = Invoke(Methods::kGetUser, by_id);
  ASSERT_TRUE(found) << found.error().ToString();
  EXPECT_EQ(found->user().SerializeAsString(), removed->user().SerializeAsString());
  EXPECT_EQ(Invoke(Methods::kGetUserByUsername, by_name)->user().SerializeAsString(),
            removed->user().SerializeAsString());

  v2::GetUsersByIdsRequest batch;
  const std::string nobody = Uuid::New(clock_).ToString();
  batch.add_user_ids(nobody);
  batch.add_user_ids(ada.ToString());
  const auto entries = Invoke(Methods::kGetUsersByIds, batch);
  ASSERT_TRUE(entries) << entries.error().ToString();
  ASSERT_EQ(entries->entries_size(), 2);
  EXPECT_EQ(entries->entries(0).user_id(), nobody);
  EXPECT_FALSE(entries->entries(0).found() || entries->entries(0).has_user());
  EXPECT_TRUE(entries->entries(1).found());
  EXPECT_EQ(entries->entries(1).user().SerializeAsString(), removed->user().SerializeAsString());

  ASSERT_TRUE(Invoke(Methods::kDeleteUser, v2::DeleteUserRequest(), ada));
  EXPECT_EQ(Invoke(Methods::kGetUser, by_id).error().code(), Code::kNotFound);
}

TEST_F(RpcTest, TheWholeWayOfSettings) {
  const Uuid ada = Made("ada");
  const auto defaults = Invoke(Methods::kGetSettings, v2::GetSettingsRequest(), ada);
  ASSERT_TRUE(defaults) << defaults.error().ToString();
  EXPECT_EQ(defaults->settings().language(), "en");
  EXPECT_EQ(defaults->settings().time_zone(), "UTC");
  EXPECT_EQ(defaults->settings().profile_visibility(), v2::VISIBILITY_PUBLIC);
  EXPECT_EQ(defaults->settings().allow_messages_from(), v2::AUDIENCE_EVERYONE);
  EXPECT_TRUE(defaults->settings().discoverable());
  EXPECT_TRUE(defaults->settings().email_notifications());
  EXPECT_TRUE(defaults->settings().push_notifications());

  v2::UpdateSettingsRequest update;
  update.set_expected_version(defaults->settings().version());
  update.set_language("de");
  update.set_time_zone("Europe/Berlin");
  update.set_profile_visibility(v2::VISIBILITY_PRIVATE);
  update.set_discoverable(false);
  update.set_allow_messages_from(v2::AUDIENCE_NOBODY);
  update.set_email_notifications(false);
  update.set_push_notifications(false);
  const auto updated = Invoke(Methods::kUpdateSettings, update, ada);
  ASSERT_TRUE(updated) << updated.error().ToString();
  const v2::Settings& settings = updated->settings();
  EXPECT_EQ(settings.language(), "de");
  EXPECT_EQ(settings.time_zone(), "Europe/Berlin");
  EXPECT_EQ(settings.profile_visibility(), v2::VISIBILITY_PRIVATE);
  EXPECT_EQ(settings.allow_messages_from(), v2::AUDIENCE_NOBODY);
  EXPECT_FALSE(settings.discoverable() || settings.email_notifications() || settings.push_notifications());
  EXPECT_EQ(settings.version(), defaults->settings().version() + 1);
  EXPECT_EQ(Invoke(Methods::kGetSettings, v2::GetSettingsRequest(), ada)->settings().SerializeAsString(),
            settings.SerializeAsString());

  for (const auto& spoil : std::vector<std::function<void(v2::UpdateSettingsRequest&)>>{
           [](auto& request) { request.set_profile_visibility(v2::VISIBILITY_UNSPECIFIED); },
           [](auto& request) { request.set_profile_visibility(static_cast<v2::Visibility>(99)); },
           [](auto& request) { request.set_allow_messages_from(v2::AUDIENCE_UNSPECIFIED); },
           [](auto& request) { request.set_allow_messages_from(static_cast<v2::Audience>(99)); }}) {
    v2::UpdateSettingsRequest bad;
    bad.set_expected_version(settings.version());
    spoil(bad);
    const auto refused = Invoke(Methods::kUpdateSettings, bad, ada);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), Code::kInvalidArgument);
  }
}

TEST_F(RpcTest, TheWholeWayOfModeration) {
  const Uuid ada = Made("ada");
  v2::VerifyUserRequest verify;
  verify.set_user_id(ada.ToString());
  verify.set_verified(true);
  EXPECT_TRUE(Invoke(Methods::kVerifyUser, verify)->user().verified());
  v2::BanUserRequest ban;
  ban.set_user_id(ada.ToString());
  ban.set_reason("spam");
  const auto banned = Invoke(Methods::kBanUser, ban);
  ASSERT_TRUE(banned) << banned.error().ToString();
  EXPECT_TRUE(banned->user().banned());
  EXPECT_EQ(banned->user().ban_reason(), "spam");

  v2::GetUserRequest get;
  get.set_user_id(ada.ToString());
  const auto seen = Invoke(Methods::kGetUser, get);
  ASSERT_TRUE(seen) << seen.error().ToString();
  v2::User expected;
  expected.set_id(ada.ToString());
  expected.set_username("ada");
  expected.set_banned(true);
  EXPECT_EQ(seen->user().SerializeAsString(), expected.SerializeAsString()) << "nothing else reaches others";

  v2::UnbanUserRequest unban;
  unban.set_user_id(ada.ToString());
  EXPECT_FALSE(Invoke(Methods::kUnbanUser, unban)->user().banned());
}

TEST_F(RpcTest, ErrorsPassThrough) {
  EXPECT_EQ(CodeOf(Invoke(Methods::kGetUser, v2::GetUserRequest())), Code::kInvalidArgument);
  EXPECT_EQ(CodeOf(Invoke(Methods::kGetUserByUsername, v2::GetUserByUsernameRequest())), Code::kInvalidArgument);
  EXPECT_EQ(CodeOf(Invoke(Methods::kUpdateProfile, v2::UpdateProfileRequest())), Code::kUnauthenticated);
  EXPECT_EQ(CodeOf(Invoke(Methods::kGetSettings, v2::GetSettingsRequest())), Code::kUnauthenticated);
  EXPECT_EQ(CodeOf(Invoke(Methods::kDeleteUser, v2::DeleteUserRequest())), Code::kUnauthenticated);
  EXPECT_EQ(CodeOf(Invoke(Methods::kBanUser, v2::BanUserRequest())), Code::kInvalidArgument);
}

}  // namespace
}  // namespace nova::user
