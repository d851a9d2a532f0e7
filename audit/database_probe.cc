#include "audit/database_probe.h"

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <set>

#include "audit/samples.h"

namespace nova::audit {
namespace {

using postgres::AdminConsole;
using postgres::ConsoleTable;
using postgres::ConsoleView;
using postgres::Rows;
using postgres::Statement;
using runtime::Call;
using runtime::Task;
using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;
using Status = Row::Status;

constexpr Duration kAskLimit = seconds(10);
constexpr Duration kSeriesLimit = minutes(5);
constexpr Duration kCloseLimit = seconds(5);
// Untimed statements before a series: log-in, and PgBouncer's own connection to the server.
constexpr int kWarmUps = 20;
constexpr double kP95 = 0.95;
constexpr Duration kAddedLatencyLimit = milliseconds(5);
// PgBouncer's own database, the console.
constexpr std::string_view kConsoleDatabase = "pgbouncer";

constexpr Statement kSelectOne{"audit_select_one", "SELECT 1"};
constexpr Statement kMaxConnections{"audit_max_connections", "SELECT current_setting('max_connections')::int4"};
// Connections over a Unix socket have port -1. To a role without pg_monitor the kind and the port of others are NULL.
constexpr Statement kClientBackends{
    "audit_client_backends",
    "SELECT datname, coalesce(usename, ''), client_port FROM pg_stat_activity "
    "WHERE coalesce(backend_type, 'client backend') = 'client backend' AND datname IS NOT NULL "
    "AND pid <> pg_backend_pid()"};

postgres::PoolConfig OneConnection(const postgres::ConnectionConfig& connection) {
  postgres::PoolConfig pool;
  pool.connection = connection;
  pool.size_max = 1;
  return pool;
}

std::optional<std::int64_t> ToInteger(std::string_view text) {
  std::int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

std::string Of(std::size_t part, std::size_t whole) { return std::to_string(part) + " of " + std::to_string(whole); }

void Append(std::string& list, const std::string& item) { list += (list.empty() ? "" : "; ") + item; }

std::set<std::int64_t> ServerPorts(const ConsoleTable& servers) {
  std::set<std::int64_t> ports;
  for (std::size_t row = 0; row < servers.rows.size(); ++row) {
    if (const auto port = ToInteger(servers.Get(row, "local_port"))) ports.insert(*port);
  }
  return ports;
}

}  // namespace

DatabaseProbe::DatabaseProbe(runtime::Runtime& runtime, const AuditConfig& config)
    : runtime_(runtime),
      config_(config),
      through_(runtime, metrics_, database_, OneConnection(config.pooled)),
      around_(runtime, metrics_, database_, OneConnection(config.direct)) {}

DatabaseProbe::~DatabaseProbe() {
  // Every statement has ended, so both close at once.
  (void)through_.Close(kCloseLimit);
  (void)around_.Close(kCloseLimit);
}

const Result<DatabaseProbe::Console>& DatabaseProbe::Shown() {
  if (!shown_) {
    shown_ = runtime_.RunBlocking<Console>(kAskLimit, [this](Call& call) -> Task<Console> {
      NOVA_CO_TRY(const auto console, co_await AdminConsole::Open(call, config_.pgbouncer_admin));
      Console shown;
      NOVA_CO_TRY(shown.clients, co_await console->Show(call, ConsoleView::kClients));
      NOVA_CO_TRY(shown.config, co_await console->Show(call, ConsoleView::kConfig));
      NOVA_CO_TRY(shown.databases, co_await console->Show(call, ConsoleView::kDatabases));
      NOVA_CO_TRY(shown.pools, co_await console->Show(call, ConsoleView::kPools));
      NOVA_CO_TRY(shown.servers, co_await console->Show(call, ConsoleView::kServers));
      co_return shown;
    });
  }
  return *shown_;
}

Result<ConsoleTable> DatabaseProbe::ShowNow(ConsoleView view) {
  return runtime_.RunBlocking<ConsoleTable>(kAskLimit, [this, view](Call& call) -> Task<ConsoleTable> {
    NOVA_CO_TRY(const auto console, co_await AdminConsole::Open(call, config_.pgbouncer_admin));
    co_return co_await console->Show(call, view);
  });
}

Finding DatabaseProbe::Setting(std::string_view key, const std::function<bool(const std::string&)>& passes) {
  const auto& shown = Shown();
  if (!shown) return Finding::NotMeasured(shown.error().ToString());
  for (std::size_t row = 0; row < shown->config.rows.size(); ++row) {
    if (shown->config.Get(row, "key") != key) continue;
    const std::string value(shown->config.Get(row, "value"));
    return Finding::Judge(passes(value), value);
  }
  return Finding::NotMeasured("SHOW CONFIG has no " + std::string(key));
}

Finding DatabaseProbe::SettingIs(std::string_view key, std::string_view value) {
  return Setting(key, [value](const std::string& is) { return is == value; });
}

Finding DatabaseProbe::SettingIsAtLeast(std::string_view key, std::int64_t value) {
  return Setting(key, [value](const std::string& is) {
    const auto number = ToInteger(is);
    return number && *number >= value;
  });
}

Finding DatabaseProbe::PoolsInTransactionMode() {
  const auto& shown = Shown();
  if (!shown) return Finding::NotMeasured(shown.error().ToString());
  std::size_t pools = 0;
  std::size_t right = 0;
  std::string notes;
  for (std::size_t row = 0; row < shown->pools.rows.size(); ++row) {
    const std::string database(shown->pools.Get(row, "database"));
    if (database == kConsoleDatabase) continue;
    ++pools;
    const std::string mode(shown->pools.Get(row, "pool_mode"));
    if (mode == "transaction") {
      ++right;
    } else {
      Append(notes, database + "/" + std::string(shown->pools.Get(row, "user")) + " is in " + mode + " mode");
    }
  }
  if (pools == 0) return Finding::NotMeasured("there is no pool: nobody has connected yet");
  return Finding::Judge(right == pools, Of(right, pools), notes);
}

Finding DatabaseProbe::DatabasesWithinBudget() {
  const auto& shown = Shown();
  if (!shown) return Finding::NotMeasured(shown.error().ToString());
  const ConsoleTable& databases = shown->databases;
  std::size_t count = 0;
  std::size_t right = 0;
  std::string notes;
  std::string figures;
  for (std::size_t row = 0; row < databases.rows.size(); ++row) {
    const std::string name(databases.Get(row, "name"));
    if (name == kConsoleDatabase) continue;
    ++count;
    const std::string limit(databases.Get(row, "max_connections"));
    const auto service = std::ranges::find(config_.topology.services, name, &config::ServiceSpec::database);
    if (service == config_.topology.services.end()) {
      Append(notes, name + " is not in the budget");
    } else if (limit != std::to_string(service->max_db_connections)) {
      Append(notes, name + " has " + limit + " instead of " + std::to_string(service->max_db_connections));
    } else {
      ++right;
      figures += (figures.empty() ? "" : ", ") + name + " " + limit;
    }
  }
  // A service that runs reaches its database through this pooler or not at all.
  for (const ServiceTarget& service : config_.services) {
    const auto* const spec = config_.topology.Find(service.name);
    if (spec == nullptr || spec->database.empty()) continue;
    bool known = false;
    for (std::size_t row = 0; row < databases.rows.size(); ++row) known |= databases.Get(row, "name") == spec->database;
    if (known) continue;
    ++count;
    Append(notes, "PgBouncer does not know " + spec->database);
  }
  if (count == 0) return Finding::NotMeasured("PgBouncer has no database");
  return Finding::Judge(right == count, Of(right, count), notes.empty() ? figures : notes);
}

Finding DatabaseProbe::BudgetFitsServer() {
  const auto& shown = Shown();
  if (!shown) return Finding::NotMeasured(shown.error().ToString());
  const auto max_connections = runtime_.RunBlocking<std::int32_t>(kAskLimit, [this](Call& call) -> Task<std::int32_t> {
    NOVA_CO_TRY(const Rows rows, co_await around_.Query(call, kMaxConnections));
    co_return rows[0].Get<std::int32_t>(0);
  });
  if (!max_connections) return Finding::NotMeasured(max_connections.error().ToString());
  std::int64_t sum = 0;
  std::string unlimited;
  for (std::size_t row = 0; row < shown->databases.rows.size(); ++row) {
    const std::string name(shown->databases.Get(row, "name"));
    if (name == kConsoleDatabase) continue;
    const auto limit = ToInteger(shown->databases.Get(row, "max_connections"));
    // PgBouncer's 0 is "no limit".
    if (!limit || *limit == 0) {
      Append(unlimited, name);
    } else {
      sum += *limit;
    }
  }
  const std::int64_t over_replicas = sum * config_.topology.pgbouncer_replicas;
  const std::int64_t room = *max_connections - config_.topology.postgres_reserved_connections;
  const std::string figures = std::to_string(sum) + " times " + std::to_string(config_.topology.pgbouncer_replicas) +
                              " PgBouncer; PostgreSQL allows " + std::to_string(*max_connections) + " and keeps " +
                              std::to_string(config_.topology.postgres_reserved_connections);
  if (!unlimited.empty()) return Finding::Judge(false, "unlimited", "without a limit: " + unlimited);
  return Finding::Judge(over_replicas <= room, std::to_string(over_replicas) + " of " + std::to_string(room), figures);
}

Finding DatabaseProbe::TrafficPassesPooler() {
  // Another replica's connections cannot be told from those of somebody who goes around both.
  if (config_.topology.pgbouncer_replicas != 1)
    return Finding::NotMeasured("it compares with the connections of one pooler, and there are " +
                                std::to_string(config_.topology.pgbouncer_replicas));
  // Asked before and after, so that a connection that the pooler opens or closes meanwhile is known.
  const auto before = ShowNow(ConsoleView::kServers);
  if (!before) return Finding::NotMeasured(before.error().ToString());
  struct Backend {
    std::string database;
    std::string user;
    std::int64_t port = 0;
  };
  const auto backends =
      runtime_.RunBlocking<std::vector<Backend>>(kAskLimit, [this](Call& call) -> Task<std::vector<Backend>> {
        NOVA_CO_TRY(const Rows rows, co_await around_.Query(call, kClientBackends));
        std::vector<Backend> found;
        for (const auto row : rows) {
          Backend backend;
          std::optional<std::int64_t> port;
          NOVA_CO_TRY(row.Read(backend.database, backend.user, port));
          // Without the right to see others' connections every port is hidden, and the answer would be a guess.
          if (!port)
            co_return PermissionDenied("the audit's role may not see who is connected: GRANT pg_monitor to it");
          backend.port = *port;
          found.push_back(std::move(backend));
        }
        co_return found;
      });
  if (!backends) return Finding::NotMeasured(backends.error().ToString());
  const auto after = ShowNow(ConsoleView::kServers);
  if (!after) return Finding::NotMeasured(after.error().ToString());

  auto of_pooler = ServerPorts(*before);
  of_pooler.merge(ServerPorts(*after));
  std::size_t count = 0;
  std::size_t right = 0;
  std::string notes;
  for (const Backend& backend : *backends) {
    const bool of_service = std::ranges::find(config_.topology.services, backend.database,
                                              &config::ServiceSpec::database) != config_.topology.services.end();
    if (!of_service) continue;
    ++count;
    if (of_pooler.contains(backend.port)) {
      ++right;
    } else {
      Append(notes, backend.user + " is connected to " + backend.database + " directly");
    }
  }
  if (count == 0) return Finding::NotMeasured("no service is connected to its database");
  return Finding::Judge(right == count, Of(right, count), notes);
}

Finding DatabaseProbe::ConnectionsAreTls() {
  const auto& shown = Shown();
  if (!shown) return Finding::NotMeasured(shown.error().ToString());
  std::size_t count = 0;
  std::size_t encrypted = 0;
  std::string notes;
  std::set<std::string> protocols;
  for (const ConsoleTable* const table : {&shown->clients, &shown->servers}) {
    if (!table->Has("tls")) return Finding::NotMeasured("this PgBouncer does not show the TLS of its connections");
    for (std::size_t row = 0; row < table->rows.size(); ++row) {
      ++count;
      const std::string tls(table->Get(row, "tls"));
      if (tls.empty()) {
        Append(notes, std::string(table->Get(row, "user")) + " on " + std::string(table->Get(row, "database")) +
                          (table == &shown->clients ? " comes" : " is served") + " without TLS");
        continue;
      }
      ++encrypted;
      protocols.insert(tls.substr(0, tls.find('/')));
    }
  }
  for (const std::string& protocol : protocols) Append(notes, protocol);
  return Finding::Judge(encrypted == count, Of(encrypted, count), notes);
}

Task<DatabaseProbe::Latencies> DatabaseProbe::MeasureLatencies(Call& call) {
  Latencies latencies;
  for (int round = -kWarmUps; round < config_.latency_samples; ++round) {
    // The order changes every round, so that what one does to the caches of the other evens out.
    for (const bool pooled : {round % 2 == 0, round % 2 != 0}) {
      const SteadyTime start = Clock::System().Now();
      NOVA_CO_TRY(co_await (pooled ? through_ : around_).Query(call, kSelectOne));
      const Duration time = Clock::System().Now() - start;
      if (round >= 0) (pooled ? latencies.through : latencies.around).push_back(time);
    }
  }
  co_return latencies;
}

Finding DatabaseProbe::AddedLatency() {
  const auto measured =
      runtime_.RunBlocking<Latencies>(kSeriesLimit, [this](Call& call) { return MeasureLatencies(call); });
  if (!measured) return Finding::NotMeasured(measured.error().ToString());
  const Duration added = Percentile(measured->through, kP95) - Percentile(measured->around, kP95);
  return Finding::Judge(added < kAddedLatencyLimit, FormatMilliseconds(added),
                        std::to_string(measured->through.size()) + " pairs; through " + Describe(measured->through) +
                            "; around " + Describe(measured->around) + "; " + DescribeLoad());
}

}  // namespace nova::audit
