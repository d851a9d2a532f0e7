#include "nova/secrets/jwt_keyring.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <mutex>
#include <ranges>
#include <string_view>
#include <utility>

#include "nova/runtime/one_shot.h"
#include "nova/secrets/failure.h"
#include "nova/secrets/jwt_secret.h"
#include "nova/secrets/look_rhythm.h"
#include "nova/telemetry/log.h"

namespace nova::secrets {
namespace {

using runtime::Awaitable;
using runtime::Call;
using runtime::OneShot;
using runtime::Task;

// In the order in which they are read.
enum Stage : std::size_t { kPendingStage, kCurrentStage, kPreviousStage };
constexpr std::array<std::string_view, 3> kLabels = {kPending, kCurrent, kPrevious};

// Versions kept though their label is not to be found, while not all three labels can be read.
constexpr std::size_t kUnconfirmedMax = 8;

constexpr char kRefreshes[] = "nova_jwt_key_refreshes_total";
constexpr char kRefreshesHelp[] = "Looks at the secret with the JWT keys, by result";
// From a rotation that waited for everybody, which is there after a look, to one that waits here, and beyond.
constexpr std::array<double, 10> kLatencyBuckets = {1, 5, 15, 60, 120, 300, 600, 900, 1800, 3600};

double Seconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }

// One version of the secret, read. Immutable.
struct KeyVersion {
  SecretHandle secret;
  auth::JwtTerms terms;
  std::optional<auth::SigningKey> signing;
  std::shared_ptr<const auth::Jwks> verification;

  const std::string& id() const { return secret->version_id; }
  const auth::VerificationKey& key() const { return verification->keys().front(); }
};
using KeyVersionHandle = std::shared_ptr<const KeyVersion>;

// A secret that was lost and made anew may have a version of the same id with another key.
bool Same(const KeyVersionHandle& a, const KeyVersionHandle& b) {
  return a && b && a->id() == b->id() && a->key().kid() == b->key().kid();
}

// What a look found under one label.
struct Finding {
  // Null if nothing is there, or nothing that can be used.
  KeyVersionHandle version = {};
  std::optional<Error> problem = {};
  // False if the label could not be read.
  bool known = true;
};
using Findings = std::array<Finding, kLabels.size()>;

bool SameNames(std::vector<std::string> a, std::vector<std::string> b) {
  std::ranges::sort(a);
  std::ranges::sort(b);
  return a == b;
}

// Nothing to be done while the process runs: peers that were started earlier would refuse the tokens.
Result<void> CheckTerms(const auth::JwtTerms& terms, const auth::JwtTerms& start) {
  const auto changed = [](std::string_view field) {
    return Fail(Failure::kInvalidFormat, std::string(field) +
                                             ": is not what it was when this process started; put it back, or restart "
                                             "everybody who signs and verifies");
  };
  if (terms.issuer != start.issuer) return changed("issuer");
  if (!SameNames(terms.audience, start.audience)) return changed("audience");
  return Ok();
}

}  // namespace

class JwtKeyring::Impl {
 public:
  Impl(SecretManager& secrets, JwtKeyringConfig config, telemetry::Metrics& metrics, const Clock& clock,
       std::uint64_t seed)
      : secrets_(secrets),
        config_(std::move(config)),
        clock_(clock),
        failing_(metrics.Gauge("nova_jwt_keys_failing", "1 while the JWT keys cannot be read anew")),
        refreshed_gauge_(
            metrics.Gauge("nova_jwt_keys_refreshed_timestamp_seconds", "When the JWT keys were last read")),
        changed_(metrics.Counter(kRefreshes, kRefreshesHelp, {{"result", "changed"}})),
        unchanged_(metrics.Counter(kRefreshes, kRefreshesHelp, {{"result", "unchanged"}})),
        failed_(metrics.Counter(kRefreshes, kRefreshesHelp, {{"result", "failed"}})),
        latency_(metrics.Histogram("nova_jwt_rotation_latency_seconds",
                                   "From the date of a version of the JWT secret until it signs", kLatencyBuckets)),
        verifier_(clock),
        rhythm_(config_.refresh_interval, seed) {}

