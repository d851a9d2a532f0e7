#include "nova/auth/jwt.h"

#include <atomic>
#include <gtest/gtest.h>
#include <iostream>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <random>
#include <set>
#include <thread>

#include "nova/auth/base64url.h"

namespace nova::auth {
namespace {

using namespace std::chrono_literals;

constexpr Algorithm kAll[] = {Algorithm::kEdDsa, Algorithm::kEs256, Algorithm::kRs256, Algorithm::kHs256};
constexpr char kPublicMessage[] = "the access token is not valid";

std::shared_ptr<const Jwks> KeysOf(std::vector<SigningKey> keys) {
  std::vector<VerificationKey> verification;
  for (const SigningKey& key : keys) verification.push_back(key.verification_key());
  return std::make_shared<const Jwks>(std::move(verification));
}

// One issuer, one verifier, and a clock that stands still.
class JwtTest : public testing::Test {
 protected:
  JwtTest() : key_(*SigningKey::Generate(Algorithm::kEdDsa)), verifier_(terms_, KeysOf({key_}), clock_) {}

  Claims ValidClaims() const { return NewClaims(terms_, account_, session_, clock_); }

  std::string Header(std::string_view more = "") const {
    return R"({"alg":"EdDSA","typ":"at+jwt","kid":")" + key_.kid() + "\"" + std::string(more) + "}";
  }

  // The payload of valid claims, with one member replaced or added, or (value empty) left out.
  std::string Payload(const std::string& name = "", const std::string& value = "") const {
    const std::int64_t now =
        std::chrono::duration_cast<std::chrono::seconds>(clock_.WallNow().time_since_epoch()).count();
    std::vector<std::pair<std::string, std::string>> members = {{"iss", "\"nova\""},
                                                                {"sub", "\"" + account_.ToString() + "\""},
                                                                {"aud", "[\"nova\"]"},
                                                                {"exp", std::to_string(now + 60)},
                                                                {"iat", std::to_string(now)},
                                                                {"nbf", std::to_string(now)},
                                                                {"jti", "\"" + session_.ToString() + "\""},
                                                                {"sid", "\"" + session_.ToString() + "\""}};
    std::string text;
    bool known = name.empty();
    for (auto& [key, member] : members) {
      if (key == name) {
        known = true;
        member = value;
      }
      if (!member.empty()) text += ",\"" + key + "\":" + member;
    }
    if (!known) text += ",\"" + name + "\":" + value;
    text.front() = '{';
    return text + "}";
  }

  std::string Token(std::string_view header, std::string_view payload) const {
    const std::string input = Base64UrlEncode(header) + "." + Base64UrlEncode(payload);
    return input + "." + Base64UrlEncode(*key_.Sign(input));
  }

  // Refused, looking like every other refusal, for `reason`.
  void ExpectRefused(const std::string& token, std::string_view reason) const {
    const auto claims = verifier_.Verify(token);
    ASSERT_FALSE(claims) << "accepted where this was expected: " << reason;
    EXPECT_EQ(claims.error().code(), Code::kUnauthenticated);
    EXPECT_EQ(claims.error().message(), kPublicMessage);
    EXPECT_EQ(claims.error().detail(), "token refused: " + std::string(reason));
  }

