#include "audit/token_key_probe.h"

#include <algorithm>
#include <atomic>
#include <boost/json/parse.hpp>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <map>
#include <sstream>
#include <utility>

#include "audit/pace.h"
#include "audit/samples.h"
#include "nova/base/timestamp.h"
#include "nova/secrets/rotation.h"

namespace nova::audit {
namespace {

namespace json = boost::json;
using runtime::Call;
using runtime::Task;
using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr Duration kAskLimit = seconds(5);
// Until every caller was answered: the first log-in is the slowest.
constexpr Duration kReadyLimit = seconds(10);
// What a rotation takes besides its announcement.
constexpr Duration kRotationRoom = seconds(30);
// What a look at the secret takes, and how late a process is with it.
constexpr Duration kLookRoom = seconds(2);
// How long the load goes on after the last thing was done.
constexpr Duration kAftermath = seconds(1);
// Of the load. A log-in costs a core a tenth of a second.
constexpr Duration kLoginPause = seconds(2);
constexpr Duration kRefreshPause = milliseconds(250);
constexpr Duration kUsePause = milliseconds(10);

constexpr std::string_view kRead = "GetSecretValue";
constexpr std::string_view kRequests = "nova_secrets_requests_total";

std::string FormatSeconds(Duration time) {
  char text[32];
  const int size = std::snprintf(text, sizeof text, "%.1f s", std::chrono::duration<double>(time).count());
  return {text, static_cast<std::size_t>(size)};
}

std::string Join(const std::set<std::string>& items) {
  std::string list;
  for (const std::string& item : items) list += (list.empty() ? "" : ", ") + item;
  return list;
}

const json::object* ObjectAt(const json::object* object, std::string_view key) {
  const json::value* const found = object == nullptr ? nullptr : object->if_contains(key);
  return found == nullptr ? nullptr : found->if_object();
}

std::string TextAt(const json::object* object, std::string_view key) {
  const json::value* const found = object == nullptr ? nullptr : object->if_contains(key);
  return found == nullptr || !found->is_string() ? std::string() : std::string(found->get_string());
}

// Which of the keys signs, as the status page says.
std::set<std::string> SigningKids(const json::object* jwt) {
  std::set<std::string> kids;
  const json::value* const keys = jwt == nullptr ? nullptr : jwt->if_contains("keys");
  if (keys == nullptr || !keys->is_array()) return kids;
  for (const json::value& key : keys->get_array()) {
    const json::object* const object = key.if_object();
    const json::value* const signs = object == nullptr ? nullptr : object->if_contains("signs");
    if (signs != nullptr && signs->is_bool() && signs->get_bool()) kids.insert(TextAt(object, "kid"));
  }
  return kids;
}

// The processes of the stack by when they began: a process that was started again has another time.
using Starts = std::map<std::string, std::string>;

Starts StartsOf(const std::vector<ProcessTarget>& processes) {
  // Field 22 of proc(5)'s stat, counted from behind the name, which may hold anything.
  constexpr int kFieldsBefore = 19;
  Starts starts;
  for (const ProcessTarget& process : processes) {
    std::ifstream file("/proc/" + std::to_string(process.pid) + "/stat");
    std::string line;
    std::getline(file, line);
    std::istringstream fields(line.substr(std::min(line.rfind(')') + 1, line.size())));
    std::string field;
    for (int i = 0; i <= kFieldsBefore; ++i) fields >> field;
    starts[process.name] = fields ? field : std::string();
  }
  return starts;
}

// Reads; whatever would change something is refused, and remembered.
class ReadOnlyStore final : public secrets::SecretStore {
 public:
  explicit ReadOnlyStore(secrets::SecretStore& store) : store_(store) {}

  Task<secrets::SecretValue> Fetch(Call& call, std::string id, std::string version, bool version_is_id) override {
    return store_.Fetch(call, std::move(id), std::move(version), version_is_id);
  }
  Task<void> Put(Call&, secrets::NewVersion) override { return Refuse(); }
  Task<void> MoveStage(Call&, std::string, std::string, std::string, std::string) override { return Refuse(); }
  Task<void> CreateSecret(Call&, secrets::NewVersion) override { return Refuse(); }

  bool was_to_be_changed() const { return was_to_be_changed_; }

 private:
  Task<void> Refuse() {
    was_to_be_changed_ = true;
    co_return secrets::Fail(secrets::Failure::kAccessDenied, "the audit only looks");
  }

