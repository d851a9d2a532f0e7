#include "nova/auth/password.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <sodium.h>
#include <string_view>
#include <thread>
#include <utility>

namespace nova::auth {
namespace {

using runtime::Call;
using runtime::Task;

constexpr unsigned long long kPasses = 2;
constexpr std::size_t kMemoryBytes = std::size_t{19} * 1024 * 1024;
// What those two come to in the hash's own text; libsodium's argon2id has one lane.
constexpr std::string_view kPrefix = "$argon2id$v=19$m=19456,t=2,p=1$";
constexpr std::string_view kAnyArgon2id = "$argon2id$";

Result<std::string> ComputeHash(std::string_view password) {
  std::array<char, crypto_pwhash_STRBYTES> text{};
  if (crypto_pwhash_str(text.data(), password.data(), password.size(), kPasses, kMemoryBytes) != 0)
    return Internal("the password cannot be processed", "argon2id: out of memory");
  std::string hash(text.data());
  if (!hash.starts_with(kPrefix))
    return Internal("the password cannot be processed", "argon2id: libsodium chose other parameters");
  return hash;
}

// Observes the time a computation took, its wait in the queue not included.
template <class F>
auto Timed(prometheus::Histogram& seconds, F&& compute) {
  const SteadyTime begin = Clock::System().Now();
  auto result = std::forward<F>(compute)();
  seconds.Observe(std::chrono::duration<double>(Clock::System().Now() - begin).count());
  return result;
}

int ThreadCount(int configured) {
  if (configured > 0) return configured;
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency() / 2));
}

}  // namespace

void Bind(config::Config& config, PasswordConfig& password) {
  config.Field("auth.password_threads", password.threads,
               {.help = "argon2id computations at once; 0: half of the cores", .min = 0, .max = 256});
  config.Field("auth.password_queue_max", password.queue_max,
               {.help = "computations that may wait for a thread", .min = 1, .max = 10'000});
}

Result<std::unique_ptr<PasswordHasher>> PasswordHasher::Create(const PasswordConfig& config,
                                                               telemetry::Metrics& metrics) {
  if (sodium_init() < 0) return Internal("libsodium does not start");
  // Of a random text, so that no password matches it.
  std::array<char, 32> nobodys_password{};
  randombytes_buf(nobodys_password.data(), nobodys_password.size());
  NOVA_TRY(std::string nobodys_hash, ComputeHash({nobodys_password.data(), nobodys_password.size()}));
  return std::unique_ptr<PasswordHasher>(new PasswordHasher(config, metrics, std::move(nobodys_hash)));
}

PasswordHasher::PasswordHasher(const PasswordConfig& config, telemetry::Metrics& metrics, std::string nobodys_hash)
    : nobodys_hash_(std::move(nobodys_hash)),
      hash_seconds_(metrics.Histogram("nova_auth_password_seconds", "Time of one argon2id computation",
                                      telemetry::kLatencyBuckets, {{"operation", "hash"}})),
      verify_seconds_(metrics.Histogram("nova_auth_password_seconds", "Time of one argon2id computation",
                                        telemetry::kLatencyBuckets, {{"operation", "verify"}})),
      refused_(metrics.Counter("nova_auth_password_refused_total", "Computations refused because the queue was full")),
      pool_({.name = "nova-argon2", .threads = ThreadCount(config.threads), .queue_max = config.queue_max}) {}

Task<std::string> PasswordHasher::Hash(Call& call, Secret<> password) {
  const auto shared = std::make_shared<const Secret<>>(std::move(password));
  std::function<Result<std::string>()> job = [this, shared] {
    return Timed(hash_seconds_, [&] { return ComputeHash(shared->Expose()); });
  };
  auto result = co_await pool_.Run<std::string>(call, std::move(job));
  if (!result && result.error().code() == Code::kResourceExhausted) refused_.Increment();
  co_return result;
}

Task<bool> PasswordHasher::Verify(Call& call, std::string hash, Secret<> password) {
  if (!hash.starts_with(kAnyArgon2id)) co_return Internal("the account is damaged", "not an argon2id hash");
  co_return co_await Compare(call, std::move(hash), std::move(password));
}

Task<void> PasswordHasher::VerifyAgainstNothing(Call& call, Secret<> password) {
  NOVA_CO_TRY([[maybe_unused]] const bool never, co_await Compare(call, nobodys_hash_, std::move(password)));
  co_return Ok();
}

bool PasswordHasher::NeedsRehash(const std::string& hash) {
  return crypto_pwhash_str_needs_rehash(hash.c_str(), kPasses, kMemoryBytes) != 0;
}

Task<bool> PasswordHasher::Compare(Call& call, std::string hash, Secret<> password) {
  const auto shared = std::make_shared<const Secret<>>(std::move(password));
  std::function<Result<bool>()> job = [this, shared, hash = std::move(hash)]() -> Result<bool> {
    return Timed(verify_seconds_, [&] {
      const std::string& text = shared->Expose();
      return crypto_pwhash_str_verify(hash.c_str(), text.data(), text.size()) == 0;
    });
  };
  auto result = co_await pool_.Run<bool>(call, std::move(job));
  if (!result && result.error().code() == Code::kResourceExhausted) refused_.Increment();
  co_return result;
}

}  // namespace nova::auth
