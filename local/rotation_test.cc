#include "local/rotation.h"

#include <fstream>
#include <gtest/gtest.h>
#include <set>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "local/data_dir.h"

namespace nova::local {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

// A data folder on which nothing runs; what a stack does with it, the tests with one show.
class RotationTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "nova-rotation-test-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    parent_ = name;
    layout_ = {parent_ / "data"};
    config_ = {.data_dir = layout_.root, .principals = {"identity", "operator"}};
    config_.progress = [this](std::string_view what) { said_.emplace_back(what); };
  }
  void TearDown() override { fs::remove_all(parent_); }

  void MakeFolder() {
    ASSERT_TRUE(DataDir::Open(layout_.root, {.port_base = 7400}));
    auto authority = OpenAuthority();
    for (const char* principal : {"identity", "operator", "postgres"}) {
      ASSERT_TRUE(authority.Issue({.principal = principal}, layout_.certificate(principal)));
    }
  }
  tls::Authority OpenAuthority() const {
    auto authority = tls::Authority::LoadOrCreate(layout_.authority(), Clock::System());
    EXPECT_TRUE(authority) << authority.error().ToString();
    return *std::move(authority);
  }
  CertificateOnDisk OnDisk(const char* principal) const { return ReadFromDisk(layout_.certificate(principal)); }
  std::string AuthorityPem() const { return OpenAuthority().certificate_pem(); }
  // Every set is good, by the authority of now alone.
  void ExpectSettled() {
    const auto authority = OpenAuthority();
    EXPECT_EQ(authority.rotation(), tls::AuthorityRotation::kNone);
    for (const char* principal : {"identity", "operator", "postgres"}) {
      EXPECT_EQ(OnDisk(principal).problem, "");
      EXPECT_EQ(OnDisk(principal).authorities.size(), 1U) << principal;
      EXPECT_FALSE(authority.NeedsTrust(layout_.certificate(principal))) << principal;
      EXPECT_FALSE(authority.NeedsRenewal({.principal = principal}, layout_.certificate(principal))) << principal;
    }
  }

  fs::path parent_;
  Layout layout_;
  RotationConfig config_;
  std::vector<std::string> said_;
};

TEST_F(RotationTest, LeavesAreReplacedAndNothingElse) {
  MakeFolder();
  const std::string identity = OnDisk("identity").leaf.serial;
  const std::string postgres = OnDisk("postgres").leaf.serial;
  const std::string ca = AuthorityPem();
  auto report = RotateLeaves(config_, {"identity"});
  ASSERT_TRUE(report) << report.error().ToString();
  EXPECT_EQ(report->principals, std::vector<std::string>{"identity"});
  EXPECT_FALSE(report->live);
  EXPECT_NE(OnDisk("identity").leaf.serial, identity);
  EXPECT_EQ(OnDisk("postgres").leaf.serial, postgres);

  report = RotateLeaves(config_);
  ASSERT_TRUE(report);
  EXPECT_EQ(report->principals, (std::vector<std::string>{"identity", "operator", "postgres"}));
  EXPECT_NE(OnDisk("postgres").leaf.serial, postgres);
  EXPECT_EQ(AuthorityPem(), ca);
}

TEST_F(RotationTest, TheLifetimeIsTheOneAskedFor) {
  MakeFolder();
  config_.lifetime = 1h;
  ASSERT_TRUE(RotateLeaves(config_, {"identity"}));
  EXPECT_NEAR(std::chrono::duration<double>(OnDisk("identity").leaf.not_after - Clock::System().WallNow()).count(),
              3600, 30);
  ASSERT_TRUE(ShortenLeaf(config_, "identity", 5s));
  EXPECT_LE(OnDisk("identity").leaf.not_after, Clock::System().WallNow() + 5s);
  EXPECT_TRUE(OpenAuthority().NeedsRenewal({.principal = "identity"}, layout_.certificate("identity")));
}

TEST_F(RotationTest, AnAuthorityIsReplacedInThreeSteps) {
  MakeFolder();
  const std::string former = AuthorityPem();
  const auto report = RotateAuthority(config_);
  ASSERT_TRUE(report) << report.error().ToString();
  EXPECT_FALSE(report->continued);
  EXPECT_NE(AuthorityPem(), former);
  ExpectSettled();
  ASSERT_EQ(said_.size(), 3U);
  EXPECT_EQ(said_[0], "step 1 of 3: the next authority is trusted");
}