  FakeClock clock_;
  JwtTerms terms_;
  const SigningKey key_;
  const Uuid account_ = Uuid::New(clock_);
  const Uuid session_ = Uuid::New(clock_);
  JwtVerifier verifier_;
};

TEST_F(JwtTest, ClaimsSurviveTheToken) {
  for (const Algorithm algorithm : kAll) {
    SCOPED_TRACE(AlgorithmName(algorithm));
    const SigningKey key = *SigningKey::Generate(algorithm);
    verifier_.SetKeys(KeysOf({key_, key}));
    const Claims claims = ValidClaims();
    const auto token = SignToken(key, claims);
    ASSERT_TRUE(token) << token.error().ToString();
    const auto read = verifier_.Verify(*token);
    ASSERT_TRUE(read) << read.error().ToString();
    EXPECT_EQ(read->issuer, "nova");
    EXPECT_EQ(read->subject, account_);
    EXPECT_EQ(read->audience, terms_.audience);
    EXPECT_EQ(read->session_id, session_);
    EXPECT_EQ(read->token_id, claims.token_id);
    EXPECT_EQ(read->expires_at, claims.expires_at);
    EXPECT_EQ(read->expires_at - read->issued_at, 15min);
    EXPECT_EQ(read->not_before, claims.issued_at);
  }
}

TEST_F(JwtTest, EveryTokenHasItsOwnId) { EXPECT_NE(ValidClaims().token_id, ValidClaims().token_id); }

TEST_F(JwtTest, AHandMadeTokenIsAccepted) {
  // What the refusals below differ from by one thing each.
  const auto claims = verifier_.Verify(Token(Header(), Payload()));
  ASSERT_TRUE(claims) << claims.error().ToString();
  EXPECT_TRUE(verifier_.Verify(Token(Header(R"(,"cty":"x","jku":"https://example.com")"), Payload("extra", "{}"))));
}

TEST_F(JwtTest, RefusesTheAlgorithmNone) {
  const std::string header = R"({"alg":"none","typ":"at+jwt","kid":")" + key_.kid() + "\"}";
  const std::string input = Base64UrlEncode(header) + "." + Base64UrlEncode(Payload());
  ExpectRefused(input + ".", "alg is not that of the key");
  ExpectRefused(Token(header, Payload()), "alg is not that of the key");
}

TEST_F(JwtTest, RefusesAPublicKeyUsedAsASharedSecret) {
  const std::string header = R"({"alg":"HS256","typ":"at+jwt","kid":")" + key_.kid() + "\"}";
  const std::string input = Base64UrlEncode(header) + "." + Base64UrlEncode(Payload());
  const std::string& secret = key_.verification_key().jwk();
  unsigned char mac[EVP_MAX_MD_SIZE];
  unsigned length = 0;
  HMAC(EVP_sha256(), secret.data(), static_cast<int>(secret.size()),
       reinterpret_cast<const unsigned char*>(input.data()), input.size(), mac, &length);
  ExpectRefused(input + "." + Base64UrlEncode({reinterpret_cast<char*>(mac), length}), "alg is not that of the key");
}

TEST_F(JwtTest, RefusesAnAlgorithmThatIsNotTheKeys) {
  for (const std::string name : {"ES256", "RS256", "eddsa", "EdDSA ", "HS512"})
    ExpectRefused(Token(R"({"alg":")" + name + R"(","typ":"at+jwt","kid":")" + key_.kid() + "\"}", Payload()),
                  "alg is not that of the key");
}

TEST_F(JwtTest, RefusesKeysItDoesNotKnow) {
  ExpectRefused(*SignToken(*SigningKey::Generate(Algorithm::kEdDsa), ValidClaims()), "kid is unknown");
  ExpectRefused(Token(R"({"alg":"EdDSA","typ":"at+jwt"})", Payload()), "kid is missing");
  ExpectRefused(Token(R"({"alg":"EdDSA","typ":"at+jwt","kid":""})", Payload()), "kid is not text");
  ExpectRefused(Token(R"({"alg":"EdDSA","typ":"at+jwt","kid":7})", Payload()), "kid is not text");
  ExpectRefused(Token(R"({"typ":"at+jwt","kid":")" + key_.kid() + "\"}", Payload()), "alg is missing");
}

TEST_F(JwtTest, RefusesAStrangersSignatureUnderAKnownKid) {
  const SigningKey stranger = *SigningKey::Generate(Algorithm::kEdDsa);
  const std::string input = Base64UrlEncode(Header()) + "." + Base64UrlEncode(Payload());
  ExpectRefused(input + "." + Base64UrlEncode(*stranger.Sign(input)), "signature does not verify");
  // A key that comes with the token has no say.
  const std::string header = Header(",\"jwk\":" + stranger.verification_key().jwk());
  const std::string with_key = Base64UrlEncode(header) + "." + Base64UrlEncode(Payload());
  ExpectRefused(with_key + "." + Base64UrlEncode(*stranger.Sign(with_key)), "signature does not verify");
}

TEST_F(JwtTest, RefusesOtherTypesAndExtensions) {
  ExpectRefused(Token(R"({"alg":"EdDSA","kid":")" + key_.kid() + "\"}", Payload()), "typ is missing");
  ExpectRefused(Token(R"({"alg":"EdDSA","typ":"JWT","kid":")" + key_.kid() + "\"}", Payload()),
                "typ is not that of an access token");
  ExpectRefused(Token(Header(R"(,"crit":["b64"],"b64":false)"), Payload()), "crit names an extension we do not know");
  ExpectRefused(Token(Header(R"(,"crit":[])"), Payload()), "crit names an extension we do not know");
}

