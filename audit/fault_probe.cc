#include "audit/fault_probe.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <set>

#include "audit/pace.h"
#include "audit/stall.h"
#include "audit/tcp.h"

namespace nova::audit {
namespace {

using runtime::Call;
using runtime::Task;
using std::chrono::milliseconds;
using std::chrono::seconds;

// Of each call that is affected by a fault: what the methods of services grant.
constexpr Duration kDeadline = seconds(2);
// What a busy machine may add to it.
constexpr Duration kDeadlineSlack = seconds(1);
// Of each affected call. For one that fails slowly, more than a breaker needs to decide on, and than what a service
// does in the background dilutes; one that fails soon is made often.
constexpr int kUsersOfSlowFailure = 24;
constexpr int kUsersOfFastFailure = 12;
constexpr Duration kUserPause = milliseconds(100);
// Of each call that is not affected.
constexpr Duration kOtherDeadline = seconds(2);
constexpr Duration kOtherPause = milliseconds(50);
// From the fault until every breaker is open, and from its end until all is well.
constexpr Duration kOpenLimit = seconds(20);
constexpr Duration kBackLimit = seconds(15);
// The open time of a breaker, 1 s, and 2 s.
constexpr Duration kBackFloor = seconds(3);
// Of the calls that can do without a part. A server that takes fifty times as long from one moment to the next looks
// overloaded, and sheds a few until it has learnt that this does not help.
constexpr double kAnsweredFloor = 0.95;
// Until everything answers that will have to during a fault; the one before has just ended.
constexpr Duration kReadyLimit = seconds(10);
// A call with the default policies ends by them, long before this.
constexpr Duration kPatience = seconds(30);
constexpr Duration kTimeoutSlack = seconds(1);
constexpr Duration kCloseLimit = seconds(5);
// For what is cancelled in the background: a PostgreSQL connection, a Redis reply.
constexpr Duration kDrainLimit = seconds(5);

constexpr postgres::Statement kSelectOne{"audit_select_one", "SELECT 1"};

double ToSeconds(Duration time) { return std::chrono::duration<double>(time).count(); }

std::string FormatSeconds(Duration time) {
  char text[32];
  const int size = std::snprintf(text, sizeof text, "%.2f", ToSeconds(time));
  return {text, static_cast<std::size_t>(size)};
}

std::string Of(std::size_t part, std::size_t whole) { return std::to_string(part) + " of " + std::to_string(whole); }

void Append(std::string& list, const std::string& item) { list += (list.empty() ? "" : "; ") + item; }

postgres::PoolConfig OneConnection(const postgres::ConnectionConfig& connection) {
  postgres::PoolConfig pool;
  pool.connection = connection;
  pool.size_max = 1;
  return pool;
}

redis::ClientConfig OneConnection(redis::ClientConfig config) {
  config.connections = 1;
  // What is measured is the policy's timeout, not the connection's own patience, which is as long.
  config.reply_limit = std::chrono::duration_cast<milliseconds>(kPatience);
  return config;
}

// By the policy's or by the caller's own.
double EndedByDeadline(const Exposition& process, const std::vector<std::string>& dependencies) {
  double sum = 0;
  for (const std::string& dependency : dependencies) {
    for (const char* outcome : {"timeout", "cancelled"})
      sum += process.Sum("nova_dependency_calls_total", {{"dependency", dependency}, {"outcome", outcome}}).value_or(0);
  }
  return sum;
}

void AddUp(Callers::Seen& sum, const Callers::Seen& seen, const std::string& name) {
  sum.calls += seen.calls;
  sum.answered += seen.answered;
  sum.slowest = std::max(sum.slowest, seen.slowest);
  if (sum.first_failure.empty() && !seen.first_failure.empty()) sum.first_failure = name + ": " + seen.first_failure;
}

}  // namespace

FaultProbe::FaultProbe(runtime::Runtime& runtime, const AuditConfig& config)
    : runtime_(runtime),
      config_(config),
      scraper_(runtime, config),
      pool_(runtime, metrics_, database_, OneConnection(config.pooled)),
      redis_(runtime, metrics_, cache_, OneConnection(config.redis)) {}

FaultProbe::~FaultProbe() {
  traffic_.reset();
  (void)pool_.Close(kCloseLimit);
  (void)redis_.Close(kCloseLimit);
}

// --- What services say. ---

Result<Exposition> FaultProbe::Scrape(const std::string& process) {
  if (process.empty()) return Exposition::Parse((*traffic_)->get()->ScrapeOfDefault());
  const auto service = std::ranges::find(config_.services, process, &ServiceTarget::name);
  if (service == config_.services.end()) return FailedPrecondition("there is no service '" + process + "'");
  return scraper_.Scrape(*service);
}

Result<FaultProbe::Scrapes> FaultProbe::ScrapeAllBut(const std::string& process) {
  Scrapes scrapes;
  for (const ServiceTarget& service : config_.services) {
    if (service.name == process) continue;
    NOVA_TRY(Exposition scraped, Scrape(service.name));
    scrapes.emplace(service.name, std::move(scraped));
  }
  return scrapes;
}

Finding FaultProbe::Without(bool (*has)(const Exposition&, const std::string&)) {
  if (config_.services.empty()) return Finding::NotMeasured("no service is known");
  const auto scrapes = ScrapeAllBut({});
  if (!scrapes) return Finding::NotMeasured(scrapes.error().ToString());
  std::size_t count = 0;
  std::size_t lacking = 0;
  std::string notes;
  std::string seen;
  for (const ServiceTarget& service : config_.services) {
    const Exposition& scraped = scrapes->at(service.name);
    std::set<std::string> names = DependenciesOf(scraped);
    names.insert(service.dependencies.begin(), service.dependencies.end());
    std::string list;
    for (const std::string& name : names) {
      ++count;
      list += (list.empty() ? "" : ", ") + name;
      if (has(scraped, name)) continue;
      ++lacking;
      Append(notes, service.name + " has none for " + name);
    }
    Append(seen, service.name + ": " + list);
  }
  // A service without any would be none of ours.
  if (count == 0) return Finding::NotMeasured("no service names a dependency");
  return Finding::Judge(lacking == 0, std::to_string(lacking), notes.empty() ? seen : notes);
}

Finding FaultProbe::WithoutDeadline() { return Without(HasDeadline); }
Finding FaultProbe::WithoutBreaker() { return Without(HasBreaker); }
Finding FaultProbe::WithoutBulkhead() { return Without(HasBulkhead); }

// --- The faults. ---

Task<void> FaultProbe::AskLiveness(Call& call, std::string target) {
  NOVA_CO_TRY(const HostPort admin, ParseTarget(target));
  NOVA_CO_TRY(const auto answer, co_await http_.Get(call, admin.host, admin.port, "/livez"));
  if (answer.status != 200) co_return Internal("/livez answers " + std::to_string(answer.status));
  co_return Ok();
}

Result<FaultProbe::Plan> FaultProbe::PlanOf(Part part) {
  if (!traffic_) {
    Say(config_, "signing up a user for the audit");
    traffic_ = Traffic::Create(runtime_, config_);
  }
  if (!*traffic_) return Error(traffic_->error()).WithContext("signing up a user for the audit");
  Traffic& traffic = ***traffic_;

  const Work verifies{"identity VerifyToken", [&traffic](Call& call) { return traffic.VerifyToken(call); }};
  const Work reads_keys{"identity GetJwks", [&traffic](Call& call) { return traffic.ReadKeys(call); }};
  const Work reads_settings{"user GetSettings", [&traffic](Call& call) { return traffic.ReadSettings(call); }};
  const Work reads_profile{"user GetUser", [&traffic](Call& call) { return traffic.ReadProfile(call); }};

  Plan plan;
  switch (part) {
    case Part::kPostgres:
    case Part::kPgBouncer:
      plan = {.name = part == Part::kPostgres ? "PostgreSQL" : "PgBouncer",
              .process = part == Part::kPostgres ? "postgres" : "pgbouncer",
              .dependencies = {"postgres"},
              .users = kUsersOfSlowFailure,
              .affected = {verifies, reads_settings},
              // A profile that somebody has read a moment ago is in the cache.
              .others = {reads_keys, reads_profile},
              .breakers = {{"identity", "postgres"}, {"user", "postgres"}}};
      if (part == Part::kPostgres)
        plan.by_default = Work{"SELECT 1", [this](Call& call) -> Task<void> {
                                 NOVA_CO_TRY(co_await pool_.Query(call, kSelectOne));
                                 co_return Ok();
                               }};
      break;
    case Part::kRedis:
      plan = {.name = "Redis",
              .process = "redis",
              .dependencies = {"redis", "cache"},
              .users = kUsersOfFastFailure,
              .affected = {reads_profile},
              .others = {verifies, reads_keys, reads_settings},
              .breakers = {{"user", "cache"}}};
      plan.by_default = Work{"PING", [this](Call& call) -> Task<void> {
                               NOVA_CO_TRY(co_await redis_.Run(call, redis::Command("PING")));
                               co_return Ok();
                             }};
      break;
    case Part::kIdentity:
      plan = {.name = "identity",
              .process = "identity",
              .dependencies = {"identity"},
              .users = kUsersOfSlowFailure,
              .affected = {{"identity GetJwks", [&traffic](Call& call) { return traffic.CallByDefault(call); }}},
              .others = {reads_settings, reads_profile},
              .aside = Work{"a token of an unknown key to user",
                            [&traffic](Call& call) { return traffic.PresentUnknownKey(call); }},
              .asker = "user",
              .breakers = {{"", "identity"}}};
      plan.by_default = Work{"Login", [&traffic](Call& call) -> Task<void> {
                               const auto ended = co_await traffic.LongCallByDefault(call);
                               // Its refusal is an answer.
                               if (!ended && ended.error().code() == Code::kInvalidArgument) co_return Ok();
                               co_return ended;
                             }};
      break;
  }
  for (const ServiceTarget& service : config_.services) {
    if (service.name == plan.process) continue;
    plan.others.push_back(
        {service.name + " health", [&traffic, &service](Call& call) { return traffic.AskHealth(call, service.name); }});
    plan.others.push_back(
        {service.name + " /livez", [this, &service](Call& call) { return AskLiveness(call, service.admin_target); }});
  }
  return plan;
}

Result<void> FaultProbe::AwaitWork(const Work& work) {
  Result<void> last = Error();
  const bool ready = AwaitCondition(runtime_, config_, kReadyLimit,
                                    [&] { return (last = runtime_.RunBlocking<void>(kDeadline, work.work)).ok(); });
  if (ready) return Ok();
  if (IsInterrupted(config_)) return Cancelled("interrupted");
  return Error(last.error()).WithContext("before the fault: " + work.name);
}

Result<FaultProbe::Observed> FaultProbe::Stall(const Plan& plan) {
  const auto target = std::ranges::find(config_.processes, plan.process, &ProcessTarget::name);
  if (target == config_.processes.end())
    return FailedPrecondition("the process of " + plan.name + " is not known: is it down?");
  std::vector<Work> all = plan.affected;
  all.insert(all.end(), plan.others.begin(), plan.others.end());
  if (plan.by_default) all.push_back(*plan.by_default);
  for (const Work& work : all) NOVA_TRY(AwaitWork(work));
  const auto closed = [this](const WatchedBreaker& breaker) {
    const auto scraped = Scrape(breaker.process);
    return scraped && BreakerIsClosed(*scraped, breaker.dependency);
  };
  if (!AwaitCondition(runtime_, config_, kReadyLimit, [&] { return std::ranges::all_of(plan.breakers, closed); }))
    return FailedPrecondition("a breaker for " + plan.name + " is not closed before the fault");
  NOVA_TRY(const Scrapes before, ScrapeAllBut(plan.process));
  std::vector<double> opened_before;
  Observed observed;
  for (const WatchedBreaker& breaker : plan.breakers) {
    NOVA_TRY(const Exposition scraped, Scrape(breaker.process));
    opened_before.push_back(TimesOpened(scraped, breaker.dependency));
    observed.breakers.push_back({.name = breaker.Name()});
  }

  Say(config_, "stalling " + plan.name);
  // From here on every way out lets it go on.
  NOVA_TRY(audit::Stall stall, audit::Stall::Begin(*target));
  observed.processes = stall.size();
  const SteadyTime stalled_at = Clock::System().Now();
  std::optional<Timing> by_default;
  if (plan.by_default) by_default.emplace(runtime_, kPatience, plan.by_default->work);
  std::optional<Timing> aside;
  if (plan.aside) aside.emplace(runtime_, kOtherDeadline, plan.aside->work);
  std::vector<std::unique_ptr<Callers>> affected;
  for (const Work& work : plan.affected)
    affected.push_back(std::make_unique<Callers>(
        runtime_, Callers::Config{.count = plan.users, .deadline = kDeadline, .pause = kUserPause}, work.work));
  std::vector<std::unique_ptr<Callers>> others;
  for (const Work& work : plan.others)
    others.push_back(std::make_unique<Callers>(
        runtime_, Callers::Config{.deadline = kOtherDeadline, .pause = kOtherPause}, work.work));

  // Every user has waited for one deadline, every breaker has opened, and the default timeout has passed.
  const bool waited = AwaitCondition(runtime_, config_, kOpenLimit, [&] {
    bool all_seen = true;
    for (std::size_t i = 0; i < plan.breakers.size(); ++i) {
      auto& opened = observed.breakers[i].opened;
      if (opened) continue;
      const auto scraped = Scrape(plan.breakers[i].process);
      if (scraped && TimesOpened(*scraped, plan.breakers[i].dependency) > opened_before[i])
        opened = Clock::System().Now() - stalled_at;
      all_seen &= opened.has_value();
    }
    for (const auto& users : affected) all_seen &= users->seen().calls >= plan.users;
    return all_seen && (!by_default || by_default->ended());
  });
  if (by_default) observed.by_default = by_default->ended();
  for (std::size_t i = 0; i < others.size(); ++i) AddUp(observed.others, others[i]->Stop(), plan.others[i].name);

  stall.End();
  const SteadyTime ended_at = Clock::System().Now();
  if (!waited && IsInterrupted(config_)) return Cancelled("interrupted");
  Say(config_, plan.name + " goes on after " + FormatSeconds(ended_at - stalled_at) + " s");
  (void)AwaitCondition(runtime_, config_, kBackLimit, [&] {
    bool all_back = true;
    for (std::size_t i = 0; i < plan.breakers.size(); ++i) {
      auto& back = observed.breakers[i].closed;
      if (!back && closed(plan.breakers[i])) back = Clock::System().Now() - ended_at;
      all_back &= back.has_value();
    }
    if (!observed.answered_again) {
      Duration longest{};
      const bool answered = std::ranges::all_of(affected, [&](const auto& users) {
        const auto last = users->last_answer();
        if (last) longest = std::max(longest, *last - ended_at);
        return last && *last > ended_at;
      });
      if (answered) observed.answered_again = longest;
      all_back &= answered;
    }
    return all_back;
  });
  for (std::size_t i = 0; i < affected.size(); ++i)
    AddUp(observed.affected, affected[i]->Stop(), plan.affected[i].name);
  if (IsInterrupted(config_)) return Cancelled("interrupted");

  NOVA_TRY(const Scrapes after, ScrapeAllBut(plan.process));
  if (!plan.asker.empty())
    observed.asked_in_vain = EndedByDeadline(after.at(plan.asker), plan.dependencies) -
                             EndedByDeadline(before.at(plan.asker), plan.dependencies);
  for (const auto& [service, scraped] : after) {
    for (const std::string& dependency : DependenciesOf(scraped)) {
      if (std::ranges::find(plan.dependencies, dependency) != plan.dependencies.end()) continue;
      if (TimesOpened(scraped, dependency) > TimesOpened(before.at(service), dependency))
        observed.other_breakers.push_back(service + "'s for " + dependency);
    }
  }
  return observed;
}

const Result<FaultProbe::Observed>& FaultProbe::SeenOf(Part part) {
  auto& observed = observed_[static_cast<std::size_t>(part)];
  if (!observed) {
    const auto plan = PlanOf(part);
    observed = plan ? Stall(*plan) : Result<Observed>(plan.error());
  }
  return *observed;
}

Finding FaultProbe::Look(Part part, const std::function<Finding(const Observed&)>& judge) {
  const auto& observed = SeenOf(part);
  if (!observed) return Finding::NotMeasured(observed.error().ToString());
  return judge(*observed);
}

Finding FaultProbe::DeadlineKept(Part part) {
  return Look(part, [](const Observed& observed) {
    const Callers::Seen& seen = observed.affected;
    if (seen.calls == 0) return Finding::NotMeasured("no call ended");
    std::string note = std::to_string(seen.calls) + " calls, " + std::to_string(seen.answered) + " answered; " +
                       std::to_string(observed.processes) + " processes stood still";
    if (observed.asked_in_vain)
      Append(note, "user's own calls for its keys that ended by their deadline: " +
                       std::to_string(std::llround(*observed.asked_in_vain)));
    return Finding::Judge(seen.slowest <= kDeadline + kDeadlineSlack && observed.asked_in_vain.value_or(1) > 0,
                          FormatSeconds(seen.slowest), note);
  });
}

Finding FaultProbe::BreakersOpen(Part part) {
  return Look(part, [](const Observed& observed) {
    std::size_t opened = 0;
    std::string note;
    for (const Breaker& breaker : observed.breakers) {
      opened += breaker.opened.has_value();
      Append(note, breaker.name + (breaker.opened ? " after " + FormatSeconds(*breaker.opened) + " s" : " did not"));
    }
    return Finding::Judge(opened == observed.breakers.size(), Of(opened, observed.breakers.size()), note);
  });
}

Finding FaultProbe::OthersAnswered(Part part) {
  return Look(part, [part](const Observed& observed) {
    const bool slower = part == Part::kRedis;
    Callers::Seen seen = observed.others;
    // What only gets slower by the fault must be answered as well.
    if (slower) AddUp(seen, observed.affected, "user GetUser");
    if (seen.calls == 0) return Finding::NotMeasured("no call ended");
    return Finding::Judge(seen.answered >= seen.calls * (slower ? kAnsweredFloor : 1),
                          Of(static_cast<std::size_t>(seen.answered), static_cast<std::size_t>(seen.calls)),
                          seen.first_failure.empty() ? "slowest " + FormatSeconds(seen.slowest) + " s"
                                                     : "first failure: " + seen.first_failure);
  });
}

Finding FaultProbe::OtherBreakersOpen(Part part) {
  return Look(part, [](const Observed& observed) {
    std::string note;
    for (const std::string& name : observed.other_breakers) Append(note, name);
    return Finding::Judge(observed.other_breakers.empty(), std::to_string(observed.other_breakers.size()), note);
  });
}

Finding FaultProbe::BackAfter(Part part) {
  return Look(part, [](const Observed& observed) {
    std::optional<Duration> back = observed.answered_again;
    std::string note = back ? "answered after " + FormatSeconds(*back) + " s" : "not answered again";
    for (const Breaker& breaker : observed.breakers) {
      Append(note, breaker.name +
                       (breaker.closed ? " closed after " + FormatSeconds(*breaker.closed) + " s" : " did not close"));
      if (!breaker.closed) back.reset();
      if (back) back = std::max(*back, *breaker.closed);
    }
    if (!back) return Finding::Judge(false, "> " + FormatSeconds(kBackLimit), note);
    return Finding::Judge(*back <= kBackFloor, FormatSeconds(*back), note);
  });
}

Finding FaultProbe::DefaultTimeout(Part part, Duration promised) {
  return Look(part, [promised](const Observed& observed) {
    if (!observed.by_default) return Finding::Judge(false, "> " + FormatSeconds(kOpenLimit), "it still waited");
    const auto& [outcome, took] = *observed.by_default;
    if (outcome) return Finding::NotMeasured("it was answered");
    const bool by_policy = outcome.error().code() == Code::kDeadlineExceeded;
    return Finding::Judge(by_policy && took >= promised - kTimeoutSlack && took <= promised + kTimeoutSlack,
                          FormatSeconds(took), outcome.error().ToString());
  });
}

Finding FaultProbe::DefaultDatabaseTimeout() { return DefaultTimeout(Part::kPostgres, seconds(10)); }
Finding FaultProbe::DefaultGrpcTimeout() { return DefaultTimeout(Part::kIdentity, seconds(10)); }
Finding FaultProbe::DefaultCacheTimeout() { return DefaultTimeout(Part::kRedis, seconds(5)); }

Finding FaultProbe::PermitsLeft() {
  const bool any = std::ranges::any_of(observed_, [](const auto& observed) { return observed && *observed; });
  if (!any) return Finding::NotMeasured("there was no fault");
  std::string problem;
  double left = 0;
  std::string note;
  (void)AwaitCondition(runtime_, config_, kDrainLimit, [&] {
    problem.clear();
    note.clear();
    left = 0;
    const auto scrapes = ScrapeAllBut({});
    if (!scrapes) {
      problem = scrapes.error().ToString();
      return false;
    }
    for (const auto& [service, scraped] : *scrapes) {
      for (const std::string& dependency : DependenciesOf(scraped)) {
        const double held =
            scraped.Sum("nova_bulkhead_permits", {{"dependency", dependency}, {"state", "orphaned"}}).value_or(0);
        left += held;
        if (held > 0) Append(note, service + "'s for " + dependency);
      }
    }
    return left == 0;
  });
  if (!problem.empty()) return Finding::NotMeasured(problem);
  return Finding::Judge(left == 0, std::to_string(std::llround(left)), note);
}

}  // namespace nova::audit
