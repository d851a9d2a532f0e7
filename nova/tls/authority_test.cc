#include "nova/tls/authority.h"

#include <atomic>
#include <gtest/gtest.h>
#include <optional>
#include <set>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
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
  // An empty directory may wait for it, as one made by an installer does.
  fs::create_directory(ca_);
  // What a process killed before the last step leaves: names that lead nowhere yet.
  directory_.Write("ca/lock", "");
  directory_.Write("ca/..v-dead00/ca.key", "half");
  fs::create_symlink("..data/ca.key", ca_ / "ca.key");
  fs::create_symlink("..data/ca.crt", ca_ / "ca.crt");
  fs::create_symlink("..v-dead00", ca_ / "..data.new");
  EXPECT_EQ(Authority::Load(ca_, clock_).error().code(), Code::kNotFound);
  (void)Made();
  EXPECT_EQ(EntryCount(directory_.path()), 1u);
  // The two names, `..data`, its version and the lock.
  EXPECT_EQ(EntryCount(ca_), 5u);
  EXPECT_EQ(ReadAll(ca_ / "ca.crt"), Made().certificate_pem());
}

TEST_F(AuthorityTest, NeverReplacesFilesThatAreThere) {
  (void)Made();
  const std::string key = ReadAll(ca_ / "ca.key");
  EXPECT_EQ(Authority::Create(ca_, clock_).error().code(), Code::kAlreadyExists);
  EXPECT_EQ(Authority::Create(ca_.string() + "/", clock_).error().code(), Code::kAlreadyExists);
  EXPECT_EQ(ReadAll(ca_ / "ca.key"), key);
  EXPECT_EQ(EntryCount(directory_.path()), 1u);
  directory_.Write("other/notes.txt", "mine");
  EXPECT_EQ(Authority::LoadOrCreate(directory_ / "other", clock_).error().code(), Code::kAlreadyExists);
  EXPECT_EQ(EntryCount(directory_ / "other"), 1u);
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

// Whether the `openssl` program accepts the leaf of `leaf` when it trusts what `ca_file` holds.
bool Verifies(const fs::path& leaf, const fs::path& ca_file) {
  return RunCommand(Concat({"openssl verify -no-CApath -no-CAstore -CAfile ", ca_file.string(), " ",
                            (leaf / "tls.crt").string()}))
             .exit_code == 0;
}

// Every step is done by an Authority of its own, as by a process that ends, or is killed, after each.
TEST_F(AuthorityTest, IsReplacedInThreeStepsThroughWhichEverybodyTrustsWhoeverSigns) {
  const fs::path other = directory_ / "certs/other";  // a process that lags one step behind
  const LeafSpec other_spec{.principal = "other", .dns_extra = {}, .ips_extra = {}};
  ASSERT_TRUE(Made().Issue(spec_, leaf_));
  ASSERT_TRUE(Made().Issue(other_spec, other));
  const std::string former = Made().certificate_pem();
  const std::string former_key = ReadAll(ca_ / "ca.key");
  const auto trust_each_other = [&](const char* step) {
    EXPECT_TRUE(Verifies(leaf_, other / "ca.crt")) << step;
    EXPECT_TRUE(Verifies(other, leaf_ / "ca.crt")) << step;
    EXPECT_TRUE(Load()) << step;
  };
  EXPECT_EQ(Made().rotation(), AuthorityRotation::kNone);
  EXPECT_EQ(Made().trusted_pem(), former);
  EXPECT_FALSE(Made().NeedsTrust(leaf_));

  ASSERT_TRUE(Made().IntroduceNext());
  EXPECT_EQ(Made().rotation(), AuthorityRotation::kNextTrusted);
  EXPECT_EQ(Made().certificate_pem(), former);
  const std::string both = Made().trusted_pem();
  ASSERT_TRUE(both.starts_with(former));
  const std::string next = both.substr(former.size());
  EXPECT_TRUE(next.starts_with("-----BEGIN CERTIFICATE-----"));
  EXPECT_FALSE(Made().NeedsRenewal(spec_, leaf_)) << "the certificate is as good as before";
  EXPECT_TRUE(Made().NeedsTrust(leaf_));
  const std::string leaf_certificate = ReadAll(leaf_ / "tls.crt");
  const std::string leaf_key = ReadAll(leaf_ / "tls.key");
  ASSERT_TRUE(Made().IssueTrust(spec_, leaf_));
  EXPECT_FALSE(Made().NeedsTrust(leaf_));
  EXPECT_EQ(ReadAll(leaf_ / "ca.crt"), both);
  EXPECT_EQ(ReadAll(leaf_ / "tls.crt"), leaf_certificate);
  EXPECT_EQ(ReadAll(leaf_ / "tls.key"), leaf_key);
  EXPECT_EQ(ModeOf(leaf_ / "tls.key"), 0600u);
  trust_each_other("one trusts the next");
  ASSERT_TRUE(Made().Issue(other_spec, other));
  EXPECT_FALSE(Made().NeedsTrust(other));
  EXPECT_TRUE(Verifies(other, ca_ / "ca.crt")) << "the former signs on";

  ASSERT_TRUE(Made().SignWithNext());
  EXPECT_EQ(Made().rotation(), AuthorityRotation::kFormerTrusted);
  EXPECT_EQ(Made().certificate_pem(), next);
  EXPECT_EQ(Made().trusted_pem(), both) << "no set's ca.crt changes with this step";
  EXPECT_EQ(ReadAll(ca_ / "ca.crt"), next);
  EXPECT_NE(ReadAll(ca_ / "ca.key"), former_key);
  EXPECT_TRUE(Made().NeedsRenewal(spec_, leaf_));
  EXPECT_FALSE(Made().NeedsTrust(leaf_));
  ASSERT_TRUE(Made().Issue(spec_, leaf_));
  EXPECT_FALSE(Made().NeedsRenewal(spec_, leaf_));
  trust_each_other("one is of the next");
  ASSERT_TRUE(Made().Issue(other_spec, other));

  ASSERT_TRUE(Made().WithdrawFormer());
  EXPECT_EQ(Made().rotation(), AuthorityRotation::kNone);
  EXPECT_EQ(Made().certificate_pem(), next);
  EXPECT_EQ(Made().trusted_pem(), next);
  EXPECT_FALSE(Made().NeedsRenewal(spec_, leaf_));
  EXPECT_TRUE(Made().NeedsTrust(leaf_));
  ASSERT_TRUE(Made().IssueTrust(spec_, leaf_));
  EXPECT_EQ(ReadAll(leaf_ / "ca.crt"), next);
  trust_each_other("one has forgotten the former");
  EXPECT_EQ(EntryCount(ca_), 5u);
}

TEST_F(AuthorityTest, FormerKeyIsGoneWhenTheNextOneSigns) {
  (void)Made();
  const std::string former_key = ReadAll(ca_ / "ca.key");
  const auto is_somewhere = [&] {
    for (const auto& entry : fs::recursive_directory_iterator(ca_))
      if (entry.is_regular_file() && ReadAll(entry.path()) == former_key) return true;
    return false;
  };
  Authority authority = Made();
  ASSERT_TRUE(authority.IntroduceNext());
  EXPECT_TRUE(is_somewhere());
  ASSERT_TRUE(authority.SignWithNext());
  EXPECT_FALSE(is_somewhere());
  for (const auto& entry : fs::recursive_directory_iterator(ca_))
    if (entry.is_regular_file() && entry.path().extension() == ".key") EXPECT_EQ(ModeOf(entry.path()), 0600u);
}

TEST_F(AuthorityTest, StepsOutOfTurnAreRefusedAndChangeNothing) {
  const auto turn = [&](bool introduce, bool sign, bool withdraw) {
    Authority authority = Made();
    const std::string trusted = authority.trusted_pem();
    const auto check = [&](bool allowed, Result<void> (Authority::*step)()) {
      if (allowed) return;
      const auto refused = (authority.*step)();
      ASSERT_FALSE(refused);
      EXPECT_EQ(refused.error().code(), Code::kFailedPrecondition);
      EXPECT_TRUE(refused.error().message().contains(ca_.string())) << refused.error().message();
      EXPECT_EQ(authority.trusted_pem(), trusted);
    };
    check(introduce, &Authority::IntroduceNext);
    check(sign, &Authority::SignWithNext);
    check(withdraw, &Authority::WithdrawFormer);
  };
  turn(true, false, false);
  ASSERT_TRUE(Made().IntroduceNext());
  turn(false, true, false);
  ASSERT_TRUE(Made().SignWithNext());
  turn(false, false, true);
  ASSERT_TRUE(Made().WithdrawFormer());
  turn(true, false, false);
}

TEST_F(AuthorityTest, TrustIsNotIssuedOverACertificateThatItWouldNotAccept) {
  Authority authority = Made();
  EXPECT_EQ(authority.IssueTrust(spec_, leaf_).error().code(), Code::kFailedPrecondition) << "nothing is there";
  ASSERT_TRUE(authority.Issue(spec_, leaf_));
  ASSERT_TRUE(authority.IntroduceNext());
  ASSERT_TRUE(authority.SignWithNext());
  ASSERT_TRUE(authority.WithdrawFormer());
  const auto refused = authority.IssueTrust(spec_, leaf_);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Code::kFailedPrecondition);
  EXPECT_TRUE(refused.error().message().contains("issue the certificate first")) << refused.error().message();
  EXPECT_TRUE(Load()) << "what was there goes on to be usable";
}

