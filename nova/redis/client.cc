#include "nova/redis/client.h"

#include <algorithm>
#include <array>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <utility>

#include "nova/redis/connection.h"
#include "nova/redis/parser.h"
#include "nova/redis/pipeline.h"
#include "nova/runtime/one_shot.h"
#include "nova/telemetry/log.h"

namespace nova::redis {
namespace {

using resilience::Attempt;
using resilience::ProtectOptions;
using runtime::Call;
using runtime::CancelHook;
using runtime::OneShot;
using runtime::Task;

// Once everything is told to stop, nothing waits for a peer any more; so Close has this much left, whatever its limit.
constexpr Duration kStopLimitMin = std::chrono::seconds(1);
// Commands with a figure of their own in metrics; what a program says beyond that is counted as one.
constexpr std::size_t kVerbsMax = 64;
constexpr std::string_view kOtherVerb = "other";

double Seconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }

// The metrics of each verb that occurs, found without the registry's lock and string labels.
class CommandMetrics {
 public:
  CommandMetrics(telemetry::Metrics& metrics, std::string client) : metrics_(metrics), client_(std::move(client)) {}

  void Count(std::string_view verb, Code outcome) {
    prometheus::Counter* counter = nullptr;
    {
      std::lock_guard lock(mutex_);
      prometheus::Counter*& known = Find(verb).counters[static_cast<std::size_t>(outcome)];
      if (known == nullptr)
        known = &metrics_.Counter(
            "nova_redis_commands_total", "Commands to Redis",
            {{"client", client_}, {"command", std::string(Label(verb))}, {"outcome", std::string(CodeName(outcome))}});
      counter = known;
    }
    counter->Increment();
  }

  void Observe(std::string_view verb, Duration took) {
    prometheus::Histogram* histogram = nullptr;
    {
      std::lock_guard lock(mutex_);
      prometheus::Histogram*& known = Find(verb).histogram;
      if (known == nullptr)
        known = &metrics_.Histogram("nova_redis_command_seconds",
                                    "Time until the reply; of commands that are sent together, under the first's name",
                                    telemetry::kLatencyBuckets,
                                    {{"client", client_}, {"command", std::string(Label(verb))}});
      histogram = known;
    }
    histogram->Observe(Seconds(took));
  }

 private:
  struct Verb {
    std::array<prometheus::Counter*, kCodeCount> counters{};
    prometheus::Histogram* histogram = nullptr;
  };

  // Both with mutex_ held, Find first.
  Verb& Find(std::string_view verb) {
    if (const auto known = verbs_.find(verb); known != verbs_.end()) return known->second;
    return verbs_[std::string(verbs_.size() < kVerbsMax ? verb : kOtherVerb)];
  }
  std::string_view Label(std::string_view verb) const { return verbs_.contains(verb) ? verb : kOtherVerb; }

  telemetry::Metrics& metrics_;
  const std::string client_;
  std::mutex mutex_;
  std::map<std::string, Verb, std::less<>> verbs_;  // guarded by mutex_
};

Code OutcomeOf(const Reply& reply) { return reply.is_error() ? ToError(reply).code() : Code::kOk; }

// What the dependency is judged by: an error that says that Redis is not available is a failure, and every other reply
// an answer, although to the caller it may be an error.
Result<Reply> Judge(Reply reply) {
  if (OutcomeOf(reply) == Code::kUnavailable) return ToError(reply);
  return reply;
}

// The reply as the caller gets it: an error says of which command.
Result<Reply> Deliver(Result<Reply> reply, const Command& command) {
  if (reply && reply->is_error()) reply = ToError(*reply);
  if (!reply) return std::move(reply).error().WithContext("command=" + std::string(command.verb()));
  return reply;
}

Error Stopping() { return Unavailable("the service is stopping", "the Redis client is closed"); }

}  // namespace

struct Client::State {
  State(telemetry::Metrics& metrics, resilience::CacheDependency& on, ClientConfig client_config)
      : dependency(on),
        config(std::move(client_config)),
        commands(metrics, config.name),
        connected_gauge(ConnectionsGauge(metrics, "connected")),
        connecting_gauge(ConnectionsGauge(metrics, "connecting")),
        blocking_gauge(ConnectionsGauge(metrics, "blocking")),
        reconnects(metrics.Counter("nova_redis_reconnects_total", "Shared connections opened again after a loss",
                                   {{"client", config.name}})),
        abandoned_replies(metrics.Counter("nova_redis_abandoned_replies_total",
                                          "Replies that came when their caller had gone", {{"client", config.name}})),
        slots(static_cast<std::size_t>(config.connections)) {}

