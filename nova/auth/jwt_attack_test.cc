// What attackers send. Every case differs from a token that is accepted by the one thing under attack, and is refused
// like all others: same code, same words.
#include <algorithm>
#include <array>
#include <cctype>
#include <gtest/gtest.h>
#include <map>
#include <memory>
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/ecdsa.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/pem.h>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "nova/auth/base64url.h"
#include "nova/auth/jwt.h"

namespace nova::auth {
namespace {

using namespace std::chrono_literals;

const unsigned char* Bytes(std::string_view text) { return reinterpret_cast<const unsigned char*>(text.data()); }

std::string Hmac(std::string_view key, std::string_view message) {
  std::array<unsigned char, EVP_MAX_MD_SIZE> mac{};
  unsigned length = 0;
  HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()), Bytes(message), message.size(), mac.data(), &length);
  return {reinterpret_cast<char*>(mac.data()), length};
}

// The public key in the form that is inside its PEM.
std::string DerOf(const std::string& pem) {
  std::string base64 = pem.substr(pem.find('\n') + 1);
  base64.resize(base64.find("-----END"));
  std::erase(base64, '\n');
  std::string der(base64.size(), '\0');
  const int length =
      EVP_DecodeBlock(reinterpret_cast<unsigned char*>(der.data()), Bytes(base64), static_cast<int>(base64.size()));
  const auto padding = static_cast<std::size_t>(std::ranges::count(base64, '='));
  der.resize(static_cast<std::size_t>(length) - padding);
  return der;
}

std::string PublicPem(const SigningKey& key) { return *key.verification_key().ToPem(); }

// The number `text` plus `n` times `add`, both big-endian, in as many bytes.
std::string Plus(std::string_view text, std::string_view add_hex) {
  BIGNUM* number = BN_bin2bn(Bytes(text), static_cast<int>(text.size()), nullptr);
  BIGNUM* add = nullptr;
  BN_hex2bn(&add, std::string(add_hex).c_str());
  BN_add(number, number, add);
  std::string sum(text.size(), '\0');
  const int fits = BN_bn2binpad(number, reinterpret_cast<unsigned char*>(sum.data()), static_cast<int>(sum.size()));
  BN_free(number);
  BN_free(add);
  return fits < 0 ? std::string() : sum;
}

// The orders of the two groups.
constexpr char kP256Order[] = "FFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551";
constexpr char kEd25519Order[] = "1000000000000000000000000000000014DEF9DEA2F79CD65812631A5CF5D3ED";

// A verifier that knows a key of every kind, HS256 included, as a process alone would.
class JwtAttackTest : public testing::Test {
 protected:
  JwtAttackTest() {
    std::vector<VerificationKey> keys;
    for (const SigningKey* key : all_) keys.push_back(key->verification_key());
    verifier_.Set(terms_, std::make_shared<const Jwks>(std::move(keys)));
  }

  // The same for all tests: an RSA key takes long to make.
  static SigningKey KeyOf(Algorithm algorithm) {
    static std::map<Algorithm, SigningKey> keys;
    const auto known = keys.find(algorithm);
    return known != keys.end() ? known->second
                               : keys.emplace(algorithm, *SigningKey::Generate(algorithm)).first->second;
  }

