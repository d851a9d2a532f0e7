#include <gtest/gtest.h>

#include "api/identity/v2/identity.nova.h"
#include "nova/rpc/codec.h"
#include "nova/rpc/policy.h"
#include "services/identity/rpc.h"
#include "services/identity/test_environment.h"

namespace nova::identity {
namespace {

using Methods = v2::IdentityServiceMethods;
using runtime::Call;
using runtime::Task;

// The handlers as the server runs them: bytes in, bytes out.
class RpcTest : public IdentityTest {
 protected:
  template <class Request, class Response>
  Result<Response> Invoke(rpc::UnaryMethod<Request, Response> method, const Request& request,
                          std::optional<runtime::Caller> caller = {}) {
    return Run<Response>([&](Call& call) -> Task<Response> {
      if (caller) call.set_caller(*caller);
      grpc::ByteBuffer in;
      grpc::ByteBuffer out;
      NOVA_CO_TRY(rpc::Encode(request, in));
      NOVA_CO_TRY(co_await std::get<rpc::RawUnaryHandler>(rpc_.handlers().at(method.name))(call, in, out));
      Response response;
      NOVA_CO_TRY(rpc::Decode(out, response));
      co_return response;
    });
  }

  v2::RegisterRequest AdaRequest() {
    v2::RegisterRequest request;
    request.set_email("ada@example.com");
    request.set_username("ada");
    request.set_password(kPassword);
    request.set_idempotency_key(Uuid::New().ToString());
    return request;
  }

  const rpc::Service rpc_ = MakeRpcService(service_);
};

TEST_F(RpcTest, EveryDeclaredMethodHasAHandlerAndAPolicy) {
  const auto names = rpc::MethodNames(Methods::kService);
  ASSERT_TRUE(names) << names.error().ToString();
  EXPECT_EQ(names->size(), rpc_.handlers().size());
  for (const std::string& name : *names) {
    EXPECT_EQ(rpc_.handlers().count(name), 1U) << name;
    const auto policy = rpc::LoadPolicy(Methods::kService, name);
    EXPECT_TRUE(policy) << name << ": " << policy.error().ToString();
  }
}

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
  EXPECT_EQ(jwks->jwks(), service_.GetJwks());

  const auto own = Invoke(Methods::kGetAccount, v2::GetAccountRequest(),
                          runtime::Caller{.account = *Uuid::Parse(verified->account_id()),
                                          .session = *Uuid::Parse(verified->session_id())});
  ASSERT_TRUE(own) << own.error().ToString();
  EXPECT_EQ(own->account().SerializeAsString(), registered->account().SerializeAsString());
}

TEST_F(RpcTest, ErrorsPassThrough) {
  const auto code = [](const auto& result) { return result ? Code::kOk : result.error().code(); };
  EXPECT_EQ(code(Invoke(Methods::kRegister, v2::RegisterRequest())), Code::kInvalidArgument);
  EXPECT_EQ(code(Invoke(Methods::kLogin, v2::LoginRequest())), Code::kInvalidArgument);
  EXPECT_EQ(code(Invoke(Methods::kVerifyToken, v2::VerifyTokenRequest())), Code::kUnauthenticated);
  EXPECT_EQ(code(Invoke(Methods::kGetAccount, v2::GetAccountRequest())), Code::kUnauthenticated);
}

}  // namespace
}  // namespace nova::identity
