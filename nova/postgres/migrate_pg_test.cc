#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "nova/postgres/migrate.h"
#include "nova/postgres/pg_test.h"
#include "nova/postgres/testdata/migrations.h"

namespace nova::postgres {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr Migration kFirst{1, "first", "CREATE TABLE a (id int); CREATE TABLE b (id int);"};
constexpr Migration kSecond{2, "second", "INSERT INTO a VALUES (2)"};
constexpr Migration kThird{3, "third", "INSERT INTO a VALUES (3)"};

class MigrateTest : public ::testing::Test {
 protected:
  static constexpr const char* kDatabase = "migrate";

  static PostgresFixture& Server() { return PostgresFixture::Instance(); }

  MigrateTest() { Server().RecreateDatabase(kDatabase); }

  Result<MigrationReport> Run(std::vector<Migration> migrations) {
    return runtime_.RunBlocking<MigrationReport>(
        kSoon, [&](Call& call) { return Migrate(call, Server().Direct(kDatabase), migrations); });
  }

  static std::string Value(const std::string& sql) { return Server().Query(sql, kDatabase).Get(0, "v"); }
  static bool Exists(const std::string& table) {
    return Value("SELECT to_regclass('public." + table + "') IS NOT NULL AS v") == "t";
  }

  runtime::Runtime runtime_{{.threads = 2}};
};

TEST_F(MigrateTest, AppliesInOrderOnce) {
  const auto first = Run({kFirst, kSecond});
  ASSERT_TRUE(first.ok()) << first.error().ToString();
  EXPECT_THAT(first->applied, ElementsAre("0001_first", "0002_second"));
  EXPECT_EQ(first->version, 2);
  const auto again = Run({kFirst, kSecond});
  ASSERT_TRUE(again.ok()) << again.error().ToString();
  EXPECT_THAT(again->applied, IsEmpty());
  EXPECT_EQ(again->version, 2);
  const auto more = Run({kFirst, kSecond, kThird});
  ASSERT_TRUE(more.ok()) << more.error().ToString();
  EXPECT_THAT(more->applied, ElementsAre("0003_third"));
  EXPECT_EQ(Value("SELECT string_agg(id::text, ',' ORDER BY id) AS v FROM a"), "2,3");
  EXPECT_EQ(Value("SELECT string_agg(version || name || encode(checksum, 'hex'), ',' ORDER BY version) AS v FROM "
                  "nova_migrations WHERE version = 2"),
            "2second" + Value("SELECT encode(sha256('INSERT INTO a VALUES (2)'), 'hex') AS v"));
}

TEST_F(MigrateTest, AChangedMigrationIsRefusedByName) {
  ASSERT_TRUE(Run({kFirst, kSecond}).ok());
  Migration changed = kFirst;
  changed.sql = "CREATE TABLE a (id bigint)";
  const auto refused = Run({changed, kSecond, kThird});
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code(), Code::kFailedPrecondition);
  EXPECT_THAT(refused.error().message(), HasSubstr("0001_first"));
  EXPECT_EQ(Value("SELECT count(*) AS v FROM a"), "1") << "nothing was applied";
}

TEST_F(MigrateTest, AFailedMigrationLeavesNothingBehindAndKeepsThoseBefore) {
  const Migration broken{2, "broken", "CREATE TABLE c (id int); INSERT INTO c VALUES (1); SELECT * FROM nowhere;"};
  const auto failed = Run({kFirst, broken, kThird});
  ASSERT_FALSE(failed.ok());
  EXPECT_EQ(failed.error().code(), Code::kFailedPrecondition);
  EXPECT_THAT(failed.error().message(), HasSubstr("0002_broken"));
  EXPECT_THAT(failed.error().detail(), HasSubstr("nowhere"));
  EXPECT_TRUE(Exists("b"));
  EXPECT_FALSE(Exists("c"));
  EXPECT_EQ(Value("SELECT max(version) AS v FROM nova_migrations"), "1");
  // Once it is repaired, it goes on from there.
  const auto repaired = Run({kFirst, kSecond, kThird});
  ASSERT_TRUE(repaired.ok()) << repaired.error().ToString();
  EXPECT_THAT(repaired->applied, ElementsAre("0002_second", "0003_third"));
}

TEST_F(MigrateTest, OneThatEndsItsTransactionIsRefused) {
  const auto refused = Run({{1, "commits", "CREATE TABLE a (id int); COMMIT; CREATE TABLE b (id int)"}});
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code(), Code::kFailedPrecondition);
  EXPECT_THAT(refused.error().message(), HasSubstr("0001_commits"));
}

TEST_F(MigrateTest, OneThatWasForgottenIsRefused) {
  ASSERT_TRUE(Run({kFirst, kThird}).ok());
  const auto refused = Run({kFirst, kSecond, kThird});
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code(), Code::kFailedPrecondition);
  EXPECT_THAT(refused.error().message(), HasSubstr("0002_second"));
}

TEST_F(MigrateTest, ANewerDatabaseIsLeftAlone) {
  ASSERT_TRUE(Run({kFirst, kSecond, kThird}).ok());
  const auto older = Run({kFirst, kSecond});
  ASSERT_TRUE(older.ok()) << older.error().ToString();
  EXPECT_THAT(older->applied, IsEmpty());
  EXPECT_EQ(older->version, 3);
}

