// Identity: accounts, log-in, sessions and their tokens, passwords. It alone holds the key that signs; everybody else
// verifies with the keys it publishes.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "nova/auth/jwt.h"
#include "nova/auth/password.h"
#include "nova/base/clock.h"
#include "nova/base/result.h"
#include "nova/base/secret.h"
#include "nova/runtime/call.h"
#include "nova/runtime/scope.h"
#include "nova/runtime/task.h"
#include "nova/telemetry/metrics.h"
#include "services/identity/account.h"
#include "services/identity/config.h"
#include "services/identity/lockout.h"
#include "services/identity/passwords.h"
#include "services/identity/sessions.h"
#include "services/identity/store.h"

namespace nova::identity {

struct Registration {
  std::string email;
  std::string username;
  Secret<> password;
  // A UUID that the client chose for this request and sends again when it repeats it.
  std::string idempotency_key;
};

struct Credentials {
  // Email address or username.
  std::string identifier;
  Secret<> password;
  // What the user may recognise the session by; may be empty.
  std::string device_name = {};
  // Of an earlier log-in; may be empty. One that is not good (any more) is as good as none.
  Secret<> device_token = {};
};

struct Login {
  Tokens tokens;
  // For the next log-in on this device.
  Secret<> device_token;
};

// Thread-safe. Errors that every function may have beyond those it names: RESOURCE_EXHAUSTED when too many passwords
// are being computed or too many calls wait for the database; UNAVAILABLE without the database; why the call ended.
// Cancellation: at once, the statement under way included. Deadline: the call's.
class Service {
 public:
  // All references must outlive the service. `verifier` knows every key that `signer` signs with.
  // Precondition: Validate(config) is OK.
  Service(Store& store, auth::PasswordHasher& hasher, const auth::JwtSigner& signer, const auth::JwtVerifier& verifier,
          telemetry::Metrics& metrics, const ServiceConfig& config = {}, const Clock& clock = Clock::System());

  // Keeps house until `scope` stops: tells other services about accounts that an earlier binary made, and deletes what
  // has expired.
  void Start(runtime::Scope& scope);

  // Makes an account; repeated with the same key and content, returns the one it made.
  // Errors: INVALID_ARGUMENT naming the field, idempotency_key among them if it was used with other content;
  // ALREADY_EXISTS if the email address or the username is taken, without saying which.
  runtime::Task<Account> Register(runtime::Call& call, Registration registration);

  // Opens a session. Errors: INVALID_ARGUMENT for a field that is empty or too long;
  // UNAUTHENTICATED for an unknown user and for a wrong password, in the same words and after the same work;
  // RESOURCE_EXHAUSTED after too many failures, likewise for both; PERMISSION_DENIED for a suspended account, if the
  // password is right.
  runtime::Task<Login> LogIn(runtime::Call& call, Credentials credentials);

  // The account of the call's caller. Errors: UNAUTHENTICATED without a live session.
  runtime::Task<Account> GetAccount(runtime::Call& call);

  // Refresh, verify, list and end.
  Sessions& sessions() { return sessions_; }
  // Change and reset.
  Passwords& passwords() { return passwords_; }

  // What the user service says about an account, within the transaction that marks its event as handled. They change
  // nothing if the account is unknown, or if it is so already.
  runtime::Task<void> Suspend(runtime::Call& call, postgres::Transaction& transaction, Uuid account);
  runtime::Task<void> Reinstate(runtime::Call& call, postgres::Transaction& transaction, Uuid account);
  runtime::Task<void> Delete(runtime::Call& call, postgres::Transaction& transaction, Uuid account);

  // One round of what Start does again and again. True if it left something to the next.
  runtime::Task<bool> KeepHouse(runtime::Call& call);

 private:
  // The answer to a request whose key has made `stored` before.
  runtime::Task<Account> Replay(runtime::Call& call, StoredAccount stored, Bytes fingerprint, Secret<> password);
  // Whom the identifier names, and the subject whose failures it counts among.
  struct Named {
    std::optional<StoredAccount> account;
    Bytes subject;
  };
  runtime::Task<Named> Find(runtime::Call& call, const std::string& identifier);
  // The device that a token shows, if it is one of the account's.
  runtime::Task<std::optional<StoredDevice>> Recognize(runtime::Call& call, const Secret<>& device_token,
                                                       const std::optional<StoredAccount>& account);
  // Log-in of who has the right password. Nothing if the account changed meanwhile.
  runtime::Task<std::optional<Login>> Open(runtime::Call& call, const StoredAccount& account, std::string device_name,
                                           std::optional<StoredDevice> device, const Secret<>& device_token,
                                           const Bytes& subject);

  // Constant after construction.
  Store& store_;
  const ServiceConfig config_;
  const Clock& clock_;
  Lockout lockout_;
  Sessions sessions_;
  Passwords passwords_;
  prometheus::Counter& created_;
  prometheus::Counter& replayed_;
  prometheus::Counter& taken_;
  prometheus::Counter& logged_in_;
  prometheus::Counter& refused_;
  prometheus::Counter& locked_;
  prometheus::Counter& suspended_;
  prometheus::Counter& purged_;
};

}  // namespace nova::identity
