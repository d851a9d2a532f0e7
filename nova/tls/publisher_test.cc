#include "nova/tls/publisher.h"

#include <cstdlib>
#include <gtest/gtest.h>
#include <mutex>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

#include "nova/telemetry/log.h"
#include "nova/tls/test_pki.h"

namespace nova::tls {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using Outcome = IdentityPublisher::Outcome;

class PublisherTest : public testing::Test {
 protected:
  PublisherTest() {
    fs::create_directory(private_);
    telemetry::InitLogging({}, [this](std::string_view line) {
      const std::lock_guard lock(mutex_);
      if (line.contains("refused")) ++refusals_logged_;
      EXPECT_FALSE(line.contains("PRIVATE KEY"));
    });
  }
  ~PublisherTest() override {
    telemetry::InitLogging({}, [](std::string_view) {});
  }

  std::unique_ptr<IdentityPublisher> Make(Usage usage = Usage::kServer) {
    auto publisher = IdentityPublisher::Create(
        {.files = TestFiles(source_.path()), .usage = usage, .directory = private_, .poll_interval = 10ms}, clock_,
        metrics_);
    if (!publisher) throw std::runtime_error(publisher.error().ToString());
    return *std::move(publisher);
  }
  void Install(const TestCertificate& leaf) {
    source_.Write("tls.crt", leaf.certificate_pem);
    source_.Write("tls.key", leaf.key_pem);
    source_.Write("ca.crt", authority_.certificate_pem);
  }
  double Reloads(const std::string& result, const std::string& side = "server") {
    return metrics_
        .Counter("nova_tls_reloads_total", "Certificate sets found in the files, by what became of them",
                 {{"side", side}, {"result", result}})
        .Value();
  }
  int refusals_logged() {
    const std::lock_guard lock(mutex_);
    return refusals_logged_;
  }
  std::size_t PrivateCount() const {
    return static_cast<std::size_t>(std::distance(fs::directory_iterator(private_), fs::directory_iterator()));
  }

  TestDirectory source_;
  TestDirectory base_;
  const fs::path private_ = base_ / "private";
  FakeClock clock_;
  telemetry::Metrics metrics_;
  TestCertificate authority_ = MakeCertificate(AuthoritySpec());
  std::mutex mutex_;
  int refusals_logged_ = 0;  // guarded by mutex_
};

TEST_F(PublisherTest, PublishesPrivatelyAndRemovesAtTheEnd) {
  const TestCertificate leaf = MakeCertificate({}, &authority_);
  Install(leaf);
  auto publisher = Make();
  EXPECT_TRUE(ReadAll(publisher->certificate_path()).starts_with(leaf.certificate_pem));
  EXPECT_EQ(ReadAll(publisher->key_path()), leaf.key_pem);
  EXPECT_EQ(ReadAll(publisher->ca_path()), authority_.certificate_pem);
  EXPECT_EQ(publisher->info().principal, "identity");
  EXPECT_EQ(Reloads("published"), 1);
  EXPECT_EQ(metrics_
                .Gauge("nova_tls_certificate_expiry_timestamp_seconds",
                       "When the certificate in use expires, in seconds since 1970", {{"side", "server"}})
                .Value(),
            static_cast<double>(std::chrono::system_clock::to_time_t(clock_.WallNow() + std::chrono::days(30))));
  for (const auto& entry : fs::recursive_directory_iterator(private_)) {
    struct stat status{};
    ASSERT_EQ(::lstat(entry.path().c_str(), &status), 0);
    if (!S_ISLNK(status.st_mode)) EXPECT_EQ(status.st_mode & 0077, 0u) << entry.path();
  }
  publisher.reset();
  EXPECT_EQ(PrivateCount(), 0u);
}

TEST_F(PublisherTest, BadFilesAtTheStartAreAnError) {
  Install(MakeCertificate({}, &authority_));
  source_.Write("tls.key", MakeCertificate({}, &authority_).key_pem);
  const auto made =
      IdentityPublisher::Create({.files = TestFiles(source_.path()), .directory = private_}, clock_, metrics_);
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().code(), Code::kInvalidArgument);
  EXPECT_EQ(PrivateCount(), 0u);
}

TEST_F(PublisherTest, DirectoryThatCannotBeWrittenIsAnErrorThatNamesTheSetting) {
  Install(MakeCertificate({}, &authority_));
  const auto made =
      IdentityPublisher::Create({.files = TestFiles(source_.path()), .directory = base_ / "absent"}, clock_, metrics_);
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().code(), Code::kFailedPrecondition);
  EXPECT_TRUE(made.error().message().contains("TMPDIR")) << made.error().message();
}