  Task<void> Look(Call& call) {
    const SteadyTime began = clock_.Now();
    std::uint64_t number = 0;
    bool is_loaded = false;
    {
      std::lock_guard lock(mutex_);
      number = ++looks_;
      is_loaded = start_.has_value();
    }
    Findings findings;
    for (const Stage stage : {kPendingStage, kCurrentStage, kPreviousStage}) {
      findings[stage] = co_await Read(call, stage);
      NOVA_CO_TRY(CheckNotCancelled(call));
      // The first look needs all three, because there is nothing that could stand in.
      if (!is_loaded && !findings[stage].known) break;
    }
    if (Same(findings[kCurrentStage].version, findings[kPreviousStage].version)) {
      // The labels moved between the two reads. What is CURRENT now was perhaps read under no label.
      findings[kCurrentStage] = co_await Read(call, kCurrentStage);
      NOVA_CO_TRY(CheckNotCancelled(call));
    }
    co_return Apply(std::move(findings), began, number);
  }

  Task<void> Follow(Call& call) {
    for (;;) {
      NOVA_CO_TRY(co_await WaitUntilDue(call));
      Call look(call, kLookLimit);
      // It has said so itself.
      (void)co_await Look(look);
      NOVA_CO_TRY(call.Check());
    }
  }

  SteadyTime due() const {
    std::lock_guard lock(mutex_);
    return Due();
  }

  JwtKeyringStatus status() const {
    JwtKeyringStatus status;
    status.secret_id = config_.secret_id;
    std::lock_guard lock(mutex_);
    const auto add = [&](std::string_view stage, const KeyVersionHandle& version) {
      if (!version) return;
      status.keys.push_back({.stage = std::string(stage),
                             .version_id = version->id(),
                             .kid = version->key().kid(),
                             .created_at = version->secret->created_at,
                             .signs = Same(version, signing_)});
    };
    for (const Stage stage : {kCurrentStage, kPreviousStage, kPendingStage}) add(kLabels[stage], held_[stage]);
    for (const KeyVersionHandle& version : unconfirmed_) add("", version);
    status.refreshed_at = refreshed_at_;
    status.problem = problem_;
    return status;
  }

  const auth::JwtSigner& signer() const { return signer_; }
  const auth::JwtVerifier& verifier() const { return verifier_; }

 private:
  // A process that stops has learnt nothing about the keys.
  static Result<void> CheckNotCancelled(Call& call) {
    auto ended = call.Check();
    if (!ended && ended.error().code() == Code::kCancelled) return ended;
    return Ok();
  }

  Awaitable<Finding> Read(Call& call, Stage stage) {
    const auto secret = co_await secrets_.Refresh(call, config_.secret_id, Version::Stage(kLabels[stage]));
    Finding finding;
    if (!secret) {
      // Most of the time nothing is pending, and at first nothing is previous.
      if (stage != kCurrentStage && secret.error().code() == Code::kNotFound) co_return finding;
      finding.known = false;
      finding.problem = Named(stage, secret.error());
      co_return finding;
    }
    auto version = ReadVersion(*secret);
    if (version) {
      finding.version = *std::move(version);
    } else {
      finding.problem = Named(stage, version.error());
    }
    co_return finding;
  }

  Result<KeyVersionHandle> ReadVersion(const SecretHandle& secret) const {
    if (auto known = Find(*secret)) return known;
    NOVA_TRY(const auth::JwtConfig jwt, ParseJwtSecret(secret->value));
    if (config_.signs && jwt.signing_key.empty())
      return Fail(Failure::kInvalidFormat,
                  "signing_key: is missing, and this process signs tokens; name the secret that holds it");
    if (!config_.signs && !jwt.signing_key.empty())
      return InvalidArgument(
          "signing_key: this process only verifies tokens and should not be able to read it; name the secret that "
          "holds the validation_key alone");
    if (config_.others_verify && jwt.algorithm == auth::Algorithm::kHs256)
      return InvalidArgument(
          "algorithm: with HS256 whoever verifies a token can make one, and other processes verify these; use EdDSA, "
          "ES256 or RS256");
    NOVA_TRY(auth::JwtKeys keys, KeysOf(jwt));
    return std::make_shared<const KeyVersion>(secret, auth::TermsOf(jwt), std::move(keys.signing),
                                              std::move(keys.verification));
  }

  // Reading a key costs a signature: a version that did not change is not read again.
  KeyVersionHandle Find(const SecretValue& secret) const {
    std::lock_guard lock(mutex_);
    for (const KeyVersionHandle& version : AllHeld()) {
      if (version->id() == secret.version_id && version->secret->created_at == secret.created_at &&
          version->secret->value.Expose() == secret.value.Expose())
        return version;
    }
    return nullptr;
  }

  Error Named(Stage stage, const Error& error) const {
    return {error.code(),
            "AWS_SECRETS_JWT_NAME: " + config_.secret_id + " (" + std::string(kLabels[stage]) + "): " + error.message(),
            error.detail()};
  }

