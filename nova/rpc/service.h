// Service: the handlers of one proto service. A service that lacks a handler for one of its methods does not start.
//
//   Service service(IdentityServiceMethods::kService);
//   service.Handle(IdentityServiceMethods::kLogin,
//                  [this](Call& call, const LoginRequest& request) -> Task<LoginResponse> { ... });
//
// Handlers run on the strand of their call. They must be thread-safe among each other, never block, and end soon after
// their call is cancelled. The forms:
//   unary          Task<Response>(Call&, const Request&)
//   server stream  Task<void>(Call&, const Request&, Writer<Response>&)
//   client stream  Task<Response>(Call&, Reader<Request>&)
//   bidi stream    Task<void>(Call&, Reader<Request>&, Writer<Response>&)
#pragma once

#include <functional>
#include <map>
#include <string>
#include <utility>
#include <variant>

#include "api/rpc/v1/method.h"
#include "nova/rpc/codec.h"
#include "nova/rpc/stream.h"
#include "nova/runtime/call.h"
#include "nova/runtime/task.h"

namespace nova::rpc {

// What the server runs: bodies still encoded, so that every layer decides before a byte is decoded.
using RawUnaryHandler =
    std::function<runtime::Task<void>(runtime::Call&, const grpc::ByteBuffer& request, grpc::ByteBuffer& response)>;
using RawStreamHandler = std::function<runtime::Task<void>(runtime::Call&, RawStream&)>;
using RawHandler = std::variant<RawUnaryHandler, RawStreamHandler>;

class Service {
 public:
  explicit Service(std::string name) : name_(std::move(name)) {}

  template <class Request, class Response, class F>
  void Handle(UnaryMethod<Request, Response> method, F handler) {
    Add(method.service, method.name,
        RawUnaryHandler([handler = std::move(handler)](runtime::Call& call, const grpc::ByteBuffer& request,
                                                       grpc::ByteBuffer& response) -> runtime::Task<void> {
          Request message;
          NOVA_CO_TRY(Decode(request, message));
          NOVA_CO_TRY(const Response reply, co_await handler(call, std::as_const(message)));
          co_return Encode(reply, response);
        }));
  }

  template <class Request, class Response, class F>
  void Handle(ServerStreamMethod<Request, Response> method, F handler) {
    Add(method.service, method.name,
        RawStreamHandler([handler = std::move(handler)](runtime::Call& call, RawStream& stream) -> runtime::Task<void> {
          Reader<Request> reader(stream);
          NOVA_CO_TRY(const auto request, co_await reader.Read(call));
          if (!request) co_return InvalidArgument("the request is missing");
          Writer<Response> writer(stream);
          co_return co_await handler(call, *request, writer);
        }));
  }

  template <class Request, class Response, class F>
  void Handle(ClientStreamMethod<Request, Response> method, F handler) {
    Add(method.service, method.name,
        RawStreamHandler([handler = std::move(handler)](runtime::Call& call, RawStream& stream) -> runtime::Task<void> {
          Reader<Request> reader(stream);
          NOVA_CO_TRY(const Response reply, co_await handler(call, reader));
          Writer<Response> writer(stream);
          co_return co_await writer.Write(call, reply);
        }));
  }

  template <class Request, class Response, class F>
  void Handle(BidiStreamMethod<Request, Response> method, F handler) {
    Add(method.service, method.name,
        RawStreamHandler([handler = std::move(handler)](runtime::Call& call, RawStream& stream) -> runtime::Task<void> {
          Reader<Request> reader(stream);
          Writer<Response> writer(stream);
          co_return co_await handler(call, reader, writer);
        }));
  }

  const std::string& name() const { return name_; }
  const std::map<std::string, RawHandler>& handlers() const { return handlers_; }

 private:
  // Precondition: the method belongs to this service and has no handler yet.
  void Add(std::string_view service, const char* method, RawHandler handler);

  std::string name_;
  std::map<std::string, RawHandler> handlers_;
};

}  // namespace nova::rpc
