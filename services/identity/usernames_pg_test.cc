// Usernames are unique in the eyes of people: whatever NFKC case folding makes equal is one name, and the database
// decides who gets it.
#include <algorithm>
#include <gtest/gtest.h>
#include <map>

#include "services/identity/test_environment.h"
#include "tests/seed.h"

namespace nova::identity {
namespace {

using runtime::Call;

std::string Utf8(char32_t c) {
  std::string text;
  if (c < 0x80) {
    text.push_back(static_cast<char>(c));
  } else if (c < 0x800) {
    text.push_back(static_cast<char>(0xc0 | c >> 6));
    text.push_back(static_cast<char>(0x80 | (c & 0x3f)));
  } else if (c < 0x10000) {
    text.push_back(static_cast<char>(0xe0 | c >> 12));
    text.push_back(static_cast<char>(0x80 | (c >> 6 & 0x3f)));
    text.push_back(static_cast<char>(0x80 | (c & 0x3f)));
  } else {
    text.push_back(static_cast<char>(0xf0 | c >> 18));
    text.push_back(static_cast<char>(0x80 | (c >> 12 & 0x3f)));
    text.push_back(static_cast<char>(0x80 | (c >> 6 & 0x3f)));
    text.push_back(static_cast<char>(0x80 | (c & 0x3f)));
  }
  return text;
}

// Written from the Unicode charts, not with the code under test.
std::vector<std::string> LookAlikes(char c) {
  std::vector<std::string> forms = {std::string(1, c)};
  const auto add = [&](char32_t form) { forms.push_back(Utf8(form)); };
  if (c >= 'a' && c <= 'z') {
    const auto n = static_cast<char32_t>(c - 'a');
    add(U'A' + n);
    add(0xff21 + n);            // full-width capital
    add(0xff41 + n);            // full-width small
    add(0x1d400 + n);           // mathematical bold capital
    add(0x1d41a + n);           // mathematical bold small
    add(0x1d68a + n);           // mathematical monospace small
    add(0x24b6 + n);            // circled capital
    add(0x24d0 + n);            // circled small
    add(0x1f130 + n);           // squared capital
    if (c == 'k') add(0x212a);  // Kelvin
    if (c == 's') add(0x017f);  // long s
    if (c == 'a') add(0x00aa);  // feminine ordinal
    if (c == 'o') add(0x00ba);  // masculine ordinal
    if (c == 'i') add(0x2170);  // Roman numeral one
    if (c == 'e') add(0x212f);  // script e
    if (c == 'h') add(0x210e);  // Planck
  } else if (c >= '0' && c <= '9') {
    const auto n = static_cast<char32_t>(c - '0');
    add(0xff10 + n);                    // full-width
    add(0x1d7ce + n);                   // mathematical bold
    add(0x2080 + n);                    // subscript
    if (c != '0') add(0x2460 + n - 1);  // circled
  } else if (c == '_') {
    add(0xff3f);
    add(0xfe33);  // presentation form for vertical text
  } else if (c == '.') {
    add(0xff0e);
    add(0x2024);  // one dot leader
  }
  return forms;
}

class UsernamesTest : public IdentityTest {
 protected:
  std::size_t Pick(std::size_t below) { return std::uniform_int_distribution<std::size_t>(0, below - 1)(random_); }

  std::string RandomName(int n) {
    static constexpr std::string_view kCharacters = "abcdefghijklmnopqrstuvwxyz0123456789_.kkssffiill";
    std::string name;
    const std::size_t size = 3 + Pick(10);
    for (std::size_t i = 0; i < size; ++i) name.push_back(kCharacters[Pick(kCharacters.size())]);
    // Unlike all others, and without a dot at an end.
    return "x" + name + "_" + std::to_string(n);
  }