TEST_F(PublisherTest, GoodReplacementIsPublishedOnce) {
  Install(MakeCertificate({}, &authority_));
  auto publisher = Make(Usage::kClient);
  EXPECT_EQ(publisher->Check(), Outcome::kUnchanged);
  std::string serial = publisher->info().serial;
  for (int i = 0; i < 4; ++i) {
    const TestCertificate next = MakeCertificate({}, &authority_);
    Install(next);
    EXPECT_EQ(publisher->Check(), Outcome::kPublished);
    EXPECT_EQ(publisher->Check(), Outcome::kUnchanged);
    EXPECT_TRUE(ReadAll(publisher->certificate_path()).starts_with(next.certificate_pem));
    EXPECT_EQ(ReadAll(publisher->key_path()), next.key_pem);
    EXPECT_NE(publisher->info().serial, serial);
    serial = publisher->info().serial;
  }
  EXPECT_EQ(Reloads("published", "client"), 5);
  EXPECT_EQ(Reloads("refused", "client"), 0);
  // `current`, the lock, the version in use and the one before.
  const fs::path root = publisher->key_path().parent_path().parent_path();
  EXPECT_EQ(std::distance(fs::directory_iterator(root), fs::directory_iterator()), 4);
}

TEST_F(PublisherTest, TwoVersionsNeverShareAModificationTime) {
  // gRPC tells a torn read by whole seconds, and this clock stands still.
  Install(MakeCertificate({}, &authority_));
  auto publisher = Make();
  fs::file_time_type last = fs::last_write_time(publisher->key_path());
  for (int i = 0; i < 3; ++i) {
    Install(MakeCertificate({}, &authority_));
    ASSERT_EQ(publisher->Check(), Outcome::kPublished);
    EXPECT_GE(fs::last_write_time(publisher->key_path()) - last, 1s);
    last = fs::last_write_time(publisher->key_path());
    EXPECT_EQ(fs::last_write_time(publisher->certificate_path()), last);
  }
}

TEST_F(PublisherTest, MismatchedPairIsRefusedAndTheLastGoodOneStays) {
  const TestCertificate good = MakeCertificate({}, &authority_);
  Install(good);
  auto publisher = Make();
  const TestCertificate next = MakeCertificate({}, &authority_);
  source_.Write("tls.crt", next.certificate_pem);
  EXPECT_EQ(publisher->Check(), Outcome::kRefused);
  // Said once, not once a second.
  EXPECT_EQ(publisher->Check(), Outcome::kUnchanged);
  EXPECT_EQ(refusals_logged(), 1);
  EXPECT_EQ(Reloads("refused"), 1);
  EXPECT_TRUE(ReadAll(publisher->certificate_path()).starts_with(good.certificate_pem));
  EXPECT_EQ(ReadAll(publisher->key_path()), good.key_pem);

  // Another problem is said anew.
  fs::remove(source_ / "tls.key");
  EXPECT_EQ(publisher->Check(), Outcome::kRefused);
  EXPECT_EQ(refusals_logged(), 2);
  EXPECT_EQ(ReadAll(publisher->key_path()), good.key_pem);

  source_.Write("tls.key", next.key_pem);
  EXPECT_EQ(publisher->Check(), Outcome::kPublished);
  EXPECT_EQ(ReadAll(publisher->key_path()), next.key_pem);
  // The same problem after a recovery is news.
  source_.Write("tls.crt", good.certificate_pem);
  EXPECT_EQ(publisher->Check(), Outcome::kRefused);
  EXPECT_EQ(refusals_logged(), 3);
  EXPECT_EQ(Reloads("refused"), 3);
  EXPECT_EQ(Reloads("published"), 2);
}

TEST_F(PublisherTest, CertificateOfAnotherPrincipalIsRefused) {
  const TestCertificate other =
      MakeCertificate({.names = "URI:spiffe://nova/user,DNS:user.nova.svc.cluster.local,DNS:localhost"}, &authority_);
  Install(other);
  const auto made = IdentityPublisher::Create(
      {.files = TestFiles(source_.path()), .principal = "identity", .directory = private_}, clock_, metrics_);
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().code(), Code::kInvalidArgument);
  EXPECT_EQ(made.error().message(),
            "GRPC_SERVER_CERT_PATH=" + (source_ / "tls.crt").string() +
                ": the certificate of 'user', and this process is 'identity': issue one for the latter");
  EXPECT_EQ(PrivateCount(), 0U);

  // Where nobody says who the process is, its first certificate does.
  Install(MakeCertificate({}, &authority_));
  auto publisher = Make();
  Install(other);
  EXPECT_EQ(publisher->Check(), Outcome::kRefused);
  EXPECT_EQ(publisher->info().principal, "identity");
}

TEST_F(PublisherTest, ReplacementThatBeginsSoonWaitsUntilThen) {
  Install(MakeCertificate({}, &authority_));
  auto publisher = Make();
  const std::string serial = publisher->info().serial;
  Install(MakeCertificate({.not_before = clock_.WallNow() + 30s}, &authority_));
  EXPECT_EQ(publisher->Check(), Outcome::kUnchanged);
  EXPECT_EQ(publisher->info().serial, serial);
  clock_.Advance(30s);
  EXPECT_EQ(publisher->Check(), Outcome::kPublished);
  EXPECT_EQ(refusals_logged(), 0);
}

