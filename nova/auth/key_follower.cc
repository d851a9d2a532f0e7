#include "nova/auth/key_follower.h"

#include <memory>
#include <string>
#include <utility>

#include "nova/runtime/runtime.h"
#include "nova/telemetry/log.h"

namespace nova::auth {
namespace {

using runtime::Call;
using runtime::OneShot;
using runtime::Task;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr char kRefreshes[] = "nova_auth_key_refreshes_total";
constexpr char kRefreshesHelp[] = "Looks at the published verification keys, by result.";

Error CannotTell(std::string why) {
  return Unavailable("access tokens cannot be verified at the moment; try again", std::move(why));
}

}  // namespace

void Bind(config::Config& config, KeyFollowerConfig& keys) {
  config.Field("auth.keys_refresh_interval", keys.refresh_interval,
               {.help = "how often the published verification keys are fetched",
                .min = seconds(1),
                .max = std::chrono::hours(24)});
  config.Field("auth.keys_retry_interval", keys.retry_interval,
               {.help = "the same while that fails, or a token names an unknown key",
                .min = milliseconds(100),
                .max = seconds(60)});
  config.Field("auth.keys_fetch_timeout", keys.fetch_timeout,
               {.help = "for one fetch of the verification keys", .min = milliseconds(100), .max = seconds(30)});
}

KeyFollower::KeyFollower(const JwtConfig& jwt, Fetch fetch, telemetry::Metrics& metrics, KeyFollowerConfig config,
                         const Clock& clock)
    : config_(config),
      fetch_(std::move(fetch)),
      clock_(clock),
      failing_(metrics.Gauge("nova_auth_keys_failing", "1 while the verification keys cannot be fetched")),
      refreshed_gauge_(
          metrics.Gauge("nova_auth_keys_refreshed_timestamp_seconds", "When the verification keys were last fetched")),
      changed_(metrics.Counter(kRefreshes, kRefreshesHelp, {{"result", "changed"}})),
      unchanged_(metrics.Counter(kRefreshes, kRefreshesHelp, {{"result", "unchanged"}})),
      failed_(metrics.Counter(kRefreshes, kRefreshesHelp, {{"result", "failed"}})),
      verifier_(TermsOf(jwt), std::make_shared<const Jwks>(), clock) {}

void KeyFollower::Start(runtime::Scope& scope) {
  scope.Spawn("verification keys", [this](Call& call) { return Follow(call); });
}

Result<Claims> KeyFollower::Verify(std::string_view token) {
  if (verifier_.keys()->keys().empty()) return CannotTell("no verification keys yet");
  bool key_is_unknown = false;
  auto claims = verifier_.Verify(token, key_is_unknown);
  if (key_is_unknown) {
    std::lock_guard lock(mutex_);
    needed_ = true;
    if (wake_) (void)wake_->TrySet(true);
    if (problem_ && refreshed_ && clock_.Now() - *refreshed_ >= config_.refresh_interval)
      return CannotTell("unknown kid, and the keys are old");
  }
  return claims;
}

Result<void> KeyFollower::Ready() const {
  if (!verifier_.keys()->keys().empty()) return Ok();
  std::lock_guard lock(mutex_);
  return problem_ ? *problem_ : Unavailable("the verification keys were not fetched yet");
}

Task<void> KeyFollower::Follow(Call& call) {
  for (;;) {
    const SteadyTime began = clock_.Now();
    const Result<void> refreshed = co_await Refresh(call);
    NOVA_CO_TRY(call.Check());
    // However many tokens name unknown keys, two looks are at least this far apart.
    NOVA_CO_TRY(co_await runtime::Sleep(call, config_.retry_interval));
    if (refreshed) NOVA_CO_TRY(co_await WaitForNeed(call, began + config_.refresh_interval - clock_.Now()));
  }
}

Task<void> KeyFollower::Refresh(Call& call) {
  const SteadyTime began = clock_.Now();
  {
    std::lock_guard lock(mutex_);
    needed_ = false;
  }
  Call fetch(call, config_.fetch_timeout);
  const Result<std::string> fetched = co_await fetch_(fetch);
  NOVA_CO_TRY(call.Check());
  Result<void> accepted = Accept(fetched);
  bool is_news = false;
  {
    std::lock_guard lock(mutex_);
    is_news = accepted.ok() == problem_.has_value();
    problem_ = accepted ? std::nullopt : std::optional<Error>(accepted.error());
    if (accepted) refreshed_ = began;
    failing_.Set(accepted ? 0 : 1);
    if (accepted) refreshed_gauge_.Set(std::chrono::duration<double>(clock_.WallNow().time_since_epoch()).count());
  }
  if (!accepted) {
    failed_.Increment();
    if (is_news)
      telemetry::LogWarn("verification keys could not be fetched; the last good ones stay",
                         {{"error", accepted.error()}});
  }
  co_return accepted;
}

Result<void> KeyFollower::Accept(const Result<std::string>& fetched) {
  NOVA_TRY(const std::string& text, fetched);
  {
    std::lock_guard lock(mutex_);
    if (text == published_) {
      unchanged_.Increment();
      return Ok();
    }
  }
  NOVA_TRY(Jwks keys, Jwks::Parse(text));
  // Nobody rotates to nothing; it is a mistake there, and would lock everybody out here.
  if (keys.keys().empty()) return Unavailable("the published set holds no key that can be used");
  const std::size_t count = keys.keys().size();
  verifier_.SetKeys(std::make_shared<const Jwks>(std::move(keys)));
  {
    std::lock_guard lock(mutex_);
    published_ = text;
  }
  changed_.Increment();
  telemetry::LogInfo("verification keys changed", {{"keys", count}});
  return Ok();
}

Task<void> KeyFollower::WaitForNeed(Call& call, Duration delay) {
  const OneShot<bool> wake;
  {
    std::lock_guard lock(mutex_);
    if (needed_) co_return Ok();
    wake_ = wake;
  }
  Call pause(call, delay);
  (void)co_await wake.Wait(pause);
  std::lock_guard lock(mutex_);
  wake_.reset();
  co_return call.Check();
}

}  // namespace nova::auth
