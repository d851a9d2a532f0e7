#include "local/stack.h"

#include <algorithm>
#include <cstdlib>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>
#include <utility>

#include "local/ports.h"
#include "local/redis_server.h"
#include "local/secrets_manager.h"
#include "nova/auth/keys.h"
#include "nova/telemetry/log.h"
#include "nova/tls/authority.h"
#include "nova/tls/certificate.h"

namespace nova::local {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;
using std::chrono::seconds;

// Each is named as the principal of its certificate.
constexpr std::string_view kPostgres = kPostgresPrincipal;
constexpr std::string_view kPooler = kPoolerPrincipal;
constexpr std::string_view kRedis = kRedisPrincipal;
constexpr Duration kOrphanLimit = seconds(10);
constexpr Duration kTrimInterval = seconds(30);
// How often the files of certificates are compared.
constexpr Duration kWatchInterval = seconds(1);
// How often it is asked which of them are due, as a part of their lifetime; bounded below and above. By hand, one may
// be made for any lifetime. Whatever was replaced is asked about at once.
constexpr int kRenewalChecksPerLifetime = 60;
constexpr Duration kRenewalIntervalMin = seconds(1);
constexpr Duration kRenewalIntervalMax = seconds(5);
// Whoever works on the authority at this moment is not waited for longer: the supervisor has others to look after.
constexpr std::chrono::milliseconds kAuthorityPatience{100};
// After a renewal that failed, and after a server that did not read its new files.
constexpr Duration kRetryInterval = seconds(5);

std::string_view Variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string_view() : std::string_view(value);
}

std::int64_t WallMilliseconds() {
  return std::chrono::duration_cast<milliseconds>(Clock::System().WallNow().time_since_epoch()).count();
}

std::string UpperCase(std::string text) {
  std::ranges::transform(text, text.begin(),
                         [](char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c; });
  return text;
}

std::string ProgramName(const fs::path& program) {
  std::error_code error;
  fs::path target = fs::read_symlink(program, error);
  std::string name = (error ? program : target).filename().string();
  constexpr std::string_view kDeleted = " (deleted)";
  if (name.ends_with(kDeleted)) name.resize(name.size() - kDeleted.size());
  return name;
}

Duration RenewalInterval(seconds lifetime) {
  return std::clamp<Duration>(lifetime / kRenewalChecksPerLifetime, kRenewalIntervalMin, kRenewalIntervalMax);
}

}  // namespace

Result<fs::path> DataDirConfig::Path() const {
  if (!data_dir.empty()) return fs::path(data_dir);
  return DefaultDataDir(
      {{"XDG_DATA_HOME", std::string(Variable("XDG_DATA_HOME"))}, {"HOME", std::string(Variable("HOME"))}},
      ::geteuid());
}

void Bind(config::Config& config, DataDirConfig& folder) {
  config.Field("up.data_dir", folder.data_dir,
               {.help = "folder of the database, certificates and logs; default /var/lib/nova or ~/.local/share/nova",
                .flag = "data-dir"});
}

void Bind(config::Config& config, UpConfig& up) {
  Bind(config, up.folder);
  config.Field("up.port_base", up.port_base,
               {.help = "first port; services, PgBouncer, PostgreSQL and Redis count from it",
                .flag = "port-base",
                .min = 1024,
                .max = 65000});
  config.Field("up.leaf_lifetime", up.leaf_lifetime,
               {.help = "of a certificate; it is renewed when a third is left",
                .flag = "leaf-lifetime",
                .min = seconds(60),
                .max = std::chrono::days(365)});
  config.Field(
      "up.stable_after", up.stable_after,
      {.help = "a process that was ready so long is started again at once when it ends; others wait up to 10 s",
       .flag = "stable-after",
       .min = milliseconds(100),
       .max = std::chrono::minutes(10)});
}

// A server that reads its certificate when it starts, and again when it is told to.
class Stack::Server : public Component {
 public:
  explicit Server(const TlsFiles& files) : watch_(files) {}

  Result<void> Launch() final {
    ready_ = false;
    due_ = false;
    // What is there now it reads by itself; what comes a moment later is seen as a change.
    static_cast<void>(watch_.Changed());
    return LaunchServer();
  }
  Result<void> CheckReady(Duration limit) final {
    NOVA_TRY(CheckServer(limit));
    ready_ = true;
    return Ok();
  }

