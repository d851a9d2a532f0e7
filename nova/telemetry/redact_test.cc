#include "nova/telemetry/redact.h"

#include <chrono>
#include <gtest/gtest.h>
#include <iterator>
#include <random>
#include <string>
#include <string_view>

#include "tests/seed.h"

namespace nova::telemetry {
namespace {

TEST(IsSecretKey, KnowsTheUsualNamesInAnySpelling) {
  for (const char* key : {"password", "db_password", "PGPASSWORD", "refreshToken", "client-secret", "Authorization",
                          "Set-Cookie", "x-api_key", "aws_credentials", "signing_key"})
    EXPECT_TRUE(IsSecretKey(key)) << key;
  for (const char* key : {"", "port", "service", "key", "path", "passed", "took_ms"})
    EXPECT_FALSE(IsSecretKey(key)) << key;
}

TEST(Redact, LeavesOrdinaryTextAlone) {
  for (const char* text : {"", "listening on 127.0.0.1:7401", "https://example.org/a?b=c", "eyJ", "eyJustAWord",
                           "size=5 and more", "a:b@c", "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
                           "invalid token: signature mismatch", "x=", "=", ":", "password=", "forbearer x"})
    EXPECT_EQ(Redact(text), text);
}

struct Case {
  const char* text;
  const char* clean;
};

TEST(Redact, MasksWhatLooksLikeASecret) {
  const Case cases[] = {
      {"got eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiIxIn0.c2ln-_x, refused", "got [redacted], refused"},
      {"eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiIxIn0", "[redacted]"},
      {"Authorization: Bearer abc.def-123", "Authorization: Bearer [redacted]"},
      {"bearer   opaque", "bearer   [redacted]"},
      {"postgres://nova:p4ss:w@rd@db:5432/x", "postgres://nova:[redacted]@db:5432/x"},
      {"postgresql://nova:p@db and redis://:x@cache", "postgresql://nova:[redacted]@db and redis://:[redacted]@cache"},
      {"host=db password=hunter2 dbname=x", "host=db password=[redacted] dbname=x"},
      {"password = 'two \\' words' user=a", "password = '[redacted]' user=a"},
      {"password='never closed", "password='[redacted]"},
      {"/cb?access_token=abc&state=1", "/cb?access_token=[redacted]&state=1"},
      {R"({"user":"a","password": "hun\"ter2","n":1})", R"({"user":"a","password": "[redacted]","n":1})"},
      {"key -----BEGIN PRIVATE KEY-----\nMC4\n-----END PRIVATE KEY----- end", "key [redacted] end"},
      {"-----BEGIN EC PRIVATE KEY-----\nMC4CAQ", "[redacted]"},
  };
  for (const Case& c : cases) EXPECT_EQ(Redact(c.text), c.clean);
}

TEST(Redact, MasksWhatIsSpokenToAws) {
  const Case cases[] = {
      {"as AKIAIOSFODNN7EXAMPLE for", "as [redacted]MPLE for"},
      {"ASIAIOSFODNN7EXAMPLE", "[redacted]MPLE"},
      {"Authorization: AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830, Signature=5d67",
       "Authorization: AWS4-HMAC-SHA256 [redacted]"},
      {"sent AWS4-HMAC-SHA256 Credential=a/b, Signature=c", "sent AWS4-HMAC-SHA256 [redacted]"},
      {"X-Amz-Security-Token: abc==\nHost: x", "X-Amz-Security-Token: [redacted]\nHost: x"},
      {"<SecretAccessKey>a/b+c</SecretAccessKey><Arn>x</Arn>",
       "<SecretAccessKey>[redacted]</SecretAccessKey><Arn>x</Arn>"},
      {"{\"SecretString\":\"{\\\"a\\\":1}\",\"n\":1}", "{\"SecretString\":\"[redacted]\",\"n\":1}"},
      {"{\"SessionToken\": \"FQoG\"}", "{\"SessionToken\": \"[redacted]\"}"},
  };
  for (const Case& c : cases) EXPECT_EQ(Redact(c.text), c.clean);
}

TEST(Redact, MasksHeadersHashesAndOpaqueTokens) {
  const Case cases[] = {
      {"Cookie: a=b; c=d\r\nHost: x", "Cookie: [redacted]\r\nHost: x"},
      {"authorization: Basic dXNlcjpwYXNz", "authorization: Basic [redacted]"},
      {"hash $argon2id$v=19$m=19456,t=2,p=1$c2FsdA$aGFzaA, is", "hash [redacted] is"},
      {"refresh AZkqE0c3fpKqXl-9bZ0c1_aGVsbG8gd29ybGQgaG93IGFyZSB5b3UgdG9kYXk0 refused", "refresh [redacted] refused"},
  };
  for (const Case& c : cases) EXPECT_EQ(Redact(c.text), c.clean);
}

TEST(Redact, MasksPersonalData) {
  const Case cases[] = {
      {"Key (email)=(ann.lee+x@mail.example.org) exists", "Key (email)=([redacted]) exists"},
      {"ann@example.com.", "[redacted]."},
      {"call +44 20 7946 0958 now", "call [redacted] now"},
      {"+1-202-555-0143,", "[redacted],"},
      {"(+4915112345678)", "([redacted])"},
      {"from 203.0.113.7:5432 refused", "from [redacted]:5432 refused"},
      {"peer 10.1.2.3.", "peer [redacted]."},
      {"ipv6:[2001:db8::17]:443", "ipv6:[[redacted]]:443"},
      {"fe80::1 and ::ffff:192.0.2.1", "[redacted] and [redacted]"},
  };
  for (const Case& c : cases) EXPECT_EQ(Redact(c.text), c.clean);
  ShowAddresses(true);
  EXPECT_EQ(Redact("from 203.0.113.7:5432, ann@example.com"), "from 203.0.113.7:5432, [redacted]");
  ShowAddresses(false);
}

TEST(Redact, LeavesWhatOnlyLooksLikeIt) {
  for (const char* text : {"127.0.0.1:7401",
                           "[::1]:80",
                           "0.0.0.0",
                           "::",
                           "12:00:00",
                           "2026-01-31T12:00:00+01:00",
                           "1.18",
                           "3.4.5",
                           "1.2.3.4.5",
                           "a+b=c",
                           "+5 % of 100",
                           "+12345",
                           "std::string",
                           "deadbeef",
                           "aa:bb:cc:dd:ee:ff",
                           "user@host",
                           "a @ b.c",
                           "019a8b3c-7d5e-7f00-8000-0123456789ab",
                           "MXTsmTibpFdpofPDBuD6JSvy6-o79X6KYsjPXfLMPSE",
                           "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
                           "spiffe://nova/identity",
                           "arn:aws:iam::123456789012:role/nova",
                           "nova_dependency_calls_total{dependency=\"http\"}",
                           "AKIA",
                           "cookie jar",
                           "dns:///identity.nova.svc.cluster.local:9080",
                           "<b>",
                           "authorization is needed",
                           "$5",
                           "10.0.0",
                           "at 12:30"})
    EXPECT_EQ(Redact(text), text);
}

// Wherever a secret stands, whatever stands around it.
TEST(Redact, NoSecretSurvivesItsSurroundings) {
  std::mt19937_64 random(tests::TestSeed());
  const std::string_view secrets[] = {"ann.lee@example.org", "+442079460958", "203.0.113.77",
                                      "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
                                      "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2g"};
  const std::string_view around[] = {" ", "(", ")", "\"", "'", ",",     ";",    "\n",
                                     "[", "]", "{", "}",  "=", " the ", " of ", "/ "};
  const auto some = [&] {
    std::string text;
    for (std::size_t i = random() % 8; i > 0; --i) text += around[random() % std::size(around)];
    return text;
  };
  for (int i = 0; i < 20'000; ++i) {
    const std::string_view secret = secrets[random() % std::size(secrets)];
    const std::string text = some() + std::string(secret) + some();
    ASSERT_EQ(Redact(text).find(secret), std::string::npos) << text;
  }
}

TEST(Redact, EndsSoonOnHostileText) {
  // Quadratic matching would take minutes here.
  const auto start = std::chrono::steady_clock::now();
  for (const char* piece :
       {"eyJ",     "://",  "://a:",   "=",       "password=", "\":", "-----BEGIN ", "-----BEGIN PRIVATE KEY-----",
        "bearer ", "'",    "     =",  "a@",      "a.b@c.",    "+1",  "1.2.",        "::",
        "f:",      "AKIA", "$argon2", "<token>", "cookie: ",  "aA1", " aA1",        "AWS4-HMAC-SHA256 ",
        "@"}) {
    std::string text;
    while (text.size() < 1'000'000) text.append(piece);
    EXPECT_FALSE(Redact(text).empty());
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
}

}  // namespace
}  // namespace nova::telemetry
