#include "services/identity/events.h"

#include "api/events/v1/user.pb.h"

namespace nova::identity {
namespace {

using runtime::Call;
using runtime::Task;

constexpr char kUser[] = "user";

// What all three are: something that happens to the account of a user, whose id is the account's.
template <class Event>
void On(events::Consumer& consumer, Service& identity,
        Task<void> (Service::*apply)(Call&, postgres::Transaction&, Uuid)) {
  consumer.On<Event>(kUser,
                     [&identity, apply](Call& call, postgres::Transaction& transaction, const events::v1::Envelope&,
                                        const Event& event) -> Task<void> {
                       NOVA_CO_TRY(const Uuid account, Uuid::Parse(event.user_id()));
                       co_return co_await (identity.*apply)(call, transaction, account);
                     });
}

}  // namespace

void Consume(events::Consumer& consumer, Service& identity) {
  On<events::v1::UserBanned>(consumer, identity, &Service::Suspend);
  On<events::v1::UserUnbanned>(consumer, identity, &Service::Reinstate);
  On<events::v1::UserDeleted>(consumer, identity, &Service::Delete);
}

}  // namespace nova::identity