  static std::string Header(std::string_view algorithm, std::string_view kid, std::string_view more = "") {
    return R"({"alg":")" + std::string(algorithm) + R"(","typ":"at+jwt","kid":")" + std::string(kid) + "\"" +
           std::string(more) + "}";
  }
  static std::string Header(const SigningKey& key, std::string_view more = "") {
    return Header(AlgorithmName(key.algorithm()), key.kid(), more);
  }
  std::string Payload(std::string_view more = "") const {
    const auto now = std::chrono::floor<std::chrono::seconds>(clock_.WallNow().time_since_epoch()).count();
    const std::string id = account_.ToString();
    return R"({"iss":"nova","sub":")" + id + R"(","aud":["nova"],"exp":)" + std::to_string(now + 60) + R"(,"iat":)" +
           std::to_string(now) + R"(,"nbf":)" + std::to_string(now) + R"(,"jti":")" + id + R"(","sid":")" + id + "\"" +
           std::string(more) + "}";
  }
  static std::string Input(std::string_view header, std::string_view payload) {
    return Base64UrlEncode(header) + "." + Base64UrlEncode(payload);
  }
  static std::string WithSignature(const std::string& input, std::string_view signature) {
    return input + "." + Base64UrlEncode(signature);
  }
  static std::string Signed(const SigningKey& key, std::string_view header, std::string_view payload) {
    const std::string input = Input(header, payload);
    return WithSignature(input, *key.Sign(input));
  }

  void ExpectAccepted(const std::string& token) const {
    const auto claims = verifier_.Verify(token);
    EXPECT_TRUE(claims) << claims.error().ToString();
  }
  void ExpectRefused(const std::string& token, std::string_view what = "") const {
    const auto claims = verifier_.Verify(token);
    ASSERT_FALSE(claims) << "accepted: " << what;
    EXPECT_EQ(claims.error().code(), Code::kUnauthenticated) << what;
    EXPECT_EQ(claims.error().message(), "the access token is not valid") << what;
  }

  FakeClock clock_;
  const JwtTerms terms_;
  const Uuid account_ = Uuid::New(clock_);
  const SigningKey ed_ = KeyOf(Algorithm::kEdDsa);
  const SigningKey es_ = KeyOf(Algorithm::kEs256);
  const SigningKey rs_ = KeyOf(Algorithm::kRs256);
  const SigningKey hs_ = KeyOf(Algorithm::kHs256);
  const std::array<const SigningKey*, 4> all_ = {&ed_, &es_, &rs_, &hs_};
  JwtVerifier verifier_{clock_};
};

TEST_F(JwtAttackTest, WhatTheAttacksStartFromIsAccepted) {
  for (const SigningKey* key : all_) ExpectAccepted(Signed(*key, Header(*key), Payload()));
}

TEST_F(JwtAttackTest, NoneInEverySpelling) {
  for (const SigningKey* key : all_) {
    for (const std::string name : {"none", "None", "NONE", "nOnE", "none ", " none", "nonE", "n\\u006fne",
                                   "none\\u0000", "", "null", "unsecured"}) {
      const std::string input = Input(Header(name, key->kid()), Payload());
      ExpectRefused(input + ".", name);
      ExpectRefused(input, name);
      ExpectRefused(WithSignature(input, *key->Sign(input)), name);
      ExpectRefused(WithSignature(input, std::string(64, '\0')), name);
    }
    for (const std::string value : {"null", "false", "0", "[]", "{}", "[\"none\"]"}) {
      const std::string header = R"({"typ":"at+jwt","kid":")" + key->kid() + R"(","alg":)" + value + "}";
      ExpectRefused(Input(header, Payload()) + ".", value);
      ExpectRefused(Signed(*key, header, Payload()), value);
    }
    // An honest header over a signature that is not there.
    ExpectRefused(Input(Header(*key), Payload()) + ".", "no signature");
  }
}

TEST_F(JwtAttackTest, APublicKeyAsSharedSecret) {
  for (const SigningKey* key : {&ed_, &es_, &rs_}) {
    const std::string pem = PublicPem(*key);
    const std::string der = DerOf(pem);
    const std::string& jwk = key->verification_key().jwk();
    const std::string secrets[] = {pem,
                                   pem.substr(0, pem.size() - 1),
                                   pem + "\n",
                                   der,
                                   der.substr(der.size() - 32),
                                   jwk,
                                   Jwks({key->verification_key()}).ToJson(),
                                   key->kid(),
                                   "",
                                   "secret"};
    for (const std::string& secret : secrets) {
      for (const std::string& kid : {key->kid(), hs_.kid()}) {
        const std::string symmetric = Input(Header("HS256", kid), Payload());
        ExpectRefused(WithSignature(symmetric, Hmac(secret, symmetric)), secret);
        const std::string honest = Input(Header(AlgorithmName(key->algorithm()), kid), Payload());
        ExpectRefused(WithSignature(honest, Hmac(secret, honest)), secret);
      }
    }
    // Nor can one be made of it by configuration.
    EXPECT_FALSE(SigningKey::FromText(Secret<>(pem), Algorithm::kHs256));
    EXPECT_FALSE(VerificationKey::FromPem(pem, Algorithm::kHs256));
  }
}