TEST_F(JwtTest, RefusesMembersThatStandTwice) {
  ExpectRefused(Token(Header(R"(,"alg":"EdDSA")"), Payload()), "header: not strict JSON: a member stands twice");
  ExpectRefused(Token(Header(R"(,"\u006bid":"x")"), Payload()), "header: not strict JSON: a member stands twice");
  ExpectRefused(Token(Header(R"(,"x":{"a":1,"a":1})"), Payload()), "header: not strict JSON: a member stands twice");
  std::string payload = Payload();
  payload.insert(1, R"("sub":"x",)");
  ExpectRefused(Token(Header(), payload), "payload: not strict JSON: a member stands twice");
  ExpectRefused(Token(Header(), Payload("x", R"([{"a":1,"a":1}])")), "payload: not strict JSON: a member stands twice");
}

TEST_F(JwtTest, RefusesWhatIsNoToken) {
  for (const std::string text : {"", ".", "a.b", "a", "a.b.c.d"}) ExpectRefused(text, "not three parts");
  ExpectRefused("..", "header: not JSON");
  ExpectRefused("e30=.e30.AA", "header is not base64url");
  ExpectRefused(Token("[]", "{}"), "header: not a JSON object");
  ExpectRefused(Token("\"x\"", "{}"), "header: not a JSON object");
  ExpectRefused(Token(Header(), "[]"), "payload: not a JSON object");
  ExpectRefused(Token(Header(), "{"), "payload: not JSON");
}

TEST_F(JwtTest, RefusesOtherSpellingsOfAGoodToken) {
  const std::string token = Token(Header(), Payload());
  ASSERT_TRUE(verifier_.Verify(token));
  ExpectRefused(token + "=", "signature is not base64url");
  ExpectRefused(token + "\n", "signature is not base64url");
  ExpectRefused(" " + token, "header is not base64url");
  // Another last character for the same 64 bytes: it differs in bits that decoding would drop.
  std::string twin = token;
  constexpr std::string_view kAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  twin.back() = kAlphabet[kAlphabet.find(twin.back()) ^ 1];
  ExpectRefused(twin, "signature is not base64url");
}

TEST_F(JwtTest, TheLengthIsBounded) {
  const auto padded = [&](std::size_t bytes) {
    return Token(Header(), Payload("pad", "\"" + std::string(bytes, 'x') + "\""));
  };
  std::size_t bytes = kTokenBytesMax / 2;
  while (padded(bytes + 1).size() <= kTokenBytesMax) ++bytes;
  EXPECT_TRUE(verifier_.Verify(padded(bytes)));
  ExpectRefused(padded(bytes + 1), "longer than the limit");

  Claims claims = ValidClaims();
  claims.issuer.assign(kTokenBytesMax, 'x');
  const auto token = SignToken(key_, claims);
  ASSERT_FALSE(token);
  EXPECT_EQ(token.error().code(), Code::kInternal);
}

