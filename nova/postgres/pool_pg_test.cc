#include <filesystem>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <limits>
#include <span>
#include <vector>

#include "nova/postgres/pg_test.h"
#include "nova/postgres/pool.h"
#include "nova/tls/authority.h"

namespace nova::postgres {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

using PoolTest = PgTest;

INSTANTIATE_TEST_SUITE_P(Routes, PoolTest, ::testing::Values(Route::kDirect, Route::kPooled), RouteName);

TEST_P(PoolTest, EveryTypeMakesTheRoundTrip) {
  const Uuid id = Uuid::New();
  const WallTime now = std::chrono::floor<std::chrono::microseconds>(Clock::System().WallNow());
  const WallTime early = WallTime(-3s) - 1us;
  const std::vector<std::uint8_t> bytes = {0, 1, 255, '\'', '\\'};
  const auto rows = Query("SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12", "it's\n\"text\"; --",
                          std::string("ü"), true, std::int32_t{-7}, std::int64_t{1} << 40, -0.1, id, now, early, bytes,
                          std::optional<std::string>(), std::optional<std::int64_t>(5));
  ASSERT_TRUE(rows.ok()) << rows.error().ToString();
  ASSERT_EQ(rows->size(), 1);
  struct {
    std::string literal, string;
    bool flag = false;
    std::int32_t small = 0;
    std::int64_t large = 0;
    double real = 0;
    Uuid id;
    WallTime now, early;
    std::vector<std::uint8_t> bytes;
    std::optional<std::string> none = "x";
    std::optional<std::int64_t> some;
  } got;
  const Result<void> read = (*rows)[0].Read(got.literal, got.string, got.flag, got.small, got.large, got.real, got.id,
                                            got.now, got.early, got.bytes, got.none, got.some);
  ASSERT_TRUE(read.ok()) << read.error().ToString();
  EXPECT_EQ(got.literal, "it's\n\"text\"; --");
  EXPECT_EQ(got.string, "ü");
  EXPECT_TRUE(got.flag);
  EXPECT_EQ(got.small, -7);
  EXPECT_EQ(got.large, std::int64_t{1} << 40);
  EXPECT_EQ(got.real, -0.1);
  EXPECT_EQ(got.id, id);
  EXPECT_EQ(got.now, now);
  EXPECT_EQ(got.early, early);
  EXPECT_EQ(got.bytes, bytes);
  EXPECT_EQ(got.none, std::nullopt);
  EXPECT_EQ(got.some, 5);
}

// A mistake made twice, when writing and when reading, would pass the round trip: here the server is the judge.
TEST_P(PoolTest, TheServerSeesTheSameValues) {
  const WallTime leap = WallTime(1'709'210'096s) + 789'012us;
  const auto rows =
      Query("SELECT $1 = '2024-02-29 12:34:56.789012Z'::timestamptz, $2::text = $3, $4 = 2.5, $5 = '\\xff00'", leap,
            Uuid(), "00000000-0000-0000-0000-000000000000", 2.5, std::vector<std::uint8_t>{0xff, 0});
  ASSERT_TRUE(rows.ok()) << rows.error().ToString();
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(*(*rows)[0].Get<bool>(i)) << i;
  EXPECT_EQ(*Query("SELECT '2024-02-29 14:34:56.789012+02'::timestamptz")->begin().operator*().Get<WallTime>(0), leap);
}

TEST_P(PoolTest, TheServerSeesTheSameArrays) {
  const std::vector<Uuid> ids = {Uuid(), *Uuid::Parse("01234567-89ab-cdef-0123-456789abcdef")};
  const std::vector<std::int64_t> numbers = {std::numeric_limits<std::int64_t>::min(), -1, 0,
                                             std::numeric_limits<std::int64_t>::max()};
  // What would need quoting in the text form.
  const std::vector<std::string> texts = {"", "a,b", "{\"x\"}", "NULL", "back\\slash", " ü "};
  const auto rows = Query(
      "SELECT $1 = ARRAY['00000000-0000-0000-0000-000000000000', '01234567-89ab-cdef-0123-456789abcdef']::uuid[], "
      "$2 = ARRAY[-9223372036854775808, -1, 0, 9223372036854775807], "
      "$3 = ARRAY['', 'a,b', '{\"x\"}', 'NULL', 'back\\slash', ' ü '], "
      "$4 = '{}'::uuid[], $5 = '{}'::bigint[], $6 = '{}'::text[], $7 IS NULL, $8[1] = 7",
      ids, std::span<const std::int64_t>(numbers), texts, std::vector<Uuid>(), std::vector<std::int64_t>(),
      std::vector<std::string>(), std::optional<std::vector<Uuid>>(), std::optional(std::vector<std::int64_t>{7}));
  ASSERT_TRUE(rows.ok()) << rows.error().ToString();
  for (int i = 0; i < 8; ++i) EXPECT_TRUE(*(*rows)[0].Get<bool>(i)) << i;
}

TEST_P(PoolTest, AnArrayIsSearchedAndUnnestedInItsOrder) {
  const std::vector<std::int64_t> numbers = {3, 1, 2, 1};
  const std::vector<std::string> names = {"three", "one", "two", "one again"};
  const auto rows = Query("SELECT number, name, number = ANY ($3) FROM unnest($1, $2) AS batch (number, name)", numbers,
                          names, std::vector<std::int64_t>{1, 4});
  ASSERT_TRUE(rows.ok()) << rows.error().ToString();
  ASSERT_EQ(rows->size(), 4);
  for (int i = 0; i < 4; ++i) {
    std::int64_t number = 0;
    std::string name;
    bool found = false;
    ASSERT_TRUE((*rows)[i].Read(number, name, found));
    EXPECT_EQ(number, numbers[static_cast<std::size_t>(i)]);
    EXPECT_EQ(name, names[static_cast<std::size_t>(i)]);
    EXPECT_EQ(found, number == 1);
  }
}

TEST_P(PoolTest, AStringWithANulByteIsRefused) {
  const auto rows = Query("SELECT $1", std::string_view("a\0b", 3));
  ASSERT_FALSE(rows.ok());
  EXPECT_EQ(rows.error().code(), Code::kInternal);
}

TEST_P(PoolTest, ManyRowsAreIteratedInOrder) {
  const auto rows = Query("SELECT i::bigint, repeat('x', 1000) FROM generate_series(1, 5000) i");
  ASSERT_TRUE(rows.ok()) << rows.error().ToString();
  EXPECT_EQ(rows->size(), 5000);
  std::int64_t expected = 0;
  for (const Row row : *rows) {
    std::int64_t i = 0;
    std::string_view text;
    ASSERT_TRUE(row.Read(i, text).ok());
    ASSERT_EQ(i, ++expected);
    ASSERT_EQ(text.size(), 1000u);
  }
}

TEST_P(PoolTest, ALargeParameterIsSentWhole) {
  const std::string large(8 << 20, 'x');
  const auto rows = Query("SELECT length($1)", large);
  ASSERT_TRUE(rows.ok()) << rows.error().ToString();
  EXPECT_EQ(*(*rows)[0].Get<std::int64_t>(0), 8 << 20);
}

TEST_P(PoolTest, ErrorsOfTheServerBecomeCodes) {
  Must("DROP TABLE IF EXISTS person");
  Must(
      "CREATE TABLE person (id int PRIMARY KEY, email text NOT NULL CONSTRAINT person_email_key UNIQUE, "
      "age int CONSTRAINT person_age_check CHECK (age >= 0), parent int CONSTRAINT person_parent_fkey REFERENCES "
      "person)");
  const auto inserted = Query("INSERT INTO person VALUES (1, $1, 1, NULL), (2, 'b', 1, 1)", "alice@example.org");
  ASSERT_TRUE(inserted.ok());
  EXPECT_EQ(inserted->affected(), 2);
  EXPECT_TRUE(inserted->empty());
  EXPECT_EQ(Query("UPDATE person SET age = 2 WHERE id = 7")->affected(), 0);

  const auto twice = Query("INSERT INTO person VALUES (3, $1)", "alice@example.org");
  ASSERT_FALSE(twice.ok());
  EXPECT_EQ(twice.error().code(), Code::kAlreadyExists);
  EXPECT_TRUE(ViolatesConstraint(twice.error(), "person_email_key"));
  EXPECT_THAT(twice.error().ToString(), Not(HasSubstr("alice"))) << "values are not for the log";
  EXPECT_THAT(twice.error().message(), Not(HasSubstr("person")));

  const auto check = Query("INSERT INTO person VALUES (3, 'c', -1)");
  EXPECT_EQ(check.error().code(), Code::kFailedPrecondition);
  EXPECT_TRUE(ViolatesConstraint(check.error(), "person_age_check"));
  const auto foreign = Query("INSERT INTO person VALUES (3, 'c', 1, 99)");
  EXPECT_EQ(foreign.error().code(), Code::kFailedPrecondition);
  EXPECT_TRUE(ViolatesConstraint(foreign.error(), "person_parent_fkey"));
  const auto null = Query("INSERT INTO person VALUES (3, NULL)");
  EXPECT_EQ(null.error().code(), Code::kFailedPrecondition);
  EXPECT_EQ(SqlErrorOf(null.error())->state, "23502");

  const auto syntax = Query("SELEC 1");
  EXPECT_EQ(syntax.error().code(), Code::kInternal);
  EXPECT_EQ(syntax.error().message(), "internal error");
  EXPECT_THAT(syntax.error().detail(), HasSubstr("statement=test"));
  const auto quoting = Query("SELECT $1::uuid", "alice@example.org");
  EXPECT_EQ(quoting.error().code(), Code::kInternal);
  EXPECT_THAT(quoting.error().ToString(), Not(HasSubstr("alice")));
  EXPECT_EQ(Query("COPY person TO STDOUT").error().code(), Code::kInternal);

  EXPECT_EQ(Value("SELECT count(*) FROM person"), 2);
}

TEST_P(PoolTest, AnErrorDoesNotCostTheConnection) {
  Must("SELECT 1");
  EXPECT_FALSE(Query("SELECT 1 / 0").ok());
  EXPECT_EQ(Connections("idle"), 1);
  EXPECT_EQ(Connections("in_use"), 0);
}

TEST_P(PoolTest, ANameIsResolvedAndTheCertificateMustBearIt) {
  PoolConfig config = Defaults();
  config.connection.host = "localhost";
  MakePool(config);
  Must("SELECT 1");
}

TEST_P(PoolTest, ACertificateOfAnotherAuthorityIsRefused) {
  const auto folder = std::filesystem::path(::testing::TempDir()) / ("other-ca-" + Uuid::New().ToString());
  ASSERT_TRUE(tls::Authority::Create(folder, Clock::System()).ok());
  PoolConfig config = Defaults();
  config.connection.ssl_root_cert = (folder / "ca.crt").string();
  MakePool(config);
  const auto rows = Query("SELECT 1");
  std::filesystem::remove_all(folder);
  ASSERT_FALSE(rows.ok());
  EXPECT_EQ(rows.error().code(), Code::kUnavailable);
  EXPECT_THAT(rows.error().detail(), HasSubstr("certificate"));
}

TEST_P(PoolTest, AReplacedRootFileIsUsedByTheNextConnectionAndTheLifetimeBoundsTheOthers) {
  const auto folder = std::filesystem::path(::testing::TempDir()) / ("replaced-ca-" + Uuid::New().ToString());
  ASSERT_TRUE(tls::Authority::Create(folder, Clock::System()).ok());
  const auto file = folder / "root.crt";
  const auto replace = [&](const std::filesystem::path& by) {
    std::filesystem::copy_file(by, folder / "next.crt", std::filesystem::copy_options::overwrite_existing);
    std::filesystem::rename(folder / "next.crt", file);
  };
  replace(Server().ca_file());
  PoolConfig config = Defaults();
  config.size_max = 1;
  config.connection.ssl_root_cert = file.string();
  config.lifetime = 2s;
  MakePool(config);
  Must("SELECT 1");
  // The one connection was verified before; what is made after its end is not.
  replace(folder / "ca.crt");
  const SteadyTime withdrawn = Clock::System().Now();
  EXPECT_TRUE(Eventually([&] { return !Query("SELECT 1").ok(); }));
  EXPECT_LT(Clock::System().Now() - withdrawn, 2s * 1.2 + 3s);
  EXPECT_THAT(Query("SELECT 1").error().detail(), HasSubstr("certificate"));
  replace(Server().ca_file());
  EXPECT_TRUE(Eventually([&] { return Query("SELECT 1").ok(); }));
  std::filesystem::remove_all(folder);
}

TEST_P(PoolTest, AFailedLogInShowsNoPassword) {
  constexpr std::string_view kWrong = "wrong-horse-battery";
  for (const char* user : {"pool", "nobody"}) {
    PoolConfig config = Defaults();
    config.connection.user = user;
    config.connection.password = Secret<>(std::string(kWrong));
    MakePool(config);
    const auto rows = Query("SELECT 1");
    ASSERT_FALSE(rows.ok());
    EXPECT_EQ(rows.error().code(), Code::kUnavailable);
    EXPECT_THAT(rows.error().ToString(), Not(HasSubstr(kWrong)));
  }
  PoolConfig config = Defaults();
  config.connection.database = "nowhere";
  MakePool(config);
  const auto rows = Query("SELECT 1");
  ASSERT_FALSE(rows.ok());
  EXPECT_EQ(rows.error().code(), Code::kUnavailable);
  EXPECT_THAT(rows.error().ToString(), Not(HasSubstr(config.connection.password.Expose())));
}

TEST_P(PoolTest, ACancelledStatementEndsInTheServer) {
  Must("SELECT 1");
  const auto pid = IsDirect() ? Value<std::int32_t>("SELECT pg_backend_pid()") : 0;
  Started<Rows> sleep(
      runtime_, [&](Call& call) { return pool_->Query(call, {"sleep", "SELECT pg_sleep(9) /* cancelled nap */"}); });
  ASSERT_TRUE(Eventually([] { return Active("cancelled nap") == 1; }));
  const SteadyTime begin = Clock::System().Now();
  sleep.Cancel();
  const auto rows = sleep.Get();
  ASSERT_FALSE(rows.ok());
  EXPECT_EQ(rows.error().code(), Code::kCancelled);
  EXPECT_EQ(rows.error().message(), "the client went away");
  EXPECT_TRUE(Settled(1)) << "a confirmed cancel keeps the connection";
  EXPECT_LT(Clock::System().Now() - begin, 5s) << "it should take neither the whole drain nor the whole nap";
  EXPECT_EQ(Active("cancelled nap"), 0);
  if (IsDirect()) {
    EXPECT_EQ(Value<std::int32_t>("SELECT pg_backend_pid()"), pid);
  }
  Must("SELECT 1");
}

TEST_P(PoolTest, ADeadlineEndsTheStatementInTheServer) {
  Must("SELECT 1");
  const auto rows = runtime_.RunBlocking<Rows>(
      300ms, [&](Call& call) { return pool_->Query(call, {"sleep", "SELECT pg_sleep(9) /* late nap */"}); });
  ASSERT_FALSE(rows.ok());
  EXPECT_EQ(rows.error().code(), Code::kDeadlineExceeded);
  EXPECT_EQ(rows.error().message(), "the deadline of the call has passed");
  EXPECT_THAT(rows.error().detail(), HasSubstr("statement=sleep"));
  EXPECT_TRUE(Settled(1));
  EXPECT_EQ(Active("late nap"), 0);
}

TEST_P(PoolTest, TheTimeoutOfTheDependencyHoldsForACallThatHasMoreTime) {
  auto policies = Policies();
  policies.timeout = 1s;
  MakePool(Defaults(), policies);
  const auto rows = Query("SELECT pg_sleep(9) /* long nap */");
  ASSERT_FALSE(rows.ok());
  EXPECT_EQ(rows.error().code(), Code::kDeadlineExceeded);
  EXPECT_THAT(rows.error().detail(), HasSubstr("RESILIENCE_POSTGRES_TIMEOUT_MS"));
  EXPECT_THAT(rows.error().detail(), HasSubstr("statement=test"));
  EXPECT_TRUE(Settled(1));
  EXPECT_EQ(Active("long nap"), 0);
}

TEST_P(PoolTest, AnEndedCallReachesNobody) {
  const auto rows = runtime_.RunBlocking<Rows>(kSoon, [&](Call& call) -> Task<Rows> {
    call.Cancel(Cancelled("the client went away"));
    co_return co_await pool_->Query(call, {"test", "SELECT 1"});
  });
  EXPECT_EQ(rows.error().code(), Code::kCancelled);
  EXPECT_EQ(Connections("idle"), 0);
}

TEST_P(PoolTest, WaitersAreServedInOrderAndBounded) {
  Must("DROP SEQUENCE IF EXISTS turn");
  Must("CREATE SEQUENCE turn");
  PoolConfig config = Defaults();
  config.size_max = 1;
  config.waiters_max = 3;
  config.acquire_timeout = 15s;
  MakePool(config);

  const OneShot<bool> go;
  Started<bool> holder(
      runtime_, [&](Call& call) { return pool_->InTransaction(call, [&](Transaction&) { return go.Wait(call); }); });
  ASSERT_TRUE(Eventually([&] { return Connections("in_use") == 1; }));

  std::vector<std::unique_ptr<Started<Rows>>> waiters;
  const auto wait = [&] {
    waiters.push_back(std::make_unique<Started<Rows>>(
        runtime_, [&](Call& call) { return pool_->Query(call, {"turn", "SELECT nextval('turn')"}); }));
  };
  for (int i = 1; i <= 3; ++i) {
    wait();
    ASSERT_TRUE(Eventually([&] { return Waiters() == i; }));
  }
  const SteadyTime begin = Clock::System().Now();
  const auto refused = Query("SELECT 1");
  EXPECT_EQ(refused.error().code(), Code::kResourceExhausted);
  EXPECT_THAT(refused.error().detail(), HasSubstr("postgres.waiters_max"));
  EXPECT_LT(Clock::System().Now() - begin, 5s);

  // One in the middle gives up: its place is free again, and the others keep their order.
  waiters[1]->Cancel();
  EXPECT_EQ(waiters[1]->Get().error().code(), Code::kCancelled);
  EXPECT_EQ(Waiters(), 2);
  wait();
  ASSERT_TRUE(Eventually([&] { return Waiters() == 3; }));

  EXPECT_TRUE(go.TrySet(true));
  EXPECT_TRUE(holder.Get().ok());
  std::int64_t turn = 0;
  for (const std::size_t i : {0u, 2u, 3u}) {
    const auto rows = waiters[i]->Get();
    ASSERT_TRUE(rows.ok()) << rows.error().ToString();
    EXPECT_EQ(*(*rows)[0].Get<std::int64_t>(0), ++turn);
  }
  EXPECT_EQ(Waiters(), 0);
  EXPECT_EQ(Connections("idle"), 1);
}

TEST_P(PoolTest, AcquireTimeoutSaysThatTheDatabaseIsBusy) {
  PoolConfig config = Defaults();
  config.size_max = 1;
  config.acquire_timeout = 50ms;
  MakePool(config);
  const OneShot<bool> go;
  Started<bool> holder(
      runtime_, [&](Call& call) { return pool_->InTransaction(call, [&](Transaction&) { return go.Wait(call); }); });
  ASSERT_TRUE(Eventually([&] { return Connections("in_use") == 1; }));
  const auto rows = Query("SELECT 1");
  EXPECT_EQ(rows.error().code(), Code::kResourceExhausted);
  EXPECT_THAT(rows.error().detail(), HasSubstr("postgres.acquire_timeout"));
  EXPECT_EQ(Waiters(), 0);
  EXPECT_TRUE(go.TrySet(true));
  EXPECT_TRUE(holder.Get().ok());
  Must("SELECT 1");
}

TEST_P(PoolTest, AWaiterGetsTheRightToOpenWhenTheConnectionBroke) {
  PoolConfig config = Defaults();
  config.size_max = 1;
  config.acquire_timeout = 15s;
  MakePool(config);
  Started<Rows> first(runtime_,
                      [&](Call& call) { return pool_->Query(call, {"sleep", "SELECT pg_sleep(9) /* killed nap */"}); });
  ASSERT_TRUE(Eventually([] { return Active("killed nap") == 1; }));
  Started<Rows> second(runtime_, [&](Call& call) { return pool_->Query(call, {"test", "SELECT 1"}); });
  ASSERT_TRUE(Eventually([&] { return Waiters() == 1; }));
  Server().Query(
      "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%killed nap%' AND pid <> "
      "pg_backend_pid()");
  const auto rows = first.Get();
  ASSERT_FALSE(rows.ok());
  EXPECT_EQ(rows.error().code(), Code::kUnavailable);
  const auto served = second.Get();
  EXPECT_TRUE(served.ok()) << served.error().ToString();
}

TEST_P(PoolTest, IdleConnectionsThatDiedAreReplaced) {
  // Four at once, so that there are several to drop.
  std::vector<std::unique_ptr<Started<Rows>>> started;
  for (int i = 0; i < 4; ++i) {
    started.push_back(std::make_unique<Started<Rows>>(
        runtime_, [&](Call& call) { return pool_->Query(call, {"test", "SELECT pg_sleep(0.2)"}); }));
  }
  for (const auto& each : started) ASSERT_TRUE(each->Get().ok());
  ASSERT_EQ(Connections("idle"), 4);
  if (IsDirect()) {
    Server().Query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'pool'");
    ASSERT_TRUE(Eventually([] {
      return Server().Query("SELECT count(*) AS n FROM pg_stat_activity WHERE datname = 'pool'").Get(0, "n") == "0";
    }));
  } else {
    Server().KillPooler();
    Server().RestartPooler();
  }
  Must("SELECT 1");
  EXPECT_EQ(Connections("idle"), 1);
  EXPECT_EQ(Connections("in_use"), 0);
}

TEST_P(PoolTest, ConnectionsCloseAtTheEndOfTheirLife) {
  PoolConfig config = Defaults();
  config.lifetime = 100ms;
  MakePool(config);
  Must("SELECT 1");
  EXPECT_TRUE(Eventually([&] { return Connections("idle") == 0; })) << "nobody has to use it for that";
  // One that is in use at that time closes when it is given back.
  Must("SELECT pg_sleep(0.3)");
  EXPECT_EQ(Connections("idle"), 0);
  EXPECT_EQ(Connections("in_use"), 0);
}

TEST_P(PoolTest, AStalledPeerCostsTheDeadlineAndNoMore) {
  Must("SELECT 1");
  Pause();
  const SteadyTime begin = Clock::System().Now();
  const auto rows =
      runtime_.RunBlocking<Rows>(200ms, [&](Call& call) { return pool_->Query(call, {"test", "SELECT 1"}); });
  const Duration took = Clock::System().Now() - begin;
  const double in_use = Connections("in_use");
  Resume();
  ASSERT_FALSE(rows.ok());
  EXPECT_EQ(rows.error().code(), Code::kDeadlineExceeded);
  EXPECT_GE(took, 200ms);
  EXPECT_LT(took, 5s) << "the drain is not its caller's";
  EXPECT_EQ(in_use, 1);
  EXPECT_TRUE(Eventually([&] { return Connections("in_use") == 0; }));
  Must("SELECT 1");
}

TEST_P(PoolTest, ConnectTimeoutSaysThatTheDatabaseIsUnavailable) {
  PoolConfig config = Defaults();
  config.connect_timeout = 100ms;
  MakePool(config);
  Pause();
  const auto rows = Query("SELECT 1");
  Resume();
  ASSERT_FALSE(rows.ok());
  EXPECT_EQ(rows.error().code(), Code::kUnavailable);
  EXPECT_THAT(rows.error().detail(), HasSubstr("postgres.connect_timeout"));
}

TEST_P(PoolTest, PingAndMetrics) {
  const auto ping = [&] { return runtime_.RunBlocking<void>(kSoon, [&](Call& call) { return pool_->Ping(call); }); };
  EXPECT_TRUE(ping().ok());
  EXPECT_FALSE(Query("SELECT 1 / 0").ok());
  const std::string text = metrics_->Scrape();
  EXPECT_THAT(text, HasSubstr("nova_postgres_pool_connections{pool=\"main\",state=\"idle\"} 1"));
  EXPECT_THAT(text, HasSubstr("nova_postgres_pool_connections{pool=\"main\",state=\"in_use\"} 0"));
  EXPECT_THAT(text, HasSubstr("nova_postgres_waiters{pool=\"main\"} 0"));
  EXPECT_THAT(text, HasSubstr("nova_postgres_acquire_seconds_count{outcome=\"ok\",pool=\"main\"} 2"));
  EXPECT_THAT(text, HasSubstr("nova_postgres_query_seconds_count{outcome=\"OK\",pool=\"main\",statement=\"ping\"} 1"));
  EXPECT_THAT(text,
              HasSubstr("nova_postgres_query_seconds_count{outcome=\"INTERNAL\",pool=\"main\",statement=\"test\"} 1"));
}

TEST_P(PoolTest, CloseRefusesWaitsAndCloses) {
  PoolConfig config = Defaults();
  config.size_max = 1;
  MakePool(config);
  const OneShot<bool> go;
  Started<bool> holder(
      runtime_, [&](Call& call) { return pool_->InTransaction(call, [&](Transaction&) { return go.Wait(call); }); });
  ASSERT_TRUE(Eventually([&] { return Connections("in_use") == 1; }));
  Started<Rows> waiter(runtime_, [&](Call& call) { return pool_->Query(call, {"test", "SELECT 1"}); });
  ASSERT_TRUE(Eventually([&] { return Waiters() == 1; }));

  EXPECT_EQ(pool_->Close(50ms).error().code(), Code::kDeadlineExceeded);
  EXPECT_EQ(waiter.Get().error().code(), Code::kUnavailable);
  EXPECT_EQ(Query("SELECT 1").error().code(), Code::kUnavailable);
  EXPECT_TRUE(go.TrySet(true));
  EXPECT_TRUE(pool_->Close(kSoon).ok());
  EXPECT_TRUE(holder.Get().ok()) << "what was under way may finish";
  EXPECT_EQ(Connections("idle"), 0);
}

// Only PostgreSQL itself: PgBouncer would hold the clients until it is back.
TEST(PoolOutage, ADatabaseThatIsDownIsUnavailableAndComesBack) {
  auto& server = PostgresFixture::Instance();
  server.CreateDatabase("outage");
  runtime::Runtime runtime{{.threads = 2}};
  telemetry::Metrics metrics;
  resilience::DatabaseDependency database{"postgres", metrics};
  PoolConfig config;
  config.connection = server.Direct("outage");
  Pool pool(runtime, metrics, database, config);
  const auto ping = [&] { return runtime.RunBlocking<void>(kSoon, [&](Call& call) { return pool.Ping(call); }); };
  EXPECT_TRUE(ping().ok());
  server.KillPostgres();
  const auto down = ping();
  EXPECT_EQ(down.error().code(), Code::kUnavailable) << down.error().ToString();
  server.RestartPostgres();
  const auto back = ping();
  EXPECT_TRUE(back.ok()) << back.error().ToString();
  EXPECT_TRUE(pool.Close(kSoon).ok());
}

}  // namespace
}  // namespace nova::postgres