TEST_F(AuthorityTest, SetsThatTrustNobodyNeedTrust) {
  Authority authority = Made();
  EXPECT_TRUE(authority.NeedsTrust(leaf_));
  ASSERT_TRUE(authority.Issue(spec_, leaf_));
  EXPECT_FALSE(authority.NeedsTrust(leaf_));
  directory_.Write("certs/identity/ca.crt", "");
  EXPECT_TRUE(authority.NeedsTrust(leaf_));
  ASSERT_TRUE(authority.IssueTrust(spec_, leaf_));
  EXPECT_TRUE(Load());
}

// A step is in effect when `..data` is swapped: these are what a process killed just before, and just after, leaves.
TEST_F(AuthorityTest, KilledStepsLeaveTheDirectoryAsBeforeOrAfterThem) {
  ASSERT_TRUE(Made().IntroduceNext());
  const std::string both = Made().trusted_pem();
  const std::string before = fs::read_symlink(ca_ / "..data");
  directory_.Write("ca/..v-dead00/ca.key", "half");
  fs::create_symlink("..v-dead00", ca_ / "..data.new");
  EXPECT_EQ(Made().rotation(), AuthorityRotation::kNextTrusted);
  EXPECT_EQ(Made().trusted_pem(), both);
  EXPECT_FALSE(fs::exists(ca_ / "..v-dead00"));

  const fs::path copy = directory_ / "copy";
  fs::copy(ca_ / before, copy);
  ASSERT_TRUE(Made().SignWithNext());
  fs::rename(copy, ca_ / before);  // the version that it did not come to remove
  EXPECT_EQ(Made().rotation(), AuthorityRotation::kFormerTrusted);
  EXPECT_EQ(Made().trusted_pem(), both);
  EXPECT_FALSE(fs::exists(ca_ / before)) << "it holds the former key";
  EXPECT_EQ(EntryCount(ca_), 5u);
}

