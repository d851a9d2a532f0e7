#include "audit/stall.h"

#include <array>
#include <csignal>
#include <functional>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include "nova/base/clock.h"
#include "tests/idler.h"

namespace nova::audit {
namespace {

using ::testing::HasSubstr;
using tests::Idler;
using tests::StateOf;

constexpr Duration kPatience = std::chrono::seconds(10);

bool Await(const std::function<bool()>& condition) {
  const SteadyTime limit = Clock::System().Now() + kPatience;
  while (!condition()) {
    if (Clock::System().Now() >= limit) return false;
    ::poll(nullptr, 0, 1);
  }
  return true;
}

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
