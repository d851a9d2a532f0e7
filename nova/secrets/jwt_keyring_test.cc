#include "nova/secrets/jwt_keyring.h"

#include <atomic>
#include <functional>
#include <gtest/gtest.h>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "nova/auth/base64url.h"
#include "nova/auth/strict_json.h"
#include "nova/runtime/runtime.h"
#include "nova/secrets/failure.h"
#include "nova/secrets/fake_secrets.h"
#include "nova/secrets/jwt_secret.h"
#include "nova/telemetry/log.h"

namespace nova::secrets {
namespace {

using namespace std::chrono_literals;
using runtime::Call;
using runtime::Task;

// The key that a token names.
std::string KidOf(const std::string& token) {
  const std::string header = *auth::Base64UrlDecode(std::string_view(token).substr(0, token.find('.')));
  const auto object = *auth::ParseStrictObject(header);
  return std::string(object.at("kid").as_string());
}

class JwtKeyringTest : public testing::Test {
 protected:
  JwtKeyringTest() { Put("v1", key_1_); }

  // A version made now. Its value says what `jwt_` says.
  void Create(const std::string& version, const auth::SigningKey& key) {
    auth::JwtConfig jwt = jwt_;
    jwt.algorithm = key.algorithm();
    jwt.signing_key = *key.ToText();
    secrets_.Add(version, FormatJwtSecret(jwt), clock_.WallNow());
  }
  // A version that is current at once, as PutSecretValue makes it.
  void Put(const std::string& version, const auth::SigningKey& key) {
    Create(version, key);
    secrets_.MakeCurrent(version);
  }
  // What is there is older than any rule asks for.
  void Age() { clock_.Advance(24h); }

  Result<void> Load(JwtKeyring& keyring) {
    return runtime_.RunBlocking<void>(10s, [&](Call& call) { return keyring.Load(call); });
  }
  Result<void> Refresh(JwtKeyring& keyring) {
    return runtime_.RunBlocking<void>(10s, [&](Call& call) { return keyring.Refresh(call); });
  }
  JwtKeyringConfig Signing() const { return {.secret_id = "prod/nova/jwt", .signs = true}; }

  std::string TokenOf(const JwtKeyring& keyring) {
    const auto issued = keyring.signer().Issue(Uuid::New(clock_), Uuid::New(clock_), clock_);
    EXPECT_TRUE(issued) << issued.error().ToString();
    return issued ? issued->token : std::string();
  }
  bool Knows(const JwtKeyring& keyring, const auth::SigningKey& key) {
    const auto token = SignToken(key, NewClaims(auth::TermsOf(jwt_), Uuid::New(clock_), Uuid::New(clock_), clock_));
    return keyring.verifier().Verify(*token).ok();
  }
  double Metric(const std::string& name) const {
    const std::string text = "\n" + metrics_.Scrape();
    const auto at = text.find("\n" + name + " ");
    if (at == std::string::npos) return -1;
    return std::stod(text.substr(at + name.size() + 2));
  }