  secrets::SecretStore& store_;
  std::atomic<bool> was_to_be_changed_ = false;
};

}  // namespace

Finding JudgeKeySource(const KeySource& seen, const std::string& secret_id) {
  std::set<std::string> both;
  std::ranges::set_intersection(seen.stored, seen.published, std::inserter(both, both.end()));
  boost::system::error_code error;
  const json::value status = json::parse(seen.status, error);
  const json::object* const secrets = ObjectAt(error ? nullptr : status.if_object(), "secrets");
  const json::object* const jwt = ObjectAt(secrets, "jwt");
  const json::object* const identity = ObjectAt(secrets, "aws_identity");

  std::string problem;
  if (seen.stored != seen.published)
    problem = "the secret holds " + Join(seen.stored) + ", and published are " + Join(seen.published);
  else if (TextAt(jwt, "secret") != secret_id)
    problem = "/statusz does not name the secret '" + secret_id + "'";
  else if (TextAt(identity, "source").empty() || TextAt(identity, "name").empty())
    problem = "/statusz does not say as whom the process speaks to AWS";
  else if (SigningKids(jwt) != std::set{seen.signed_by} || !seen.stored.contains(seen.signed_by))
    problem = "a new token is signed by " + seen.signed_by + ", which is not what /statusz says";
  const std::string note = "secret '" + secret_id + "', read as " + TextAt(identity, "name") + " from " +
                           TextAt(identity, "source") + "; a new token is signed by " + seen.signed_by;
  return Finding::Judge(problem.empty() && !seen.stored.empty(),
                        std::to_string(both.size()) + " of " + std::to_string(seen.stored.size()),
                        problem.empty() ? note : problem + "; " + note);
}

Finding JudgeOperations(const Scraper::Scrapes& processes, const std::string& issuer) {
  const auto found = processes.find(issuer);
  const auto reads = found == processes.end()
                         ? std::nullopt
                         : found->second.Sum(kRequests, {{"operation", std::string(kRead)}, {"result", "ok"}});
  if (!reads || *reads <= 0)
    return Finding::NotMeasured(issuer + " has not asked a Secrets Manager for anything, by its metrics");
  std::string others;
  std::set<std::string> operations;
  for (const auto& [name, process] : processes) {
    const std::set<std::string> of_process = process.Values(kRequests, "operation");
    operations.insert(of_process.begin(), of_process.end());
    if (name != issuer && !of_process.empty()) others += "; " + name + " asked for " + Join(of_process);
  }
  const bool reads_only = operations == std::set<std::string>{std::string(kRead)};
  return Finding::Judge(reads_only && others.empty(), reads_only ? std::string(kRead) + " only" : Join(operations),
                        std::to_string(std::llround(*reads)) + " answers to " + issuer +
                            (others.empty() ? "; nobody else has asked" : others));
}

Result<Schedule> FindSchedule(runtime::Runtime& runtime, secrets::SecretStore& store, const std::string& secret_id,
                              WallTime created_at, hours limit) {
  const auto would_rotate_at = [&](hours age) -> Result<bool> {
    const FakeClock clock(created_at + age);
    ReadOnlyStore only_looking(store);
    secrets::Rotator rotator(only_looking, {.secret_id = secret_id}, clock);
    const auto rotated = runtime.RunBlocking<secrets::RotationReport>(
        kAskLimit, [&](Call& call) { return rotator.Rotate(call, /*now=*/false); });
    if (only_looking.was_to_be_changed()) return true;
    if (!rotated) return rotated.error();
    return false;
  };
  NOVA_TRY(const bool at_once, would_rotate_at(hours(1)));
  if (at_once)
    return FailedPrecondition("a rotation of '" + secret_id +
                              "' was cut off and has to be finished first: `nova secrets rotate`");
  NOVA_TRY(const bool at_last, would_rotate_at(limit));
  if (!at_last)
    return FailedPrecondition("'" + secret_id + "' would not be rotated in " + std::to_string(limit.count()) +
                              " hours");
  hours not_yet = hours(1);
  hours due = limit;
  while (due - not_yet > hours(1)) {
    const hours middle = not_yet + (due - not_yet) / 2;
    NOVA_TRY(const bool rotates, would_rotate_at(middle));
    (rotates ? due : not_yet) = middle;
  }
  return Schedule{.due = due, .created_at = created_at};
}

Finding JudgeRotations(const KeyRotations& seen) {
  std::string problem = seen.problem;
  const auto add = [&](const std::string& what) { problem += (problem.empty() ? "" : "; ") + what; };
  std::string figures =
      std::to_string(seen.rotations.size()) + (seen.rotations.size() == 1 ? " rotation" : " rotations");
  for (std::size_t i = 0; i < seen.rotations.size(); ++i) {
    const KeyRotations::One& one = seen.rotations[i];
    figures += (i == 0 ? " of " : ", ") + FormatSeconds(one.took);
    if (one.first_token)
      figures += ", first token of the new key " + FormatSeconds(*one.first_token) + " later";
    else
      add("no token of the new key after rotation " + std::to_string(i + 1));
  }
  if (static_cast<int>(seen.rotations.size()) < seen.planned) add("not all rotations were made");
  figures += "; " + std::to_string(seen.load.calls) + " calls with " + std::to_string(seen.load.tokens) +
             " tokens of " + std::to_string(seen.load.by_key.size()) + " keys; slowest call " +
             FormatMilliseconds(seen.load.slowest) + " ms";
  if (seen.load.failed > 0) add("first failure: " + seen.load.first_failure);
  const auto judge_refusal = [&](const std::string& who, const std::optional<Duration>& refused) {
    if (refused)
      figures += "; a token of the withdrawn key refused by " + who + " within " + FormatSeconds(*refused);
    else
      add("a token of the withdrawn key is still accepted by " + who + " after " + FormatSeconds(seen.limit));
  };
  if (static_cast<int>(seen.rotations.size()) == seen.planned) {
    judge_refusal("identity", seen.refused_by_identity);
    judge_refusal("user", seen.refused_by_user);
  }
  for (const std::string& process : seen.restarted) add(process + " was restarted");
  if (seen.restarted.empty()) figures += "; the same " + std::to_string(seen.processes) + " processes before and after";
  // A key that is accepted too long is a wrong answer as well.
  const bool passes = problem.empty() && seen.load.failed == 0 && seen.processes > 0;
  if (seen.processes == 0) add("the processes are not known");
  return Finding::Judge(passes, std::to_string(seen.load.failed), problem.empty() ? figures : problem + "; " + figures);
}

TokenKeyProbe::TokenKeyProbe(runtime::Runtime& runtime, const AuditConfig& config)
    : runtime_(runtime), config_(config), scraper_(runtime, config), scope_(runtime) {}

TokenKeyProbe::~TokenKeyProbe() {
  account_.reset();
  (void)scope_.Stop(kAskLimit);
}

Result<void> TokenKeyProbe::Prepare() {
  if (account_) return Ok();
  if (!publisher_) {
    NOVA_TRY(publisher_,
             tls::IdentityPublisher::Create({.files = config_.user_identity.files(), .usage = tls::Usage::kClient},
                                            Clock::System(), metrics_));
    publisher_->Watch(scope_);
    operator_.emplace(*publisher_);
  }
  Say(config_, "signing up a user whose tokens are watched");
  NOVA_TRY(account_, Account::Create(runtime_, config_, *operator_));
  return Ok();
}

void TokenKeyProbe::Remember(const StoredKey& key) {
  for (Mark& mark : MarksOfPem("a signing key", key.config.signing_key.Expose())) keys_.push_back(std::move(mark));
}

std::vector<Mark> TokenKeyProbe::marks() const {
  std::vector<Mark> marks = keys_;
  if (account_) std::ranges::move(account_->marks(), std::back_inserter(marks));
  return marks;
}

Result<KeySource> TokenKeyProbe::ReadKeySource(SecretsAccess& access) {
  NOVA_TRY(const ServiceTarget issuer, FindService(config_, config_.secrets->issuer));
  KeySource seen;
  NOVA_TRY(const auto stored, access.ReadKeys());
  for (const StoredKey& key : stored) {
    seen.stored.insert(key.key.kid());
    Remember(key);
  }
  NOVA_TRY(const std::string jwks,
           runtime_.RunBlocking<std::string>(kAskLimit, [this](Call& call) { return account_->ReadKeys(call); }));
  NOVA_TRY(const auth::Jwks published, auth::Jwks::Parse(jwks));
  for (const auth::VerificationKey& key : published.keys()) seen.published.insert(key.kid());
  NOVA_TRY(const Secret<> token,
           runtime_.RunBlocking<Secret<>>(kAskLimit, [this](Call& call) { return account_->Refresh(call); }));
  NOVA_TRY(seen.signed_by, KidOf(token));
  NOVA_TRY(seen.status, scraper_.Get(issuer, "/statusz"));
  return seen;
}

Finding TokenKeyProbe::KeysComeFromSecret() {
  const auto access = SecretsAccess::Open(runtime_, config_);
  if (!access) return Finding::NotMeasured(access.error().message());
  if (const auto prepared = Prepare(); !prepared) return Finding::NotMeasured(prepared.error().ToString());
  // A label that moved just now is known after the next look.
  Finding finding;
  (void)AwaitCondition(runtime_, config_, config_.secrets->soft_ttl + kLookRoom, [&] {
    const auto seen = ReadKeySource(**access);
    finding = seen ? JudgeKeySource(*seen, config_.secrets->secret_id) : Finding::NotMeasured(seen.error().ToString());
    return finding.status != Row::Status::kFail;
  });
  return finding;
}

std::unique_ptr<TokenLoad> TokenKeyProbe::StartLoad() {
  std::vector<TokenLoad::Source> sources{
      {.name = "identity Login", .pause = kLoginPause, .get = [this](Call& call) { return account_->Login(call); }},
      {.name = "identity RefreshToken", .pause = kRefreshPause, .get = [this](Call& call) {
         return account_->Refresh(call);
       }}};
  std::vector<TokenLoad::Use> uses{
      {.name = "identity VerifyToken",
       .callers = 3,
       .pause = kUsePause,
       .use = [this](Call& call, const Secret<>& token) { return account_->VerifyToken(call, token); }},
      {.name = "identity GetAccount",
       .callers = 2,
       .pause = kUsePause,
       .use = [this](Call& call, const Secret<>& token) { return account_->ReadAccount(call, token); }},
      {.name = "user GetSettings", .callers = 3, .pause = kUsePause, .use = [this](Call& call, const Secret<>& token) {
         return account_->ReadSettings(call, token);
       }}};
  return std::make_unique<TokenLoad>(runtime_, std::move(sources), std::move(uses));
}

Result<std::string> TokenKeyProbe::Rotate(SecretsAccess& access) {
  secrets::Rotator rotator(access.api(),
                           {.secret_id = config_.secrets->secret_id, .announce = config_.secrets->announce});
  std::string kid;
  // In the background, so that somebody who wants the audit to end need not wait for it.
  Timing timing(runtime_, config_.secrets->announce + kRotationRoom, [&](Call& call) -> Task<void> {
    NOVA_CO_TRY(const auto report, co_await rotator.Rotate(call, /*now=*/true));
    kid = report.kid;
    co_return Ok();
  });
  (void)AwaitCondition(runtime_, config_, config_.secrets->announce + kRotationRoom + kAskLimit,
                       [&] { return timing.ended().has_value(); });
  const auto ended = timing.ended();
  if (!ended) return Cancelled("interrupted");
  NOVA_TRY(ended->outcome);
  return kid;
}

Result<Secret<>> TokenKeyProbe::SignedBy(const StoredKey& key) const {
  NOVA_TRY(std::string token, auth::SignToken(key.key, auth::NewClaims(auth::TermsOf(key.config), account_->id(),
                                                                       account_->session_id(), Clock::System())));
  return Secret<>(std::move(token));
}

Result<bool> TokenKeyProbe::IdentityAccepts(const StoredKey& key) {
  NOVA_TRY(const Secret<> token, SignedBy(key));
  const auto answered =
      runtime_.RunBlocking<void>(kAskLimit, [&](Call& call) { return account_->VerifyToken(call, token); });
  if (answered) return true;
  if (answered.error().code() == Code::kUnauthenticated) return false;
  return answered.error();
}

Result<bool> TokenKeyProbe::UserAccepts(const StoredKey& key) {
  NOVA_TRY(const Secret<> token, SignedBy(key));
  const auto answered =
      runtime_.RunBlocking<void>(kAskLimit, [&](Call& call) { return account_->ReadSettings(call, token); });
  if (answered) return true;
  if (answered.error().code() == Code::kUnauthenticated) return false;
  return answered.error();
}

Finding TokenKeyProbe::FailedWhileKeysRotate() {
  const auto access = SecretsAccess::Open(runtime_, config_);
  if (!access) return Finding::NotMeasured(access.error().message());
  if (const auto prepared = Prepare(); !prepared) return Finding::NotMeasured(prepared.error().ToString());
  // The key that will be withdrawn, kept with its private half: what it signs is good now, and may not be afterwards.
  const auto withdrawn = (*access)->ReadCurrent();
  if (!withdrawn) return Finding::NotMeasured(withdrawn.error().ToString());
  Remember(*withdrawn);
  for (const auto& accepts : {IdentityAccepts(*withdrawn), UserAccepts(*withdrawn)}) {
    if (!accepts) return Finding::NotMeasured(accepts.error().ToString());
    if (!*accepts)
      return Finding::NotMeasured("a token that the audit signs with the current key is not accepted to begin with");
  }
  const Starts before = StartsOf(config_.processes);
  const auto load = StartLoad();
  if (!AwaitCondition(runtime_, config_, kReadyLimit, [&] { return load->IsReady(); })) {
    if (IsInterrupted(config_)) return Finding::NotMeasured("interrupted");
    const TokenLoad::Seen seen = load->Stop();
    return Finding::NotMeasured("the load does not run before anything is done: " +
                                (seen.first_failure.empty() ? "no answer" : seen.first_failure));
  }

  KeyRotations seen{.planned = kRotations,
                    .limit = config_.secrets->soft_ttl + config_.secrets->keys_refresh_interval + kLookRoom};
  SteadyTime last_end;
  for (int i = 0; i < kRotations; ++i) {
    Say(config_, "replacing the key that signs tokens (" + std::to_string(i + 1) + " of " + std::to_string(kRotations) +
                     "; its announcement takes " + FormatSeconds(config_.secrets->announce) + ")");
    // With a schedule of months they would have expired long ago.
    if (i == kRotations - 1) load->Retire(withdrawn->key.kid());
    const SteadyTime start = Clock::System().Now();
    const auto kid = Rotate(**access);
    last_end = Clock::System().Now();
    if (!kid) {
      if (IsInterrupted(config_)) return Finding::NotMeasured("interrupted");
      return Finding::NotMeasured(kid.error().ToString());
    }
    if (const auto current = (*access)->ReadCurrent(); current) Remember(*current);
    KeyRotations::One one{.took = last_end - start};
    if (AwaitCondition(runtime_, config_, seen.limit, [&] { return load->FirstOf(*kid).has_value(); }))
      one.first_token = std::max(*load->FirstOf(*kid) - last_end, Duration::zero());
    seen.rotations.push_back(one);
    if (!one.first_token) break;
  }

  if (static_cast<int>(seen.rotations.size()) == kRotations) {
    Say(config_, "presenting tokens of the withdrawn key");
    (void)AwaitCondition(runtime_, config_, seen.limit, [&] {
      const auto look = [&](std::optional<Duration>& refused, const Result<bool>& accepts) {
        if (!refused && accepts && !*accepts) refused = Clock::System().Now() - last_end;
      };
      if (!seen.refused_by_identity) look(seen.refused_by_identity, IdentityAccepts(*withdrawn));
      if (!seen.refused_by_user) look(seen.refused_by_user, UserAccepts(*withdrawn));
      return seen.refused_by_identity && seen.refused_by_user;
    });
  }
  (void)AwaitCondition(runtime_, config_, kAftermath, [] { return false; });
  seen.load = load->Stop();
  if (IsInterrupted(config_)) return Finding::NotMeasured("interrupted");
  const Starts after = StartsOf(config_.processes);
  seen.processes = before.size();
  for (const auto& [process, start] : before) {
    if (after.at(process) != start || start.empty()) seen.restarted.push_back(process);
  }
  Finding finding = JudgeRotations(seen);
  finding.note += "; " + DescribeLoad();
  return finding;
}

Finding TokenKeyProbe::OperationsCalled() {
  if (!config_.secrets) return Finding::NotMeasured(NoSecretsManager().message());
  const auto scrapes = scraper_.ScrapeAll();
  if (!scrapes) return Finding::NotMeasured(scrapes.error().ToString());
  return JudgeOperations(*scrapes, config_.secrets->issuer);
}

Finding TokenKeyProbe::RotationSchedule() {
  const auto access = SecretsAccess::Open(runtime_, config_);
  if (!access) return Finding::NotMeasured(access.error().message());
  const auto current = (*access)->ReadCurrent();
  if (!current) return Finding::NotMeasured(current.error().ToString());
  const auto schedule =
      FindSchedule(runtime_, (*access)->api(), config_.secrets->secret_id, current->created_at, kScheduleMax);
  if (!schedule) return Finding::NotMeasured(schedule.error().ToString());
  const auto days = std::chrono::duration_cast<std::chrono::days>(schedule->due);
  return Finding::Judge(schedule->due == std::chrono::days(90), std::to_string(days.count()),
                        "the current version is of " + Timestamp(schedule->created_at) + ", and due at " +
                            Timestamp(schedule->created_at + schedule->due));
}

}  // namespace nova::audit
