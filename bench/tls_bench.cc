// What does a new connection over mTLS cost beside one in plaintext, and of what is the difference made? Servers in
// processes of their own take turns with every single sample, so that the machine's noise hits all alike: quote the
// differences and ratios of one run. Percentiles of first calls are of single samples, not of rounds: a slow first call
// is what somebody waits for.
#include <algorithm>
#include <arpa/inet.h>
#include <array>
#include <boost/json.hpp>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <future>
#include <grpc/grpc_security.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/security/tls_certificate_provider.h>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <sys/socket.h>
#include <utility>
#include <vector>

#include "bench/echo_load.h"
#include "bench/openssl_handshake.h"
#include "bench/server_process.h"
#include "bench/statistics.h"
#include "nova/base/clock.h"
#include "nova/config/config.h"
#include "nova/telemetry/log.h"
#include "nova/telemetry/metrics.h"
#include "nova/tls/certificate.h"
#include "nova/tls/certificate_maker.h"
#include "nova/tls/credentials.h"
#include "nova/tls/handshakes.h"
#include "nova/tls/protocol.h"
#include "nova/tls/publisher.h"
#include "tests/echo.grpc.pb.h"

namespace nova::bench {
namespace {

namespace fs = std::filesystem;
using Milliseconds = std::chrono::duration<double, std::milli>;

// What is promised of a new channel and its first call, at p95.
constexpr double kFirstCallLimitMs = 10;
constexpr double kOverPlaintextLimitMs = 5;

constexpr char kServer[] = "echo";
constexpr char kClient[] = "gateway";
constexpr int kWarmUps = 20;
constexpr unsigned kShuffleSeed = 1;
constexpr std::chrono::seconds kCallLimit{10};
// Sessions a client keeps to resume; one per server is used.
constexpr std::size_t kSessionsMax = 16;

struct Options {
  int samples = 1'000;
  int rounds = 30;
  int calls = 4'000;
  bool json = false;
  std::string server;
  std::string certificates;
};

template <class T>
T OrThrow(Result<T> result) {
  if (!result) throw std::runtime_error(result.error().ToString());
  return *std::move(result);
}
void OrThrow(Result<void> result) {
  if (!result) throw std::runtime_error(result.error().ToString());
}

// --- Certificates: <folder>/<key>/{echo,gateway}/{tls.crt,tls.key,ca.crt}, one authority for each kind of key. ---

void Write(const fs::path& path, std::string_view text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  if (!file.flush()) throw std::runtime_error("cannot write " + path.string());
}

std::string Read(const fs::path& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

void MakeCertificates(const fs::path& folder, const std::string& key) {
  const WallTime now = Clock::System().WallNow();
  const tls::CertificateSpec base{
      .key = key, .not_before = now - std::chrono::hours(1), .not_after = now + std::chrono::days(1)};
  tls::CertificateSpec authority_spec = base;
  authority_spec.common_name = "bench authority";
  authority_spec.extended_key_usage = "";
  authority_spec.key_usage = "critical,keyCertSign,cRLSign";
  authority_spec.basic_constraints = "critical,CA:TRUE";
  const auto authority = OrThrow(tls::MakeCertificate(authority_spec, nullptr));
  for (const std::string principal : {kServer, kClient}) {
    tls::CertificateSpec spec = base;
    spec.common_name = principal;
    spec.names = "URI:" + std::string(tls::kSpiffePrefix) + principal + ",DNS:" + tls::ServiceDnsName(principal);
    const auto leaf = OrThrow(tls::MakeCertificate(spec, &authority));
    fs::create_directories(folder / principal);
    Write(folder / principal / "tls.crt", leaf.certificate_pem);
    Write(folder / principal / "tls.key", leaf.key_pem.Expose());
    Write(folder / principal / "ca.crt", authority.certificate_pem);
  }
}

std::unique_ptr<tls::IdentityPublisher> Publish(const fs::path& folder, tls::Usage usage, telemetry::Metrics& metrics) {
  const auto file = [&](const char* name) {
    return tls::CertificateFile{.path = (folder / name).string(), .variable = ""};
  };
  return OrThrow(tls::IdentityPublisher::Create(
      {.files = {.certificate = file("tls.crt"), .key = file("tls.key"), .ca = file("ca.crt")}, .usage = usage},
      Clock::System(), metrics));
}

PemIdentity Published(const tls::IdentityPublisher& publisher) {
  return {
      .chain = Read(publisher.certificate_path()), .key = Read(publisher.key_path()), .ca = Read(publisher.ca_path())};
}

class TemporaryFolder {
 public:
  TemporaryFolder() : path_((fs::temp_directory_path() / "nova-bench-XXXXXX").string()) {
    if (mkdtemp(path_.data()) == nullptr) throw std::runtime_error("cannot make " + path_);
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  fs::path path() const { return path_; }

 private:
  std::string path_;
};

// --- The servers. ---

class EchoService final : public tests::EchoService::CallbackService {
 public:
  grpc::ServerUnaryReactor* Echo(grpc::CallbackServerContext* context, const tests::EchoRequest* request,
                                 tests::EchoResponse* response) override {
    response->set_text(request->text());
    auto* const reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }
};

// plaintext; P-256 and RSA-2048: mTLS as Nova serves it; observed: P-256, with a HandshakeObserver; tickets: P-256,
// with OpenSSL as it comes, which lets sessions be resumed.
int RunServer(const std::string& kind, const fs::path& certificates) {
  if (kind != "tickets") OrThrow(tls::RequireTls13());
  telemetry::Metrics metrics;
  std::optional<tls::HandshakeObserver> observer;
  if (kind == "observed") observer.emplace(metrics, tls::HandshakeLimits());
  std::unique_ptr<tls::IdentityPublisher> publisher;
  auto credentials = tls::MakePlaintextServerCredentials();
  if (kind != "plaintext") {
    publisher = Publish(certificates / (kind == "RSA-2048" ? kind : "P-256") / kServer, tls::Usage::kServer, metrics);
    credentials = tls::MakeServerCredentials(*publisher, tls::ClientCertificate::kRequired);
  }
  EchoService service;
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", credentials, &port);
  builder.RegisterService(&service);
  const auto server = builder.BuildAndStart();
  if (!server) return 3;
  ServeUntilStdinEnds(port);
  server->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(1));
  return 0;
}

// --- First calls. ---

struct FirstCall {
  Milliseconds time{};
  bool resumed = false;
};

// As Nova's client makes it: with the callback API, on gRPC's threads.
bool CallOnce(const std::shared_ptr<grpc::Channel>& channel) {
  const auto stub = tests::EchoService::NewStub(channel);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kCallLimit);
  tests::EchoRequest request;
  request.set_text("sixteen bytes!!!");
  tests::EchoResponse response;
  std::promise<grpc::Status> done;
  stub->async()->Echo(&context, &request, &response, [&done](grpc::Status status) { done.set_value(status); });
  const grpc::Status status = done.get_future().get();
  if (!status.ok()) throw std::runtime_error("first call: " + status.error_message());
  const auto reused = context.auth_context()->FindPropertyValues(GRPC_SSL_SESSION_REUSED_PROPERTY);
  return !reused.empty() && reused.front() == "true";
}

// What one row calls: a server, over new channels or over a new connection of one channel.
class Caller {
 public:
  Caller(tls::ChannelCredentials credentials, int port) : credentials_(std::move(credentials)), port_(port) {}
  virtual ~Caller() = default;
  Caller(const Caller&) = delete;
  Caller& operator=(const Caller&) = delete;