  prometheus::Gauge& ConnectionsGauge(telemetry::Metrics& metrics, const std::string& state) const {
    return metrics.Gauge("nova_redis_connections", "Connections to Redis", {{"client", config.name}, {"state", state}});
  }

  // One of the shared connections, which a task of its own keeps open.
  struct Slot {
    std::shared_ptr<Pipeline> pipeline;  // null while there is no connection
    bool connecting = true;              // or about to, without a delay
    int keeper = 0;                      // whose turn it is: the task that opens a successor is the next
  };

  // A call under way, from its admission to its end.
  class Admission {
   public:
    explicit Admission(State& state) : state_(state) {
      std::lock_guard lock(state_.mutex);
      admitted_ = !state_.closing;
      if (admitted_) ++state_.calls;
    }
    ~Admission() {
      if (!admitted_) return;
      std::lock_guard lock(state_.mutex);
      if (--state_.calls == 0) state_.calls_ended.notify_all();
    }
    Admission(const Admission&) = delete;
    Admission& operator=(const Admission&) = delete;

    explicit operator bool() const { return admitted_; }

   private:
    State& state_;
    bool admitted_ = false;
  };

  // Keeps the slot connected, beginning with `pipeline` if that is not null, as long as it is `keeper`'s turn.
  static Task<void> KeepConnected(std::shared_ptr<State> self, Call& call, Slot& slot, int keeper,
                                  std::shared_ptr<Pipeline> pipeline);
  // Opens the successor of `old` and keeps that, unless `old` is lost first; while it tries, `old` serves on, but only
  // until `until`.
  static Task<void> Succeed(std::shared_ptr<State> self, Call& call, Slot& slot, std::shared_ptr<Pipeline> old,
                            SteadyTime until);
  std::shared_ptr<Pipeline> MakePipeline(const Call& call, std::unique_ptr<Connection> connection);
  void Connected(Slot& slot, std::shared_ptr<Pipeline> pipeline);
  // The connection is lost; another attempt follows, at once or after a delay that has begun. False if it is not
  // `keeper`'s turn any more: then somebody else sees to it.
  bool Lost(Slot& slot, int keeper, const Error& why, bool at_once);
  bool Serves(const Slot& slot, const std::shared_ptr<Pipeline>& pipeline);
  // From the beginning of a connection to that of its successor.
  Duration SuccessorAfter();
  bool IsTooOld(const Connection& connection) const;

  Task<std::shared_ptr<Pipeline>> FindPipeline(Call& call);
  Task<std::vector<Reply>> Send(Attempt& attempt, std::span<const Command> batch);
  Task<Reply> Block(Call& call, const Command& command);
  Task<std::unique_ptr<Connection>> TakeBlocking(Call& call);
  // Closes what waits for the next blocking command and is too old for one.
  void CloseOldBlocking();
  Task<std::unique_ptr<Connection>> Open(Call& call);

  Result<void> CheckSize(std::span<const Command> batch) const;
  // From the last of so many failures in a row to the next attempt. Precondition: mutex is held.
  Duration Delay(int failures);
  void UpdateGauges();  // precondition: mutex is held

  resilience::CacheDependency& dependency;
  const ClientConfig config;
  CommandMetrics commands;
  prometheus::Gauge& connected_gauge;
  prometheus::Gauge& connecting_gauge;
  prometheus::Gauge& blocking_gauge;
  prometheus::Counter& reconnects;
  prometheus::Counter& abandoned_replies;
  std::once_flag started;
  runtime::Scope* background = nullptr;  // constant once started; there as long as its tasks are

  std::mutex mutex;
  std::condition_variable calls_ended;
  // Guarded by mutex.
  std::vector<Slot> slots;  // never changes its size
  std::vector<OneShot<std::shared_ptr<Pipeline>>> waiters;
  Error last_failure;  // why there is no shared connection
  int blocking_in_use = 0;
  std::vector<std::unique_ptr<Connection>> blocking_idle;  // the last one given back is the first one taken
  int blocking_failures = 0;                               // attempts to connect, in a row
  SteadyTime blocking_next_attempt = SteadyTime::min();
  Error blocking_failure;
  int calls = 0;
  bool closing = false;
  std::minstd_rand random{std::random_device{}()};
};