TEST_F(MigrateTest, TwoHistoriesOfOneDatabaseDoNotSeeEachOther) {
  const auto run = [&](std::vector<Migration> migrations, std::string_view history) {
    return runtime_.RunBlocking<MigrationReport>(
        kSoon, [&](Call& call) { return Migrate(call, Server().Direct(kDatabase), migrations, history); });
  };
  const Migration others{1, "others", "CREATE TABLE other (id int)"};
  const auto chassis = run({others}, "nova_other_migrations");
  ASSERT_TRUE(chassis.ok()) << chassis.error().ToString();
  EXPECT_THAT(chassis->applied, ElementsAre("0001_others"));
  const auto service = Run({kFirst, kSecond});
  ASSERT_TRUE(service.ok()) << service.error().ToString();
  EXPECT_THAT(service->applied, ElementsAre("0001_first", "0002_second"));
  const auto again = run({others}, "nova_other_migrations");
  ASSERT_TRUE(again.ok()) << again.error().ToString();
  EXPECT_THAT(again->applied, IsEmpty());
  EXPECT_EQ(again->version, 1);
  EXPECT_EQ(Value("SELECT string_agg(name, ',') AS v FROM nova_other_migrations"), "others");
  EXPECT_EQ(Value("SELECT string_agg(name, ',' ORDER BY version) AS v FROM nova_migrations"), "first,second");
}

TEST_F(MigrateTest, AHistoryIsAPlainName) {
  for (const std::string_view name : {"", "a b", "a;b", "A", "1a", "a.b"}) {
    const auto refused = runtime_.RunBlocking<MigrationReport>(
        kSoon, [&](Call& call) { return Migrate(call, Server().Direct(kDatabase), {}, name); });
    ASSERT_FALSE(refused.ok()) << name;
    EXPECT_EQ(refused.error().code(), Code::kInvalidArgument) << name;
  }
}

TEST_F(MigrateTest, AListOutOfOrderIsRefused) {
  EXPECT_EQ(Run({kSecond, kFirst}).error().code(), Code::kInvalidArgument);
  EXPECT_EQ(Run({kFirst, kFirst}).error().code(), Code::kInvalidArgument);
  EXPECT_EQ(Run({{0, "zero", "SELECT 1"}}).error().code(), Code::kInvalidArgument);
  EXPECT_FALSE(Exists("nova_migrations"));
}

TEST_F(MigrateTest, TwoAtOnceDoTheWorkOnce) {
  // Slow enough that the second arrives while the first is at it.
  const std::vector<Migration> migrations = {{1, "slow", "SELECT pg_sleep(0.5); CREATE TABLE a (id int)"}, kSecond};
  const auto run = [&](Call& call) { return Migrate(call, Server().Direct(kDatabase), migrations); };
  std::vector<std::unique_ptr<Started<MigrationReport>>> started;
  for (int i = 0; i < 3; ++i) started.push_back(std::make_unique<Started<MigrationReport>>(runtime_, run));
  std::size_t applied = 0;
  for (const auto& each : started) {
    const auto report = each->Get();
    ASSERT_TRUE(report.ok()) << report.error().ToString();
    EXPECT_EQ(report->version, 2);
    applied += report->applied.size();
  }
  EXPECT_EQ(applied, 2u);
  EXPECT_EQ(Value("SELECT count(*) AS v FROM a"), "1");
}

TEST_F(MigrateTest, CancellationLeavesNothingBehindAndFreesTheLock) {
  const std::vector<Migration> slow = {
      {1, "slow", "CREATE TABLE a (id int); SELECT pg_sleep(15) /* slow migration */"}};
  Started<MigrationReport> started(runtime_,
                                   [&](Call& call) { return Migrate(call, Server().Direct(kDatabase), slow); });
  const auto active = [] {
    return Value(
        "SELECT count(*) AS v FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid() AND "
        "query LIKE '%slow migration%'");
  };
  ASSERT_TRUE(Eventually([&] { return active() == "1"; }));
  started.Cancel();
  EXPECT_EQ(started.Get().error().code(), Code::kCancelled);
  EXPECT_EQ(active(), "0");
  EXPECT_FALSE(Exists("a"));
  EXPECT_TRUE(Run({kFirst}).ok());
}

TEST_F(MigrateTest, AnUnreachableDatabaseIsUnavailable) {
  ConnectionConfig nowhere = Server().Direct(kDatabase);
  nowhere.port = tests::FreePort();
  const auto failed =
      runtime_.RunBlocking<MigrationReport>(kSoon, [&](Call& call) { return Migrate(call, nowhere, {&kFirst, 1}); });
  ASSERT_FALSE(failed.ok());
  EXPECT_EQ(failed.error().code(), Code::kUnavailable);
}

TEST_F(MigrateTest, EmbeddedFilesAreWhole) {
  const auto migrations = testdata::Migrations();
  ASSERT_EQ(migrations.size(), 2u);
  EXPECT_EQ(migrations[0].version, 1);
  EXPECT_EQ(migrations[0].name, "accounts");
  EXPECT_EQ(migrations[1].name, "sessions");
  const auto report = Run({migrations.begin(), migrations.end()});
  ASSERT_TRUE(report.ok()) << report.error().ToString();
  EXPECT_EQ(Value("INSERT INTO account VALUES (gen_random_uuid()) RETURNING tags::text AS v"), "{a;b,[c],it's}");
  EXPECT_EQ(Value("SELECT column_default AS v FROM information_schema.columns WHERE column_name = 'note'"),
            "'back\\slash'::text");
}

}  // namespace
}  // namespace nova::postgres
