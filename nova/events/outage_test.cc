#include "nova/events/outage.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <string>
#include <vector>

#include "nova/telemetry/log.h"

namespace nova::events {
namespace {

using namespace std::chrono_literals;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::Ge;
using ::testing::HasSubstr;
using ::testing::Le;

TEST(OutageTest, DelaysDoubleUpToTheMostAndBeginAgainAfterSuccess) {
  Outage outage("testing", 10ms, 100ms);
  const Error error = Unavailable("gone");
  for (int round = 0; round < 2; ++round) {
    for (const Duration most : {10ms, 20ms, 40ms, 80ms, 100ms, 100ms})
      EXPECT_THAT(outage.Failed(error), AllOf(Ge(most / 2), Le(most)));
    outage.Worked();
  }
}

TEST(OutageTest, AnOutageIsLoggedOnceAtItsBeginningAndOnceAtItsEnd) {
  std::vector<std::string> lines;
  telemetry::InitLogging({}, [&](std::string_view line) { lines.emplace_back(line); });
  Outage outage("testing", 1ms, 1ms);
  for (int i = 0; i < 5; ++i) (void)outage.Failed(Unavailable("gone"));
  outage.Worked();
  outage.Worked();
  telemetry::InitLogging({});
  EXPECT_THAT(lines, ElementsAre(AllOf(HasSubstr("testing failed"), HasSubstr("gone")),
                                 AllOf(HasSubstr("testing works again"), HasSubstr("\"failures\":5"))));
}

}  // namespace
}  // namespace nova::events