  // Not while it starts: until it handles signals, the one that reloads would end it. One that does not take the
  // command (Redis, while it reads its data or hangs) is told until it does.
  void ReloadIfChanged() {
    due_ = watch_.Changed() || due_;
    const Clock& clock = Clock::System();
    if (!due_ || !ready_ || !process()->Running() || clock.Now() < retry_at_) return;
    const auto reloaded = Reload();
    due_ = !reloaded;
    if (reloaded) {
      telemetry::LogInfo("a server reads its new certificate", {{"component", name()}});
      return;
    }
    retry_at_ = clock.Now() + kRetryInterval;
    telemetry::LogWarn("a server does not read its new certificate; it is tried again",
                       {{"component", name()}, {"error", reloaded.error()}});
  }

 protected:
  virtual Result<void> LaunchServer() = 0;
  virtual Result<void> CheckServer(Duration limit) = 0;
  virtual Result<void> Reload() = 0;

 private:
  CertificateWatch watch_;
  bool ready_ = false;
  bool due_ = false;
  SteadyTime retry_at_{};
};

// PostgreSQL, as the supervisor sees it.
class Stack::Postgres final : public Server {
 public:
  Postgres(PostgresConfig config, PostgresBinaries binaries)
      : Server(config.tls), config_(std::move(config)), binaries_(std::move(binaries)) {}

  std::string name() const override { return std::string(kPostgres); }
  int port() const override { return config_.port; }
  fs::path log_file() const override { return config_.log_file; }
  Duration ready_limit() const override { return PostgresServer::kReadyLimit; }
  Process* process() override { return server_ ? &server_->process() : nullptr; }
  Result<void> Stop() override { return server_->Stop(); }

  // Precondition: launched.
  PostgresServer& server() { return *server_; }

 private:
  Result<void> LaunchServer() override {
    server_.reset();
    NOVA_TRY(server_, PostgresServer::Launch(config_, binaries_));
    return Ok();
  }
  Result<void> CheckServer(Duration limit) override { return server_->CheckReady(limit); }
  Result<void> Reload() override { return server_->Reload(); }

  const PostgresConfig config_;
  const PostgresBinaries binaries_;
  std::optional<PostgresServer> server_;
};

// PgBouncer, as the supervisor sees it.
class Stack::Pooler final : public Server {
 public:
  explicit Pooler(PgBouncerConfig config) : Server(config.tls), config_(std::move(config)) {}

  std::string name() const override { return std::string(kPooler); }
  int port() const override { return config_.port; }
  fs::path log_file() const override { return config_.log_file; }
  Duration ready_limit() const override { return PgBouncer::kReadyLimit; }
  Process* process() override { return pooler_ ? &pooler_->process() : nullptr; }
  Result<void> Stop() override { return pooler_->Stop(); }

 private:
  Result<void> LaunchServer() override {
    pooler_.reset();
    NOVA_TRY(pooler_, PgBouncer::Launch(config_));
    return Ok();
  }
  Result<void> CheckServer(Duration limit) override { return pooler_->CheckReady(limit); }
  Result<void> Reload() override { return pooler_->Reload(); }

  const PgBouncerConfig config_;
  std::optional<PgBouncer> pooler_;
};

// Redis, as the supervisor sees it.
class Stack::Redis final : public Server {
 public:
  explicit Redis(RedisConfig config) : Server(config.tls), config_(std::move(config)) {}

  std::string name() const override { return std::string(kRedis); }
  int port() const override { return config_.port; }
  fs::path log_file() const override { return config_.log_file; }
  Duration ready_limit() const override { return RedisServer::kReadyLimit; }
  Process* process() override { return server_ ? &server_->process() : nullptr; }
  Result<void> Stop() override { return server_->Stop(); }

 private:
  Result<void> LaunchServer() override {
    server_.reset();
    NOVA_TRY(server_, RedisServer::Launch(config_));
    return Ok();
  }
  Result<void> CheckServer(Duration limit) override { return server_->CheckReady(limit); }
  Result<void> Reload() override { return server_->Reload(); }

