#include "local/readiness.h"

#include <fmt/format.h>

namespace nova::local {

Result<http::Response> ReadinessProbe::Get(int admin_port, const char* path, Duration limit) {
  return runtime_.RunBlocking<http::Response>(limit, [this, admin_port, path](runtime::Call& call) {
    return client_.Get(call, "127.0.0.1", admin_port, path);
  });
}

Result<void> ReadinessProbe::Check(int admin_port, Duration limit) {
  NOVA_TRY(http::Response response, Get(admin_port, "/readyz", limit));
  if (response.status == 200) return Ok();
  return Unavailable(fmt::format("not ready (HTTP status {})", response.status), std::move(response.body));
}

Result<std::string> ReadinessProbe::Status(int admin_port, Duration limit) {
  NOVA_TRY(http::Response response, Get(admin_port, "/statusz", limit));
  if (response.status == 200) return std::move(response.body);
  return Unavailable(fmt::format("no status (HTTP status {})", response.status), std::move(response.body));
}

}  // namespace nova::local
