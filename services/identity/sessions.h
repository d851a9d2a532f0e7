// Sessions: families of refresh tokens, and the access tokens that are handed out with them.
//
// A refresh token is exchanged once for a new pair of tokens. Clients lose answers and open several windows, so for a
// few seconds the token spent last yields its successor again: the same one, so that the family never splits. A spent
// token that appears otherwise has been copied by somebody. Since nobody can say which of the two holders is the thief,
// the family ends for both.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "nova/auth/jwt.h"
#include "nova/base/clock.h"
#include "nova/base/result.h"
#include "nova/base/secret.h"
#include "nova/runtime/call.h"
#include "nova/runtime/task.h"
#include "nova/telemetry/metrics.h"
#include "services/identity/config.h"
#include "services/identity/store.h"

namespace nova::identity {

struct Tokens {
  Uuid account;
  Uuid session;
  Secret<> access_token;
  // Never after the session.
  WallTime access_expires_at;
  Secret<> refresh_token;
  // When the session ends unless it is refreshed before.
  WallTime refresh_expires_at;
};

struct SessionPage {
  struct Item {
    SessionInfo session;
    // It is the caller's.
    bool current = false;
  };
  std::vector<Item> items;
  // Empty on the last page.
  std::string next_page_token;
};

inline constexpr int kSessionPageDefault = 20;
inline constexpr int kSessionPageMax = 100;

// For whom the call runs. Errors: UNAUTHENTICATED if for nobody.
Result<runtime::Caller> CallerOf(const runtime::Call& call);
// UNAUTHENTICATED, for a caller whose token is good and whose session is not.
Error SessionHasEnded();

// Thread-safe. Functions that act for the call's caller refuse one whose session has ended, with UNAUTHENTICATED.
// Errors that every function may have beyond those it names: RESOURCE_EXHAUSTED when too many calls wait for the
// database; UNAVAILABLE without the database; why the call ended. Cancellation: at once, the statement under way
// included. Deadline: the call's.
class Sessions {
 public:
  // All references must outlive the sessions. `verifier` knows every key that `signer` signs with.
  Sessions(Store& store, const auth::JwtSigner& signer, const auth::JwtVerifier& verifier, telemetry::Metrics& metrics,
           const ServiceConfig& config, const Clock& clock);

  // Opens a session for `who`, whose password has just been verified, from `device`, and forgets the failures of
  // `subject`. Nothing if the account was suspended or deleted, or its password changed, meanwhile.
  runtime::Task<std::optional<Tokens>> Open(runtime::Call& call, const StoredAccount& who, std::string device_name,
                                            const StoredDevice& device, Bytes subject);

  // Exchanges a refresh token. May be repeated within refresh_grace. Errors: UNAUTHENTICATED, in the same words for
  // every cause.
  runtime::Task<Tokens> Refresh(runtime::Call& call, Secret<> refresh_token);

  // What an access token of a live session says. Errors: UNAUTHENTICATED, in the same words for every cause.
  runtime::Task<auth::Claims> Verify(runtime::Call& call, Secret<> access_token);

  // The public keys that verify our tokens, as a JSON Web Key Set.
  std::string GetJwks() const;

  // Ends the caller's session. It may have ended before.
  runtime::Task<void> LogOut(runtime::Call& call);

  // The caller's live sessions, the newest first. `page_size` 0 is kSessionPageDefault. Errors: INVALID_ARGUMENT for a
  // size that is negative or above kSessionPageMax, and for a page token that is none of ours.
  runtime::Task<SessionPage> List(runtime::Call& call, int page_size, std::string page_token);

  // Ends a session of the caller; it may have ended before. Errors: INVALID_ARGUMENT for what is no UUID; NOT_FOUND if
  // the caller has no such session.
  runtime::Task<void> Revoke(runtime::Call& call, std::string session_id);

  // Ends all others of the caller, and on request the caller's own. Returns how many.
  runtime::Task<std::int64_t> RevokeAll(runtime::Call& call, bool include_current);

 private:
  // The answer to a refresh that was let through, for a session that lasts until `expires_at`.
  Result<Tokens> Issue(Uuid account, const RefreshToken& refresh_token, WallTime expires_at) const;
  // When a session opened at `created_at` ends if it is used now.
  WallTime Expiry(WallTime created_at, WallTime now) const;
  Error Refuse();

  // Constant after construction.
  Store& store_;
  const auth::JwtSigner& signer_;
  const auth::JwtVerifier& verifier_;
  const SessionConfig config_;
  const int devices_max_;
  const Clock& clock_;
  prometheus::Counter& rotated_;
  prometheus::Counter& graced_;
  prometheus::Counter& reused_;
  prometheus::Counter& refused_;
  prometheus::Counter& logged_out_;
  prometheus::Counter& revoked_;
};

}  // namespace nova::identity
