#include "nova/secrets/jwt_secret.h"

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <gtest/gtest.h>
#include <string>
#include <utility>
#include <vector>

#include "nova/secrets/failure.h"

namespace nova::secrets {
namespace {

using auth::Algorithm;
using namespace std::chrono_literals;

constexpr Algorithm kAsymmetric[] = {Algorithm::kEdDsa, Algorithm::kEs256, Algorithm::kRs256};

auth::JwtConfig NewSecret(Algorithm algorithm) {
  const auth::SigningKey key = *auth::SigningKey::Generate(algorithm);
  auth::JwtConfig jwt;
  jwt.signing_key = *key.ToText();
  if (algorithm != Algorithm::kHs256) jwt.validation_key = Secret<>(*key.verification_key().ToPem());
  jwt.algorithm = algorithm;
  jwt.issuer = "issuer \"of\" \\ tokens\n\u00fc";
  jwt.audience = {"web", "mobile \u2713"};
  jwt.expiry = 10min;
  return jwt;
}

void ExpectSame(const auth::JwtConfig& read, const auth::JwtConfig& written) {
  EXPECT_EQ(read.signing_key.Expose(), written.signing_key.Expose());
  EXPECT_EQ(read.validation_key.Expose(), written.validation_key.Expose());
  EXPECT_EQ(read.algorithm, written.algorithm);
  EXPECT_EQ(auth::TermsOf(read), auth::TermsOf(written));
}

// An object with good members, of which single ones are replaced; an empty value leaves one out.
class Draft {
 public:
  explicit Draft(Algorithm algorithm = Algorithm::kEdDsa) {
    const std::string text = FormatJwtSecret(NewSecret(algorithm)).Expose();
    for (const auto& [name, value] : boost::json::parse(text).as_object())
      members_.emplace_back(name, boost::json::serialize(value));
  }
  Draft& Set(const std::string& name, const std::string& json) {
    for (auto& [known, value] : members_) {
      if (known != name) continue;
      value = json;
      return *this;
    }
    members_.emplace_back(name, json);
    return *this;
  }
  std::string Get(const std::string& name) const {
    for (const auto& [known, value] : members_)
      if (known == name) return value;
    return {};
  }
  std::string text() const {
    std::string text = "{";
    for (const auto& [name, value] : members_)
      if (!value.empty()) text.append(text == "{" ? "" : ",").append("\"" + name + "\":" + value);
    return text + "}";
  }
  Result<auth::JwtConfig> Parse() const { return ParseJwtSecret(Secret<>(text())); }

