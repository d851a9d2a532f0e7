// Typed names of RPC methods. protoc_gen_nova generates one constant per method (`IdentityServiceMethods::kLogin`);
// servers and clients are written against these, so a wrong message type does not compile.
#pragma once

namespace nova::rpc {

enum class MethodKind { kUnary, kClientStream, kServerStream, kBidiStream };

// All strings have static storage. `path` is what travels as :path, "/package.Service/Method".
template <MethodKind Kind, class Request, class Response>
struct Method {
  static constexpr MethodKind kKind = Kind;
  const char* service;
  const char* name;
  const char* path;
};

template <class Request, class Response>
using UnaryMethod = Method<MethodKind::kUnary, Request, Response>;
template <class Request, class Response>
using ClientStreamMethod = Method<MethodKind::kClientStream, Request, Response>;
template <class Request, class Response>
using ServerStreamMethod = Method<MethodKind::kServerStream, Request, Response>;
template <class Request, class Response>
using BidiStreamMethod = Method<MethodKind::kBidiStream, Request, Response>;

}  // namespace nova::rpc