TEST_F(AuthorityTest, AnyMomentIsAGoodOneToBeKilled) {
  ASSERT_TRUE(Made().Issue(spec_, leaf_));
  std::set<AuthorityRotation> met;
  // Until it was killed between any two steps, and often enough to have been killed within one.
  for (int round = 0; round < 60 || (met.size() < 3 && round < 3000); ++round) {
    int began[2];
    ASSERT_EQ(::pipe(began), 0);
    const pid_t child = ::fork();
    if (child == 0) {
      Authority authority = Made();
      const char byte = 1;
      (void)!::write(began[1], &byte, 1);
      while (true) {
        if (authority.rotation() == AuthorityRotation::kNone) (void)authority.IntroduceNext();
        if (authority.rotation() == AuthorityRotation::kNextTrusted) (void)authority.SignWithNext();
        if (authority.rotation() == AuthorityRotation::kFormerTrusted) (void)authority.WithdrawFormer();
      }
    }
    char byte = 0;
    ASSERT_EQ(::read(began[0], &byte, 1), 1);
    ::close(began[0]);
    ::close(began[1]);
    // A moment that differs from round to round; which one it is does not matter.
    const auto until = std::chrono::steady_clock::now() + round % 60 * 97us;
    while (std::chrono::steady_clock::now() < until) std::this_thread::yield();
    ASSERT_EQ(::kill(child, SIGKILL), 0);
    ASSERT_EQ(::waitpid(child, nullptr, 0), child);

    auto authority = Authority::Load(ca_, clock_);
    ASSERT_TRUE(authority) << authority.error().ToString();
    met.insert(authority->rotation());
    const bool one_is_trusted = authority->trusted_pem() == authority->certificate_pem();
    EXPECT_EQ(one_is_trusted, authority->rotation() == AuthorityRotation::kNone);
    EXPECT_TRUE(authority->trusted_pem().contains(authority->certificate_pem()));
    EXPECT_EQ(ReadAll(ca_ / "ca.crt"), authority->certificate_pem());
    ASSERT_TRUE(authority->Issue(spec_, leaf_));
    EXPECT_TRUE(Load());
  }
  EXPECT_EQ(met.size(), 3u);
}