  const RedisConfig config_;
  std::optional<RedisServer> server_;
};

// A service's process.
class Stack::Service final : public Component {
 public:
  Service(config::ServiceSpec spec, ProcessSpec process, ReadinessProbe& probe)
      : spec_(std::move(spec)), process_spec_(std::move(process)), probe_(probe) {}

  std::string name() const override { return spec_.name; }
  int port() const override { return spec_.grpc_port; }
  int admin_port() const override { return spec_.admin_port; }
  fs::path log_file() const override { return process_spec_.log_file; }
  Duration ready_limit() const override { return kServiceReadyLimit; }
  Result<void> Launch() override {
    process_.reset();
    NOVA_TRY(process_, Process::Spawn(process_spec_));
    return Ok();
  }
  Process* process() override { return process_ ? &*process_ : nullptr; }
  Result<void> CheckReady(Duration limit) override { return probe_.Check(spec_.admin_port, limit); }
  Result<void> Stop() override {
    NOVA_TRY(ExitStatus status, process_->Terminate({{SIGTERM, kServiceStopLimit}}));
    if (!status.clean()) {
      return Internal(
          fmt::format("{} stopped with {}; see {}", spec_.name, status.ToString(), process_spec_.log_file.string()));
    }
    return Ok();
  }

 private:
  const config::ServiceSpec spec_;
  const ProcessSpec process_spec_;
  ReadinessProbe& probe_;
  std::optional<Process> process_;
};

Stack::Stack(UpConfig config, StackPlan plan, DataDir folder, ServerAccounts accounts, PostgresBinaries binaries)
    : config_(std::move(config)),
      plan_(std::move(plan)),
      accounts_(std::move(accounts)),
      started_(Clock::System().Now()),
      started_at_ms_(WallMilliseconds()),
      binaries_(std::move(binaries)),
      folder_(std::move(folder)),
      certificates_(folder_.layout(), plan_.topology.principals, accounts_, config_.leaf_lifetime),
      supervisor_(std::make_unique<Supervisor>(signals_, SupervisorConfig{.stable_after = config_.stable_after,
                                                                          .changed = [this] { SaveState(phase_); },
                                                                          .chores = [this] { return Chores(); }})) {}

Stack::~Stack() {
  // Whoever wants the error calls Stop.
  static_cast<void>(Stop());
}

Result<std::unique_ptr<Stack>> Stack::Start(const UpConfig& config, StackPlan plan) {
  // What is missing on the machine is said before anything is written to it.
  NOVA_TRY(PostgresBinaries binaries, FindPostgres());
  NOVA_TRY(FindPgBouncer());
  NOVA_TRY(FindRedis());
  NOVA_TRY(ServerAccounts accounts, FindServerAccounts());

  NOVA_TRY(fs::path root, config.folder.Path());
  NOVA_TRY(DataDir folder, DataDir::Open(root, {.port_base = config.port_base}));
  const Layout& layout = folder.layout();
  NOVA_TRY(bool has_cluster, folder.HasCluster());
  if (has_cluster) {
    NOVA_TRY(binaries, FindPostgres(ClusterVersion(layout.cluster())));
  }
  if (has_cluster && !fs::exists(layout.password(kSuperuser))) {
    return FailedPrecondition(
        fmt::format("the data folder {} is damaged: {} is missing; restore it from a copy, or start "
                    "anew with `nova down --wipe`",
                    layout.root.string(), layout.password(kSuperuser).string()));
  }
  for (const auto& [server, user] : {std::pair("PostgreSQL", &accounts.postgres), {"Redis", &accounts.redis}}) {
    if (!user->has_value()) continue;
    if (auto closed = FirstClosedFolder(layout.root, **user)) {
      return FailedPrecondition(
          fmt::format("{0} runs as '{1}', who cannot enter {2}: chmod o+x {2}, or choose "
                      "another folder with --data-dir",
                      server, (*user)->name, closed->string()));
    }
  }

  // The children of a supervisor that was killed may need a moment, and still have their ports.
  NOVA_TRY(EndOrphans(layout.cluster(), kPostgres, kOrphanLimit));
  NOVA_TRY(EndOrphans(layout.pooler(), kPooler, kOrphanLimit));
  NOVA_TRY(EndRedisOrphans(layout.redis(), kOrphanLimit));
  const std::string program = ProgramName(plan.program);
  for (const config::ServiceSpec& service : plan.topology.services) {
    NOVA_TRY(EndOrphans(layout.service(service.name), program, kOrphanLimit));
  }

  std::vector<PortUse> ports{{plan.topology.postgres_port, "PostgreSQL"},
                             {plan.topology.pgbouncer_port, "PgBouncer"},
                             {plan.topology.redis_port, "Redis"}};
  for (const config::ServiceSpec& service : plan.topology.services) {
    ports.push_back({service.grpc_port, service.name});
    ports.push_back({service.admin_port, service.name + "'s admin port"});
  }
  NOVA_TRY(CheckPorts(ports, config.port_base));

  std::unique_ptr<Stack> stack(
      new Stack(config, std::move(plan), std::move(folder), std::move(accounts), std::move(binaries)));
  auto started = stack->StartAll(has_cluster);
  if (!started) return std::move(started).error();
  return stack;
}

