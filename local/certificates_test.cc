#include "local/certificates.h"

#include <algorithm>
#include <fstream>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "local/certificates_in_use.h"

namespace nova::local {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

class CertificatesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "nova-certificates-test-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    layout_ = {fs::path(name)};
    auto authority = tls::Authority::Create(layout_.authority(), Clock::System());
    ASSERT_TRUE(authority) << authority.error().ToString();
    authority_ = *std::move(authority);
  }
  void TearDown() override {
    authority_.reset();
    fs::remove_all(layout_.root);
  }

  Certificates Of(std::chrono::seconds lifetime = std::chrono::days(90)) const {
    return {layout_, {"identity", "operator"}, {}, lifetime};
  }
  std::vector<std::string> Renewed(const Certificates& certificates) {
    Renewal renewal = certificates.RenewDue(*authority_);
    EXPECT_TRUE(renewal.outcome) << renewal.outcome.error().ToString();
    return std::move(renewal.changed);
  }
  std::string SerialOf(std::string_view principal) const {
    const CertificateOnDisk on_disk = ReadFromDisk(layout_.certificate(principal));
    EXPECT_EQ(on_disk.problem, "");
    return on_disk.leaf.serial;
  }

  Layout layout_;
  std::optional<tls::Authority> authority_;
};

TEST_F(CertificatesTest, OneThatCannotBeWrittenKeepsNoOtherFromItsRenewal) {
  fs::create_directories(layout_.certificates());
  std::ofstream(layout_.certificate("identity")) << "in the way";
  const Renewal renewal = Of().RenewDue(*authority_);
  ASSERT_FALSE(renewal.outcome);
  EXPECT_TRUE(renewal.outcome.error().message().contains("identity")) << renewal.outcome.error().ToString();
  EXPECT_EQ(renewal.changed, (std::vector<std::string>{"operator", "postgres", "pgbouncer", "redis"}));
}

TEST_F(CertificatesTest, EveryoneGetsOneAndNobodyGetsTwo) {
  const Certificates certificates = Of();
  EXPECT_EQ(certificates.principals(),
            (std::vector<std::string>{"identity", "operator", "postgres", "pgbouncer", "redis"}));
  EXPECT_TRUE(certificates.Issued().empty());
  EXPECT_EQ(Renewed(certificates), certificates.principals());
  EXPECT_EQ(certificates.Issued(), certificates.principals());
  EXPECT_TRUE(Renewed(certificates).empty());
}

TEST_F(CertificatesTest, OnlyWhatIsDueIsRenewed) {
  const Certificates certificates = Of();
  Renewed(certificates);
  ASSERT_TRUE(authority_->Issue({.principal = "operator", .lifetime = 5s}, layout_.certificate("operator")));
  ASSERT_TRUE(authority_->Issue({.principal = "user"}, layout_.certificate("redis")));  // another's name
  fs::remove(layout_.certificate("identity") / "tls.key");
  EXPECT_EQ(Renewed(certificates), (std::vector<std::string>{"identity", "operator", "redis"}));
  EXPECT_TRUE(Renewed(certificates).empty());
}

TEST_F(CertificatesTest, AShorterLifeCountsAtOnce) {
  Renewed(Of());
  const Certificates shorter = Of(1h);
  EXPECT_EQ(Renewed(shorter), shorter.principals());
  // And a longer one at the next renewal.
  EXPECT_TRUE(Renewed(Of()).empty());
}

TEST_F(CertificatesTest, AReplacedAuthorityReachesEverySet) {
  const Certificates certificates = Of();
  Renewed(certificates);
  const std::string before = SerialOf("identity");
  ASSERT_TRUE(authority_->IntroduceNext());
  EXPECT_EQ(Renewed(certificates), certificates.principals());
  EXPECT_EQ(SerialOf("identity"), before);  // only whom it trusts has changed
  EXPECT_EQ(ReadFromDisk(layout_.certificate("identity")).authorities.size(), 2U);
  ASSERT_TRUE(authority_->SignWithNext());
  EXPECT_EQ(Renewed(certificates), certificates.principals());
  EXPECT_NE(SerialOf("identity"), before);
  ASSERT_TRUE(authority_->WithdrawFormer());
  EXPECT_EQ(Renewed(certificates), certificates.principals());
  EXPECT_EQ(ReadFromDisk(layout_.certificate("identity")).authorities.size(), 1U);
  EXPECT_TRUE(Renewed(certificates).empty());
}

