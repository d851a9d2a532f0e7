#include "nova/tls/trust.h"

#include <gtest/gtest.h>
#include <mutex>
#include <sys/stat.h>
#include <thread>

#include "nova/telemetry/log.h"
#include "nova/tls/test_pki.h"

namespace nova::tls {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using Outcome = TrustPublisher::Outcome;

class TrustTest : public testing::Test {
 protected:
  TrustTest() {
    fs::create_directory(private_);
    telemetry::InitLogging({}, [this](std::string_view line) {
      const std::lock_guard lock(mutex_);
      if (line.contains("refused")) refusals_logged_.emplace_back(line);
    });
  }
  ~TrustTest() override {
    telemetry::InitLogging({}, [](std::string_view) {});
  }

  Result<std::unique_ptr<TrustPublisher>> Create() {
    return TrustPublisher::Create({.file = {.path = source_ / "ca.crt", .variable = "NOVA_POSTGRES_SSL_ROOT_CERT"},
                                   .name = "postgres",
                                   .directory = private_,
                                   .poll_interval = 10ms},
                                  clock_, metrics_);
  }
  std::unique_ptr<TrustPublisher> Make() {
    auto publisher = Create();
    if (!publisher) throw std::runtime_error(publisher.error().ToString());
    return *std::move(publisher);
  }
  // What is wrong with this file, in one line that names it.
  std::string Problem(const std::string& pem) {
    source_.Write("ca.crt", pem);
    const auto publisher = Create();
    if (publisher) return "";
    EXPECT_EQ(publisher.error().code(), Code::kInvalidArgument);
    const std::string& message = publisher.error().message();
    EXPECT_TRUE(message.starts_with("NOVA_POSTGRES_SSL_ROOT_CERT=" + (source_ / "ca.crt").string())) << message;
    EXPECT_FALSE(message.contains('\n')) << message;
    EXPECT_TRUE(fs::is_empty(private_));
    return message;
  }
  double Reloads(const std::string& result) {
    return metrics_
        .Counter("nova_tls_reloads_total", "Certificate sets found in the files, by what became of them",
                 {{"side", "postgres"}, {"result", result}})
        .Value();
  }