  // What the look has come to.
  Result<void> Apply(Findings findings, SteadyTime began, std::uint64_t number) {
    std::lock_guard lock(mutex_);
    // Two looks at once: the one that began later knows better.
    if (number < applied_) return Ok();
    applied_ = number;

    const bool is_first = !start_.has_value();
    const KeyVersionHandle current = findings[kCurrentStage].version;
    const auto start = is_first && current ? std::optional(current->terms) : start_;
    for (const Stage stage : {kPendingStage, kCurrentStage}) {
      Finding& finding = findings[stage];
      if (!start || !finding.version) continue;
      if (const auto same = CheckTerms(finding.version->terms, *start); !same) {
        finding.problem = Named(stage, same.error());
        finding.version = nullptr;
      }
    }
    std::optional<Error> problem;
    for (const Stage stage : {kCurrentStage, kPendingStage, kPreviousStage})
      if (!problem) problem = findings[stage].problem;
    const bool is_complete = findings[kCurrentStage].version && std::ranges::all_of(findings, &Finding::known);

    bool is_news = false;
    if (is_complete || !is_first) {
      start_ = start;
      is_news = Take(std::move(findings), is_complete);
    }
    Record(began, problem, is_news);
    // What harms nobody must not keep a process from starting; it is reported all the same.
    if (is_complete && is_first) return Ok();
    if (problem) return *std::move(problem);
    return Ok();
  }

  // The functions below need mutex_.

  // True if any key came, went, or began to sign.
  bool Take(Findings findings, bool is_complete) {
    const std::vector<KeyVersionHandle> before = AllHeld();
    const bool previous_is_known = findings[kPreviousStage].known;
    for (const Stage stage : {kPendingStage, kCurrentStage, kPreviousStage}) {
      Finding& finding = findings[stage];
      const bool takes = stage == kCurrentStage ? finding.version != nullptr : finding.known;
      if (takes) held_[stage] = std::move(finding.version);
    }
    unconfirmed_.clear();
    if (!is_complete) {
      for (const KeyVersionHandle& version : before) {
        const auto is_same = [&](const KeyVersionHandle& other) { return Same(version, other); };
        if (unconfirmed_.size() < kUnconfirmedMax && std::ranges::none_of(held_, is_same) &&
            std::ranges::none_of(unconfirmed_, is_same))
          unconfirmed_.push_back(version);
      }
    }

    std::vector<auth::VerificationKey> keys;
    for (const KeyVersionHandle& version : AllHeld()) keys.push_back(version->key());
    const auto published = std::make_shared<const auth::Jwks>(keys);
    const bool keys_changed = !std::ranges::equal(verifier_.keys()->keys(), published->keys(), {},
                                                  &auth::VerificationKey::kid, &auth::VerificationKey::kid);
    const KeyVersionHandle next = config_.signs ? Choose(previous_is_known) : nullptr;
    const bool signs_anew = next && !Same(next, signing_);
    if (signs_anew) {
      // Whatever is signed at this moment is also known: the new key comes before it signs, the old one goes after.
      if (signing_) keys.push_back(signing_->key());
      verifier_.Set(*start_, std::make_shared<const auth::Jwks>(std::move(keys)));
      SignWith(next);
    }
    verifier_.Set(*start_, published);
    if (keys_changed)
      telemetry::LogInfo("JWT keys changed", {{"name", config_.secret_id}, {"keys", published->keys().size()}});
    return keys_changed || signs_anew;
  }

  // What signs now: CURRENT, once everybody knows it.
  KeyVersionHandle Choose(bool previous_is_known) const {
    const KeyVersionHandle& current = held_[kCurrentStage];
    if (clock_.WallNow() >= current->secret->created_at + config_.announce) return current;
    // A predecessor of which nobody can say whether it is withdrawn is none.
    const KeyVersionHandle& predecessor = previous_is_known ? held_[kPreviousStage] : signing_;
    return predecessor ? predecessor : current;
  }

  void SignWith(const KeyVersionHandle& version) {
    const bool is_first = signing_ == nullptr;
    signing_ = version;
    auth::JwtTerms terms = *start_;
    terms.expiry = version->terms.expiry;
    signer_.Set(std::move(terms), *version->signing);
    const double latency = Seconds(clock_.WallNow() - version->secret->created_at);
    // At a start nothing was rotated.
    if (!is_first) latency_.Observe(latency);
    telemetry::LogInfo(is_first ? "signing key loaded" : "signing key changed",
                       {{"name", config_.secret_id},
                        {"kid", version->key().kid()},
                        {"version", version->id()},
                        {is_first ? "age_seconds" : "latency_seconds", latency}});
  }