void Client::State::UpdateGauges() {
  connected_gauge.Set(static_cast<double>(std::ranges::count_if(slots, [](const Slot& s) { return !!s.pipeline; })));
  connecting_gauge.Set(static_cast<double>(std::ranges::count_if(slots, &Slot::connecting)));
  blocking_gauge.Set(blocking_in_use + static_cast<double>(blocking_idle.size()));
}

Duration Client::State::Delay(int failures) {
  Duration most = config.reconnect_delay_min;
  for (int i = 1; i < failures && most < config.reconnect_delay_max; ++i) most *= 2;
  most = std::min<Duration>(most, config.reconnect_delay_max);
  return Duration(std::uniform_int_distribution<Duration::rep>(0, most.count())(random));
}

Task<std::unique_ptr<Connection>> Client::State::Open(Call& call) {
  Call attempt(call, config.connect_timeout);
  auto opened = co_await Connection::Open(attempt, config);
  if (!opened && opened.error().code() == Code::kDeadlineExceeded && call.Check())
    co_return RedisUnavailable(opened.error().detail() + ": no answer within redis.connect_timeout");
  co_return opened;
}

Duration Client::State::SuccessorAfter() {
  const Duration::rep tenth = Duration(config.connection_lifetime).count() / 10;
  std::lock_guard lock(mutex);
  return Duration(std::uniform_int_distribution<Duration::rep>(8 * tenth, 9 * tenth)(random));
}

bool Client::State::IsTooOld(const Connection& connection) const {
  return Clock::System().Now() - connection.begun() >= config.connection_lifetime;
}

std::shared_ptr<Pipeline> Client::State::MakePipeline(const Call& call, std::unique_ptr<Connection> connection) {
  return std::make_shared<Pipeline>(call.strand(), std::move(connection), config, abandoned_replies);
}

Task<void> Client::State::KeepConnected(std::shared_ptr<State> self, Call& call, Slot& slot, int keeper,
                                        std::shared_ptr<Pipeline> pipeline) {
  bool was_connected = pipeline != nullptr;
  for (int failures = 0;;) {
    Error why;
    bool lived = false;
    if (!pipeline) {
      auto opened = co_await self->Open(call);
      NOVA_CO_TRY(call.Check());
      if (opened) {
        if (std::exchange(was_connected, true)) {
          self->reconnects.Increment();
          telemetry::LogInfo("connected to Redis again", {{"client", self->config.name}});
        }
        pipeline = self->MakePipeline(call, *std::move(opened));
        self->Connected(slot, pipeline);
      } else {
        why = std::move(opened).error();
      }
    }
    if (pipeline) {
      const SteadyTime begin = Clock::System().Now();
      {
        Call young(call, pipeline->begun() + self->SuccessorAfter() - begin);
        const CancelHook successor(young, [&](const Error&) {
          if (!call.Check()) return;
          self->background->Spawn(
              "redis: a shared connection",
              [self, &slot, pipeline, until = pipeline->begun() + self->config.connection_lifetime](
                  Call& keeping) -> Task<void> { co_return co_await Succeed(self, keeping, slot, pipeline, until); });
        });
        Result<void> ended = co_await pipeline->Serve(call);
        why = std::move(ended).error();
      }
      lived = Clock::System().Now() - begin >= self->config.reconnect_delay_max;
      pipeline = nullptr;
    }
    if (!self->Lost(slot, keeper, why, lived)) co_return Ok();
    // A connection that lived is worth another at once; one that did not is as good as a failed attempt.
    if (lived) failures = 0;
    if (failures == 0 && call.Check())
      telemetry::LogWarn("a connection to Redis failed; it is opened again until it works",
                         {{"client", self->config.name}, {"error", why}});
    NOVA_CO_TRY(call.Check());
    if (lived) continue;
    Duration delay{};
    {
      std::lock_guard lock(self->mutex);
      delay = self->Delay(++failures);
    }
    NOVA_CO_TRY(co_await runtime::Sleep(call, delay));
    std::lock_guard lock(self->mutex);
    slot.connecting = true;
    self->UpdateGauges();
  }
}

