// What protects a call to a peer, over real gRPC on loopback: retries and who may make them, push-back, the allowance
// that the hops of a chain share, breaker and bulkhead.
#include <atomic>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/post.hpp>
#include <cstdio>
#include <functional>
#include <future>
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <limits>
#include <map>
#include <mutex>
#include <random>
#include <thread>

#include "nova/resilience/dependency.h"
#include "nova/rpc/client.h"
#include "nova/rpc/retry_headers.h"
#include "nova/rpc/server.h"
#include "nova/runtime/one_shot.h"
#include "nova/telemetry/log.h"
#include "nova/tls/credentials.h"
#include "tests/eventually.h"
#include "tests/retry.nova.h"
#include "tests/seed.h"

namespace nova::rpc {
namespace {

using nova::tests::Eventually;
using nova::tests::Ping;
using nova::tests::Pong;
using resilience::DependencyConfig;
using resilience::PeerDependency;
using runtime::Call;
using runtime::Task;
using std::chrono::milliseconds;
using std::chrono::seconds;
using Methods = nova::tests::RetryServiceMethods;
using Headers = std::multimap<std::string, std::string>;

// For a test that is about something else.
constexpr int kNever = std::numeric_limits<int>::max();

// Quick, and with a budget for a retry of every call; the breaker never opens.
DependencyConfig Quick() {
  DependencyConfig config = DependencyConfig::Default(resilience::Kind::kPeer);
  config.retry = {.tries_max = 3, .backoff = milliseconds(1), .backoff_max = milliseconds(5), .budget_ratio = 1};
  config.breaker.calls_min = kNever;
  return config;
}

// As Quick, with a breaker that decides soon.
DependencyConfig Breaking() {
  DependencyConfig config = Quick();
  config.retry.tries_max = 1;
  config.breaker.calls_min = 4;
  config.breaker.open_time = milliseconds(250);
  config.breaker.probes = 2;
  return config;
}

double CounterOf(telemetry::Metrics& metrics, const std::string& series) {
  const std::string scrape = "\n" + metrics.Scrape();
  const auto at = scrape.find("\n" + series + " ");
  return at == std::string::npos ? 0 : std::strtod(scrape.c_str() + at + series.size() + 2, nullptr);
}

using Handler = std::function<Task<Pong>(Call&, const Ping&)>;

// Nova's own server.
class Peer {
 public:
  Peer(runtime::Runtime& runtime, Handler handler, int port = 0) : handler_(std::move(handler)) {
    server_.emplace(
        runtime, metrics_, ServerConfig{.address = "127.0.0.1", .port = port, .drain_limit = milliseconds(0)},
        ServerSecurity{.credentials = tls::MakePlaintextServerCredentials(), .stack = {.authorize_peers = false}});
    Service service(Methods::kService);
    const auto handle = [this](Call& call, const Ping& ping) -> Task<Pong> {
      ++calls_;
      co_return co_await handler_(call, ping);
    };
    service.Handle(Methods::kSafe, handle);
    service.Handle(Methods::kKeyed, handle);
    service.Handle(Methods::kOnce, handle);
    service.Handle(Methods::kBrief, handle);
    service.Handle(Methods::kWatch, [this](Call& call, const Ping& ping, Writer<Pong>& writer) -> Task<void> {
      ++calls_;
      if (ping.text() == "fail") co_return Unavailable("not today");
      Pong pong;
      NOVA_CO_TRY(co_await writer.Write(call, pong));
      if (ping.text() == "end") co_return Ok();
      co_return co_await runtime::Sleep(call, seconds(60));
    });
    server_->Add(std::move(service));
    const auto started = server_->Start();
    if (!started) ADD_FAILURE() << started.error().ToString();
    // ThreadSanitizer cannot see that gRPC hands what was made here to the runtime's threads; this it sees.
    boost::asio::post(runtime.io(), [] {});
  }

  int port() const { return server_->port(); }
  int calls() const { return calls_; }
  int in_flight() const { return server_->calls_in_flight(); }

 private:
  const Handler handler_;
  std::atomic<int> calls_ = 0;
  telemetry::Metrics metrics_;
  std::optional<Server> server_;
};

// A peer of another make: it answers what the test says, with the trailers the test says, and remembers what it heard.
class ForeignPeer final : grpc::CallbackGenericService {
 public:
  struct Answer {
    grpc::StatusCode code = grpc::StatusCode::OK;
    Headers trailers = {};
    bool never = false;
  };
  // `number`: 1 for the first call.
  using Script = std::function<Answer(int number)>;
  struct Heard {
    std::string retries_left;
    SteadyTime at;
    // Until its deadline.
    std::chrono::system_clock::duration remaining;
  };

  explicit ForeignPeer(Script script) : script_(std::move(script)) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterCallbackGenericService(this);
    server_ = builder.BuildAndStart();
  }
  ~ForeignPeer() override {
    server_->Shutdown(std::chrono::system_clock::now());
    server_->Wait();
  }

  int port() const { return port_; }
  std::vector<Heard> heard() const {
    std::lock_guard lock(mutex_);
    return heard_;
  }
  std::vector<std::string> retries_left() const {
    std::vector<std::string> all;
    for (const Heard& call : heard()) all.push_back(call.retries_left);
    return all;
  }

 private:
  class Reactor final : public grpc::ServerGenericBidiReactor {
   public:
    explicit Reactor(const Answer& answer) : never_(answer.never) {
      if (never_) return;
      const grpc::Slice nothing("");
      pong_ = grpc::ByteBuffer(&nothing, 1);
      if (answer.code == grpc::StatusCode::OK) {
        StartWriteAndFinish(&pong_, {}, grpc::Status::OK);
      } else {
        Finish(grpc::Status(answer.code, "as told"));
      }
    }

   private:
    void OnCancel() override {
      if (never_) Finish(grpc::Status::CANCELLED);
    }
    void OnDone() override { delete this; }
    const bool never_;
    grpc::ByteBuffer pong_;
  };

  grpc::ServerGenericBidiReactor* CreateReactor(grpc::GenericCallbackServerContext* context) override {
    int number = 0;
    {
      std::lock_guard lock(mutex_);
      const auto left = context->client_metadata().find(kRetriesLeftHeader);
      heard_.push_back({.retries_left = left == context->client_metadata().end()
                                            ? std::string("absent")
                                            : std::string(left->second.data(), left->second.size()),
                        .at = Clock::System().Now(),
                        .remaining = context->deadline() - Clock::System().WallNow()});
      number = static_cast<int>(heard_.size());
    }
    const Answer answer = script_(number);
    for (const auto& [key, value] : answer.trailers) context->AddTrailingMetadata(key, value);
    return new Reactor(answer);  // gRPC's way: it deletes itself when gRPC is done with it
  }

