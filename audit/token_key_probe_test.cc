// What is made of the keys, their use and their rotation, by what was seen; the live stack sees it.
#include "audit/token_key_probe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "nova/auth/keys.h"
#include "nova/secrets/jwt_secret.h"

namespace nova::audit {
namespace {

using runtime::Call;
using runtime::Task;
using std::chrono::days;
using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using Status = Row::Status;

constexpr const char* kSecret = "dev/nova/jwt";

std::string StatusPage(const std::string& secret, const std::string& signing_kid) {
  return R"({"serving":true,"secrets":{"aws_identity":{"source":"environment","name":"AKIA...CK00"},"jwt":{"secret":")" +
         secret + R"(","keys":[{"stage":"AWSCURRENT","kid":")" + signing_kid +
         R"(","signs":true},{"stage":"AWSPREVIOUS","kid":"old","signs":false}]}}})";
}

KeySource GoodSource() {
  return {
      .stored = {"new", "old"}, .published = {"new", "old"}, .signed_by = "new", .status = StatusPage(kSecret, "new")};
}

TEST(JudgeKeySource, KeysThatAreTheSamePass) {
  const Finding finding = JudgeKeySource(GoodSource(), kSecret);
  EXPECT_EQ(finding.status, Status::kPass) << finding.note;
  EXPECT_EQ(finding.value, "2 of 2");
  EXPECT_THAT(finding.note, AllOf(HasSubstr("AKIA...CK00 from environment"), HasSubstr("signed by new")));
}

TEST(JudgeKeySource, AKeyFromElsewhereFails) {
  KeySource seen = GoodSource();
  seen.published = {"elsewhere"};
  EXPECT_EQ(JudgeKeySource(seen, kSecret).status, Status::kFail);
  EXPECT_EQ(JudgeKeySource(seen, kSecret).value, "0 of 2");
  seen.published = {"new", "old", "elsewhere"};
  EXPECT_EQ(JudgeKeySource(seen, kSecret).status, Status::kFail);
  seen.published = {"new"};
  EXPECT_THAT(JudgeKeySource(seen, kSecret).note, StartsWith("the secret holds new, old, and published are new;"));
}

TEST(JudgeKeySource, AStatusPageThatSaysSomethingElseFails) {
  KeySource seen = GoodSource();
  EXPECT_THAT(JudgeKeySource(seen, "another").note, StartsWith("/statusz does not name the secret 'another'"));
  seen.status = StatusPage(kSecret, "old");
  EXPECT_THAT(JudgeKeySource(seen, kSecret).note, StartsWith("a new token is signed by new, which is not what"));
  for (const char* status : {"", "no json", "[]", "{}", R"({"secrets":1})",
                             R"({"secrets":{"jwt":{"secret":"dev/nova/jwt","keys":[{"kid":"new","signs":true}]}}})"}) {
    seen.status = status;
    EXPECT_EQ(JudgeKeySource(seen, kSecret).status, Status::kFail) << status;
  }
}

TEST(JudgeKeySource, ATokenOfAWithdrawnKeyFails) {
  KeySource seen = GoodSource();
  seen.signed_by = "withdrawn";
  seen.status = StatusPage(kSecret, "withdrawn");
  EXPECT_EQ(JudgeKeySource(seen, kSecret).status, Status::kFail);
}

Scraper::Scrapes Processes(std::string_view of_identity, std::string_view of_user) {
  Scraper::Scrapes processes;
  processes.emplace("identity", *Exposition::Parse(of_identity));
  processes.emplace("user", *Exposition::Parse(of_user));
  return processes;
}

constexpr std::string_view kReads =
    "nova_secrets_requests_total{operation=\"GetSecretValue\",result=\"ok\"} 40\n"
    "nova_secrets_requests_total{operation=\"GetSecretValue\",result=\"not_found\"} 20\n";

TEST(JudgeOperations, TheIssuerReadsAndNobodyElseDoesAnything) {
  const Finding finding = JudgeOperations(Processes(kReads, "up 1\n"), "identity");
  EXPECT_EQ(finding.status, Status::kPass) << finding.note;
  EXPECT_EQ(finding.value, "GetSecretValue only");
  EXPECT_EQ(finding.note, "40 answers to identity; nobody else has asked");
}

TEST(JudgeOperations, AnyOtherOperationFails) {
  const std::string wrote =
      std::string(kReads) + "nova_secrets_requests_total{operation=\"PutSecretValue\",result=\"access_denied\"} 1\n";
  const Finding finding = JudgeOperations(Processes(wrote, "up 1\n"), "identity");
  EXPECT_EQ(finding.status, Status::kFail);
  EXPECT_EQ(finding.value, "GetSecretValue, PutSecretValue");
}

TEST(JudgeOperations, AnotherReaderFails) {
  const Finding finding = JudgeOperations(Processes(kReads, kReads), "identity");
  EXPECT_EQ(finding.status, Status::kFail);
  EXPECT_THAT(finding.note, HasSubstr("user asked for GetSecretValue"));
}

TEST(JudgeOperations, WithoutAnAnswerNothingIsKnown) {
  EXPECT_EQ(JudgeOperations(Processes("up 1\n", "up 1\n"), "identity").status, Status::kNotMeasured);
  EXPECT_EQ(JudgeOperations({}, "identity").status, Status::kNotMeasured);
}