Task<void> Client::State::Succeed(std::shared_ptr<State> self, Call& call, Slot& slot, std::shared_ptr<Pipeline> old,
                                  SteadyTime until) {
  // As often as a connection ends, which is soon enough for those that nobody uses any more.
  self->CloseOldBlocking();
  std::unique_ptr<Connection> connection;
  Error why = RedisUnavailable("a connection has reached redis.connection_lifetime and no other could be opened");
  {
    Call trying(call, until - Clock::System().Now());
    for (int failures = 0; trying.Check() && self->Serves(slot, old);) {
      auto opened = co_await self->Open(trying);
      NOVA_CO_TRY(call.Check());
      if (opened) {
        connection = *std::move(opened);
        break;
      }
      if (failures == 0 && trying.Check()) {
        // What ended for want of time says nothing; the first failure does.
        why = std::move(opened).error();
        telemetry::LogWarn("a connection to Redis nears redis.connection_lifetime and another cannot be opened",
                           {{"client", self->config.name}, {"error", why}});
      }
      Duration delay{};
      {
        std::lock_guard lock(self->mutex);
        delay = self->Delay(++failures);
      }
      (void)co_await runtime::Sleep(trying, delay);
      NOVA_CO_TRY(call.Check());
    }
  }
  const auto pipeline = connection ? self->MakePipeline(call, std::move(connection)) : nullptr;
  int keeper = 0;
  {
    std::lock_guard lock(self->mutex);
    // Lost meanwhile: its keeper opens another.
    if (slot.pipeline != old) co_return Ok();
    slot.pipeline = pipeline;
    if (pipeline) {
      keeper = ++slot.keeper;
    } else {
      self->last_failure = why;
    }
    self->UpdateGauges();
  }
  // After it has left the slot: whoever it refuses from now on finds another there.
  old->Retire();
  if (!pipeline) co_return Ok();  // the keeper of the old one sees it end
  co_return co_await KeepConnected(self, call, slot, keeper, pipeline);
}

bool Client::State::Serves(const Slot& slot, const std::shared_ptr<Pipeline>& pipeline) {
  std::lock_guard lock(mutex);
  return slot.pipeline == pipeline;
}

void Client::State::Connected(Slot& slot, std::shared_ptr<Pipeline> pipeline) {
  std::vector<OneShot<std::shared_ptr<Pipeline>>> served;
  {
    std::lock_guard lock(mutex);
    slot.pipeline = pipeline;
    slot.connecting = false;
    served.swap(waiters);
    UpdateGauges();
  }
  for (const auto& waiter : served) (void)waiter.TrySet(pipeline);
}

bool Client::State::Lost(Slot& slot, int keeper, const Error& why, bool at_once) {
  std::vector<OneShot<std::shared_ptr<Pipeline>>> refused;
  {
    std::lock_guard lock(mutex);
    if (slot.keeper != keeper) return false;
    slot.pipeline = nullptr;
    slot.connecting = at_once;
    last_failure = why;
    if (std::ranges::none_of(slots, [](const Slot& other) { return other.pipeline || other.connecting; }))
      refused.swap(waiters);
    UpdateGauges();
  }
  for (const auto& waiter : refused) (void)waiter.TrySet(why);
  return true;
}

Task<std::shared_ptr<Pipeline>> Client::State::FindPipeline(Call& call) {
  const OneShot<std::shared_ptr<Pipeline>> waiter;
  {
    std::lock_guard lock(mutex);
    if (closing) co_return Stopping();
    std::shared_ptr<Pipeline> best;
    bool connecting = false;
    for (const Slot& slot : slots) {
      connecting |= slot.connecting;
      if (slot.pipeline && (!best || slot.pipeline->load() < best->load())) best = slot.pipeline;
    }
    if (best) co_return best;
    if (!connecting) co_return Error(last_failure).WithContext("the next attempt is not due yet");
    if (static_cast<int>(waiters.size()) >= config.pipeline_max)
      co_return ResourceExhausted("the service is busy, try again later",
                                  "redis.pipeline_max calls wait for a connection to Redis already");
    waiters.push_back(waiter);
  }
  auto pipeline = co_await waiter.Wait(call);
  if (!pipeline) {
    std::lock_guard lock(mutex);
    std::erase(waiters, waiter);
  }
  co_return pipeline;
}

