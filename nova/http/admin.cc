#include "nova/http/admin.h"

#include <utility>

namespace nova::http {
namespace {

using runtime::Call;
using runtime::Task;

constexpr const char* kJson = "application/json";

Response Fresh(int status, std::string content_type, std::string body) {
  return Response{.status = status,
                  .headers = {{"Cache-Control", "no-store"}},
                  .content_type = std::move(content_type),
                  .body = std::move(body)};
}

}  // namespace

void Bind(config::Config& config, AdminConfig& admin) {
  config.Field("admin.address", admin.address, {.help = "address of the admin port: metrics, probes, status"});
  config.Field("admin.port", admin.port, {.help = "admin port; 0: any free one", .min = 0, .max = 65535});
}

std::unique_ptr<Server> MakeAdminServer(runtime::Runtime& runtime, const AdminConfig& config, AdminSource source) {
  ServerConfig server_config;
  server_config.address = config.address;
  server_config.port = config.port;
  server_config.port_setting = "--admin-port (NOVA_ADMIN_PORT)";
  auto server = std::make_unique<Server>(runtime, std::move(server_config));
  server->Handle("GET", "/metrics", [scrape = std::move(source.scrape)](Call&, const Request&) -> Task<Response> {
    co_return Fresh(200, "text/plain; version=0.0.4; charset=utf-8", scrape());
  });
  server->Handle("GET", "/livez", [](Call&, const Request&) -> Task<Response> {
    co_return Fresh(200, "text/plain; charset=utf-8", "ok\n");
  });
  server->Handle("GET", "/readyz", [readiness = std::move(source.readiness)](Call&, const Request&) -> Task<Response> {
    Readiness ready = readiness();
    co_return Fresh(ready.ok ? 200 : 503, kJson, std::move(ready.json));
  });
  server->Handle("GET", "/statusz", [status = std::move(source.status)](Call&, const Request&) -> Task<Response> {
    co_return Fresh(200, kJson, status());
  });
  return server;
}

}  // namespace nova::http