TEST_F(JwtAttackTest, EveryOtherAlgorithmUnderAKnownKid) {
  for (const SigningKey* key : all_) {
    for (const std::string name : {"EdDSA", "ES256", "RS256", "HS256", "HS384", "HS512", "ES384", "ES512", "ES256K",
                                   "RS384", "RS512", "PS256", "ed25519", "Ed25519", "hs256"}) {
      if (name == AlgorithmName(key->algorithm())) continue;
      ExpectRefused(Signed(*key, Header(name, key->kid()), Payload()), name);
      for (const SigningKey* other : all_)
        if (other != key) ExpectRefused(Signed(*other, Header(name, key->kid()), Payload()), name);
    }
  }
}

TEST_F(JwtAttackTest, KidInjection) {
  const std::string kid = ed_.kid();
  std::string other_case = kid;
  for (char& c : other_case) c = static_cast<char>(std::isupper(c) != 0 ? std::tolower(c) : std::toupper(c));
  for (const std::string& value : std::vector<std::string>{"",
                                                           ".",
                                                           "/dev/null",
                                                           "../../../../../dev/null",
                                                           "file:///dev/null",
                                                           "http://169.254.169.254/latest/meta-data",
                                                           "' OR '1'='1",
                                                           "x' UNION SELECT 'secret' --",
                                                           "1; DROP TABLE keys",
                                                           "$(id)",
                                                           "`id`",
                                                           "${jndi:ldap://x}",
                                                           "%00",
                                                           "\\u0000",
                                                           kid + "\\u0000",
                                                           kid + " ",
                                                           " " + kid,
                                                           kid + "/../" + kid,
                                                           kid.substr(1),
                                                           kid.substr(0, kid.size() - 1),
                                                           kid + "A",
                                                           other_case,
                                                           std::string(5000, 'k'),
                                                           kid + kid,
                                                           "*",
                                                           "0",
                                                           "-1"}) {
    const std::string header = Header("EdDSA", value);
    ExpectRefused(Signed(ed_, header, Payload()), value);
    // With a secret that such a path or row would yield.
    const std::string input = Input(Header("HS256", value), Payload());
    for (const std::string secret : {"", "secret"}) ExpectRefused(WithSignature(input, Hmac(secret, input)), value);
  }
  for (const std::string& value :
       std::vector<std::string>{"null", "0", "true", "[]", "{}", "[\"" + kid + "\"]", "{\"kid\":\"" + kid + "\"}"})
    ExpectRefused(Signed(ed_, R"({"alg":"EdDSA","typ":"at+jwt","kid":)" + value + "}", Payload()), value);
}

TEST_F(JwtAttackTest, MembersThatStandTwiceAtAnyEscaping) {
  for (const std::string name :
       {"kid", "\\u006bid", "k\\u0069d", "ki\\u0064", "\\u006b\\u0069\\u0064", "\\u006B\\u0069d"})
    for (const std::string& value : {ed_.kid(), hs_.kid(), std::string("x")})
      ExpectRefused(Signed(ed_, Header(ed_, ",\"" + name + "\":\"" + value + "\""), Payload()), name);
  for (const std::string name : {"alg", "\\u0061lg", "a\\u006Cg", "\\u0061\\u006c\\u0067"})
    for (const std::string value : {"EdDSA", "none", "HS256"})
      ExpectRefused(Signed(ed_, Header(ed_, ",\"" + name + "\":\"" + value + "\""), Payload()), name);
  const std::string id = account_.ToString();
  for (const std::string name : {"sub", "s\\u0075b", "\\u0073\\u0075\\u0062", "sid", "\\u0073id", "iss", "aud",
                                 "\\u0061ud", "exp", "e\\u0078p", "nbf", "iat", "jti"}) {
    for (const std::string& value : {"\"" + id + "\"", std::string("\"nova\""), std::string("9000000000")})
      ExpectRefused(Signed(ed_, Header(ed_), Payload(",\"" + name + "\":" + value)), name);
    // In front, where other parsers look.
    std::string payload = Payload();
    ExpectRefused(Signed(ed_, Header(ed_), payload.insert(1, "\"" + name + "\":1,")), name);
  }
}