Result<void> Client::State::CheckSize(std::span<const Command> batch) const {
  std::int64_t bytes = 0;
  for (const Command& command : batch) bytes += WireBytesMax(command);
  if (bytes <= config.queued_bytes_max) return Ok();
  return ResourceExhausted("this is too much at once",
                           std::to_string(bytes) + " bytes of commands are over redis.queued_bytes_max");
}

Task<std::vector<Reply>> Client::State::Send(Attempt& attempt, std::span<const Command> batch) {
  Call& call = attempt.call();
  const SteadyTime begin = Clock::System().Now();
  NOVA_CO_TRY(call.Check());
  NOVA_CO_TRY(CheckSize(batch));
  const auto sending = std::make_shared<Batch>();
  sending->commands = static_cast<int>(batch.size());
  for (const Command& command : batch) sending->wire += Format(command);
  for (;;) {
    NOVA_CO_TRY(const std::shared_ptr<Pipeline> pipeline, co_await FindPipeline(call));
    const Result<void> submitted = pipeline->Submit(sending);
    if (submitted) break;
    // One that retired just now is not found again.
    if (!pipeline->retired()) co_return submitted.error();
  }
  auto replies = co_await sending->done.Wait(call);
  commands.Observe(batch.front().verb(), Clock::System().Now() - begin);
  if (!replies && !call.Check()) {
    sending->permit = attempt.TakePermit();
    sending->permit.Orphan();
    sending->abandoned = true;
  }
  co_return replies;
}

Task<std::unique_ptr<Connection>> Client::State::TakeBlocking(Call& call) {
  for (;;) {
    std::unique_ptr<Connection> idle;
    {
      std::lock_guard lock(mutex);
      if (blocking_idle.empty()) {
        if (Clock::System().Now() >= blocking_next_attempt) break;
        co_return Error(blocking_failure).WithContext("the next attempt is not due yet");
      }
      idle = std::move(blocking_idle.back());
      blocking_idle.pop_back();
    }
    if (!IsTooOld(*idle) && idle->PeerIsSilent()) co_return idle;
  }
  auto opened = co_await Open(call);
  if (!opened && !call.Check()) co_return opened;
  std::lock_guard lock(mutex);
  blocking_failures = opened ? 0 : blocking_failures + 1;
  if (!opened) {
    blocking_failure = opened.error();
    blocking_next_attempt = Clock::System().Now() + Delay(blocking_failures);
  }
  co_return opened;
}

void Client::State::CloseOldBlocking() {
  std::vector<std::unique_ptr<Connection>> old;  // dies when the lock is gone
  std::lock_guard lock(mutex);
  const auto kept = std::ranges::partition(blocking_idle, [this](const auto& idle) { return !IsTooOld(*idle); });
  std::ranges::move(kept, std::back_inserter(old));
  blocking_idle.erase(kept.begin(), kept.end());
  UpdateGauges();
}

Task<Reply> Client::State::Block(Call& call, const Command& command) {
  NOVA_CO_TRY(call.Check());
  NOVA_CO_TRY(CheckSize({&command, 1}));
  {
    std::lock_guard lock(mutex);
    if (blocking_in_use >= config.blocking_connections_max)
      co_return ResourceExhausted("the service is busy, try again later",
                                  "redis.blocking_connections_max commands block already");
    ++blocking_in_use;
    UpdateGauges();
  }
  Result<Reply> reply = Error();
  auto connection = co_await TakeBlocking(call);
  if (connection) {
    reply = co_await (*connection)->Exchange(call, Format(command));
  } else {
    reply = std::move(connection).error();
  }
  CloseOldBlocking();
  std::lock_guard lock(mutex);
  --blocking_in_use;
  // After an error it is closed, and dies when the lock is gone.
  if (reply && !closing) blocking_idle.push_back(*std::move(connection));
  UpdateGauges();
  co_return reply;
}

Client::Client(runtime::Runtime& runtime, telemetry::Metrics& metrics, resilience::CacheDependency& dependency,
               ClientConfig config)
    : state_(std::make_shared<State>(metrics, dependency, std::move(config))), background_(runtime) {}

