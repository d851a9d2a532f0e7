#include "audit/stall.h"

#include <array>
#include <csignal>
#include <fstream>
#include <functional>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <iterator>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "nova/base/clock.h"

namespace nova::audit {
namespace {

using ::testing::HasSubstr;

constexpr Duration kPatience = std::chrono::seconds(10);

char StateOf(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  const std::string text(std::istreambuf_iterator<char>(file), {});
  const std::size_t name_end = text.rfind(')');
  return name_end == std::string::npos ? '\0' : text[name_end + 2];
}

bool Await(const std::function<bool()>& condition) {
  const SteadyTime limit = Clock::System().Now() + kPatience;
  while (!condition()) {
    if (Clock::System().Now() >= limit) return false;
    ::poll(nullptr, 0, 1);
  }
  return true;
}

// A process with `children` of its own, all of which do nothing until they are killed.
class Idler {
 public:
  explicit Idler(int children = 0) {
    std::array<int, 2> ready{};
    EXPECT_EQ(::pipe(ready.data()), 0);
    pid_ = ::fork();
    if (pid_ == 0) {
      for (int i = 0; i < children; ++i) {
        const pid_t child = ::fork();
        if (child == 0) {
          ::close(ready[1]);
          ::prctl(PR_SET_PDEATHSIG, SIGKILL);
          for (;;) ::pause();
        }
        (void)!::write(ready[1], &child, sizeof child);
      }
      ::close(ready[1]);
      for (;;) ::pause();
    }
    ::close(ready[1]);
    pid_t child = 0;
    while (::read(ready[0], &child, sizeof child) == sizeof child) children_.push_back(child);
    ::close(ready[0]);
  }
  ~Idler() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  Idler(const Idler&) = delete;
  Idler& operator=(const Idler&) = delete;

  ProcessTarget target() const { return {.name = "idler", .pid = pid_, .folder = std::filesystem::current_path()}; }
  pid_t pid() const { return pid_; }
  const std::vector<pid_t>& children() const { return children_; }

 private:
  pid_t pid_ = -1;
  std::vector<pid_t> children_;
};

TEST(Stall, StopsAProcessUntilItEnds) {
  const Idler idler;
  {
    auto stall = Stall::Begin(idler.target());
    ASSERT_TRUE(stall.ok()) << stall.error().ToString();
    EXPECT_EQ(StateOf(idler.pid()), 'T');
    Stall moved = *std::move(stall);
    EXPECT_EQ(StateOf(idler.pid()), 'T');
    EXPECT_EQ(moved.size(), 1U);
  }
  EXPECT_TRUE(Await([&] { return StateOf(idler.pid()) == 'S'; }));

  auto again = Stall::Begin(idler.target());
  ASSERT_TRUE(again.ok());
  again->End();
  EXPECT_TRUE(Await([&] { return StateOf(idler.pid()) == 'S'; }));
  again->End();
}

TEST(Stall, StopsTheWholeTree) {
  const Idler idler(3);
  ASSERT_EQ(idler.children().size(), 3U);
  auto stall = Stall::Begin(idler.target());
  ASSERT_TRUE(stall.ok()) << stall.error().ToString();
  EXPECT_EQ(stall->size(), 4U);
  for (const pid_t child : idler.children()) EXPECT_EQ(StateOf(child), 'T');
  stall->End();
  for (const pid_t child : idler.children()) EXPECT_TRUE(Await([&] { return StateOf(child) == 'S'; }));
  EXPECT_TRUE(Await([&] { return StateOf(idler.pid()) == 'S'; }));
}

// Whatever ends the audit, nobody is left standing still.
TEST(Stall, EndsWithTheProcessThatBeganItEvenByKill9) {
  const Idler idler(1);
  std::array<int, 2> stalled{};
  ASSERT_EQ(::pipe(stalled.data()), 0);
  const pid_t auditor = ::fork();
  if (auditor == 0) {
    auto stall = Stall::Begin(idler.target());
    const bool ok = stall.ok();
    (void)!::write(stalled[1], &ok, sizeof ok);
    for (;;) ::pause();
  }
  bool ok = false;
  ASSERT_EQ(::read(stalled[0], &ok, sizeof ok), static_cast<ssize_t>(sizeof ok));
  ASSERT_TRUE(ok);
  EXPECT_EQ(StateOf(idler.pid()), 'T');
  EXPECT_EQ(StateOf(idler.children()[0]), 'T');
  ::kill(auditor, SIGKILL);
  ::waitpid(auditor, nullptr, 0);
  EXPECT_TRUE(Await([&] { return StateOf(idler.pid()) == 'S' && StateOf(idler.children()[0]) == 'S'; }));
  ::close(stalled[0]);
  ::close(stalled[1]);
}

TEST(Stall, LeavesAloneWhoOnlyHasThePid) {
  const Idler idler;
  ProcessTarget target = idler.target();
  target.folder = "/proc";
  const auto stall = Stall::Begin(target);
  ASSERT_FALSE(stall.ok());
  EXPECT_EQ(stall.error().code(), Code::kNotFound);
  EXPECT_THAT(stall.error().message(), HasSubstr("is another one"));
  EXPECT_NE(StateOf(idler.pid()), 'T');

  pid_t gone = 0;
  {
    const Idler ended;
    gone = ended.pid();
  }
  target.pid = gone;
  EXPECT_EQ(Stall::Begin(target).error().code(), Code::kNotFound);
}

TEST(Stall, LeavesAloneWhoStandsStillAlready) {
  const Idler idler;
  ::kill(idler.pid(), SIGSTOP);
  ASSERT_TRUE(Await([&] { return StateOf(idler.pid()) == 'T'; }));
  {
    const auto stall = Stall::Begin(idler.target());
    ASSERT_FALSE(stall.ok());
    EXPECT_EQ(stall.error().code(), Code::kFailedPrecondition);
  }
  EXPECT_EQ(StateOf(idler.pid()), 'T');
}

}  // namespace
}  // namespace nova::audit
