// SecretManager: secrets of AWS Secrets Manager, cached so that hot paths may ask every time.
//
//   NOVA_TRY(auto secrets, SecretManager::Builder(runtime, metrics, source).SoftTtl(300s).HardTtl(330s).Build());
//   NOVA_CO_TRY(SecretHandle secret, co_await secrets->GetSecret(call, "prod/nova/jwt"));
//
// The life of a cached value, by its age:
//
//   0 .. soft TTL                         served at once
//   soft TTL .. hard TTL                  served at once; the first reader has it fetched anew in the background
//   hard TTL .. hard TTL + stale limit    fetched first; served only if that fails for reasons that time may mend, and
//                                         at once as long as it keeps failing
//   beyond                                gone
//
// One request at a time for a version, however many ask; it belongs to the manager, so a reader who gives up leaves
// it to the others. What is not found, or not allowed, is remembered for the negative TTL and never answered with an
// old value. After a failure the next request waits for a pause that doubles up to a cap; readers get the last good
// value, without waiting for that request either, or the failure until it is made. So an AWS that does not answer at
// all stops nobody who reads now and then.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "nova/auth/jwt.h"
#include "nova/base/clock.h"
#include "nova/base/result.h"
#include "nova/config/config.h"
#include "nova/runtime/call.h"
#include "nova/runtime/runtime.h"
#include "nova/runtime/task.h"
#include "nova/secrets/api.h"
#include "nova/secrets/failure.h"
#include "nova/secrets/secret_value.h"
#include "nova/telemetry/metrics.h"

namespace nova::secrets {

struct CacheConfig {
  // Ages count from when the request was made. Between the two a refresh has time to succeed before anybody waits for
  // it: a second at least, which is room for one fetch and another try. It need not be the whole kFetchLimit, because a
  // fetch takes milliseconds; one that takes longer costs its readers a wait, no more.
  std::chrono::milliseconds soft_ttl = std::chrono::seconds(300);
  std::chrono::milliseconds hard_ttl = std::chrono::seconds(330);
  // How long after the hard TTL a value may stand in for one that cannot be fetched.
  std::chrono::milliseconds stale_max = std::chrono::hours(1);
  std::chrono::milliseconds negative_ttl = std::chrono::seconds(5);
  // After a failure: random between half of it and all of it, doubled with each further one.
  std::chrono::milliseconds backoff = std::chrono::seconds(1);
  std::chrono::milliseconds backoff_max = std::chrono::seconds(60);
  // Versions kept; the one that was read least recently goes, unless it is being fetched. When all are, a reader of one
  // more gets kThrottled; so does one who would make more than twice as many requests at once, of which the second half
  // can only be under way because what they were to bring was forgotten.
  int size_max = 1000;
};

// NOVA_SECRETS_SOFT_TTL and so on.
void Bind(config::Config& config, CacheConfig& cache);
// What no single field shows. Errors: INVALID_ARGUMENT naming the setting and the remedy.
Result<void> Validate(const CacheConfig& cache);

// Since the start. Every read by GetSecret is one of the first four, unless it was refused: without a name, for want of
// room, or closed.
struct CacheStats {
  std::uint64_t hits = 0;       // answered from memory, within the hard TTL
  std::uint64_t stale = 0;      // answered from memory with an older value, because AWS failed
  std::uint64_t misses = 0;     // waited for a request, own or somebody else's, whatever came of it
  std::uint64_t negative = 0;   // answered with a failure remembered
  std::uint64_t fetches = 0;    // requests that have ended
  std::uint64_t failures = 0;   // of these, that failed
  std::uint64_t evictions = 0;  // for want of room
  std::size_t size = 0;         // now, those included that are being fetched or are remembered not to be there
};

// Thread-safe. Exports nova_secrets_reads_total{result="hit"|"stale"|"miss"|"negative"}, nova_secrets_cached,
// nova_secrets_refresh_failing (versions whose last request failed, those not counted that are not there),
// nova_secrets_evictions_total. Logs the first of a row of failures, and its end.
class SecretManager {
 public:
  class Builder {
   public:
    // All must outlive the manager.
    Builder(runtime::Runtime& runtime, telemetry::Metrics& metrics, SecretSource& source);
    Builder& Cache(const CacheConfig& cache);
    Builder& SoftTtl(std::chrono::milliseconds ttl);
    Builder& HardTtl(std::chrono::milliseconds ttl);
    Builder& StaleMax(std::chrono::milliseconds limit);
    Builder& NegativeTtl(std::chrono::milliseconds ttl);
    Builder& SizeMax(int versions);
    Builder& UseClock(const Clock& clock);
    // Of jitter.
    Builder& Seed(std::uint64_t seed);
    // Errors: those of Validate(CacheConfig).
    Result<std::unique_ptr<SecretManager>> Build() const;

   private:
    runtime::Runtime& runtime_;
    telemetry::Metrics& metrics_;
    SecretSource& source_;
    CacheConfig cache_;
    const Clock* clock_ = &Clock::System();
    std::uint64_t seed_;
  };

  // One request for a value, its retries included; nobody's deadline ends it.
  static constexpr std::chrono::seconds kFetchLimit{15};

  virtual ~SecretManager() = default;

  // A cached one costs well under a microsecond and allocates nothing. Errors: those of failure.h;
  // INVALID_ARGUMENT for an empty name. Deadline, cancellation: the call's, of this reader alone.
  virtual runtime::Task<SecretHandle> GetSecret(runtime::Call& call, std::string_view id,
                                                Version version = Version::Stage(kCurrent)) = 0;

  // The secret read as a JwtConfig (jwt_secret.h); parsed with each call, keys included, so not for hot paths: those
  // have JwtKeyring (jwt_keyring.h). Errors, besides: kInvalidFormat naming the field.
  virtual runtime::Task<auth::JwtConfig> GetJwtConfig(runtime::Call& call, std::string_view id,
                                                      Version version = Version::Stage(kCurrent)) = 0;

  // Asks AWS now, whatever is cached, or joins who is asking; for those who keep a rhythm of their own. A request that
  // is joined may have been made before this was called, kFetchLimit ago at most. The cache gets the value. Errors as
  // GetSecret, and the failure itself where GetSecret would have had an old value.
  virtual runtime::Task<SecretHandle> Refresh(runtime::Call& call, std::string_view id,
                                              Version version = Version::Stage(kCurrent)) = 0;

  // All versions of a secret, or everything, is forgotten: the next reader asks AWS. A request under way when it is
  // called does not bring the old value back: only who waits for it already gets what it brings, and for those who come
  // after there is another, beside it.
  virtual void Invalidate(std::string_view id) = 0;
  virtual void InvalidateAll() = 0;

  virtual CacheStats Stats() const = 0;

  // Ends the requests under way; their readers get CANCELLED. Blocks for `limit` at most. Call before it is destroyed.
  virtual Result<void> Close(Duration limit) = 0;
};

}  // namespace nova::secrets
