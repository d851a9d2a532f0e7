#include "local/data_dir.h"

#include <fstream>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "local/ports.h"
#include "local/state.h"

namespace nova::local {
namespace {

namespace fs = std::filesystem;

class DataDirTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "nova-data-dir-test-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    parent_ = name;
    root_ = parent_ / "nova";
  }
  void TearDown() override { fs::remove_all(parent_); }

  void Put(const fs::path& path, std::string_view text) {
    fs::create_directories(path.parent_path());
    std::ofstream(path) << text;
  }
  // The one line that a refused folder gives; empty when it is not refused.
  std::string Refusal() {
    auto folder = DataDir::Open(root_, {.port_base = 7400});
    if (folder) return {};
    EXPECT_EQ(folder.error().code(), Code::kFailedPrecondition);
    EXPECT_EQ(folder.error().message().find('\n'), std::string::npos);
    return folder.error().message();
  }
  static mode_t Mode(const fs::path& path) {
    struct stat info{};
    EXPECT_EQ(::stat(path.c_str(), &info), 0) << path;
    return info.st_mode & 07777;
  }

  fs::path parent_;
  fs::path root_;
};

TEST_F(DataDirTest, MakesTheFolderAndTakesItAgain) {
  std::string password;
  {
    auto folder = DataDir::Open(root_, {.port_base = 7400});
    ASSERT_TRUE(folder) << folder.error().ToString();
    EXPECT_EQ(SupervisorOf(folder->layout()), ::getpid());
    auto made = folder->Password("identity");
    ASSERT_TRUE(made) << made.error().ToString();
    password = made->Expose();
    EXPECT_EQ(password.size(), 64U);
    EXPECT_EQ(Mode(folder->layout().password("identity")), 0600U);
    EXPECT_EQ(Mode(folder->layout().secrets()), 0700U);
    // The account of PostgreSQL passes through and lists nothing.
    EXPECT_EQ(Mode(root_), 0711U);
    auto has_cluster = folder->HasCluster();
    ASSERT_TRUE(has_cluster);
    EXPECT_FALSE(*has_cluster);
  }
  EXPECT_EQ(SupervisorOf({root_}), 0);
  auto again = DataDir::Open(root_, {.port_base = 7400});
  ASSERT_TRUE(again) << again.error().ToString();
  auto kept = again->Password("identity");
  ASSERT_TRUE(kept);
  EXPECT_EQ(kept->Expose(), password);
  auto other = again->Password("user");
  ASSERT_TRUE(other);
  EXPECT_NE(other->Expose(), password);
}

TEST_F(DataDirTest, OnlyOneMayRunOnAFolder) {
  auto folder = DataDir::Open(root_, {});
  ASSERT_TRUE(folder);
  std::string refusal = Refusal();
  EXPECT_NE(refusal.find("pid " + std::to_string(::getpid())), std::string::npos) << refusal;
  EXPECT_NE(refusal.find("nova down"), std::string::npos) << refusal;
  EXPECT_EQ(WipeDataDir(root_).error().code(), Code::kFailedPrecondition);
  EXPECT_TRUE(fs::exists(folder->layout().marker()));
}

TEST_F(DataDirTest, RefusesAFolderThatHoldsSomethingElse) {
  Put(root_ / "thesis.txt", "years of work");
  std::string refusal = Refusal();
  EXPECT_NE(refusal.find("thesis.txt"), std::string::npos) << refusal;
  EXPECT_NE(refusal.find("--data-dir"), std::string::npos) << refusal;
  EXPECT_FALSE(fs::exists(root_ / "lock"));
  auto wiped = WipeDataDir(root_);
  ASSERT_FALSE(wiped);
  EXPECT_EQ(wiped.error().code(), Code::kFailedPrecondition);
  EXPECT_TRUE(fs::exists(root_ / "thesis.txt"));
}

TEST_F(DataDirTest, TakesWhatAnInterruptedFirstStartLeft) {
  Put(root_ / "lock", "12345 67890\n");
  Put(root_ / "nova.json.12345.tmp", "{\"form");
  EXPECT_EQ(Refusal(), "");
}

TEST_F(DataDirTest, RefusesAMarkerItDoesNotUnderstand) {
  Put(root_ / "nova.json", "{\"form");
  EXPECT_NE(Refusal().find("damaged"), std::string::npos);
  Put(root_ / "nova.json", R"({"format":2})");
  EXPECT_NE(Refusal().find("format 2"), std::string::npos);
}

TEST_F(DataDirTest, AClusterIsAbsentWholeOrDamaged) {
  auto folder = DataDir::Open(root_, {});
  ASSERT_TRUE(folder);
  // An interrupted initdb works under another name, so it counts as none.
  Put(root_ / "postgres.tmp/PG_VERSION", "15\n");
  auto has = folder->HasCluster();
  ASSERT_TRUE(has) << has.error().ToString();
  EXPECT_FALSE(*has);

  fs::create_directories(root_ / "postgres");
  has = folder->HasCluster();
  ASSERT_FALSE(has);
  EXPECT_EQ(has.error().code(), Code::kFailedPrecondition);
  EXPECT_NE(has.error().message().find("PG_VERSION"), std::string::npos);
  EXPECT_NE(has.error().message().find("nova down --wipe"), std::string::npos);

  Put(root_ / "postgres/PG_VERSION", "15\n");
  Put(root_ / "postgres/global/pg_control", "x");
  has = folder->HasCluster();
  ASSERT_TRUE(has);
  EXPECT_TRUE(*has);

  ASSERT_TRUE(folder->MarkInitialized());
  fs::remove_all(root_ / "postgres");
  has = folder->HasCluster();
  ASSERT_FALSE(has);
  EXPECT_NE(has.error().message().find("gone"), std::string::npos);
}

