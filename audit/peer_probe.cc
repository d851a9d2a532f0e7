#include "audit/peer_probe.h"

#include <cmath>
#include <map>

#include "audit/pace.h"
#include "audit/verdict.h"

namespace nova::audit {
namespace {

using runtime::Call;
using std::chrono::milliseconds;
using std::chrono::seconds;

// From the connection until the port has decided.
constexpr Duration kKnockLimit = seconds(5);
// From the refusal until the metrics say so; and how long they are watched for more after that.
constexpr Duration kCountLimit = seconds(5);
constexpr Duration kCountTwiceLimit = milliseconds(100);

constexpr char kErrors[] = "nova_tls_handshake_errors_total";

// How often the server's handshakes failed, by reason.
using Counts = std::map<std::string, double>;

Counts CountsOf(const Exposition& scraped) {
  Counts counts;
  for (const std::string& reason : scraped.Values(kErrors, "reason"))
    counts[reason] = scraped.Sum(kErrors, {{"side", "server"}, {"reason", reason}}).value_or(0);
  return counts;
}

Counts Difference(Counts after, const Counts& before) {
  for (const auto& [reason, count] : before) after[reason] -= count;
  std::erase_if(after, [](const auto& entry) { return entry.second == 0; });
  return after;
}

std::string Describe(const Counts& counts) {
  std::string text;
  for (const auto& [reason, count] : counts)
    text += (text.empty() ? "" : ", ") + std::to_string(std::llround(count)) + " under " + reason;
  return text.empty() ? "nothing" : text;
}

}  // namespace

PeerProbe::PeerProbe(runtime::Runtime& runtime, const AuditConfig& config, GrpcProbe& grpc)
    : runtime_(runtime), config_(config), grpc_(grpc), scraper_(runtime, config) {}

Result<Reception> PeerProbe::KnockAt(const HostPort& target, const Approach& approach) {
  return runtime_.RunBlocking<Reception>(kKnockLimit, [&](Call& call) { return Knock(call, target, approach); });
}

Result<Reception> PeerProbe::KnockAt(const ServiceTarget& service, const Approach& approach) {
  NOVA_TRY(const HostPort target, ParseTarget(service.grpc_target));
  return KnockAt(target, approach);
}

Result<void> PeerProbe::ExpectServed(const Approach& approach, const std::string& whose) {
  for (const ServiceTarget& service : config_.services) {
    NOVA_TRY(const Reception reception, KnockAt(service, approach));
    if (!reception.served)
      return FailedPrecondition("the same client is refused by " + service.name + " with " + whose + " (" +
                                reception.end + ")");
  }
  return Ok();
}

Result<void> PeerProbe::TryOut() {
  NOVA_TRY(const HostPort control, ParseTarget(grpc_.control_target()));
  NOVA_TRY(const Approach plaintext, MakeApproach(BadPeer::kPlaintext, {}, config_.identity));
  NOVA_TRY(const Reception answered, KnockAt(control, plaintext));
  if (!answered.served) return FailedPrecondition("the plaintext control was not seen as plaintext");
  NOVA_TRY(const Approach good, GoodApproach(config_.identity));
  NOVA_TRY(ExpectServed(good, "the audit's own certificate"));
  if (config_.authority.empty()) return Ok();
  NOVA_TRY(authority_, ReadAuthorityKeys(config_.authority));
  NOVA_TRY(const Approach made, MadeApproach(*authority_));
  return ExpectServed(made, "a faultless certificate made for it");
}

const Result<void>& PeerProbe::Tried() {
  if (!tried_) tried_ = TryOut();
  return *tried_;
}

Finding PeerProbe::Refused(BadPeer peer) {
  if (const auto& tried = Tried(); !tried) return Finding::NotMeasured(tried.error().ToString());
  const auto approach = MakeApproach(peer, authority_, config_.identity);
  if (!approach) return Finding::NotMeasured(approach.error().ToString());
  return Refused(peer, *approach);
}

Finding PeerProbe::WithdrawnRefused(const std::optional<Approach>& former) {
  if (!former)
    return Finding::NotMeasured(
        "no authority was replaced in this audit: run it with --faults on a stack of `nova up`");
  if (const auto& tried = Tried(); !tried) return Finding::NotMeasured(tried.error().ToString());
  return Refused(BadPeer::kWithdrawnCa, *former);
}

Finding PeerProbe::Refused(BadPeer peer, const Approach& approach) {
  const std::string reason(tls::HandshakeErrorName(ReasonFor(peer)));
  struct Seen {
    Counts before;
    std::optional<Result<Reception>> reception;
    Counts grown;
  };
  std::map<std::string, Seen> seen;
  const auto before = scraper_.ScrapeAll();
  if (!before) return Finding::NotMeasured(before.error().ToString());
  for (const ServiceTarget& service : config_.services) {
    Seen& of = seen[service.name];
    of.before = CountsOf(before->at(service.name));
    of.reception = KnockAt(service, approach);
  }
  // Until every service has counted; and then a moment longer, for one that counts twice.
  Result<void> scraped = Ok();
  const auto look = [&] {
    bool all_counted = true;
    for (const ServiceTarget& service : config_.services) {
      const auto after = scraper_.Scrape(service);
      if (!after) {
        scraped = after.error();
        return true;
      }
      Seen& of = seen[service.name];
      of.grown = Difference(CountsOf(*after), of.before);
      // Whoever is served is not counted, and fails anyway.
      const bool is_refused = *of.reception && !(**of.reception).served;
      all_counted &= !is_refused || !of.grown.empty();
    }
    return all_counted;
  };
  (void)AwaitCondition(runtime_, config_, kCountLimit, look);
  (void)runtime_.RunBlocking<void>(Duration::max(), [](Call& call) { return runtime::Sleep(call, kCountTwiceLimit); });

  Finding finding = OnEveryService(config_.services, [&](const ServiceTarget& service) -> Verdict {
    const Seen& of = seen[service.name];
    if (!*of.reception) return Verdict::NotMeasured(of.reception->error().ToString());
    const Reception& reception = **of.reception;
    if (reception.served) return Verdict::Fail("it is served");
    if (!reception.closed) return Verdict::Fail("its connection is kept open");
    // Serving goes before counting: it may be what makes somebody count again.
    if (const auto served = grpc_.AnswersAudit(service); !served)
      return Verdict::Fail("no answer to the audit's certificate after: " + served.error().ToString());
    (void)look();
    if (!scraped) return Verdict::NotMeasured(scraped.error().ToString());
    if (of.grown != Counts{{reason, 1}})
      return Verdict::Fail("counted " + Describe(of.grown) + ", not 1 under " + reason);
    return Verdict::Pass();
  });
  if (finding.note.empty()) finding.note = "1 each under " + reason;
  return finding;
}

}  // namespace nova::audit