TEST_F(PublisherTest, TellsWhoIsTrustedAndWhenThatChanges) {
  Install(MakeCertificate({}, &authority_));
  auto publisher = Make();
  ASSERT_EQ(publisher->authorities().size(), 1u);
  const AuthorityInfo first = publisher->authorities().front();
  EXPECT_EQ(first.subject, "CN=test authority");
  EXPECT_EQ(first.not_after, clock_.WallNow() + std::chrono::days(30));
  std::string judged =
      RunCommand("openssl x509 -noout -fingerprint -sha256 -in " + (source_ / "ca.crt").string()).output;
  judged = judged.substr(judged.find('=') + 1);
  std::erase_if(judged, [](char c) { return c == ':' || c == '\n'; });
  EXPECT_EQ(first.fingerprint, judged);

  const std::uint64_t version = publisher->trust_version();
  EXPECT_GT(version, 0u);
  Install(MakeCertificate({}, &authority_));
  ASSERT_EQ(publisher->Check(), Outcome::kPublished);
  EXPECT_EQ(publisher->trust_version(), version) << "another leaf is not another trust";

  // One more, the same in other words, and a leaf of the second without the first: the steps of a replacement.
  const TestCertificate next = MakeCertificate(AuthoritySpec("next authority"));
  source_.Write("ca.crt", authority_.certificate_pem + next.certificate_pem);
  ASSERT_EQ(publisher->Check(), Outcome::kPublished);
  EXPECT_EQ(publisher->trust_version(), version + 1);
  ASSERT_EQ(publisher->authorities().size(), 2u);
  EXPECT_EQ(publisher->authorities()[0], first);
  EXPECT_EQ(publisher->authorities()[1].subject, "CN=next authority");
  source_.Write("ca.crt", authority_.certificate_pem + "# a remark\n" + next.certificate_pem);
  ASSERT_EQ(publisher->Check(), Outcome::kPublished);
  EXPECT_EQ(publisher->trust_version(), version + 1);

  // A refused set changes nothing of it: this leaf is of the first.
  source_.Write("ca.crt", next.certificate_pem);
  ASSERT_EQ(publisher->Check(), Outcome::kRefused);
  EXPECT_EQ(publisher->authorities().size(), 2u);
  EXPECT_EQ(publisher->trust_version(), version + 1);

  const TestCertificate leaf = MakeCertificate({}, &next);
  source_.Write("tls.crt", leaf.certificate_pem);
  source_.Write("tls.key", leaf.key_pem);
  ASSERT_EQ(publisher->Check(), Outcome::kPublished);
  ASSERT_EQ(publisher->authorities().size(), 1u);
  EXPECT_EQ(publisher->authorities().front().subject, "CN=next authority");
  EXPECT_EQ(publisher->trust_version(), version + 2);
}

TEST_F(PublisherTest, WatchSeesTheLinkSwapOfKubernetes) {
  const auto write_version = [&](const std::string& name) {
    const TestCertificate leaf = MakeCertificate({}, &authority_);
    source_.Write(name + "/tls.crt", leaf.certificate_pem);
    source_.Write(name + "/tls.key", leaf.key_pem);
    source_.Write(name + "/ca.crt", authority_.certificate_pem);
    return leaf.key_pem;
  };
  const std::string first = write_version("..1");
  fs::create_directory_symlink("..1", source_ / "..data");
  for (const char* name : {"tls.crt", "tls.key", "ca.crt"})
    fs::create_symlink(fs::path("..data") / name, source_ / name);
  runtime::Runtime runtime({.threads = 1});
  runtime::Scope scope(runtime);
  auto publisher = Make();
  publisher->Watch(scope);
  EXPECT_EQ(ReadAll(publisher->key_path()), first);

  const std::string second = write_version("..2");
  fs::create_directory_symlink("..2", source_ / "..data_tmp");
  fs::rename(source_ / "..data_tmp", source_ / "..data");
  // There is nothing to await but the next poll.
  const auto limit = std::chrono::steady_clock::now() + 20s;
  while (Reloads("published") < 2 && std::chrono::steady_clock::now() < limit) std::this_thread::yield();
  EXPECT_EQ(ReadAll(publisher->key_path()), second);
  EXPECT_TRUE(scope.Stop(5s));
}

TEST_F(PublisherTest, WhatAKilledProcessLeftIsRemovedAndWhatALiveOneHasIsNot) {
  Install(MakeCertificate({}, &authority_));
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    const auto publisher = Make();
    const char byte = 1;
    (void)!::write(ready[1], &byte, 1);
    while (true) ::pause();
  }
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  auto mine = Make();
  EXPECT_EQ(PrivateCount(), 2u);
  ASSERT_EQ(::kill(child, SIGKILL), 0);
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  EXPECT_EQ(PrivateCount(), 2u);
  auto other = Make(Usage::kClient);
  EXPECT_EQ(PrivateCount(), 2u) << "the killed one's is gone, mine and the new one are there";
  EXPECT_EQ(ReadAll(mine->key_path()), ReadAll(other->key_path()));
  ::close(ready[0]);
  ::close(ready[1]);
}

}  // namespace
}  // namespace nova::tls
