// Everything that a server and its clients show and trust is replaced, over and over, while they work: nobody may
// notice, except whoever is of an authority that was withdrawn.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <gtest/gtest.h>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "nova/rpc/client.h"
#include "nova/rpc/server.h"
#include "nova/runtime/runtime.h"
#include "nova/runtime/scope.h"
#include "nova/telemetry/log.h"
#include "nova/telemetry/metrics.h"
#include "nova/tls/authority.h"
#include "nova/tls/credentials.h"
#include "nova/tls/handshakes.h"
#include "nova/tls/publisher.h"
#include "nova/tls/test_pki.h"
#include "nova/tls/text.h"
#include "tests/echo.nova.h"
#include "tests/eventually.h"

namespace nova::tls {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using nova::tests::EchoRequest;
using nova::tests::EchoResponse;
using runtime::Call;
using runtime::Task;
using Methods = nova::tests::EchoServiceMethods;

// How many times leaf and authority are replaced, and how many unary calls are made meanwhile at least. A sanitizer's
// build asks for fewer (CMakeLists.txt).
int FromEnvironment(const char* name, int otherwise) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::atoi(text) : otherwise;
}
const int kRotations = FromEnvironment("ROTATIONS", 10);
const int kCallsMin = FromEnvironment("CALLS", 100'000);

constexpr int kUnaryWorkers = 8;
constexpr int kUnaryClients = 2;
constexpr Duration kPauseBetweenCalls = 2ms;
constexpr int kFreshWorkers = 2;
// So many calls a client lives that is made for a connection of its own.
constexpr int kCallsOfFreshClient = 10;
constexpr int kStreamsOfAKind = 4;
// A stream lasts some seconds, and crosses several steps.
constexpr int kStreamMessages = 50;
constexpr Duration kStreamPause = 100ms;
// A step is seen by so many handshakes at least before the next one follows.
constexpr int kHandshakesUnderEachSet = 5;

// The sum of all series of a name whose labels contain all of `labels`. Appends those that are not 0 to `series`.
double Sum(const telemetry::Metrics& metrics, const std::string& name, const std::vector<std::string_view>& labels = {},
           std::string* series = nullptr) {
  double sum = 0;
  const std::string scrape = metrics.Scrape();
  for (std::size_t at = 0; at < scrape.size();) {
    const std::size_t end = std::min(scrape.find('\n', at), scrape.size());
    const std::string_view line = std::string_view(scrape).substr(at, end - at);
    at = end + 1;
    if (!line.starts_with(name + "{") || !std::ranges::all_of(labels, [&](auto label) { return line.contains(label); }))
      continue;
    const double value = std::strtod(&line[line.rfind(' ') + 1], nullptr);
    sum += value;
    if (value != 0 && series != nullptr) *series += std::string(line) + "\n";
  }
  return sum;
}

// A principal's certificates on the disk, and what a process of it has in memory.
struct Party {
  LeafSpec spec;
  fs::path folder;
  std::unique_ptr<IdentityPublisher> publisher;
};

class RotationTest : public testing::Test {
 protected:
  RotationTest() {
    // Every replacement says so; only failures matter here.
    telemetry::InitLogging({.level = telemetry::Level::kError}, {});
    Work([&](Authority& authority) {
      for (Party* party : {&server_, &client_}) ASSERT_TRUE(authority.Issue(party->spec, party->folder));
    });
    Publish(server_, Usage::kServer);
    Publish(client_, Usage::kClient);
    for (Party* party : {&server_, &client_}) party->publisher->Watch(scope_);
  }

  ~RotationTest() override {
    stop_ = true;
    EXPECT_TRUE(tests::Eventually([&] { return working_ == 0; }));
    EXPECT_TRUE(scope_.Stop(30s));
    clients_.clear();
    if (echo_) echo_->Stop();
  }

  Party MakeParty(const std::string& principal, const std::string& folder) {
    return {.spec = {.principal = principal, .dns_extra = {}, .ips_extra = {}},
            .folder = directory_ / folder,
            .publisher = nullptr};
  }

  void Publish(Party& party, Usage usage) {
    auto publisher = IdentityPublisher::Create(
        {.files = TestFiles(party.folder), .usage = usage, .poll_interval = 20ms}, Clock::System(), metrics_);
    if (!publisher) throw std::runtime_error(publisher.error().ToString());
    party.publisher = *std::move(publisher);
  }

  // One piece of work, as `nova certs` does it.
  void Work(const std::function<void(Authority&)>& work) {
    auto authority = Authority::LoadOrCreate(directory_ / "ca", Clock::System());
    ASSERT_TRUE(authority) << authority.error().ToString();
    work(*authority);
  }

  // Makes every set what it should be after `work`, and waits until the processes have taken it up.
  void Publishes(const std::function<Result<void>(Authority&)>& work) {
    Work([&](Authority& authority) {
      const auto done = work(authority);
      ASSERT_TRUE(done) << done.error().ToString();
      for (Party* party : {&server_, &client_}) {
        if (authority.NeedsRenewal(party->spec, party->folder)) {
          ASSERT_TRUE(authority.Issue(party->spec, party->folder));
        } else if (authority.NeedsTrust(party->folder)) {
          ASSERT_TRUE(authority.IssueTrust(party->spec, party->folder));
        }
      }
    });
    for (const Party* party : {&server_, &client_}) {
      const auto wanted = LoadCertificateSet(TestFiles(party->folder), Usage::kServer, Clock::System());
      ASSERT_TRUE(wanted) << wanted.error().ToString();
      ASSERT_TRUE(tests::Eventually([&] {
        return party->publisher->info().serial == wanted->info.serial &&
               party->publisher->authorities() == wanted->authorities;
      })) << party->spec.principal;
    }
  }

  // A step of a replacement: the next one must find that every handshake follows this one.
  void Step(const std::function<Result<void>(Authority&)>& work) {
    Publishes(work);
    Wait(kHandshakesFollowWithin);
  }

  // Nothing has to be waited for between one leaf and the next.
  void NewLeaves() {
    Publishes([&](Authority& authority) -> Result<void> {
      for (Party* party : {&server_, &client_}) NOVA_TRY(authority.Issue(party->spec, party->folder));
      return Ok();
    });
    EXPECT_TRUE(tests::Eventually([&] { return SerialShown() == server_.publisher->info().serial; }));
  }

  void Wait(Duration duration) {
    EXPECT_TRUE(runtime_.RunBlocking<void>(1min, [&](Call& call) { return runtime::Sleep(call, duration); }));
  }

  void Start(rpc::ServerConfig config) {
    config.address = "127.0.0.1";
    config.port = 0;
    config.drain_limit = 0ms;
    echo_ = MakeServer(config, *server_.publisher);
  }

  std::unique_ptr<rpc::Server> MakeServer(const rpc::ServerConfig& config, const IdentityPublisher& publisher) {
    const auto nobody = [](std::string_view) -> Result<runtime::Caller> { return Unauthenticated("nobody"); };
    auto server = std::make_unique<rpc::Server>(
        runtime_, metrics_, config,
        rpc::ServerSecurity{.credentials = MakeServerCredentials(publisher, ClientCertificate::kRequired),
                            .stack = {.verify_token = nobody}});
    const auto answer = [](Call&, const EchoRequest& request) -> Task<EchoResponse> {
      EchoResponse response;
      response.set_text(request.text());
      co_return response;
    };
    rpc::Service service(Methods::kService);
    service.Handle(Methods::kEcho, answer);
    service.Handle(Methods::kHurried, answer);
    service.Handle(Methods::kOperatorOnly, answer);
    service.Handle(Methods::kForCaller, answer);
    service.Handle(Methods::kForAnyone, answer);
    service.Handle(Methods::kFail, answer);
    service.Handle(Methods::kRepeat,
                   [](Call& call, const EchoRequest& request, rpc::Writer<EchoResponse>& writer) -> Task<void> {
                     for (const char letter : request.text()) {
                       NOVA_CO_TRY(co_await runtime::Sleep(call, std::chrono::microseconds(request.wait_us())));
                       EchoResponse response;
                       response.set_text(std::string(1, letter));
                       NOVA_CO_TRY(co_await writer.Write(call, response));
                     }
                     co_return Ok();
                   });
    service.Handle(Methods::kJoin, [](Call& call, rpc::Reader<EchoRequest>& reader) -> Task<EchoResponse> {
      EchoResponse joined;
      while (true) {
        NOVA_CO_TRY(const auto request, co_await reader.Read(call));
        if (!request) co_return joined;
        joined.mutable_text()->append(request->text());
      }
    });
    service.Handle(Methods::kChat,
                   [](Call&, rpc::Reader<EchoRequest>&, rpc::Writer<EchoResponse>&) -> Task<void> { co_return Ok(); });
    server->Add(std::move(service));
    const auto started = server->Start();
    if (!started) throw std::runtime_error(started.error().ToString());
    return server;
  }

  std::unique_ptr<rpc::Client> MakeClient(const IdentityPublisher& publisher, int port) {
    return std::make_unique<rpc::Client>(
        metrics_, peer_,
        rpc::ClientConfig{.principal = "echo", .target = "127.0.0.1:" + std::to_string(port), .own_connection = true},
        ChannelIdentity(publisher));
  }
  std::unique_ptr<rpc::Client> MakeClient() { return MakeClient(*client_.publisher, echo_->port()); }

  // Spawns work that is repeated until the test ends it, and counts what fails.
  void Load(const char* name, std::function<Task<void>(Call&)> round) {
    ++working_;
    scope_.Spawn(name, [this, name, round = std::move(round)](Call& call) -> Task<void> {
      while (!stop_) {
        const auto done = co_await round(call);
        if (!done) Failed(name, done.error());
      }
      --working_;
      co_return Ok();
    });
  }

  // One call, which nothing repeats (ForProbes).
  Task<void> OneCall(Call& call, rpc::Client& client) {
    EchoRequest request;
    request.set_text(std::to_string(++calls_));
    NOVA_CO_TRY(const auto answer, co_await client.Invoke(call, Methods::kEcho, request));
    if (answer.text() != request.text()) co_return Internal("another call's answer");
    co_return Ok();
  }

  Task<void> OneRepeat(Call& call, rpc::Client& client) {
    ++streams_;
    NOVA_CO_TRY(auto stream, client.Open(call, Methods::kRepeat));
    EchoRequest request;
    for (int i = 0; i < kStreamMessages; ++i) *request.mutable_text() += static_cast<char>('a' + i % 26);
    request.set_wait_us(std::chrono::duration_cast<std::chrono::microseconds>(kStreamPause).count());
    NOVA_CO_TRY(co_await stream.Write(call, request));
    NOVA_CO_TRY(co_await stream.WritesDone(call));
    std::string got;
    while (true) {
      NOVA_CO_TRY(const auto message, co_await stream.Read(call));
      if (!message) break;
      ++messages_;
      got += message->text();
    }
    NOVA_CO_TRY(co_await stream.Finish(call));
    if (got != request.text()) co_return Internal("the stream lost something");
    co_return Ok();
  }

  Task<void> OneJoin(Call& call, rpc::Client& client) {
    ++streams_;
    NOVA_CO_TRY(auto stream, client.Open(call, Methods::kJoin));
    std::string sent;
    for (int i = 0; i < kStreamMessages; ++i) {
      EchoRequest request;
      request.set_text(std::to_string(i));
      sent += request.text();
      NOVA_CO_TRY(co_await stream.Write(call, request));
      ++messages_;
      NOVA_CO_TRY(co_await runtime::Sleep(call, kStreamPause));
    }
    NOVA_CO_TRY(co_await stream.WritesDone(call));
    NOVA_CO_TRY(const auto joined, co_await stream.Read(call));
    NOVA_CO_TRY(co_await stream.Finish(call));
    if (!joined || joined->text() != sent) co_return Internal("the stream lost something");
    co_return Ok();
  }

  void StartLoad() {
    for (int i = 0; i < kUnaryClients; ++i) clients_.push_back(MakeClient());
    for (int i = 0; i < kUnaryWorkers; ++i) {
      Load("call",
           [this, client = clients_[static_cast<std::size_t>(i % kUnaryClients)].get()](Call& call) -> Task<void> {
             NOVA_CO_TRY(co_await OneCall(call, *client));
             co_return co_await runtime::Sleep(call, kPauseBetweenCalls);
           });
    }
    for (int i = 0; i < kFreshWorkers; ++i) {
      Load("call over a new connection", [this](Call& call) -> Task<void> {
        const auto client = MakeClient();
        for (int n = 0; n < kCallsOfFreshClient; ++n) {
          NOVA_CO_TRY(co_await OneCall(call, *client));
          NOVA_CO_TRY(co_await runtime::Sleep(call, kPauseBetweenCalls));
        }
        co_return Ok();
      });
    }
    for (int i = 0; i < kStreamsOfAKind; ++i) {
      Load("server stream", [this](Call& call) { return OneRepeat(call, *clients_.front()); });
      Load("client stream", [this](Call& call) { return OneJoin(call, *clients_.back()); });
    }
  }

  // Every worker ends the round it is in.
  void EndLoad() {
    stop_ = true;
    EXPECT_TRUE(tests::Eventually([&] { return working_ == 0; }));
  }

  void Failed(const char* what, const Error& error) {
    ++failed_;
    const std::lock_guard lock(mutex_);
    if (failures_.size() < 10) failures_.push_back(std::string(what) + ": " + error.ToString());
  }
  std::string Failures() {
    const std::lock_guard lock(mutex_);
    std::string text;
    for (const std::string& failure : failures_) text += failure + "\n";
    return text;
  }

  double Handshakes() const { return Sum(metrics_, "nova_tls_handshake_seconds_count", {"side=\"server\""}); }
  double Refused(std::string_view side) const {
    return Sum(metrics_, "nova_tls_handshake_errors_total", {side, "reason=\"certificate_rejected_unknown_ca\""});
  }
  // Every failed handshake, of either side.
  std::string HandshakeErrors() const {
    std::string series;
    (void)Sum(metrics_, "nova_tls_handshake_errors_total", {}, &series);
    return series;
  }

  // Of the certificate that the server shows now to whoever trusts the client's authorities: `openssl` is asked.
  std::string SerialShown() const {
    const auto file = [&](const char* name) { return (client_.folder / name).string(); };
    const CommandResult shown = RunCommand(
        Concat({"openssl s_client -connect 127.0.0.1:", std::to_string(echo_->port()), " -alpn h2 -verify_return_error",
                " -verify_hostname ", ServiceDnsName("echo"), " -CAfile ", file("ca.crt"), " -cert ", file("tls.crt"),
                " -key ", file("tls.key"), " </dev/null 2>/dev/null | openssl x509 -noout -serial"}));
    constexpr std::string_view kBefore = "serial=";
    if (!shown.output.starts_with(kBefore) || !shown.output.ends_with('\n')) return shown.output;
    return shown.output.substr(kBefore.size(), shown.output.size() - kBefore.size() - 1);
  }

  // Handshakes under the sets of now really happen, and show the certificate of now.
  void ExpectInUse() {
    const double before = Handshakes();
    EXPECT_EQ(SerialShown(), server_.publisher->info().serial);
    EXPECT_TRUE(tests::Eventually([&] { return Handshakes() >= before + kHandshakesUnderEachSet; }));
  }

  // In the order in which they are needed, so that they go in the other one.
  TestDirectory directory_;
  telemetry::Metrics metrics_;
  HandshakeObserver observer_{metrics_, {}};
  resilience::PeerDependency peer_{"echo", metrics_, resilience::ForProbes(resilience::Kind::kPeer)};
  runtime::Runtime runtime_;
  runtime::Scope scope_{runtime_};
  Party server_ = MakeParty("echo", "echo");
  Party client_ = MakeParty("gateway", "gateway");
  // Of the same principals, and never renewed: stolen, on either end.
  Party impostor_ = MakeParty("echo", "impostor");
  Party thief_ = MakeParty("gateway", "thief");
  std::unique_ptr<rpc::Server> echo_;
  std::vector<std::unique_ptr<rpc::Client>> clients_;

  std::atomic<bool> stop_ = false;
  std::atomic<int> working_ = 0;
  std::atomic<int> calls_ = 0;
  std::atomic<int> streams_ = 0;
  std::atomic<int> messages_ = 0;
  std::atomic<int> failed_ = 0;
  std::mutex mutex_;
  std::vector<std::string> failures_;  // guarded by mutex_
};

TEST_F(RotationTest, NothingFailsWhileLeavesAndAuthoritiesAreReplaced) {
  // Young connections: long-lived clients shake hands about once a second, and their streams go on for the grace.
  Start({.connection_age_max = 1s, .connection_age_grace = 15s});
  StartLoad();
  for (int i = 0; i < kRotations && !HasFatalFailure(); ++i) {
    NewLeaves();
    ExpectInUse();
    Step([](Authority& authority) { return authority.IntroduceNext(); });
    ExpectInUse();
    Step([](Authority& authority) { return authority.SignWithNext(); });
    ExpectInUse();
    Step([](Authority& authority) { return authority.WithdrawFormer(); });
    ExpectInUse();
  }
  EXPECT_TRUE(tests::Eventually([&] { return calls_ >= kCallsMin || HasFailure(); }, 120s));
  EndLoad();
  std::printf("calls %d, streams %d with %d messages, handshakes %.0f, failed %d\n", calls_.load(), streams_.load(),
              messages_.load(), Handshakes(), failed_.load());
  EXPECT_EQ(failed_, 0) << Failures();
  EXPECT_EQ(HandshakeErrors(), "");
  EXPECT_GE(calls_, kCallsMin);
  EXPECT_GE(streams_, kStreamsOfAKind * kRotations);
}

// Asks once, over whatever connection the client has or gets.
Code Ask(runtime::Runtime& runtime, rpc::Client& client) {
  const auto answer = runtime.RunBlocking<EchoResponse>(10s, [&](Call& call) -> Task<EchoResponse> {
    const EchoRequest request;
    co_return co_await client.Invoke(call, Methods::kEcho, request);
  });
  return answer ? Code::kOk : answer.error().code();
}

// Reads a stream of 15 s to its end.
Task<void> Listen(Call& call, rpc::Client& client, std::atomic<bool>& answered) {
  NOVA_CO_TRY(auto stream, client.Open(call, Methods::kRepeat));
  EchoRequest request;
  request.set_text(std::string(150, 'x'));
  request.set_wait_us(100'000);
  NOVA_CO_TRY(co_await stream.Write(call, request));
  NOVA_CO_TRY(co_await stream.WritesDone(call));
  while (true) {
    NOVA_CO_TRY(const auto message, co_await stream.Read(call));
    if (!message) break;
    answered = true;
  }
  co_return co_await stream.Finish(call);
}

TEST_F(RotationTest, WhoeverIsOfAWithdrawnAuthorityIsOutWithinTheBound) {
  constexpr std::chrono::milliseconds kAgeMax = 4s;
  constexpr std::chrono::milliseconds kGrace = 2s;
  // gRPC lets a connection be up to a tenth older; then timers and threads need their moment.
  constexpr Duration kBound = kAgeMax + kAgeMax / 10 + kGrace;
  constexpr Duration kMoment = 2s;
  Start({.connection_age_max = kAgeMax, .connection_age_grace = kGrace});

  Step([&](Authority& authority) -> Result<void> {
    NOVA_TRY(authority.IntroduceNext());
    NOVA_TRY(authority.Issue(thief_.spec, thief_.folder));
    return authority.Issue(impostor_.spec, impostor_.folder);
  });
  Publish(thief_, Usage::kClient);
  Publish(impostor_, Usage::kServer);
  const auto impostor = MakeServer({.address = "127.0.0.1", .port = 0, .drain_limit = 0ms}, *impostor_.publisher);
  const auto to_impostor = MakeClient(*client_.publisher, impostor->port());
  const auto honest = MakeClient();
  const auto thief = MakeClient(*thief_.publisher, echo_->port());
  Step([](Authority& authority) { return authority.SignWithNext(); });
  EXPECT_EQ(Ask(runtime_, *honest), Code::kOk);
  EXPECT_EQ(Ask(runtime_, *to_impostor), Code::kOk) << "the former authority is still trusted";
  EXPECT_EQ(Ask(runtime_, *thief), Code::kOk) << "the former authority is still trusted";
  EXPECT_EQ(HandshakeErrors(), "");

  // The last connection of it, with a stream that would go on for longer than the bound.
  struct Stream {
    std::shared_ptr<rpc::Client> client;
    std::atomic<bool> answered = false;
    std::atomic<bool> over = false;
    // Once it is over.
    SteadyTime began = {};
    SteadyTime ended = {};
    Result<void> outcome = Ok();
  };
  const auto last = std::make_shared<Stream>(MakeClient(*thief_.publisher, echo_->port()));
  scope_.Spawn("the last stream", [last](Call& call) -> Task<void> {
    last->began = Clock::System().Now();
    last->outcome = co_await Listen(call, *last->client, last->answered);
    last->ended = Clock::System().Now();
    last->over = true;
    co_return Ok();
  });
  ASSERT_TRUE(tests::Eventually([&] { return last->answered || last->over; }));
  ASSERT_FALSE(last->over) << last->outcome.error().ToString();
  Step([](Authority& authority) { return authority.WithdrawFormer(); });

  // No new connection, neither at a client that had one nor at one that is new; and it is said why.
  EXPECT_EQ(Ask(runtime_, *MakeClient(*thief_.publisher, echo_->port())), Code::kUnavailable);
  EXPECT_TRUE(tests::Eventually([&] { return Refused("side=\"server\"") >= 1; })) << HandshakeErrors();
  ASSERT_TRUE(tests::Eventually([&] { return last->over.load(); }));
  const Duration lived = last->ended - last->began;
  EXPECT_FALSE(last->outcome) << "the stream came to its own end";
  EXPECT_LE(lived, kBound + kMoment);
  std::printf("the last connection of the withdrawn authority ended after %.1f s, of %.1f s at most\n",
              std::chrono::duration<double>(lived).count(), std::chrono::duration<double>(kBound).count());
  EXPECT_EQ(Ask(runtime_, *thief), Code::kUnavailable);
  EXPECT_EQ(Ask(runtime_, *last->client), Code::kUnavailable);
  // A client does not wait for its connections to age: what was verified by the withdrawn one is not used any more.
  EXPECT_EQ(Ask(runtime_, *to_impostor), Code::kUnavailable);
  EXPECT_TRUE(tests::Eventually([&] { return Refused("side=\"client\"") >= 1; })) << HandshakeErrors();
  // And everybody else goes on.
  EXPECT_EQ(Ask(runtime_, *honest), Code::kOk);
}

}  // namespace
}  // namespace nova::tls