  TestDirectory source_;
  TestDirectory base_;
  const fs::path private_ = base_ / "private";
  FakeClock clock_;
  telemetry::Metrics metrics_;
  const TestCertificate authority_ = MakeCertificate(AuthoritySpec("first"));
  std::mutex mutex_;
  std::vector<std::string> refusals_logged_;  // guarded by mutex_
};

TEST_F(TrustTest, PublishesPrivatelyAndRemovesAtTheEnd) {
  source_.Write("ca.crt", authority_.certificate_pem);
  auto publisher = Make();
  EXPECT_EQ(ReadAll(publisher->path()), authority_.certificate_pem);
  ASSERT_EQ(publisher->authorities().size(), 1u);
  EXPECT_EQ(publisher->authorities().front().subject, "CN=first");
  EXPECT_EQ(publisher->authorities().front().fingerprint.size(), 64u);
  EXPECT_EQ(Reloads("published"), 1);
  struct stat status{};
  ASSERT_EQ(::stat(publisher->path().c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0077, 0u);
  publisher.reset();
  EXPECT_TRUE(fs::is_empty(private_));
}

TEST_F(TrustTest, FilesThatNameNobodyToTrustAreErrors) {
  const auto missing = Create();
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code(), Code::kFailedPrecondition);
  EXPECT_TRUE(missing.error().message().contains("NOVA_POSTGRES_SSL_ROOT_CERT")) << missing.error().message();

  EXPECT_TRUE(Problem("").contains("not a PEM certificate"));
  EXPECT_TRUE(Problem("not a certificate").contains("not a PEM certificate"));
  EXPECT_TRUE(Problem(authority_.key_pem).contains("not a PEM certificate"));
  const std::string leaf = MakeCertificate({}, &authority_).certificate_pem;
  EXPECT_TRUE(Problem(leaf).contains("CN=identity is no authority"));
  EXPECT_TRUE(Problem(authority_.certificate_pem + leaf).contains("CN=identity is no authority"));

  TestCertificateSpec spec = AuthoritySpec("old");
  spec.not_before = clock_.WallNow() - 48h;
  spec.not_after = clock_.WallNow() - 61s;
  const std::string expired = MakeCertificate(spec).certificate_pem;
  EXPECT_TRUE(Problem(expired).contains("expired at"));
  EXPECT_TRUE(Problem(expired + expired).contains("expired at"));
  // A clock may be off by that much.
  spec.not_after = clock_.WallNow() - 59s;
  EXPECT_EQ(Problem(MakeCertificate(spec).certificate_pem), "");
  // Nobody could be verified with these yet, or ever.
  spec = AuthoritySpec("next");
  spec.not_before = clock_.WallNow() + 61s;
  EXPECT_TRUE(Problem(MakeCertificate(spec).certificate_pem).contains("not valid before"));
  spec = AuthoritySpec("weak");
  spec.key = "RSA-1024";
  EXPECT_TRUE(Problem(MakeCertificate(spec).certificate_pem).contains("too weak"));
  // The old one may stay in the file beside its successor.
  EXPECT_EQ(Problem(expired + authority_.certificate_pem), "");
}

TEST_F(TrustTest, BadReplacementIsRefusedAndTheLastGoodOneStays) {
  source_.Write("ca.crt", authority_.certificate_pem);
  auto publisher = Make();
  EXPECT_EQ(publisher->Check(), Outcome::kUnchanged);
  source_.Write("ca.crt", authority_.certificate_pem.substr(0, 100));
  EXPECT_EQ(publisher->Check(), Outcome::kRefused);
  EXPECT_EQ(publisher->Check(), Outcome::kUnchanged) << "said once";
  EXPECT_EQ(ReadAll(publisher->path()), authority_.certificate_pem);
  EXPECT_EQ(publisher->authorities().front().subject, "CN=first");
  fs::remove(source_ / "ca.crt");
  EXPECT_EQ(publisher->Check(), Outcome::kRefused);
  EXPECT_EQ(ReadAll(publisher->path()), authority_.certificate_pem);
  {
    const std::lock_guard lock(mutex_);
    ASSERT_EQ(refusals_logged_.size(), 2u);
    for (const std::string& line : refusals_logged_) {
      EXPECT_TRUE(line.contains("\"side\":\"postgres\"")) << line;
      EXPECT_TRUE(line.contains("CN=first")) << line;
    }
  }

  const TestCertificate next = MakeCertificate(AuthoritySpec("second"));
  source_.Write("ca.crt", authority_.certificate_pem + next.certificate_pem);
  EXPECT_EQ(publisher->Check(), Outcome::kPublished);
  EXPECT_EQ(ReadAll(publisher->path()), authority_.certificate_pem + next.certificate_pem);
  ASSERT_EQ(publisher->authorities().size(), 2u);
  EXPECT_EQ(publisher->authorities()[1].subject, "CN=second");
  EXPECT_EQ(Reloads("published"), 2);
  EXPECT_EQ(Reloads("refused"), 2);
}

TEST_F(TrustTest, WatchSeesTheLinkSwapOfKubernetes) {
  source_.Write("..1/ca.crt", authority_.certificate_pem);
  fs::create_directory_symlink("..1", source_ / "..data");
  fs::create_symlink("..data/ca.crt", source_ / "ca.crt");
  runtime::Runtime runtime({.threads = 1});
  runtime::Scope scope(runtime);
  auto publisher = Make();
  publisher->Watch(scope);

  const TestCertificate next = MakeCertificate(AuthoritySpec("second"));
  source_.Write("..2/ca.crt", next.certificate_pem);
  fs::create_directory_symlink("..2", source_ / "..data_tmp");
  fs::rename(source_ / "..data_tmp", source_ / "..data");
  // There is nothing to await but the next poll.
  const auto limit = std::chrono::steady_clock::now() + 20s;
  while (publisher->authorities().front().subject != "CN=second" && std::chrono::steady_clock::now() < limit)
    std::this_thread::yield();
  EXPECT_EQ(ReadAll(publisher->path()), next.certificate_pem);
  EXPECT_TRUE(scope.Stop(5s));
}

}  // namespace
}  // namespace nova::tls