  virtual FirstCall Run() = 0;

 protected:
  std::shared_ptr<grpc::Channel> MakeChannel(grpc::ChannelArguments arguments) const {
    credentials_.ApplyTo(arguments);
    // A connection of its own.
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    return grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(port_), credentials_.credentials, arguments);
  }
  int port() const { return port_; }

 private:
  const tls::ChannelCredentials credentials_;
  const int port_;
};

class NewChannel : public Caller {
 public:
  // `sessions`: where sessions are kept to be resumed; may be null. Owned.
  NewChannel(tls::ChannelCredentials credentials, int port, grpc_ssl_session_cache* sessions = nullptr)
      : Caller(std::move(credentials), port), sessions_(sessions) {}
  ~NewChannel() override {
    if (sessions_ != nullptr) grpc_ssl_session_cache_destroy(sessions_);
  }

  FirstCall Run() override {
    grpc::ChannelArguments arguments;
    if (sessions_ != nullptr) {
      const grpc_arg cache = grpc_ssl_session_cache_create_channel_arg(sessions_);
      arguments.SetPointerWithVtable(cache.key, cache.value.pointer.p, cache.value.pointer.vtable);
    }
    const auto begin = std::chrono::steady_clock::now();
    // Taken down after the time is taken, as nobody waits for that.
    const auto channel = MakeChannel(arguments);
    const bool resumed = CallOnce(channel);
    return {.time = std::chrono::steady_clock::now() - begin, .resumed = resumed};
  }

