#include "nova/auth/keys.h"

#include <gtest/gtest.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <string>
#include <vector>

#include "nova/auth/base64url.h"

namespace nova::auth {
namespace {

constexpr Algorithm kAll[] = {Algorithm::kEdDsa, Algorithm::kEs256, Algorithm::kRs256};

// RFC 8037 appendix A.
constexpr char kEd25519Jwk[] = R"({"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"})";
constexpr char kEd25519Seed[] = "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A";
constexpr char kEd25519Thumbprint[] = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k";
constexpr char kEd25519Input[] = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
constexpr char kEd25519Signature[] =
    "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";

// RFC 7515 appendix A.2.
constexpr char kRsaJwk[] =
    R"({"kty":"RSA","e":"AQAB","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"})";
constexpr char kRsaInput[] =
    "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVl"
    "fQ";
constexpr char kRsaSignature[] =
    "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_"
    "O8W2Fp5jujGbds9uJdbF9CUAr7t1dn"
    "ZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--"
    "xi12jzDwusC-"
    "eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";

// RFC 7515 appendix A.3.
constexpr char kEcJwk[] =
    R"({"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"})";
constexpr char kEcInput[] =
    "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVl"
    "fQ";
constexpr char kEcSignature[] =
    "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";

// RFC 7515 appendix A.1.
constexpr char kHmacKey[] = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
constexpr char kHmacInput[] =
    "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNv"
    "bS9pc19yb290Ijp0cnVlfQ";
constexpr char kHmacSignature[] = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";

// RFC 7638 section 3.1, without the RFC's `kid`, which is a date.
constexpr char kThumbprintJwk[] =
    R"({"kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw","e":"AQAB","alg":"RS256"})";
constexpr char kThumbprint[] = "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs";

std::string SetOf(std::initializer_list<std::string_view> keys) {
  std::string text = "{\"keys\":[";
  for (const std::string_view key : keys) text.append(text.back() == '[' ? "" : ",").append(key);
  return text + "]}";
}

VerificationKey OnlyKey(std::string_view jwk) {
  const auto set = Jwks::Parse(SetOf({jwk}));
  if (!set || set->keys().size() != 1) throw std::runtime_error("not one key");
  return set->keys().front();
}

// With one member replaced, added or (value empty) removed.
std::string With(std::string jwk, const std::string& name, const std::string& value) {
  const std::string quoted = "\"" + name + "\":";
  if (const auto begin = jwk.find(quoted); begin != std::string::npos) {
    auto end = jwk.find('"', jwk.find('"', begin + quoted.size()) + 1) + 1;
    if (jwk[end] == ',') ++end;
    jwk.erase(begin, end - begin);
    if (jwk[jwk.size() - 2] == ',') jwk.erase(jwk.size() - 2, 1);
  }
  if (!value.empty()) jwk.insert(1, quoted + value + ",");
  return jwk;
}

void ExpectVector(std::string_view jwk, std::string_view input, std::string_view signature_text) {
  const VerificationKey key = OnlyKey(jwk);
  std::string signature = *Base64UrlDecode(signature_text);
  EXPECT_TRUE(key.Verify(input, signature));
  EXPECT_FALSE(key.Verify(std::string(input) + " ", signature));
  EXPECT_FALSE(key.Verify(input, signature + '\0'));
  EXPECT_FALSE(key.Verify(input, signature.substr(1)));
  EXPECT_FALSE(key.Verify(input, ""));
  signature.back() = static_cast<char>(signature.back() ^ 1);
  EXPECT_FALSE(key.Verify(input, signature));
}

TEST(VerificationKey, AgreesWithRfc8037) {
  ExpectVector(kEd25519Jwk, kEd25519Input, kEd25519Signature);
  EXPECT_EQ(OnlyKey(kEd25519Jwk).kid(), kEd25519Thumbprint);
}

TEST(VerificationKey, AgreesWithRfc7515AppendixA2) { ExpectVector(kRsaJwk, kRsaInput, kRsaSignature); }

TEST(VerificationKey, AgreesWithRfc7515AppendixA3) { ExpectVector(kEcJwk, kEcInput, kEcSignature); }

TEST(VerificationKey, ItsKidIsTheThumbprintOfRfc7638) { EXPECT_EQ(OnlyKey(kThumbprintJwk).kid(), kThumbprint); }

TEST(SigningKey, SignsAsRfc8037) {
  // The head of an Ed25519 key in PKCS#8 (RFC 8410); the seed follows.
  const std::string head = *Base64UrlDecode("MC4CAQAwBQYDK2VwBCIEIA");
  std::string base64 = Base64UrlEncode(head + *Base64UrlDecode(kEd25519Seed));
  for (char& c : base64) c = c == '-' ? '+' : c == '_' ? '/' : c;
  const Secret<> pem("-----BEGIN PRIVATE KEY-----\n" + base64 + "\n-----END PRIVATE KEY-----\n");
  const auto key = SigningKey::FromPem(pem, Algorithm::kEdDsa);
  ASSERT_TRUE(key) << key.error().ToString();
  EXPECT_EQ(key->kid(), kEd25519Thumbprint);
  const auto signature = key->Sign(kEd25519Input);
  ASSERT_TRUE(signature);
  EXPECT_EQ(Base64UrlEncode(*signature), kEd25519Signature);
}

TEST(SigningKey, EveryAlgorithmSignsVerifiesAndSurvivesPem) {
  for (const Algorithm algorithm : kAll) {
    SCOPED_TRACE(AlgorithmName(algorithm));
    const auto key = SigningKey::Generate(algorithm);
    ASSERT_TRUE(key) << key.error().ToString();
    const auto other = SigningKey::Generate(algorithm);
    ASSERT_TRUE(other);
    EXPECT_NE(key->kid(), other->kid());
    const auto pem = key->ToPem();
    ASSERT_TRUE(pem);
    const auto read = SigningKey::FromPem(*pem, algorithm);
    ASSERT_TRUE(read) << read.error().ToString();
    EXPECT_EQ(read->kid(), key->kid());
    // ES256 pads r and s, which matters for about one signature in 128.
    for (int i = 0; i < (algorithm == Algorithm::kEs256 ? 500 : 3); ++i) {
      const std::string message = "message " + std::to_string(i);
      const auto signature = read->Sign(message);
      ASSERT_TRUE(signature);
      if (algorithm != Algorithm::kRs256) EXPECT_EQ(signature->size(), 64U);
      EXPECT_TRUE(key->verification_key().Verify(message, *signature));
      EXPECT_FALSE(other->verification_key().Verify(message, *signature));
    }
  }
}

TEST(SigningKey, RefusesAKeyOfAnotherAlgorithm) {
  for (const Algorithm made : kAll) {
    const auto pem = SigningKey::Generate(made)->ToPem();
    for (const Algorithm wanted : kAll) {
      const auto key = SigningKey::FromPem(*pem, wanted);
      EXPECT_EQ(key.ok(), made == wanted);
      if (!key) EXPECT_EQ(key.error().code(), Code::kInvalidArgument);
    }
  }
}

TEST(SigningKey, RefusesWhatIsNoPrivateKey) {
  std::string cut = SigningKey::Generate(Algorithm::kEdDsa)->ToPem()->Expose();
  cut.resize(cut.size() / 2);
  for (const std::string& text : std::vector<std::string>{"", "hello", cut, std::string(kPemBytesMax + 1, 'x')}) {
    const auto key = SigningKey::FromPem(Secret<>(text), Algorithm::kEdDsa);
    ASSERT_FALSE(key);
    EXPECT_EQ(key.error().code(), Code::kInvalidArgument);
  }
  // What is left in OpenSSL's queue would be reported by the next TLS connection of this thread.
  EXPECT_EQ(ERR_peek_error(), 0U);
}

TEST(SigningKey, RefusesAnEncryptedFileWithoutAskingForThePassphrase) {
  const Secret<> pem(
      "-----BEGIN ENCRYPTED PRIVATE KEY-----\n"
      "MIGbMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAgKWU7BA9WxgwICCAAw\n"
      "DAYIKoZIhvcNAgkFADAdBglghkgBZQMEASoEEDreLMmis2jOn1O/lrjqbGwEQPM8\n"
      "1SSj0VXqteM6+6ZVdJVCHxTW8UTZyjerSlcxXz4dRAQ7bsHonZ6C/Lci41zEagzs\n"
      "M7PChSF72C4kibuZSAQ=\n"
      "-----END ENCRYPTED PRIVATE KEY-----\n");
  EXPECT_FALSE(SigningKey::FromPem(pem, Algorithm::kEdDsa));
}

TEST(SharedSecret, AgreesWithRfc7515AppendixA1) {
  const auto key = SigningKey::FromSecret(Secret<>(*Base64UrlDecode(kHmacKey)));
  ASSERT_TRUE(key) << key.error().ToString();
  EXPECT_EQ(key->algorithm(), Algorithm::kHs256);
  const auto signature = key->Sign(kHmacInput);
  ASSERT_TRUE(signature);
  EXPECT_EQ(Base64UrlEncode(*signature), kHmacSignature);
  EXPECT_TRUE(key->verification_key().Verify(kHmacInput, *signature));
  EXPECT_FALSE(key->verification_key().Verify(std::string(kHmacInput) + " ", *signature));
}

TEST(SharedSecret, SurvivesItsText) {
  const auto key = SigningKey::Generate(Algorithm::kHs256);
  ASSERT_TRUE(key) << key.error().ToString();
  const auto text = key->ToText();
  ASSERT_TRUE(text) << text.error().ToString();
  for (const std::string& written : {text->Expose(), text->Expose() + "\n", text->Expose() + "\r\n"}) {
    const auto read = SigningKey::FromText(Secret<>(written), Algorithm::kHs256);
    ASSERT_TRUE(read) << read.error().ToString();
    EXPECT_EQ(read->kid(), key->kid());
    EXPECT_EQ(*read->Sign("message"), *key->Sign("message"));
  }
  const auto other = SigningKey::Generate(Algorithm::kHs256);
  EXPECT_NE(other->kid(), key->kid());
  EXPECT_NE(*other->Sign("message"), *key->Sign("message"));
}

TEST(SharedSecret, ItsLengthIsBounded) {
  for (const std::size_t bytes : {kSecretBytesMin, kSecretBytesMax})
    EXPECT_TRUE(SigningKey::FromSecret(Secret<>(std::string(bytes, 's'))));
  for (const std::size_t bytes : {std::size_t{0}, std::size_t{1}, kSecretBytesMin - 1, kSecretBytesMax + 1}) {
    const auto key = SigningKey::FromSecret(Secret<>(std::string(bytes, 's')));
    ASSERT_FALSE(key);
    EXPECT_EQ(key.error().code(), Code::kInvalidArgument);
  }
  for (const std::string& text : {std::string(), std::string("password"), std::string(44, '!'), std::string(43, 'A'),
                                  std::string(8000, 'A'), std::string(43, 'A') + " "})
    EXPECT_FALSE(SigningKey::FromText(Secret<>(text), Algorithm::kHs256)) << text.size();
}

// Neither the secret nor a hash of it, against which guesses could be tried.
TEST(SharedSecret, NothingOfItIsPublic) {
  const std::string secret(32, 's');
  const auto key = SigningKey::FromSecret(Secret<>(secret));
  ASSERT_TRUE(key);
  EXPECT_EQ(key->verification_key().jwk(), "");
  EXPECT_EQ(Base64UrlDecode(key->kid())->size(), 16U);
  // The thumbprint that RFC 7638 has for a symmetric key.
  const std::string canonical = R"({"k":")" + Base64UrlEncode(secret) + R"(","kty":"oct"})";
  for (const std::string& text : {canonical, secret}) {
    std::string digest(32, '\0');
    unsigned length = 0;
    EVP_Digest(text.data(), text.size(), reinterpret_cast<unsigned char*>(digest.data()), &length, EVP_sha256(),
               nullptr);
    EXPECT_EQ(Base64UrlEncode(digest).find(key->kid().substr(0, 8)), std::string::npos);
  }
  EXPECT_EQ(Jwks({key->verification_key()}).ToJson(), R"({"keys":[]})");
  EXPECT_FALSE(key->ToPem());
  EXPECT_FALSE(key->verification_key().ToPem());
}

TEST(VerificationKey, SurvivesPem) {
  for (const Algorithm algorithm : kAll) {
    const VerificationKey key = SigningKey::Generate(algorithm)->verification_key();
    const auto pem = key.ToPem();
    ASSERT_TRUE(pem);
    EXPECT_TRUE(pem->starts_with("-----BEGIN PUBLIC KEY-----\n"));
    EXPECT_EQ(VerificationKey::FromPem(*pem, algorithm)->kid(), key.kid());
  }
}

TEST(Algorithm, NothingWeakAndNotNone) {
  for (const Algorithm algorithm : kAll) EXPECT_EQ(*ParseAlgorithm(AlgorithmName(algorithm)), algorithm);
  EXPECT_EQ(*ParseAlgorithm("HS256"), Algorithm::kHs256);
  for (const std::string_view name : {"", "none", "None", "HS384", "HS512", "RS512", "PS256", "eddsa"})
    EXPECT_FALSE(ParseAlgorithm(name)) << name;
}

TEST(Jwks, SurvivesItsJson) {
  std::vector<VerificationKey> keys;
  for (const Algorithm algorithm : kAll) keys.push_back(SigningKey::Generate(algorithm)->verification_key());
  keys.push_back(keys.front());
  const Jwks set(keys);
  ASSERT_EQ(set.keys().size(), 3U);
  const auto read = Jwks::Parse(set.ToJson());
  ASSERT_TRUE(read) << read.error().ToString();
  ASSERT_EQ(read->keys().size(), 3U);
  for (const VerificationKey& key : set.keys()) {
    ASSERT_NE(read->Find(key.kid()), nullptr);
    EXPECT_EQ(read->Find(key.kid())->jwk(), key.jwk());
    EXPECT_EQ(read->Find(key.kid())->algorithm(), key.algorithm());
  }
  EXPECT_EQ(read->Find("nobody"), nullptr);
  EXPECT_EQ(Jwks::Parse(Jwks().ToJson())->keys().size(), 0U);
}

TEST(Jwks, PassesOverKeysItDoesNotKnow) {
  const auto set = Jwks::Parse(SetOf({
      R"({"kty":"post-quantum"})",
      R"({"kty":"OKP","crv":"X25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"})",
      R"({"kty":"EC","crv":"P-521","x":"AA","y":"AA"})",
      With(kEd25519Jwk, "use", "\"enc\""),
      With(kRsaJwk, "alg", "\"PS256\""),
      With(kRsaJwk, "alg", "5"),
      With(kEcJwk, "key_ops", "[\"deriveKey\"]"),
      With(kEcJwk, "key_ops", "[\"verify\"]"),
  }));
  ASSERT_TRUE(set) << set.error().ToString();
  ASSERT_EQ(set->keys().size(), 1U);
  EXPECT_EQ(set->keys().front().algorithm(), Algorithm::kEs256);
}

TEST(Jwks, RefusesMalformedKeys) {
  // The point (x, x) is not on the curve.
  const std::string off_curve = With(kEcJwk, "y", "\"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU\"");
  for (const std::string& jwk : std::vector<std::string>{
           "{}", "5", "[]", R"({"kty":7})", With(kEd25519Jwk, "x", ""), With(kEd25519Jwk, "x", "\"AAAA\""),
           With(kEd25519Jwk, "x", "\"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo=\""), With(kEcJwk, "y", ""), off_curve,
           With(kRsaJwk, "n", "\"AQAB\""), With(kRsaJwk, "e", ""), With(kRsaJwk, "e", "\"\""),
           With(kRsaJwk, "e", "\"AQABAQABAQABAQAB\""), With(kEcJwk, "kid", "\"mine\""), With(kEcJwk, "kid", "5")}) {
    const auto set = Jwks::Parse(SetOf({jwk}));
    ASSERT_FALSE(set) << jwk;
    EXPECT_EQ(set.error().code(), Code::kInvalidArgument);
  }
  EXPECT_EQ(ERR_peek_error(), 0U);
}

TEST(Jwks, RefusesPrivateAndSymmetricKeys) {
  EXPECT_FALSE(Jwks::Parse(SetOf({With(kEd25519Jwk, "d", "\"" + std::string(kEd25519Seed) + "\"")})));
  EXPECT_FALSE(Jwks::Parse(SetOf({R"({"kty":"oct","k":"AAECAwQ"})"})));
}

TEST(Jwks, RefusesWhatIsNoSet) {
  for (const std::string_view text : {"", "[]", "{}", R"({"keys":{}})", R"({"keys":[],"keys":[]})"})
    EXPECT_FALSE(Jwks::Parse(text)) << text;
}

TEST(Jwks, SizeAndCountAreBounded) {
  const auto with_keys = [](std::size_t count) {
    std::string text = R"({"keys":[{"kty":"x"})";
    for (std::size_t i = 1; i < count; ++i) text += R"(,{"kty":"x"})";
    return text + "]}";
  };
  EXPECT_TRUE(Jwks::Parse(with_keys(Jwks::kKeysMax)));
  EXPECT_FALSE(Jwks::Parse(with_keys(Jwks::kKeysMax + 1)));
  std::string text = SetOf({});
  text.resize(Jwks::kBytesMax, ' ');
  EXPECT_TRUE(Jwks::Parse(text));
  text.push_back(' ');
  EXPECT_FALSE(Jwks::Parse(text));
}

}  // namespace
}  // namespace nova::auth