  const Script script_;
  mutable std::mutex mutex_;
  std::vector<Heard> heard_;  // guarded by mutex_
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

// A client of another make: its headers are the test's.
struct Said {
  grpc::Status status;
  Headers trailers;
};
Said Ask(int port, const char* path, const Headers& headers) {
  grpc::GenericStub stub(grpc::CreateChannel("127.0.0.1:" + std::to_string(port), grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  for (const auto& [key, value] : headers) context.AddMetadata(key, value);
  const grpc::Slice nothing("");
  const grpc::ByteBuffer request(&nothing, 1);
  grpc::ByteBuffer response;
  std::promise<grpc::Status> ended;
  stub.UnaryCall(&context, path, {}, &request, &response,
                 [&ended](grpc::Status status) { ended.set_value(std::move(status)); });
  Said said{.status = ended.get_future().get(), .trailers = {}};
  for (const auto& [key, value] : context.GetServerTrailingMetadata())
    said.trailers.emplace(std::string(key.data(), key.size()), std::string(value.data(), value.size()));
  return said;
}

std::string One(const Headers& headers, const char* key) {
  if (headers.count(key) > 1) return "several";
  const auto found = headers.find(key);
  return found == headers.end() ? std::string("absent") : found->second;
}

// A dependency and its client.
class Link {
 public:
  explicit Link(int port, const DependencyConfig& config = Quick(), const std::string& host = "127.0.0.1")
      : dependency_("peer", metrics_, config),
        client_(metrics_, dependency_,
                {.principal = "peer", .target = host + ":" + std::to_string(port), .own_connection = true},
                tls::ChannelIdentity::Plaintext()) {
    // What earlier calls would have left there.
    for (int i = 0; i < resilience::RetryBudget::kTokensMax; ++i) dependency_.retry_budget().Deposit();
  }

  PeerDependency& dependency() { return dependency_; }
  Client& client() { return client_; }
  telemetry::Metrics& metrics() { return metrics_; }
  resilience::Breaker::State state() { return dependency_.breaker().state(); }
  int outcomes(const char* outcome) {
    return static_cast<int>(CounterOf(
        metrics_, std::string("nova_dependency_calls_total{dependency=\"peer\",outcome=\"") + outcome + "\"}"));
  }
  int refused(const char* reason) {
    return static_cast<int>(CounterOf(
        metrics_, std::string("nova_dependency_retries_refused_total{dependency=\"peer\",reason=\"") + reason + "\"}"));
  }

 private:
  telemetry::Metrics metrics_;
  PeerDependency dependency_;
  Client client_;
};

class RetryTest : public ::testing::Test {
 protected:
  // The servers warn of every failure, and here they fail thousands of times on purpose.
  static void SetUpTestSuite() { telemetry::InitLogging({.level = telemetry::Level::kError, .service = "test"}); }

  template <class Method>
  Result<Pong> Invoke(Link& link, Method method, Duration timeout = seconds(20)) {
    return runtime_.RunBlocking<Pong>(timeout, [&](Call& call) -> Task<Pong> {
      const Ping ping;
      co_return co_await link.client().Invoke(call, method, ping);
    });
  }

  // Fails with each of `errors` in turn, then answers.
  static Handler FailsWith(std::vector<Code> errors) {
    auto next = std::make_shared<std::atomic<std::size_t>>(0);
    return [errors = std::move(errors), next](Call&, const Ping&) -> Task<Pong> {
      const std::size_t i = (*next)++;
      if (i < errors.size()) co_return Error(errors[i], "as told");
      co_return Pong();
    };
  }
  static Task<Pong> FailsAlways(Call&, const Ping&) { co_return Unavailable("not today"); }
  static Task<Pong> Answers(Call&, const Ping&) { co_return Pong(); }
  static Task<Pong> Hangs(Call& call, const Ping&) {
    NOVA_CO_TRY(co_await runtime::Sleep(call, seconds(60)));
    co_return Pong();
  }
  // Asks the next hop on behalf of its own request.
  static Handler Forward(Link& next) {
    return [&next](Call& call, const Ping& ping) -> Task<Pong> {
      co_return co_await next.client().Invoke(call, Methods::kSafe, ping);
    };
  }

  runtime::Runtime runtime_;
};

TEST_F(RetryTest, WorkThatMayBeRepeatedIsTriedAgain) {
  Peer peer(runtime_, FailsWith({Code::kUnavailable, Code::kUnavailable}));
  Link link(peer.port());
  const auto answer = Invoke(link, Methods::kSafe);
  EXPECT_TRUE(answer.ok()) << answer.error().ToString();
  EXPECT_EQ(peer.calls(), 3);
  EXPECT_EQ(CounterOf(link.metrics(), "nova_dependency_retries_total{dependency=\"peer\"}"), 2);
}

TEST_F(RetryTest, SoIsWorkWhoseRequestCarriesItsKey) {
  Peer peer(runtime_, FailsWith({Code::kUnavailable}));
  Link link(peer.port());
  EXPECT_TRUE(Invoke(link, Methods::kKeyed).ok());
  EXPECT_EQ(peer.calls(), 2);
}

TEST_F(RetryTest, WorkThatMayNotBeRepeatedIsTriedOnce) {
  Peer peer(runtime_, FailsAlways);
  Link link(peer.port());
  EXPECT_EQ(Invoke(link, Methods::kOnce).error().code(), Code::kUnavailable);
  EXPECT_EQ(peer.calls(), 1);
}

TEST_F(RetryTest, AnErrorThatAnotherTryCannotMendIsFinal) {
  for (int number = 1; number < kCodeCount; ++number) {
    const auto code = static_cast<Code>(number);
    if (code == Code::kUnavailable) continue;
    Peer peer(runtime_, FailsWith({code}));
    Link link(peer.port());
    EXPECT_EQ(Invoke(link, Methods::kSafe).error().code(), code);
    EXPECT_EQ(peer.calls(), 1) << CodeName(code);
  }
}

TEST_F(RetryTest, GivesUpAfterItsTries) {
  Peer peer(runtime_, FailsAlways);
  Link link(peer.port());
  EXPECT_EQ(Invoke(link, Methods::kSafe).error().code(), Code::kUnavailable);
  EXPECT_EQ(peer.calls(), 3);
  EXPECT_EQ(link.refused("tries"), 1);
}

TEST_F(RetryTest, EachTryIsCountedAsACall) {
  Peer peer(runtime_, FailsWith({Code::kUnavailable, Code::kUnavailable}));
  Link link(peer.port());
  ASSERT_TRUE(Invoke(link, Methods::kSafe).ok());
  const auto handled = [&link](const std::string& code) {
    return CounterOf(link.metrics(), "grpc_client_handled_total{grpc_code=\"" + code +
                                         "\",grpc_method=\"Safe\",grpc_service=\"nova.tests.RetryService\","
                                         "peer=\"peer\"}");
  };
  EXPECT_EQ(handled("UNAVAILABLE"), 2);
  EXPECT_EQ(handled("OK"), 1);
  EXPECT_EQ(link.outcomes("failed"), 2);
  EXPECT_EQ(link.outcomes("ok"), 1);
}

TEST_F(RetryTest, AStormOfFailuresAddsNoMoreThanTheBudget) {
  Peer peer(runtime_, FailsAlways);
  DependencyConfig config = Quick();
  config.retry.budget_ratio = 0.2;
  Link link(peer.port(), config);
  constexpr int kCalls = 200;
  for (int i = 0; i < kCalls; ++i) (void)Invoke(link, Methods::kSafe);
  // The tokens that Link put there, two, come on top.
  EXPECT_GE(peer.calls(), kCalls * 1.2 - 1);
  EXPECT_LE(peer.calls(), kCalls * 1.2 + 2);
  EXPECT_GT(link.refused("budget"), 0);
}

TEST_F(RetryTest, ATryIsNotMadeBeforeThePeerWantsIt) {
  ForeignPeer peer([](int number) {
    return number < 3 ? ForeignPeer::Answer{.code = grpc::StatusCode::UNAVAILABLE,
                                            .trailers = {{"grpc-retry-pushback-ms", "50"}}}
                      : ForeignPeer::Answer{};
  });
  Link link(peer.port());
  const auto answer = Invoke(link, Methods::kSafe);
  ASSERT_TRUE(answer.ok()) << answer.error().ToString();
  const auto heard = peer.heard();
  ASSERT_EQ(heard.size(), 3U);
  EXPECT_GE(heard[1].at - heard[0].at, milliseconds(50));
  EXPECT_GE(heard[2].at - heard[1].at, milliseconds(50));
}

TEST_F(RetryTest, APeerThatShedsIsTriedAgainOnlyWhenItSaysWhen) {
  ForeignPeer peer([](int number) {
    return number == 1 ? ForeignPeer::Answer{.code = grpc::StatusCode::RESOURCE_EXHAUSTED,
                                             .trailers = {{"grpc-retry-pushback-ms", "10"}}}
                       : ForeignPeer::Answer{};
  });
  Link link(peer.port());
  EXPECT_TRUE(Invoke(link, Methods::kSafe).ok());
  EXPECT_EQ(peer.heard().size(), 2U);
}

TEST_F(RetryTest, APeerThatWantsNoTryGetsNone) {
  for (const char* said : {"-1", "soon", "99999999999999999999"}) {
    ForeignPeer peer([said](int) {
      return ForeignPeer::Answer{.code = grpc::StatusCode::UNAVAILABLE, .trailers = {{"grpc-retry-pushback-ms", said}}};
    });
    Link link(peer.port());
    EXPECT_EQ(Invoke(link, Methods::kSafe).error().code(), Code::kUnavailable);
    EXPECT_EQ(peer.heard().size(), 1U) << said;
    EXPECT_EQ(link.refused("push_back"), 1) << said;
  }
}

TEST_F(RetryTest, ATryThatWouldComeTooLateIsNotWaitedFor) {
  ForeignPeer peer([](int) {
    return ForeignPeer::Answer{.code = grpc::StatusCode::UNAVAILABLE,
                               .trailers = {{"grpc-retry-pushback-ms", "3600000"}}};
  });
  Link link(peer.port());
  const SteadyTime begin = Clock::System().Now();
  EXPECT_EQ(Invoke(link, Methods::kSafe).error().code(), Code::kUnavailable);
  EXPECT_LT(Clock::System().Now() - begin, seconds(10));
  EXPECT_EQ(link.refused("deadline"), 1);
}

TEST_F(RetryTest, TheMethodsLimitIsOverAllTries) {
  ForeignPeer peer([](int number) {
    return number == 1 ? ForeignPeer::Answer{.code = grpc::StatusCode::UNAVAILABLE,
                                             .trailers = {{"grpc-retry-pushback-ms", "300"}}}
                       : ForeignPeer::Answer{.never = true};
  });
  Link link(peer.port());
  const auto late = Invoke(link, Methods::kBrief);
  ASSERT_FALSE(late.ok());
  EXPECT_EQ(late.error().code(), Code::kDeadlineExceeded);
  EXPECT_NE(late.error().detail().find("the operation's own limit (400 ms)"), std::string::npos)
      << late.error().ToString();
  const auto heard = peer.heard();
  ASSERT_EQ(heard.size(), 2U);
  EXPECT_LE(heard[0].remaining, milliseconds(401));
  EXPECT_LE(heard[1].remaining, milliseconds(101));
}

TEST_F(RetryTest, ThePolicysTimeoutIsOverAllTries) {
  Peer peer(runtime_, Hangs);
  DependencyConfig config = Quick();
  config.timeout = milliseconds(100);
  Link link(peer.port(), config);
  const auto late = Invoke(link, Methods::kSafe);
  EXPECT_EQ(late.error().code(), Code::kDeadlineExceeded);
  EXPECT_NE(late.error().detail().find("RESILIENCE_PEER_TIMEOUT_MS"), std::string::npos) << late.error().ToString();
  EXPECT_EQ(peer.calls(), 1);
  EXPECT_EQ(link.outcomes("timeout"), 1);
}

// --- The allowance of a request. ---

TEST_F(RetryTest, WorkThatServesNoRequestTellsWhatIsLeftOfItsTries) {
  ForeignPeer peer([](int) { return ForeignPeer::Answer{.code = grpc::StatusCode::UNAVAILABLE}; });
  Link link(peer.port());
  EXPECT_FALSE(Invoke(link, Methods::kSafe).ok());
  EXPECT_EQ(peer.retries_left(), (std::vector<std::string>{"2", "1", "0"}));
}

TEST_F(RetryTest, ARequestsRetriesAreSharedAlongTheChain) {
  struct Case {
    Headers said;
    std::vector<std::string> passed_on;
    std::string used;
  };
  const std::vector<std::string> all = {"3", "2", "1", "0"};
  const std::vector<std::string> none = {"0"};
  const Case cases[] = {
      {{}, all, "3"},
      {{{kRetriesLeftHeader, "1"}}, {"1", "0"}, "1"},
      {{{kRetriesLeftHeader, "0"}}, none, "absent"},
      // Nobody is given more than a request without a word.
      {{{kRetriesLeftHeader, "1000"}}, all, "3"},
      {{{kRetriesLeftHeader, "-5"}}, none, "absent"},
      {{{kRetriesLeftHeader, "many"}}, none, "absent"},
      {{{kRetriesLeftHeader, "3 or so"}}, none, "absent"},
      {{{kRetriesLeftHeader, "99999999999999999999"}}, none, "absent"},
  };
  for (const Case& with : cases) {
    ForeignPeer last([](int) { return ForeignPeer::Answer{.code = grpc::StatusCode::UNAVAILABLE}; });
    DependencyConfig config = Quick();
    config.retry.tries_max = 10;
    Link to_last(last.port(), config);
    Peer hop(runtime_, Forward(to_last));
    const Said said = Ask(hop.port(), Methods::kSafe.path, with.said);
    const std::string name = with.said.empty() ? "nothing" : with.said.begin()->second;
    EXPECT_EQ(said.status.error_code(), grpc::StatusCode::UNAVAILABLE) << name;
    EXPECT_EQ(last.retries_left(), with.passed_on) << name;
    EXPECT_EQ(One(said.trailers, kRetriesUsedHeader), with.used) << name;
    // What was given up there is not to be tried again here.
    EXPECT_EQ(One(said.trailers, kRetryPushBackHeader), "-1") << name;
    EXPECT_EQ(to_last.refused("allowance"), 1) << name;
  }
}

TEST_F(RetryTest, RetriesMadeBelowAreTakenFromTheRequests) {
  ForeignPeer last([](int number) {
    return ForeignPeer::Answer{.code = grpc::StatusCode::UNAVAILABLE,
                               .trailers = {{kRetriesUsedHeader, number == 1 ? "2" : "7"}}};
  });
  Link to_last(last.port());
  Peer hop(runtime_, Forward(to_last));
  const Said said = Ask(hop.port(), Methods::kSafe.path, {});
  EXPECT_EQ(last.retries_left(), (std::vector<std::string>{"3", "0"}));
  EXPECT_EQ(One(said.trailers, kRetriesUsedHeader), "10");
  EXPECT_EQ(One(said.trailers, kRetryPushBackHeader), "-1");
}

TEST_F(RetryTest, NonsenseAboutRetriesBelowCountsForNothing) {
  for (const char* used : {"-3", "some", "99999999999999999999", ""}) {
    ForeignPeer last([used](int number) {
      return ForeignPeer::Answer{.code = number == 1 ? grpc::StatusCode::UNAVAILABLE : grpc::StatusCode::OK,
                                 .trailers = {{kRetriesUsedHeader, used}}};
    });
    Link to_last(last.port());
    Peer hop(runtime_, Forward(to_last));
    const Said said = Ask(hop.port(), Methods::kSafe.path, {});
    EXPECT_TRUE(said.status.ok()) << used;
    EXPECT_EQ(last.retries_left(), (std::vector<std::string>{"3", "2"})) << used;
    // A success says what it cost, and forbids nothing.
    EXPECT_EQ(One(said.trailers, kRetriesUsedHeader), "1") << used;
    EXPECT_EQ(One(said.trailers, kRetryPushBackHeader), "absent") << used;
  }
}

TEST_F(RetryTest, APushBackFromBelowIsPassedOn) {
  ForeignPeer last([](int) {
    return ForeignPeer::Answer{.code = grpc::StatusCode::UNAVAILABLE, .trailers = {{kRetryPushBackHeader, "-1"}}};
  });
  Link to_last(last.port());
  Peer middle(runtime_, Forward(to_last));
  Link to_middle(middle.port());
  Peer first(runtime_, Forward(to_middle));
  const Said said = Ask(first.port(), Methods::kSafe.path, {});
  EXPECT_EQ(last.heard().size(), 1U);
  EXPECT_EQ(middle.calls(), 1);
  EXPECT_EQ(One(said.trailers, kRetryPushBackHeader), "-1");
}

TEST_F(RetryTest, WhatAHandlerGotOverForbidsNothing) {
  ForeignPeer given_up([](int) {
    return ForeignPeer::Answer{.code = grpc::StatusCode::UNAVAILABLE, .trailers = {{kRetryPushBackHeader, "-1"}}};
  });
  Link to_given_up(given_up.port());
  {
    Peer without(runtime_, [&](Call& call, const Ping& ping) -> Task<Pong> {
      EXPECT_FALSE(co_await to_given_up.client().Invoke(call, Methods::kSafe, ping));
      co_return Pong();
    });
    const Said said = Ask(without.port(), Methods::kSafe.path, {});
    EXPECT_TRUE(said.status.ok());
    EXPECT_EQ(One(said.trailers, kRetryPushBackHeader), "absent");
  }
  Peer plan_b(runtime_, FailsAlways);
  Link to_plan_b(plan_b.port());
  Peer hop(runtime_, [&](Call& call, const Ping& ping) -> Task<Pong> {
    EXPECT_FALSE(co_await to_given_up.client().Invoke(call, Methods::kSafe, ping));
    // It may not be repeated here, but nobody has forbidden those above to.
    co_return co_await to_plan_b.client().Invoke(call, Methods::kOnce, ping);
  });
  const Said said = Ask(hop.port(), Methods::kSafe.path, {});
  EXPECT_EQ(said.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(plan_b.calls(), 1);
  EXPECT_EQ(One(said.trailers, kRetryPushBackHeader), "absent");
}

TEST_F(RetryTest, AnAnswerThatIsAnErrorForbidsNothing) {
  Peer hop(runtime_, FailsWith({Code::kInvalidArgument}));
  const Said said = Ask(hop.port(), Methods::kSafe.path, {});
  EXPECT_EQ(said.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_TRUE(said.trailers.empty());
}

// --- Breaker and bulkhead. ---

TEST_F(RetryTest, TheBreakerOpensWhenThePeerDiesAndClosesWhenItIsBack) {
  auto peer = std::make_unique<Peer>(runtime_, Answers);
  const int port = peer->port();
  Link link(port, Breaking());
  ASSERT_TRUE(Invoke(link, Methods::kSafe).ok());
  peer.reset();
  // Of four calls three fail.
  for (int i = 0; i < 3; ++i) EXPECT_EQ(Invoke(link, Methods::kSafe).error().code(), Code::kUnavailable);
  EXPECT_EQ(link.state(), resilience::Breaker::State::kOpen);
  const auto refused = Invoke(link, Methods::kSafe);
  EXPECT_EQ(refused.error().code(), Code::kUnavailable);
  EXPECT_NE(refused.error().detail().find("circuit breaker"), std::string::npos) << refused.error().ToString();
  EXPECT_EQ(link.outcomes("open"), 1);
  Peer back(runtime_, Answers, port);
  EXPECT_TRUE(Eventually(
      [&] { return Invoke(link, Methods::kSafe).ok() && link.state() == resilience::Breaker::State::kClosed; }));
  EXPECT_EQ(back.calls(), link.outcomes("ok") - 1);
}

TEST_F(RetryTest, APeerThatHangsOpensItThoughTheMethodsLimitIsShorterThanThePolicys) {
  Peer peer(runtime_, Hangs);
  Link link(peer.port(), Breaking());
  for (int i = 0; i < 4; ++i) EXPECT_EQ(Invoke(link, Methods::kBrief).error().code(), Code::kDeadlineExceeded);
  EXPECT_EQ(link.state(), resilience::Breaker::State::kOpen);
  EXPECT_EQ(link.outcomes("timeout"), 4);
}

TEST_F(RetryTest, AnswersNeverOpenIt) {
  for (const Code code :
       {Code::kInvalidArgument, Code::kNotFound, Code::kAlreadyExists, Code::kPermissionDenied, Code::kUnauthenticated,
        Code::kFailedPrecondition, Code::kAborted, Code::kOutOfRange, Code::kUnimplemented, Code::kResourceExhausted}) {
    Peer peer(runtime_, FailsWith(std::vector<Code>(20, code)));
    Link link(peer.port(), Breaking());
    for (int i = 0; i < 20; ++i) EXPECT_EQ(Invoke(link, Methods::kSafe).error().code(), code);
    EXPECT_EQ(link.state(), resilience::Breaker::State::kClosed) << CodeName(code);
    EXPECT_EQ(link.outcomes("answered"), 20) << CodeName(code);
  }
}

TEST_F(RetryTest, ACallersOwnShortDeadlineNeverOpensIt) {
  Peer peer(runtime_, Hangs);
  Link link(peer.port(), Breaking());
  // The first call pays for the connection, whose failure to come about in so short a time is UNAVAILABLE.
  (void)Invoke(link, Methods::kSafe, milliseconds(200));
  for (int i = 0; i < 50; ++i)
    EXPECT_EQ(Invoke(link, Methods::kSafe, milliseconds(5)).error().code(), Code::kDeadlineExceeded);
  EXPECT_EQ(link.state(), resilience::Breaker::State::kClosed);
  EXPECT_EQ(link.outcomes("cancelled"), 51);
}

// Clocks tick and timers are rounded: what ends a moment before its caller's deadline, for that reason, was ended by
// it.
TEST_F(RetryTest, ACallersDeadlineThatThePeerSeesFirstIsStillTheCallers) {
  ForeignPeer peer([](int number) {
    return ForeignPeer::Answer{.code = number == 1 ? grpc::StatusCode::OK : grpc::StatusCode::DEADLINE_EXCEEDED};
  });
  Link link(peer.port());
  ASSERT_TRUE(Invoke(link, Methods::kOnce).ok()) << "connected";
  for (int i = 0; i < 5; ++i)
    EXPECT_EQ(Invoke(link, Methods::kOnce, milliseconds(9)).error().code(), Code::kDeadlineExceeded);
  EXPECT_GE(link.outcomes("cancelled"), 1) << "those that were made in time";
  EXPECT_EQ(link.outcomes("timeout"), 0);
  // With time left it is the peer's own.
  EXPECT_FALSE(Invoke(link, Methods::kOnce).ok());
  EXPECT_EQ(link.outcomes("timeout"), 1);
}

TEST_F(RetryTest, CancellationReachesTheHandlerAndGivesThePermitBackAfterIt) {
  std::promise<void> started;
  std::promise<Code> ended;
  Peer peer(runtime_, [&](Call& call, const Ping& ping) -> Task<Pong> {
    started.set_value();
    const auto answer = co_await Hangs(call, ping);
    ended.set_value(answer ? Code::kOk : answer.error().code());
    co_return answer;
  });
  Link link(peer.port(), Breaking());
  std::thread canceller;
  const auto cancelled = runtime_.RunBlocking<Pong>(seconds(20), [&](Call& call) -> Task<Pong> {
    canceller = std::thread([&, strand = call.strand()] {
      started.get_future().wait();
      EXPECT_EQ(link.dependency().bulkhead().in_use(), 1);
      boost::asio::post(strand, [&call] { call.Cancel(Cancelled("changed my mind")); });
    });
    const Ping ping;
    co_return co_await link.client().Invoke(call, Methods::kSafe, ping);
  });
  canceller.join();
  EXPECT_EQ(cancelled.error().code(), Code::kCancelled);
  EXPECT_EQ(cancelled.error().message(), "changed my mind");
  EXPECT_EQ(ended.get_future().get(), Code::kCancelled);
  EXPECT_EQ(link.dependency().bulkhead().in_use(), 0);
  EXPECT_EQ(link.outcomes("cancelled"), 1);
  EXPECT_EQ(link.state(), resilience::Breaker::State::kClosed);
  EXPECT_TRUE(Eventually([&] { return peer.in_flight() == 0; }));
}

TEST_F(RetryTest, ACallOverTheBulkheadIsRefusedAndNotMade) {
  Peer peer(runtime_, Hangs);
  DependencyConfig config = Breaking();
  config.calls_max = 2;
  Link link(peer.port(), config);
  std::vector<std::future<Result<Pong>>> hanging;
  for (int i = 0; i < 2; ++i)
    hanging.push_back(std::async(std::launch::async, [&] { return Invoke(link, Methods::kBrief); }));
  ASSERT_TRUE(Eventually([&] { return peer.calls() == 2; }));
  const auto refused = Invoke(link, Methods::kSafe);
  EXPECT_EQ(refused.error().code(), Code::kResourceExhausted);
  EXPECT_EQ(link.outcomes("full"), 1);
  for (auto& call : hanging) EXPECT_FALSE(call.get().ok());
  EXPECT_EQ(peer.calls(), 2);
  EXPECT_EQ(link.dependency().bulkhead().in_use(), 0);
}

// --- Streams. ---

class StreamTest : public RetryTest {
 protected:
  using Stream = ClientStream<Ping, Pong>;

  // Opens and sends `text`.
  static Task<std::unique_ptr<Stream>> Watch(Call& call, Link& link, std::string text) {
    auto opened = link.client().Open(call, Methods::kWatch);
    if (!opened) co_return opened.error();
    auto stream = std::make_unique<Stream>(*std::move(opened));
    Ping ping;
    ping.set_text(std::move(text));
    NOVA_CO_TRY(co_await stream->Write(call, ping));
    NOVA_CO_TRY(co_await stream->WritesDone(call));
    co_return stream;
  }

  // To its end, and what that was.
  Result<void> WatchToTheEnd(Link& link, std::string text) {
    return runtime_.RunBlocking<void>(seconds(20), [&](Call& call) -> Task<void> {
      auto opened = link.client().Open(call, Methods::kWatch);
      if (!opened) co_return opened.error();
      Ping ping;
      ping.set_text(text);
      // A stream that has failed by now says why at its end.
      (void)co_await opened->Write(call, ping);
      (void)co_await opened->WritesDone(call);
      for (;;) {
        NOVA_CO_TRY(const auto pong, co_await opened->Read(call));
        if (!pong) break;
      }
      co_return co_await opened->Finish(call);
    });
  }
};

TEST_F(StreamTest, HoldsItsPermitUntilItsEnd) {
  Peer peer(runtime_, Answers);
  Link link(peer.port());
  resilience::Bulkhead& bulkhead = link.dependency().bulkhead();
  const auto ended = runtime_.RunBlocking<void>(seconds(20), [&](Call& call) -> Task<void> {
    NOVA_CO_TRY(const auto stream, co_await Watch(call, link, "end"));
    NOVA_CO_TRY(const auto pong, co_await stream->Read(call));
    EXPECT_TRUE(pong.has_value());
    EXPECT_EQ(bulkhead.in_use(), 1);
    NOVA_CO_TRY(co_await stream->Finish(call));
    EXPECT_EQ(bulkhead.in_use(), 0);
    co_return Ok();
  });
  EXPECT_TRUE(ended.ok()) << ended.error().ToString();
  EXPECT_EQ(bulkhead.orphaned(), 0);
  EXPECT_EQ(link.outcomes("ok"), 1);
}

TEST_F(StreamTest, DroppedItKeepsItsPermitAsAnOrphanUntilGrpcIsDone) {
  Peer peer(runtime_, Answers);
  Link link(peer.port());
  resilience::Bulkhead& bulkhead = link.dependency().bulkhead();
  int dropped = 0;
  bool orphan_seen = false;
  // The end usually takes longer than to look for it; not always.
  while (!orphan_seen && dropped < 100) {
    const auto ended = runtime_.RunBlocking<void>(seconds(20), [&](Call& call) -> Task<void> {
      NOVA_CO_TRY(auto stream, co_await Watch(call, link, "stay"));
      NOVA_CO_TRY(const auto pong, co_await stream->Read(call));
      EXPECT_TRUE(pong.has_value());
      EXPECT_EQ(bulkhead.orphaned(), 0);
      stream.reset();
      orphan_seen = bulkhead.orphaned() == 1;
      co_return Ok();
    });
    ASSERT_TRUE(ended.ok()) << ended.error().ToString();
    ++dropped;
    ASSERT_TRUE(Eventually([&] { return bulkhead.in_use() == 0; }));
    EXPECT_EQ(bulkhead.orphaned(), 0);
  }
  EXPECT_TRUE(orphan_seen);
  EXPECT_EQ(link.outcomes("cancelled"), dropped);
  EXPECT_TRUE(Eventually([&] { return peer.in_flight() == 0; }));
}

TEST_F(StreamTest, OneThatItsCallersDeadlineEndsCountsAsCancelled) {
  Peer peer(runtime_, Answers);
  Link link(peer.port(), Breaking());
  for (int i = 0; i < 6; ++i) {
    const auto ended = runtime_.RunBlocking<void>(seconds(20), [&](Call& call) -> Task<void> {
      Call brief(call, milliseconds(30));
      NOVA_CO_TRY(const auto stream, co_await Watch(brief, link, "stay"));
      NOVA_CO_TRY(const auto first, co_await stream->Read(call));
      EXPECT_TRUE(first.has_value());
      NOVA_CO_TRY(const auto second, co_await stream->Read(call));
      EXPECT_FALSE(second.has_value());
      co_return co_await stream->Finish(call);
    });
    EXPECT_EQ(ended.error().code(), Code::kDeadlineExceeded) << ended.error().ToString();
  }
  EXPECT_EQ(link.outcomes("cancelled"), 6);
  EXPECT_EQ(link.state(), resilience::Breaker::State::kClosed);
  EXPECT_EQ(link.dependency().bulkhead().in_use(), 0);
}

TEST_F(StreamTest, IsJudgedByItsStatusAndRefusedWhileTheBreakerIsOpen) {
  Peer peer(runtime_, Answers);
  Link link(peer.port(), Breaking());
  for (int i = 0; i < 4; ++i) EXPECT_EQ(WatchToTheEnd(link, "fail").error().code(), Code::kUnavailable);
  EXPECT_EQ(link.outcomes("failed"), 4);
  EXPECT_EQ(link.state(), resilience::Breaker::State::kOpen);
  const auto refused = WatchToTheEnd(link, "end");
  EXPECT_NE(refused.error().detail().find("circuit breaker"), std::string::npos) << refused.error().ToString();
  EXPECT_EQ(peer.calls(), 4);
  EXPECT_EQ(link.dependency().bulkhead().in_use(), 0);
}

TEST_F(StreamTest, APushBackAtItsEndIsPassedOn) {
  ForeignPeer last([](int) {
    return ForeignPeer::Answer{.code = grpc::StatusCode::UNAVAILABLE,
                               .trailers = {{kRetryPushBackHeader, "-1"}, {kRetriesUsedHeader, "2"}}};
  });
  Link to_last(last.port());
  Peer hop(runtime_, [&](Call& call, const Ping&) -> Task<Pong> {
    auto stream = to_last.client().Open(call, Methods::kWatch);
    if (!stream) co_return stream.error();
    NOVA_CO_TRY(co_await stream->Finish(call));
    co_return Pong();
  });
  const Said said = Ask(hop.port(), Methods::kSafe.path, {});
  EXPECT_EQ(said.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(last.retries_left(), (std::vector<std::string>{"3"}));
  EXPECT_EQ(One(said.trailers, kRetriesUsedHeader), "2");
  EXPECT_EQ(One(said.trailers, kRetryPushBackHeader), "-1");
}

TEST_F(StreamTest, AProbeIsJudgedByItsFirstMessageBecauseItsEndMayBeFar) {
  Peer peer(runtime_, Answers);
  DependencyConfig config = Breaking();
  config.breaker.probes = 1;
  Link link(peer.port(), config);
  for (int i = 0; i < 4; ++i) EXPECT_FALSE(WatchToTheEnd(link, "fail").ok());
  ASSERT_EQ(link.state(), resilience::Breaker::State::kOpen);
  const auto closed = runtime_.RunBlocking<void>(seconds(20), [&](Call& call) -> Task<void> {
    NOVA_CO_TRY(co_await runtime::Sleep(call, link.dependency().breaker().RetryAfter(Clock::System().Now())));
    NOVA_CO_TRY(const auto stream, co_await Watch(call, link, "stay"));
    EXPECT_EQ(link.state(), resilience::Breaker::State::kHalfOpen);
    NOVA_CO_TRY(const auto pong, co_await stream->Read(call));
    EXPECT_TRUE(pong.has_value());
    EXPECT_EQ(link.state(), resilience::Breaker::State::kClosed);
    co_return Ok();
  });
  EXPECT_TRUE(closed.ok()) << closed.error().ToString();
}

TEST_F(StreamTest, AnInjectedErrorComesBeforeAnythingIsSent) {
  Peer peer(runtime_, Answers);
  DependencyConfig config = Quick();
  config.faults.error = 1;
  Link link(peer.port(), config);
  const auto failed = runtime_.RunBlocking<void>(seconds(20), [&](Call& call) -> Task<void> {
    NOVA_CO_TRY(const auto stream, co_await Watch(call, link, "end"));
    co_return Ok();
  });
  EXPECT_EQ(failed.error().code(), Code::kUnavailable);
  EXPECT_EQ(peer.calls(), 0);
  EXPECT_EQ(link.outcomes("failed"), 1);
  EXPECT_EQ(link.dependency().bulkhead().in_use(), 0);
}

TEST_F(StreamTest, ABlackHoleEndsWithTheWaitThatFellIntoIt) {
  Peer peer(runtime_, Answers);
  DependencyConfig config = Quick();
  config.faults.black_hole = 1;
  Link link(peer.port(), config);
  const SteadyTime begin = Clock::System().Now();
  const auto late = runtime_.RunBlocking<void>(seconds(20), [&](Call& call) -> Task<void> {
    auto stream = link.client().Open(call, Methods::kWatch);
    if (!stream) co_return stream.error();
    Call patience(call, milliseconds(20));
    co_return co_await stream->WritesDone(patience);
  });
  EXPECT_LT(Clock::System().Now() - begin, seconds(10));
  EXPECT_EQ(late.error().code(), Code::kDeadlineExceeded);
  EXPECT_EQ(peer.calls(), 0);
  EXPECT_EQ(link.dependency().bulkhead().in_use(), 0);
}

TEST_F(StreamTest, AfterAnInjectedDelayItIsAsGoodAsAny) {
  Peer peer(runtime_, Answers);
  DependencyConfig config = Quick();
  config.faults.delay = 1;
  config.faults.delay_time = milliseconds(30);
  Link link(peer.port(), config);
  const SteadyTime begin = Clock::System().Now();
  const auto ended = WatchToTheEnd(link, "end");
  EXPECT_TRUE(ended.ok()) << ended.error().ToString();
  EXPECT_GE(Clock::System().Now() - begin, milliseconds(30));
  EXPECT_EQ(peer.calls(), 1);
}

// A read and a write may be outstanding at a time: both meet the fault, and the stream begins, or fails, once.
TEST_F(StreamTest, AReadAndAWriteMayWaitForTheSameFault) {
  for (const bool black_hole : {false, true}) {
    Peer peer(runtime_, Answers);
    DependencyConfig config = Quick();
    config.faults.delay = black_hole ? 0 : 1;
    config.faults.delay_time = milliseconds(30);
    config.faults.black_hole = black_hole ? 1 : 0;
    Link link(peer.port(), config);
    const auto ended = runtime_.RunBlocking<void>(seconds(20), [&](Call& call) -> Task<void> {
      Call patience(call, black_hole ? milliseconds(50) : milliseconds(20'000));
      auto opened = link.client().Open(call, Methods::kWatch);
      if (!opened) co_return opened.error();
      std::optional<Result<std::optional<Pong>>> read;
      runtime::OneShot<bool> has_read;
      boost::asio::co_spawn(
          call.strand(),
          [&]() -> runtime::Awaitable<void> {
            read.emplace(co_await opened->Read(patience));
            (void)has_read.TrySet(true);
          },
          [](std::exception_ptr thrown) { EXPECT_EQ(thrown, nullptr); });
      // The read has met the fault first.
      co_await boost::asio::post(call.strand(), runtime::use_task);
      Ping ping;
      ping.set_text("end");
      const auto written = co_await opened->Write(patience, ping);
      if (written) NOVA_CO_TRY(co_await opened->WritesDone(patience));
      NOVA_CO_TRY(co_await has_read.Wait(call));
      EXPECT_EQ(read->ok(), written.ok());
      if (!written) co_return written.error();
      EXPECT_TRUE((*read)->has_value());
      NOVA_CO_TRY(const auto last, co_await opened->Read(call));
      EXPECT_FALSE(last.has_value());
      NOVA_CO_TRY(co_await opened->Finish(call));
      EXPECT_EQ((co_await opened->Finish(call)).error().code(), Code::kFailedPrecondition);
      co_return Ok();
    });
    EXPECT_EQ(ended.ok(), !black_hole) << ended.error().ToString();
    EXPECT_EQ(peer.calls(), black_hole ? 0 : 1);
    EXPECT_EQ(link.outcomes("ok") + link.outcomes("cancelled") + link.outcomes("failed") + link.outcomes("timeout"), 1)
        << link.metrics().Scrape();
  }
}

TEST_F(StreamTest, AnInjectedAbortLosesTheEnd) {
  Peer peer(runtime_, Answers);
  DependencyConfig config = Quick();
  config.faults.abort = 1;
  Link link(peer.port(), config);
  EXPECT_EQ(WatchToTheEnd(link, "end").error().code(), Code::kUnavailable);
  EXPECT_EQ(peer.calls(), 1);
  EXPECT_EQ(link.outcomes("failed"), 1);
}

// --- Declarations. ---

class DeclarationTest : public ::testing::TestWithParam<std::pair<std::string, std::string>> {};

TEST_P(DeclarationTest, AMethodWithoutItStopsTheServerAtItsStart) {
  const auto& [service_name, field] = GetParam();
  runtime::Runtime runtime;
  telemetry::Metrics metrics;
  Server server(runtime, metrics, {.address = "127.0.0.1", .port = 0},
                {.credentials = tls::MakePlaintextServerCredentials(), .stack = {}});
  Service service(service_name);
  const UnaryMethod<Ping, Pong> method{service_name.c_str(), "Call", ""};
  service.Handle(method, [](Call&, const Ping&) -> Task<Pong> { co_return Pong(); });
  server.Add(std::move(service));
  const auto started = server.Start();
  ASSERT_FALSE(started.ok());
  EXPECT_EQ(started.error().code(), Code::kFailedPrecondition);
  EXPECT_NE(started.error().message().find(service_name + ".Call declares no " + field), std::string::npos)
      << started.error().ToString();
}

TEST_P(DeclarationTest, AMethodWithoutItIsNotCalled) {
  const auto& [service_name, field] = GetParam();
  const std::string path = "/" + service_name + "/Call";
  const UnaryMethod<Ping, Pong> method{service_name.c_str(), "Call", path.c_str()};
  runtime::Runtime runtime;
  Link link(1);
  const auto refused = runtime.RunBlocking<Pong>(seconds(20), [&](Call& call) -> Task<Pong> {
    const Ping ping;
    co_return co_await link.client().Invoke(call, method, ping);
  });
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code(), Code::kFailedPrecondition);
  EXPECT_NE(refused.error().message().find(service_name + ".Call declares no " + field), std::string::npos)
      << refused.error().ToString();
}

INSTANTIATE_TEST_SUITE_P(Fields, DeclarationTest,
                         ::testing::Values(std::pair("nova.tests.WithoutTimeoutService", "timeout_ms"),
                                           std::pair("nova.tests.WithoutIdempotencyService", "idempotency"),
                                           std::pair("nova.tests.WithoutPriorityService", "priority")),
                         [](const auto& test) { return test.param.second; });

// --- A chain in trouble: root -> A -> B -> C -> D, of which D fails. ---

class ChainTest : public RetryTest {
 protected:
  static constexpr int kCalls = 3'000;
  static constexpr int kCallers = 8;

  struct Figures {
    std::array<int, 4> calls{};  // at A, B, C, D
    int succeeded = 0;
  };

  // `share`: of D's calls that fail. `alone`: each hop hides from the next that it serves a request, as clients do that
  // know of no allowance; what is left then are the budgets of each hop.
  Figures Run(double share, bool alone) {
    DependencyConfig config = Quick();
    config.retry.budget_ratio = 0.2;
    std::mutex mutex;
    std::mt19937 random(seed_);
    Peer d(runtime_, [&](Call&, const Ping&) -> Task<Pong> {
      std::lock_guard lock(mutex);
      if (std::uniform_real_distribution<>()(random) < share) co_return Unavailable("not today");
      co_return Pong();
    });
    const auto hop = [alone](Link& next) -> Handler {
      if (!alone) return Forward(next);
      return [&next](Call& call, const Ping& ping) -> Task<Pong> {
        Call own(call.strand(), {.deadline = call.deadline()});
        co_return co_await next.client().Invoke(own, Methods::kSafe, ping);
      };
    };
    Link to_d(d.port(), config);
    Peer c(runtime_, hop(to_d));
    Link to_c(c.port(), config);
    Peer b(runtime_, hop(to_c));
    Link to_b(b.port(), config);
    Peer a(runtime_, hop(to_b));
    Link to_a(a.port(), config);
    std::atomic<int> succeeded = 0;
    std::vector<std::thread> callers;
    for (int i = 0; i < kCallers; ++i) {
      callers.emplace_back([&] {
        for (int n = 0; n < kCalls / kCallers; ++n) {
          if (Invoke(to_a, Methods::kSafe).ok()) ++succeeded;
        }
      });
    }
    for (auto& caller : callers) caller.join();
    const Figures figures{.calls = {a.calls(), b.calls(), c.calls(), d.calls()}, .succeeded = succeeded};
    std::printf("D fails %3.0f %%, %-28s", share * 100, alone ? "every hop for itself:" : "one allowance:");
    for (std::size_t i = 0; i < figures.calls.size(); ++i)
      std::printf(" %c amplification: %.2f%s", "ABCD"[i], figures.calls[i] / static_cast<double>(kCalls),
                  i + 1 < figures.calls.size() ? "," : "\n");
    return figures;
  }

  const unsigned seed_ = nova::tests::TestSeed();
};

// With three tries and no budget every hop would make three calls of one: 3 * 3 * 3 * 3 = 81 at D.
TEST_F(ChainTest, ADeadEndIsNotMultiplied) {
  const Figures shared = Run(1, false);
  EXPECT_LE(shared.calls[3], 1.3 * shared.calls[0]);
  EXPECT_LE(shared.calls[3], 1.3 * kCalls);
  // It was tried again, in its budget.
  EXPECT_GE(shared.calls[3], 1.1 * kCalls);
  EXPECT_EQ(shared.succeeded, 0);
  const Figures alone = Run(1, true);
  EXPECT_GT(alone.calls[3], 1.5 * kCalls);
}

TEST_F(ChainTest, HalfADeadEndIsNotMultiplied) {
  const Figures shared = Run(0.5, false);
  EXPECT_LE(shared.calls[3], 1.3 * shared.calls[0]);
  EXPECT_LE(shared.calls[3], 1.3 * kCalls);
  // And the retries are worth it: without any, half would have failed.
  EXPECT_GT(shared.succeeded, 0.55 * kCalls);
  const Figures alone = Run(0.5, true);
  EXPECT_GT(alone.calls[3], shared.calls[3]);
}

}  // namespace
}  // namespace nova::rpc
