// Outbox: events are written to a table in the transaction that makes their effect, so that neither exists without the
// other. A Relay publishes them afterwards.
//
//   co_return co_await outbox.InTransaction(call, [&](postgres::Transaction& transaction) -> Task<void> {
//     NOVA_CO_TRY(co_await transaction.Query(call, kInsertAccount, ...));
//     events::v1::AccountRegistered event;
//     ...
//     NOVA_CO_TRY(co_await outbox.Append(call, transaction, "account/" + id.ToString(), event));
//     co_return Ok();
//   });
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <google/protobuf/message.h>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "nova/base/clock.h"
#include "nova/base/error.h"
#include "nova/postgres/migrate.h"
#include "nova/postgres/pool.h"
#include "nova/runtime/call.h"
#include "nova/runtime/task.h"

namespace nova::events {

// Brings the database of a service up to date: first the tables of this folder, which are the PostgreSQL schema
// `events`, then those of the service's own `migrations`, which may refer to them. Each keeps a history. The report's
// version is the service's; what was applied of this folder stands first in it, as "events 0001_events". Errors,
// deadline and cancellation: postgres::Migrate's.
runtime::Task<postgres::MigrationReport> Migrate(runtime::Call& call, postgres::ConnectionConfig direct,
                                                 std::span<const postgres::Migration> migrations = {});

// Thread-safe.
class Outbox {
 public:
  // `producer` is the service's name: its events appear on the stream StreamOf(producer). The references must outlive
  // the outbox.
  Outbox(postgres::Pool& pool, std::string producer, const Clock& clock = Clock::System());
  Outbox(const Outbox&) = delete;
  Outbox& operator=(const Outbox&) = delete;

  const std::string& producer() const { return producer_; }

  // Pool::InTransaction, after which the relay of this process looks at once. What is appended elsewhere is published
  // too, at the relay's next look.
  template <class F>
  auto InTransaction(runtime::Call& call, F body, postgres::OnConflict on_conflict = postgres::OnConflict::kRepeat)
      -> std::invoke_result_t<F&, postgres::Transaction&> {
    auto result = co_await pool_.InTransaction(call, std::move(body), on_conflict);
    // UNKNOWN: it may have been committed.
    if (result || result.error().code() == Code::kUnknown) Wake();
    co_return result;
  }

  // Adds an event to the transaction: it will be published if, and only if, that commits. `aggregate` names what the
  // event is about ("account/<id>"); its events are numbered from 1 without gaps and reach every consumer in that
  // order, because the row of its counter is locked until the transaction ends. Append last, so as to hold it briefly,
  // and several aggregates always in the same order, lest two transactions wait for each other. The counter
  // stays when the aggregate is gone. The event's type is the message's full name, its trace the call's.
  //
  // `event` must live until it returns. Errors: those of Transaction::Query; INVALID_ARGUMENT if the event is larger
  // than kEventBytesMax, or the aggregate's name is empty or longer than kAggregateBytesMax.
  runtime::Task<void> Append(runtime::Call& call, postgres::Transaction& transaction, std::string aggregate,
                             const google::protobuf::Message& event);

  // Who is told after each commit; the relay. Replaces the one before; empty: nobody.
  void OnCommit(std::function<void()> wake);

 private:
  void Wake();

  postgres::Pool& pool_;
  const std::string producer_;
  const Clock& clock_;
  std::mutex mutex_;
  std::function<void()> wake_;  // guarded by mutex_
};

// Of the encoded message.
inline constexpr std::size_t kEventBytesMax = 256 * 1024;
// Of an aggregate's name, which is a key of tables.
inline constexpr std::size_t kAggregateBytesMax = 256;
// What an envelope adds to its event, and both together: an entry of a stream.
inline constexpr std::int64_t kEnvelopeBytesMax = 2 * 1024;
inline constexpr std::int64_t kEntryBytesMax = static_cast<std::int64_t>(kEventBytesMax) + kEnvelopeBytesMax;

// "stream:identity". It ends in the producer's name. Each entry has one field, "envelope": a v1.Envelope.
std::string StreamOf(std::string_view producer);

// What Envelope.version says today.
inline constexpr std::uint32_t kEnvelopeVersion = 1;

}  // namespace nova::events
