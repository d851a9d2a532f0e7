#include "nova/health/service.h"

#include "api/health/v1/health.nova.h"

namespace nova::health {
namespace {

namespace v1 = grpc::health::v1;
using Methods = v1::HealthMethods;
using runtime::Call;
using runtime::Task;

v1::HealthCheckResponse Response(v1::HealthCheckResponse::ServingStatus status) {
  v1::HealthCheckResponse response;
  response.set_status(status);
  return response;
}

v1::HealthCheckResponse Response(bool serving) {
  return Response(serving ? v1::HealthCheckResponse::SERVING : v1::HealthCheckResponse::NOT_SERVING);
}

}  // namespace

rpc::Service MakeHealthService(Monitor& monitor, std::set<std::string> services) {
  services.insert("");
  rpc::Service service(Methods::kService);
  service.Handle(Methods::kCheck,
                 [&monitor, services](Call&, const v1::HealthCheckRequest& request) -> Task<v1::HealthCheckResponse> {
                   if (!services.contains(request.service()))
                     co_return NotFound("service: '" + request.service() + "' does not run here");
                   co_return Response(monitor.serving());
                 });
  service.Handle(Methods::kWatch,
                 [&monitor, services](Call& call, const v1::HealthCheckRequest& request,
                                      rpc::Writer<v1::HealthCheckResponse>& writer) -> Task<void> {
                   if (!services.contains(request.service())) {
                     // The protocol keeps such a stream open, in case the service appears; here it cannot, but the
                     // client's view stays the same.
                     const auto unknown = Response(v1::HealthCheckResponse::SERVICE_UNKNOWN);
                     NOVA_CO_TRY(co_await writer.Write(call, unknown));
                     co_return co_await runtime::Sleep(call, call.Remaining());
                   }
                   for (Snapshot snapshot = monitor.Get();;) {
                     const auto response = Response(snapshot.serving);
                     NOVA_CO_TRY(co_await writer.Write(call, response));
                     // There will be no other news, and an open stream would hold the server up to its drain limit.
                     if (snapshot.draining) co_return Unavailable("this process is stopping");
                     NOVA_CO_TRY(snapshot, co_await monitor.Changed(call, snapshot.version));
                   }
                 });
  return service;
}

}  // namespace nova::health
