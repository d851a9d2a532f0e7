#include "nova/auth/password.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <ctime>
#include <gtest/gtest.h>
#include <limits>
#include <sodium.h>

#include "nova/runtime/runtime.h"

namespace nova::auth {
namespace {

using namespace std::chrono_literals;
using runtime::Call;
using runtime::Task;

class PasswordTest : public testing::Test {
 protected:
  PasswordTest() : hasher_(*PasswordHasher::Create({.threads = 1, .queue_max = 2}, metrics_)) {}

  template <class T>
  Result<T> Run(std::function<Task<T>(Call&)> work) {
    return runtime_.RunBlocking<T>(60s, std::move(work));
  }
  Result<std::string> Hash(const std::string& password) {
    return Run<std::string>([&](Call& call) { return hasher_->Hash(call, Secret<>(password)); });
  }
  Result<bool> Verify(const std::string& hash, const std::string& password) {
    return Run<bool>([&](Call& call) { return hasher_->Verify(call, hash, Secret<>(password)); });
  }
  Result<void> VerifyAgainstNothing(const std::string& password) {
    return Run<void>([&](Call& call) { return hasher_->VerifyAgainstNothing(call, Secret<>(password)); });
  }
  std::uint64_t Computations(const std::string& operation) {
    return metrics_
        .Histogram("nova_auth_password_seconds", "Time of one argon2id computation", telemetry::kLatencyBuckets,
                   {{"operation", operation}})
        .Collect()
        .histogram.sample_count;
  }

  telemetry::Metrics metrics_;
  runtime::Runtime runtime_{{.threads = 2}};
  std::unique_ptr<PasswordHasher> hasher_;
};

TEST_F(PasswordTest, AHashVerifiesItsPasswordAndNoOther) {
  const auto hash = Hash("correct horse");
  ASSERT_TRUE(hash) << hash.error().ToString();
  EXPECT_TRUE(hash->starts_with("$argon2id$v=19$m=19456,t=2,p=1$")) << *hash;
  EXPECT_FALSE(PasswordHasher::NeedsRehash(*hash));
  EXPECT_TRUE(*Verify(*hash, "correct horse"));
  for (const std::string& wrong : {std::string("correct hors"), std::string("correct horsf"), std::string(),
                                   std::string("correct horse\0", 14), std::string(256, 'x')})
    EXPECT_FALSE(*Verify(*hash, wrong));
  EXPECT_NE(*Hash("correct horse"), *hash) << "the salt is the same";
}

TEST_F(PasswordTest, NobodysPasswordCostsAsMuchAsSomebodys) {
  const std::string hash = *Hash("correct horse");
  ASSERT_EQ(Computations("verify"), 0U);
  // Processor time of the whole process, in which nothing else runs: how busy the machine is does not matter.
  const auto least_work = [](auto compute) {
    std::clock_t least = std::numeric_limits<std::clock_t>::max();
    for (int i = 0; i < 5; ++i) {
      const std::clock_t begin = std::clock();
      compute();
      least = std::min(least, std::clock() - begin);
    }
    return least;
  };
  const std::clock_t somebody = least_work([&] { EXPECT_FALSE(*Verify(hash, "wrong horse")); });
  EXPECT_EQ(Computations("verify"), 5U);
  const std::clock_t nobody = least_work([&] { EXPECT_TRUE(VerifyAgainstNothing("wrong horse")); });
  EXPECT_EQ(Computations("verify"), 10U);
  // The parameters are the same, so they differ by noise; another cost would be a multiple.
  EXPECT_LT(nobody, somebody * 3 / 2);
  EXPECT_LT(somebody, nobody * 3 / 2);
}

TEST_F(PasswordTest, AWeakerHashStillVerifiesAndAsksToBeMadeAnew) {
  std::array<char, crypto_pwhash_STRBYTES> text{};
  ASSERT_EQ(crypto_pwhash_str(text.data(), "correct horse", 13, 1, crypto_pwhash_MEMLIMIT_MIN), 0);
  EXPECT_TRUE(PasswordHasher::NeedsRehash(text.data()));
  EXPECT_TRUE(*Verify(text.data(), "correct horse"));
}

TEST_F(PasswordTest, ADamagedHashIsAnErrorAndNoMismatch) {
  for (const std::string hash : {"", "secret", "$2b$12$abc"}) {
    const auto verified = Verify(hash, "correct horse");
    ASSERT_FALSE(verified);
    EXPECT_EQ(verified.error().code(), Code::kInternal);
  }
}

TEST_F(PasswordTest, AFullQueueRefuses) {
  // One thread and two places: of eight begun at once, on one strand, two or three are taken.
  constexpr int kCalls = 8;
  std::atomic<int> done = 0;
  std::atomic<int> refused = 0;
  const auto begun = Run<void>([&](Call& call) -> Task<void> {
    for (int i = 0; i < kCalls; ++i) {
      runtime::asio::co_spawn(call.strand(), hasher_->Hash(call, Secret<>("correct horse")),
                              [&](const std::exception_ptr&, const Result<std::string>& hash) {
                                if (hash) {
                                  ++done;
                                } else if (hash.error().code() == Code::kResourceExhausted) {
                                  ++refused;
                                }
                              });
    }
    while (done + refused < kCalls) NOVA_CO_TRY(co_await runtime::Sleep(call, 1ms));
    co_return Ok();
  });
  ASSERT_TRUE(begun) << begun.error().ToString();
  EXPECT_GE(refused, 1);
  EXPECT_GE(done, 2);
  EXPECT_EQ(
      metrics_.Counter("nova_auth_password_refused_total", "Computations refused because the queue was full").Value(),
      refused);
}

TEST_F(PasswordTest, TheWaitEndsWithTheCall) {
  const auto hash = runtime_.RunBlocking<std::string>(
      1ms, [&](Call& call) { return hasher_->Hash(call, Secret<>("correct horse")); });
  ASSERT_FALSE(hash);
  EXPECT_EQ(hash.error().code(), Code::kDeadlineExceeded);
}

}  // namespace
}  // namespace nova::auth
