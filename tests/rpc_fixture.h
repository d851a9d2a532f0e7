// Tests of a service on the wire: its handlers as the server runs them, bytes in, bytes out.
//
//   class RpcTest : public tests::RpcFixture<UserTest, MakeRpcService> {};
//
//   TEST_F(RpcTest, OwnersReadTheirProfile) {
//     const auto response = Invoke(Methods::kGetUser, request, ada);
#pragma once

#include <gtest/gtest.h>
#include <map>
#include <string>
#include <utility>
#include <variant>

#include "nova/rpc/codec.h"
#include "nova/rpc/policy.h"
#include "nova/rpc/service.h"
#include "tests/service_fixture.h"

namespace nova::tests {

// `Base`: a ServiceFixture whose member service_ is what `kMakeRpcService` takes.
template <class Base, auto kMakeRpcService>
class RpcFixture : public Base {
 protected:
  template <class Request, class Response>
  Result<Response> Invoke(rpc::UnaryMethod<Request, Response> method, const Request& request, As caller = {}) {
    return this->template Run<Response>(caller, [&](runtime::Call& call) -> runtime::Task<Response> {
      grpc::ByteBuffer in;
      grpc::ByteBuffer out;
      NOVA_CO_TRY(rpc::Encode(request, in));
      NOVA_CO_TRY(co_await std::get<rpc::RawUnaryHandler>(rpc_.handlers().at(method.name))(call, in, out));
      Response response;
      NOVA_CO_TRY(rpc::Decode(out, response));
      co_return response;
    });
  }

  // What the contract declares about each of its methods, by name. Fails the test unless exactly these have handlers.
  std::map<std::string, rpc::MethodPolicy> Policies() const {
    std::map<std::string, rpc::MethodPolicy> policies;
    const auto names = rpc::MethodNames(rpc_.name());
    if (!names) {
      ADD_FAILURE() << names.error().ToString();
      return policies;
    }
    EXPECT_EQ(rpc_.handlers().size(), names->size());
    for (const std::string& name : *names) {
      EXPECT_TRUE(rpc_.handlers().contains(name)) << name;
      auto policy = rpc::LoadPolicy(rpc_.name(), name);
      EXPECT_TRUE(policy) << name << ": " << policy.error().ToString();
      if (policy) policies.emplace(name, *std::move(policy));
    }
    return policies;
  }

  const rpc::Service rpc_ = kMakeRpcService(this->service_);
};

}  // namespace nova::tests