TEST_F(CertificatesTest, FilesOfServersBelongToTheirAccounts) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root gives files away";
  const User postgres{.name = "somebody", .uid = 12345, .gid = 12346, .groups = {}};
  const User redis{.name = "another", .uid = 22345, .gid = 22346, .groups = {}};
  const Certificates certificates(layout_, {"identity"}, {.postgres = postgres, .redis = redis}, 1h);
  Renewed(certificates);
  for (const auto& [principal, uid] :
       {std::pair("identity", 0U), {"postgres", 12345U}, {"pgbouncer", 12345U}, {"redis", 22345U}}) {
    struct stat status{};
    ASSERT_EQ(::stat((layout_.certificate(principal) / "tls.key").c_str(), &status), 0);
    EXPECT_EQ(status.st_uid, uid) << principal;
    EXPECT_EQ(status.st_mode & 0777, 0600U) << principal;
  }
}

TEST_F(CertificatesTest, AWrongNameIsToldTheRightOnes) {
  const auto checked = Of().CheckPrincipal("identiy");
  ASSERT_FALSE(checked);
  EXPECT_EQ(checked.error().code(), Code::kInvalidArgument);
  EXPECT_NE(checked.error().message().find("identity, operator, postgres"), std::string::npos);
  EXPECT_TRUE(Of().CheckPrincipal("redis"));
}

TEST_F(CertificatesTest, AReplacedSetIsSeenOnceHoweverItWasReplaced) {
  const fs::path folder = layout_.certificate("identity");
  ASSERT_TRUE(authority_->Issue({.principal = "identity"}, folder));
  CertificateWatch watch(TlsFiles::In(folder));
  EXPECT_FALSE(watch.Changed());
  ASSERT_TRUE(authority_->Issue({.principal = "identity"}, folder));  // the link is swapped
  EXPECT_TRUE(watch.Changed());
  EXPECT_FALSE(watch.Changed());
  std::ofstream(folder / "ca.crt", std::ios::app) << "\n";  // in place
  EXPECT_TRUE(watch.Changed());
  EXPECT_FALSE(watch.Changed());
  fs::remove(folder / "tls.key");
  EXPECT_TRUE(watch.Changed());
  // The same content under another time is the same.
  fs::last_write_time(folder / "tls.crt", fs::file_time_type::clock::now());
  EXPECT_FALSE(watch.Changed());
}

TEST_F(CertificatesTest, ABadSetOnTheDiskIsToldWithWhatCanBeReadOfIt) {
  const fs::path folder = layout_.certificate("identity");
  EXPECT_NE(ReadFromDisk(folder).problem.find("tls.crt"), std::string::npos);
  ASSERT_TRUE(authority_->Issue({.principal = "identity"}, folder));
  ASSERT_TRUE(authority_->Issue({.principal = "operator"}, layout_.certificate("operator")));
  fs::copy_file(layout_.certificate("operator") / "tls.key", folder / "tls.key", fs::copy_options::overwrite_existing);
  const CertificateOnDisk on_disk = ReadFromDisk(folder);
  EXPECT_NE(on_disk.problem.find((folder / "tls.key").string()), std::string::npos) << on_disk.problem;
  EXPECT_EQ(on_disk.leaf.principal, "identity");
}

TEST(ProcessCertificates, HasWhatIsOnTheDiskOrNot) {
  const tls::AuthorityInfo one{.subject = "CN=one", .fingerprint = "01", .not_after = {}};
  const tls::AuthorityInfo two{.subject = "CN=two", .fingerprint = "02", .not_after = {}};
  CertificateOnDisk on_disk{.folder = {}, .leaf = {}, .authorities = {one, two}, .problem = {}};
  on_disk.leaf.serial = "AB";
  const auto end = [](std::string side, std::string serial, std::vector<tls::AuthorityInfo> authorities) {
    tls::CertificateInUse certificate{.side = std::move(side), .leaf = {}, .authorities = std::move(authorities)};
    certificate.leaf.serial = std::move(serial);
    return certificate;
  };
  ProcessCertificates seen{.component = {}, .certificates = {}, .problem = {}};
  EXPECT_FALSE(seen.Has(on_disk));  // nothing is known
  seen.certificates = {end("server", "AB", {one, two}), end("client", "AB", {two, one})};
  EXPECT_TRUE(seen.Has(on_disk));
  seen.certificates[1].authorities = {two};
  EXPECT_FALSE(seen.Has(on_disk));
  seen.certificates[1] = end("client", "CD", {one, two});
  EXPECT_FALSE(seen.Has(on_disk));
  seen.certificates = {end("port", "AB", {})};
  EXPECT_TRUE(seen.Has(on_disk));
}

}  // namespace
}  // namespace nova::local