Result<void> Stack::StartAll(bool has_cluster) {
  SaveState(Phase::kStarting);
  {
    Say("certificates: issuing what is due");
    NOVA_TRY(tls::Authority authority, tls::Authority::LoadOrCreate(layout().authority(), Clock::System()));
    NOVA_TRY(certificates_.RenewDue(authority).outcome);
  }
  for (const std::string& principal : certificates_.principals())
    watches_.emplace_back(TlsFiles::In(certificates_.FolderOf(principal)));
  if (plan_.prepare) NOVA_TRY(plan_.prepare(layout()));

  NOVA_TRY(auto postgres, MakePostgres(has_cluster));
  postgres_ = static_cast<Postgres*>(postgres.get());
  servers_.push_back(postgres_);
  Say("PostgreSQL: starting");
  NOVA_TRY(supervisor_->Start(std::move(postgres)));
  std::vector<ServiceDatabase> databases;
  for (const config::ServiceSpec& service : plan_.topology.services) {
    NOVA_TRY(Secret<> password, folder_.Password(service.role));
    databases.push_back({.name = service.database, .role = service.role, .password = std::move(password)});
  }
  NOVA_TRY(Secret<> audit_password, folder_.Password(kAuditRole));
  NOVA_TRY(postgres_->server().Provision(databases, audit_password));

  for (const config::ServiceSpec& service : plan_.topology.services) {
    Say(fmt::format("{}: migrating its database", service.name));
    NOVA_TRY(postgres::ConnectionConfig direct, DirectConnection(service));
    NOVA_TRY(plan_.migrate(service, direct));
  }

  Say("PgBouncer: starting");
  NOVA_TRY(auto pooler, MakePooler());
  servers_.push_back(static_cast<Pooler*>(pooler.get()));
  NOVA_TRY(supervisor_->Start(std::move(pooler)));

  Say("Redis: starting");
  NOVA_TRY(auto redis, MakeRedis());
  servers_.push_back(static_cast<Redis*>(redis.get()));
  NOVA_TRY(supervisor_->Start(std::move(redis)));

  for (const config::ServiceSpec& service : plan_.topology.services) {
    Say(fmt::format("{}: starting", service.name));
    NOVA_TRY(auto component, MakeService(service));
    NOVA_TRY(supervisor_->Start(std::move(component)));
  }
  ready_ = Clock::System().Now();
  renew_at_ = ready_ + RenewalInterval(config_.leaf_lifetime);
  SaveState(Phase::kReady);
  return Ok();
}

void Stack::Say(std::string_view what) const {
  if (plan_.progress) plan_.progress(what);
}

void Stack::SaveState(Phase phase) {
  phase_ = phase;
  auto written = WriteState(layout(), {.phase = phase,
                                       .supervisor = ::getpid(),
                                       .port_base = config_.port_base,
                                       .started_at_ms = started_at_ms_,
                                       .leaf_lifetime = config_.leaf_lifetime,
                                       .components = supervisor_->States()});
  // It costs `nova status` its truth, and nothing else.
  if (!written) telemetry::LogWarn("the state of the stack was not written", {{"error", written.error()}});
}

