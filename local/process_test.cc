#include "local/process.h"

#include <fstream>
#include <gtest/gtest.h>
#include <poll.h>
#include <sstream>
#include <stdlib.h>
#include <thread>
#include <unistd.h>

namespace nova::local {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

class ProcessTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "nova-process-test-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    folder_ = name;
    // Children of another account write here too.
    fs::permissions(folder_, fs::perms::all);
  }
  void TearDown() override { fs::remove_all(folder_); }

  ProcessSpec Shell(const std::string& script) {
    return {.name = "shell",
            .program = "/bin/sh",
            .arguments = {"-c", script},
            .environment = {{"PATH", "/usr/bin:/bin"}},
            .working_directory = folder_,
            .log_file = folder_ / "log"};
  }
  std::string Log() const {
    std::ostringstream text;
    text << std::ifstream(folder_ / "log").rdbuf();
    return text.str();
  }
  // Waits until `condition` holds, 10 s at most.
  template <class Condition>
  static bool Eventually(Condition condition) {
    for (int i = 0; i < 1000; ++i) {
      if (condition()) return true;
      ::poll(nullptr, 0, 10);
    }
    return false;
  }

  fs::path folder_;
};

TEST_F(ProcessTest, RunsWithExactlyTheEnvironmentAndWorkingDirectoryGiven) {
  ProcessSpec spec = Shell("pwd; env | sort; cat");
  spec.environment = {{"PATH", "/usr/bin:/bin"}, {"GREETING", "hello there"}};
  auto run = RunToEnd(spec, 10s);
  ASSERT_TRUE(run) << run.error().ToString();
  EXPECT_EQ(Log(), folder_.string() + "\nGREETING=hello there\nPATH=/usr/bin:/bin\nPWD=" + folder_.string() + "\n");
}

TEST_F(ProcessTest, ChildInheritsNoDescriptorAndNoSignalDisposition) {
  int leaky = ::dup(STDERR_FILENO);  // without O_CLOEXEC
  struct sigaction ignore{};
  struct sigaction before{};
  ignore.sa_handler = SIG_IGN;
  ::sigaction(SIGUSR1, &ignore, &before);
  auto run = RunToEnd(Shell("ls /proc/self/fd | wc -l; grep -E 'SigIgn|SigBlk' /proc/self/status"), 10s);
  ::sigaction(SIGUSR1, &before, nullptr);
  ::close(leaky);
  ASSERT_TRUE(run) << run.error().ToString();
  // The three standard streams and the directory that ls reads.
  EXPECT_EQ(Log(), "4\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
}

TEST_F(ProcessTest, FailureCarriesTheLastLineOfTheLog) {
  auto run = RunToEnd(Shell("echo more; echo the reason; echo; exit 3"), 10s);
  ASSERT_FALSE(run);
  EXPECT_NE(run.error().message().find("exit status 3"), std::string::npos) << run.error().ToString();
  EXPECT_TRUE(run.error().message().ends_with(": the reason")) << run.error().ToString();
}

TEST_F(ProcessTest, MissingProgramOrFolderIsAnErrorAndLeavesNoChild) {
  ProcessSpec spec = Shell("true");
  spec.program = "/nonexistent/program";
  auto missing = Process::Spawn(spec);
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code(), Code::kNotFound);
  EXPECT_NE(missing.error().message().find("/nonexistent/program"), std::string::npos);

  spec = Shell("true");
  spec.working_directory = "/nonexistent";
  EXPECT_FALSE(Process::Spawn(spec));
  EXPECT_TRUE(ChildrenOf(::getpid()).empty());
}

TEST_F(ProcessTest, WaitIsBoundedAndTerminateTakesItsSteps) {
  auto process = Process::Spawn(Shell("trap '' TERM; trap 'exit 7' INT; echo ready; while :; do sleep 0.05; done"));
  ASSERT_TRUE(process) << process.error().ToString();
  ASSERT_TRUE(Eventually([&] { return Log() == "ready\n"; }));
  auto early = process->Wait(30ms);
  ASSERT_FALSE(early);
  EXPECT_EQ(early.error().code(), Code::kDeadlineExceeded);
  auto ended = process->Terminate({{SIGTERM, 100ms}, {SIGINT, 10s}});
  ASSERT_TRUE(ended) << ended.error().ToString();
  EXPECT_EQ(ended->ToString(), "exit status 7");
  EXPECT_FALSE(process->Running());
  EXPECT_EQ(process->Send(SIGTERM).error().code(), Code::kFailedPrecondition);
}