 private:
  grpc_ssl_session_cache* const sessions_;
};

// Closes this process's connections to `port` under whoever has them, as a network does.
void BreakConnections(int port) {
  for (const auto& entry : fs::directory_iterator("/proc/self/fd")) {
    const int fd = std::atoi(entry.path().filename().c_str());
    sockaddr_storage address{};
    socklen_t length = sizeof address;
    if (getpeername(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0) continue;
    const int peer_port =
        address.ss_family == AF_INET6  ? ntohs(reinterpret_cast<const sockaddr_in6*>(&address)->sin6_port)
        : address.ss_family == AF_INET ? ntohs(reinterpret_cast<const sockaddr_in*>(&address)->sin_port)
                                       : 0;
    if (peer_port == port) shutdown(fd, SHUT_RDWR);
  }
}

// A channel that has lost its connection makes another one: with gRPC 1.51 everything that belongs to it is made anew,
// the TLS context too.
class Reconnection : public Caller {
 public:
  Reconnection(tls::ChannelCredentials credentials, int port)
      : Caller(std::move(credentials), port), channel_(MakeChannel({})) {
    CallOnce(channel_);
  }

  FirstCall Run() override {
    BreakConnections(port());
    if (!channel_->WaitForStateChange(GRPC_CHANNEL_READY, std::chrono::system_clock::now() + kCallLimit))
      throw std::runtime_error("a broken connection was not noticed");
    const auto begin = std::chrono::steady_clock::now();
    CallOnce(channel_);
    return {.time = std::chrono::steady_clock::now() - begin};
  }

 private:
  const std::shared_ptr<grpc::Channel> channel_;
};

struct Row {
  std::string name;
  std::unique_ptr<Caller> caller;
  std::size_t beside = 0;       // the row of the same kind of connection in plaintext
  std::vector<double> ms = {};  // as they came
  int resumed = 0;

  double At(double fraction) const {
    auto ascending = ms;
    std::ranges::sort(ascending);
    return Percentile(ascending, fraction);
  }
};

// How much the machine itself varied: the same row's median in each tenth of the run.
std::pair<double, double> Noise(const std::vector<double>& ms) {
  constexpr std::size_t kParts = 10;
  std::vector<double> medians;
  for (std::size_t part = 0; part < kParts; ++part) {
    const auto begin = ms.begin() + static_cast<std::ptrdiff_t>(ms.size() * part / kParts);
    const auto end = ms.begin() + static_cast<std::ptrdiff_t>(ms.size() * (part + 1) / kParts);
    medians.push_back(Median({begin, end}));
  }
  const auto [low, high] = std::ranges::minmax(medians);
  return {low, high};
}

void PrintFirstCalls(const std::vector<Row>& rows, int samples, boost::json::object& json) {
  std::printf("\nA connection and its first call, ms; %d samples each, in turns\n", samples);
  std::printf("%-32s %8s %8s %8s   %s\n", "", "p50", "p95", "p99", "over plaintext p50 / p95");
  boost::json::array& list = json["first_call"].emplace_array();
  for (const Row& row : rows) {
    const Row& plaintext = rows[row.beside];
    const double over_p50 = row.At(0.5) - plaintext.At(0.5);
    const double over_p95 = row.At(0.95) - plaintext.At(0.95);
    std::printf("%-32s %8.2f %8.2f %8.2f", row.name.c_str(), row.At(0.5), row.At(0.95), row.At(0.99));
    if (&row != &plaintext) std::printf("   %6.2f / %.2f", over_p50, over_p95);
    if (row.resumed > 0) std::printf("   %d of %d resumed", row.resumed, samples);
    std::printf("\n");
    list.push_back({{"connection", row.name},
                    {"samples", samples},
                    {"p50_ms", row.At(0.5)},
                    {"p95_ms", row.At(0.95)},
                    {"p99_ms", row.At(0.99)},
                    {"over_plaintext_p50_ms", over_p50},
                    {"over_plaintext_p95_ms", over_p95},
                    {"resumed", row.resumed}});
  }
  const auto [low, high] = Noise(rows.front().ms);
  double load = 0;
  (void)getloadavg(&load, 1);
  std::printf("noise: plaintext p50 was %.2f to %.2f ms over the tenths of the run; load average %.1f\n", low, high,
              load);
  json["noise"] = {{"plaintext_p50_low_ms", low}, {"plaintext_p50_high_ms", high}, {"load_average", load}};
  std::fflush(stdout);
}

// --- What it is made of. ---

// Medians in microseconds.
struct Parts {
  double context = 0;
  double ciphers = 0;
  double chain = 0;
  double key = 0;
  double authorities = 0;
  double verification = 0;
  double client = 0;
  double server = 0;

  double Named() const { return context + ciphers + chain + key + authorities + client + server; }
};

class PartsMeter {
 public:
  PartsMeter(PemIdentity server, PemIdentity client)
      : server_(std::move(server)), client_(std::move(client)), pair_(server_, client_, HandshakePair::Kind::kFull) {}

  void Run() {
    ContextCost cost;
    (void)MakeSslContext(false, client_, &cost);
    Add(&Parts::context, cost.context);
    Add(&Parts::ciphers, cost.ciphers);
    Add(&Parts::chain, cost.chain);
    Add(&Parts::key, cost.key);
    Add(&Parts::authorities, cost.authorities);
    Add(&Parts::verification, TimeChainVerification(server_, client_.ca));
    const HandshakeCost handshake = pair_.Run();
    Add(&Parts::client, handshake.client);
    Add(&Parts::server, handshake.server);
  }

  Parts Medians() const {
    Parts parts;
    for (const auto& [field, values] : samples_) parts.*field = Median(values);
    return parts;
  }

 private:
  struct Sampled {
    double Parts::* field;
    std::vector<double> values;
  };
  void Add(double Parts::* field, Microseconds took) {
    auto found = std::ranges::find(samples_, field, &Sampled::field);
    if (found == samples_.end()) found = samples_.insert(found, {field, {}});
    found->values.push_back(took.count());
  }

  const PemIdentity server_;
  const PemIdentity client_;
  HandshakePair pair_;
  std::vector<Sampled> samples_;
};

// gRPC reads the files once at construction, and its thread once a second.
Microseconds TimeFileWatcher(const tls::IdentityPublisher& publisher) {
  const auto begin = std::chrono::steady_clock::now();
  const grpc::experimental::FileWatcherCertificateProvider watcher(
      publisher.key_path().string(), publisher.certificate_path().string(), publisher.ca_path().string(), 1);
  return std::chrono::steady_clock::now() - begin;
}

void PrintParts(const Parts& p256, const Parts& rsa, const Row& plaintext, const Row& over_p256, const Row& over_rsa,
                double resumed_us, double watcher_us, boost::json::object& json) {
  std::printf("\nWhat a new channel and its first call are made of, us at p50 %20s %10s\n", "P-256", "RSA-2048");
  boost::json::array& list = json["parts"].emplace_array();
  const auto line = [&](const char* name, double of_p256, double of_rsa) {
    std::printf("  %-64s %10.0f %10.0f\n", name, of_p256, of_rsa);
    list.push_back({{"part", name}, {"p256_us", of_p256}, {"rsa_us", of_rsa}});
  };
  const double base = plaintext.At(0.5) * 1e3;
  const double total_p256 = over_p256.At(0.5) * 1e3;
  const double total_rsa = over_rsa.At(0.5) * 1e3;
  line("the same in plaintext", base, base);
  line("client's context: SSL_CTX_new", p256.context, rsa.context);
  line("client's context: cipher suites and curve", p256.ciphers, rsa.ciphers);
  line("client's context: reading the certificates it shows", p256.chain, rsa.chain);
  line("client's context: reading its key", p256.key, rsa.key);
  line("client's context: reading the authorities", p256.authorities, rsa.authorities);
  line("handshake: the client's CPU", p256.client, rsa.client);
  line("handshake: the server's CPU", p256.server, rsa.server);
  line("rest: gRPC's part (peer's certificate, threads, frames) and kernel", total_p256 - base - p256.Named(),
       total_rsa - base - rsa.Named());
  line("over mTLS", total_p256, total_rsa);
  std::printf(
      "besides: verifying a chain, within each end's handshake: %.0f / %.0f us;"
      " a resumed handshake, both ends: %.0f us;\n         a FileWatcherCertificateProvider, once per identity:"
      " %.0f us\n",
      p256.verification, rsa.verification, resumed_us, watcher_us);
  json["chain_verification_us"] = p256.verification;
  json["resumed_handshake_us"] = resumed_us;
  json["file_watcher_us"] = watcher_us;
  std::fflush(stdout);
}

// --- What watching handshakes costs. ---

// The last is the first once more: what differs between those two is noise.
struct WarmKind {
  const char* name;
  const char* server;
};
constexpr std::array kWarmKinds = {WarmKind{"without", "P-256"}, WarmKind{"observed", "observed"},
                                   WarmKind{"without, again", "P-256"}};

struct WarmServer {
  std::unique_ptr<ServerProcess> process;
  std::unique_ptr<tests::EchoService::Stub> stub;
};

// Processes of one kind differ as well, by where their memory and threads come to lie, and keep that. So every
// kRoundsPerProcess rounds all of them are started anew.
void MeasureWarmCalls(const Options& options, const tls::ChannelCredentials& credentials,
                      const std::function<std::unique_ptr<ServerProcess>(const char*)>& start,
                      boost::json::object& json) {
  constexpr int kRoundsPerProcess = 3;
  constexpr std::array kInFlight = {1, 16};
  std::map<int, std::array<std::vector<EchoFigures>, kWarmKinds.size()>> figures;
  for (int round = 0; round < options.rounds;) {
    std::vector<WarmServer> servers;
    for (const WarmKind& kind : kWarmKinds) {
      auto process = start(kind.server);
      grpc::ChannelArguments arguments;
      credentials.ApplyTo(arguments);
      arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
      const auto channel =
          grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(process->port()), credentials.credentials, arguments);
      servers.push_back({std::move(process), tests::EchoService::NewStub(channel)});
    }
    for (const WarmServer& server : servers) EchoLoad(*server.stub, 1, options.calls / 4, 0).Run(*server.process);
    for (int i = 0; i < kRoundsPerProcess && round < options.rounds; ++i, ++round) {
      for (const int in_flight : kInFlight) {
        const int calls = in_flight == 1 ? options.calls / 4 : options.calls;
        for (std::size_t turn = 0; turn < servers.size(); ++turn) {
          // Whoever is first meets another state of the machine than who is last.
          const std::size_t which = (turn + static_cast<std::size_t>(round)) % servers.size();
          EchoLoad load(*servers[which].stub, in_flight, calls, 0);
          figures[in_flight].at(which).push_back(load.Run(*servers[which].process));
        }
      }
    }
  }
  boost::json::array& list = json["warm_call"].emplace_array();
  for (const auto& [in_flight, of_kinds] : figures) {
    std::printf("\nA warm call and the handshake observer, %d in flight; medians of %d rounds\n", in_flight,
                options.rounds);
    std::printf("%-16s %10s %10s %12s   %s\n", "server", "p50 us", "p99 us", "CPU us/RPC",
                "CPU / without (middle half of the rounds)");
    for (std::size_t kind = 0; kind < kWarmKinds.size(); ++kind) {
      const auto& rounds = of_kinds.at(kind);
      const auto median = [&](double EchoFigures::* field) {
        std::vector<double> values;
        for (const EchoFigures& round : rounds) values.push_back(round.*field);
        return Median(values);
      };
      // Taken within each round, where both met the same noise.
      std::vector<double> ratios;
      for (std::size_t i = 0; i < rounds.size(); ++i) ratios.push_back(rounds[i].cpu_us / of_kinds.front()[i].cpu_us);
      std::ranges::sort(ratios);
      const double ratio = Median(ratios);
      const double low = Percentile(ratios, 0.25);
      const double high = Percentile(ratios, 0.75);
      std::printf("%-16s %10.0f %10.0f %12.1f   %.3f (%.3f to %.3f)\n", kWarmKinds.at(kind).name,
                  median(&EchoFigures::p50_us), median(&EchoFigures::p99_us), median(&EchoFigures::cpu_us), ratio, low,
                  high);
      list.push_back({{"server", kWarmKinds.at(kind).name},
                      {"in_flight", in_flight},
                      {"p50_us", median(&EchoFigures::p50_us)},
                      {"p99_us", median(&EchoFigures::p99_us)},
                      {"cpu_us_per_rpc", median(&EchoFigures::cpu_us)},
                      {"cpu_ratio_to_without", ratio},
                      {"cpu_ratio_low", low},
                      {"cpu_ratio_high", high}});
    }
  }
  std::fflush(stdout);
}

// Handshakes of OpenSSL alone, both ends in this process, with the observer and without in turns. An observer watches
// what is made while it lives, and the contexts that were made before it in no case.
void MeasureObservedHandshakes(const Options& options, const PemIdentity& server, const PemIdentity& client,
                               boost::json::object& json) {
  constexpr int kTurn = 10;
  HandshakePair unwatched(server, client, HandshakePair::Kind::kFull);
  telemetry::Metrics metrics;
  std::optional<tls::HandshakeObserver> observer(std::in_place, metrics, tls::HandshakeLimits());
  HandshakePair watched(server, client, HandshakePair::Kind::kFull);
  std::vector<double> without;
  std::vector<double> observed;
  for (int i = 0; i < options.samples; i += kTurn) {
    for (int turn = 0; turn < kTurn; ++turn) {
      const HandshakeCost cost = watched.Run();
      observed.push_back((cost.client + cost.server).count());
    }
    observer.reset();
    for (int turn = 0; turn < kTurn; ++turn) {
      const HandshakeCost cost = unwatched.Run();
      without.push_back((cost.client + cost.server).count());
    }
    observer.emplace(metrics, tls::HandshakeLimits());
  }
  observer.reset();
  const std::string counted = "nova_tls_handshake_seconds_count{side=\"server\"} " + std::to_string(observed.size());
  if (!metrics.Scrape().contains(counted)) throw std::runtime_error("not every handshake was observed");
  std::printf("\nA handshake, both ends, us at p50: %.0f without the observer, %.0f with it (%+.1f)\n", Median(without),
              Median(observed), Median(observed) - Median(without));
  json["handshake"] = {{"without_us", Median(without)}, {"observed_us", Median(observed)}};
}

int Run(const Options& options) {
  OrThrow(tls::RequireTls13());
  const TemporaryFolder folder;
  for (const char* key : {"P-256", "RSA-2048"}) MakeCertificates(folder.path() / key, key);
  telemetry::Metrics metrics;
  const auto publish = [&](const char* key, const char* principal, tls::Usage usage) {
    return Publish(folder.path() / key / principal, usage, metrics);
  };
  const auto p256 = publish("P-256", kClient, tls::Usage::kClient);
  const auto rsa = publish("RSA-2048", kClient, tls::Usage::kClient);
  const auto to_p256 = tls::ChannelIdentity(*p256).For(kServer);
  const auto to_rsa = tls::ChannelIdentity(*rsa).For(kServer);
  const auto to_plaintext = tls::ChannelIdentity::Plaintext().For(kServer);
  const auto start = [&](const char* kind) {
    return std::make_unique<ServerProcess>(
        std::vector<std::string>{"--server", kind, "--certificates", folder.path().string()});
  };
  const auto plaintext_server = start("plaintext");
  const auto p256_server = start("P-256");
  const auto rsa_server = start("RSA-2048");
  const auto tickets_server = start("tickets");

  enum : std::size_t { kPlaintext, kP256, kRsa, kResumed, kPlaintextAgain, kP256Again };
  std::vector<Row> rows;
  const auto add = [&](const char* name, std::size_t beside, std::unique_ptr<Caller> caller) {
    rows.push_back({.name = name, .caller = std::move(caller), .beside = beside});
  };
  add("new channel, plaintext", kPlaintext, std::make_unique<NewChannel>(to_plaintext, plaintext_server->port()));
  add("new channel, mTLS P-256", kPlaintext, std::make_unique<NewChannel>(to_p256, p256_server->port()));
  add("new channel, mTLS RSA-2048", kPlaintext, std::make_unique<NewChannel>(to_rsa, rsa_server->port()));
  add("new channel, P-256 resumed", kPlaintext,
      std::make_unique<NewChannel>(to_p256, tickets_server->port(), grpc_ssl_session_cache_create_lru(kSessionsMax)));
  add("its second connection, plaintext", kPlaintextAgain,
      std::make_unique<Reconnection>(to_plaintext, plaintext_server->port()));
  add("its second connection, P-256", kPlaintextAgain, std::make_unique<Reconnection>(to_p256, p256_server->port()));
  // Shuffled, because what a call leaves behind (caches, a connection being taken down) slows the next one.
  std::mt19937 random(kShuffleSeed);
  std::vector<std::size_t> order(rows.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  for (int sample = -kWarmUps; sample < options.samples; ++sample) {
    std::ranges::shuffle(order, random);
    for (const std::size_t i : order) {
      const FirstCall call = rows[i].caller->Run();
      if (sample < 0) continue;
      rows[i].ms.push_back(call.time.count());
      rows[i].resumed += call.resumed ? 1 : 0;
    }
  }
  boost::json::object json;
  PrintFirstCalls(rows, options.samples, json);
  const double full_p95 = rows[kP256].At(0.95);
  const double over_p95 = full_p95 - rows[kPlaintext].At(0.95);
  const auto verdict = [](double value, double limit) { return value < limit ? "kept" : "NOT KEPT"; };
  std::printf("promised at p95: under %.0f ms: %.2f, %s; under %.0f ms over plaintext: %.2f, %s\n", kFirstCallLimitMs,
              full_p95, verdict(full_p95, kFirstCallLimitMs), kOverPlaintextLimitMs, over_p95,
              verdict(over_p95, kOverPlaintextLimitMs));

  const auto identity = [&](const char* key, const char* principal, tls::Usage usage) {
    return Published(*publish(key, principal, usage));
  };
  const PemIdentity p256_shown = identity("P-256", kServer, tls::Usage::kServer);
  const PemIdentity p256_client = Published(*p256);
  PartsMeter p256_parts(p256_shown, p256_client);
  PartsMeter rsa_parts(identity("RSA-2048", kServer, tls::Usage::kServer), Published(*rsa));
  HandshakePair resuming(p256_shown, p256_client, HandshakePair::Kind::kResumed);
  (void)resuming.Run();
  std::vector<double> resumed_us;
  std::vector<double> watcher_us;
  for (int sample = 0; sample < options.samples; ++sample) {
    p256_parts.Run();
    rsa_parts.Run();
    const HandshakeCost cost = resuming.Run();
    if (!cost.resumed) throw std::runtime_error("a session was not resumed");
    resumed_us.push_back((cost.client + cost.server).count());
    watcher_us.push_back(TimeFileWatcher(*p256).count());
  }
  PrintParts(p256_parts.Medians(), rsa_parts.Medians(), rows[kPlaintext], rows[kP256], rows[kRsa], Median(resumed_us),
             Median(watcher_us), json);

  MeasureWarmCalls(options, to_p256, start, json);
  MeasureObservedHandshakes(options, p256_shown, p256_client, json);
  if (options.json) std::printf("%s\n", boost::json::serialize(json).c_str());
  return 0;
}

}  // namespace
}  // namespace nova::bench