Result<std::unique_ptr<Component>> Stack::MakePostgres(bool has_cluster) {
  NOVA_TRY(Secret<> password, folder_.Password(kSuperuser));
  PostgresConfig config{.cluster = layout().cluster(),
                        .log_file = layout().log(kPostgres),
                        .port = plan_.topology.postgres_port,
                        .user = accounts_.postgres,
                        .superuser_password = std::move(password),
                        .tls = TlsFiles::In(layout().certificate(kPostgres)),
                        .max_connections = plan_.topology.postgres_max_connections};
  if (!has_cluster) {
    Say(fmt::format("PostgreSQL {}: making a new cluster, once", binaries_.major));
    NOVA_TRY(InitializeCluster(config, binaries_));
  }
  NOVA_TRY(folder_.MarkInitialized());
  return std::unique_ptr<Component>(std::make_unique<Postgres>(std::move(config), binaries_));
}

Result<std::unique_ptr<Component>> Stack::MakePooler() {
  NOVA_TRY(MakeDirectory(layout().pooler(), 0700, accounts_.postgres));
  const config::Topology& topology = plan_.topology;
  PgBouncerConfig config{.folder = layout().pooler(),
                         .log_file = layout().log(kPooler),
                         .port = topology.pgbouncer_port,
                         .user = accounts_.postgres,
                         .postgres_port = topology.postgres_port,
                         .databases = {},
                         .users = {},
                         .tls = TlsFiles::In(layout().certificate(kPooler)),
                         .client_connections_max = topology.pgbouncer_max_client_conn,
                         .pool_size = topology.pgbouncer_default_pool_size,
                         .query_timeout = topology.pgbouncer_query_timeout,
                         .server_lifetime = topology.pgbouncer_server_lifetime};
  for (const config::ServiceSpec& service : topology.services) {
    NOVA_TRY(Secret<> password, folder_.Password(service.role));
    config.databases.push_back({.name = service.database, .connections_max = service.max_db_connections});
    config.users.push_back({.name = service.role, .password = std::move(password)});
  }
  NOVA_TRY(Secret<> audit_password, folder_.Password(kAuditRole));
  config.users.push_back({.name = std::string(kAuditRole), .password = std::move(audit_password)});
  return std::unique_ptr<Component>(std::make_unique<Pooler>(std::move(config)));
}

Result<std::unique_ptr<Component>> Stack::MakeRedis() {
  NOVA_TRY(MakeDirectory(layout().redis(), 0700, accounts_.redis));
  RedisConfig config{.folder = layout().redis(),
                     .log_file = layout().log(kRedis),
                     .port = plan_.topology.redis_port,
                     .user = accounts_.redis,
                     .users = {},
                     .tls = TlsFiles::In(layout().certificate(kRedis))};
  for (const config::ServiceSpec& service : plan_.topology.services) {
    NOVA_TRY(Secret<> password, folder_.RedisPassword(service.name));
    config.users.push_back(
        {.name = service.name, .password = std::move(password), .rules = RedisServiceRules(service.name)});
  }
  NOVA_TRY(Secret<> audit_password, folder_.RedisPassword(kAuditRole));
  config.users.push_back(
      {.name = std::string(kAuditRole), .password = std::move(audit_password), .rules = RedisAuditRules()});
  return std::unique_ptr<Component>(std::make_unique<Redis>(std::move(config)));
}

