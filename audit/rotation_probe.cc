#include "audit/rotation_probe.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "audit/pace.h"
#include "audit/samples.h"
#include "audit/tcp.h"
#include "audit/verdict.h"
#include "nova/tls/openssl.h"

namespace nova::audit {
namespace {

using runtime::Call;
using std::chrono::minutes;
using std::chrono::seconds;

constexpr Duration kAskLimit = seconds(5);
// Until every caller was answered and every stream is open.
constexpr Duration kReadyLimit = seconds(10);
// After a rotation, until every port shows another leaf: gRPC looks at its files once a second.
constexpr Duration kShownLimit = tls::kHandshakesFollowWithin + seconds(5);
// How long the load goes on after the last rotation, for those who connect to what is new.
constexpr Duration kAftermath = seconds(1);
// What a renewed one has left at least.
constexpr seconds kLongLife = minutes(1);

std::string FormatSeconds(Duration time) {
  std::string text = std::to_string(std::llround(std::chrono::duration<double>(time).count() * 10));
  if (text.size() < 2) text.insert(text.begin(), '0');
  return text.insert(text.size() - 1, ".") + " s";
}

std::string Describe(const Load::Seen& seen) {
  return std::to_string(seen.calls) + " calls, " + std::to_string(seen.connections) +
         " of them over new connections, " + std::to_string(seen.streams) + " streams open; slowest call " +
         FormatMilliseconds(seen.slowest) + " ms";
}

Result<WallTime> EndOf(const std::string& leaf_pem) {
  NOVA_TRY(const auto certificates, tls::ParseCertificates(leaf_pem));
  return tls::ToWallTime(X509_get0_notAfter(certificates.front().get()));
}

std::set<std::string> Fingerprints(const tls::IdentityPublisher& publisher) {
  std::set<std::string> fingerprints;
  for (const tls::AuthorityInfo& authority : publisher.authorities()) fingerprints.insert(authority.fingerprint);
  return fingerprints;
}

}  // namespace

RotationProbe::RotationProbe(runtime::Runtime& runtime, const AuditConfig& config, seconds short_life)
    : runtime_(runtime), config_(config), short_life_(short_life), scraper_(runtime, config), scope_(runtime) {}

RotationProbe::~RotationProbe() {
  traffic_.reset();
  (void)scope_.Stop(kAskLimit);
}

Result<void> RotationProbe::Prepare() {
  if (identity_) return Ok();
  if (config_.services.empty()) return FailedPrecondition("no service is known");
  // The account needs services that not every stack has; without it the databases are not part of the load.
  if (config_.user_identity.enabled() && traffic_ == nullptr) {
    Say(config_, "signing up a user for the audit");
    NOVA_TRY(traffic_, Traffic::Create(runtime_, config_));
  }
  NOVA_TRY(publisher_, tls::IdentityPublisher::Create({.files = config_.identity.files(), .usage = tls::Usage::kClient},
                                                      Clock::System(), metrics_));
  publisher_->Watch(scope_);
  identity_.emplace(*publisher_);
  return Ok();
}

Result<std::unique_ptr<Load>> RotationProbe::StartLoad() {
  NOVA_TRY(Prepare());
  auto load = std::make_unique<Load>(runtime_, config_, *identity_, traffic_.get());
  if (AwaitCondition(runtime_, config_, kReadyLimit, [&] { return load->IsReady(); })) return load;
  if (IsInterrupted(config_)) return Cancelled("interrupted");
  const Load::Seen seen = load->Stop();
  return FailedPrecondition("the load does not run before anything is done: " +
                            (seen.first_failure.empty() ? "no answer" : seen.first_failure));
}

Result<std::string> RotationProbe::ShownLeaf(const ServiceTarget& service) {
  // Read anew: the audit's own certificate is one of those that are replaced.
  NOVA_TRY(const Approach approach, GoodApproach(config_.identity));
  NOVA_TRY(const HostPort target, ParseTarget(service.grpc_target));
  NOVA_TRY(Reception reception,
           runtime_.RunBlocking<Reception>(kAskLimit, [&](Call& call) { return Knock(call, target, approach); }));
  if (!reception.served || reception.leaf_pem.empty())
    return Unavailable("the port does not serve the audit: " + reception.end).WithContext(service.name);
  return std::move(reception.leaf_pem);
}

Result<RotationProbe::Leaves> RotationProbe::ShownLeaves() {
  Leaves leaves;
  for (const ServiceTarget& service : config_.services) {
    NOVA_TRY(leaves[service.name], ShownLeaf(service));
  }
  return leaves;
}

Result<double> RotationProbe::FailedHandshakes() {
  NOVA_TRY(const auto scrapes, scraper_.ScrapeAll());
  double sum = 0;
  for (const auto& [service, scraped] : scrapes)
    sum += scraped.Sum("nova_tls_handshake_errors_total", {{"side", "server"}}).value_or(0);
  return sum;
}

Finding RotationProbe::FailedWhile(const std::string& what, int times, const std::function<Result<void>()>& rotate) {
  if (!rotate)
    return Finding::NotMeasured("nobody here can rotate the stack's certificates: it is not a `nova up` of this host");
  const auto load = StartLoad();
  if (!load) return Finding::NotMeasured(load.error().ToString());
  const auto failed_before = FailedHandshakes();
  if (!failed_before) return Finding::NotMeasured(failed_before.error().ToString());
  Duration longest{};
  std::string problem;
  for (int i = 0; i < times && problem.empty(); ++i) {
    if (IsInterrupted(config_)) return Finding::NotMeasured("interrupted");
    Say(config_, "replacing " + what + " (" + std::to_string(i + 1) + " of " + std::to_string(times) + ")");
    const auto before = ShownLeaves();
    if (!before) return Finding::NotMeasured(before.error().ToString());
    const SteadyTime start = Clock::System().Now();
    if (const auto rotated = rotate(); !rotated) {
      // Whoever has not taken up what is new has not rotated; everything else says nothing about the services.
      if (rotated.error().code() != Code::kDeadlineExceeded) return Finding::NotMeasured(rotated.error().ToString());
      problem = "rotation " + std::to_string(i + 1) + ": " + rotated.error().ToString();
      break;
    }
    longest = std::max(longest, Clock::System().Now() - start);
    const auto is_shown = [&](const ServiceTarget& service) {
      const auto leaf = ShownLeaf(service);
      if (leaf && *leaf != before->at(service.name)) return true;
      problem = leaf ? service.name + " still shows its former certificate" : leaf.error().ToString();
      return false;
    };
    if (AwaitCondition(runtime_, config_, kShownLimit, [&] { return std::ranges::all_of(config_.services, is_shown); }))
      problem.clear();
  }
  (void)AwaitCondition(runtime_, config_, kAftermath, [] { return false; });
  // Before the load stops, which ends handshakes that have just begun.
  const auto failed_after = FailedHandshakes();
  const Load::Seen seen = (*load)->Stop();
  if (IsInterrupted(config_)) return Finding::NotMeasured("interrupted");

  std::string note = std::to_string(times) + (times == 1 ? " rotation of " : " rotations of ") +
                     FormatSeconds(longest) + " at most; " + Describe(seen);
  if (failed_after) {
    note += "; " + std::to_string(std::llround(*failed_after - *failed_before)) +
            " handshakes that the servers saw failing";
  }
  note += "; " + DescribeLoad();
  if (!seen.first_failure.empty()) note = "first failure: " + seen.first_failure + "; " + note;
  if (!problem.empty()) note = problem + "; " + note;
  return Finding::Judge(problem.empty() && seen.failed == 0, std::to_string(seen.failed), note);
}

Finding RotationProbe::FailedWhileLeavesRotate() {
  return FailedWhile("every leaf", kLeafRotations, config_.rotate_leaves);
}

Finding RotationProbe::FailedWhileAuthorityRotates() {
  if (!config_.rotate_authority) return FailedWhile("the authority", kAuthorityRotations, config_.rotate_authority);
  if (const auto prepared = Prepare(); !prepared) return Finding::NotMeasured(prepared.error().ToString());
  const auto trusted_before = Fingerprints(*publisher_);
  // Nobody can make one of the former authority afterwards: its key is gone.
  std::optional<Approach> kept;
  if (!config_.authority.empty()) {
    const auto keys = ReadAuthorityKeys(config_.authority);
    const auto made = keys ? MadeApproach(*keys) : Result<Approach>(keys.error());
    if (!made) return Finding::NotMeasured(made.error().ToString());
    kept = *made;
  }
  Finding finding = FailedWhile("the authority", kAuthorityRotations, config_.rotate_authority);
  if (finding.status == Row::Status::kNotMeasured) return finding;
  const auto trusted_now = Fingerprints(*publisher_);
  const bool replaced =
      std::ranges::none_of(trusted_before, [&](const std::string& former) { return trusted_now.contains(former); });
  if (replaced)
    former_ = std::move(kept);
  else
    finding = {Row::Status::kFail, finding.value, "the former authority is still trusted; " + finding.note};
  return finding;
}

Finding RotationProbe::ExpiringAreRenewed() {
  if (!config_.shorten_leaf)
    return Finding::NotMeasured("nobody here can shorten the stack's certificates: it is not a `nova up` of this host");
  const auto load = StartLoad();
  if (!load) return Finding::NotMeasured(load.error().ToString());
  const auto before = ShownLeaves();
  if (!before) return Finding::NotMeasured(before.error().ToString());
  Say(config_, "giving every service a leaf that ends in " + std::to_string(short_life_.count()) + " s");
  const SteadyTime start = Clock::System().Now();
  for (const ServiceTarget& service : config_.services) {
    if (const auto shortened = config_.shorten_leaf(service.name, short_life_); !shortened)
      return Finding::NotMeasured(Error(shortened.error()).WithContext(service.name).ToString());
  }
  std::set<std::string> seen_short;
  std::map<std::string, Duration> renewed;
  const auto is_renewed = [&](const ServiceTarget& service) {
    if (renewed.contains(service.name)) return true;
    const auto leaf = ShownLeaf(service);
    if (!leaf || *leaf == before->at(service.name)) return false;
    const auto end = EndOf(*leaf);
    if (!end) return false;
    if (*end < Clock::System().WallNow() + kLongLife) {
      seen_short.insert(service.name);
      return false;
    }
    renewed[service.name] = Clock::System().Now() - start;
    return true;
  };
  (void)AwaitCondition(runtime_, config_, short_life_, [&] {
    // Each is looked at, also when another is not renewed yet.
    return std::ranges::count_if(config_.services, is_renewed) == std::ssize(config_.services);
  });
  (void)AwaitCondition(runtime_, config_, kAftermath, [] { return false; });
  const Load::Seen seen = (*load)->Stop();
  if (IsInterrupted(config_)) return Finding::NotMeasured("interrupted");

  Duration longest{};
  for (const auto& [service, took] : renewed) longest = std::max(longest, took);
  Finding finding = OnEveryService(config_.services, [&](const ServiceTarget& service) -> Verdict {
    if (renewed.contains(service.name) && seen_short.contains(service.name)) return Verdict::Pass();
    // What was replaced at once was not renewed because it was about to end.
    if (renewed.contains(service.name)) return Verdict::NotMeasured("the short-lived leaf was never in use");
    return Verdict::Fail("not renewed before the end of the leaf");
  });
  if (!finding.note.empty()) finding.note += "; ";
  finding.note += "renewed after " + FormatSeconds(longest) + " at most; the short-lived leaf itself was seen on " +
                  std::to_string(seen_short.size()) + " ports; meanwhile " + Describe(seen);
  if (seen.failed > 0) {
    finding.status = Row::Status::kFail;
    finding.note = std::to_string(seen.failed) + " calls failed, first " + seen.first_failure + "; " + finding.note;
  }
  return finding;
}

}  // namespace nova::audit
