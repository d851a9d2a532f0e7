// `nova up` from outside: this executable runs the stack in a process of its own (--up), and plays the service that the
// stack starts (--service). The test looks, kills, and looks again.
#include <boost/asio/ssl.hpp>
#include <cstdio>
#include <fmt/format.h>
#include <fstream>
#include <gtest/gtest.h>
#include <iostream>
#include <libpq-fe.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <poll.h>
#include <set>
#include <sstream>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "local/control.h"
#include "local/ports.h"
#include "local/process.h"
#include "local/redis_connection.h"
#include "local/redis_server.h"
#include "local/rotation.h"
#include "local/sql.h"
#include "local/stack.h"
#include "nova/http/admin.h"
#include "nova/http/server.h"
#include "nova/runtime/runtime.h"
#include "nova/runtime/scope.h"
#include "nova/telemetry/metrics.h"
#include "nova/tls/authority.h"
#include "nova/tls/certificate.h"
#include "nova/tls/publisher.h"
#include "nova/tls/report.h"
#include "tests/postgres_fixture.h"

namespace nova::local {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

config::Topology TestTopology(int port_base) {
  config::Topology topology;
  for (const char* name : {"identity", "user"}) {
    const int number = static_cast<int>(topology.services.size()) + 1;
    topology.services.push_back({.name = name,
                                 .grpc_port = port_base + number,
                                 .admin_port = port_base + 100 + number,
                                 .database = name,
                                 .role = name,
                                 .max_db_connections = 15});
  }
  topology.principals = {"identity", "user", "operator"};
  topology.pgbouncer_port = port_base + 32;
  topology.postgres_port = port_base + 33;
  topology.redis_port = port_base + 79;
  topology.pgbouncer_default_pool_size = 25;
  topology.pgbouncer_max_client_conn = 1000;
  topology.pgbouncer_query_timeout = 30s;
  topology.pgbouncer_server_lifetime = 3600s;
  topology.postgres_max_connections = 200;
  return topology;
}

int FreePortBase() {
  while (true) {
    int base = tests::FreePort() - 1;
    std::vector<PortUse> ports;
    for (int offset : {1, 2, 32, 33, 79, 101, 102}) ports.push_back({base + offset, "test"});
    if (CheckPorts(ports, base)) return base;
  }
}

// Plays `nova up <folder> <port base> <leaf lifetime in seconds>`.
int Up(const std::string& folder, int port_base, int lifetime) {
  UpConfig config{.folder = {folder}, .port_base = port_base, .leaf_lifetime = std::chrono::seconds(lifetime)};
  StackPlan plan{.topology = TestTopology(port_base)};
  // Counts the starts of this folder in the database, as a migration would change it.
  plan.migrate = [](const config::ServiceSpec& spec, const postgres::ConnectionConfig& direct) -> Result<void> {
    if (spec.name != "identity") return Ok();
    NOVA_TRY(SqlConnection connection, SqlConnection::Open({.port = direct.port,
                                                            .database = direct.database,
                                                            .user = direct.user,
                                                            .password = direct.password,
                                                            .ca_file = direct.ssl_root_cert}));
    NOVA_TRY(connection.Execute("CREATE TABLE IF NOT EXISTS start (id serial); INSERT INTO start DEFAULT VALUES"));
    NOVA_TRY(SqlRows rows, connection.Execute("SELECT count(*) FROM start"));
    std::cout << "starts=" << rows.Get(0, "count") << std::endl;
    return Ok();
  };
  plan.launch = [](const config::ServiceSpec& spec) -> ServiceLaunch {
    return {.arguments = {"--service", spec.name}, .environment = {{"EXTRA", "given"}, {"NOVA_POSTGRES_PORT", "1"}}};
  };
  auto stack = Stack::Start(config, std::move(plan));
  if (!stack) {
    std::cout << stack.error().message() << std::endl;
    return stack.error().code() == Code::kFailedPrecondition ? 2 : 1;
  }
  std::cout << (*stack)->Summary("demo / secret", "nova demo") << std::flush;
  (*stack)->Run();
  auto stopped = (*stack)->Stop();
  if (!stopped) std::cout << stopped.error().message() << std::endl;
  return stopped ? 0 : 1;
}

std::string Variable(const char* name) {
  const char* value = ::getenv(name);
  return value == nullptr ? "" : value;
}

// Plays `nova serve <name>`: reaches its database and Redis with nothing but what its environment says, then is ready.
int Serve(const std::string& name) {
  if (Variable("EXTRA") != "given" || Variable("HOME") != "") return 2;
  // Only identity signs tokens.
  if ((name == "identity") == Variable("NOVA_AUTH_JWT_SIGNING_KEY_FILE").empty()) return 2;
  const std::string own_target = "127.0.0.1:" + Variable("NOVA_GRPC_PORT");
  if ((Variable("NOVA_PEERS_IDENTITY_TARGET") == own_target) != (name == "identity")) return 2;
  if ((Variable("NOVA_PEERS_USER_TARGET") == own_target) != (name == "user")) return 2;
  for (const char* file :
       {"GRPC_SERVER_CERT_PATH", "GRPC_SERVER_KEY_PATH", "GRPC_CLIENT_CA_CERT_PATH", "GRPC_SERVER_CA_CERT_PATH",
        "GRPC_CLIENT_CERT_PATH", "GRPC_CLIENT_KEY_PATH", "NOVA_POSTGRES_PASSWORD_FILE", "NOVA_REDIS_PASSWORD_FILE"}) {
    if (!ReadFile(Variable(file))) {
      std::cout << file << " names nothing readable" << std::endl;
      return 2;
    }
  }
  auto password = ReadFile(Variable("NOVA_POSTGRES_PASSWORD_FILE"));
  auto pooled = SqlConnection::Open({.port = std::stoi(Variable("NOVA_POSTGRES_PORT")),
                                     .database = Variable("NOVA_POSTGRES_DATABASE"),
                                     .user = Variable("NOVA_POSTGRES_USER"),
                                     .password = Secret<>(*password),
                                     .ca_file = Variable("NOVA_POSTGRES_SSL_ROOT_CERT")});
  if (!pooled) {
    std::cout << pooled.error().message() << std::endl;
    return 3;
  }
  auto redis = RedisConnection::Open({.port = std::stoi(Variable("NOVA_REDIS_PORT")),
                                      .user = Variable("NOVA_REDIS_USER"),
                                      .password = Secret<>(*ReadFile(Variable("NOVA_REDIS_PASSWORD_FILE"))),
                                      .ca_file = Variable("NOVA_REDIS_CA_PATH"),
                                      .server_name = Variable("NOVA_REDIS_SERVER_NAME")});
  auto counted = redis ? redis->Execute({"INCR", name + ":starts"}) : std::move(redis).error();
  if (!counted) {
    std::cout << counted.error().message() << std::endl;
    return 3;
  }
  runtime::StopSignals signals;
  telemetry::Metrics metrics;
  runtime::Runtime runtime({.threads = 1});
  runtime::Scope background(runtime);
  auto identity = tls::IdentityPublisher::Create({.files = {.certificate = {.path = Variable("GRPC_SERVER_CERT_PATH")},
                                                            .key = {.path = Variable("GRPC_SERVER_KEY_PATH")},
                                                            .ca = {.path = Variable("GRPC_CLIENT_CA_CERT_PATH")}}},
                                                 Clock::System(), metrics);
  if (!identity) return 2;
  (*identity)->Watch(background);
  std::cout << "starts=" << counted->integer << std::endl;
  auto admin = http::MakeAdminServer(
      runtime, {.address = "127.0.0.1", .port = std::stoi(Variable("NOVA_ADMIN_PORT"))},
      {.scrape = [] { return std::string(); },
       .readiness = [] { return http::Readiness{.ok = true, .json = "{}"}; },
       .status = [&] { return tls::AddCertificates("{}", {tls::Describe("server", **identity)}); }});
  if (!admin->Start()) return 1;
  pollfd wait{.fd = signals.descriptor(), .events = POLLIN, .revents = 0};
  while (!signals.received()) ::poll(&wait, 1, -1);
  const bool stopped = admin->Stop(1s).ok();
  return background.Stop(1s).ok() && stopped ? 0 : 1;
}

class StackTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "nova-stack-test-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    parent_ = name;
    fs::permissions(parent_, fs::perms(0711));
    layout_ = {parent_ / "data"};
    port_base_ = FreePortBase();
  }
  void TearDown() override {
    up_.reset();
    // What a failed test left must not write into a folder that is being removed.
    EXPECT_TRUE(EndOrphans(layout_.cluster(), "postgres", 10s));
    EXPECT_TRUE(EndRedisOrphans(layout_.redis(), 10s));
    fs::remove_all(parent_);
  }

  void StartUp(int lifetime = 86400) {
    up_.reset();
    fs::remove(parent_ / "up.log");
    auto process =
        Process::Spawn({.name = "up",
                        .program = "/proc/self/exe",
                        .arguments = {"--up", layout_.root, std::to_string(port_base_), std::to_string(lifetime)},
                        .environment = {{"HOME", "/nonexistent"}},
                        .working_directory = parent_,
                        .log_file = parent_ / "up.log"});
    ASSERT_TRUE(process) << process.error().ToString();
    up_ = *std::move(process);
  }
  std::string Output() const {
    std::ostringstream text;
    text << std::ifstream(parent_ / "up.log").rdbuf();
    return text.str();
  }
  bool OutputHas(std::string_view text) const { return Output().find(text) != std::string::npos; }
  // Waits until `condition` holds, 30 s at most.
  template <class Condition>
  static bool Eventually(Condition condition) {
    const SteadyTime end = Clock::System().Now() + 30s;
    while (!condition()) {
      if (Clock::System().Now() >= end) return false;
      ::poll(nullptr, 0, 20);
    }
    return true;
  }
  // Waits until the stack is up, or its process has ended.
  bool IsUp() {
    return Eventually([&] { return OutputHas("Nova is up") || !up_->Running(); }) && OutputHas("Nova is up");
  }
  StackStatus Status() const {
    auto status = ReadStatus(layout_.root);
    EXPECT_TRUE(status) << status.error().ToString();
    return status ? *std::move(status) : StackStatus();
  }
  ComponentState ComponentOf(const std::string& name) const {
    for (const ComponentStatus& component : Status().components) {
      if (component.state.name == name) return component.state;
    }
    ADD_FAILURE() << "no component " << name;
    return {};
  }
  // Every process that works somewhere in the data folder.
  std::set<pid_t> Processes() const {
    std::set<pid_t> pids;
    for (auto [folder, program] :
         {std::pair(layout_.cluster(), "postgres"), std::pair(layout_.pooler(), "pgbouncer"),
          std::pair(layout_.redis(), "redis-server"), std::pair(layout_.redis(), "redis-check-rdb"),
          std::pair(layout_.service("identity"), "local_stack_pg_test"),
          std::pair(layout_.service("user"), "local_stack_pg_test")}) {
      for (pid_t pid : FindProcesses(folder, program)) pids.insert(pid);
    }
    return pids;
  }

  fs::path parent_;
  Layout layout_;
  int port_base_ = 0;
  std::optional<Process> up_;
};

