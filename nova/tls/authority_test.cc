#include "nova/tls/authority.h"

#include <atomic>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <thread>
#include <unistd.h>

#include "nova/tls/certificate.h"
#include "nova/tls/test_pki.h"
#include "nova/tls/text.h"

namespace nova::tls {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using std::chrono::days;

mode_t ModeOf(const fs::path& path) {
  struct stat status{};
  EXPECT_EQ(::stat(path.c_str(), &status), 0) << path;
  return status.st_mode & 07777;
}

std::size_t EntryCount(const fs::path& directory) {
  return static_cast<std::size_t>(std::distance(fs::directory_iterator(directory), fs::directory_iterator()));
}

class AuthorityTest : public testing::Test {
 protected:
  Authority Made() {
    auto authority = Authority::LoadOrCreate(ca_, clock_);
    if (!authority) throw std::runtime_error(authority.error().ToString());
    return *std::move(authority);
  }
  Result<CertificateSet> Load(Usage usage = Usage::kServer) {
    return LoadCertificateSet(TestFiles(leaf_), usage, clock_);
  }

  TestDirectory directory_;
  const fs::path ca_ = directory_ / "ca";
  const fs::path leaf_ = directory_ / "certs/identity";
  const LeafSpec spec_{.principal = "identity", .dns_extra = {}, .ips_extra = {}};
  FakeClock clock_{std::chrono::floor<std::chrono::seconds>(std::chrono::system_clock::now())};
};

TEST_F(AuthorityTest, IssuesLeavesThatOpenSslAccepts) {
  Authority authority = Made();
  LeafSpec spec = spec_;
  spec.dns_extra = {"db.test", "localhost"};
  spec.ips_extra = {"10.0.0.7", "0:0::1"};
  ASSERT_TRUE(authority.Issue(spec, leaf_));
  for (const Usage usage : {Usage::kServer, Usage::kClient}) {
    const auto set = Load(usage);
    ASSERT_TRUE(set) << set.error().ToString();
    EXPECT_EQ(set->info.principal, "identity");
    EXPECT_EQ(set->info.not_before, clock_.WallNow() - 60s);
    EXPECT_EQ(set->info.not_after, clock_.WallNow() + days(90));
    EXPECT_EQ(set->info.serial.size(), 32u);
  }
  for (const char* purpose : {"sslserver", "sslclient"}) {
    const auto verdict = RunCommand(Concat({"openssl verify -x509_strict -purpose ", purpose, " -CAfile ",
                                            (ca_ / "ca.crt").string(), " ", (leaf_ / "tls.crt").string()}));
    EXPECT_EQ(verdict.exit_code, 0) << verdict.output;
  }
  const std::string text = RunCommand("openssl x509 -noout -text -in " + (leaf_ / "tls.crt").string()).output;
  for (const char* expected :
       {"URI:spiffe://nova/identity", "DNS:identity.nova.svc.cluster.local", "DNS:localhost", "DNS:db.test",
        "IP Address:127.0.0.1", "IP Address:0:0:0:0:0:0:0:1", "IP Address:10.0.0.7", "NIST CURVE: P-256",
        "TLS Web Server Authentication, TLS Web Client Authentication", "Digital Signature\n", "CA:FALSE",
        "Authority Key Identifier", "Subject Key Identifier"})
    EXPECT_TRUE(text.contains(expected)) << expected << " is not in\n" << text;
  const std::string ca_text = RunCommand("openssl x509 -noout -text -in " + (ca_ / "ca.crt").string()).output;
  for (const char* expected : {"CA:TRUE, pathlen:0", "Certificate Sign, CRL Sign", "NIST CURVE: P-256"})
    EXPECT_TRUE(ca_text.contains(expected)) << expected << " is not in\n" << ca_text;
  EXPECT_EQ(ReadAll(leaf_ / "ca.crt"), authority.certificate_pem());
  EXPECT_EQ(ModeOf(ca_ / "ca.key"), 0600u);
  EXPECT_EQ(ModeOf(leaf_ / "tls.key"), 0600u);
  EXPECT_EQ(ModeOf(leaf_ / "tls.crt"), 0644u);
}

TEST_F(AuthorityTest, IsLoadedAgainAndSignsForTheSameRoot) {
  const std::string pem = Made().certificate_pem();
  Authority again = Made();
  EXPECT_EQ(again.certificate_pem(), pem);
  ASSERT_TRUE(again.Issue(spec_, leaf_));
  EXPECT_TRUE(Load());
}

TEST_F(AuthorityTest, MissingHalfBrokenAndExpiredAuthoritiesAreToldApart) {
  EXPECT_EQ(Authority::Load(ca_, clock_).error().code(), Code::kNotFound);
  const auto problem = [&] {
    const auto loaded = Authority::LoadOrCreate(ca_, clock_);
    if (loaded) return std::string("loaded");
    EXPECT_EQ(loaded.error().code(), Code::kFailedPrecondition);
    EXPECT_TRUE(loaded.error().message().contains("remove " + ca_.string())) << loaded.error().message();
    return loaded.error().message();
  };
  (void)Made();
  const std::string key = ReadAll(ca_ / "ca.key");
  fs::remove(ca_ / "ca.key");
  EXPECT_TRUE(problem().contains("ca.key is missing")) << problem();
  directory_.Write("ca/ca.key", key.substr(0, key.size() / 2));
  EXPECT_TRUE(problem().contains("ca.key cannot be used")) << problem();
  directory_.Write("ca/ca.key", MakeCertificate(AuthoritySpec()).key_pem);
  EXPECT_TRUE(problem().contains("does not match")) << problem();
  directory_.Write("ca/ca.key", key);
  EXPECT_EQ(problem(), "loaded");
  fs::remove(ca_ / "ca.crt");
  EXPECT_TRUE(problem().contains("ca.crt is missing")) << problem();
  directory_.Write("ca/ca.crt", MakeCertificate(AuthoritySpec()).certificate_pem);
  EXPECT_TRUE(problem().contains("does not match")) << problem();
  fs::remove_all(ca_);
  (void)Made();
  clock_.Advance(days(3651));
  EXPECT_TRUE(problem().contains("it has expired")) << problem();
}

TEST_F(AuthorityTest, InterruptedCreationLeavesNothingBehind) {
  // What a process killed before the rename leaves: a directory beside the real one.
  directory_.Write(".ca.new-abcdef/ca.key", "half");
  // An empty directory may wait for it, as one made by an installer does.
  fs::create_directory(ca_);
  (void)Made();
  EXPECT_EQ(EntryCount(directory_.path()), 1u);
  EXPECT_EQ(EntryCount(ca_), 2u);
}

TEST_F(AuthorityTest, NeverReplacesFilesThatAreThere) {
  (void)Made();
  const std::string key = ReadAll(ca_ / "ca.key");
  EXPECT_EQ(Authority::Create(ca_, clock_).error().code(), Code::kAlreadyExists);
  EXPECT_EQ(Authority::Create(ca_.string() + "/", clock_).error().code(), Code::kAlreadyExists);
  EXPECT_EQ(ReadAll(ca_ / "ca.key"), key);
  EXPECT_EQ(EntryCount(directory_.path()), 1u);
}

TEST_F(AuthorityTest, UnwritableDirectoryIsAnErrorThatNamesIt) {
  directory_.Write("file", "");
  const auto made = Authority::Create(directory_ / "file/ca", clock_);
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().code(), Code::kFailedPrecondition);
  EXPECT_TRUE(made.error().message().contains((directory_ / "file").string())) << made.error().message();
}