Result<std::unique_ptr<Component>> Stack::MakeService(const config::ServiceSpec& spec) {
  NOVA_TRY(MakeDirectory(layout().service(spec.name), 0700));
  const TlsFiles own = TlsFiles::In(layout().certificate(spec.name));
  ServiceLaunch launch = plan_.launch(spec);
  std::map<std::string, std::string> environment{
      {"PATH", "/usr/bin:/bin"},
      {"APP_ENV", "development"},
      {"GRPC_SERVER_CERT_PATH", own.certificate.string()},
      {"GRPC_SERVER_KEY_PATH", own.key.string()},
      {"GRPC_CLIENT_CA_CERT_PATH", own.ca.string()},
      {"GRPC_REQUIRE_CLIENT_CERT", "true"},
      {"GRPC_SERVER_CA_CERT_PATH", own.ca.string()},
      {"GRPC_CLIENT_CERT_PATH", own.certificate.string()},
      {"GRPC_CLIENT_KEY_PATH", own.key.string()},
      {"NOVA_GRPC_ADDRESS", "127.0.0.1"},
      {"NOVA_GRPC_PORT", std::to_string(spec.grpc_port)},
      {"NOVA_ADMIN_ADDRESS", "127.0.0.1"},
      {"NOVA_ADMIN_PORT", std::to_string(spec.admin_port)},
      {"NOVA_POSTGRES_HOST", "127.0.0.1"},
      {"NOVA_POSTGRES_PORT", std::to_string(plan_.topology.pgbouncer_port)},
      {"NOVA_POSTGRES_DATABASE", spec.database},
      {"NOVA_POSTGRES_USER", spec.role},
      {"NOVA_POSTGRES_PASSWORD_FILE", layout().password(spec.role).string()},
      {"NOVA_POSTGRES_SSL_MODE", std::string(postgres::SslModeName(postgres::SslMode::kVerifyFull))},
      {"NOVA_POSTGRES_SSL_ROOT_CERT", own.ca.string()},
      {"NOVA_POSTGRES_APPLICATION_NAME", spec.name},
      {"NOVA_REDIS_HOST", "127.0.0.1"},
      {"NOVA_REDIS_PORT", std::to_string(plan_.topology.redis_port)},
      {"NOVA_REDIS_USER", spec.name},
      {"NOVA_REDIS_PASSWORD_FILE", layout().redis_password(spec.name).string()},
      {"NOVA_REDIS_TLS", "true"},
      {"NOVA_REDIS_CA_PATH", own.ca.string()},
      // Every certificate here is good for 127.0.0.1; this name is in one of them.
      {"NOVA_REDIS_SERVER_NAME", tls::ServiceDnsName(kRedisPrincipal)},
  };
  for (const config::ServiceSpec& peer : plan_.topology.services) {
    environment["NOVA_PEERS_" + UpperCase(peer.name) + "_TARGET"] = fmt::format("127.0.0.1:{}", peer.grpc_port);
  }
  if (spec.name == kTokenIssuer && !launch.environment.contains("AWS_SECRETS_JWT_NAME")) {
    const fs::path key_file = layout().signing_key();
    if (!fs::exists(key_file)) {
      NOVA_TRY(auth::SigningKey key, auth::SigningKey::Generate(auth::Algorithm::kEdDsa));
      NOVA_TRY(Secret<> pem, key.ToPem());
      NOVA_TRY(WriteFile(key_file, pem.Expose(), {.mode = 0600}));
    }
    environment["NOVA_AUTH_JWT_SIGNING_KEY_FILE"] = key_file.string();
    environment["NOVA_AUTH_JWT_ALGORITHM"] = auth::AlgorithmName(auth::Algorithm::kEdDsa);
  }
  // A secret has two names, and only one may be set: here the file that the stack decided on.
  std::erase_if(launch.environment,
                [&](const auto& variable) { return environment.contains(variable.first + "_FILE"); });
  environment.merge(launch.environment);
  ProcessSpec process{.name = spec.name,
                      .program = plan_.program,
                      .title = "nova",
                      .arguments = std::move(launch.arguments),
                      .environment = std::move(environment),
                      .working_directory = layout().service(spec.name),
                      .log_file = layout().log(spec.name)};
  return std::unique_ptr<Component>(std::make_unique<Service>(spec, std::move(process), probe_));
}

Result<postgres::ConnectionConfig> Stack::DirectConnection(const config::ServiceSpec& spec) const {
  NOVA_TRY(Secret<> password, folder_.Password(spec.role));
  return postgres::ConnectionConfig{.host = "127.0.0.1",
                                    .port = plan_.topology.postgres_port,
                                    .database = spec.database,
                                    .user = spec.role,
                                    .password = std::move(password),
                                    .ssl_mode = postgres::SslMode::kVerifyFull,
                                    .ssl_root_cert = (layout().certificate(spec.name) / "ca.crt").string(),
                                    .application_name = "nova-migrate"};
}