  // Folds to `name`, as people see it.
  std::string Disguise(const std::string& name) {
    std::string disguised;
    for (std::size_t i = 0; i < name.size(); ++i) {
      const std::string_view rest = std::string_view(name).substr(i);
      const std::pair<std::string_view, char32_t> ligatures[] = {{"ffi", 0xfb03}, {"ffl", 0xfb04}, {"ff", 0xfb00},
                                                                 {"fi", 0xfb01},  {"fl", 0xfb02},  {"st", 0xfb06},
                                                                 {"lj", 0x01c9},  {"ss", 0x00df},  {"ii", 0x2171}};
      const auto* const ligature =
          std::ranges::find_if(ligatures, [&](const auto& entry) { return rest.starts_with(entry.first); });
      if (ligature != std::end(ligatures) && Pick(2) == 0) {
        disguised += Utf8(ligature->second);
        i += ligature->first.size() - 1;
      } else {
        const auto forms = LookAlikes(name[i]);
        disguised += forms[Pick(forms.size())];
      }
      // What nobody sees: soft hyphen, zero-width joiner, word joiner, grapheme joiner (a combining mark), variation
      // selector.
      constexpr char32_t kInvisible[] = {0x00ad, 0x200d, 0x2060, 0x034f, 0xfe0f};
      if (Pick(12) == 0 && disguised.size() < 90) disguised += Utf8(kInvisible[Pick(std::size(kInvisible))]);
    }
    return disguised;
  }

  const unsigned seed_ = tests::TestSeed();
  std::mt19937_64 random_{seed_};
};

TEST_F(UsernamesTest, OfTwoHundredWhoRaceEachNameHasOneWinner) {
  constexpr int kNames = 20;
  constexpr int kRacers = 10;
  std::vector<std::string> names;
  std::vector<std::pair<std::string, Registration>> racers;
  for (int n = 0; n < kNames; ++n) {
    names.push_back(RandomName(n));
    for (int i = 0; i < kRacers; ++i) {
      Registration registration = Ada();
      registration.username = Disguise(names.back());
      registration.email = "racer" + std::to_string(n) + "." + std::to_string(i) + "@example.com";
      racers.emplace_back(names.back(), registration);
    }
  }
  std::ranges::shuffle(racers, random_);
  std::map<std::string, int> winners;
  const auto results = RunAtOnce<Account>(
      racers.size(), [&](Call& call, std::size_t i) { return service_.Register(call, racers[i].second); });
  for (std::size_t i = 0; i < results.size(); ++i) {
    const auto& [name, registration] = racers[i];
    SCOPED_TRACE("seed " + std::to_string(seed_) + ": " + registration.username + " for " + name);
    if (results[i]) {
      EXPECT_EQ(results[i]->username, name);
      ++winners[name];
    } else {
      EXPECT_EQ(results[i].error().code(), Code::kAlreadyExists) << results[i].error().ToString();
    }
  }
  for (const std::string& name : names) EXPECT_EQ(winners[name], 1) << name << ", seed " << seed_;
  EXPECT_EQ(CountOf("accounts"), std::to_string(kNames));
  EXPECT_EQ(Events<events::v1::AccountRegistered>().size(), static_cast<std::size_t>(kNames));
}

TEST_F(UsernamesTest, OfTwoHundredWhoWantOneNameOneGetsIt) {
  const std::string name = "kelvin_ffi.55";
  std::vector<Registration> racers;
  for (int i = 0; i < 200; ++i) {
    racers.push_back(Ada());
    racers.back().username = Disguise(name);
    racers.back().email = "racer" + std::to_string(i) + "@example.com";
  }
  int won = 0;
  for (const auto& result : RunAtOnce<Account>(
           racers.size(), [&](Call& call, std::size_t i) { return service_.Register(call, racers[i]); })) {
    if (result) {
      ++won;
    } else {
      EXPECT_EQ(result.error().code(), Code::kAlreadyExists) << result.error().ToString() << ", seed " << seed_;
    }
  }
  EXPECT_EQ(won, 1) << "seed " << seed_;
  EXPECT_EQ(ValueOf("SELECT username FROM accounts"), name);
}

TEST_F(UsernamesTest, AVisibleCombiningMarkMakesNoName) {
  for (const char32_t mark : {0x0301, 0x0308, 0x0327, 0x20dd}) {
    Registration registration = Ada();
    registration.username = "ad" + Utf8(mark) + "a";
    EXPECT_EQ(Register(registration).error().code(), Code::kInvalidArgument) << static_cast<unsigned>(mark);
  }
}

}  // namespace
}  // namespace nova::identity
