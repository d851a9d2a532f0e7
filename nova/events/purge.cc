#include "nova/events/purge.h"

#include "nova/events/outage.h"
#include "nova/runtime/runtime.h"

namespace nova::events {
namespace {

using postgres::Rows;
using runtime::Call;
using runtime::Task;

constexpr Duration kInterval = std::chrono::minutes(1);
constexpr std::chrono::milliseconds kRetryDelayMax = std::chrono::minutes(1);
// Rows that one statement deletes.
constexpr int kRowsMax = 1'000;

Task<void> Purge(Call& call, postgres::Pool& pool, const Clock& clock, const PurgeConfig& config) {
  for (;;) {
    NOVA_CO_TRY(const Rows rows,
                co_await pool.Query(call, config.statement, clock.WallNow() - config.retention, kRowsMax));
    if (rows.affected() == 0) co_return Ok();
  }
}

}  // namespace

Task<void> PurgeNowAndThen(Call& call, postgres::Pool& pool, const Clock& clock, PurgeConfig config) {
  Outage outage(config.work, config.retry_delay_min, kRetryDelayMax);
  for (;;) {
    const Result<void> purged = co_await Purge(call, pool, clock, config);
    NOVA_CO_TRY(call.Check());
    if (purged) outage.Worked();
    NOVA_CO_TRY(co_await runtime::Sleep(call, purged ? kInterval : outage.Failed(purged.error())));
  }
}

}  // namespace nova::events