TEST_F(JwtTest, EveryClaimIsNeeded) {
  for (const std::string name : {"iss", "sub", "aud", "exp", "iat", "nbf", "jti", "sid"})
    ExpectRefused(Token(Header(), Payload(name, "")), name + " is missing");
}

TEST_F(JwtTest, EveryClaimHasItsType) {
  for (const std::string name : {"iss", "sub", "jti", "sid"})
    for (const std::string value : {"5", "null", "\"\"", "[\"nova\"]"})
      ExpectRefused(Token(Header(), Payload(name, value)), name + " is not text");
  for (const std::string name : {"sub", "jti", "sid"})
    for (const std::string value : {"\"x\"", "\"00000000-0000-0000-0000-000000000000\""})
      ExpectRefused(Token(Header(), Payload(name, value)), name + " is not a UUID");
  for (const std::string name : {"exp", "iat", "nbf"})
    for (const std::string value : {"\"1\"", "null", "-1", "1.5", "1e9", "1e400", "9000000001", "9223372036854775807",
                                    "18446744073709551615", "99999999999999999999"})
      ExpectRefused(Token(Header(), Payload(name, value)), name + " is not a time in whole seconds");
  for (const std::string value : {"5", "null", "{}", "[\"nova\",5]", "[[\"nova\"]]"})
    ExpectRefused(Token(Header(), Payload("aud", value)), "aud is not a list of names");
}

TEST_F(JwtTest, IssuerAndAudienceAreChecked) {
  ExpectRefused(Token(Header(), Payload("iss", "\"nova2\"")), "iss is another issuer");
  ExpectRefused(Token(Header(), Payload("iss", "\"Nova\"")), "iss is another issuer");
  for (const std::string value : {"\"other\"", "[]", "[\"other\",\"nov\"]"})
    ExpectRefused(Token(Header(), Payload("aud", value)), "aud is another audience");
  for (const std::string value : {"\"nova\"", "[\"other\",\"nova\"]"})
    EXPECT_TRUE(verifier_.Verify(Token(Header(), Payload("aud", value)))) << value;
}

TEST_F(JwtTest, OneAudienceInCommonIsEnough) {
  terms_.audience = {"web", "mobile"};
  const JwtVerifier verifier(terms_, KeysOf({key_}), clock_);
  EXPECT_TRUE(verifier.Verify(Token(Header(), Payload("aud", R"(["tv","mobile"])"))));
  EXPECT_FALSE(verifier.Verify(Token(Header(), Payload("aud", R"(["tv","nova"])"))));
}

TEST_F(JwtTest, ExpiryIsCheckedToTheSecond) {
  const std::string token = Token(Header(), Payload());  // expires 60 s from now
  clock_.Advance(60s + kClockSkewMax - 1s);
  EXPECT_TRUE(verifier_.Verify(token));
  clock_.Advance(1s);
  ExpectRefused(token, "expired");
  clock_.Advance(24h);
  ExpectRefused(token, "expired");
}

TEST_F(JwtTest, TokensOfTheFutureAreRefused) {
  const std::int64_t now =
      std::chrono::duration_cast<std::chrono::seconds>(clock_.WallNow().time_since_epoch()).count();
  for (const std::string name : {"nbf", "iat"}) {
    const std::string reason = name == "nbf" ? "not valid yet" : "issued in the future";
    EXPECT_TRUE(verifier_.Verify(Token(Header(), Payload(name, std::to_string(now + kClockSkewMax.count())))));
    ExpectRefused(Token(Header(), Payload(name, std::to_string(now + kClockSkewMax.count() + 1))), reason);
  }
}

