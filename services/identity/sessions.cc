#include "services/identity/sessions.h"

#include <algorithm>
#include <array>
#include <utility>

#include "nova/telemetry/log.h"

namespace nova::identity {
namespace {

using postgres::ToStoredPrecision;
using runtime::Call;
using runtime::Caller;
using runtime::Task;

constexpr char kRefreshes[] = "nova_identity_refreshes_total";
constexpr char kRefreshesHelp[] = "Refresh tokens presented, by outcome";
constexpr char kEnded[] = "nova_identity_sessions_ended_total";
constexpr char kEndedHelp[] = "Sessions ended by their users, by how";

// What presenting a token of a live session means.
enum class Presented {
  kCurrent,  // to be exchanged
  kRecent,   // spent for the current one a moment ago
  kSpent,    // once issued, and spent: there are two holders
  kForeign,  // never issued, or by a future that a restored backup does not know
};

Presented Judge(const StoredSession& session, const RefreshToken& token, Duration grace, WallTime now) {
  if (!token.IssuedWith(session.family_key)) return Presented::kForeign;
  const Bytes hash = token.Hash();
  if (SameBytes(hash, session.current_hash)) return Presented::kCurrent;
  if (session.previous_hash && session.successor_salt && session.rotated_at &&
      SameBytes(hash, *session.previous_hash) && now < *session.rotated_at + grace)
    return Presented::kRecent;
  return token.generation() < session.generation ? Presented::kSpent : Presented::kForeign;
}

// Above every id, where the first page begins.
Uuid AboveAll() { return *Uuid::Parse("ffffffff-ffff-ffff-ffff-ffffffffffff"); }

}  // namespace

Result<Caller> CallerOf(const Call& call) {
  if (!call.caller()) return Unauthenticated("an access token is needed");
  return *call.caller();
}

Error SessionHasEnded() { return Unauthenticated("the session has ended"); }

Sessions::Sessions(Store& store, const auth::JwtSigner& signer, const auth::JwtVerifier& verifier,
                   telemetry::Metrics& metrics, const ServiceConfig& config, const Clock& clock)
    : store_(store),
      signer_(signer),
      verifier_(verifier),
      config_(config.session),
      devices_max_(config.lockout.devices_max),
      clock_(clock),
      rotated_(metrics.Counter(kRefreshes, kRefreshesHelp, {{"outcome", "rotated"}})),
      graced_(metrics.Counter(kRefreshes, kRefreshesHelp, {{"outcome", "grace"}})),
      reused_(metrics.Counter(kRefreshes, kRefreshesHelp, {{"outcome", "reuse"}})),
      refused_(metrics.Counter(kRefreshes, kRefreshesHelp, {{"outcome", "refused"}})),
      logged_out_(metrics.Counter(kEnded, kEndedHelp, {{"how", "logout"}})),
      revoked_(metrics.Counter(kEnded, kEndedHelp, {{"how", "revoked"}})) {}

Task<std::optional<Tokens>> Sessions::Open(Call& call, const StoredAccount& who, std::string device_name,
                                           const StoredDevice& device, Bytes subject) {
  const WallTime now = ToStoredPrecision(clock_.WallNow());
  NewSession session;
  session.id = Uuid::New(clock_);
  session.device_name = std::move(device_name);
  session.created_at = now;
  session.expires_at = Expiry(now, now);
  session.family_key = NewKey();
  const RefreshToken first = RefreshToken::First(session.id, session.family_key);
  session.current_hash = first.Hash();
  NOVA_CO_TRY(const bool opened,
              co_await store_.OpenSession(call, who, session, device, config_.sessions_max, devices_max_, subject));
  if (!opened) co_return std::optional<Tokens>();
  NOVA_CO_TRY(Tokens tokens, Issue(who.account.id, first, session.expires_at));
  co_return std::optional(std::move(tokens));
}

Task<Tokens> Sessions::Refresh(Call& call, Secret<> refresh_token) {
  const auto token = RefreshToken::Parse(refresh_token.Expose());
  if (!token) co_return Refuse();
  // Whoever loses the race for an exchange looks again, and then finds the token spent: twice is enough.
  for (int look = 0; look < 2; ++look) {
    const WallTime now = ToStoredPrecision(clock_.WallNow());
    NOVA_CO_TRY(const auto session, co_await store_.FindRefreshable(call, token->session(), now));
    if (!session) co_return Refuse();
    switch (Judge(*session, *token, config_.refresh_grace, now)) {
      case Presented::kCurrent: {
        const Bytes salt = NewKey();
        const RefreshToken successor = token->Successor(salt, session->family_key);
        const WallTime expires_at = Expiry(session->created_at, now);
        const Rotation rotation{.session = session->id,
                                .from_hash = session->current_hash,
                                .to_hash = successor.Hash(),
                                .salt = salt,
                                .at = now,
                                .expires_at = expires_at};
        NOVA_CO_TRY(const bool rotated, co_await store_.Rotate(call, rotation));
        if (!rotated) continue;
        rotated_.Increment();
        co_return Issue(session->account, successor, expires_at);
      }
      case Presented::kRecent:
        graced_.Increment();
        co_return Issue(session->account, token->Successor(*session->successor_salt, session->family_key),
                        session->expires_at);
      case Presented::kSpent: {
        NOVA_CO_TRY(
            [[maybe_unused]] const bool revoked,
            co_await store_.RevokeSession(call, {.account = session->account, .session = session->id}, "reuse", now));
        reused_.Increment();
        telemetry::LogWarn("a spent refresh token came again; its session is revoked",
                           {{"account", session->account.ToString()}, {"session", session->id.ToString()}});
        co_return Unauthenticated("the refresh token is not valid");
      }
      case Presented::kForeign:
        co_return Refuse();
    }
  }
  co_return Aborted("the session changed meanwhile; try again");
}

Task<auth::Claims> Sessions::Verify(Call& call, Secret<> access_token) {
  auto claims = verifier_.Verify(access_token.Expose());
  if (!claims) co_return claims;
  NOVA_CO_TRY(const bool live, co_await store_.IsLive(call, auth::CallerOf(*claims), clock_.WallNow()));
  if (!live) co_return Unauthenticated("the access token is not valid", "token refused: its session has ended");
  co_return claims;
}

std::string Sessions::GetJwks() const { return verifier_.keys()->ToJson(); }

Task<void> Sessions::LogOut(Call& call) {
  NOVA_CO_TRY(const Caller caller, CallerOf(call));
  NOVA_CO_TRY(const bool ended,
              co_await store_.RevokeSession(call, caller, "logout", ToStoredPrecision(clock_.WallNow())));
  if (ended) logged_out_.Increment();
  co_return Ok();
}

Task<SessionPage> Sessions::List(Call& call, int page_size, std::string page_token) {
  NOVA_CO_TRY(const Caller caller, CallerOf(call));
  if (page_size < 0 || page_size > kSessionPageMax)
    co_return InvalidArgument("page_size: 0 to " + std::to_string(kSessionPageMax) + " is allowed");
  const int size = page_size == 0 ? kSessionPageDefault : page_size;
  // A page begins below the last id of the one before, so what comes and goes meanwhile shifts nothing.
  Uuid before = AboveAll();
  if (!page_token.empty()) {
    const auto parsed = Uuid::Parse(page_token);
    if (!parsed) co_return InvalidArgument("page_token: it is none that ListSessions returned");
    before = *parsed;
  }
  NOVA_CO_TRY(auto found, co_await store_.ListSessions(call, caller, before, size + 1, clock_.WallNow()));
  if (!found) co_return SessionHasEnded();
  SessionPage page;
  for (SessionInfo& session : *found) {
    if (page.items.size() == static_cast<std::size_t>(size)) {
      page.next_page_token = page.items.back().session.id.ToString();
      break;
    }
    const bool current = session.id == caller.session;
    page.items.push_back({.session = std::move(session), .current = current});
  }
  co_return page;
}

Task<void> Sessions::Revoke(Call& call, std::string session_id) {
  NOVA_CO_TRY(const Caller caller, CallerOf(call));
  const auto session = Uuid::Parse(session_id);
  if (!session) co_return InvalidArgument("session_id: a UUID is needed");
  NOVA_CO_TRY(const auto outcome,
              co_await store_.RevokeSessionOf(call, caller, *session, ToStoredPrecision(clock_.WallNow())));
  switch (outcome) {
    case Store::Revoked::kDone:
      revoked_.Increment();
      co_return Ok();
    case Store::Revoked::kNoSuchSession:
      co_return NotFound("the session does not exist");
    case Store::Revoked::kCallerIsDead:
      break;
  }
  co_return SessionHasEnded();
}

Task<std::int64_t> Sessions::RevokeAll(Call& call, bool include_current) {
  NOVA_CO_TRY(const Caller caller, CallerOf(call));
  NOVA_CO_TRY(const auto revoked,
              co_await store_.RevokeSessionsOf(call, caller, include_current, ToStoredPrecision(clock_.WallNow())));
  if (!revoked) co_return SessionHasEnded();
  revoked_.Increment(static_cast<double>(*revoked));
  co_return *revoked;
}

Result<Tokens> Sessions::Issue(Uuid account, const RefreshToken& refresh_token, WallTime expires_at) const {
  NOVA_TRY(auth::IssuedToken issued, signer_.Issue(account, refresh_token.session(), clock_, expires_at));
  Tokens tokens;
  tokens.account = account;
  tokens.session = refresh_token.session();
  tokens.access_token = Secret<>(std::move(issued.token));
  tokens.access_expires_at = issued.claims.expires_at;
  tokens.refresh_token = refresh_token.Encode();
  tokens.refresh_expires_at = expires_at;
  return tokens;
}

WallTime Sessions::Expiry(WallTime created_at, WallTime now) const {
  return std::min<WallTime>(now + config_.refresh_lifetime, created_at + config_.session_lifetime_max);
}

Error Sessions::Refuse() {
  refused_.Increment();
  return Unauthenticated("the refresh token is not valid");
}

}  // namespace nova::identity
