#include "services/user/events.h"

#include "api/events/v1/identity.pb.h"
#include "nova/proto/timestamp.h"

namespace nova::user {
namespace {

using events::v1::AccountRegistered;
using events::v1::Envelope;
using postgres::Transaction;
using runtime::Call;
using runtime::Task;

constexpr char kIdentity[] = "identity";

Task<void> OnAccountRegistered(Call& call, Transaction& transaction, Service& user, const AccountRegistered& event) {
  const auto id = Uuid::Parse(event.account_id());
  if (!id || id->is_nil()) co_return InvalidArgument("the event names no account");
  if (!event.has_registered_at()) co_return InvalidArgument("the event does not say when");
  NOVA_CO_TRY(const WallTime registered_at, proto::FromTimestamp(event.registered_at()));
  co_return co_await user.CreateUser(call, transaction,
                                     {.id = *id, .username = event.username(), .registered_at = registered_at});
}

}  // namespace

void Consume(events::Consumer& consumer, Service& user) {
  consumer.On<AccountRegistered>(
      kIdentity, [&user](Call& call, Transaction& transaction, const Envelope&, const AccountRegistered& event) {
        return OnAccountRegistered(call, transaction, user, event);
      });
}

}  // namespace nova::user