TEST_F(JwtAttackTest, HugeAndDeepTokens) {
  const std::string good = Signed(ed_, Header(ed_), Payload());
  ExpectRefused(good + std::string(std::size_t{64} * 1024 * 1024, 'A'), "64 MB more");
  ExpectRefused(std::string(kTokenBytesMax + 1, '.'), "dots");
  ExpectRefused(std::string(kTokenBytesMax, '.'), "dots");
  ExpectRefused(Signed(ed_, Header(ed_, ",\"pad\":\"" + std::string(kTokenBytesMax, 'x') + "\""), Payload()), "header");
  ExpectRefused(Signed(ed_, Header(ed_), Payload(",\"pad\":\"" + std::string(kTokenBytesMax, 'x') + "\"")), "payload");
  for (const std::size_t depth : {std::size_t{9}, std::size_t{100}, std::size_t{2000}}) {
    const std::string lists = ",\"x\":" + std::string(depth, '[') + std::string(depth, ']');
    ExpectRefused(Signed(ed_, Header(ed_, lists), Payload()), "depth " + std::to_string(depth));
    ExpectRefused(Signed(ed_, Header(ed_), Payload(lists)), "depth " + std::to_string(depth));
  }
  ExpectRefused(Signed(ed_, Header(ed_, ",\"x\":" + std::string(2000, '[')), Payload()), "never closed");
}

TEST_F(JwtAttackTest, KeysAndExtensionsBroughtAlong) {
  const SigningKey stranger = *SigningKey::Generate(Algorithm::kRs256);
  const std::string jwk = stranger.verification_key().jwk();
  const std::string der = DerOf(PublicPem(stranger));
  const std::string brought[] = {",\"jwk\":" + jwk,
                                 ",\"jku\":\"https://example.com/keys\"",
                                 ",\"jku\":\"file:///etc/passwd\"",
                                 ",\"x5c\":[\"" + Base64UrlEncode(der) + "\"]",
                                 ",\"x5u\":\"https://example.com/chain\"",
                                 ",\"x5t\":\"" + stranger.kid() + "\"",
                                 ",\"x5t#S256\":\"" + stranger.kid() + "\"",
                                 ",\"jwks\":{\"keys\":[" + jwk + "]}"};
  for (const std::string& header : brought) {
    // They change nothing, in either direction.
    ExpectAccepted(Signed(rs_, Header(rs_, header), Payload()));
    ExpectRefused(Signed(stranger, Header(rs_, header), Payload()), header);
    ExpectRefused(Signed(stranger, Header(stranger, header), Payload()), header);
  }
  for (const std::string header : {R"(,"crit":["exp"])", R"(,"crit":[])", R"(,"crit":null)",
                                   R"(,"crit":["b64"],"b64":false)", R"(,"\u0063rit":["x"],"x":1)"})
    ExpectRefused(Signed(rs_, Header(rs_, header), Payload()), header);
}

TEST_F(JwtAttackTest, SharedSecretsInPublishedKeys) {
  const std::string secret = Base64UrlEncode(std::string(32, 's'));
  // Refused as a whole, or passed over; there is never a key of HS256.
  for (const std::string& jwk :
       std::vector<std::string>{R"({"kty":"oct","k":")" + secret + R"(","alg":"HS256","kid":"x"})",
                                R"({"kty":"oct","alg":"HS256","kid":"x"})", R"({"kty":"oct"})",
                                R"({"kty":"OCT","alg":"HS256","kid":"x"})"}) {
    const auto set = Jwks::Parse("{\"keys\":[" + jwk + "]}");
    EXPECT_TRUE(!set || set->keys().empty()) << jwk;
  }
  EXPECT_EQ(Jwks({hs_.verification_key()}).ToJson(), R"({"keys":[]})");
  const std::string both = Jwks({hs_.verification_key(), ed_.verification_key(), hs_.verification_key()}).ToJson();
  EXPECT_EQ(both, "{\"keys\":[" + ed_.verification_key().jwk() + "]}");
}

