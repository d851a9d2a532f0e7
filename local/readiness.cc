#include "local/readiness.h"

#include <fmt/format.h>

namespace nova::local {

Result<void> ReadinessProbe::Check(int admin_port, Duration limit) {
  NOVA_TRY(http::Response response,
           runtime_.RunBlocking<http::Response>(limit, [this, admin_port](runtime::Call& call) {
             return client_.Get(call, "127.0.0.1", admin_port, "/readyz");
           }));
  if (response.status == 200) return Ok();
  return Unavailable(fmt::format("not ready (HTTP status {})", response.status), std::move(response.body));
}

}  // namespace nova::local