TEST_F(JwtTest, EveryChangeOfOneCharacterIsRefused) {
  const auto seed = std::random_device{}();
  std::cout << "seed " << seed << '\n';
  std::mt19937 random(seed);
  for (const Algorithm algorithm : kAll) {
    SCOPED_TRACE(AlgorithmName(algorithm));
    const SigningKey key = *SigningKey::Generate(algorithm);
    verifier_.SetKeys(KeysOf({key}));
    const std::string token = *SignToken(key, ValidClaims());
    ASSERT_TRUE(verifier_.Verify(token));
    for (std::size_t i = 0; i < token.size(); ++i) {
      // A neighbour in the last bit, which is where encodings are careless, and any other byte.
      const char any = static_cast<char>(static_cast<unsigned char>(token[i]) + 1 + random() % 255);
      for (const char replacement : {static_cast<char>(token[i] ^ 1), any}) {
        std::string changed = token;
        changed[i] = replacement;
        const auto claims = verifier_.Verify(changed);
        ASSERT_FALSE(claims) << "position " << i << ", seed " << seed;
        ASSERT_EQ(claims.error().code(), Code::kUnauthenticated);
        ASSERT_EQ(claims.error().message(), kPublicMessage);
      }
      std::string shorter = token;
      shorter.erase(i, 1);
      ASSERT_FALSE(verifier_.Verify(shorter)) << "without position " << i;
      std::string longer = token;
      longer.insert(i, 1, token[random() % token.size()]);
      ASSERT_FALSE(verifier_.Verify(longer)) << "with one more at " << i << ", seed " << seed;
    }
  }
}

TEST_F(JwtTest, NoTextHoldsAnyPartOfTheToken) {
  const std::string token = *SignToken(*SigningKey::Generate(Algorithm::kEs256), ValidClaims());
  const auto refused = verifier_.Verify(token);
  ASSERT_FALSE(refused);
  const std::string text = refused.error().ToString();
  for (std::size_t i = 0; i + 8 <= token.size(); ++i)
    ASSERT_EQ(text.find(token.substr(i, 8)), std::string::npos) << text;
}

TEST_F(JwtTest, KeysAreReplacedWhileOthersVerify) {
  const SigningKey next = *SigningKey::Generate(Algorithm::kEdDsa);
  const std::string old_token = *SignToken(key_, ValidClaims());
  const std::string new_token = *SignToken(next, ValidClaims());
  const auto both = KeysOf({key_, next});
  const auto only_next = KeysOf({next});
  verifier_.SetKeys(both);
  std::atomic<bool> stop = false;
  std::atomic<int> refused = 0;
  std::thread reader([&] {
    while (!stop)
      if (!verifier_.Verify(new_token)) ++refused;
  });
  for (int i = 0; i < 1000; ++i) verifier_.SetKeys(i % 2 == 0 ? only_next : both);
  verifier_.SetKeys(only_next);
  stop = true;
  reader.join();
  EXPECT_EQ(refused, 0);
  ExpectRefused(old_token, "kid is unknown");
}

TEST_F(JwtTest, WithoutAKeyNothingIsIssuedAndNobodyIsRefusedForGood) {
  JwtSigner signer;
  EXPECT_EQ(signer.kid(), "");
  const auto issued = signer.Issue(account_, session_, clock_);
  ASSERT_FALSE(issued);
  EXPECT_EQ(issued.error().code(), Code::kUnavailable);
  const std::string token = *SignToken(key_, ValidClaims());
  JwtVerifier verifier(clock_);
  ASSERT_FALSE(verifier.Verify(token));
  EXPECT_EQ(verifier.Verify(token).error().code(), Code::kUnavailable);
  EXPECT_TRUE(verifier.keys()->keys().empty());

  signer.Set(terms_, key_);
  EXPECT_EQ(signer.kid(), key_.kid());
  EXPECT_TRUE(signer.Issue(account_, session_, clock_));
  verifier.Set(terms_, KeysOf({key_}));
  EXPECT_TRUE(verifier.Verify(token));
}

