#include "audit/health_probe.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "audit/load.h"
#include "audit/pace.h"
#include "audit/stall.h"

namespace nova::audit {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// What is promised: from the loss until NOT_SERVING, and from the return until SERVING.
constexpr Duration kPromised = seconds(5);
constexpr Duration kCloseLimit = seconds(5);

// Of the soak.
constexpr Duration kShortStall = milliseconds(1500);
constexpr Duration kEvery = seconds(15);
// A short one has some, too, and as much calm between them.
constexpr Duration kEveryMin = 2 * kShortStall;
constexpr int kStalls = 8;

std::string FormatSeconds(Duration time) {
  char text[32];
  const int size = std::snprintf(text, sizeof text, "%.2f", std::chrono::duration<double>(time).count());
  return {text, static_cast<std::size_t>(size)};
}

void Append(std::string& list, const std::string& item) { list += (list.empty() ? "" : "; ") + item; }

std::string Describe(const HealthWatch::Change& change) {
  return change.name + " said " + (change.serving ? "SERVING" : "NOT_SERVING");
}

}  // namespace

HealthProbe::HealthProbe(runtime::Runtime& runtime, const AuditConfig& config, const Limits& limits)
    : runtime_(runtime), config_(config), limits_(limits), scope_(runtime) {}

HealthProbe::~HealthProbe() {
  watch_.reset();
  (void)scope_.Stop(kCloseLimit);
}

HealthProbe::Plan HealthProbe::PlanOf(Part part) const {
  std::set<std::string> with_database;
  for (const ServiceTarget& service : config_.services) {
    const config::ServiceSpec* const spec = config_.topology.Find(service.name);
    if (spec != nullptr && !spec->database.empty()) with_database.insert(service.name);
  }
  switch (part) {
    case Part::kPostgres:
      return {.name = "PostgreSQL", .process = "postgres", .needed_by = with_database};
    case Part::kPgBouncer:
      return {.name = "PgBouncer", .process = "pgbouncer", .needed_by = with_database};
    case Part::kRedis:
      return {.name = "Redis", .process = "redis", .needed_by = {"events"}};
    case Part::kIdentity:
      // A peer is never needed.
      return {.name = "identity", .process = "identity", .needed_by = {}};
  }
  std::unreachable();
}

Result<HealthWatch*> HealthProbe::Watching() {
  if (config_.services.empty()) return FailedPrecondition("no service is known");
  if (!watch_) {
    NOVA_TRY(publisher_,
             tls::IdentityPublisher::Create({.files = config_.identity.files(), .usage = tls::Usage::kClient},
                                            Clock::System(), metrics_));
    publisher_->Watch(scope_);
    identity_.emplace(*publisher_);
    watch_ = std::make_unique<HealthWatch>(runtime_, config_, *identity_);
  }
  if (AwaitCondition(runtime_, config_, limits_.ready, [this] { return watch_->AllServing(); })) return watch_.get();
  if (IsInterrupted(config_)) return Cancelled("interrupted");
  return FailedPrecondition("not everybody serves before anything is done: " + watch_->NotServing());
}

Result<HealthProbe::Observed> HealthProbe::Stall(const Plan& plan) {
  const auto target = std::ranges::find(config_.processes, plan.process, &ProcessTarget::name);
  if (target == config_.processes.end())
    return FailedPrecondition("the process of " + plan.name + " is not known: is it down?");
  NOVA_TRY(HealthWatch* const watch, Watching());
  const std::size_t before = watch->Changes().size();
  Observed observed;
  for (const ServiceTarget& service : config_.services) {
    if (!plan.needed_by.contains(service.name)) continue;
    for (const std::string& name : watch->NamesOf(service.name)) observed.fell[name] = observed.rose[name] = {};
  }
  // Takes apart what was said since `since`: the first change to `serving` of each that needs the part is its time.
  std::size_t seen = before;
  const auto note = [&](bool serving, SteadyTime since) {
    auto& times = serving ? observed.rose : observed.fell;
    for (HealthWatch::Change& change : watch->Changes(seen)) {
      ++seen;
      const auto found = times.find(change.name);
      if (found == times.end() || change.serving != serving || found->second) {
        observed.needless.push_back(std::move(change));
      } else {
        found->second = change.at - since;
      }
    }
    // Who did not fall has nothing to come back from.
    return std::ranges::all_of(
        times, [&](const auto& time) { return time.second.has_value() || (serving && !observed.fell[time.first]); });
  };

  Say(config_, "stalling " + plan.name + ", and watching everybody's health");
  // From here on every way out lets it go on.
  NOVA_TRY(audit::Stall stall, audit::Stall::Begin(*target));
  const SteadyTime lost_at = Clock::System().Now();
  (void)AwaitCondition(runtime_, config_, limits_.look, [&] {
    const bool all = note(false, lost_at);
    return all && Clock::System().Now() >= lost_at + limits_.stall_min;
  });
  stall.End();
  const SteadyTime back_at = Clock::System().Now();
  (void)note(false, lost_at);
  if (IsInterrupted(config_)) return Cancelled("interrupted");
  Say(config_, plan.name + " goes on after " + FormatSeconds(back_at - lost_at) + " s");
  (void)AwaitCondition(runtime_, config_, limits_.look, [&] { return note(true, back_at); });
  if (IsInterrupted(config_)) return Cancelled("interrupted");
  return observed;
}