TEST_F(AuthorityTest, MalformedSpecsAreRefused) {
  Authority authority = Made();
  const auto code = [&](LeafSpec spec) { return authority.Issue(spec, leaf_).error().code(); };
  EXPECT_EQ(code({.principal = "Identity", .dns_extra = {}, .ips_extra = {}}), Code::kInvalidArgument);
  EXPECT_EQ(code({.principal = "a,DNS:evil", .dns_extra = {}, .ips_extra = {}}), Code::kInvalidArgument);
  EXPECT_EQ(code({.principal = "a", .dns_extra = {"x,URI:spiffe://nova/user"}, .ips_extra = {}}),
            Code::kInvalidArgument);
  EXPECT_EQ(code({.principal = "a", .dns_extra = {}, .ips_extra = {"10.0.0"}}), Code::kInvalidArgument);
  EXPECT_EQ(code({.principal = "a", .dns_extra = {}, .ips_extra = {}, .lifetime = 0s}), Code::kInvalidArgument);
  EXPECT_FALSE(fs::exists(leaf_));
}

TEST_F(AuthorityTest, LeafEndsWithItsAuthority) {
  Authority authority = Made();
  LeafSpec spec = spec_;
  spec.lifetime = days(36500);
  ASSERT_TRUE(authority.Issue(spec, leaf_));
  EXPECT_EQ(Load()->info.not_after, clock_.WallNow() + days(3650));
}

