#include "nova/tls/certificate.h"

#include <gtest/gtest.h>

#include "nova/tls/test_pki.h"
#include "nova/tls/text.h"

namespace nova::tls {
namespace {

using namespace std::chrono_literals;
using std::chrono::days;

class CertificateTest : public testing::Test {
 protected:
  void Install(const TestCertificate& leaf) {
    directory_.Write("tls.crt", leaf.certificate_pem);
    directory_.Write("tls.key", leaf.key_pem);
    directory_.Write("ca.crt", authority_.certificate_pem);
  }

  Result<CertificateSet> Load(Usage usage = Usage::kServer) {
    return LoadCertificateSet(TestFiles(directory_.path()), usage, clock_);
  }

  // The error's line, after checking what every one of them must be: for the operator, on one line, and a usage error.
  std::string Problem(Usage usage = Usage::kServer) {
    const auto set = Load(usage);
    if (set) return "accepted";
    EXPECT_TRUE(set.error().code() == Code::kInvalidArgument || set.error().code() == Code::kFailedPrecondition);
    EXPECT_FALSE(set.error().message().contains('\n'));
    EXPECT_TRUE(set.error().message().contains("; ")) << "no remedy in: " << set.error().message();
    EXPECT_FALSE(set.error().ToString().contains("BEGIN PRIVATE KEY-----\n")) << "the key itself was printed";
    return set.error().message();
  }

  // What `openssl verify` says of the same files at the same time. (-no_check_time is not given: it judges time as
  // well.)
  CommandResult OpenSslVerify(std::string_view purpose = "sslserver") {
    const auto now = std::chrono::system_clock::to_time_t(clock_.WallNow());
    return RunCommand(Concat({"openssl verify -no-CApath -no-CAstore -auth_level 2 -purpose ", purpose, " -attime ",
                              std::to_string(now), " -CAfile ", (directory_ / "ca.crt").string(), " -untrusted ",
                              (directory_ / "tls.crt").string(), " ", (directory_ / "tls.crt").string()}));
  }