TEST_F(JwtAttackTest, Es256SignaturesInOtherForms) {
  const std::string input = Input(Header(es_), Payload());
  const std::string good = *es_.Sign(input);
  ExpectAccepted(WithSignature(input, good));
  const std::string r = good.substr(0, 32);
  const std::string s = good.substr(32);
  const std::string zero(32, '\0');
  const std::string one = zero.substr(1) + '\x01';
  ExpectRefused(WithSignature(input, zero + zero), "r = s = 0");
  ExpectRefused(WithSignature(input, zero + s), "r = 0");
  ExpectRefused(WithSignature(input, r + zero), "s = 0");
  ExpectRefused(WithSignature(input, one + one), "r = s = 1");
  ExpectRefused(WithSignature(input, Plus(zero, kP256Order) + s), "r = n");
  ExpectRefused(WithSignature(input, r + Plus(zero, kP256Order)), "s = n");
  ExpectRefused(WithSignature(input, std::string(64, '\xff')), "above n");
  ExpectRefused(WithSignature(input, s + r), "swapped");
  ExpectRefused(WithSignature(input, zero.substr(0, 1) + good), "65 bytes");
  ExpectRefused(WithSignature(input, good + '\0'), "65 bytes");
  ExpectRefused(WithSignature(input, good.substr(0, 63)), "63 bytes");
  ExpectRefused(WithSignature(input, zero + r + zero + s), "128 bytes");
  // As OpenSSL writes it.
  ECDSA_SIG* signature = ECDSA_SIG_new();
  ECDSA_SIG_set0(signature, BN_bin2bn(Bytes(r), 32, nullptr), BN_bin2bn(Bytes(s), 32, nullptr));
  unsigned char* out = nullptr;
  const int length = i2d_ECDSA_SIG(signature, &out);
  const std::string der(reinterpret_cast<char*>(out), static_cast<std::size_t>(length));
  OPENSSL_free(out);
  ECDSA_SIG_free(signature);
  ExpectRefused(WithSignature(input, der), "DER");
  ExpectRefused(WithSignature(input, der.substr(0, 64)), "the head of DER");
}

TEST_F(JwtAttackTest, KeysOnOtherCurves) {
  for (const char* curve : {"P-384", "P-521", "secp256k1", "brainpoolP256r1"}) {
    EVP_PKEY* key = EVP_PKEY_Q_keygen(nullptr, nullptr, "EC", curve);
    ASSERT_NE(key, nullptr) << curve;
    BIO* bio = BIO_new(BIO_s_mem());
    PEM_write_bio_PKCS8PrivateKey(bio, key, nullptr, nullptr, 0, nullptr, nullptr);
    char* data = nullptr;
    const long length = BIO_get_mem_data(bio, &data);
    const std::string pem(data, static_cast<std::size_t>(length));
    BIO_free(bio);
    EVP_PKEY_free(key);
    EXPECT_FALSE(SigningKey::FromPem(Secret<>(pem), Algorithm::kEs256)) << curve;
  }
  // A point of another curve under the right curve's name, and the right point under another's.
  const std::string jwk = es_.verification_key().jwk();
  for (const std::string curve : {"P-384", "secp256k1", "p-256", "P256", "Ed25519"}) {
    std::string other = jwk;
    other.replace(other.find("P-256"), 5, curve);
    other.replace(other.find(es_.kid()), es_.kid().size(), "x");
    const auto set = Jwks::Parse("{\"keys\":[" + other + "]}");
    EXPECT_TRUE(!set || set->keys().empty()) << curve;
  }
}

TEST_F(JwtAttackTest, EdDsaSignaturesInOtherForms) {
  const std::string input = Input(Header(ed_), Payload());
  const std::string good = *ed_.Sign(input);
  ExpectAccepted(WithSignature(input, good));
  ExpectRefused(WithSignature(input, std::string(64, '\0')), "zero");
  ExpectRefused(WithSignature(input, good.substr(0, 63)), "63 bytes");
  ExpectRefused(WithSignature(input, good + '\0'), "65 bytes");
  ExpectRefused(WithSignature(input, good.substr(32) + good.substr(0, 32)), "swapped");
  // S + L signs the same for those who do not look (RFC 8032 section 5.1.7).
  std::string s = good.substr(32);
  std::ranges::reverse(s);
  s = Plus(s, kEd25519Order);
  ASSERT_FALSE(s.empty());
  std::ranges::reverse(s);
  ExpectRefused(WithSignature(input, good.substr(0, 32) + s), "S + L");
}