 private:
  std::vector<std::pair<std::string, std::string>> members_;
};

void ExpectRefused(const Result<auth::JwtConfig>& parsed, std::string_view begin) {
  ASSERT_FALSE(parsed) << begin;
  EXPECT_EQ(FailureOf(parsed.error()), Failure::kInvalidFormat);
  EXPECT_TRUE(parsed.error().message().starts_with(begin)) << parsed.error().message() << "\n  expected: " << begin;
  EXPECT_EQ(parsed.error().message().find('\n'), std::string::npos) << parsed.error().message();
}

TEST(JwtSecret, EveryAlgorithmSurvivesItsJson) {
  for (const Algorithm algorithm : {Algorithm::kEdDsa, Algorithm::kEs256, Algorithm::kRs256, Algorithm::kHs256}) {
    SCOPED_TRACE(auth::AlgorithmName(algorithm));
    const auth::JwtConfig written = NewSecret(algorithm);
    const Secret<> text = FormatJwtSecret(written);
    const auto read = ParseJwtSecret(text);
    ASSERT_TRUE(read) << read.error().ToString();
    ExpectSame(*read, written);
    EXPECT_EQ(FormatJwtSecret(*read).Expose(), text.Expose());
  }
}

TEST(JwtSecret, ThePublicSecretHoldsNothingThatSigns) {
  for (const Algorithm algorithm : kAsymmetric) {
    auth::JwtConfig written = NewSecret(algorithm);
    const Secret<> text = FormatJwtPublicSecret(written);
    EXPECT_EQ(text.Expose().find("PRIVATE"), std::string::npos);
    EXPECT_EQ(text.Expose().find("signing_key"), std::string::npos);
    const auto read = ParseJwtSecret(text);
    ASSERT_TRUE(read) << read.error().ToString();
    written.signing_key = Secret<>();
    ExpectSame(*read, written);
    const auto keys = KeysOf(*read);
    ASSERT_TRUE(keys);
    EXPECT_FALSE(keys->signing);
    EXPECT_EQ(keys->verification->keys().size(), 1U);
  }
}

TEST(JwtSecret, TheSigningKeyAloneIsEnough) {
  const auto read = Draft().Set("validation_key", "").Parse();
  ASSERT_TRUE(read) << read.error().ToString();
  EXPECT_TRUE(read->validation_key.empty());
  EXPECT_TRUE(KeysOf(*read)->signing);
}

TEST(JwtSecret, LineEndsMaySurviveAConsole) {
  for (const std::string& end : std::vector<std::string>{R"(\\n)", R"(\r\n)"}) {
    Draft draft;
    for (const std::string name : {"signing_key", "validation_key"}) {
      std::string pem = draft.Get(name);
      for (std::size_t i = 0; (i = pem.find("\\n", i)) != std::string::npos; i += end.size()) pem.replace(i, 2, end);
      draft.Set(name, pem);
    }
    const auto read = draft.Parse();
    EXPECT_TRUE(read) << end << ": " << read.error().ToString();
  }
  // Without its last line end.
  Draft draft;
  std::string pem = draft.Get("signing_key");
  pem.replace(pem.rfind("\\n"), 2, "");
  EXPECT_TRUE(draft.Set("signing_key", pem).Parse());
}

TEST(JwtSecret, MembersOfTheirOwnersArePassedOver) {
  EXPECT_TRUE(Draft().Set("owner", R"({"team":"platform"})").Set("SIGNING_KEY", "7").Parse());
}

TEST(JwtSecret, EveryMemberIsNeeded) {
  for (const std::string name : {"algorithm", "issuer", "audience", "expiry_seconds"})
    ExpectRefused(Draft().Set(name, "").Parse(), name + ": is missing");
  ExpectRefused(Draft().Set("signing_key", "").Set("validation_key", "").Parse(), "signing_key: is missing");
}

TEST(JwtSecret, EveryMemberHasItsType) {
  for (const std::string name : {"signing_key", "validation_key", "algorithm", "issuer"})
    for (const std::string value : {"7", "null", "\"\"", "[]", "{}"})
      ExpectRefused(Draft().Set(name, value).Parse(), name + ": a text is needed");
  for (const std::string value : {"7", "\"nova\"", "[]", "[7]", "[\"\"]", "[\"nova\",null]", "{}"})
    ExpectRefused(Draft().Set("audience", value).Parse(), "audience: a list of 1 to 16 names is needed");
  for (const std::string value : {"0", "-1", "86401", "900.5", "\"900\"", "null", "1e3", "99999999999999999999"})
    ExpectRefused(Draft().Set("expiry_seconds", value).Parse(),
                  "expiry_seconds: a whole number of 1 to 86400 is needed");
  for (const std::string value : {"1", "86400"}) EXPECT_TRUE(Draft().Set("expiry_seconds", value).Parse());
  for (const std::string value : {"\"none\"", "\"HS512\"", "\"eddsa\""})
    ExpectRefused(Draft().Set("algorithm", value).Parse(), "algorithm: EdDSA, ES256, RS256 or HS256 is needed");
}

TEST(JwtSecret, TheAudienceIsBounded) {
  std::string names = "\"a\"";
  for (std::size_t i = 1; i < auth::kAudienceMax; ++i) names += ",\"a\"";
  EXPECT_TRUE(Draft().Set("audience", "[" + names + "]").Parse());
  ExpectRefused(Draft().Set("audience", "[" + names + ",\"a\"]").Parse(), "audience: a list of 1 to 16 names");
}

TEST(JwtSecret, KeysMustFit) {
  ExpectRefused(Draft().Set("algorithm", "\"ES256\"").Parse(), "signing_key: the key does not fit its algorithm");
  ExpectRefused(Draft().Set("validation_key", Draft().Get("validation_key")).Parse(),
                "validation_key: is not the public half of signing_key");
  ExpectRefused(Draft().Set("validation_key", Draft(Algorithm::kRs256).Get("validation_key")).Parse(),
                "validation_key: the key does not fit its algorithm");
  ExpectRefused(Draft().Set("signing_key", Draft().Get("validation_key")).Parse(),
                "signing_key: not an unencrypted PEM");
  // What everybody may know is no shared secret.
  ExpectRefused(Draft().Set("algorithm", "\"HS256\"").Set("signing_key", Draft().Get("validation_key")).Parse(),
                "signing_key: not base64");
  ExpectRefused(Draft(Algorithm::kHs256).Set("validation_key", Draft().Get("validation_key")).Parse(),
                "validation_key: HS256 has no public key");
  ExpectRefused(Draft(Algorithm::kHs256).Set("signing_key", "\"c2hvcnQ=\"").Parse(),
                "signing_key: the shared secret is too short");
}

TEST(JwtSecret, WhatIsNoStrictObjectIsRefused) {
  for (const std::string text : {"", "{", "[]", "7", "{} {}", "nonsense"})
    ExpectRefused(ParseJwtSecret(Secret<>(text)), "the value is not ");
  std::string twice = Draft().text();
  twice.insert(1, R"("\u0069ssuer":"other",)");
  ExpectRefused(ParseJwtSecret(Secret<>(twice)), "the value is not strict JSON: a member stands twice");
}

// However a value is spoilt, no error shows any of it.
TEST(JwtSecret, NoErrorHoldsAnyPartOfTheValue) {
  const std::string mark = "MARKEDVALUE";
  const std::string text = "\"" + mark + "\"";
  std::vector<std::string> spoilt = {mark, "{\"" + mark + "\":", "{\"" + mark + "\":1,\"" + mark + "\":2}",
                                     "[" + text + "]"};
  for (const std::string name :
       {"signing_key", "validation_key", "algorithm", "issuer", "audience", "expiry_seconds", "owner"}) {
    for (const std::string& value : std::vector<std::string>{text, "[" + text + "]", "{" + text + ":7}", mark})
      spoilt.push_back(Draft().Set(name, value).text());
    spoilt.push_back(Draft(Algorithm::kHs256).Set(name, text).text());
  }
  for (const std::string name : {"signing_key", "validation_key"}) {
    for (const std::string kind : {"PRIVATE KEY", "PUBLIC KEY", "RSA PRIVATE KEY", "MARKEDVALUE"})
      spoilt.push_back(
          Draft().Set(name, "\"-----BEGIN " + kind + "-----\\n" + mark + "\\n-----END " + kind + "-----\"").text());
    // A good key with a mark in its middle.
    std::string pem = Draft().Get(name);
    spoilt.push_back(Draft().Set(name, pem.insert(pem.size() / 2, mark)).text());
  }
  int refused = 0;
  for (const std::string& value : spoilt) {
    const auto parsed = ParseJwtSecret(Secret<>(value));
    if (parsed) continue;  // an issuer may be called anything
    ++refused;
    EXPECT_EQ(parsed.error().ToString().find(mark), std::string::npos) << parsed.error().ToString();
  }
  EXPECT_GT(refused, 30);
  // Nor of keys that are whole, and wrong for another reason.
  const auto wrong = Draft().Set("validation_key", Draft().Get("validation_key")).Parse();
  EXPECT_EQ(wrong.error().ToString().find("MCowBQ"), std::string::npos);
}

}  // namespace
}  // namespace nova::secrets
