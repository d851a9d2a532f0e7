#include "audit/leak_scan.h"

#include <fstream>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "nova/auth/keys.h"

namespace nova::audit {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::UnorderedElementsAre;

constexpr const char* kPassword = "correct \"horse\"/battery+staple";

LeakScan ScanFor(const std::string& value) {
  LeakScan scan;
  EXPECT_TRUE(scan.Add({.what = "the password", .value = Secret<>(value)}));
  return scan;
}

std::vector<std::string> Whats(const std::vector<Leak>& leaks) {
  std::vector<std::string> whats;
  for (const Leak& leak : leaks) whats.push_back(leak.what);
  return whats;
}

class Folder {
 public:
  Folder() {
    std::string name = (fs::temp_directory_path() / "nova-leak-test-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp");
    path_ = name;
  }
  ~Folder() { fs::remove_all(path_); }

  const fs::path& path() const { return path_; }
  void Write(const fs::path& name, std::string_view text) const {
    fs::create_directories((path_ / name).parent_path());
    std::ofstream(path_ / name, std::ios::binary) << text;
  }

 private:
  fs::path path_;
};

TEST(LeakScan, FindsAValueAsItIs) {
  const auto leaks = ScanFor(kPassword).Scan("a.log", std::string("first\nsecond ") + kPassword + " third\n");
  ASSERT_EQ(leaks.size(), 1U);
  EXPECT_EQ(leaks[0].ToString(), "the password, in a.log line 2");
}

// The encodings are those of other programs: python3's json, urllib.parse.quote, base64 and hex.
TEST(LeakScan, FindsAValueInEveryFormOfIt) {
  const LeakScan scan = ScanFor(kPassword);
  const auto found = [&](std::string_view text) { return Whats(scan.Scan("a.log", text)); };
  EXPECT_THAT(found(R"({"password": "correct \"horse\"/battery+staple"})"), ElementsAre("the password, as JSON"));
  EXPECT_THAT(found("/login?password=correct%20%22horse%22%2Fbattery%2Bstaple&x=1"),
              ElementsAre("the password, as in a URL"));
  EXPECT_THAT(found("/login?password=correct%20%22horse%22%2fbattery%2bstaple&x=1"),
              ElementsAre("the password, as in a URL"));
  EXPECT_THAT(found("636f72726563742022686f727365222f626174746572792b737461706c65"),
              ElementsAre("the password, in hex"));
  // "nova:", "nov:" and "no:" before it, so that it begins at each of the three places.
  EXPECT_THAT(found("Basic bm92YTpjb3JyZWN0ICJob3JzZSIvYmF0dGVyeStzdGFwbGU="), ElementsAre("the password, in base64"));
  EXPECT_THAT(found("Basic bm92OmNvcnJlY3QgImhvcnNlIi9iYXR0ZXJ5K3N0YXBsZQ=="), ElementsAre("the password, in base64"));
  EXPECT_THAT(found("Basic bm86Y29ycmVjdCAiaG9yc2UiL2JhdHRlcnkrc3RhcGxl"), ElementsAre("the password, in base64"));
}

TEST(LeakScan, TellsALeakAndNeverTheValue) {
  for (const Leak& leak : ScanFor(kPassword).Scan("a.log", kPassword))
    EXPECT_THAT(leak.ToString(), Not(HasSubstr("horse")));
}

TEST(LeakScan, DoesNotTakeHalfOfAValueForIt) {
  const std::string text(kPassword);
  EXPECT_THAT(ScanFor(text).Scan("a.log", text.substr(0, text.size() - 1)), IsEmpty());
  EXPECT_THAT(ScanFor(text).Scan("a.log", text.substr(1)), IsEmpty());
}

TEST(LeakScan, DoesNotLookForWhatIsFoundByChance) {
  LeakScan scan;
  EXPECT_FALSE(scan.Add({.what = "a short one", .value = Secret<>("1234567")}));
  EXPECT_FALSE(scan.Add({.what = "nothing", .value = {}}));
  EXPECT_EQ(scan.size(), 0U);
  EXPECT_THAT(scan.Scan("a.log", "1234567"), IsEmpty());
}

TEST(LeakScan, FindsWhatLooksLikeASecretOrAPerson) {
  const LeakScan scan;
  const auto found = [&](std::string_view text) { return Whats(scan.Scan("a.log", text)); };
  EXPECT_THAT(found("-----BEGIN PRIVATE KEY-----"), ElementsAre("a private key"));
  EXPECT_THAT(found("token=eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl rest"), ElementsAre("a JSON web token"));
  EXPECT_THAT(found("as AKIAIOSFODNN7EXAMPLE"), ElementsAre("the id of an AWS access key"));
  EXPECT_THAT(found("as ASIAIOSFODNN7EXAMPLE."), ElementsAre("the id of a temporary AWS access key"));
  EXPECT_THAT(found("postgresql://nova:hunter2@127.0.0.1:5432/x"), ElementsAre("a URL with a password"));
  EXPECT_THAT(found("mail to <ada.lovelace+x@mail.example.org>."), ElementsAre("an email address"));
}

TEST(LeakScan, DoesNotTakeForASecretWhatIsNone) {
  const LeakScan scan;
  for (const std::string_view text :
       {"-----BEGIN PUBLIC KEY-----", "identity/nova@127.0.0.1:6432", "nova@localhost closing", "at 12:30 @example",
        "http://127.0.0.1:5000/", "postgres://nova@db.example/nova", "postgres://nova:[redacted]@db/nova",
        "postgres://nova:***@db/nova", "as AKIA...CK00", "AKIAIOSFODNN7EXAMPLEX",
        "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhIn0", "eyJ.eyJ.x", "kid kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"})
    EXPECT_THAT(Whats(scan.Scan("a.log", text)), IsEmpty()) << text;
}

TEST(LeakScan, FindsEachLineOfAKeyByItself) {
  const auto key = auth::SigningKey::Generate(auth::Algorithm::kRs256);
  const std::string pem = key->ToPem()->Expose();
  LeakScan scan;
  for (const Mark& mark : MarksOfPem("the key", pem)) EXPECT_TRUE(scan.Add(mark));
  const std::size_t second = pem.find('\n', pem.find('\n') + 1) + 1;
  const std::string line = pem.substr(second, pem.find('\n', second) - second);
  ASSERT_EQ(line.size(), 64U);
  EXPECT_THAT(Whats(scan.Scan("a.log", "{\"key\":\"" + line + "\\n\"}")), ElementsAre("the key"));
}

TEST(LeakScan, ReadsWhatIsSecretFromFiles) {
  const auto key = auth::SigningKey::Generate(auth::Algorithm::kEs256);
  const std::string public_pem = *key->verification_key().ToPem();
  const Folder folder;
  folder.Write("audit.password", std::string(kPassword) + "\n");
  folder.Write("identity/tls.key", key->ToPem()->Expose());
  folder.Write("identity/tls.crt", public_pem);
  const auto marks = MarksIn(folder.path());
  ASSERT_TRUE(marks) << marks.error().ToString();
  LeakScan scan;
  for (const Mark& mark : *marks) EXPECT_TRUE(scan.Add(mark));
  EXPECT_EQ(scan.size(), 2U);
  EXPECT_THAT(scan.Scan("a.log", public_pem), IsEmpty());
  const std::string name = folder.path().filename().string();
  EXPECT_THAT(Whats(scan.Scan("a.log", key->ToPem()->Expose() + kPassword)),
              UnorderedElementsAre(name + "/audit.password", name + "/identity/tls.key", "a private key"));
  EXPECT_FALSE(MarksIn(folder.path() / "nowhere"));
}

TEST(LeakScan, ScansFoldersToTheirEnd) {
  const Folder logs;
  logs.Write("clean.log", "nothing here\n");
  logs.Write("old/identity.log.1", std::string(3 << 20, '.') + "\n" + kPassword);
  const auto scanned = ScanFor(kPassword).ScanFolder(logs.path());
  ASSERT_TRUE(scanned) << scanned.error().ToString();
  EXPECT_EQ(scanned->files, 2);
  EXPECT_GT(scanned->bytes, 3U << 20);
  ASSERT_EQ(scanned->leaks.size(), 1U);
  EXPECT_EQ(scanned->leaks[0].ToString(), "the password, in identity.log.1 line 2");
  EXPECT_FALSE(ScanFor(kPassword).ScanFolder(logs.path() / "nowhere"));
  EXPECT_FALSE(ScanFor(kPassword).ScanFile(logs.path() / "nowhere.log"));
}

TEST(LeakScan, FindsWhatItPlants) {
  const auto planted = ScanFor(kPassword).TryOut();
  ASSERT_TRUE(planted) << planted.error().ToString();
  EXPECT_EQ(*planted, 20);
}

}  // namespace
}  // namespace nova::audit