  TestDirectory directory_;
  FakeClock clock_;
  TestCertificate authority_ = MakeCertificate(AuthoritySpec());
};

TEST_F(CertificateTest, GoodSetIsAcceptedAndDescribed) {
  const TestCertificate leaf =
      MakeCertificate({.names = "URI:spiffe://nova/identity,DNS:a.test,DNS:b.test,IP:::1"}, &authority_);
  Install(leaf);
  for (const Usage usage : {Usage::kServer, Usage::kClient}) {
    const auto set = Load(usage);
    ASSERT_TRUE(set) << set.error().ToString();
    EXPECT_EQ(set->info.principal, "identity");
    EXPECT_EQ(set->info.dns_names, (std::vector<std::string>{"a.test", "b.test"}));
    EXPECT_EQ(set->info.ip_addresses, (std::vector<std::string>{"::1"}));
    EXPECT_EQ(set->info.not_after, clock_.WallNow() + days(30));
    EXPECT_EQ(set->info.not_before, clock_.WallNow() - 1h);
    EXPECT_EQ(set->info.issuer, "CN=test authority");
    EXPECT_EQ(set->chain_pem, leaf.certificate_pem);
    EXPECT_EQ(set->key_pem.Expose(), leaf.key_pem);
    const std::string serial =
        RunCommand("openssl x509 -noout -serial -in " + (directory_ / "tls.crt").string()).output;
    EXPECT_EQ("serial=" + set->info.serial + "\n", serial);
  }
  EXPECT_EQ(OpenSslVerify("sslserver").exit_code, 0);
  EXPECT_EQ(OpenSslVerify("sslclient").exit_code, 0);
}

TEST_F(CertificateTest, UnreadableFileIsNamedWithItsVariable) {
  Install(MakeCertificate({}, &authority_));
  std::filesystem::remove(directory_ / "tls.key");
  EXPECT_EQ(Problem(),
            "GRPC_SERVER_KEY_PATH=" + (directory_ / "tls.key").string() +
                ": cannot be read (No such file or directory); check that it exists and that this user may read it");
  std::filesystem::create_directory(directory_ / "tls.key");
  EXPECT_TRUE(Problem().contains("not a regular file")) << Problem();
}

TEST_F(CertificateTest, OversizedFileIsRefusedUnread) {
  Install(MakeCertificate({}, &authority_));
  directory_.Write("ca.crt", std::string(kFileBytesMax + 1, 'x'));
  EXPECT_TRUE(Problem().contains("GRPC_CLIENT_CA_CERT_PATH")) << Problem();
  EXPECT_TRUE(Problem().contains("larger than")) << Problem();
}

TEST_F(CertificateTest, TextThatIsNotPemIsRefused) {
  const TestCertificate leaf = MakeCertificate({}, &authority_);
  for (const std::string file : {"tls.crt", "tls.key", "ca.crt"}) {
    for (const std::string& text :
         {std::string(), std::string("nonsense"), leaf.certificate_pem.substr(0, 200), leaf.key_pem.substr(0, 100)}) {
      Install(leaf);
      directory_.Write(file, text);
      EXPECT_TRUE(Problem().contains("not a PEM")) << Problem();
      EXPECT_TRUE(Problem().contains("/" + file + ": ")) << Problem();
    }
  }
}

TEST_F(CertificateTest, TruncatedSecondCertificateIsRefused) {
  const TestCertificate leaf = MakeCertificate({}, &authority_);
  Install(leaf);
  directory_.Write("ca.crt", authority_.certificate_pem + authority_.certificate_pem.substr(0, 300));
  EXPECT_TRUE(Problem().contains("not a PEM")) << Problem();
}

TEST_F(CertificateTest, EncryptedKeyIsRefusedWithoutAskingForAPassword) {
  Install(MakeCertificate({}, &authority_));
  const std::string key = (directory_ / "tls.key").string();
  ASSERT_EQ(RunCommand("openssl pkcs8 -topk8 -passout pass:hunter2 -in " + key + " -out " + key + ".enc").exit_code, 0);
  std::filesystem::rename(key + ".enc", key);
  EXPECT_TRUE(Problem().contains("the key is encrypted")) << Problem();
}

TEST_F(CertificateTest, KeyOfAnotherCertificateIsRefused) {
  Install(MakeCertificate({}, &authority_));
  directory_.Write("tls.key", MakeCertificate({}, &authority_).key_pem);
  EXPECT_TRUE(Problem().starts_with("GRPC_SERVER_KEY_PATH=")) << Problem();
  EXPECT_TRUE(Problem().contains("does not match the certificate GRPC_SERVER_CERT_PATH=")) << Problem();
}

TEST_F(CertificateTest, WeakOrUncommonKeysAreRefused) {
  const std::pair<const char*, const char*> kCases[] = {{"RSA-1024", "an RSA key of 1024 bits is too weak"},
                                                        {"RSA-2048", "accepted"},
                                                        {"P-224", "an elliptic curve key of 224 bits is too weak"},
                                                        {"P-256", "accepted"},
                                                        {"P-384", "accepted"},
                                                        {"ED25519", "not every peer accepts"}};
  for (const auto& [type, expected] : kCases) {
    Install(MakeCertificate({.key = type}, &authority_));
    EXPECT_TRUE(Problem().contains(expected)) << type << ": " << Problem();
  }
}

TEST_F(CertificateTest, ExactlyOneUriNameMustNameAPrincipal) {
  const std::pair<const char*, const char*> kCases[] = {
      {"DNS:identity.nova.svc.cluster.local", "has no URI name"},
      {"", "has no URI name"},
      {"URI:spiffe://other/identity", "names no principal"},
      {"URI:spiffe://nova/", "names no principal"},
      {"URI:spiffe://nova/Identity", "names no principal"},
      {"URI:spiffe://nova/identity/x", "names no principal"},
      {"URI:https://nova/identity", "names no principal"},
      {"URI:spiffe://nova/identity,URI:spiffe://nova/user", "has 2 URI names"}};
  for (const auto& [names, expected] : kCases) {
    Install(MakeCertificate({.names = names}, &authority_));
    EXPECT_TRUE(Problem().contains(expected)) << names << ": " << Problem();
  }
}

TEST_F(CertificateTest, UsageMustBeAllowed) {
  struct Case {
    std::string extended_key_usage;
    std::string key_usage;
    std::string server;
    std::string client;
  };
  const Case kCases[] = {
      {"serverAuth", "digitalSignature", "accepted", "does not allow client authentication"},
      {"clientAuth", "digitalSignature", "does not allow server authentication", "accepted"},
      {"codeSigning", "digitalSignature", "does not allow server authentication",
       "does not allow client authentication"},
      {"", "", "accepted", "accepted"},
      {"serverAuth,clientAuth", "cRLSign", "does not allow a TLS server", "does not allow a TLS client"}};
  for (const Case& one : kCases) {
    Install(MakeCertificate({.extended_key_usage = one.extended_key_usage, .key_usage = one.key_usage}, &authority_));
    EXPECT_TRUE(Problem(Usage::kServer).contains(one.server)) << Problem(Usage::kServer);
    EXPECT_TRUE(Problem(Usage::kClient).contains(one.client)) << Problem(Usage::kClient);
    EXPECT_EQ(OpenSslVerify("sslserver").exit_code == 0, one.server == "accepted");
    EXPECT_EQ(OpenSslVerify("sslclient").exit_code == 0, one.client == "accepted");
  }
}

TEST_F(CertificateTest, ChainMustReachAnAuthority) {
  const TestCertificate intermediate = MakeCertificate(AuthoritySpec("intermediate"), &authority_);
  const TestCertificate leaf = MakeCertificate({}, &intermediate);
  Install(leaf);
  EXPECT_TRUE(Problem().contains("does not verify against GRPC_CLIENT_CA_CERT_PATH=")) << Problem();
  EXPECT_NE(OpenSslVerify().exit_code, 0);
  directory_.Write("tls.crt", leaf.certificate_pem + intermediate.certificate_pem);
  EXPECT_EQ(Problem(), "accepted");
  EXPECT_EQ(OpenSslVerify().exit_code, 0);

  // Same name, other key: what a re-created authority looks like.
  const TestCertificate impostor = MakeCertificate(AuthoritySpec());
  directory_.Write("ca.crt", impostor.certificate_pem);
  EXPECT_TRUE(Problem().contains("does not verify against")) << Problem();
  EXPECT_NE(OpenSslVerify().exit_code, 0);
  // While an authority is replaced, the file holds both.
  directory_.Write("ca.crt", impostor.certificate_pem + authority_.certificate_pem);
  EXPECT_EQ(Problem(), "accepted");
}

TEST_F(CertificateTest, IssuerThatIsNoAuthorityIsRefused) {
  const TestCertificate leaf = MakeCertificate({}, &authority_);
  const TestCertificate signed_by_leaf = MakeCertificate({}, &leaf);
  Install(signed_by_leaf);
  directory_.Write("tls.crt", signed_by_leaf.certificate_pem + leaf.certificate_pem);
  EXPECT_TRUE(Problem().contains("does not verify against")) << Problem();
  EXPECT_NE(OpenSslVerify().exit_code, 0);
}

TEST_F(CertificateTest, ValidityAllowsForClockSkew) {
  const WallTime now = clock_.WallNow();
  struct Case {
    WallTime not_before;
    WallTime not_after;
    std::string expected;
  };
  const Case kCases[] = {{now + 60s, now + 1h, "accepted"},
                         {now + 61s, now + 1h, "the certificate is not valid before 2023-11-14T22:14:21Z"},
                         {now - 1h, now - 60s, "accepted"},
                         {now - 1h, now - 61s, "the certificate expired at 2023-11-14T22:12:19Z"}};
  for (const Case& one : kCases) {
    Install(MakeCertificate({.not_before = one.not_before, .not_after = one.not_after}, &authority_));
    EXPECT_TRUE(Problem().contains(one.expected)) << Problem();
  }
  clock_.Advance(days(31));
  Install(MakeCertificate({}, &authority_));
  EXPECT_TRUE(Problem().contains("expired at")) << Problem();
  EXPECT_NE(OpenSslVerify().exit_code, 0);
}

TEST_F(CertificateTest, ExpiredAuthorityIsNamed) {
  auto spec = AuthoritySpec();
  spec.not_after = clock_.WallNow() - 1h;
  authority_ = MakeCertificate(spec);
  Install(MakeCertificate({}, &authority_));
  EXPECT_TRUE(Problem().starts_with("GRPC_CLIENT_CA_CERT_PATH=")) << Problem();
  EXPECT_TRUE(Problem().contains("the authority expired at")) << Problem();
  EXPECT_NE(OpenSslVerify().exit_code, 0);
}

TEST_F(CertificateTest, DatesBeyondTheClocksRangeAreAccepted) {
  Install(MakeCertificate({}, &authority_));
  // 9999-12-31, which X.509 uses for "never"; WallTime ends in 2262.
  TestCertificate leaf = MakeCertificate({}, &authority_);
  ASSERT_EQ(ASN1_TIME_set_string_X509(X509_getm_notAfter(leaf.certificate.get()), "99991231235959Z"), 1);
  ASSERT_NE(X509_sign(leaf.certificate.get(), authority_.key.get(), EVP_sha256()), 0);
  leaf.certificate_pem = *ToPem(leaf.certificate.get());
  Install(leaf);
  const auto set = Load();
  ASSERT_TRUE(set) << set.error().ToString();
  EXPECT_GT(set->info.not_after, clock_.WallNow() + days(365 * 200));
}

TEST(PrincipalTest, IsADnsLabel) {
  for (const std::string_view good : {"identity", "a", "user-2"}) EXPECT_TRUE(IsPrincipal(good)) << good;
  for (const std::string_view bad : {"", "2user", "-a", "a-", "User", "a.b", "a/b", "a b", "\xc3\xa4"})
    EXPECT_FALSE(IsPrincipal(bad)) << bad;
  EXPECT_TRUE(IsPrincipal(std::string(63, 'a')));
  EXPECT_FALSE(IsPrincipal(std::string(64, 'a')));
  EXPECT_EQ(ServiceDnsName("user"), "user.nova.svc.cluster.local");
}

}  // namespace
}  // namespace nova::tls