const Result<HealthProbe::Observed>& HealthProbe::SeenOf(Part part) {
  auto& observed = observed_[static_cast<std::size_t>(part)];
  if (!observed) observed = Stall(PlanOf(part));
  return *observed;
}

Finding HealthProbe::Slowest(const char* what, std::map<std::string, std::optional<Duration>> Observed::* when) {
  Duration slowest{};
  std::string notes;
  std::string never;
  int streams = 0;
  for (const Part part : {Part::kPostgres, Part::kPgBouncer}) {
    const auto& seen = SeenOf(part);
    if (!seen) return Finding::NotMeasured(seen.error().ToString());
    Duration of_part{};
    for (const auto& [name, time] : (*seen).*when) {
      ++streams;
      if (!time) {
        Append(never, name + " did not say " + what + " for " + PlanOf(part).name);
        continue;
      }
      of_part = std::max(of_part, *time);
    }
    slowest = std::max(slowest, of_part);
    Append(notes, PlanOf(part).name + " " + FormatSeconds(of_part) + " s");
  }
  if (streams == 0) return Finding::NotMeasured("no service that is known has a database");
  if (!never.empty()) return Finding::Judge(false, "never", never);
  return Finding::Judge(slowest <= kPromised, FormatSeconds(slowest),
                        notes + "; " + std::to_string(streams / 2) + " streams");
}

Finding HealthProbe::NotServingAfter() { return Slowest("NOT_SERVING", &Observed::fell); }

Finding HealthProbe::ServingAfter() { return Slowest("SERVING", &Observed::rose); }

Finding HealthProbe::ChangesWithoutNeed() {
  std::size_t changes = 0;
  std::string notes;
  for (const Part part : {Part::kPostgres, Part::kPgBouncer, Part::kRedis, Part::kIdentity}) {
    const auto& seen = SeenOf(part);
    if (!seen) return Finding::NotMeasured(seen.error().ToString());
    changes += seen->needless.size();
    for (const HealthWatch::Change& change : seen->needless)
      Append(notes, Describe(change) + " while " + PlanOf(part).name + " stood still or came back");
  }
  return Finding::Judge(changes == 0, std::to_string(changes), notes);
}

Finding HealthProbe::ChangesInSoak() {
  std::vector<const ProcessTarget*> targets;
  for (const char* const name : {"postgres", "pgbouncer", "redis", "identity"}) {
    const auto target = std::ranges::find(config_.processes, name, &ProcessTarget::name);
    if (target == config_.processes.end())
      return Finding::NotMeasured("the process of " + std::string(name) + " is not known: is it down?");
    targets.push_back(&*target);
  }
  const auto watching = Watching();
  if (!watching) return Finding::NotMeasured(watching.error().ToString());
  HealthWatch& watch = **watching;
  std::unique_ptr<Traffic> traffic;
  if (config_.user_identity.enabled()) {
    auto created = Traffic::Create(runtime_, config_);
    if (!created) return Finding::NotMeasured(created.error().ToString());
    traffic = *std::move(created);
  }
  Load load(runtime_, config_, *identity_, traffic.get());

  const std::size_t before = watch.Changes().size();
  const SteadyTime begin = Clock::System().Now();
  const SteadyTime end = begin + config_.soak;
  const Duration every = std::clamp(Duration(config_.soak) / kStalls, kEveryMin, kEvery);
  const auto wait_until = [&](SteadyTime time) {
    (void)AwaitCondition(runtime_, config_, time - Clock::System().Now(),
                         [&] { return Clock::System().Now() >= time; });
    return !IsInterrupted(config_);
  };
  int stalls = 0;
  for (SteadyTime next = begin + every; next + kShortStall <= end; next += every) {
    const ProcessTarget& target = *targets[static_cast<std::size_t>(stalls) % targets.size()];
    Say(config_, "soak: " + FormatSeconds(end - Clock::System().Now()) + " s left, " +
                     std::to_string(watch.Changes(before).size()) + " changes; next, " + target.name +
                     " stands still for 1.5 s");
    if (!wait_until(next)) return Finding::NotMeasured("interrupted");
    auto stall = audit::Stall::Begin(target);
    if (!stall) return Finding::NotMeasured(stall.error().ToString());
    ++stalls;
    const bool goes_on = wait_until(Clock::System().Now() + kShortStall);
    stall->End();
    if (!goes_on) return Finding::NotMeasured("interrupted");
  }
  if (!wait_until(end)) return Finding::NotMeasured("interrupted");
  const Load::Seen seen = load.Stop();

  const auto changes = watch.Changes(before);
  std::string note = FormatSeconds(Clock::System().Now() - begin) + " s, " + std::to_string(stalls) +
                     " stalls of 1.5 s (PostgreSQL, PgBouncer, Redis, identity in turns); " +
                     std::to_string(seen.calls) + " calls, " + std::to_string(seen.failed) + " failed";
  for (const HealthWatch::Change& change : changes)
    Append(note, Describe(change) + " after " + FormatSeconds(change.at - begin) + " s");
  if (changes.empty() && config_.soak < kSoakPromised)
    return Finding::NotMeasured("0 changes, but it was too short: " + note + "; --soak 10m");
  return Finding::Judge(changes.empty(), std::to_string(changes.size()), note);
}

}  // namespace nova::audit
