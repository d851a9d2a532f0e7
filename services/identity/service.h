// Identity: accounts, log-in and access tokens. It alone holds the key that signs; everybody else verifies with the
// keys it publishes.
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
#include "nova/runtime/task.h"
#include "nova/telemetry/metrics.h"
#include "services/identity/account.h"
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
};

struct Login {
  Uuid account;
  Uuid session;
  Secret<> access_token;
  WallTime expires_at;
};

// Thread-safe. Errors that every function may have beyond those it names: RESOURCE_EXHAUSTED when too many passwords
// are being computed or too many calls wait for the database; UNAVAILABLE without the database; why the call ended.
// Cancellation: at once, the statement under way included. Deadline: the call's.
class Service {
 public:
  // All references must outlive the service. `verifier` holds the public half of `signer`'s key.
  Service(Store& store, auth::PasswordHasher& hasher, auth::JwtConfig jwt, auth::JwtSigner signer,
          const auth::JwtVerifier& verifier, telemetry::Metrics& metrics, const Clock& clock = Clock::System());

  // Makes an account; repeated with the same key and content, returns the one it made.
  // Errors: INVALID_ARGUMENT naming the field, idempotency_key among them if it was used with other content;
  // ALREADY_EXISTS if the email address or the username is taken, without saying which.
  runtime::Task<Account> Register(runtime::Call& call, Registration registration);

  // Opens a session. Errors: INVALID_ARGUMENT for an identifier or a password that is empty or too long;
  // UNAUTHENTICATED for an unknown user and for a wrong password, in the same words and after the same work.
  runtime::Task<Login> LogIn(runtime::Call& call, Credentials credentials);

  // What the token says. Errors: UNAUTHENTICATED, in the same words for every cause.
  Result<auth::Claims> VerifyToken(std::string_view access_token) const;

  // The public keys that verify our tokens, as a JSON Web Key Set.
  std::string GetJwks() const;

  // The account of the call's caller. Errors: UNAUTHENTICATED without one; NOT_FOUND if the account is gone.
  runtime::Task<Account> GetAccount(runtime::Call& call);

 private:
  // The answer to a request whose key has made `stored` before.
  runtime::Task<Account> Replay(runtime::Call& call, StoredAccount stored, std::vector<std::uint8_t> fingerprint,
                                Secret<> password);
  // The account if it exists and the password is its own. Computes one argon2id hash, whatever the outcome.
  runtime::Task<std::optional<StoredAccount>> Authenticate(runtime::Call& call, const Credentials& credentials);
  // Moves a password to today's cost while it is at hand. Failing is no reason to refuse the log-in.
  runtime::Task<void> UpgradeHash(runtime::Call& call, const StoredAccount& stored, Secret<> password);

  // Constant after construction.
  Store& store_;
  auth::PasswordHasher& hasher_;
  const auth::JwtConfig jwt_;
  const auth::JwtSigner signer_;
  const auth::JwtVerifier& verifier_;
  const Clock& clock_;
  prometheus::Counter& created_;
  prometheus::Counter& replayed_;
  prometheus::Counter& taken_;
  prometheus::Counter& logged_in_;
  prometheus::Counter& refused_;
};

}  // namespace nova::identity