TEST_F(JwtTest, IssuesWhatTheTermsSay) {
  const JwtTerms terms{.issuer = "me", .audience = {"a", "b"}, .expiry = 5min};
  const JwtVerifier verifier(terms, KeysOf({key_}), clock_);
  const auto issued = JwtSigner(terms, key_).Issue(account_, session_, clock_);
  ASSERT_TRUE(issued);
  const auto claims = verifier.Verify(issued->token);
  ASSERT_TRUE(claims) << claims.error().ToString();
  EXPECT_EQ(claims->issuer, "me");
  EXPECT_EQ(claims->audience, terms.audience);
  EXPECT_EQ(claims->subject, account_);
  EXPECT_EQ(claims->session_id, session_);
  EXPECT_EQ(claims->expires_at, issued->claims.expires_at);
  EXPECT_EQ(claims->expires_at - claims->issued_at, 5min);
}

TEST_F(JwtTest, NoTokenOutlivesItsSession) {
  const JwtSigner signer(terms_, key_);
  const WallTime now = clock_.WallNow();
  EXPECT_EQ(signer.Issue(account_, session_, clock_, now + 90s + 500ms)->claims.expires_at, now + 90s);
  EXPECT_EQ(signer.Issue(account_, session_, clock_, now + 24h)->claims.expires_at, now + 15min);
}

// Terms and key of two sets never meet in one token.
TEST_F(JwtTest, TheSignerIsReplacedWhileOthersSign) {
  const SigningKey next = *SigningKey::Generate(Algorithm::kEdDsa);
  const JwtTerms next_terms{.issuer = "next", .audience = {"next"}, .expiry = 5min};
  JwtSigner signer(terms_, key_);
  const JwtVerifier old_verifier(terms_, KeysOf({key_}), clock_);
  const JwtVerifier next_verifier(next_terms, KeysOf({next}), clock_);
  std::atomic<bool> stop = false;
  std::atomic<int> issued = 0;
  std::atomic<int> mixed = 0;
  std::thread user([&] {
    while (!stop) {
      const auto token = signer.Issue(account_, session_, clock_);
      if (!token || old_verifier.Verify(token->token).ok() == next_verifier.Verify(token->token).ok()) ++mixed;
      ++issued;
    }
  });
  for (int i = 0; i < 1000 || issued < 100; ++i) {
    if (i % 2 == 0) {
      signer.Set(next_terms, next);
    } else {
      signer.Set(terms_, key_);
    }
  }
  stop = true;
  user.join();
  EXPECT_EQ(mixed, 0);
}

config::Sources Environment(std::map<std::string, std::string> environment) {
  return {.args = {}, .environment = std::move(environment)};
}

TEST(JwtConfig, IsReadFromTheEnvironment) {
  const SigningKey key = *SigningKey::Generate(Algorithm::kEs256);
  config::Config config(Environment({{"NOVA_AUTH_JWT_SIGNING_KEY", key.ToPem()->Expose()},
                                     {"NOVA_AUTH_JWT_ALGORITHM", "ES256"},
                                     {"NOVA_AUTH_JWT_ISSUER", "me"},
                                     {"NOVA_AUTH_JWT_AUDIENCE", "a,b"},
                                     {"NOVA_AUTH_JWT_EXPIRY", "5m"}}));
  JwtConfig jwt;
  Bind(config, jwt);
  const auto finished = config.Finish();
  ASSERT_TRUE(finished) << finished.error().ToString();
  EXPECT_EQ(jwt.algorithm, Algorithm::kEs256);
  EXPECT_EQ(jwt.issuer, "me");
  EXPECT_EQ(jwt.audience, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(jwt.expiry, 5min);
  const auto keys = LoadJwtKeys(jwt);
  ASSERT_TRUE(keys) << keys.error().ToString();
  ASSERT_TRUE(keys->signing);
  EXPECT_EQ(keys->signing->kid(), key.kid());
  EXPECT_NE(keys->verification->Find(key.kid()), nullptr);
}

TEST(JwtConfig, UnsafeAlgorithmsAreRefused) {
  for (const std::string name : {"none", "HS512", "hs256", ""}) {
    config::Config config(Environment({{"NOVA_AUTH_JWT_ALGORITHM", name}}));
    JwtConfig jwt;
    Bind(config, jwt);
    EXPECT_FALSE(config.Finish()) << name;
  }
}

TEST(JwtConfig, ASharedSecretIsForOneProcessAlone) {
  const SigningKey key = *SigningKey::Generate(Algorithm::kHs256);
  config::Config config(
      Environment({{"NOVA_AUTH_JWT_SIGNING_KEY", key.ToText()->Expose()}, {"NOVA_AUTH_JWT_ALGORITHM", "HS256"}}));
  JwtConfig jwt;
  Bind(config, jwt);
  ASSERT_TRUE(config.Finish());
  const auto refused = LoadJwtKeys(jwt);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Code::kInvalidArgument);
  EXPECT_EQ(refused.error().message(),
            "NOVA_AUTH_JWT_ALGORITHM: with HS256 whoever verifies a token can make one, and other processes verify "
            "these; use EdDSA, ES256 or RS256");

  const auto keys = LoadJwtKeys(jwt, /*others_verify=*/false);
  ASSERT_TRUE(keys) << keys.error().ToString();
  EXPECT_EQ(keys->signing->kid(), key.kid());
  const JwtVerifier verifier(TermsOf(jwt), keys->verification);
  EXPECT_TRUE(verifier.Verify(JwtSigner(TermsOf(jwt), key).Issue(Uuid::New(), Uuid::New(), Clock::System())->token));

  jwt.validation_key = *SigningKey::Generate(Algorithm::kEdDsa)->ToPem();
  const auto two = LoadJwtKeys(jwt, /*others_verify=*/false);
  ASSERT_FALSE(two);
  EXPECT_TRUE(two.error().message().starts_with("NOVA_AUTH_JWT_VALIDATION_KEY: HS256 has no public key"));
}

