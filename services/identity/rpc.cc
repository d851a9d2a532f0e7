#include "services/identity/rpc.h"

#include <utility>

#include "api/identity/v2/identity.nova.h"
#include "nova/proto/timestamp.h"

namespace nova::identity {
namespace {

using Methods = v2::IdentityServiceMethods;
using runtime::Call;
using runtime::Task;

void ToProto(const Account& account, v2::Account& out) {
  out.set_id(account.id.ToString());
  out.set_email(account.email);
  out.set_username(account.username);
  *out.mutable_created_at() = proto::ToTimestamp(account.created_at);
}

// Into either response that carries tokens.
template <class Response>
void ToProto(const Tokens& tokens, Response& out) {
  out.set_account_id(tokens.account.ToString());
  out.set_session_id(tokens.session.ToString());
  out.set_access_token(tokens.access_token.Expose());
  *out.mutable_expires_at() = proto::ToTimestamp(tokens.access_expires_at);
  out.set_refresh_token(tokens.refresh_token.Expose());
  *out.mutable_refresh_expires_at() = proto::ToTimestamp(tokens.refresh_expires_at);
}

void ToProto(const SessionPage& page, v2::ListSessionsResponse& out) {
  for (const auto& [session, current] : page.items) {
    v2::Session& item = *out.add_sessions();
    item.set_id(session.id.ToString());
    item.set_device_name(session.device_name);
    *item.mutable_created_at() = proto::ToTimestamp(session.created_at);
    *item.mutable_last_used_at() = proto::ToTimestamp(session.last_used_at);
    *item.mutable_expires_at() = proto::ToTimestamp(session.expires_at);
    item.set_current(current);
  }
  out.set_next_page_token(page.next_page_token);
}

void HandleAccounts(rpc::Service& service, Service& identity) {
  service.Handle(Methods::kRegister,
                 [&identity](Call& call, const v2::RegisterRequest& request) -> Task<v2::RegisterResponse> {
                   NOVA_CO_TRY(const Account account,
                               co_await identity.Register(call, {.email = request.email(),
                                                                 .username = request.username(),
                                                                 .password = Secret<>(request.password()),
                                                                 .idempotency_key = request.idempotency_key()}));
                   v2::RegisterResponse response;
                   ToProto(account, *response.mutable_account());
                   co_return response;
                 });

  service.Handle(Methods::kGetAccount,
                 [&identity](Call& call, const v2::GetAccountRequest&) -> Task<v2::GetAccountResponse> {
                   NOVA_CO_TRY(const Account account, co_await identity.GetAccount(call));
                   v2::GetAccountResponse response;
                   ToProto(account, *response.mutable_account());
                   co_return response;
                 });
}

void HandleSessions(rpc::Service& service, Service& identity) {
  service.Handle(Methods::kLogin, [&identity](Call& call, const v2::LoginRequest& request) -> Task<v2::LoginResponse> {
    NOVA_CO_TRY(const Login login, co_await identity.LogIn(call, {.identifier = request.identifier(),
                                                                  .password = Secret<>(request.password()),
                                                                  .device_name = request.device_name(),
                                                                  .device_token = Secret<>(request.device_token())}));
    v2::LoginResponse response;
    ToProto(login.tokens, response);
    response.set_device_token(login.device_token.Expose());
    co_return response;
  });

  service.Handle(Methods::kRefreshToken,
                 [&identity](Call& call, const v2::RefreshTokenRequest& request) -> Task<v2::RefreshTokenResponse> {
                   NOVA_CO_TRY(const Tokens tokens,
                               co_await identity.sessions().Refresh(call, Secret<>(request.refresh_token())));
                   v2::RefreshTokenResponse response;
                   ToProto(tokens, response);
                   co_return response;
                 });

  service.Handle(Methods::kLogout, [&identity](Call& call, const v2::LogoutRequest&) -> Task<v2::LogoutResponse> {
    NOVA_CO_TRY(co_await identity.sessions().LogOut(call));
    co_return v2::LogoutResponse();
  });

  service.Handle(Methods::kVerifyToken,
                 [&identity](Call& call, const v2::VerifyTokenRequest& request) -> Task<v2::VerifyTokenResponse> {
                   NOVA_CO_TRY(const auth::Claims claims,
                               co_await identity.sessions().Verify(call, Secret<>(request.access_token())));
                   v2::VerifyTokenResponse response;
                   response.set_account_id(claims.subject.ToString());
                   response.set_session_id(claims.session_id.ToString());
                   *response.mutable_expires_at() = proto::ToTimestamp(claims.expires_at);
                   co_return response;
                 });

  service.Handle(Methods::kGetJwks, [&identity](Call&, const v2::GetJwksRequest&) -> Task<v2::GetJwksResponse> {
    v2::GetJwksResponse response;
    response.set_jwks(identity.sessions().GetJwks());
    co_return response;
  });

  service.Handle(Methods::kListSessions,
                 [&identity](Call& call, const v2::ListSessionsRequest& request) -> Task<v2::ListSessionsResponse> {
                   NOVA_CO_TRY(const SessionPage page,
                               co_await identity.sessions().List(call, request.page_size(), request.page_token()));
                   v2::ListSessionsResponse response;
                   ToProto(page, response);
                   co_return response;
                 });

  service.Handle(Methods::kRevokeSession,
                 [&identity](Call& call, const v2::RevokeSessionRequest& request) -> Task<v2::RevokeSessionResponse> {
                   NOVA_CO_TRY(co_await identity.sessions().Revoke(call, request.session_id()));
                   co_return v2::RevokeSessionResponse();
                 });

  service.Handle(
      Methods::kRevokeAllSessions,
      [&identity](Call& call, const v2::RevokeAllSessionsRequest& request) -> Task<v2::RevokeAllSessionsResponse> {
        NOVA_CO_TRY(const std::int64_t revoked,
                    co_await identity.sessions().RevokeAll(call, request.include_current()));
        v2::RevokeAllSessionsResponse response;
        response.set_revoked(revoked);
        co_return response;
      });
}

void HandlePasswords(rpc::Service& service, Service& identity) {
  service.Handle(Methods::kChangePassword,
                 [&identity](Call& call, const v2::ChangePasswordRequest& request) -> Task<v2::ChangePasswordResponse> {
                   NOVA_CO_TRY(co_await identity.passwords().Change(call, Secret<>(request.current_password()),
                                                                    Secret<>(request.new_password())));
                   co_return v2::ChangePasswordResponse();
                 });

  service.Handle(Methods::kRequestPasswordReset,
                 [&identity](Call& call,
                             const v2::RequestPasswordResetRequest& request) -> Task<v2::RequestPasswordResetResponse> {
                   NOVA_CO_TRY(co_await identity.passwords().RequestReset(call, request.email()));
                   co_return v2::RequestPasswordResetResponse();
                 });

  service.Handle(
      Methods::kIssuePasswordReset,
      [&identity](Call& call, const v2::IssuePasswordResetRequest& request) -> Task<v2::IssuePasswordResetResponse> {
        NOVA_CO_TRY(const IssuedReset issued, co_await identity.passwords().IssueReset(call, request.reset_id()));
        v2::IssuePasswordResetResponse response;
        response.set_reset_token(issued.token.Expose());
        response.set_email(issued.email);
        response.set_username(issued.username);
        *response.mutable_expires_at() = proto::ToTimestamp(issued.expires_at);
        co_return response;
      });

  service.Handle(Methods::kResetPassword,
                 [&identity](Call& call, const v2::ResetPasswordRequest& request) -> Task<v2::ResetPasswordResponse> {
                   NOVA_CO_TRY(const Secret<> device_token,
                               co_await identity.passwords().Reset(call, Secret<>(request.reset_token()),
                                                                   Secret<>(request.new_password())));
                   v2::ResetPasswordResponse response;
                   response.set_device_token(device_token.Expose());
                   co_return response;
                 });
}

}  // namespace

rpc::Service MakeRpcService(Service& identity) {
  rpc::Service service(Methods::kService);
  HandleAccounts(service, identity);
  HandleSessions(service, identity);
  HandlePasswords(service, identity);
  return service;
}

}  // namespace nova::identity