TEST_F(AuthorityTest, PlainFilesOfAFormerReleaseAreTakenOver) {
  const TestCertificate plain = MakeCertificate({.common_name = "plain",
                                                 .names = "",
                                                 .extended_key_usage = "",
                                                 .key_usage = "critical,keyCertSign,cRLSign",
                                                 .basic_constraints = "critical,CA:TRUE",
                                                 .not_before = clock_.WallNow() - 1h,
                                                 .not_after = clock_.WallNow() + days(3650)});
  const auto write_plain = [&] {
    fs::remove_all(ca_);
    directory_.Write("ca/ca.crt", plain.certificate_pem);
    directory_.Write("ca/ca.key", plain.key_pem);
  };
  write_plain();
  EXPECT_EQ(Made().certificate_pem(), plain.certificate_pem);
  EXPECT_EQ(Made().rotation(), AuthorityRotation::kNone);
  ASSERT_TRUE(Made().Issue(spec_, leaf_));
  EXPECT_TRUE(Verifies(leaf_, ca_ / "ca.crt"));
  ASSERT_TRUE(Made().IntroduceNext());
  EXPECT_TRUE(fs::is_symlink(ca_ / "ca.key"));
  EXPECT_EQ(ReadAll(ca_ / "ca.crt"), plain.certificate_pem);
  EXPECT_TRUE(Made().trusted_pem().starts_with(plain.certificate_pem));
  ASSERT_TRUE(Made().SignWithNext());
  EXPECT_NE(ReadAll(ca_ / "ca.key"), plain.key_pem);
  EXPECT_EQ(EntryCount(ca_), 5u);

  // Killed while they were taken over: the version is in use, the names are plain files still.
  write_plain();
  directory_.Write("ca/..v-abcdef/ca.crt", plain.certificate_pem);
  directory_.Write("ca/..v-abcdef/ca.key", plain.key_pem);
  fs::create_symlink("..v-abcdef", ca_ / "..data");
  fs::remove(ca_ / "ca.key");
  fs::create_symlink("..data/ca.key", ca_ / "ca.key");
  EXPECT_EQ(Made().certificate_pem(), plain.certificate_pem);
  ASSERT_TRUE(Made().IntroduceNext());
  ASSERT_TRUE(Made().SignWithNext());
  EXPECT_NE(ReadAll(ca_ / "ca.crt"), plain.certificate_pem);
  EXPECT_EQ(Made().rotation(), AuthorityRotation::kFormerTrusted);
}

