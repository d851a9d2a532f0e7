// `nova up`: the whole backend on one machine. Private PostgreSQL, PgBouncer and Redis, a development authority and a
// certificate for every principal, and each service as a process of its own that reaches the others over mTLS and its
// database through PgBouncer, exactly as in a cluster. Everything lives in one data folder and ends with this process.
//
//   StackPlan plan{.topology = LocalTopology(config.port_base), .migrate = ..., .launch = ...};
//   NOVA_TRY(auto stack, Stack::Start(config, std::move(plan)));
//   std::cout << stack->Summary(login, "nova demo");
//   stack->Run();                                     // until SIGINT, SIGTERM or SIGHUP
//   NOVA_TRY(stack->Stop());
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "local/certificates.h"
#include "local/data_dir.h"
#include "local/pgbouncer.h"
#include "local/postgres_server.h"
#include "local/readiness.h"
#include "local/supervisor.h"
#include "nova/base/result.h"
#include "nova/config/config.h"
#include "nova/config/topology.h"
#include "nova/postgres/config.h"
#include "nova/runtime/stop_signals.h"

namespace nova::local {

// Which data folder, for every verb that looks at one.
struct DataDirConfig {
  // Empty: DefaultDataDir.
  std::string data_dir;

  // Errors: FAILED_PRECONDITION when there is no default.
  Result<std::filesystem::path> Path() const;
};

struct UpConfig {
  DataDirConfig folder;
  int port_base = 7400;
  // A certificate is renewed when a third of it is left.
  std::chrono::seconds leaf_lifetime = Certificates::kLifetimeDefault;
  // What ends again sooner than this after it was ready is started again after ever longer delays, 10 s at most.
  std::chrono::milliseconds stable_after = std::chrono::seconds(10);
};

// --data-dir, NOVA_UP_DATA_DIR.
void Bind(config::Config& config, DataDirConfig& folder);
// The same, --port-base, --leaf-lifetime and --stable-after.
void Bind(config::Config& config, UpConfig& up);

// How a service's process is started, beyond what the stack gives to every service.
struct ServiceLaunch {
  std::vector<std::string> arguments;
  // Where a name is also given by the stack, the stack's value counts. With AWS_SECRETS_JWT_NAME the stack gives no key
  // of its own.
  std::map<std::string, std::string> environment;
};

// What the stack is made of; the parts that only the application knows are functions.
struct StackPlan {
  // Its services are started in its order.
  config::Topology topology;
  // Of the services: this executable, even if its file was replaced meanwhile.
  std::filesystem::path program = "/proc/self/exe";
  // Brings the database of a service to the schema of this program, over a direct connection.
  std::function<Result<void>(const config::ServiceSpec&, const postgres::ConnectionConfig& direct)> migrate;
  std::function<ServiceLaunch(const config::ServiceSpec&)> launch;
  // Called once, when the folder is ours and before anything is started. May be empty.
  std::function<Result<void>(const Layout&)> prepare = {};
  // Told what is being done, in a few words. May be empty.
  std::function<void(std::string_view)> progress = {};
};

// Used by the main thread only: the kernel ends the children when the thread that started them ends.
class Stack {
 public:
  // From the start of a service's process until its /readyz answers 200.
  static constexpr Duration kServiceReadyLimit = std::chrono::seconds(20);
  // From SIGTERM to SIGKILL for a service; longer than the service's own limit for its drain.
  static constexpr Duration kServiceStopLimit = std::chrono::seconds(20);
  // A log that is larger is moved to <name>.log.1, whose old content is lost.
  static constexpr std::uintmax_t kLogBytesMax = std::uintmax_t{32} << 20;

  // Returns when every service is ready; whatever was started is stopped again on an error. Errors, one line each:
  // NOT_FOUND when PostgreSQL, PgBouncer or Redis is not installed; FAILED_PRECONDITION naming the setting and the
  // remedy when the folder is in use, damaged or not ours, or a port is taken (nothing was started then); those of
  // Supervisor::Start and of `migrate`; CANCELLED when a signal came.
  static Result<std::unique_ptr<Stack>> Start(const UpConfig& config, StackPlan plan);
  ~Stack();

  // Supervises: starts again what ends, renews certificates, makes the servers read those that were replaced, by
  // whomever, keeps logs small. Returns when a signal came.
  void Run();

  // Services first, PostgreSQL last. Bounded by the limits of the parts.
  Result<void> Stop();

  const Layout& layout() const { return folder_.layout(); }
  const config::Topology& topology() const { return plan_.topology; }
  // What a person needs to go on, 15 lines at most: endpoints, folder, `login`, `command`. Empty texts are left out.
  std::string Summary(std::string_view login, std::string_view command) const;

 private:
  class Server;
  class Postgres;
  class Pooler;
  class Redis;
  class Service;

  Stack(UpConfig config, StackPlan plan, DataDir folder, ServerAccounts accounts, PostgresBinaries binaries);
  Result<void> StartAll(bool has_cluster);
  void Say(std::string_view what) const;
  void SaveState(Phase phase);

  // What Run does from time to time.
  Duration Chores();
  // A set, or the authority, is another one than at the last call.
  bool CertificatesChanged();
  Result<void> RenewCertificates();
  void TrimLogs();

  Result<std::unique_ptr<Component>> MakePostgres(bool has_cluster);
  Result<std::unique_ptr<Component>> MakePooler();
  Result<std::unique_ptr<Component>> MakeRedis();
  Result<std::unique_ptr<Component>> MakeService(const config::ServiceSpec& spec);
  Result<postgres::ConnectionConfig> DirectConnection(const config::ServiceSpec& spec) const;

  const UpConfig config_;
  const StackPlan plan_;
  const ServerAccounts accounts_;
  const SteadyTime started_;
  const std::int64_t started_at_ms_;
  PostgresBinaries binaries_;
  DataDir folder_;
  const Certificates certificates_;
  std::vector<CertificateWatch> watches_;  // one for each principal
  std::filesystem::path authority_version_;
  runtime::StopSignals signals_;
  ReadinessProbe probe_;
  Postgres* postgres_ = nullptr;  // owned by supervisor_
  std::vector<Server*> servers_;  // owned by supervisor_
  Phase phase_ = Phase::kStarting;
  SteadyTime ready_{};
  SteadyTime renew_at_{};
  SteadyTime trim_at_{};
  std::unique_ptr<Supervisor> supervisor_;
};

}  // namespace nova::local