void Stack::Run() { supervisor_->Run(); }

Duration Stack::Chores() {
  const Clock& clock = Clock::System();
  // What somebody put there may be about to end.
  if (CertificatesChanged()) renew_at_ = std::min(renew_at_, clock.Now());
  if (clock.Now() >= renew_at_) {
    const auto renewed = RenewCertificates();
    renew_at_ = clock.Now() + (renewed ? RenewalInterval(config_.leaf_lifetime) : kRetryInterval);
    if (!renewed) telemetry::LogWarn("certificates are not renewed; it is tried again", {{"error", renewed.error()}});
  }
  for (Server* server : servers_) server->ReloadIfChanged();
  if (clock.Now() >= trim_at_) {
    TrimLogs();
    trim_at_ = clock.Now() + kTrimInterval;
  }
  return kWatchInterval;
}

bool Stack::CertificatesChanged() {
  bool changed = false;
  for (CertificateWatch& watch : watches_) changed = watch.Changed() || changed;
  // Each step of a replacement swaps this link; what a killed `nova certs` left undone is then due at once.
  std::error_code ignored;
  fs::path version = fs::read_symlink(layout().authority() / "..data", ignored);
  changed = changed || version != authority_version_;
  authority_version_ = std::move(version);
  return changed;
}

// The authority is opened for this alone, because `nova certs` works on it, too: while that does, this is ABORTED. One
// that is gone is not made anew under a stack that trusts it.
Result<void> Stack::RenewCertificates() {
  NOVA_TRY(tls::Authority authority, tls::Authority::Load(layout().authority(), Clock::System(), kAuthorityPatience));
  const Renewal renewal = certificates_.RenewDue(authority);
  for (const std::string& principal : renewal.changed) {
    telemetry::LogInfo("certificate renewed", {{"principal", principal}});
  }
  return renewal.outcome;
}

void Stack::TrimLogs() {
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(layout().logs(), error)) {
    if (entry.path().extension() != ".log" || entry.file_size(error) <= kLogBytesMax || error) continue;
    fs::path old = entry.path();
    old += ".1";
    // Its process has it open for appending, so it is copied and emptied: lines that come between the two are lost.
    fs::copy_file(entry.path(), old, fs::copy_options::overwrite_existing, error);
    if (!error) fs::resize_file(entry.path(), 0, error);
    if (error) telemetry::LogWarn("a log was not moved", {{"log", entry.path().string()}, {"why", error.message()}});
  }
}

Result<void> Stack::Stop() {
  if (phase_ == Phase::kStopped) return Ok();
  SaveState(Phase::kStopping);
  auto stopped = supervisor_->Stop();
  phase_ = Phase::kStopped;
  std::error_code ignored;
  fs::remove(layout().state(), ignored);
  return stopped;
}

std::string Stack::Summary(std::string_view login, std::string_view command) const {
  const config::Topology& topology = plan_.topology;
  std::string text = fmt::format("Nova is up ({:.1f} s)\n", std::chrono::duration<double>(ready_ - started_).count());
  std::size_t width = std::string_view("PostgreSQL").size();
  for (const config::ServiceSpec& service : topology.services) width = std::max(width, service.name.size());
  for (const config::ServiceSpec& service : topology.services) {
    text += fmt::format("  {:<{}}  grpc 127.0.0.1:{} (mTLS)   admin http://127.0.0.1:{}\n", service.name, width,
                        service.grpc_port, service.admin_port);
  }
  text += fmt::format("  {:<{}}  127.0.0.1:{}, for services through PgBouncer 127.0.0.1:{}\n", "PostgreSQL", width,
                      topology.postgres_port, topology.pgbouncer_port);
  text += fmt::format("  {:<{}}  127.0.0.1:{} (TLS)\n", "Redis", width, topology.redis_port);
  text += fmt::format("  {:<{}}  {}\n", "data", width, layout().root.string());
  if (!login.empty()) text += fmt::format("  {:<{}}  {}\n", "login", width, login);
  if (!command.empty()) text += fmt::format("  {:<{}}  {}\n", "try", width, command);
  text += "Ctrl-C stops everything; so does `nova down`.\n";
  return text;
}

}  // namespace nova::local