Client::~Client() = default;

std::chrono::milliseconds Client::timeout() const { return state_->dependency.config().timeout; }

void Client::Start() {
  std::call_once(state_->started, [this] {
    state_->background = &background_;
    for (State::Slot& slot : state_->slots) {
      background_.Spawn("redis: a shared connection", [state = state_, &slot](Call& keeping) -> Task<void> {
        co_return co_await State::KeepConnected(state, keeping, slot, 0, nullptr);
      });
    }
  });
}

Task<Reply> Client::RunOne(Call& call, Command command, ProtectOptions options) {
  const auto state = state_;
  // A client that closes says nothing about Redis, so this comes before the policies.
  const State::Admission admission(*state);
  if (!admission) co_return Stopping();
  Start();
  const auto exchange = [&](Attempt& attempt) -> Task<Reply> {
    NOVA_CO_TRY(std::vector<Reply> replies, co_await state->Send(attempt, {&command, 1}));
    co_return Judge(std::move(replies.front()));
  };
  auto reply = co_await resilience::Protect(call, state->dependency, exchange, options);
  state->commands.Count(command.verb(), reply ? OutcomeOf(*reply) : reply.error().code());
  co_return Deliver(std::move(reply), command);
}

Task<Reply> Client::Run(Call& call, Command command) { return RunOne(call, std::move(command), {}); }

Task<Reply> Client::RunAlways(Call& call, Command command) {
  return RunOne(call, std::move(command), {.always = true});
}

Task<std::vector<Reply>> Client::RunAll(Call& call, std::vector<Command> commands) {
  if (commands.empty()) co_return std::vector<Reply>();
  const auto state = state_;
  const State::Admission admission(*state);
  if (!admission) co_return Stopping();
  Start();
  const auto exchange = [&](Attempt& attempt) { return state->Send(attempt, commands); };
  auto replies = co_await resilience::Protect(call, state->dependency, exchange);
  for (std::size_t i = 0; i < commands.size(); ++i)
    state->commands.Count(commands[i].verb(), replies ? OutcomeOf((*replies)[i]) : replies.error().code());
  co_return replies;
}

Task<Reply> Client::RunBlocking(Call& call, Command command, Duration block) {
  const auto state = state_;
  const State::Admission admission(*state);
  if (!admission) co_return Stopping();
  // It leaves no orphan: when its call ends, so does its connection.
  const auto exchange = [&](Attempt& attempt) -> Task<Reply> {
    NOVA_CO_TRY(Reply reply, co_await state->Block(attempt.call(), command));
    co_return Judge(std::move(reply));
  };
  auto reply = co_await resilience::Protect(call, state->dependency, exchange, {.patience = block});
  state->commands.Count(command.verb(), reply ? OutcomeOf(*reply) : reply.error().code());
  co_return Deliver(std::move(reply), command);
}

Task<void> Client::Ping(Call& call) {
  NOVA_CO_TRY(co_await RunAlways(call, Command("PING")));
  co_return Ok();
}

Result<void> Client::Close(Duration limit) {
  const SteadyTime until = Clock::System().Now() + limit;
  std::vector<OneShot<std::shared_ptr<Pipeline>>> refused;
  std::vector<std::unique_ptr<Connection>> idle;
  bool ended = false;
  int left = 0;
  {
    std::unique_lock lock(state_->mutex);
    state_->closing = true;
    refused.swap(state_->waiters);
    idle.swap(state_->blocking_idle);
    state_->UpdateGauges();
    lock.unlock();
    for (const auto& waiter : refused) (void)waiter.TrySet(Stopping());
    idle.clear();
    lock.lock();
    ended = state_->calls_ended.wait_until(lock, until, [this] { return state_->calls == 0; });
    left = state_->calls;
  }
  NOVA_TRY(background_.Stop(std::max(until - Clock::System().Now(), kStopLimitMin)));
  {
    std::lock_guard lock(state_->mutex);
    for (State::Slot& slot : state_->slots) {
      slot.pipeline = nullptr;
      slot.connecting = false;
    }
    state_->UpdateGauges();
  }
  if (ended) return Ok();
  return DeadlineExceeded("closing the Redis client took too long",
                          std::to_string(left) + " calls were still under way");
}

}  // namespace nova::redis
