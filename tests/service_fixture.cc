#include "tests/service_fixture.h"

namespace nova::tests {

using runtime::Call;

void MakeServiceDatabase(const std::string& name, std::span<const postgres::Migration> migrations) {
  auto& postgres = PostgresFixture::Instance();
  postgres.CreateDatabase(name);
  runtime::Runtime runtime({.threads = 1});
  (void)Must(runtime.RunBlocking<postgres::MigrationReport>(
      std::chrono::seconds(60), [&](Call& call) { return events::Migrate(call, postgres.Direct(name), migrations); }));
}

void EmptyServiceDatabase(const std::string& name) {
  // What was migrated stays known, and so does how far the stream got.
  (void)PostgresFixture::Instance().Query(
      "DO $$ BEGIN EXECUTE (SELECT 'TRUNCATE ' || string_agg(format('%I.%I', schemaname, tablename), ', ') "
      "FROM pg_tables WHERE schemaname IN ('public', 'events') "
      "AND tablename NOT IN ('nova_migrations', 'nova_events_migrations', 'relay_state')); END $$",
      name);
}

std::vector<std::string> PayloadsOf(const std::string& database, const std::string& type) {
  const auto result = PostgresFixture::Instance().Query(
      "SELECT encode(payload, 'hex') FROM events.outbox WHERE type = '" + type + "' ORDER BY position", database);
  std::vector<std::string> payloads;
  for (const local::SqlRow& row : result.rows) {
    const std::string hex = row[0].value_or("");
    std::string& payload = payloads.emplace_back();
    for (std::size_t i = 0; i < hex.size(); i += 2)
      payload.push_back(static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  }
  return payloads;
}

}  // namespace nova::tests