TEST_F(AuthorityTest, CertificateWithoutItsLastNewlineIsTrustedBesideAnother) {
  (void)Made();
  const std::string pem = ReadAll(ca_ / "ca.crt");
  directory_.Write("ca/ca.crt", pem.substr(0, pem.size() - 1));
  ASSERT_TRUE(Made().IntroduceNext());
  ASSERT_TRUE(Made().Issue(spec_, leaf_));
  const auto set = Load();
  ASSERT_TRUE(set) << set.error().ToString();
  EXPECT_EQ(set->authorities.size(), 2u);
}

TEST_F(AuthorityTest, HalfAReplacementIsAnErrorWithARemedy) {
  ASSERT_TRUE(Made().IntroduceNext());
  fs::remove(ca_ / "..data/next.key");
  const auto loaded = Authority::LoadOrCreate(ca_, clock_);
  ASSERT_FALSE(loaded);
  EXPECT_EQ(loaded.error().code(), Code::kFailedPrecondition);
  EXPECT_TRUE(loaded.error().message().contains("next.key")) << loaded.error().message();
  EXPECT_TRUE(loaded.error().message().contains("remove " + ca_.string())) << loaded.error().message();
}

// Holds the authority of a directory until it is killed.
class Holder {
 public:
  Holder(const fs::path& directory, const Clock& clock) {
    int ready[2];
    if (::pipe(ready) != 0) throw std::runtime_error("pipe");
    child_ = ::fork();
    if (child_ == 0) {
      const auto held = Authority::Load(directory, clock);
      const char byte = held ? 1 : 0;
      (void)!::write(ready[1], &byte, 1);
      while (true) ::pause();
    }
    char byte = 0;
    if (::read(ready[0], &byte, 1) != 1 || byte != 1) throw std::runtime_error("the child holds nothing");
    ::close(ready[0]);
    ::close(ready[1]);
  }
  ~Holder() { Kill(); }
  Holder(const Holder&) = delete;
  Holder& operator=(const Holder&) = delete;

  void Kill() {
    if (child_ <= 0) return;
    ::kill(child_, SIGKILL);
    ::waitpid(child_, nullptr, 0);
    child_ = 0;
  }

 private:
  pid_t child_ = 0;
};

TEST_F(AuthorityTest, OneProcessAtATimeWorksOnADirectory) {
  (void)Made();
  Holder holder(ca_, clock_);
  const auto began = std::chrono::steady_clock::now();
  const auto refused = Authority::Load(ca_, clock_);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Code::kAborted);
  EXPECT_TRUE(refused.error().message().contains(ca_.string())) << refused.error().message();
  EXPECT_GE(std::chrono::steady_clock::now() - began, Authority::kLockLimit);

  // Whoever waits gets it as soon as the other is gone, however it ended.
  std::optional<Result<Authority>> waited;
  std::thread waiter([&] { waited.emplace(Authority::Load(ca_, clock_)); });
  holder.Kill();
  waiter.join();
  EXPECT_TRUE(*waited) << waited->error().ToString();
}

TEST_F(AuthorityTest, LockOfADirectoryThatWasRemovedHoldsNobodyUp) {
  (void)Made();
  const Authority old = Made();
  fs::remove_all(ca_);
  EXPECT_EQ(Authority::Load(ca_, clock_).error().code(), Code::kNotFound);
  const Authority fresh = Made();
  EXPECT_NE(fresh.certificate_pem(), old.certificate_pem());
}

TEST_F(AuthorityTest, ManyCreatorsAgreeOnOneAuthority) {
  constexpr int kCreators = 8;
  std::vector<std::string> made(kCreators);
  std::vector<std::thread> threads;
  for (std::string& pem : made) threads.emplace_back([&] { pem = Made().certificate_pem(); });
  for (std::thread& thread : threads) thread.join();
  for (const std::string& pem : made) EXPECT_EQ(pem, made.front());
  EXPECT_EQ(EntryCount(ca_), 5u);
}

}  // namespace
}  // namespace nova::tls