TEST_F(AuthorityTest, ReissueIsAtomicForReaders) {
  Authority authority = Made();
  ASSERT_TRUE(authority.Issue(spec_, leaf_));
  std::atomic<bool> done = false;
  std::atomic<int> reads = 0;
  std::string failure;
  std::thread reader([&] {
    while (!done && failure.empty()) {
      // Kubernetes' way to read a set: resolve the link once.
      const auto set =
          LoadCertificateSet(TestFiles(leaf_ / fs::read_symlink(leaf_ / "..data")), Usage::kServer, clock_);
      if (!set) failure = set.error().ToString();
      // And the constant paths always lead somewhere.
      if (ReadAll(leaf_ / "tls.key").empty()) failure = "the key was gone";
      ++reads;
    }
  });
  // The reader may hold a version for as long as one more issue lasts, so it gets a read in between.
  for (int i = 0; i < 50; ++i) {
    const int seen = reads;
    while (reads < seen + 2 && !done && failure.empty()) std::this_thread::yield();
    EXPECT_TRUE(authority.Issue(spec_, leaf_));
  }
  done = true;
  reader.join();
  EXPECT_EQ(failure, "");
  // The version in use, the one before, `..data` and the three names.
  EXPECT_EQ(EntryCount(leaf_), 6u);
}

TEST_F(AuthorityTest, InterruptedIssueLeavesTheOldSetAndIsCleanedUp) {
  Authority authority = Made();
  ASSERT_TRUE(authority.Issue(spec_, leaf_));
  const std::string serial = Load()->info.serial;
  directory_.Write("certs/identity/..v-dead00/tls.key", "half");
  fs::create_symlink("..v-dead00", leaf_ / "..data.new");
  EXPECT_EQ(Load()->info.serial, serial);
  ASSERT_TRUE(authority.Issue(spec_, leaf_));
  EXPECT_NE(Load()->info.serial, serial);
  EXPECT_FALSE(fs::exists(leaf_ / "..v-dead00"));
  EXPECT_EQ(EntryCount(leaf_), 6u);
}

TEST_F(AuthorityTest, FilesAreGivenToTheOwner) {
  if (::geteuid() != 0) GTEST_SKIP() << "giving files away needs root";
  Authority authority = Made();
  LeafSpec spec = spec_;
  spec.owner = FileOwner{.uid = 65534, .gid = 65534};
  ASSERT_TRUE(authority.Issue(spec, leaf_));
  struct stat status{};
  ASSERT_EQ(::stat((leaf_ / "tls.key").c_str(), &status), 0);
  EXPECT_EQ(status.st_uid, 65534u);
  EXPECT_EQ(status.st_gid, 65534u);
  EXPECT_EQ(status.st_mode & 07777, 0600u);
  EXPECT_FALSE(authority.NeedsRenewal(spec, leaf_));
  spec.owner->uid = 1;
  EXPECT_TRUE(authority.NeedsRenewal(spec, leaf_));
}

TEST_F(AuthorityTest, RenewalIsDueWhenAThirdOfTheLifetimeIsLeft) {
  Authority authority = Made();
  EXPECT_TRUE(authority.NeedsRenewal(spec_, leaf_)) << "nothing is there";
  ASSERT_TRUE(authority.Issue(spec_, leaf_));
  EXPECT_FALSE(authority.NeedsRenewal(spec_, leaf_));
  clock_.Advance(days(60) - 1h);
  EXPECT_FALSE(authority.NeedsRenewal(spec_, leaf_));
  clock_.Advance(2h);
  EXPECT_TRUE(authority.NeedsRenewal(spec_, leaf_));
  EXPECT_FALSE(authority.NeedsRenewal(spec_, leaf_, 0.1));
  ASSERT_TRUE(authority.Issue(spec_, leaf_));
  EXPECT_FALSE(authority.NeedsRenewal(spec_, leaf_));
}

TEST_F(AuthorityTest, RenewalIsDueWhenTheSetIsNotWhatTheSpecSays) {
  Authority authority = Made();
  ASSERT_TRUE(authority.Issue(spec_, leaf_));
  LeafSpec other = spec_;
  other.principal = "user";
  EXPECT_TRUE(authority.NeedsRenewal(other, leaf_));
  other = spec_;
  other.dns_extra = {"db.test"};
  EXPECT_TRUE(authority.NeedsRenewal(other, leaf_));
  other = spec_;
  other.ips_extra = {"10.0.0.7"};
  EXPECT_TRUE(authority.NeedsRenewal(other, leaf_));

  fs::remove(leaf_ / "tls.key");
  EXPECT_TRUE(authority.NeedsRenewal(spec_, leaf_)) << "the key is gone";
  ASSERT_TRUE(authority.Issue(spec_, leaf_));
  EXPECT_FALSE(authority.NeedsRenewal(spec_, leaf_)) << "the link was made again";

  fs::remove_all(ca_);
  Authority successor = Made();
  EXPECT_TRUE(successor.NeedsRenewal(spec_, leaf_)) << "of an authority that is gone";
}

}  // namespace
}  // namespace nova::tls