KeyRotations GoodRotations() {
  return {.rotations = {{.took = seconds(15), .first_token = milliseconds(2'100)},
                        {.took = seconds(16), .first_token = milliseconds(300)}},
          .planned = 2,
          .load = {.calls = 9'000, .tokens = 120, .by_key = {{"a", 40}, {"b", 40}, {"c", 40}}, .slowest = seconds(1)},
          .refused_by_identity = seconds(3),
          .refused_by_user = seconds(7),
          .limit = seconds(12),
          .processes = 5};
}

TEST(JudgeRotations, WhatNobodyNoticedPasses) {
  const Finding finding = JudgeRotations(GoodRotations());
  EXPECT_EQ(finding.status, Status::kPass);
  EXPECT_EQ(finding.value, "0");
  EXPECT_EQ(
      finding.note,
      "2 rotations of 15.0 s, first token of the new key 2.1 s later, 16.0 s, first token of the new key 0.3 s "
      "later; 9000 calls with 120 tokens of 3 keys; slowest call 1000.00 ms; a token of the withdrawn key refused "
      "by identity within 3.0 s; a token of the withdrawn key refused by user within 7.0 s; the same 5 processes "
      "before and after");
}

TEST(JudgeRotations, WhatSomebodyNoticedFails) {
  const auto note_of = [](const std::function<void(KeyRotations&)>& change) {
    KeyRotations seen = GoodRotations();
    change(seen);
    const Finding finding = JudgeRotations(seen);
    EXPECT_EQ(finding.status, Status::kFail) << finding.note;
    return finding.note;
  };
  EXPECT_THAT(note_of([](KeyRotations& seen) {
                seen.load.failed = 1;
                seen.load.first_failure = "user GetSettings: UNAUTHENTICATED";
              }),
              StartsWith("first failure: user GetSettings: UNAUTHENTICATED;"));
  EXPECT_THAT(note_of([](KeyRotations& seen) { seen.rotations[1].first_token.reset(); }),
              StartsWith("no token of the new key after rotation 2;"));
  EXPECT_THAT(note_of([](KeyRotations& seen) { seen.rotations.pop_back(); }),
              StartsWith("not all rotations were made"));
  EXPECT_THAT(note_of([](KeyRotations& seen) { seen.refused_by_user.reset(); }),
              StartsWith("a token of the withdrawn key is still accepted by user after 12.0 s"));
  EXPECT_THAT(note_of([](KeyRotations& seen) { seen.refused_by_identity.reset(); }),
              StartsWith("a token of the withdrawn key is still accepted by identity after 12.0 s"));
  EXPECT_THAT(note_of([](KeyRotations& seen) { seen.restarted = {"identity"}; }), StartsWith("identity was restarted"));
  EXPECT_THAT(note_of([](KeyRotations& seen) { seen.processes = 0; }), StartsWith("the processes are not known"));
}

// A secret of which one version is current, and maybe one is pending.
class OneSecret final : public secrets::SecretStore {
 public:
  explicit OneSecret(bool is_pending) : is_pending_(is_pending) {
    const auto key = *auth::SigningKey::Generate(auth::Algorithm::kEdDsa);
    auth::JwtConfig jwt;
    jwt.signing_key = *key.ToText();
    jwt.validation_key = Secret<>(*key.verification_key().ToPem());
    value_ = secrets::FormatJwtSecret(jwt);
  }

  Task<secrets::SecretValue> Fetch(Call&, std::string, std::string version, bool version_is_id) override {
    const bool is_there = !version_is_id && (version == "AWSCURRENT" || (version == "AWSPENDING" && is_pending_));
    if (!is_there) co_return secrets::Fail(secrets::Failure::kNotFound, "no such version");
    co_return secrets::SecretValue{.value = value_,
                                   .version_id = version == "AWSCURRENT" ? std::string(32, 'c') : std::string(32, 'p'),
                                   .stages = {version},
                                   .created_at = kCreated};
  }
  Task<void> Put(Call&, secrets::NewVersion) override { return Note(); }
  Task<void> MoveStage(Call&, std::string, std::string, std::string, std::string) override { return Note(); }
  Task<void> CreateSecret(Call&, secrets::NewVersion) override { return Note(); }

  static constexpr WallTime kCreated{seconds(1'700'000'000)};
  bool is_changed() const { return is_changed_; }

 private:
  Task<void> Note() {
    is_changed_ = true;
    co_return Ok();
  }

  const bool is_pending_;
  Secret<> value_;
  bool is_changed_ = false;
};

TEST(FindSchedule, FindsTheHourAndChangesNothing) {
  runtime::Runtime runtime;
  OneSecret secret(false);
  const auto schedule = FindSchedule(runtime, secret, kSecret, OneSecret::kCreated, days(400));
  ASSERT_TRUE(schedule) << schedule.error().ToString();
  EXPECT_EQ(schedule->due, days(90));
  EXPECT_FALSE(secret.is_changed());
}

TEST(FindSchedule, ARotationThatWasCutOffTellsNothing) {
  runtime::Runtime runtime;
  OneSecret secret(true);
  const auto schedule = FindSchedule(runtime, secret, kSecret, OneSecret::kCreated, days(400));
  ASSERT_FALSE(schedule);
  EXPECT_THAT(schedule.error().message(), HasSubstr("`nova secrets rotate`"));
  EXPECT_FALSE(secret.is_changed());
}

TEST(FindSchedule, OneThatIsNeverDueIsToldFromOneThatIs) {
  runtime::Runtime runtime;
  OneSecret secret(false);
  EXPECT_FALSE(FindSchedule(runtime, secret, kSecret, OneSecret::kCreated, days(89)));
}

}  // namespace
}  // namespace nova::audit
