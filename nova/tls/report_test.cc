#include "nova/tls/report.h"

#include <gtest/gtest.h>

namespace nova::tls {
namespace {

WallTime At(std::int64_t seconds) { return WallTime(std::chrono::seconds(seconds)); }

CertificateInUse Example() {
  return {.side = "server",
          .leaf = {.principal = "identity",
                   .dns_names = {},
                   .ip_addresses = {},
                   .not_before = At(1'800'000'000),
                   .not_after = At(1'900'000'000),
                   .serial = "5FA0",
                   .issuer = "CN=a \"quoted\" name"},
          .authorities = {{.subject = "CN=next", .fingerprint = "AB", .not_after = At(2'000'000'000)},
                          {.subject = "CN=former", .fingerprint = "CD", .not_after = At(2'100'000'000)}}};
}

TEST(Report, WhatIsWrittenIsRead) {
  const std::string text = AddCertificates(R"({"serving":true,"cause":""})", {Example()});
  EXPECT_NE(text.find(R"("serving":true)"), std::string::npos) << text;
  EXPECT_NE(text.find(R"("not_before":"2027-01-15T08:00:00Z")"), std::string::npos) << text;
  const auto read = CertificatesOf(text);
  ASSERT_TRUE(read) << read.error().ToString();
  ASSERT_EQ(read->size(), 1U);
  const CertificateInUse& found = read->front();
  const CertificateInUse wanted = Example();
  EXPECT_EQ(found.side, wanted.side);
  EXPECT_EQ(found.leaf.principal, wanted.leaf.principal);
  EXPECT_EQ(found.leaf.serial, wanted.leaf.serial);
  EXPECT_EQ(found.leaf.issuer, wanted.leaf.issuer);
  EXPECT_EQ(found.leaf.not_before, wanted.leaf.not_before);
  EXPECT_EQ(found.leaf.not_after, wanted.leaf.not_after);
  EXPECT_EQ(found.authorities, wanted.authorities);
}

TEST(Report, AProcessWithoutTlsSaysSo) {
  const auto read = CertificatesOf(AddCertificates("{}", {}));
  ASSERT_TRUE(read);
  EXPECT_TRUE(read->empty());
}

TEST(Report, WhatIsNoObjectStaysAsItIs) { EXPECT_EQ(AddCertificates("[1]", {Example()}), "[1]"); }

TEST(Report, AnythingElseIsRefused) {
  for (const char* text :
       {"", "[]", "{}", R"({"certificates":{}})", R"({"certificates":[1]})", R"({"certificates":[{"side":"server"}]})",
        R"({"certificates":[{"side":"server","principal":"p","serial":"1","not_before":"soon",)"
        R"("not_after":"2027-01-15T08:00:00Z","issuer":"i","authorities":[]}]})"}) {
    const auto read = CertificatesOf(text);
    ASSERT_FALSE(read) << text;
    EXPECT_EQ(read.error().code(), Code::kInvalidArgument);
  }
}

}  // namespace
}  // namespace nova::tls
