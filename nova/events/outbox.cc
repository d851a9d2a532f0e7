#include "nova/events/outbox.h"

#include <cstdint>
#include <vector>

#include "nova/events/migrations.h"
#include "nova/resilience/crash_point.h"

namespace nova::events {
namespace {

using postgres::Statement;
using runtime::Call;
using runtime::Task;

// An event was added, in a transaction that is not committed.
const resilience::CrashPoint kAppended("outbox.appended");
// Committed, and the relay not told.
const resilience::CrashPoint kCommitted("outbox.committed");

constexpr std::string_view kHistory = "nova_events_migrations";

// One statement, so that an event costs one round trip. The position is drawn after the counter's row is locked, so
// positions rise with the sequence within an aggregate.
constexpr Statement kAppend{"events_append",
                            "WITH counter AS ("
                            "INSERT INTO events.aggregates AS known (aggregate, sequence) VALUES ($2, 1) "
                            "ON CONFLICT (aggregate) DO UPDATE SET sequence = known.sequence + 1 RETURNING sequence) "
                            "INSERT INTO events.outbox (id, aggregate, sequence, type, payload, trace, occurred_at) "
                            "SELECT $1, $2, sequence, $3, $4, $5, $6 FROM counter"};

}  // namespace

std::string StreamOf(std::string_view producer) { return "stream:" + std::string(producer); }

Task<postgres::MigrationReport> Migrate(Call& call, postgres::ConnectionConfig direct,
                                        std::span<const postgres::Migration> migrations) {
  NOVA_CO_TRY(const auto own, co_await postgres::Migrate(call, direct, Migrations(), kHistory));
  NOVA_CO_TRY(auto report, co_await postgres::Migrate(call, std::move(direct), migrations));
  std::vector<std::string> applied;
  for (const std::string& name : own.applied) applied.push_back("events " + name);
  report.applied.insert(report.applied.begin(), applied.begin(), applied.end());
  co_return report;
}

Outbox::Outbox(postgres::Pool& pool, std::string producer, const Clock& clock)
    : pool_(pool), producer_(std::move(producer)), clock_(clock) {}

Task<void> Outbox::Append(Call& call, postgres::Transaction& transaction, std::string aggregate,
                          const google::protobuf::Message& event) {
  const std::string type = event.GetTypeName();
  if (aggregate.empty() || aggregate.size() > kAggregateBytesMax)
    co_return InvalidArgument("internal error", "the aggregate of a " + type + " has " +
                                                    std::to_string(aggregate.size()) + " bytes; at most " +
                                                    std::to_string(kAggregateBytesMax) + " are allowed");
  const std::size_t size = event.ByteSizeLong();
  if (size > kEventBytesMax)
    co_return InvalidArgument("the change is too large", "a " + type + " of " + std::to_string(size) +
                                                             " bytes; at most " + std::to_string(kEventBytesMax) +
                                                             " are allowed");
  std::vector<std::uint8_t> payload(size);
  if (!event.SerializeToArray(payload.data(), static_cast<int>(size)))
    co_return Internal("internal error", "a " + type + " could not be encoded");
  NOVA_CO_TRY(co_await transaction.Query(call, kAppend, Uuid::New(clock_), aggregate, type, payload,
                                         call.trace().ToTraceparent(), clock_.WallNow()));
  kAppended.Pass();
  co_return Ok();
}

void Outbox::OnCommit(std::function<void()> wake) {
  std::lock_guard lock(mutex_);
  wake_ = std::move(wake);
}

void Outbox::Wake() {
  kCommitted.Pass();
  std::function<void()> wake;
  {
    std::lock_guard lock(mutex_);
    wake = wake_;
  }
  if (wake) wake();
}

}  // namespace nova::events
