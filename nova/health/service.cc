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
                   // An unknown name is told so, and the stream stays open, as the protocol has it.
                   const bool known = services.contains(request.service());
                   for (Snapshot snapshot = monitor.Get();;) {
                     const auto response =
                         known ? Response(snapshot.serving) : Response(v1::HealthCheckResponse::SERVICE_UNKNOWN);
                     NOVA_CO_TRY(co_await writer.Write(call, response));
                     // The last word has been said, and an open stream would hold the server up to its drain limit.
                     if (snapshot.draining) co_return Ok();
                     auto changed = co_await monitor.Changed(call, snapshot.version);
                     // At the end of its life the stream ends well, and the client opens the next.
                     if (!changed && changed.error().code() == Code::kDeadlineExceeded) co_return Ok();
                     NOVA_CO_TRY(snapshot, std::move(changed));
                   }
                 });
  return service;
}

}  // namespace nova::health