TEST_F(ProcessTest, TerminateEndsAProcessThatIgnoresEverythingAndOneThatIsStopped) {
  auto stubborn = Process::Spawn(Shell("trap '' TERM; echo ready; while :; do sleep 0.05; done"));
  ASSERT_TRUE(stubborn);
  ASSERT_TRUE(Eventually([&] { return Log() == "ready\n"; }));
  auto ended = stubborn->Terminate({{SIGTERM, 100ms}});
  ASSERT_TRUE(ended);
  EXPECT_EQ(ended->value, SIGKILL);

  auto stopped = Process::Spawn(Shell("exec sleep 100"));
  ASSERT_TRUE(stopped);
  ASSERT_TRUE(stopped->Send(SIGSTOP));
  ended = stopped->Terminate({{SIGTERM, 10s}});
  ASSERT_TRUE(ended);
  EXPECT_TRUE(ended->by_signal);
  EXPECT_EQ(ended->value, SIGTERM);
}

TEST_F(ProcessTest, DestructorEndsTheChild) {
  pid_t pid = 0;
  {
    auto process = Process::Spawn(Shell("exec sleep 100"));
    ASSERT_TRUE(process);
    pid = process->pid();
    EXPECT_TRUE(StartTicks(pid).has_value());
  }
  EXPECT_FALSE(StartTicks(pid).has_value());
}

TEST_F(ProcessTest, OnlyTheMainThreadMayStartChildren) {
  std::optional<Code> code;
  std::thread([&] {
    auto process = Process::Spawn(Shell("true"));
    if (!process) code = process.error().code();
  }).join();
  EXPECT_EQ(code, Code::kFailedPrecondition);
}

TEST_F(ProcessTest, RootStartsChildrenAsAnotherUserWithItsGroupsOnly) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can change the user";
  auto nobody = FindUser("nobody");
  ASSERT_TRUE(nobody) << nobody.error().ToString();
  ProcessSpec spec = Shell("id -u; id -G; grep Groups /proc/self/status");
  spec.user = *nobody;
  auto run = RunToEnd(spec, 10s);
  ASSERT_TRUE(run) << run.error().ToString();
  std::string gid = std::to_string(nobody->gid);
  EXPECT_EQ(Log(), std::to_string(nobody->uid) + "\n" + gid + "\nGroups:\t" + gid + " \n");
}

TEST_F(ProcessTest, FindsProcessesByFolderAndProgram) {
  auto process = Process::Spawn(Shell("exec sleep 100"));
  ASSERT_TRUE(process);
  EXPECT_TRUE(Eventually([&] { return FindProcesses(folder_, "sleep") == std::vector<pid_t>{process->pid()}; }));
  EXPECT_TRUE(FindProcesses(folder_, "postgres").empty());
  EXPECT_TRUE(FindProcesses("/nonexistent", "sleep").empty());
}

// The supervisor here is a process of its own, made from this executable (see main), which starts two children and is
// then killed without a chance to clean up.
class KilledSupervisor : public ProcessTest, public ::testing::WithParamInterface<bool> {};

TEST_P(KilledSupervisor, LeavesNoChildBehind) {
  const bool as_other_user = GetParam();
  if (as_other_user && ::geteuid() != 0) GTEST_SKIP() << "only root can change the user";
  ProcessSpec spec{.name = "supervisor",
                   .program = "/proc/self/exe",
                   .arguments = {"--supervise", as_other_user ? "nobody" : ""},
                   .environment = {},
                   .working_directory = folder_,
                   .log_file = folder_ / "log"};
  auto supervisor = Process::Spawn(spec);
  ASSERT_TRUE(supervisor) << supervisor.error().ToString();
  std::vector<pid_t> children;
  ASSERT_TRUE(Eventually([&] {
    std::istringstream log(Log());
    children.assign(std::istream_iterator<pid_t>(log), {});
    return children.size() == 2;
  })) << Log();
  for (pid_t child : children) EXPECT_TRUE(StartTicks(child).has_value());

  ASSERT_TRUE(supervisor->Send(SIGKILL));
  ASSERT_TRUE(supervisor->Wait(10s));
  EXPECT_TRUE(Eventually([&] { return !StartTicks(children[0]) && !StartTicks(children[1]); }));
}

INSTANTIATE_TEST_SUITE_P(SameAndOtherUser, KilledSupervisor, ::testing::Bool());

int Supervise(const std::string& user_name) {
  ProcessSpec spec{.name = "sleep", .program = "/bin/sleep", .arguments = {"1000"}, .environment = {}};
  if (!user_name.empty()) {
    auto user = FindUser(user_name);
    if (!user) return 2;
    spec.user = *user;
  }
  auto killed = Process::Spawn(spec);
  spec.death_signal = SIGTERM;
  auto asked = Process::Spawn(spec);
  if (!killed || !asked) return 2;
  std::fprintf(stdout, "%d %d\n", killed->pid(), asked->pid());
  std::fflush(stdout);
  while (true) ::pause();
}

}  // namespace
}  // namespace nova::local

int main(int argc, char** argv) {
  if (argc == 3 && std::string_view(argv[1]) == "--supervise") return nova::local::Supervise(argv[2]);
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