int main(int argc, char** argv) {
  nova::bench::Options options;
  // Settings of the product are no business of a benchmark.
  nova::config::Config config({.args = {argv + 1, argv + argc}, .environment = {}});
  config.Field("bench.samples", options.samples, {.help = "first calls per row", .flag = "samples", .min = 20});
  config.Field("bench.rounds", options.rounds,
               {.help = "rounds of warm calls counted", .flag = "rounds", .min = 1, .max = 100});
  config.Field("bench.calls", options.calls, {.help = "warm calls per server and round", .flag = "calls", .min = 100});
  config.Field("bench.json", options.json, {.help = "print the figures as JSON, last", .flag = "json"});
  config.Field("bench.server", options.server, {.help = "internal: run one of the servers", .flag = "server"});
  config.Field("bench.certificates", options.certificates,
               {.help = "internal: certificates of that server", .flag = "certificates"});
  if (config.help_requested()) {
    std::fputs(config.Help("./dev bench tls", "A new connection over mTLS, against plaintext.").c_str(), stdout);
    return 0;
  }
  if (const auto finished = config.Finish(); !finished) {
    std::fprintf(stderr, "bench_tls: %s\n", finished.error().message().c_str());
    return 2;
  }
  // That a certificate was published is no news here.
  nova::telemetry::InitLogging({.level = nova::telemetry::Level::kWarn, .service = "bench"});
  try {
    if (!options.server.empty()) return nova::bench::RunServer(options.server, options.certificates);
    return nova::bench::Run(options);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_tls: %s\n", error.what());
    return 1;
  }
}