TEST_F(JwtAttackTest, Rs256SignaturesInOtherForms) {
  const std::string input = Input(Header(rs_), Payload());
  const std::string good = *rs_.Sign(input);
  ExpectAccepted(WithSignature(input, good));
  const std::string shorter = good.substr(0, good.size() - 1);
  for (const std::string& signature :
       {std::string(), std::string(1, '\0'), std::string(good.size(), '\0'), std::string(good.size(), '\xff'), shorter,
        good.substr(1), std::string(1, '\0') + good, good + '\0', good + good,
        std::string(good.size() - 1, '\0') + '\x01'})
    ExpectRefused(WithSignature(input, signature), std::to_string(signature.size()) + " bytes");
  // Another padding of the same key.
  const std::string pem = rs_.ToPem()->Expose();
  BIO* bio = BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size()));
  EVP_PKEY* key = PEM_read_bio_PrivateKey(bio, nullptr, nullptr, nullptr);
  BIO_free(bio);
  ASSERT_NE(key, nullptr);
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  EVP_PKEY_CTX* options = nullptr;
  ASSERT_EQ(EVP_DigestSignInit(context, &options, EVP_sha256(), nullptr, key), 1);
  ASSERT_GT(EVP_PKEY_CTX_set_rsa_padding(options, RSA_PKCS1_PSS_PADDING), 0);
  std::string pss(good.size(), '\0');
  std::size_t length = pss.size();
  ASSERT_EQ(EVP_DigestSign(context, reinterpret_cast<unsigned char*>(pss.data()), &length, Bytes(input), input.size()),
            1);
  EVP_MD_CTX_free(context);
  EVP_PKEY_free(key);
  ExpectRefused(WithSignature(input, pss), "PSS");
}

TEST_F(JwtAttackTest, Hs256SignaturesInOtherForms) {
  const std::string input = Input(Header(hs_), Payload());
  const std::string good = *hs_.Sign(input);
  ExpectAccepted(WithSignature(input, good));
  for (const std::string& signature : {std::string(), good.substr(0, 1), good.substr(0, 16), good.substr(0, 31),
                                       good + '\0', std::string(32, '\0'), good + good})
    ExpectRefused(WithSignature(input, signature), std::to_string(signature.size()) + " bytes");
  // The name of the key is of the same make as a signature, and is none.
  ExpectRefused(input + "." + hs_.kid(), "the kid");
}

TEST_F(JwtAttackTest, OtherSpellingsOfAGoodToken) {
  for (const SigningKey* key : all_) {
    const std::string token = Signed(*key, Header(*key), Payload());
    ExpectAccepted(token);
    const std::size_t first = token.find('.');
    const std::size_t second = token.find('.', first + 1);
    for (const std::string& part : std::vector<std::string>{".", "..", ".x", ".e30", "." + token.substr(second + 1)})
      ExpectRefused(token + part, "more parts");
    ExpectRefused(token.substr(0, second), "fewer parts");
    ExpectRefused("." + token, "a part in front");
    ExpectRefused(token + "." + token, "twice");
    for (const std::string noise : {" ", "\n", "\r\n", "\t", "=", "==", "%3D", "+", "/", "~", "!", "\"", "\xc3\xa4"}) {
      for (const std::size_t at :
           {std::size_t{0}, std::size_t{5}, first, first + 1, second, second + 1, token.size()}) {
        std::string spoilt = token;
        ExpectRefused(spoilt.insert(at, noise), noise);
      }
    }
    ExpectRefused(std::string(token).insert(first, 1, '\0'), "NUL");
    ExpectRefused("Bearer " + token, "with its scheme");
    // The last character of a part that does not fill its bits: another one says the same to careless decoders.
    const std::string header = Header(*key);
    for (const std::string_view space : {"", " ", "  "}) {
      const std::string part = Base64UrlEncode(header + std::string(space));
      if (part.size() % 4 == 0) continue;
      constexpr std::string_view kAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
      std::string twin = part;
      twin.back() = kAlphabet[kAlphabet.find(twin.back()) ^ 1];
      const std::string input = twin + "." + Base64UrlEncode(Payload());
      ExpectRefused(WithSignature(input, *key->Sign(input)), "spare bits");
    }
    // Base64 in its other alphabet, signed as it stands.
    std::string plain = Base64UrlEncode(Header(*key, ",\"x\":\"\xc3\xbf\xc3\xbf\xc3\xbe? ? ? >>>\""));
    for (char& c : plain) c = c == '-' ? '+' : c == '_' ? '/' : c;
    ASSERT_NE(plain.find_first_of("+/"), std::string::npos);
    const std::string input = plain + "." + Base64UrlEncode(Payload());
    ExpectRefused(WithSignature(input, *key->Sign(input)), "the other alphabet");
  }
}

