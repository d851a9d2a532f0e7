#include "services/identity/rpc.h"

#include <chrono>
#include <google/protobuf/timestamp.pb.h>

#include "api/identity/v2/identity.nova.h"

namespace nova::identity {
namespace {

using Methods = v2::IdentityServiceMethods;
using runtime::Call;
using runtime::Task;

void ToProto(WallTime time, google::protobuf::Timestamp& out) {
  const auto seconds = std::chrono::floor<std::chrono::seconds>(time);
  out.set_seconds(seconds.time_since_epoch().count());
  out.set_nanos(static_cast<std::int32_t>(std::chrono::nanoseconds(time - seconds).count()));
}

void ToProto(const Account& account, v2::Account& out) {
  out.set_id(account.id.ToString());
  out.set_email(account.email);
  out.set_username(account.username);
  ToProto(account.created_at, *out.mutable_created_at());
}

}  // namespace

rpc::Service MakeRpcService(Service& identity) {
  rpc::Service service(Methods::kService);

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

  service.Handle(Methods::kLogin, [&identity](Call& call, const v2::LoginRequest& request) -> Task<v2::LoginResponse> {
    NOVA_CO_TRY(const Login login, co_await identity.LogIn(call, {.identifier = request.identifier(),
                                                                  .password = Secret<>(request.password())}));
    v2::LoginResponse response;
    response.set_account_id(login.account.ToString());
    response.set_access_token(login.access_token.Expose());
    ToProto(login.expires_at, *response.mutable_expires_at());
    co_return response;
  });

  service.Handle(Methods::kVerifyToken,
                 [&identity](Call&, const v2::VerifyTokenRequest& request) -> Task<v2::VerifyTokenResponse> {
                   NOVA_CO_TRY(const auth::Claims claims, identity.VerifyToken(request.access_token()));
                   v2::VerifyTokenResponse response;
                   response.set_account_id(claims.subject.ToString());
                   response.set_session_id(claims.session_id.ToString());
                   ToProto(claims.expires_at, *response.mutable_expires_at());
                   co_return response;
                 });

  service.Handle(Methods::kGetJwks, [&identity](Call&, const v2::GetJwksRequest&) -> Task<v2::GetJwksResponse> {
    v2::GetJwksResponse response;
    response.set_jwks(identity.GetJwks());
    co_return response;
  });

  service.Handle(Methods::kGetAccount,
                 [&identity](Call& call, const v2::GetAccountRequest&) -> Task<v2::GetAccountResponse> {
                   NOVA_CO_TRY(const Account account, co_await identity.GetAccount(call));
                   v2::GetAccountResponse response;
                   ToProto(account, *response.mutable_account());
                   co_return response;
                 });

  return service;
}

}  // namespace nova::identity
