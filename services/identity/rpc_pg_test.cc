#include <gtest/gtest.h>

#include "api/identity/v2/identity.nova.h"
#include "services/identity/rpc.h"
#include "services/identity/test_environment.h"
#include "tests/rpc_fixture.h"

namespace nova::identity {
namespace {

using Methods = v2::IdentityServiceMethods;
using runtime::Call;
using runtime::Task;

class RpcTest : public tests::RpcFixture<IdentityTest, MakeRpcService> {
 protected:
  v2::RegisterRequest AdaRequest() {
    v2::RegisterRequest request;
    request.set_email("ada@example.com");
    request.set_username("ada");
    request.set_password(kPassword);
    request.set_idempotency_key(Uuid::New().ToString());
    return request;
  }
};

TEST_F(RpcTest, EveryDeclaredMethodHasAHandlerAndAPolicy) { EXPECT_FALSE(Policies().empty()); }

TEST_F(RpcTest, TheWholeWay) {
  const v2::RegisterRequest ada = AdaRequest();
  const auto registered = Invoke(Methods::kRegister, ada);
  ASSERT_TRUE(registered) << registered.error().ToString();
  EXPECT_EQ(registered->account().email(), "ada@example.com");
  EXPECT_EQ(registered->account().username(), "ada");
  const auto now = std::chrono::duration_cast<std::chrono::seconds>(clock_.WallNow().time_since_epoch()).count();
  EXPECT_EQ(registered->account().created_at().seconds(), now);

  v2::LoginRequest credentials;
  credentials.set_identifier("ada");
  credentials.set_password(kPassword);
  const auto login = Invoke(Methods::kLogin, credentials);
  ASSERT_TRUE(login) << login.error().ToString();
  EXPECT_EQ(login->account_id(), registered->account().id());
  EXPECT_EQ(login->expires_at().seconds(), now + 15 * 60);
  EXPECT_EQ(login->expires_at().nanos(), 0);

  v2::VerifyTokenRequest token;
  token.set_access_token(login->access_token());
  const auto verified = Invoke(Methods::kVerifyToken, token);
  ASSERT_TRUE(verified) << verified.error().ToString();
  EXPECT_EQ(verified->account_id(), login->account_id());
  EXPECT_EQ(verified->expires_at().seconds(), login->expires_at().seconds());

  const auto jwks = Invoke(Methods::kGetJwks, v2::GetJwksRequest());
  ASSERT_TRUE(jwks);
  EXPECT_EQ(jwks->jwks(), service_.sessions().GetJwks());

  const auto own = Invoke(Methods::kGetAccount, v2::GetAccountRequest(),
                          runtime::Caller{.account = *Uuid::Parse(verified->account_id()),
                                          .session = *Uuid::Parse(verified->session_id())});
  ASSERT_TRUE(own) << own.error().ToString();
  EXPECT_EQ(own->account().SerializeAsString(), registered->account().SerializeAsString());
}

TEST_F(RpcTest, ASessionsWholeWay) {
  ASSERT_TRUE(Invoke(Methods::kRegister, AdaRequest()));
  v2::LoginRequest credentials;
  credentials.set_identifier("ada@example.com");
  credentials.set_password(kPassword);
  credentials.set_device_name("Pixel 9");
  const auto login = Invoke(Methods::kLogin, credentials);
  ASSERT_TRUE(login) << login.error().ToString();
  const auto now = std::chrono::duration_cast<std::chrono::seconds>(clock_.WallNow().time_since_epoch()).count();
  EXPECT_EQ(login->refresh_expires_at().seconds(), now + 30 * 24 * 3600);
  const runtime::Caller caller{.account = *Uuid::Parse(login->account_id()),
                               .session = *Uuid::Parse(login->session_id())};

  v2::RefreshTokenRequest refresh;
  refresh.set_refresh_token(login->refresh_token());
  const auto refreshed = Invoke(Methods::kRefreshToken, refresh);
  ASSERT_TRUE(refreshed) << refreshed.error().ToString();
  EXPECT_EQ(refreshed->session_id(), login->session_id());
  EXPECT_EQ(refreshed->account_id(), login->account_id());
  EXPECT_NE(refreshed->refresh_token(), login->refresh_token());
  EXPECT_EQ(refreshed->expires_at().seconds(), now + 15 * 60);

  clock_.Advance(std::chrono::seconds(1));
  credentials.clear_device_name();
  credentials.set_device_token(login->device_token());
  const auto second = Invoke(Methods::kLogin, credentials);
  ASSERT_TRUE(second) << second.error().ToString();
  EXPECT_EQ(second->device_token(), login->device_token());

  v2::ListSessionsRequest list;
  list.set_page_size(1);
  const auto newest = Invoke(Methods::kListSessions, list, caller);
  ASSERT_TRUE(newest) << newest.error().ToString();
  ASSERT_EQ(newest->sessions_size(), 1);
  EXPECT_EQ(newest->sessions(0).id(), second->session_id());
  EXPECT_FALSE(newest->sessions(0).current());
  list.set_page_token(newest->next_page_token());
  const auto oldest = Invoke(Methods::kListSessions, list, caller);
  ASSERT_TRUE(oldest);
  ASSERT_EQ(oldest->sessions_size(), 1);
  EXPECT_EQ(oldest->sessions(0).id(), login->session_id());
  EXPECT_EQ(oldest->sessions(0).device_name(), "Pixel 9");
  EXPECT_EQ(oldest->sessions(0).created_at().seconds(), now);
  EXPECT_EQ(oldest->sessions(0).last_used_at().seconds(), now);
  EXPECT_EQ(oldest->sessions(0).expires_at().seconds(), login->refresh_expires_at().seconds());
  EXPECT_TRUE(oldest->sessions(0).current());
  EXPECT_TRUE(oldest->next_page_token().empty());

  v2::RevokeSessionRequest revoke;
  revoke.set_session_id(second->session_id());
  ASSERT_TRUE(Invoke(Methods::kRevokeSession, revoke, caller));
  v2::RevokeAllSessionsRequest revoke_all;
  const auto none = Invoke(Methods::kRevokeAllSessions, revoke_all, caller);
  ASSERT_TRUE(none);
  EXPECT_EQ(none->revoked(), 0);
  ASSERT_TRUE(Invoke(Methods::kLogout, v2::LogoutRequest(), caller));
  v2::VerifyTokenRequest token;
  token.set_access_token(refreshed->access_token());
  const auto verified = Invoke(Methods::kVerifyToken, token);
  ASSERT_FALSE(verified) << "a session that has ended is introspected as live";
  EXPECT_EQ(verified.error().code(), Code::kUnauthenticated);
  revoke_all.set_include_current(true);
  EXPECT_EQ(Invoke(Methods::kRevokeAllSessions, revoke_all, caller).error().code(), Code::kUnauthenticated);
}

TEST_F(RpcTest, APasswordsWholeWay) {
  ASSERT_TRUE(Invoke(Methods::kRegister, AdaRequest()));
  v2::LoginRequest credentials;
  credentials.set_identifier("ada");
  credentials.set_password(kPassword);
  const auto login = Invoke(Methods::kLogin, credentials);
  ASSERT_TRUE(login);
  v2::ChangePasswordRequest change;
  change.set_current_password(kPassword);
  change.set_new_password("a new horse battery");
  const auto changed = Invoke(
      Methods::kChangePassword, change,
      runtime::Caller{.account = *Uuid::Parse(login->account_id()), .session = *Uuid::Parse(login->session_id())});
  ASSERT_TRUE(changed) << changed.error().ToString();

  v2::RequestPasswordResetRequest ask;
  ask.set_email("ada@example.com");
  ASSERT_TRUE(Invoke(Methods::kRequestPasswordReset, ask));
  const auto requested = Events<events::v1::PasswordResetRequested>();
  ASSERT_EQ(requested.size(), 1U);
  v2::IssuePasswordResetRequest issue;
  issue.set_reset_id(requested[0].reset_id());
  const auto issued = Invoke(Methods::kIssuePasswordReset, issue);
  ASSERT_TRUE(issued) << issued.error().ToString();
  EXPECT_EQ(issued->email(), "ada@example.com");
  EXPECT_EQ(issued->username(), "ada");
  EXPECT_EQ(issued->expires_at().seconds(), requested[0].expires_at().seconds());
  v2::ResetPasswordRequest reset;
  reset.set_reset_token(issued->reset_token());
  reset.set_new_password("another horse battery");
  const auto done = Invoke(Methods::kResetPassword, reset);
  ASSERT_TRUE(done) << done.error().ToString();
  credentials.set_password("another horse battery");
  credentials.set_device_token(done->device_token());
  const auto again = Invoke(Methods::kLogin, credentials);
  ASSERT_TRUE(again) << again.error().ToString();
  EXPECT_EQ(again->device_token(), done->device_token());
}

TEST_F(RpcTest, OnlyTheServiceThatDeliversMailMayHaveAResetToken) {
  const auto policy = rpc::LoadPolicy(Methods::kService, Methods::kIssuePasswordReset.name);
  ASSERT_TRUE(policy);
  EXPECT_FALSE(policy->any_peer);
  EXPECT_EQ(policy->allowed_peers, std::vector<std::string>{"communication"});
}

TEST_F(RpcTest, WhatActsForAUserNeedsOne) {
  for (const char* const name :
       {Methods::kGetAccount.name, Methods::kLogout.name, Methods::kListSessions.name, Methods::kRevokeSession.name,
        Methods::kRevokeAllSessions.name, Methods::kChangePassword.name}) {
    const auto policy = rpc::LoadPolicy(Methods::kService, name);
    ASSERT_TRUE(policy) << name;
    EXPECT_EQ(policy->caller, rpc::CallerRule::kRequired) << name;
  }
}

TEST_F(RpcTest, ErrorsPassThrough) {
  EXPECT_EQ(CodeOf(Invoke(Methods::kRegister, v2::RegisterRequest())), Code::kInvalidArgument);
  EXPECT_EQ(CodeOf(Invoke(Methods::kLogin, v2::LoginRequest())), Code::kInvalidArgument);
  EXPECT_EQ(CodeOf(Invoke(Methods::kVerifyToken, v2::VerifyTokenRequest())), Code::kUnauthenticated);
  EXPECT_EQ(CodeOf(Invoke(Methods::kGetAccount, v2::GetAccountRequest())), Code::kUnauthenticated);
  EXPECT_EQ(CodeOf(Invoke(Methods::kRefreshToken, v2::RefreshTokenRequest())), Code::kUnauthenticated);
  EXPECT_EQ(CodeOf(Invoke(Methods::kLogout, v2::LogoutRequest())), Code::kUnauthenticated);
  EXPECT_EQ(CodeOf(Invoke(Methods::kListSessions, v2::ListSessionsRequest())), Code::kUnauthenticated);
  EXPECT_EQ(CodeOf(Invoke(Methods::kRevokeSession, v2::RevokeSessionRequest())), Code::kUnauthenticated);
  EXPECT_EQ(CodeOf(Invoke(Methods::kRevokeAllSessions, v2::RevokeAllSessionsRequest())), Code::kUnauthenticated);
  EXPECT_EQ(CodeOf(Invoke(Methods::kChangePassword, v2::ChangePasswordRequest())), Code::kUnauthenticated);
  EXPECT_EQ(CodeOf(Invoke(Methods::kRequestPasswordReset, v2::RequestPasswordResetRequest())), Code::kInvalidArgument);
  EXPECT_EQ(CodeOf(Invoke(Methods::kIssuePasswordReset, v2::IssuePasswordResetRequest())), Code::kInvalidArgument);
  EXPECT_EQ(CodeOf(Invoke(Methods::kResetPassword, v2::ResetPasswordRequest())), Code::kUnauthenticated);
}

}  // namespace
}  // namespace nova::identity