TEST_F(StackTest, LivesThroughKillRestartAndDown) {
  StartUp();
  ASSERT_TRUE(IsUp()) << Output();
  EXPECT_TRUE(OutputHas("starts=1"));
  const std::string output = Output();
  EXPECT_LE(std::count(output.begin(), output.end(), '\n'), 16);
  EXPECT_TRUE(OutputHas("nova demo"));

  StackStatus status = Status();
  EXPECT_TRUE(status.ready()) << StatusTable(status, Clock::System().WallNow());
  ASSERT_EQ(status.components.size(), 5U);
  EXPECT_EQ(status.components[0].state.name, "postgres");
  EXPECT_EQ(status.components[1].state.name, "pgbouncer");
  EXPECT_EQ(status.components[2].state.name, "redis");
  EXPECT_EQ(status.components[3].answer, "ready");
  EXPECT_EQ(status.components[4].answer, "ready");
  EXPECT_GE(Processes().size(), 5U);
  EXPECT_TRUE(OutputHas(fmt::format("127.0.0.1:{} (TLS)", port_base_ + 79)));

  // Nothing that is secret can be read by others, and the servers do not run as root.
  struct stat info{};
  for (const fs::directory_entry& entry : fs::directory_iterator(layout_.secrets())) {
    ASSERT_EQ(::stat(entry.path().c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 07777, 0600U) << entry.path();
  }
  EXPECT_TRUE(fs::exists(layout_.signing_key()));
  for (const char* server : {"postgres", "pgbouncer", "redis"}) {
    ASSERT_EQ(::stat(fmt::format("/proc/{}", ComponentOf(server).pid).c_str(), &info), 0);
    EXPECT_NE(info.st_uid, 0U) << server;
  }

  // A second one on the same folder is refused, in one line that names the first.
  auto second = Process::Spawn({.name = "second",
                                .program = "/proc/self/exe",
                                .arguments = {"--up", layout_.root, "20000", "86400"},
                                .working_directory = parent_,
                                .log_file = parent_ / "second.log"});
  ASSERT_TRUE(second);
  auto refused = second->Wait(10s);
  ASSERT_TRUE(refused);
  EXPECT_EQ(refused->value, 2);
  EXPECT_NE(LastLineOfFile(parent_ / "second.log").find(fmt::format("pid {}", up_->pid())), std::string::npos);

  // The kernel ends every child of a supervisor that is killed.
  ASSERT_TRUE(up_->Send(SIGKILL));
  ASSERT_TRUE(up_->Wait(10s));
  EXPECT_TRUE(Eventually([&] { return Processes().empty(); }));
  EXPECT_FALSE(Status().running);

  // The next start is clean, and the data is there.
  StartUp();
  ASSERT_TRUE(IsUp()) << Output();
  EXPECT_TRUE(OutputHas("starts=2"));
  EXPECT_EQ(LastLineOfFile(layout_.log("user")), "starts=2");
  EXPECT_TRUE(Status().ready());

  auto down = Down(layout_.root);
  ASSERT_TRUE(down) << down.error().ToString();
  EXPECT_TRUE(*down);
  auto ended = up_->Wait(10s);
  ASSERT_TRUE(ended);
  EXPECT_EQ(ended->ToString(), "exit status 0") << Output();
  EXPECT_TRUE(Processes().empty());
  EXPECT_FALSE(fs::exists(layout_.state()));
  down = Down(layout_.root);
  ASSERT_TRUE(down);
  EXPECT_FALSE(*down);

  auto wiped = WipeDataDir(layout_.root);
  EXPECT_TRUE(wiped) << wiped.error().ToString();
  EXPECT_FALSE(fs::exists(layout_.root));
}

TEST_F(StackTest, StartsAgainWhateverIsKilled) {
  StartUp();
  ASSERT_TRUE(IsUp()) << Output();
  for (const char* name : {"identity", "pgbouncer", "postgres", "redis"}) {
    const pid_t before = ComponentOf(name).pid;
    ASSERT_NE(before, 0);
    ::kill(before, SIGKILL);
    EXPECT_TRUE(Eventually([&] {
      const ComponentState now = ComponentOf(name);
      return now.pid != before && now.restarts == 1 && now.phase == Phase::kReady;
    })) << name
        << "\n"
        << StatusTable(Status(), Clock::System().WallNow()) << Output();
  }
  EXPECT_TRUE(Status().ready());
}

struct FreeCertificate {
  void operator()(X509* certificate) const { ::X509_free(certificate); }
};
using Certificate = std::unique_ptr<X509, FreeCertificate>;

std::string SerialOf(const X509* certificate) {
  if (certificate == nullptr) return "";
  BIGNUM* number = ::ASN1_INTEGER_to_BN(::X509_get0_serialNumber(certificate), nullptr);
  char* text = ::BN_bn2hex(number);
  std::string serial = text;
  ::OPENSSL_free(text);
  ::BN_free(number);
  return serial;
}

// What Redis presents now.
Certificate RedisCertificate(int port) {
  boost::asio::io_context context;
  boost::asio::ssl::context tls(boost::asio::ssl::context::tls_client);
  boost::asio::ssl::stream<boost::asio::ip::tcp::socket> stream(context, tls);
  boost::system::error_code error;
  stream.lowest_layer().connect(
      {boost::asio::ip::address_v4::loopback(), static_cast<boost::asio::ip::port_type>(port)}, error);
  if (!error) stream.handshake(boost::asio::ssl::stream_base::client, error);
  EXPECT_FALSE(error) << error.message();
  return Certificate(::SSL_get1_peer_certificate(stream.native_handle()));
}

// The serial number of the certificate that a server of PostgreSQL's protocol presents now.
std::string PresentedSerial(int port, const fs::path& ca) {
  const std::string settings = fmt::format(
      "host=localhost hostaddr=127.0.0.1 port={} dbname=none user=none password=none sslmode=verify-full "
      "sslrootcert={}",
      port, ca.string());
  // The log-in fails, which is fine: the handshake came before.
  std::string serial;
  PGconn* connection = ::PQconnectStart(settings.c_str());
  PostgresPollingStatusType status = PGRES_POLLING_WRITING;
  while (serial.empty() && status != PGRES_POLLING_FAILED && status != PGRES_POLLING_OK) {
    pollfd wait{.fd = ::PQsocket(connection),
                .events = static_cast<short>(status == PGRES_POLLING_READING ? POLLIN : POLLOUT),
                .revents = 0};
    if (::poll(&wait, 1, 5000) != 1) break;
    status = ::PQconnectPoll(connection);
    auto* ssl = static_cast<SSL*>(::PQsslStruct(connection, "OpenSSL"));
    serial = SerialOf(Certificate(ssl == nullptr ? nullptr : ::SSL_get1_peer_certificate(ssl)).get());
  }
  ::PQfinish(connection);
  return serial;
}

TEST_F(StackTest, RenewsCertificatesBeforeTheyEndAndTheServersPresentTheNewOnes) {
  StartUp();
  ASSERT_TRUE(IsUp()) << Output();
  const std::string long_lived =
      PresentedSerial(TestTopology(port_base_).pgbouncer_port, layout_.authority() / "ca.crt");
  ASSERT_TRUE(Down(layout_.root));

  // A shorter lifetime counts at once, and not when the old certificates end.
  StartUp(/*lifetime=*/6);
  ASSERT_TRUE(IsUp()) << Output();
  EXPECT_NE(PresentedSerial(TestTopology(port_base_).pgbouncer_port, layout_.authority() / "ca.crt"), long_lived);
  const fs::path ca = layout_.authority() / "ca.crt";
  const config::Topology topology = TestTopology(port_base_);
  for (int port : {topology.postgres_port, topology.pgbouncer_port}) {
    const std::string before = PresentedSerial(port, ca);
    ASSERT_FALSE(before.empty());
    EXPECT_TRUE(Eventually([&] {
      const std::string now = PresentedSerial(port, ca);
      return !now.empty() && now != before;
    })) << port;
  }
  const std::string before = SerialOf(RedisCertificate(topology.redis_port).get());
  EXPECT_TRUE(Eventually([&] { return SerialOf(RedisCertificate(topology.redis_port).get()) != before; }));
  for (const char* name : {"postgres", "pgbouncer", "redis"}) EXPECT_EQ(ComponentOf(name).restarts, 0) << name;
}

TEST_F(StackTest, AnyReplacedLeafIsServedAndOneAboutToEndIsRenewedAtOnce) {
  StartUp();
  ASSERT_TRUE(IsUp()) << Output();
  const config::Topology topology = TestTopology(port_base_);
  const RotationConfig rotation{.data_dir = layout_.root, .principals = topology.principals};
  for (const char* principal : {"postgres", "pgbouncer", "redis", "identity"}) {
    const auto shortened = ShortenLeaf(rotation, principal, 5s);
    ASSERT_TRUE(shortened) << shortened.error().ToString();
    UseProbe probe;
    const ComponentState component = ComponentOf(principal);
    EXPECT_TRUE(Eventually([&] {
      const ProcessCertificates seen = probe.Ask(component);
      return seen.Has(ReadFromDisk(layout_.certificate(principal))) &&
             seen.certificates.front().leaf.not_after > Clock::System().WallNow() + 1h;
    })) << principal;
  }
  for (const ComponentStatus& component : Status().components) EXPECT_EQ(component.state.restarts, 0);
}

TEST_F(StackTest, LeavesAndAuthorityAreReplacedUnderIt) {
  StartUp();
  ASSERT_TRUE(IsUp()) << Output();
  const config::Topology topology = TestTopology(port_base_);
  RotationConfig rotation{.data_dir = layout_.root, .principals = topology.principals};
  const auto ports = std::to_array({topology.postgres_port, topology.pgbouncer_port});
  const fs::path ca = layout_.authority() / "ca.crt";
  const fs::path former = parent_ / "former.crt";
  fs::copy_file(ca, former);
  const std::string before = PresentedSerial(ports[0], ca);
  auto report = RotateLeaves(rotation);
  ASSERT_TRUE(report) << report.error().ToString();
  EXPECT_TRUE(report->live);
  EXPECT_EQ(report->principals.size(), 6U);
  EXPECT_NE(PresentedSerial(ports[0], ca), before);

  // A process that hangs stops it where everybody trusts everybody; the next run goes on.
  const pid_t user = ComponentOf("user").pid;
  ASSERT_EQ(::kill(user, SIGSTOP), 0);
  rotation.take_up_limit = 5s;
  report = RotateAuthority(rotation);
  ASSERT_EQ(::kill(user, SIGCONT), 0);
  ASSERT_FALSE(report);
  EXPECT_EQ(report.error().code(), Code::kDeadlineExceeded);
  EXPECT_NE(report.error().message().find("user has not taken up"), std::string::npos) << report.error().message();
  EXPECT_NE(report.error().message().find(layout_.log("user").string()), std::string::npos);
  EXPECT_NE(PresentedSerial(ports[0], former), "");

  rotation.take_up_limit = RotationConfig::kTakeUpLimit;
  report = RotateAuthority(rotation);
  ASSERT_TRUE(report) << report.error().ToString();
  EXPECT_TRUE(report->continued);
  const auto view = ViewCertificates(rotation);
  ASSERT_TRUE(view);
  ASSERT_EQ(view->processes.size(), 5U);
  for (const auto& process : view->processes) EXPECT_TRUE(process.current) << process.seen.component.name;
  for (const int port : ports) {
    EXPECT_NE(PresentedSerial(port, ca), "") << port;
    EXPECT_EQ(PresentedSerial(port, former), "") << port;
  }
  // PgBouncer verifies PostgreSQL with the new one, too: over a connection that it has to make anew.
  const auto target = [&](int port, std::string user_name) {
    return SqlTarget{.port = port,
                     .database = "identity",
                     .user = user_name,
                     .password = Secret<>(*ReadFile(layout_.password(user_name))),
                     .ca_file = ca};
  };
  auto direct = SqlConnection::Open(target(topology.postgres_port, std::string(kSuperuser)));
  ASSERT_TRUE(direct) << direct.error().ToString();
  ASSERT_TRUE(direct->Execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'identity'"));
  auto pooled = SqlConnection::Open(target(topology.pgbouncer_port, "identity"));
  ASSERT_TRUE(pooled) << pooled.error().ToString();
  const auto rows = pooled->Execute("SELECT 1 AS one");
  EXPECT_TRUE(rows) << rows.error().ToString();
  for (const ComponentStatus& component : Status().components) EXPECT_EQ(component.state.restarts, 0);
}

TEST_F(StackTest, AnAuthorityThatSomebodyWorksOnIsWaitedForAndTheRenewalComesLater) {
  StartUp();
  ASSERT_TRUE(IsUp()) << Output();
  const std::string before = ReadFromDisk(layout_.certificate("operator")).leaf.serial;
  {
    auto authority = tls::Authority::Load(layout_.authority(), Clock::System());
    ASSERT_TRUE(authority) << authority.error().ToString();
    ASSERT_TRUE(authority->Issue({.principal = "operator", .lifetime = 5s}, layout_.certificate("operator")));
    EXPECT_TRUE(Eventually([&] { return OutputHas("certificates are not renewed; it is tried again"); })) << Output();
    EXPECT_EQ(FileLock::IsHeld(layout_.lock()), true);
  }
  EXPECT_TRUE(Eventually([&] {
    const CertificateOnDisk now = ReadFromDisk(layout_.certificate("operator"));
    return now.leaf.serial != before && now.leaf.not_after > Clock::System().WallNow() + 1h;
  })) << Output();
}

TEST_F(StackTest, ATakenPortIsNamedBeforeAnythingStarts) {
  // Somebody listens where PgBouncer is going to.
  runtime::Runtime runtime({.threads = 1});
  http::Server squatter(runtime, {.port = port_base_ + 32});
  ASSERT_TRUE(squatter.Start());
  StartUp();
  auto ended = up_->Wait(10s);
  ASSERT_TRUE(ended);
  EXPECT_EQ(ended->value, 2);
  EXPECT_TRUE(OutputHas(fmt::format("port {} (for PgBouncer) is taken", port_base_ + 32))) << Output();
  EXPECT_TRUE(OutputHas("--port-base"));
  EXPECT_FALSE(fs::exists(layout_.cluster()));
  EXPECT_FALSE(fs::exists(layout_.authority()));
  EXPECT_TRUE(squatter.Stop(1s));
}

TEST_F(StackTest, AnInterruptedFirstStartIsDoneAgain) {
  {
    auto folder = DataDir::Open(layout_.root, {.port_base = port_base_});
    ASSERT_TRUE(folder);
    fs::create_directories(layout_.root / "postgres.tmp/base");
    std::ofstream(layout_.root / "postgres.tmp/PG_VERSION") << "15\n";
  }
  StartUp();
  EXPECT_TRUE(IsUp()) << Output();
  EXPECT_FALSE(fs::exists(layout_.root / "postgres.tmp"));
}

TEST_F(StackTest, AFolderFromBeforeThereWasRedisIsTakenOver) {
  StartUp();
  ASSERT_TRUE(IsUp()) << Output();
  ASSERT_TRUE(Down(layout_.root));
  fs::remove_all(layout_.redis());
  fs::remove_all(layout_.certificate("redis"));
  for (const char* user : {"identity", "user", "audit"}) EXPECT_TRUE(fs::remove(layout_.redis_password(user))) << user;
  StartUp();
  EXPECT_TRUE(IsUp()) << Output();
  EXPECT_TRUE(OutputHas("starts=2"));
  EXPECT_TRUE(Status().ready());
}

TEST_F(StackTest, ADamagedFolderIsRefusedWithTheRemedy) {
  StartUp();
  ASSERT_TRUE(IsUp()) << Output();
  ASSERT_TRUE(Down(layout_.root));
  const fs::path password = layout_.password(kSuperuser);
  fs::rename(password, parent_ / "password");
  StartUp();
  auto ended = up_->Wait(10s);
  ASSERT_TRUE(ended);
  EXPECT_EQ(ended->value, 2);
  EXPECT_TRUE(OutputHas("nova down --wipe")) << Output();
  fs::rename(parent_ / "password", password);

  fs::remove(layout_.cluster() / "PG_VERSION");
  StartUp();
  ended = up_->Wait(10s);
  ASSERT_TRUE(ended);
  EXPECT_EQ(ended->value, 2);
  EXPECT_TRUE(OutputHas("PG_VERSION")) << Output();
  EXPECT_TRUE(OutputHas("nova down --wipe")) << Output();
}

}  // namespace

int RunAs(int argc, char** argv) {
  const std::string_view role = argc > 1 ? argv[1] : "";
  if (role == "--up" && argc == 5) return Up(argv[2], std::stoi(argv[3]), std::stoi(argv[4]));
  if (role == "--service" && argc == 3) return Serve(argv[2]);
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}

}  // namespace nova::local

int main(int argc, char** argv) { return nova::local::RunAs(argc, argv); }