TEST_F(JwtAttackTest, OtherSpellingsOfJson) {
  const std::string payload = Payload();
  const std::string header = Header(ed_);
  for (const std::string& spoilt : {"\xef\xbb\xbf" + header, header + "x", header + header, header + ",",
                                    "[" + header + "]", header.substr(0, header.size() - 1), "/**/" + header,
                                    header.substr(0, header.size() - 1) + ",}", std::string()})
    ExpectRefused(Signed(ed_, spoilt, payload), spoilt);
  for (const std::string& spoilt : {"\xef\xbb\xbf" + payload, payload + "x", payload + payload, "[" + payload + "]",
                                    "//\n" + payload, payload.substr(0, payload.size() - 1) + ",}", std::string()})
    ExpectRefused(Signed(ed_, header, spoilt), spoilt);
  ExpectRefused(Signed(ed_, header, Payload(",\"x\":\"\xff\xfe\"")), "no UTF-8");
  ExpectRefused(Signed(ed_, header, Payload(",\"x\":NaN")), "no number");
}

TEST_F(JwtAttackTest, OneKeyUnderSeveralIssuers) {
  const auto keys = std::make_shared<const Jwks>(std::vector{ed_.verification_key()});
  const auto terms = [](const std::string& issuer) { return JwtTerms{.issuer = issuer}; };
  const std::vector<std::string> issuers = {"nova", "nova2", "nov", "Nova", "nova/", "https://nova", "nova\n"};
  for (const std::string& issuer : issuers) {
    const auto issued = JwtSigner(terms(issuer), ed_).Issue(account_, account_, clock_);
    ASSERT_TRUE(issued);
    for (const std::string& expected : issuers)
      EXPECT_EQ(JwtVerifier(terms(expected), keys, clock_).Verify(issued->token).ok(), issuer == expected)
          << issuer << " before a verifier of " << expected;
  }
  const std::string rest = Payload().substr(std::string_view(R"({"iss":"nova")").size());
  for (const std::string value : {R"(["nova"])", R"(["evil","nova"])", R"({"nova":1})", "null", "1", "\"\""})
    ExpectRefused(Signed(ed_, Header(ed_), "{\"iss\":" + value + rest), value);
}

TEST_F(JwtAttackTest, TheAudienceListIsEnforced) {
  const auto keys = std::make_shared<const Jwks>(std::vector{ed_.verification_key()});
  const auto token_for = [&](std::vector<std::string> audience) {
    return JwtSigner({.audience = std::move(audience)}, ed_).Issue(account_, account_, clock_)->token;
  };
  const auto accepts = [&](std::vector<std::string> audience, const std::string& token) {
    return JwtVerifier({.audience = std::move(audience)}, keys, clock_).Verify(token).ok();
  };
  EXPECT_TRUE(accepts({"web", "mobile"}, token_for({"mobile", "tv"})));
  EXPECT_FALSE(accepts({"web", "mobile"}, token_for({"tv"})));
  EXPECT_FALSE(accepts({"web"}, token_for({"we", "webb", "Web", " web", ""})));
  EXPECT_FALSE(accepts({"web"}, token_for({})));
  EXPECT_FALSE(accepts({}, token_for({"web"}))) << "no audience is nobody, not everybody";
  EXPECT_TRUE(accepts({"n0"}, token_for({"n15", "n14", "n13", "n12", "n11", "n10", "n9", "n8", "n7", "n6", "n5", "n4",
                                         "n3", "n2", "n1", "n0"})));
  EXPECT_FALSE(accepts({"n0"}, token_for({"n16", "n15", "n14", "n13", "n12", "n11", "n10", "n9", "n8", "n7", "n6", "n5",
                                          "n4", "n3", "n2", "n1", "n0"})))
      << "more names than are allowed";
}

}  // namespace
}  // namespace nova::auth