TEST_F(DataDirTest, WipeRemovesTheFolderAndNothingElse) {
  Put(parent_ / "neighbour", "stays");
  ASSERT_TRUE(DataDir::Open(root_, {}));
  fs::create_symlink(parent_ / "neighbour", root_ / "link");
  auto wiped = WipeDataDir(root_);
  EXPECT_TRUE(wiped) << wiped.error().ToString();
  EXPECT_FALSE(fs::exists(root_));
  EXPECT_TRUE(fs::exists(parent_ / "neighbour"));
  EXPECT_EQ(WipeDataDir(root_).error().code(), Code::kNotFound);
}

TEST_F(DataDirTest, DefaultFollowsTheAccount) {
  auto path = DefaultDataDir({{"HOME", "/home/a"}}, 0);
  ASSERT_TRUE(path);
  EXPECT_EQ(*path, "/var/lib/nova");
  path = DefaultDataDir({{"HOME", "/home/a"}}, 1000);
  ASSERT_TRUE(path);
  EXPECT_EQ(*path, "/home/a/.local/share/nova");
  path = DefaultDataDir({{"HOME", "/home/a"}, {"XDG_DATA_HOME", "/data"}}, 1000);
  ASSERT_TRUE(path);
  EXPECT_EQ(*path, "/data/nova");
  path = DefaultDataDir({{"HOME", "/home/a"}, {"XDG_DATA_HOME", "relative"}}, 1000);
  ASSERT_TRUE(path);
  EXPECT_EQ(*path, "/home/a/.local/share/nova");
  EXPECT_FALSE(DefaultDataDir({}, 1000));
}

TEST_F(DataDirTest, StateIsReadAsItWasWritten) {
  auto folder = DataDir::Open(root_, {});
  ASSERT_TRUE(folder);
  EXPECT_EQ(ReadState(folder->layout()).error().code(), Code::kNotFound);
  StackState state{.phase = Phase::kReady, .supervisor = 12, .port_base = 7400, .started_at_ms = 5, .components = {}};
  state.components.push_back({.name = "identity",
                              .phase = Phase::kRestarting,
                              .pid = 34,
                              .port = 7401,
                              .admin_port = 7501,
                              .restarts = 2,
                              .started_at_ms = 6});
  ASSERT_TRUE(WriteState(folder->layout(), state));
  auto read = ReadState(folder->layout());
  ASSERT_TRUE(read) << read.error().ToString();
  EXPECT_EQ(read->phase, Phase::kReady);
  EXPECT_EQ(read->supervisor, 12);
  EXPECT_EQ(read->port_base, 7400);
  EXPECT_EQ(read->started_at_ms, 5);
  ASSERT_EQ(read->components.size(), 1U);
  EXPECT_EQ(read->components[0].name, "identity");
  EXPECT_EQ(read->components[0].phase, Phase::kRestarting);
  EXPECT_EQ(read->components[0].pid, 34);
  EXPECT_EQ(read->components[0].port, 7401);
  EXPECT_EQ(read->components[0].admin_port, 7501);
  EXPECT_EQ(read->components[0].restarts, 2);
  EXPECT_EQ(read->components[0].started_at_ms, 6);
}

TEST_F(DataDirTest, WriteFileReplacesContentAndRightsInOneStep) {
  const fs::path path = parent_ / "file";
  Put(path, "old");
  fs::permissions(path, fs::perms(0644));
  ASSERT_TRUE(WriteFile(path, "new", {.mode = 0600}));
  EXPECT_EQ(Mode(path), 0600U);
  auto text = ReadFile(path);
  ASSERT_TRUE(text);
  EXPECT_EQ(*text, "new");
  EXPECT_EQ(WriteFile(parent_ / "absent" / "file", "x").error().code(), Code::kNotFound);
  // No temporary file is left, of a success or of a failure.
  EXPECT_EQ(std::distance(fs::directory_iterator(parent_), fs::directory_iterator()), 1);
}

TEST_F(DataDirTest, LastLineIsTheLastThatSaysSomething) {
  const fs::path path = parent_ / "log";
  EXPECT_EQ(LastLineOfFile(path), "");
  Put(path, "first\nsecond\n\n");
  EXPECT_EQ(LastLineOfFile(path), "second");
  Put(path, std::string(100'000, 'x'));
  EXPECT_EQ(LastLineOfFile(path), std::string(300, 'x'));
}

TEST_F(DataDirTest, LockIsSeenByOthersAndEndsWithItsObject) {
  const fs::path path = parent_ / "lock";
  EXPECT_FALSE(FileLock::IsHeld(path));
  {
    auto lock = FileLock::TryAcquire(path);
    ASSERT_TRUE(lock);
    ASSERT_TRUE(lock->Write("me"));
    EXPECT_TRUE(FileLock::IsHeld(path));
    auto second = FileLock::TryAcquire(path);
    ASSERT_FALSE(second);
    EXPECT_EQ(second.error().code(), Code::kAborted);
    EXPECT_EQ(second.error().detail(), "me");
    EXPECT_TRUE(FileLock::IsHeld(path));
  }
  EXPECT_FALSE(FileLock::IsHeld(path));
}

}  // namespace
}  // namespace nova::local