TEST(JwtConfig, BadKeysNameTheSettingAndTheRemedy) {
  const auto expect = [](const JwtConfig& jwt, std::string_view setting) {
    const auto keys = LoadJwtKeys(jwt);
    ASSERT_FALSE(keys);
    EXPECT_EQ(keys.error().code(), Code::kInvalidArgument);
    EXPECT_TRUE(keys.error().message().starts_with(std::string(setting) + ": ")) << keys.error().message();
    EXPECT_NE(keys.error().message().find("; "), std::string::npos) << keys.error().message();
    EXPECT_EQ(keys.error().message().find('\n'), std::string::npos);
  };
  JwtConfig jwt;
  expect(jwt, "NOVA_AUTH_JWT_SIGNING_KEY");
  jwt.signing_key = Secret<>("nonsense");
  expect(jwt, "NOVA_AUTH_JWT_SIGNING_KEY");
  jwt.signing_key = *SigningKey::Generate(Algorithm::kRs256)->ToPem();
  expect(jwt, "NOVA_AUTH_JWT_SIGNING_KEY");
  jwt.algorithm = Algorithm::kRs256;
  EXPECT_TRUE(LoadJwtKeys(jwt));
  jwt.validation_key = Secret<>("nonsense");
  expect(jwt, "NOVA_AUTH_JWT_VALIDATION_KEY");
}

TEST(JwtConfig, AValidationKeyAloneVerifies) {
  // RFC 8410 section 10.1.
  JwtConfig jwt;
  jwt.validation_key = Secret<>(
      "-----BEGIN PUBLIC KEY-----\n"
      "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n"
      "-----END PUBLIC KEY-----\n");
  const auto keys = LoadJwtKeys(jwt);
  ASSERT_TRUE(keys) << keys.error().ToString();
  EXPECT_FALSE(keys->signing);
  EXPECT_EQ(keys->verification->keys().size(), 1U);
  // The private half of another key does not belong to it.
  jwt.signing_key = *SigningKey::Generate(Algorithm::kEdDsa)->ToPem();
  const auto mismatched = LoadJwtKeys(jwt);
  ASSERT_FALSE(mismatched);
  EXPECT_TRUE(mismatched.error().message().starts_with("NOVA_AUTH_JWT_VALIDATION_KEY: is not the public half"));
}

}  // namespace
}  // namespace nova::auth