  // All versions in use, in the order in which their keys are published.
  std::vector<KeyVersionHandle> AllHeld() const {
    std::vector<KeyVersionHandle> all;
    for (const Stage stage : {kCurrentStage, kPreviousStage, kPendingStage})
      if (held_[stage]) all.push_back(held_[stage]);
    all.insert(all.end(), unconfirmed_.begin(), unconfirmed_.end());
    return all;
  }

  void Record(SteadyTime began, const std::optional<Error>& problem, bool is_news) {
    const SteadyTime now = clock_.Now();
    if (problem) {
      failed_.Increment();
      if (!problem_ || problem_->message() != problem->message())
        telemetry::LogError("JWT keys could not be read; the last good ones stay",
                            {{"name", config_.secret_id}, {"error", *problem}});
      rhythm_.Failed(now);
    } else {
      (is_news ? changed_ : unchanged_).Increment();
      if (problem_) telemetry::LogInfo("JWT keys are read again", {{"name", config_.secret_id}});
      refreshed_at_ = clock_.WallNow();
      rhythm_.Succeeded(began);
    }
    problem_ = problem;
    failing_.Set(problem ? 1 : 0);
    if (refreshed_at_) refreshed_gauge_.Set(Seconds(refreshed_at_->time_since_epoch()));
    sign_due_.reset();
    if (signing_ && !Same(signing_, held_[kCurrentStage])) {
      const Duration left = held_[kCurrentStage]->secret->created_at + config_.announce - clock_.WallNow();
      if (left > Duration::zero()) sign_due_ = now + left;
    }
    if (wake_) (void)wake_->TrySet(true);
  }

  SteadyTime Due() const { return sign_due_ ? std::min(rhythm_.due(), *sign_due_) : rhythm_.due(); }

  Task<void> WaitUntilDue(Call& call) {
    for (;;) {
      const OneShot<bool> wake;
      Duration pause{};
      {
        std::lock_guard lock(mutex_);
        pause = Due() - clock_.Now();
        wake_ = wake;
      }
      if (pause > Duration::zero()) {
        Call wait(call, pause);
        (void)co_await wake.Wait(wait);
      }
      {
        std::lock_guard lock(mutex_);
        wake_.reset();
      }
      NOVA_CO_TRY(call.Check());
      // Somebody else may have looked meanwhile.
      if (clock_.Now() >= due()) co_return Ok();
    }
  }

  // Constant after construction.
  SecretManager& secrets_;
  const JwtKeyringConfig config_;
  const Clock& clock_;
  prometheus::Gauge& failing_;
  prometheus::Gauge& refreshed_gauge_;
  prometheus::Counter& changed_;
  prometheus::Counter& unchanged_;
  prometheus::Counter& failed_;
  prometheus::Histogram& latency_;
  // Thread-safe.
  auth::JwtSigner signer_;
  auth::JwtVerifier verifier_;

  mutable std::mutex mutex_;
  // Guarded by mutex_.
  std::uint64_t looks_ = 0;    // begun
  std::uint64_t applied_ = 0;  // the number of the last one that was
  std::optional<auth::JwtTerms> start_;
  std::array<KeyVersionHandle, kLabels.size()> held_;  // CURRENT is never null once loaded
  std::vector<KeyVersionHandle> unconfirmed_;          // had a label when all were last read
  KeyVersionHandle signing_;
  std::optional<WallTime> refreshed_at_;
  std::optional<Error> problem_;
  LookRhythm rhythm_;
  std::optional<SteadyTime> sign_due_;  // when CURRENT is old enough to sign
  std::optional<OneShot<bool>> wake_;   // set while Follow waits
};

JwtKeyring::JwtKeyring(SecretManager& secrets, JwtKeyringConfig config, telemetry::Metrics& metrics, const Clock& clock,
                       std::uint64_t seed)
    : impl_(std::make_unique<Impl>(secrets, std::move(config), metrics, clock, seed)) {}

JwtKeyring::~JwtKeyring() = default;

Task<void> JwtKeyring::Load(Call& call) { return impl_->Look(call); }

void JwtKeyring::Start(runtime::Scope& scope) {
  scope.Spawn("JWT keys", [this](Call& call) { return impl_->Follow(call); });
}

Task<void> JwtKeyring::Refresh(Call& call) { return impl_->Look(call); }

SteadyTime JwtKeyring::due() const { return impl_->due(); }

const auth::JwtSigner& JwtKeyring::signer() const { return impl_->signer(); }

const auth::JwtVerifier& JwtKeyring::verifier() const { return impl_->verifier(); }

JwtKeyringStatus JwtKeyring::status() const { return impl_->status(); }

}  // namespace nova::secrets