  FakeClock clock_;
  FakeSecrets secrets_;
  telemetry::Metrics metrics_;
  runtime::Runtime runtime_{{.threads = 2}};
  auth::JwtConfig jwt_;
  const auth::SigningKey key_1_ = *auth::SigningKey::Generate(auth::Algorithm::kEdDsa);
  const auth::SigningKey key_2_ = *auth::SigningKey::Generate(auth::Algorithm::kEs256);
  const auth::SigningKey key_3_ = *auth::SigningKey::Generate(auth::Algorithm::kEdDsa);
};

TEST_F(JwtKeyringTest, BeforeItIsLoadedNobodyIsRefusedForGood) {
  const JwtKeyring keyring(secrets_, Signing(), metrics_, clock_);
  const auto issued = keyring.signer().Issue(Uuid::New(clock_), Uuid::New(clock_), clock_);
  ASSERT_FALSE(issued);
  EXPECT_EQ(issued.error().code(), Code::kUnavailable);
  const auto verified = keyring.verifier().Verify("a.b.c");
  ASSERT_FALSE(verified);
  EXPECT_EQ(verified.error().code(), Code::kUnavailable);
}

TEST_F(JwtKeyringTest, SignsWithCurrentAndVerifiesWithAllThree) {
  Put("v2", key_2_);
  Age();
  Create("v3", key_3_);
  secrets_.Label(kPending, "v3");
  JwtKeyring keyring(secrets_, Signing(), metrics_, clock_);
  const auto loaded = Load(keyring);
  ASSERT_TRUE(loaded) << loaded.error().ToString();
  EXPECT_EQ(secrets_.reads(), (std::vector<std::string>{"AWSPENDING", "AWSCURRENT", "AWSPREVIOUS"}));
  EXPECT_EQ(keyring.signer().kid(), key_2_.kid());
  EXPECT_TRUE(keyring.verifier().Verify(TokenOf(keyring)));
  for (const auto* key : {&key_1_, &key_2_, &key_3_}) EXPECT_TRUE(Knows(keyring, *key));

  const JwtKeyringStatus status = keyring.status();
  EXPECT_EQ(status.secret_id, "prod/nova/jwt");
  EXPECT_EQ(status.refreshed_at, clock_.WallNow());
  EXPECT_FALSE(status.problem);
  ASSERT_EQ(status.keys.size(), 3U);
  EXPECT_EQ(status.keys[0].stage, "AWSCURRENT");
  EXPECT_EQ(status.keys[0].version_id, "v2");
  EXPECT_EQ(status.keys[0].kid, key_2_.kid());
  EXPECT_TRUE(status.keys[0].signs);
  EXPECT_EQ(status.keys[1].stage, "AWSPREVIOUS");
  EXPECT_FALSE(status.keys[1].signs);
  EXPECT_EQ(status.keys[2].stage, "AWSPENDING");
  EXPECT_EQ(status.keys[2].version_id, "v3");
}

TEST_F(JwtKeyringTest, TheFirstVersionSignsAtOnce) {
  JwtKeyring keyring(secrets_, Signing(), metrics_, clock_);
  ASSERT_TRUE(Load(keyring));
  EXPECT_EQ(keyring.signer().kid(), key_1_.kid());
  EXPECT_EQ(Metric("nova_jwt_rotation_latency_seconds_count"), 0) << "a start is no rotation";
}

TEST_F(JwtKeyringTest, ARotationThatWasAnnouncedIsPickedUpAtTheNextLook) {
  Age();
  JwtKeyring keyring(secrets_, Signing(), metrics_, clock_);
  ASSERT_TRUE(Load(keyring));
  const std::string old_token = TokenOf(keyring);
  Create("v2", key_2_);
  secrets_.Label(kPending, "v2");
  clock_.Advance(300s);
  ASSERT_TRUE(Refresh(keyring));
  EXPECT_EQ(keyring.signer().kid(), key_1_.kid());
  EXPECT_TRUE(Knows(keyring, key_2_)) << "published before it signs";
  clock_.Advance(400s);
  secrets_.MakeCurrent("v2");
  secrets_.Label(kPending, "");
  ASSERT_TRUE(Refresh(keyring));
  EXPECT_EQ(keyring.signer().kid(), key_2_.kid());
  EXPECT_TRUE(keyring.verifier().Verify(old_token));
  EXPECT_TRUE(keyring.verifier().Verify(TokenOf(keyring)));
  EXPECT_EQ(Metric("nova_jwt_rotation_latency_seconds_count"), 1);
  EXPECT_EQ(Metric("nova_jwt_rotation_latency_seconds_sum"), 700);
  EXPECT_EQ(Metric("nova_jwt_key_refreshes_total{result=\"changed\"}"), 3);
}

TEST_F(JwtKeyringTest, AVersionThatNobodyKnowsYetLetsItsPredecessorSign) {
  Age();
  JwtKeyring keyring(secrets_, Signing(), metrics_, clock_);
  ASSERT_TRUE(Load(keyring));
  Put("v2", key_2_);
  clock_.Advance(100s);
  ASSERT_TRUE(Refresh(keyring));
  EXPECT_EQ(keyring.signer().kid(), key_1_.kid());
  EXPECT_TRUE(Knows(keyring, key_2_));
  // One that was restarted decides the same.
  JwtKeyring restarted(secrets_, Signing(), metrics_, clock_);
  ASSERT_TRUE(Load(restarted));
  EXPECT_EQ(restarted.signer().kid(), key_1_.kid());

  clock_.Advance(300s);
  ASSERT_TRUE(Refresh(keyring));
  EXPECT_EQ(keyring.due(), clock_.Now() + 260s) << "11 minutes after the version was made, not a whole interval later";
  clock_.Advance(260s);
  ASSERT_TRUE(Refresh(keyring));
  EXPECT_EQ(keyring.signer().kid(), key_2_.kid());
  EXPECT_EQ(keyring.due(), clock_.Now() + 300s);
}

TEST_F(JwtKeyringTest, WithoutAPredecessorAYoungVersionSigns) {
  Age();
  Put("v2", key_2_);
  secrets_.Label(kPrevious, "");
  JwtKeyring keyring(secrets_, Signing(), metrics_, clock_);
  ASSERT_TRUE(Load(keyring));
  EXPECT_EQ(keyring.signer().kid(), key_2_.kid());
  EXPECT_FALSE(Knows(keyring, key_1_));
}

TEST_F(JwtKeyringTest, ASecretThatWasLostAndMadeAnewMayReuseTheIdsOfItsVersions) {
  Age();
  JwtKeyring keyring(secrets_, Signing(), metrics_, clock_);
  ASSERT_TRUE(Load(keyring));
  Create("v1", key_2_);
  ASSERT_TRUE(Refresh(keyring));
  EXPECT_EQ(keyring.signer().kid(), key_2_.kid());
  EXPECT_TRUE(keyring.verifier().Verify(TokenOf(keyring)));
  EXPECT_FALSE(Knows(keyring, key_1_));
}

TEST_F(JwtKeyringTest, WhatCarriesNoLabelIsWithdrawnAtTheNextLook) {
  Age();
  Put("v2", key_2_);
  JwtKeyring keyring(secrets_, Signing(), metrics_, clock_);
  ASSERT_TRUE(Load(keyring));
  ASSERT_EQ(keyring.signer().kid(), key_1_.kid());
  // It is still the one that signs, and somebody has stolen it.
  secrets_.Label(kPrevious, "");
  ASSERT_TRUE(Refresh(keyring));
  EXPECT_EQ(keyring.signer().kid(), key_2_.kid());
  EXPECT_FALSE(Knows(keyring, key_1_));
  EXPECT_EQ(keyring.status().keys.size(), 1U);
}

TEST_F(JwtKeyringTest, ARotationBetweenTwoReadsLosesNothing) {
  Age();
  JwtKeyring keyring(secrets_, Signing(), metrics_, clock_);
  ASSERT_TRUE(Load(keyring));
  for (const std::string_view before : {kPending, kCurrent, kPrevious}) {
    SCOPED_TRACE(before);
    secrets_.Label(kPrevious, "");
    secrets_.Label(kCurrent, "v1");
    Create("v2", key_2_);
    secrets_.Label(kPending, "v2");
    Age();
    ASSERT_TRUE(Refresh(keyring));
    secrets_.BeforeRead([&](std::string_view stage) {
      if (stage == before && secrets_.Labelled(kCurrent) == "v1") {
        secrets_.MakeCurrent("v2");
        secrets_.Label(kPending, "");
      }
      return Ok();
    });
    ASSERT_TRUE(Refresh(keyring));
    EXPECT_TRUE(Knows(keyring, key_1_));
    EXPECT_TRUE(Knows(keyring, key_2_));
    EXPECT_EQ(keyring.signer().kid(), key_2_.kid());
    secrets_.BeforeRead({});
  }
}

TEST_F(JwtKeyringTest, ARollbackBetweenTwoReadsLosesNothing) {
  Put("v2", key_2_);
  Age();
  JwtKeyring keyring(secrets_, Signing(), metrics_, clock_);
  ASSERT_TRUE(Load(keyring));
  // Labels move against the direction of the reads: v1 is never where it is looked for.
  secrets_.BeforeRead([&](std::string_view stage) {
    if (stage == kPrevious) secrets_.MakeCurrent("v1");
    return Ok();
  });
  ASSERT_TRUE(Refresh(keyring));
  EXPECT_TRUE(Knows(keyring, key_1_));
  EXPECT_TRUE(Knows(keyring, key_2_));
  EXPECT_EQ(keyring.signer().kid(), key_1_.kid());
}

TEST_F(JwtKeyringTest, WhateverFailsTheLastGoodKeysStay) {
  Put("v2", key_2_);
  Age();
  Create("v3", key_3_);
  secrets_.Label(kPending, "v3");
  JwtKeyring keyring(secrets_, Signing(), metrics_, clock_);
  ASSERT_TRUE(Load(keyring));
  const std::string token = TokenOf(keyring);
  for (const std::string_view failing : {kPending, kCurrent, kPrevious}) {
    for (const Failure failure : {Failure::kAccessDenied, Failure::kDecryptionFailed, Failure::kThrottled,
                                  Failure::kExpiredCredentials, Failure::kNetwork}) {
      SCOPED_TRACE(std::string(failing) + " " + FailureName(failure));
      secrets_.BeforeRead(
          [&](std::string_view stage) { return stage == failing ? Result<void>(Fail(failure, "it failed")) : Ok(); });
      clock_.Advance(10s);
      const auto refreshed = Refresh(keyring);
      ASSERT_FALSE(refreshed);
      EXPECT_EQ(FailureOf(refreshed.error()), failure);
      EXPECT_EQ(refreshed.error().message(),
                "AWS_SECRETS_JWT_NAME: prod/nova/jwt (" + std::string(failing) + "): it failed");
      EXPECT_TRUE(keyring.verifier().Verify(token));
      EXPECT_EQ(keyring.signer().kid(), key_2_.kid());
      for (const auto* key : {&key_1_, &key_2_, &key_3_}) EXPECT_TRUE(Knows(keyring, *key));
      EXPECT_EQ(Metric("nova_jwt_keys_failing"), 1);
      EXPECT_EQ(keyring.status().problem->message(), refreshed.error().message());
    }
  }
  const double failed_since = Metric("nova_jwt_keys_refreshed_timestamp_seconds");
  secrets_.BeforeRead({});
  ASSERT_TRUE(Refresh(keyring));
  EXPECT_EQ(Metric("nova_jwt_keys_failing"), 0);
  EXPECT_EQ(Metric("nova_jwt_keys_refreshed_timestamp_seconds"), failed_since + 150);
  EXPECT_FALSE(keyring.status().problem);
}

TEST_F(JwtKeyringTest, AFailureBringsTheNextLookForward) {
  JwtKeyring keyring(secrets_, Signing(), metrics_, clock_);
  ASSERT_TRUE(Load(keyring));
  secrets_.BeforeRead([](std::string_view) { return Result<void>(Fail(Failure::kNetwork, "down")); });
  ASSERT_FALSE(Refresh(keyring));
  EXPECT_GE(keyring.due(), clock_.Now() + 1s);
  EXPECT_LE(keyring.due(), clock_.Now() + 2s);
}

TEST_F(JwtKeyringTest, AKeyThatMovedOutOfSightStays) {
  Age();
  Create("v2", key_2_);
  secrets_.Label(kPending, "v2");
  JwtKeyring keyring(secrets_, Signing(), metrics_, clock_);
  ASSERT_TRUE(Load(keyring));
  // The rotation ends: v2 is CURRENT, and CURRENT is what cannot be read. Others sign with v2 from now on.
  clock_.Advance(11min);
  secrets_.MakeCurrent("v2");
  secrets_.Label(kPending, "");
  secrets_.BeforeRead(
      [](std::string_view stage) { return stage == kCurrent ? Result<void>(Fail(Failure::kNetwork, "down")) : Ok(); });
  for (int look = 0; look < 3; ++look) {
    ASSERT_FALSE(Refresh(keyring));
    EXPECT_TRUE(Knows(keyring, key_1_));
    EXPECT_TRUE(Knows(keyring, key_2_)) << "after look " << look;
  }
  // What is new is taken up all the same.
  Create("v3", key_3_);
  secrets_.Label(kPending, "v3");
  ASSERT_FALSE(Refresh(keyring));
  EXPECT_TRUE(Knows(keyring, key_2_));
  EXPECT_TRUE(Knows(keyring, key_3_));
  // And everything finds its place.
  secrets_.BeforeRead({});
  ASSERT_TRUE(Refresh(keyring));
  EXPECT_EQ(keyring.signer().kid(), key_2_.kid());
  secrets_.Label(kPrevious, "");
  secrets_.Label(kPending, "");
  ASSERT_TRUE(Refresh(keyring));
  EXPECT_FALSE(Knows(keyring, key_1_));
  EXPECT_TRUE(Knows(keyring, key_2_));
  EXPECT_FALSE(Knows(keyring, key_3_));
}

TEST_F(JwtKeyringTest, APredecessorThatMayBeWithdrawnDoesNotBeginToSign) {
  Put("v2", key_2_);
  Age();
  JwtKeyring keyring(secrets_, Signing(), metrics_, clock_);
  ASSERT_TRUE(Load(keyring));
  ASSERT_EQ(keyring.signer().kid(), key_2_.kid());
  // PREVIOUS is v2 now; what was read of it last is v1.
  Put("v3", key_3_);
  secrets_.BeforeRead(
      [](std::string_view stage) { return stage == kPrevious ? Result<void>(Fail(Failure::kNetwork, "down")) : Ok(); });
  ASSERT_FALSE(Refresh(keyring));
  EXPECT_EQ(keyring.signer().kid(), key_2_.kid());
}

TEST_F(JwtKeyringTest, TheFirstLookNeedsAllThree) {
  for (const std::string_view failing : {kPending, kCurrent, kPrevious}) {
    secrets_.BeforeRead([&](std::string_view stage) {
      return stage == failing ? Result<void>(Fail(Failure::kThrottled, "too much")) : Ok();
    });
    JwtKeyring keyring(secrets_, Signing(), metrics_, clock_);
    const auto loaded = Load(keyring);
    ASSERT_FALSE(loaded);
    EXPECT_EQ(FailureOf(loaded.error()), Failure::kThrottled);
    EXPECT_TRUE(keyring.status().keys.empty());
    // It may be tried again.
    secrets_.BeforeRead({});
    EXPECT_TRUE(Load(keyring));
  }
  secrets_.Label(kCurrent, "");
  JwtKeyring keyring(secrets_, Signing(), metrics_, clock_);
  const auto loaded = Load(keyring);
  ASSERT_FALSE(loaded);
  EXPECT_EQ(FailureOf(loaded.error()), Failure::kNotFound);
}

TEST_F(JwtKeyringTest, AnUnusableValueOutsideOfCurrentHarmsNobody) {
  Age();
  secrets_.Add("bad", Secret<>(R"({"signing_key":"MARKED"})"), clock_.WallNow());
  for (const std::string_view stage : {kPending, kPrevious}) {
    secrets_.Label(stage, "bad");
    JwtKeyring keyring(secrets_, Signing(), metrics_, clock_);
    ASSERT_TRUE(Load(keyring));
    EXPECT_EQ(keyring.signer().kid(), key_1_.kid());
    EXPECT_EQ(Metric("nova_jwt_keys_failing"), 1);
    const auto refreshed = Refresh(keyring);
    ASSERT_FALSE(refreshed);
    EXPECT_EQ(FailureOf(refreshed.error()), Failure::kInvalidFormat);
    EXPECT_EQ(refreshed.error().ToString().find("MARKED"), std::string::npos);
    secrets_.Label(stage, "");
    ASSERT_TRUE(Refresh(keyring));
    EXPECT_EQ(Metric("nova_jwt_keys_failing"), 0);
  }
  // It does not keep others from being withdrawn.
  Put("v2", key_2_);
  Age();
  JwtKeyring keyring(secrets_, Signing(), metrics_, clock_);
  ASSERT_TRUE(Load(keyring));
  secrets_.Label(kPrevious, "bad");
  ASSERT_FALSE(Refresh(keyring));
  EXPECT_FALSE(Knows(keyring, key_1_));
}

TEST_F(JwtKeyringTest, AnUnusableCurrentChangesNothingAndStartsNothing) {
  Age();
  JwtKeyring keyring(secrets_, Signing(), metrics_, clock_);
  ASSERT_TRUE(Load(keyring));
  secrets_.Add("bad", Secret<>("{}"), clock_.WallNow());
  secrets_.MakeCurrent("bad");
  for (int look = 0; look < 3; ++look) {
    ASSERT_FALSE(Refresh(keyring));
    EXPECT_EQ(keyring.signer().kid(), key_1_.kid());
    EXPECT_TRUE(Knows(keyring, key_1_));
    Age();
  }
  JwtKeyring restarted(secrets_, Signing(), metrics_, clock_);
  const auto loaded = Load(restarted);
  ASSERT_FALSE(loaded);
  EXPECT_EQ(loaded.error().message().find("AWS_SECRETS_JWT_NAME: prod/nova/jwt (AWSCURRENT): "), 0U);
}

TEST_F(JwtKeyringTest, IssuerAndAudienceAreThoseOfTheStart) {
  Age();
  const auto expect = [&](const std::string& field) {
    JwtKeyring keyring(secrets_, Signing(), metrics_, clock_);
    ASSERT_TRUE(Load(keyring));
    Put("v2", key_2_);
    Age();
    const std::string token = TokenOf(keyring);
    const auto refreshed = Refresh(keyring);
    ASSERT_FALSE(refreshed) << field;
    EXPECT_EQ(FailureOf(refreshed.error()), Failure::kInvalidFormat);
    EXPECT_NE(refreshed.error().message().find(field + ": is not what it was"), std::string::npos)
        << refreshed.error().message();
    EXPECT_EQ(keyring.signer().kid(), key_1_.kid());
    EXPECT_TRUE(keyring.verifier().Verify(token));
    secrets_.MakeCurrent("v1");
  };
  const auth::JwtConfig good = jwt_;
  jwt_.issuer = "another";
  expect("issuer");
  jwt_ = good;
  jwt_.audience = {"another"};
  expect("audience");
}

TEST_F(JwtKeyringTest, TheExpiryIsThatOfTheVersionThatSigns) {
  jwt_.audience = {"web", "mobile"};
  Put("v1", key_1_);
  Age();
  JwtKeyring keyring(secrets_, Signing(), metrics_, clock_);
  ASSERT_TRUE(Load(keyring));
  jwt_.expiry = 5min;
  jwt_.audience = {"mobile", "web"};  // the same names
  Put("v2", key_2_);
  Age();
  ASSERT_TRUE(Refresh(keyring));
  const auto issued = keyring.signer().Issue(Uuid::New(clock_), Uuid::New(clock_), clock_);
  ASSERT_TRUE(issued);
  EXPECT_EQ(issued->claims.expires_at - issued->claims.issued_at, 5min);
}

TEST_F(JwtKeyringTest, WhoOnlyVerifiesIsGivenNoSigningKey) {
  JwtKeyringConfig config = Signing();
  config.signs = false;
  JwtKeyring given_too_much(secrets_, config, metrics_, clock_);
  const auto loaded = Load(given_too_much);
  ASSERT_FALSE(loaded);
  EXPECT_EQ(loaded.error().code(), Code::kInvalidArgument);
  EXPECT_NE(loaded.error().message().find("signing_key: this process only verifies"), std::string::npos);

  jwt_.validation_key = Secret<>(*key_1_.verification_key().ToPem());
  secrets_.Add("public", FormatJwtPublicSecret(jwt_), clock_.WallNow());
  secrets_.Label(kCurrent, "public");
  JwtKeyring keyring(secrets_, config, metrics_, clock_);
  ASSERT_TRUE(Load(keyring));
  EXPECT_TRUE(Knows(keyring, key_1_));
  EXPECT_FALSE(keyring.signer().Issue(Uuid::New(clock_), Uuid::New(clock_), clock_));
  EXPECT_FALSE(keyring.status().keys.front().signs);

  // And who signs needs one.
  JwtKeyring signing(secrets_, Signing(), metrics_, clock_);
  const auto refused = Load(signing);
  ASSERT_FALSE(refused);
  EXPECT_EQ(FailureOf(refused.error()), Failure::kInvalidFormat);
  EXPECT_NE(refused.error().message().find("signing_key: is missing"), std::string::npos);
}

TEST_F(JwtKeyringTest, ASharedSecretIsForOneProcessAlone) {
  const auth::SigningKey shared = *auth::SigningKey::Generate(auth::Algorithm::kHs256);
  Put("v1", shared);
  JwtKeyringConfig config = Signing();
  JwtKeyring others_verify(secrets_, config, metrics_, clock_);
  const auto loaded = Load(others_verify);
  ASSERT_FALSE(loaded);
  EXPECT_EQ(loaded.error().code(), Code::kInvalidArgument);
  EXPECT_NE(loaded.error().message().find("algorithm: "), std::string::npos);

  config.others_verify = false;
  JwtKeyring alone(secrets_, config, metrics_, clock_);
  ASSERT_TRUE(Load(alone));
  EXPECT_TRUE(alone.verifier().Verify(TokenOf(alone)));
  EXPECT_EQ(alone.verifier().keys()->ToJson(), R"({"keys":[]})");
}

TEST_F(JwtKeyringTest, AnOlderLookThatEndsLaterChangesNothing) {
  Put("v2", key_2_);
  Age();
  JwtKeyring keyring(secrets_, Signing(), metrics_, clock_);
  ASSERT_TRUE(Load(keyring));
  bool nested = false;
  secrets_.BeforeRead([&](std::string_view stage) {
    if (stage == kPrevious && !std::exchange(nested, true)) {
      // Meanwhile a second look begins and ends, and finds v1 withdrawn; the first has yet to read it.
      secrets_.Label(kPrevious, "");
      EXPECT_TRUE(Refresh(keyring));
      EXPECT_FALSE(Knows(keyring, key_1_));
      secrets_.Label(kPrevious, "v1");
    }
    return Ok();
  });
  ASSERT_TRUE(Refresh(keyring));
  EXPECT_FALSE(Knows(keyring, key_1_));
}

TEST_F(JwtKeyringTest, WhateverIsSignedIsKnownWhileKeysChange) {
  jwt_.expiry = 24h;
  Put("v1", key_1_);
  JwtKeyringConfig config = Signing();
  config.announce = 0ms;
  JwtKeyring keyring(secrets_, config, metrics_, clock_);
  ASSERT_TRUE(Load(keyring));
  std::atomic<bool> stop = false;
  std::atomic<int> refused = 0;
  std::atomic<int> issued = 0;
  std::vector<std::thread> signers;
  for (int i = 0; i < 2; ++i) {
    signers.emplace_back([&] {
      while (!stop) {
        const auto token = keyring.signer().Issue(Uuid::New(clock_), Uuid::New(clock_), clock_);
        ++issued;
        // Slower than two rotations, one may find its key withdrawn; no key comes back.
        if (!token || (!keyring.verifier().Verify(token->token) &&
                       keyring.verifier().keys()->Find(KidOf(token->token)) != nullptr))
          ++refused;
      }
    });
  }
  for (int rotation = 0; rotation < 50 || issued < 50; ++rotation) {
    Put("r" + std::to_string(rotation), *auth::SigningKey::Generate(auth::Algorithm::kEdDsa));
    EXPECT_TRUE(Refresh(keyring));
  }
  stop = true;
  for (std::thread& signer : signers) signer.join();
  EXPECT_EQ(refused, 0);
}

// What it logs at the moment of the change is the one way to be there.
TEST_F(JwtKeyringTest, AKeyIsKnownFromTheMomentItSigns) {
  Age();
  JwtKeyring keyring(secrets_, Signing(), metrics_, clock_);
  ASSERT_TRUE(Load(keyring));
  Put("v2", key_2_);
  Age();
  const std::string at_the_end = TokenOf(keyring);
  int changes = 0;
  telemetry::InitLogging({}, [&](std::string_view line) {
    if (line.find("signing key changed") == std::string_view::npos) return;
    ++changes;
    const auto issued = keyring.signer().Issue(Uuid::New(clock_), Uuid::New(clock_), clock_);
    EXPECT_TRUE(issued && KidOf(issued->token) == key_2_.kid());
    EXPECT_TRUE(keyring.verifier().Verify(issued->token));
    EXPECT_TRUE(keyring.verifier().Verify(at_the_end));
  });
  const auto refreshed = Refresh(keyring);
  telemetry::ShutdownLogging();
  telemetry::InitLogging({});
  EXPECT_TRUE(refreshed);
  EXPECT_EQ(changes, 1);
}

TEST_F(JwtKeyringTest, LooksByItselfUntilItsScopeStops) {
  Put("v1", key_1_);
  JwtKeyringConfig config = Signing();
  config.refresh_interval = 5ms;
  config.announce = 50ms;
  // Real time: what is tested is that somebody looks at all.
  JwtKeyring keyring(secrets_, config, metrics_);
  runtime::Scope scope(runtime_);
  const auto await = [&](auto condition) {
    const SteadyTime patience = Clock::System().Now() + 20s;
    while (!condition()) {
      ASSERT_LT(Clock::System().Now(), patience);
      ASSERT_TRUE(runtime_.RunBlocking<void>(1s, [](Call& call) { return runtime::Sleep(call, 1ms); }));
    }
  };
  ASSERT_TRUE(Load(keyring));
  keyring.Start(scope);
  auth::JwtConfig jwt = jwt_;
  jwt.algorithm = key_2_.algorithm();
  jwt.signing_key = *key_2_.ToText();
  secrets_.Add("v2", FormatJwtSecret(jwt), Clock::System().WallNow());
  secrets_.MakeCurrent("v2");
  await([&] { return keyring.verifier().keys()->Find(key_2_.kid()) != nullptr; });
  await([&] { return keyring.signer().kid() == key_2_.kid(); });
  secrets_.BeforeRead([](std::string_view) { return Result<void>(Fail(Failure::kNetwork, "down")); });
  await([&] { return keyring.status().problem.has_value(); });
  secrets_.BeforeRead({});
  await([&] { return !keyring.status().problem.has_value(); });
  // A read that never ends, ends with the scope.
  std::atomic<bool> hangs = false;
  secrets_.HangUntilCancelled(&hangs);
  await([&] { return hangs.load(); });
  EXPECT_TRUE(scope.Stop(10s));
  EXPECT_FALSE(keyring.status().problem) << "a process that stops has learnt nothing about the keys";
}

TEST_F(JwtKeyringTest, ALongPauseEndsWithTheScope) {
  JwtKeyring keyring(secrets_, Signing(), metrics_);
  ASSERT_TRUE(Load(keyring));
  runtime::Scope scope(runtime_);
  keyring.Start(scope);
  EXPECT_TRUE(scope.Stop(10s));
  EXPECT_EQ(secrets_.reads().size(), 3U);
}

}  // namespace
}  // namespace nova::secrets