// Wherever a run was killed: before a set has followed, or after.
TEST_F(RotationTest, WhatWasInterruptedIsFinished) {
  for (const int steps : {1, 2, 3}) {
    for (const bool followed : {false, true}) {
      SCOPED_TRACE(std::to_string(steps) + (followed ? " followed" : ""));
      MakeFolder();
      const std::string former = AuthorityPem();
      const Certificates certificates(layout_, config_.principals, {}, std::chrono::days(90));
      {
        auto authority = OpenAuthority();
        ASSERT_TRUE(authority.IntroduceNext());
        if (steps > 1) ASSERT_TRUE(certificates.RenewDue(authority).outcome);
        if (steps > 1) ASSERT_TRUE(authority.SignWithNext());
        if (steps > 2) ASSERT_TRUE(certificates.RenewDue(authority).outcome);
        if (steps > 2) ASSERT_TRUE(authority.WithdrawFormer());
        if (followed && steps < 3) ASSERT_TRUE(certificates.RenewDue(authority).outcome);
      }
      auto view = ViewCertificates(config_);
      ASSERT_TRUE(view);
      ASSERT_TRUE(view->authority);
      EXPECT_TRUE(view->authority->under_way);
      const std::string interrupted = AuthorityPem();

      const auto report = RotateAuthority(config_);
      ASSERT_TRUE(report) << report.error().ToString();
      EXPECT_TRUE(report->continued);
      EXPECT_NE(AuthorityPem(), former);
      EXPECT_NE(AuthorityPem(), interrupted) << "its key has been on the disk before this run";
      ExpectSettled();
      view = ViewCertificates(config_);
      ASSERT_TRUE(view && view->authority);
      EXPECT_FALSE(view->authority->under_way);
      fs::remove_all(layout_.root);
    }
  }
}

TEST_F(RotationTest, OneAtATime) {
  MakeFolder();
  auto held = FileLock::TryAcquire(layout_.rotation_lock());
  ASSERT_TRUE(held);
  // The lock is a process's, not a thread's: another one has to try.
  const pid_t child = ::fork();
  if (child == 0) {
    const auto report = RotateLeaves(config_);
    ::_exit(!report && report.error().code() == Code::kFailedPrecondition ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST_F(RotationTest, WhatIsMissingIsNamedWithTheRemedy) {
  auto report = RotateLeaves(config_);
  ASSERT_FALSE(report);
  EXPECT_EQ(report.error().code(), Code::kNotFound);
  EXPECT_NE(report.error().message().find("--data-dir"), std::string::npos);

  ASSERT_TRUE(DataDir::Open(layout_.root, {.port_base = 7400}));
  report = RotateAuthority(config_);
  ASSERT_FALSE(report);
  EXPECT_EQ(report.error().code(), Code::kNotFound);
  EXPECT_NE(report.error().message().find("nova certs init"), std::string::npos) << report.error().message();
  const auto view = ViewCertificates(config_);
  ASSERT_TRUE(view);
  EXPECT_NE(view->authority_problem.find("nova certs init"), std::string::npos);

  static_cast<void>(OpenAuthority());
  report = RotateLeaves(config_);
  ASSERT_FALSE(report);
  EXPECT_NE(report.error().message().find("nova certs issue"), std::string::npos) << report.error().message();
  report = RotateLeaves(config_, {"identiy"});
  ASSERT_FALSE(report);
  EXPECT_EQ(report.error().code(), Code::kInvalidArgument);
  // Somebody who has none yet gets one.
  EXPECT_TRUE(RotateLeaves(config_, {"redis"}));
}

TEST_F(RotationTest, AnotherAccountsFolderIsLeftAlone) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root gives files away";
  MakeFolder();
  ASSERT_EQ(::chown(layout_.root.c_str(), 12345, 12345), 0);
  const std::string before = OnDisk("identity").leaf.serial;
  const auto report = RotateLeaves(config_);
  ASSERT_FALSE(report);
  EXPECT_EQ(report.error().code(), Code::kPermissionDenied);
  EXPECT_NE(report.error().message().find("12345"), std::string::npos);
  EXPECT_EQ(OnDisk("identity").leaf.serial, before);
}

}  // namespace
}  // namespace nova::local
